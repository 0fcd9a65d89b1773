"""Watch for what no request tells: fills whose stop nobody reported."""

import asyncio
from typing import Final

import structlog

from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.events import halt_unprotected
from app.telemetry import Metrics

EVERY_S: Final = 1.0

log = structlog.get_logger(__name__)


async def watch_fills(pool: ConnectionPool, metrics: Metrics) -> None:
    """Put accounts with an unprotected fill in reduce_only, until cancelled; every replica may watch."""
    reachable = True
    while True:
        try:
            for fill in await halt_unprotected(pool):
                metrics.record_unprotected_fill()
                log.error("unprotected fill", decision_id=str(fill.decision_id), account_id=fill.account_id)
            reachable = True
        except StoreUnavailable as error:
            if reachable:
                log.warning("fills are not watched", reason=str(error))
            reachable = False
        await asyncio.sleep(EVERY_S)
