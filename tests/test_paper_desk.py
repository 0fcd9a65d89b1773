"""The bars of snapshots settle earlier forecasts in the background, and nothing they hold stops that work."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog

from app import paper_desk
from app.db.engine import ConnectionPool, create_pool
from app.db.operations import Store
from app.domain.indicators import Bar
from app.domain.market import MarketView
from app.paper_desk import PaperDesk
from tests.builders import a_bar, a_market, a_symbol
from tests.db.builders import decision, forecast, stored

MONDAY = datetime(2024, 3, 4, 15, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOWHERE = "postgresql://nobody@127.0.0.1:9/nothing"


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPool]:
    pool = await create_pool(database_url, min_size=0, max_size=3)
    yield pool
    await pool.close()


async def foretold(pool: ConnectionPool, symbol: str = "ACME") -> UUID:
    """A forecast of Monday: in at 100, stop 95, target 110, two days."""
    record = await stored(
        Store(pool),
        decision(symbol=symbol, as_of=MONDAY),
        foretelling=forecast(time_stop_at=MONDAY + 48 * HOUR),
    )
    return record.decision_id


async def state_of(pool: ConnectionPool, decision_id: UUID) -> tuple[str, str | None]:
    async with pool.connection() as connection:
        row = await connection.fetchrow(
            "SELECT paper_state, paper_outcome FROM forecasts WHERE decision_id = $1", decision_id
        )
    assert row is not None
    return row["paper_state"], row["paper_outcome"]


def bars(
    count: int = 2, *, first: datetime = MONDAY + HOUR / 2, step: timedelta = HOUR, **last: float
) -> tuple[Bar, ...]:
    """Quiet bars in a row; the last one is changed as told."""
    quiet = {"open": 100.0, "high": 101.0, "low": 99.0, "close": 100.0}
    return tuple(
        a_bar(t=first + number * step, **(quiet | (last if number == count - 1 else {}))) for number in range(count)
    )


def market(sent: Sequence[Bar], symbol: str = "ACME", **changes: Any) -> MarketView:
    """A snapshot an hour after its last bar began."""
    return a_market(a_symbol(symbol=symbol, bars=tuple(sent)), as_of=sent[-1].t + HOUR, **changes)


class TestTheDesk:
    async def test_settles_forecasts_by_the_bars_of_later_snapshots(self, pool: ConnectionPool) -> None:
        decision_id = await foretold(pool)
        desk = PaperDesk(pool)
        desk.take("paper-1", market(bars(2)))
        await desk.settle()
        assert await state_of(pool, decision_id) == ("pending", None)

        desk.take("paper-1", market(bars(3, high=111.0)))
        await desk.settle()

        assert await state_of(pool, decision_id) == ("resolved", "win")

    async def test_looks_at_the_same_bars_once(self, pool: ConnectionPool) -> None:
        await foretold(pool)
        desk = PaperDesk(pool)
        desk.take("paper-1", market(bars(2)))
        await desk.settle()

        desk.take("paper-1", market(bars(2)))
        assert not desk._waiting
        # For another account they are new, and so is a newer bar.
        desk.take("paper-2", market(bars(2)))
        desk.take("paper-1", market(bars(3)))
        assert len(desk._waiting) == 2
        await desk.settle()

    async def test_lets_the_oldest_give_way_when_too_many_wait(
        self, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(paper_desk, "MOST_WAITING", 10)
        desk = PaperDesk(pool)

        for number in range(5):
            desk.take(f"paper-{number}", market(bars(4)))
        # 4 + 4 fit; a snapshot that is too large by itself is looked at all the same.
        assert [account_id for account_id, _ in desk._waiting] == ["paper-3", "paper-4"]
        desk.take("paper-5", market(bars(30)))
        assert [account_id for account_id, _ in desk._waiting] == ["paper-5"]

    async def test_forgets_what_it_saw_longest_ago(self, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(paper_desk, "MOST_REMEMBERED", 3)
        desk = PaperDesk(pool)
        for number in range(5):
            desk.take(f"paper-{number}", market(bars(2)))
        await desk.settle()

        assert [account_id for account_id, _ in desk._seen] == ["paper-2", "paper-3", "paper-4"]

    async def test_does_not_take_a_weekend_for_an_interval(self, pool: ConnectionPool) -> None:
        decision_id = await foretold(pool)
        desk = PaperDesk(pool)
        # Friday and Monday alone: three days apart, and each a day long.
        friday = datetime(2024, 3, 8, tzinfo=UTC)
        sent = bars(2, first=friday, step=3 * DAY)
        desk.take("paper-1", a_market(a_symbol(bars=sent), as_of=friday + 4 * DAY))
        await desk.settle()

        assert await state_of(pool, decision_id) == ("resolved", "timeout")
        async with pool.connection() as connection:
            assert await connection.fetchval("SELECT DISTINCT interval_s FROM paper_bars") == 86_400

    async def test_takes_nothing_from_a_snapshot_with_one_bar(self, pool: ConnectionPool) -> None:
        desk = PaperDesk(pool)

        desk.take("paper-1", market(bars(1)))

        assert not desk._waiting

    async def test_works_until_it_is_cancelled(self, pool: ConnectionPool) -> None:
        decision_id = await foretold(pool)
        desk = PaperDesk(pool)
        work = asyncio.create_task(desk.work())
        desk.take("paper-2", market(bars(2)))
        await asyncio.sleep(0.05)

        desk.take("paper-1", market(bars(2, high=111.0)))

        async with asyncio.timeout(5):
            while await state_of(pool, decision_id) == ("pending", None):
                await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait([work])
        assert work.cancelled()


class TestTheWorkGoesOn:
    async def test_after_bars_that_follow_too_closely(self, pool: ConnectionPool) -> None:
        decision_id = await foretold(pool)
        desk = PaperDesk(pool)
        with structlog.testing.capture_logs() as logs:
            desk.take("paper-1", market(bars(3, step=timedelta(milliseconds=1))))
            await desk.settle()
        desk.take("paper-1", market(bars(3, high=111.0)))
        await desk.settle()

        assert [(entry["event"], entry["log_level"]) for entry in logs] == [("bars follow too closely", "warning")]
        assert await state_of(pool, decision_id) == ("resolved", "win")

    async def test_while_the_store_is_away(self, pool: ConnectionPool) -> None:
        nowhere = await create_pool(NOWHERE, min_size=0)
        desk = PaperDesk(nowhere)
        with structlog.testing.capture_logs() as logs:
            desk.take("paper-1", market(bars(2)))
            await desk.settle()
        # The same bars are looked at when they come again.
        desk.take("paper-1", market(bars(2)))
        assert desk._waiting
        await desk.settle()
        await nowhere.close()

        assert [(entry["event"], entry["log_level"]) for entry in logs] == [("forecasts are not followed", "warning")]

    async def test_after_a_bug(self, pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> None:
        decision_id = await foretold(pool)
        desk = PaperDesk(pool)

        async def broken(*_: object, **__: object) -> None:
            raise KeyError("bug")

        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr(paper_desk, "record_bars", broken)
            desk.take("paper-1", market(bars(2)))
            await desk.settle()
        desk.take("paper-1", market(bars(3, high=111.0)))
        await desk.settle()

        assert [(entry["event"], entry["log_level"]) for entry in logs] == [("forecasts are not followed", "error")]
        assert await state_of(pool, decision_id) == ("resolved", "win")
