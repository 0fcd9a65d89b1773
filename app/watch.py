"""Watch for what no request tells: fills without a stop, the store, spending, how targets stand, what warmth costs."""

import asyncio
from decimal import Decimal
from typing import Final

import structlog

from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.events import halt_unprotected
from app.db.halts import count_halts
from app.db.model_calls import keep_warming_call, spending_today
from app.domain.model_call import ModelCall
from app.llm.routing import RoutedDecider
from app.telemetry import Metrics

EVERY_S: Final = 1.0

TARGETS_EVERY_S: Final = 1.0

STORE_EVERY_S: Final = 2.0

SPENDING_EVERY_S: Final = 10.0
"""Every replica adds up the day's calls: with 100,000 of them that takes some 50 ms."""

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


async def watch_store(pool: ConnectionPool, metrics: Metrics, *, every_s: float = STORE_EVERY_S) -> None:
    """Show whether the store answers and how many halts are in force, until cancelled."""
    reachable = True
    while True:
        try:
            metrics.show_store(up=True, halts=await count_halts(pool))
            reachable = True
        except StoreUnavailable as error:
            metrics.show_store(up=False)
            if reachable:
                log.warning("the store does not answer", reason=str(error))
            reachable = False
        except Exception:  # a bug must not end the watch
            metrics.show_store(up=False)
            log.exception("the store is not watched")
        await asyncio.sleep(every_s)


async def watch_spending(
    pool: ConnectionPool, metrics: Metrics, *, budget_usd: Decimal, every_s: float = SPENDING_EVERY_S
) -> None:
    """Show what model calls have cost today beside the budget of one key, until cancelled."""
    metrics.show_budget(budget_usd)
    reachable = True
    while True:
        try:
            spending = await spending_today(pool)
            metrics.show_spending(total_usd=spending.total_usd, dearest_key_usd=spending.dearest_key_usd)
            reachable = True
        except StoreUnavailable as error:
            if reachable:
                log.warning("spending is not watched", reason=str(error))
            reachable = False
        except Exception:  # a bug must not end the watch
            log.exception("spending is not watched")
        await asyncio.sleep(every_s)


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
