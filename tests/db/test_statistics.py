"""What is read of the counts is what the forecasts would give, one by one; whoever asks, and however it is split."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from app.db import statistics
from app.db.embedded import EmbeddedPostgres
from app.db.engine import Connection, ConnectionPool, StoreUnavailable, create_pool
from app.db.statistics import (
    LABELS,
    MOST_GROUPS,
    Activity,
    CalibrationRecord,
    CalibrationStatistics,
    DecisionCount,
    EvSums,
    GroupBy,
    Period,
    Scope,
    Source,
    Window,
    read_calibration,
    read_gates,
    read_setups,
)
from app.domain.gate_effects import BlockedForecasts
from app.domain.outcome import ForecastKind, OutcomeClass
from app.domain.proposal import Mode
from app.domain.tally import ClassCounts, Tally, bucket_sums
from app.domain.verdict import Verdict
from tests.ledger import CLASSES, HAIKU, Decided, Foretold, keep

FRIDAY = date(2026, 3, 6)
MARCH = Window(first=date(2026, 3, 1), last=date(2026, 3, 31))
KEYS = {
    GroupBy.DECIDER: "decider",
    GroupBy.PROMPT: "prompt_hash",
    GroupBy.SETUP: "setup",
    GroupBy.DIRECTION: "direction",
    GroupBy.ACCOUNT: "account_id",
}


def drawn(draw: random.Random, day: date) -> Foretold:
    """A forecast of any kind."""

    def label() -> tuple[str, str] | None:
        return draw.choice([None, *((name, str(draw.randint(-2_000, 3_000) / 1000)) for name in CLASSES)])

    return Foretold(
        day=day,
        account_id=draw.choice(["a", "b", "c"]),
        decider=draw.choice([HAIKU, "rules"]),
        prompt_hash=draw.choice(["ab" * 32, "cd" * 32]),
        setup=draw.choice(["momentum", "breakout", "other"]),
        direction=draw.choice(["long", "short"]),
        percent=draw.randint(1, 99),
        calibrated=draw.choice([None, draw.randint(1, 99)]),
        conviction=draw.randint(0, 100),
        ev_r=draw.choice([None, str(draw.randint(-500, 900) / 1000)]),
        paper=label(),
        executed=label(),
    )


FORETOLD = [drawn(draw, date(2026, 2, 28) + timedelta(draw.randint(0, 32))) for draw in [random.Random(4)] * 400]
"""Four hundred forecasts from the last of February to the first of April."""


@pytest.fixture(scope="module")
def foretold_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The address of a database that holds them, for tests that only read."""

    async def tell(url: str) -> None:
        owner = await asyncpg.connect(url)
        try:
            await keep(owner, FORETOLD)
        finally:
            await owner.close()

    url = postgres.create_database("foretold", template=migrated_template)
    asyncio.run(tell(url))
    yield url
    postgres.drop_database("foretold")


@pytest.fixture
async def of_foretold(foretold_url: str) -> AsyncIterator[ConnectionPool]:
    """A pool on that database."""
    pool = await create_pool(foretold_url, min_size=0, max_size=4)
    yield pool
    await pool.close()


def label_of(forecast: Foretold, source: Source) -> tuple[str, str] | None:
    """The label that counts, by the words of the contract."""
    match source:
        case Source.EXECUTED:
            return forecast.executed
        case Source.PAPER:
            return forecast.paper
        case Source.ALL:
            return forecast.executed or forecast.paper


def tally_of(forecasts: Iterable[Foretold], *, source: Source, forecast: ForecastKind) -> Tally:
    return Tally.of(
        (said.day, percent, OutcomeClass(label[0]), 1)
        for said in forecasts
        if (label := label_of(said, source)) is not None and (percent := said.said.get(forecast)) is not None
    )


def ev_of(forecasts: Iterable[Foretold], *, source: Source) -> EvSums:
    told = [
        (Decimal(said.ev_r), Decimal(label[1]))
        for said in forecasts
        if said.ev_r is not None and (label := label_of(said, source)) is not None
    ]
    predicted, realized = (sum(amounts, Decimal(0)) for amounts in (zip(*told, strict=True) if told else ((), ())))
    return EvSums(n=len(told), predicted_r=predicted, realized_r=realized)


def in_march(forecasts: Iterable[Foretold], accounts: Collection[str] | None = None) -> list[Foretold]:
    return [said for said in forecasts if said.day.month == 3 and (accounts is None or said.account_id in accounts)]


def check(record: CalibrationRecord, of: list[Foretold], *, source: Source, forecast: ForecastKind) -> None:
    assert record.tally == tally_of(of, source=source, forecast=forecast)
    convictions = tally_of(of, source=source, forecast=ForecastKind.CONVICTION)
    assert sorted(record.convictions, key=lambda of: of.lower) == list(bucket_sums(convictions))
    pending = [said for said in of if said.paper is None and said.executed is None]
    assert record.pending == sum(said.said.get(forecast) is not None for said in pending)
    assert (record.liquidity_violations, record.correlation_breaches) == (0, 0)


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("forecast", ForecastKind)
@pytest.mark.parametrize("accounts", [None, ["a", "c"], ["b"], []], ids=str)
async def test_a_record_is_what_its_forecasts_give(
    of_foretold: ConnectionPool,
    source: Source,
    forecast: ForecastKind,
    accounts: list[str] | None,
) -> None:
    scope = Scope(accounts=accounts, window=MARCH, source=source)

    read = await read_calibration(of_foretold, scope, forecast=forecast)

    of = in_march(FORETOLD, accounts)
    check(read.overall, of, source=source, forecast=forecast)
    assert read.overall.ev == ev_of(of, source=source)
    assert (read.period, read.groups, read.groups_left_out) == (
        Period(first=date(2026, 3, 1), last=date(2026, 3, 31)),
        None,
        0,
    )


@pytest.mark.parametrize("group_by", GroupBy)
@pytest.mark.parametrize("accounts", [None, ["a", "c"]], ids=str)
async def test_each_group_is_what_its_forecasts_give(
    of_foretold: ConnectionPool, group_by: GroupBy, accounts: list[str] | None
) -> None:
    scope = Scope(accounts=accounts, window=MARCH)
    kind = ForecastKind.P_WIN

    read = await read_calibration(of_foretold, scope, forecast=kind, group_by=group_by)

    of = in_march(FORETOLD, accounts)
    check(read.overall, of, source=Source.ALL, forecast=kind)
    assert read.groups is not None
    assert set(read.groups) == {getattr(said, KEYS[group_by]) for said in of}
    for key, record in read.groups.items():
        of_key = [said for said in of if getattr(said, KEYS[group_by]) == key]
        check(record, of_key, source=Source.ALL, forecast=kind)
        assert record.ev == (None if group_by is GroupBy.PROMPT else ev_of(of_key, source=Source.ALL))
        assert (record.activity is None) == (group_by not in (GroupBy.DECIDER, GroupBy.ACCOUNT))
    sizes = [record.tally.counts.resolved for record in read.groups.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == read.overall.tally.counts.resolved


def test_every_resolved_forecast_has_one_label_of_each_choice() -> None:
    for labels in ({"executed"}, {"paper"}, {"executed", "paper_of_executed"}):
        for source, stored in LABELS.items():
            assert len(labels & {label.value for label in stored}) == (
                0 if (source is Source.EXECUTED and "executed" not in labels)
                or (source is Source.PAPER and labels == {"executed"})
                else 1
            )  # fmt: skip


# ------------------------------------------------------------------------------------------ windows


async def days_told(pool: ConnectionPool, window: Window) -> list[date | None]:
    read = await read_calibration(pool, Scope(accounts=None, window=window), forecast=ForecastKind.P_WIN)
    return [sums.day for sums in read.overall.tally.by_day]


async def test_a_window_of_days_ends_with_the_databases_today(pool: ConnectionPool, owner: Connection) -> None:
    today: date = await owner.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    days = [today + timedelta(offset) for offset in (-30, -29, -1, 0, 1)]
    await keep(owner, [Foretold(day=day, paper=("win", "1.8")) for day in days])

    assert await days_told(pool, Window()) == days[1:4]
    assert await days_told(pool, Window(days=1)) == [today]
    assert await days_told(pool, Window(days=2)) == days[2:4]
    assert await days_told(pool, Window(first=days[0], last=days[1])) == days[:2]
    assert await days_told(pool, Window(first=days[4], last=days[4])) == [days[4]]


async def test_nothing_is_told_of_an_empty_store(pool: ConnectionPool) -> None:
    scope = Scope(accounts=None, window=MARCH)

    read = await read_calibration(pool, scope, forecast=ForecastKind.P_WIN, group_by=GroupBy.SETUP)

    nothing = Tally(by_percent={})
    assert read == CalibrationStatistics(
        period=Period(first=date(2026, 3, 1), last=date(2026, 3, 31)),
        overall=CalibrationRecord(tally=nothing, convictions=(), activity=Activity(), ev=EvSums()),
        groups={},
        groups_left_out=0,
    )
    assert (await read_setups(pool, scope)).setups == ()
    gates = await read_gates(pool, scope)
    assert (gates.decisions, gates.codes) == ((), {})


async def test_what_a_correction_took_away_is_as_good_as_never_counted(pool: ConnectionPool, owner: Connection) -> None:
    await keep(owner, [Foretold(day=FRIDAY, paper=("win", "1.8"))])
    for table in ("calibration_counts", "calibration_daily", "calibration_sums", "outcome_sums"):
        await owner.execute(f"UPDATE {table} SET win = 0")

    scope = Scope(accounts=None, window=MARCH)
    read = await read_calibration(pool, scope, forecast=ForecastKind.P_WIN, group_by=GroupBy.SETUP)

    assert read.overall.tally == Tally(by_percent={})
    assert read.groups == {}
    assert (await read_setups(pool, scope)).setups == ()


# ------------------------------------------------------------------------------------------ activity and breaches


async def activity(pool: ConnectionPool, **asked: Any) -> CalibrationStatistics:
    scope = Scope(accounts=asked.pop("accounts", None), window=MARCH)
    return await read_calibration(pool, scope, forecast=ForecastKind.P_WIN, **asked)


async def test_sessions_are_weekdays_of_an_account_and_replies_are_those_that_came(
    pool: ConnectionPool, owner: Connection
) -> None:
    saturday = FRIDAY + timedelta(1)
    neutral = {"action": "neutral", "verdict": "no_trade"}
    await keep(
        owner,
        decisions=[
            Decided(day=FRIDAY, account_id="a", verdict="blocked", reason_code="ILLIQUID", decisions=3),
            Decided(day=FRIDAY, account_id="a", verdict="resized", decider="rules"),
            Decided(day=FRIDAY, account_id="b", action="exit"),
            Decided(day=FRIDAY - timedelta(1), account_id="a", **neutral, reason_code="MODEL_NEUTRAL", decisions=5),
            Decided(day=saturday, account_id="a", decisions=7),
            Decided(day=FRIDAY, account_id="b", **neutral, reason_code="MODEL_TIMEOUT", decisions=11),
            Decided(day=FRIDAY, account_id="b", **neutral, reason_code="MODEL_UNAVAILABLE", decisions=13),
            Decided(day=FRIDAY, account_id="b", **neutral, reason_code="MODEL_INVALID", decisions=17),
            Decided(day=FRIDAY, account_id="b", **neutral, reason_code="MODEL_TRUNCATED", decisions=19),
            Decided(day=FRIDAY, account_id="b", **neutral, reason_code="MODEL_REFUSED", decisions=23),
            Decided(day=date(2026, 4, 1), account_id="a", decisions=29),
        ],
    )

    everyone = await activity(pool)
    of_b = await activity(pool, accounts=["b"])

    # Sessions: a on Thursday and Friday, b on Friday; only a on Friday had a trade. Readable: 3 + 1 + 1 + 5 + 7 = 17,
    # and 17 + 19 + 23 = 59 that could not be read.
    assert everyone.overall.activity == Activity(sessions=3, sessions_traded=1, replies=76, replies_parsed=17)
    assert of_b.overall.activity == Activity(sessions=1, sessions_traded=0, replies=60, replies_parsed=1)


async def test_a_decider_has_the_sessions_in_which_it_was_asked(pool: ConnectionPool, owner: Connection) -> None:
    await keep(
        owner,
        [Foretold(day=FRIDAY, decider=decider, paper=("win", "1")) for decider in ("rules", HAIKU)],
        [
            Decided(day=FRIDAY, decider="rules", verdict="blocked"),
            Decided(day=FRIDAY, decider=HAIKU),
            Decided(day=FRIDAY, decider=HAIKU, account_id="b"),
        ],
    )

    groups = (await activity(pool, group_by=GroupBy.DECIDER)).groups

    assert groups is not None
    assert groups["rules"].activity == Activity(sessions=1, sessions_traded=0, replies=1, replies_parsed=1)
    assert groups[HAIKU].activity == Activity(sessions=2, sessions_traded=2, replies=2, replies_parsed=2)


async def test_an_approval_against_a_gate_would_be_told(pool: ConnectionPool, owner: Connection) -> None:
    # No decision can be so; the rows are written by hand.
    breaching = [
        ("approved", ("ILLIQUID", "SIZE_BUCKET")),
        ("resized", ("SPREAD_TOO_WIDE",)),
        ("resized", ("SIZE_BUCKET",)),
        ("resized", ("NEGATIVE_EV",)),
        ("blocked", ("ILLIQUID", "SIZE_BUCKET")),
    ]
    await keep(owner, [Foretold(day=FRIDAY, verdict=verdict, blocked_by=codes) for verdict, codes in breaching])

    record = (await activity(pool)).overall

    assert (record.liquidity_violations, record.correlation_breaches) == (2, 2)


# ------------------------------------------------------------------------------------------ setups and gates


async def test_the_sums_of_each_setup_are_those_of_its_forecasts(of_foretold: ConnectionPool) -> None:
    for source in Source:
        read = await read_setups(of_foretold, Scope(accounts=["a", "b"], window=MARCH, source=source))

        for sums in read.setups:
            told = [
                (said, label)
                for said in in_march(FORETOLD, ["a", "b"])
                if said.setup == sums.setup and (label := label_of(said, source)) is not None
            ]
            counts = Counter(label[0] for _, label in told)
            r = [(label[0], Decimal(label[1])) for _, label in told]
            assert sums.counts == ClassCounts(**counts)
            assert sums.r_win == sum(amount for name, amount in r if name == "win")
            assert sums.r_loss == sum(amount for name, amount in r if name == "loss")
            assert sums.r == sum(amount for _, amount in r)
            assert sums.r_squares == sum(amount**2 for _, amount in r)
            assert (sums.forecasts, sums.percents) == (len(told), sum(said.percent for said, _ in told))
        assert [sums.setup for sums in read.setups] == ["breakout", "momentum", "other"]


async def test_decisions_and_blocks_are_summed_over_days_deciders_and_accounts(
    pool: ConnectionPool, owner: Connection
) -> None:
    blocked: dict[str, Any] = {"verdict": "blocked", "blocked_by": ("ILLIQUID", "LOW_P_WIN")}
    await keep(
        owner,
        [
            Foretold(day=FRIDAY, **blocked, paper=("win", "1.8")),
            Foretold(day=FRIDAY + timedelta(1), **blocked, paper=("loss", "-1.000001"), decider="rules"),
            Foretold(day=FRIDAY, **blocked, account_id="other"),
            Foretold(day=FRIDAY, verdict="blocked", blocked_by=("LOW_P_WIN",), executed=("win", "9")),
            Foretold(day=date(2026, 4, 1), **blocked, paper=("win", "5")),
        ],
        [
            Decided(day=FRIDAY, verdict="blocked", reason_code="ILLIQUID", decisions=2),
            Decided(day=FRIDAY, verdict="blocked", reason_code="ILLIQUID", decider="rules"),
            Decided(day=FRIDAY),
        ],
    )

    everyone = await read_gates(pool, Scope(accounts=None, window=MARCH))
    mine = await read_gates(pool, Scope(accounts=["paper-1"], window=MARCH))

    # Only what the bars say of a blocked forecast counts: nobody could have executed it.
    resolved: dict[str, Any] = {"resolved": 2, "won": 1, "r": Decimal("0.799999")}
    assert everyone.codes == {
        "LOW_P_WIN": BlockedForecasts(blocked=4, **resolved),
        "ILLIQUID": BlockedForecasts(blocked=3, **resolved),
    }
    assert list(everyone.codes) == ["LOW_P_WIN", "ILLIQUID"]
    assert mine.codes["ILLIQUID"] == BlockedForecasts(blocked=2, **resolved)
    assert everyone.decisions == (
        DecisionCount(action=Mode.TRADE, verdict=Verdict.BLOCKED, reason_code="ILLIQUID", decisions=3),
        DecisionCount(action=Mode.TRADE, verdict=Verdict.APPROVED, reason_code=None, decisions=1),
    )


# ------------------------------------------------------------------------------------------ limits


async def test_of_very_many_groups_the_largest_are_told(pool: ConnectionPool, owner: Connection) -> None:
    forecasts = [
        Foretold(day=FRIDAY, account_id=f"account-{number:03}", percent=percent, paper=("win", "1"))
        for number in range(MOST_GROUPS + 5)
        for percent in ([40, 50] if number >= 5 else [40])
    ]
    await keep(owner, forecasts)

    read = await activity(pool, group_by=GroupBy.ACCOUNT)

    assert read.groups is not None
    assert list(read.groups) == [f"account-{number:03}" for number in range(5, MOST_GROUPS + 5)]
    assert read.groups_left_out == 5
    assert read.overall.tally.counts.resolved == len(forecasts)


async def test_the_usual_question_reads_neither_decisions_forecasts_nor_detailed_counts(
    pool: ConnectionPool, owner: Connection
) -> None:
    today = datetime.now(UTC).date()
    await keep(
        owner,
        [Foretold(day=today - timedelta(n % 20), percent=1 + n % 99, paper=("win", "1")) for n in range(3_000)],
        [Decided(day=today - timedelta(n)) for n in range(20)],
    )

    before = await _rows_read(owner)
    await read_calibration(pool, Scope(accounts=None, window=Window()), forecast=ForecastKind.P_WIN)
    await pool.close()
    read = await _rows_read(owner) - before

    rollups = {"calibration_daily", "calibration_sums"}
    assert {table for table, rows in read.items() if rows} == rollups | {"outcome_sums", "decision_counts"}


async def _rows_read(owner: Connection) -> Counter[str]:
    await owner.execute("SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()")
    rows = await owner.fetch(
        "SELECT relname, seq_tup_read + coalesce(idx_tup_fetch, 0) AS rows FROM pg_stat_user_tables"
    )
    return Counter({row["relname"]: row["rows"] for row in rows})


async def test_a_store_that_is_away_cannot_be_read(pool: ConnectionPool) -> None:
    await pool.close()

    for read in _questions(pool):
        with pytest.raises(StoreUnavailable):
            await read()


def _questions(pool: ConnectionPool) -> list[Callable[[], Any]]:
    scope = Scope(accounts=None, window=Window())
    return [
        lambda: read_calibration(pool, scope, forecast=ForecastKind.P_WIN),
        lambda: read_setups(pool, scope),
        lambda: read_gates(pool, scope),
    ]


async def test_a_reading_writes_nothing_and_ends_its_transaction(pool: ConnectionPool, owner: Connection) -> None:
    async with statistics._reading(pool, Scope(accounts=None, window=Window()), detailed=True) as reading:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reading._connection.execute("INSERT INTO paper_bars VALUES ('a', 'B', 60, now(), 1, 1, 1, 1)")
        await reading._connection.execute("ROLLBACK")
    for read in _questions(pool):
        await read()

    states = await owner.fetch(
        "SELECT DISTINCT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert [row["state"] for row in states] == ["idle"]
