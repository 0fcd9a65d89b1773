"""What no request tells is shown all the same: whether the store answers, what is halted, what was spent."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal

import asyncpg
import pytest
import structlog

from app.db.engine import ConnectionPool, create_pool
from app.db.halts import lift_halt, set_halt
from app.db.model_calls import Asker, Spending, keep_calls_in, keep_warming_call, spending_today
from app.domain.account import AccountMode, HaltState
from app.domain.model_call import PROPOSED, ModelCall
from app.domain.proposal import ModelFailure
from app.telemetry import Metrics
from app.watch import watch_spending, watch_store
from tests.faults.tcp_proxy import TcpProxy

SEEN_S = 10.0
OFTEN_S = 0.02


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[structlog.typing.EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPool]:
    pool = await create_pool(database_url, min_size=0, max_size=3)
    yield pool
    await pool.close()


@asynccontextmanager
async def running(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])


def shown(metrics: Metrics) -> dict[str, float]:
    """Every sample of the metrics, by name and labels, without the prefix that all have."""
    lines = [line for line in metrics.exposition().decode().splitlines() if line.startswith("tradeverdict_")]
    return {
        name.removeprefix("tradeverdict_"): float(value) for name, _, value in (line.rpartition(" ") for line in lines)
    }


async def until_shown(metrics: Metrics, **expected: float) -> None:
    """Wait for gauges: `halted` and `reduce_only` stand for halts in that state."""
    names = {f'halts{{state="{name}"}}' if name in list(HaltState) else name: value for name, value in expected.items()}
    async with asyncio.timeout(SEEN_S):
        while not names.items() <= shown(metrics).items():
            await asyncio.sleep(0.01)


async def test_halts_in_force_are_counted_by_state(pool: ConnectionPool) -> None:
    metrics, person = Metrics(), {"reason": "flash crash", "operator": "ana"}
    async with running(watch_store(pool, metrics, every_s=OFTEN_S)):
        await until_shown(metrics, store_up=1, halted=0, reduce_only=0)
        await set_halt(pool, account_id=None, state=HaltState.HALTED, **person)
        await set_halt(pool, account_id="paper-1", state=HaltState.REDUCE_ONLY, **person)
        await set_halt(pool, account_id="paper-2", state=HaltState.REDUCE_ONLY, **person)
        await until_shown(metrics, halted=1, reduce_only=2)
        await lift_halt(pool, account_id="paper-1", **person)
        await lift_halt(pool, account_id=None, **person)
        await until_shown(metrics, store_up=1, halted=0, reduce_only=1)


async def test_a_store_that_goes_away_is_shown_and_the_halts_last_known_stay(
    database_url: str, logs: list[structlog.typing.EventDict]
) -> None:
    metrics = Metrics()
    async with TcpProxy(database_url) as way:
        pool = await create_pool(way.url, min_size=0, max_size=2)
        try:
            await set_halt(pool, account_id=None, state=HaltState.HALTED, reason="drill", operator="ana")
            async with running(watch_store(pool, metrics, every_s=OFTEN_S)):
                await until_shown(metrics, store_up=1, halted=1)
                way.refusing = True
                way.reset()
                await until_shown(metrics, store_up=0, halted=1, reduce_only=0)
                await asyncio.sleep(0.1)
                way.heal()
                await until_shown(metrics, store_up=1, halted=1)
        finally:
            await pool.close()

    assert [event["event"] for event in logs] == ["the store does not answer"]


def call(cost_usd: str) -> ModelCall:
    return ModelCall(
        target="first", model="m", started_ms=0, latency_ms=1, outcome=PROPOSED, cost_usd=Decimal(cost_usd)
    )


async def charge(pool: ConnectionPool, api_key_id: str | None, *costs_usd: str) -> None:
    asker = Asker(decision_id=None, account_id="paper-1", mode=AccountMode.PAPER, api_key_id=api_key_id)
    async with pool.connection() as connection:
        await keep_calls_in(connection, [call(cost) for cost in costs_usd], asker=asker)


async def test_spending_is_that_of_all_keys_and_of_the_one_that_spent_most(pool: ConnectionPool) -> None:
    metrics = Metrics()
    async with running(watch_spending(pool, metrics, budget_usd=Decimal(5), every_s=OFTEN_S)):
        await until_shown(metrics, model_budget_usd=5, cost_today_usd=0, dearest_key_cost_today_usd=0)
        await charge(pool, "a", "0.5", "0.75")
        await charge(pool, "b", "1")
        await charge(pool, None, "0.25")
        await keep_warming_call(pool, call("4"))
        # 0.5 + 0.75 + 1 + 0.25 + 4 = 6.5
        await until_shown(metrics, cost_today_usd=6.5, dearest_key_cost_today_usd=1.25)


async def test_what_was_spent_yesterday_is_not_counted(pool: ConnectionPool, database_url: str) -> None:
    await charge(pool, "a", "3")
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute("SET session_replication_role = 'replica'")
        midnight = "date_trunc('day', statement_timestamp(), 'UTC')"
        await owner.execute(f"UPDATE model_calls SET recorded_at = {midnight} - interval '1 ms'")
        await charge(pool, "a", "2")
    finally:
        await owner.close()

    assert await spending_today(pool) == Spending(total_usd=Decimal(2), dearest_key_usd=Decimal(2))


def test_failures_are_counted_from_zero_on_so_that_the_first_is_an_increase() -> None:
    found = {name: value for name, value in shown(Metrics()).items() if name.startswith("model_failures_total")}

    assert found == {f'model_failures_total{{code="{code}"}}': 0 for code in ModelFailure}
