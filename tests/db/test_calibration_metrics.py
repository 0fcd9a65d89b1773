"""Snapshots of calibration are kept, the latest of each decider and window is read, and they say what counts say."""

import dataclasses
from datetime import date, timedelta
from typing import Any

import orjson
import pytest

from app.db.calibration_metrics import (
    LONGEST,
    WINDOWS,
    Moment,
    Snapshot,
    append_snapshot,
    count_pending,
    latest_snapshots,
    read_moment,
    read_tallies,
    snapshot_of,
)
from app.db.engine import Connection, ConnectionPool
from app.db.operations import Store
from app.db.statistics import GroupBy, Scope, Window, read_calibration
from app.domain.calibration import Report, calibration_report
from app.domain.outcome import ForecastKind, OutcomeClass
from app.domain.tally import Tally
from tests.db.builders import decision, stored
from tests.ledger import HAIKU, Foretold, keep

TODAY = date(2026, 3, 31)
WIN, LOSS = ("win", "2"), ("loss", "-1")


def a_report(wins: int = 33, losses: int = 27) -> Report:
    """A report on 60 % on three days; without wins and losses, on nothing."""
    cells = [
        (TODAY - timedelta(days=number % 3), 60, outcome, 1)
        for outcome, count in ((OutcomeClass.WIN, wins), (OutcomeClass.LOSS, losses))
        for number in range(count)
    ]
    return calibration_report(Tally.of(cells))


def a_snapshot(report: Report, **changes: Any) -> Snapshot:
    known = {"window_days": 30, "decider": HAIKU, "forecast": ForecastKind.P_WIN, "pending": 7, "derated": False}
    return snapshot_of(report, **{**known, "outcome_sequence": 12, **changes})


async def kept(connection: Connection, **changes: Any) -> Snapshot:
    report = a_report()
    snapshot = a_snapshot(report, **changes)
    await append_snapshot(connection, snapshot, report=report)
    return snapshot


async def test_there_are_no_snapshots_at_first(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        assert await latest_snapshots(connection) == {}


async def test_the_latest_snapshot_of_each_decider_and_window_is_read_to_the_last_bit(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        for decider in ("rules", HAIKU):
            for window_days in WINDOWS:
                await kept(connection, decider=decider, window_days=window_days, pending=1)
        newest = [
            await kept(connection, window_days=LONGEST, derated=True),
            await kept(connection, decider="rules", forecast=ForecastKind.P_WIN_CALIBRATED, outcome_sequence=13),
        ]
        found = {series: of.snapshot for series, of in (await latest_snapshots(connection)).items()}

    assert found.keys() == {(decider, days) for decider in ("rules", HAIKU) for days in WINDOWS}
    assert [found[HAIKU, LONGEST], found["rules", 30]] == newest
    assert {found[series].pending for series in found.keys() - {(HAIKU, LONGEST), ("rules", 30)}} == {1}


async def test_figures_that_are_not_known_are_null_and_not_0(pool: ConnectionPool) -> None:
    report = a_report(wins=0, losses=0)
    async with pool.connection() as connection:
        await append_snapshot(connection, a_snapshot(report), report=report)
        row = await connection.fetchrow("SELECT * FROM calibration_metrics")
        [found] = (await latest_snapshots(connection)).values()

    assert row is not None
    assert {row[name] for name in ("brier", "slope", "calibration_error", "calibration_error_t", "e_value")} == {None}
    assert (row["resolved"], row["verdict"]) == (0, "insufficient")
    assert found.snapshot == a_snapshot(report)


async def test_a_row_holds_the_whole_report(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        await kept(connection)
        report = orjson.loads(await connection.fetchval("SELECT report::text FROM calibration_metrics"))

    assert report.keys() == {field.name for field in dataclasses.fields(Report)}
    assert (report["counts"]["resolved"], report["verdict"]) == (60, "calibrated")
    assert report["brier"] == a_report().brier


@pytest.mark.parametrize("change", [{"pending": 8}, {"derated": True}, {"forecast": ForecastKind.P_WIN_CALIBRATED}])
def test_snapshots_are_told_apart_by_what_they_say(change: dict[str, Any]) -> None:
    snapshot = a_snapshot(a_report())

    assert not snapshot.same_figures(dataclasses.replace(snapshot, **change))
    assert not snapshot.same_figures(a_snapshot(a_report(wins=34)))
    assert snapshot.same_figures(dataclasses.replace(snapshot, outcome_sequence=99))


async def test_the_moment_is_the_day_and_the_last_outcome_and_no_other_event(
    pool: ConnectionPool, owner: Connection
) -> None:
    record = await stored(Store(pool), decision())
    insert = (
        "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)"
        " VALUES ($1, $2, 'paper-1', 'paper', $2, now(), '{}') RETURNING sequence"
    )
    async with pool.connection() as connection:
        before = await read_moment(connection)
        outcome = await owner.fetchval(insert, record.decision_id, "outcome")
        await owner.fetchval(insert, record.decision_id, "acknowledged")
        after = await read_moment(connection)
        today = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")

    assert before == Moment(today=today, outcome_sequence=0)
    assert after == Moment(today=today, outcome_sequence=outcome)


async def test_a_window_of_30_days_ends_today_and_holds_30_of_them(pool: ConnectionPool, owner: Connection) -> None:
    days = {percent: TODAY - timedelta(days=back) for percent, back in ((10, 0), (20, 29), (30, 30), (40, -1))}
    await keep(owner, [Foretold(day=day, percent=percent, paper=LOSS) for percent, day in days.items()])
    await keep(owner, [Foretold(day=day) for day in days.values()])
    async with pool.connection() as connection:
        tallies = await read_tallies(connection, today=TODAY, days=30)
        pending = await count_pending(connection, today=TODAY, days=30)

    assert list(tallies[HAIKU, ForecastKind.P_WIN].by_percent) == [10, 20]
    assert pending == {HAIKU: 2}


async def test_a_forecast_that_was_never_entered_is_not_waited_for(pool: ConnectionPool, owner: Connection) -> None:
    await keep(owner, [Foretold(day=TODAY), Foretold(day=TODAY, executed=WIN), Foretold(day=TODAY, decider="rules")])
    await owner.execute("UPDATE forecasts SET paper_state = 'unfilled' WHERE decider = 'rules'")
    async with pool.connection() as connection:
        assert await count_pending(connection, today=TODAY, days=30) == {HAIKU: 1}


@pytest.mark.parametrize("kind", [ForecastKind.P_WIN, ForecastKind.P_WIN_CALIBRATED])
async def test_tallies_are_those_that_a_request_is_answered_from(
    pool: ConnectionPool, owner: Connection, kind: ForecastKind
) -> None:
    await keep(
        owner,
        [
            Foretold(
                day=TODAY - timedelta(days=number % 40),
                decider=("rules", HAIKU)[number % 2],
                account_id=f"paper-{number % 3}",
                percent=30 + number % 50,
                calibrated=(None, 44, 45)[number % 3],
                paper=(WIN, LOSS, None)[number % 3 if number % 7 else 0],
                executed=(None, None, None, LOSS, WIN)[number % 5],
            )
            for number in range(400)
        ],
    )
    window = Window(first=TODAY - timedelta(days=29), last=TODAY)
    statistics = await read_calibration(
        pool, Scope(accounts=None, window=window), forecast=kind, group_by=GroupBy.DECIDER
    )
    async with pool.connection() as connection:
        tallies = await read_tallies(connection, today=TODAY, days=30)
        pending = await count_pending(connection, today=TODAY, days=30)

    assert statistics.groups is not None
    assert {decider: record.tally for decider, record in statistics.groups.items()} == {
        decider: tally for (decider, of), tally in tallies.items() if of is kind
    }
    assert {decider: record.pending for decider, record in statistics.groups.items()} == pending
