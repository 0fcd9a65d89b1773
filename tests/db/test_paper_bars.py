"""Labels on paper are a function of the set of bars that are known, in whatever order they came."""

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import pytest

from app.db import paper_bars
from app.db.engine import Connection, ConnectionPool
from app.db.operations import Store
from app.db.paper_bars import BarsReport, SymbolBars, pending_symbols, record_bars
from app.domain.proposal import EntryType
from app.domain.triple_barrier import BarFault, PriceBar
from tests.db.builders import decision, forecast, stored
from tests.recount import checked_statistics

AS_OF = datetime(2024, 3, 4, 15, 30, tzinfo=UTC)  # a Monday
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TIME_STOP = AS_OF + 48 * HOUR

Prices: TypeAlias = tuple[int, int, int, int]
QUIET: Prices = (100, 101, 99, 100)
WINS: Prices = (100, 111, 99, 108)
LOSES: Prices = (100, 101, 94, 96)
"""Open, high, low, close; the plan buys at 100 with the stop at 95 and the target at 110."""


def a_bar(t: datetime, prices: Prices = QUIET) -> PriceBar:
    names = ("open", "high", "low", "close")
    return PriceBar(t=t, volume=Decimal(0), **dict(zip(names, map(Decimal, prices), strict=True)))


def bars_of(*bars: PriceBar, interval: timedelta = HOUR, symbol: str = "NVDA") -> SymbolBars:
    return SymbolBars(symbol=symbol, interval=interval, bars=bars)


def hours(*prices: Prices, after: int = 0) -> tuple[PriceBar, ...]:
    """Hourly bars in a row, from the first whole hour after the snapshot on."""
    first = AS_OF + timedelta(minutes=30)
    return tuple(a_bar(first + (after + number) * HOUR, of_hour) for number, of_hour in enumerate(prices))


async def foretold(store: Store, *, foretelling: dict[str, Any] | None = None, **changes: Any) -> UUID:
    plan = forecast(**{"time_stop_at": TIME_STOP, **(foretelling or {})})
    record = await stored(store, decision(**{"as_of": AS_OF, **changes}), foretelling=plan)
    return record.decision_id


async def told(pool: ConnectionPool, *reports: SymbolBars) -> list[BarsReport]:
    return [await record_bars(pool, report, accounts=None) for report in reports]


async def label_of(owner: Connection, decision_id: UUID) -> tuple[Any, ...]:
    """State, outcome, price and time of a forecast's end; the statistics must agree with a recount."""
    await checked_statistics(owner)
    row = await owner.fetchrow(
        "SELECT paper_state, paper_outcome, paper_exit_price, paper_exit_at FROM forecasts WHERE decision_id = $1",
        decision_id,
    )
    assert row is not None
    return tuple(row)


REPORTS: dict[str, tuple[tuple[SymbolBars, ...], tuple[Any, ...]]] = {
    "nothing before the time stop": (
        (
            bars_of(a_bar(TIME_STOP + 9 * HOUR, (104, 105, 103, 104))),
            bars_of(a_bar(TIME_STOP + HOUR, (102, 103, 101, 102))),
            bars_of(a_bar(TIME_STOP + 5 * HOUR, (103, 104, 102, 103))),
        ),
        ("resolved", "timeout", 102, TIME_STOP + HOUR),
    ),
    "a bar exactly at the time stop": (
        (bars_of(a_bar(TIME_STOP, (102, 103, 101, 102))), bars_of(a_bar(TIME_STOP + HOUR, (104, 105, 103, 104)))),
        ("resolved", "timeout", 102, TIME_STOP),
    ),
    "a later bar of another interval": (
        (
            bars_of(*hours(QUIET, (101, 102, 100, 101))),
            bars_of(a_bar(datetime(2024, 3, 7, tzinfo=UTC), (120, 121, 119, 120)), interval=DAY),
            bars_of(a_bar(datetime(2024, 3, 8, tzinfo=UTC), (90, 91, 89, 90)), interval=DAY),
        ),
        ("resolved", "timeout", 101, AS_OF + timedelta(hours=2, minutes=30)),
    ),
    "two intervals that begin after the time stop at once": (
        (
            bars_of(a_bar(TIME_STOP + 9 * HOUR, (102, 103, 101, 102)), interval=HOUR),
            bars_of(a_bar(TIME_STOP + 9 * HOUR, (103, 104, 102, 103)), interval=4 * HOUR),
            bars_of(a_bar(TIME_STOP + 10 * HOUR, (104, 105, 103, 104)), interval=DAY),
        ),
        ("resolved", "timeout", 103, TIME_STOP + 9 * HOUR),
    ),
    "hours that settle, and days that do not until later": (
        (
            bars_of(*hours(QUIET, LOSES)),
            bars_of(a_bar(datetime(2024, 3, 5, tzinfo=UTC)), interval=DAY),
            bars_of(a_bar(datetime(2024, 3, 8, tzinfo=UTC), (130, 131, 129, 130)), interval=DAY),
        ),
        ("resolved", "loss", 95, AS_OF + timedelta(hours=2, minutes=30)),
    ),
    "days that settle prevail over hours": (
        (
            bars_of(*hours(QUIET, LOSES)),
            bars_of(a_bar(datetime(2024, 3, 5, tzinfo=UTC)), interval=DAY),
            bars_of(a_bar(datetime(2024, 3, 6, tzinfo=UTC), WINS), interval=DAY),
        ),
        ("resolved", "win", 110, datetime(2024, 3, 7, tzinfo=UTC)),
    ),
    "a hole that is filled": (
        (bars_of(*hours(WINS, after=2)), bars_of(*hours(LOSES, after=1)), bars_of(*hours(QUIET))),
        ("resolved", "loss", 95, AS_OF + timedelta(hours=2, minutes=30)),
    ),
}


@pytest.mark.parametrize("case", REPORTS)
async def test_any_order_of_reports_gives_the_same_label(
    store: Store, pool: ConnectionPool, owner: Connection, case: str
) -> None:
    reports, label = REPORTS[case]
    for number, order in enumerate(itertools.permutations(reports)):
        symbol = f"Q{chr(65 + number)}"
        decision_id = await foretold(store, symbol=symbol)

        await told(pool, *(bars_of(*report.bars, interval=report.interval, symbol=symbol) for report in order))

        assert await label_of(owner, decision_id) == label, order


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_an_entry_that_never_traded_is_unfilled_in_any_order(
    store: Store, pool: ConnectionPool, owner: Connection, order: tuple[int, ...]
) -> None:
    decision_id = await foretold(store, foretelling={"entry_type": EntryType.LIMIT, "entry": Decimal(98)})
    reports = [
        bars_of(*hours(QUIET, QUIET)),
        bars_of(*hours(QUIET, after=60)),
        bars_of(a_bar(datetime(2024, 3, 9, tzinfo=UTC), (90, 91, 89, 90)), interval=DAY),
    ]

    await told(pool, *(reports[place] for place in order))

    assert (await label_of(owner, decision_id))[:2] == ("unfilled", None)


async def test_each_settled_forecast_is_counted_by_the_report_that_settled_it(
    store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    for account_id in ("paper-1", "paper-2"):
        await foretold(store, account_id=account_id)
    await foretold(store, foretelling={"entry_type": EntryType.LIMIT, "entry": Decimal(98)})

    reports = await told(
        pool,
        bars_of(*hours(QUIET)),
        bars_of(*hours(WINS, after=1)),
        bars_of(*hours(WINS, after=1)),
        bars_of(*hours(QUIET, after=60)),
    )

    assert [(report.resolved, report.unfilled) for report in reports] == [(0, 0), (2, 0), (0, 0), (0, 1)]
    await checked_statistics(owner)


async def test_more_forecasts_than_one_transaction_labels_are_all_labelled(
    store: Store, pool: ConnectionPool, owner: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper_bars, "LABELLED_AT_ONCE", 3)
    for minutes in range(10):
        await foretold(store, as_of=AS_OF + timedelta(minutes=minutes))

    [report] = await told(pool, bars_of(*hours(QUIET, LOSES)))

    assert report.resolved == 10
    kept = await checked_statistics(owner)
    assert sum(sum(amounts) for amounts in kept["calibration_daily"].values()) == 30


async def test_bars_from_before_the_oldest_open_forecast_are_not_kept(
    store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    await foretold(store)

    await told(pool, bars_of(a_bar(AS_OF - 2 * HOUR), a_bar(AS_OF - HOUR), a_bar(AS_OF), a_bar(AS_OF + HOUR)))

    assert await owner.fetchval("SELECT array_agg(t ORDER BY t) FROM paper_bars") == [AS_OF, AS_OF + HOUR]


async def test_bars_that_concern_nobody_are_not_kept(store: Store, pool: ConnectionPool, owner: Connection) -> None:
    await foretold(store, symbol="MSFT")
    await foretold(store, as_of=AS_OF + 100 * HOUR)

    await told(pool, bars_of(*hours(QUIET, LOSES)))

    assert await owner.fetchval("SELECT count(*) FROM paper_bars") == 0


async def test_telling_them_again_completes_what_a_crash_left(
    store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    decision_id = await foretold(store)
    # The bars were kept, and the process ended before it labelled.
    report = bars_of(*hours(QUIET, LOSES))
    await paper_bars._keep(pool, account_id="paper-1", sent=report)
    assert (await label_of(owner, decision_id))[0] == "pending"

    assert [again.resolved for again in await told(pool, report)] == [1]
    assert (await label_of(owner, decision_id))[:2] == ("resolved", "loss")


async def test_a_forecast_made_after_its_bars_is_settled_by_the_next_report(
    store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    await foretold(store)
    await told(pool, bars_of(*hours(QUIET, QUIET, QUIET, LOSES)))
    late = await foretold(store, as_of=AS_OF + HOUR)

    await told(pool, bars_of(*hours(QUIET, after=4)))

    assert (await label_of(owner, late))[:2] == ("resolved", "loss")


async def test_the_first_report_of_a_bar_counts(store: Store, pool: ConnectionPool, owner: Connection) -> None:
    decision_id = await foretold(store)

    _, conflicting, same = await told(
        pool, bars_of(*hours(QUIET, LOSES)), bars_of(*hours(QUIET, WINS)), bars_of(*hours(QUIET, LOSES))
    )

    assert [(drop.index, drop.fault) for drop in conflicting.dropped] == [(1, BarFault.CONFLICT)]
    assert same.dropped == ()
    assert (await label_of(owner, decision_id))[:2] == ("resolved", "loss")


async def test_bars_of_named_accounts_label_only_theirs(store: Store, pool: ConnectionPool, owner: Connection) -> None:
    mine, theirs = await foretold(store), await foretold(store, account_id="paper-2")

    await record_bars(pool, bars_of(*hours(QUIET, LOSES)), accounts=("paper-2", "paper-3"))
    assert [(await label_of(owner, one))[0] for one in (mine, theirs)] == ["pending", "resolved"]
    await record_bars(pool, bars_of(*hours(QUIET, LOSES)), accounts=())
    assert (await label_of(owner, mine))[0] == "pending"


async def test_symbols_are_pending_while_bars_may_resolve_a_forecast(store: Store, pool: ConnectionPool) -> None:
    await foretold(store)
    await foretold(store, symbol="MSFT")
    await foretold(store, symbol="AMZN", account_id="paper-2")

    async def pending() -> set[str]:
        return await pending_symbols(pool, account_id="paper-1", symbols={"NVDA", "AMZN", "TSLA", "MSFT"})

    assert await pending() == {"NVDA", "MSFT"}
    await told(pool, bars_of(*hours(QUIET, LOSES)))
    assert await pending() == {"MSFT"}


async def test_a_report_without_a_usable_bar_says_so(store: Store, pool: ConnectionPool) -> None:
    await foretold(store)

    [report] = await told(pool, bars_of(a_bar(AS_OF, (100, 99, 101, 100))))

    assert report == BarsReport(
        dropped=(paper_bars.DroppedBar(symbol="NVDA", index=0, t=AS_OF, fault=BarFault.HIGH_BELOW_LOW),)
    )
    assert await told(pool, bars_of()) == [BarsReport()]
