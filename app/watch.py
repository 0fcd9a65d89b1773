"""Watch for what no request tells: fills whose stop nobody reported, how model targets stand, what warmth costs."""

import asyncio
from typing import Final

import structlog

from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.events import halt_unprotected
from app.db.model_calls import keep_warming_call
from app.domain.model_call import ModelCall
from app.llm.routing import RoutedDecider
from app.telemetry import Metrics

EVERY_S: Final = 1.0

TARGETS_EVERY_S: Final = 1.0

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
        except Exception:  # a bug must not end the watch
            log.exception("fills are not watched")
        await asyncio.sleep(EVERY_S)


async def watch_targets(decider: RoutedDecider, metrics: Metrics) -> None:
    """Show how each target stands, until cancelled."""
    while True:
        metrics.show_targets(decider.states())
        await asyncio.sleep(TARGETS_EVERY_S)


async def watch_warming(pool: ConnectionPool, calls: asyncio.Queue[ModelCall], metrics: Metrics) -> None:
    """Add calls to the ledger that kept targets warm, until cancelled."""
    while True:
        call = await calls.get()
        metrics.record_model_call(call)
        try:
            await keep_warming_call(pool, call)
        except StoreUnavailable as error:
            log.warning("a warming call is not in the ledger", target=call.target, reason=str(error))
