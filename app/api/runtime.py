"""Hold what the endpoints work with; `app.main` makes it, once per process."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import Depends, Request

from app.api.auth import Authenticator, Identity
from app.db.engine import ConnectionPool
from app.db.standings import Standings
from app.db.vocabulary import Scope
from app.domain.buckets import BucketMap
from app.domain.policy import Policy
from app.paper_desk import PaperDesk
from app.service import DecisionService
from app.settings import Settings
from app.telemetry import Metrics

EXPORT_READS: Final = 2
"""Pages of exports that one process reads at once: decisions need the other connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Hold the running service; `warnings` are what its operator should know."""

    settings: Settings
    policy: Policy
    buckets: BucketMap
    pool: ConnectionPool
    authenticator: Authenticator
    standings: Standings
    service: DecisionService
    paper_desk: PaperDesk
    metrics: Metrics
    warnings: tuple[str, ...]
    export_reads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(EXPORT_READS))


def runtime_of(request: Request) -> Runtime:
    """Give the runtime that the lifespan put into the state of every request."""
    runtime: Runtime = request.state.runtime
    return runtime


def caller(*scopes: Scope) -> Any:
    """Have an endpoint given the identity of its caller, who may do what any of `scopes` names.

    As a dependency this comes before anything else of the request is looked at, its parameters too.
    """

    async def identify(request: Request) -> Identity:
        return await runtime_of(request).authenticator.authorize(request, *scopes)

    return Depends(identify)
