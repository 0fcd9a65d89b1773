"""Build routed deciders over stand-ins for the Messages API, and ask them."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app.domain.account import Account
from app.domain.policy import Policy
from app.domain.proposal import ModelFailure
from app.llm.decider import Decider, DeciderFailure, Reply
from app.llm.messages import MessagesClient
from app.llm.prompt import build_prompt
from app.llm.routing import RoutedDecider, RoutingOptions
from app.llm.targets import Target, TargetKind, chosen
from app.settings import Secret
from tests.llm.builders import account, bounds, view, wire_candidate
from tests.model_server import ModelServer

KEY = "sk-test-1234567890"


def streamed_decision(**changes: Any) -> dict[str, Any]:
    """A whole tool input in the order in which a streamed one is asked for."""
    example: dict[str, Any] = {
        "mode": "trade",
        "candidate_count": 1,
        "watchlist": [],
        "manage": None,
        "candidates": [wire_candidate()],
        "notes": "",
    }
    return example | changes


def target(base_url: str, *, streamed: bool = False, given: dict[str, Any] | None = None, **fields: Any) -> Target:
    """A target at an address, chosen as the targets' file would."""
    example: dict[str, Any] = {
        "name": "first",
        "kind": TargetKind.ANTHROPIC,
        "model": "claude-haiku-5-5",
        "key": Secret(KEY),
        "base_url": base_url,
    }
    return chosen(**(example | fields), own=False, may_stream=streamed, given={"stream": streamed} | (given or {}))


@asynccontextmanager
async def routed(
    *servers: ModelServer | Target,
    streamed: bool = False,
    last_resort: Decider | None = None,
    max_connections: int = 100,
    **options: Any,
) -> AsyncIterator[RoutedDecider]:
    """A decider over some stand-ins, named first, second and third; without jitter."""
    names = ("first", "second", "third")
    targets = [
        server if isinstance(server, Target) else target(server.base_url, name=name, streamed=streamed)
        for server, name in zip(servers, names, strict=False)
    ]
    clients = [MessagesClient(item, max_connections=max_connections) for item in targets]
    decider = RoutedDecider(clients, draw=lambda: 0.5, options=RoutingOptions(**options), last_resort=last_resort)
    try:
        yield decider
    finally:
        await decider.close()


async def ask(decider: Decider, *, budget_s: float = 5.0, of: Account | None = None) -> Reply:
    """Ask about the rulebook's example."""
    market, policy = view(), Policy()
    prompt = build_prompt(policy=policy, market=market, account=of or account(), bounds=bounds())
    return await decider.propose(
        prompt=prompt, market=market, account=of or account(), policy=policy, budget_s=budget_s
    )


async def timed(decider: Decider, *, budget_s: float = 5.0) -> tuple[Reply, float]:
    """Ask, and measure the seconds it took."""
    started = time.monotonic()
    reply = await ask(decider, budget_s=budget_s)
    return reply, time.monotonic() - started


def code_of(reply: Reply) -> ModelFailure:
    """The code of a reply that must have failed."""
    assert isinstance(reply.outcome, DeciderFailure), reply.outcome
    return reply.outcome.code
