"""Keep snapshots of every decider's calibration, and read what they are computed from.

One writer among all replicas appends them; every replica shows the latest of each decider and window.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, TypeAlias

import asyncpg
import orjson

from app.db.engine import Connection
from app.db.statistics import LABELS, Source
from app.domain.calibration import CalibrationVerdict, Report
from app.domain.outcome import ForecastKind, OutcomeClass
from app.domain.tally import ClassCounts, DaySums, PercentSums, Tally

WINDOWS: Final = (30, 60, 90)
"""How many UTC days a snapshot looks back, the database's today included."""
LONGEST: Final = max(WINDOWS)

Series: TypeAlias = tuple[str, int]
"""A decider and a window in days."""
Forecasts: TypeAlias = tuple[str, ForecastKind]
"""The forecasts of one kind of a decider."""

# A walk from one decider and window to the next: the table grows with time, its keys do not.
_READ_LATEST: Final = """
WITH RECURSIVE series AS (
    (SELECT decider, window_days FROM calibration_metrics ORDER BY decider, window_days LIMIT 1)
    UNION ALL
    SELECT next.decider, next.window_days FROM series CROSS JOIN LATERAL (
        SELECT decider, window_days FROM calibration_metrics
        WHERE (decider, window_days) > (series.decider, series.window_days)
        ORDER BY decider, window_days LIMIT 1
    ) AS next
)
SELECT latest.* FROM series CROSS JOIN LATERAL (
    SELECT
        metrics_id, computed_at, window_days, decider, forecast, resolved, pending, brier, slope,
        (report ->> 'slope_t')::float8 AS slope_t, calibration_error, calibration_error_t, e_value, verdict,
        coalesce((report ->> 'rejected')::boolean, false) AS rejected, derated, outcome_sequence
    FROM calibration_metrics
    WHERE decider = series.decider AND window_days = series.window_days
    ORDER BY metrics_id DESC LIMIT 1
) AS latest
"""
_APPEND: Final = """
INSERT INTO calibration_metrics (
    window_days, decider, forecast, resolved, pending, brier, slope, calibration_error, calibration_error_t, e_value,
    verdict, derated, report, outcome_sequence
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
"""
_READ_MOMENT: Final = """
SELECT
    (statement_timestamp() AT TIME ZONE 'UTC')::date AS today,
    (SELECT coalesce(max(sequence), 0) FROM decision_events WHERE event = 'outcome') AS outcome_sequence
"""
_SUMS: Final = ", ".join(
    f"sum({name})::bigint AS {name}, sum({name} * percent)::bigint AS {name}_percents, "
    f"sum({name} * percent * percent)::bigint AS {name}_squares"
    for name in OutcomeClass
)
# Rows of days and rows of percents, from one reading of the window.
_READ_TALLIES: Final = f"""
SELECT decider, forecast, day, percent, {_SUMS}
FROM calibration_daily
WHERE day > $1::date - $2::int AND day <= $1 AND source = ANY ($3) AND forecast = ANY ($4)
GROUP BY GROUPING SETS ((decider, forecast, day), (decider, forecast, percent))
HAVING sum(win + loss + scratch + timeout) > 0
ORDER BY decider, forecast, day, percent
"""  # noqa: S608 (constants only)
_COUNT_PENDING: Final = """
SELECT decider, count(*) AS pending FROM forecasts
WHERE paper_state = 'pending' AND executed_outcome IS NULL AND day > $1::date - $2::int AND day <= $1
GROUP BY decider
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Hold how calibrated a decider was over a window, as of an outcome event; figures are None where unknown.

    `forecast` is the kind that its edge and size use. `derated` is of the decider, and the same for all windows.
    """

    window_days: int
    decider: str
    forecast: ForecastKind
    resolved: int
    pending: int
    brier: float | None
    slope: float | None
    slope_t: float | None
    calibration_error: float | None
    calibration_error_t: float | None
    e_value: float | None
    verdict: CalibrationVerdict
    rejected: bool
    derated: bool
    outcome_sequence: int

    def same_figures(self, other: "Snapshot") -> bool:
        """Tell whether it says what another one says, whenever they were taken."""
        return dataclasses.replace(self, outcome_sequence=0) == dataclasses.replace(other, outcome_sequence=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSnapshot:
    """Hold a snapshot as stored, with its number and when it was taken."""

    metrics_id: int
    computed_at: datetime
    snapshot: Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Hold the database's UTC date, and the last outcome event that had been recorded (0: none yet)."""

    today: date
    outcome_sequence: int


def snapshot_of(
    report: Report,
    *,
    window_days: int,
    decider: str,
    forecast: ForecastKind,
    pending: int,
    derated: bool,
    outcome_sequence: int,
) -> Snapshot:
    """Take from a report what is shown of it all the time."""
    return Snapshot(
        window_days=window_days,
        decider=decider,
        forecast=forecast,
        resolved=report.counts.resolved,
        pending=pending,
        brier=report.brier,
        slope=report.slope,
        slope_t=report.slope_t,
        calibration_error=report.calibration_error,
        calibration_error_t=report.calibration_error_t,
        e_value=report.e_value,
        verdict=report.verdict,
        rejected=report.rejected,
        derated=derated,
        outcome_sequence=outcome_sequence,
    )


async def latest_snapshots(connection: Connection) -> dict[Series, StoredSnapshot]:
    """Read the latest snapshot of each decider and window."""
    return {(row["decider"], row["window_days"]): _stored(row) for row in await connection.fetch(_READ_LATEST)}


async def append_snapshot(connection: Connection, snapshot: Snapshot, *, report: Report) -> None:
    """Store a snapshot with the whole report that it was taken from."""
    await connection.execute(
        _APPEND,
        snapshot.window_days,
        snapshot.decider,
        snapshot.forecast,
        snapshot.resolved,
        snapshot.pending,
        snapshot.brier,
        snapshot.slope,
        snapshot.calibration_error,
        snapshot.calibration_error_t,
        snapshot.e_value,
        snapshot.verdict,
        snapshot.derated,
        orjson.dumps(report).decode(),
        snapshot.outcome_sequence,
    )


async def read_moment(connection: Connection) -> Moment:
    """Read which day it is, and the last outcome event.

    Outcomes that move counts commit in the order of their numbers, so a number that did not change means that the
    counts did not.
    """
    row = await connection.fetchrow(_READ_MOMENT)
    assert row is not None  # noqa: S101 (a SELECT without FROM)
    return Moment(**row)


async def read_tallies(
    connection: Connection, *, today: date, days: int, timeout_s: float | None = None
) -> dict[Forecasts, Tally]:
    """Tally p_win, stated and calibrated, of every decider over the last `days` UTC days; each label counts once."""
    kinds = [ForecastKind.P_WIN, ForecastKind.P_WIN_CALIBRATED]
    by_percent: defaultdict[Forecasts, dict[int, ClassCounts]] = defaultdict(dict)
    by_day: defaultdict[Forecasts, list[DaySums]] = defaultdict(list)
    for row in await connection.fetch(_READ_TALLIES, today, days, list(LABELS[Source.ALL]), kinds, timeout=timeout_s):
        forecasts = row["decider"], ForecastKind(row["forecast"])
        if row["day"] is None:
            by_percent[forecasts][row["percent"]] = ClassCounts(**{name: row[name] for name in OutcomeClass})
        else:
            sums = {
                name: PercentSums(n=row[name], percents=row[f"{name}_percents"], squares=row[f"{name}_squares"])
                for name in OutcomeClass
            }
            by_day[forecasts].append(DaySums(day=row["day"], **sums))
    return {
        forecasts: Tally(by_percent=counts, by_day=tuple(by_day[forecasts])) for forecasts, counts in by_percent.items()
    }


async def count_pending(
    connection: Connection, *, today: date, days: int, timeout_s: float | None = None
) -> Mapping[str, int]:
    """Count by decider the forecasts of the last `days` UTC days of which nothing has come yet."""
    return {
        row["decider"]: row["pending"] for row in await connection.fetch(_COUNT_PENDING, today, days, timeout=timeout_s)
    }


def _stored(row: asyncpg.Record) -> StoredSnapshot:
    values: dict[str, Any] = dict(row)
    kept = {name: values.pop(name) for name in ("metrics_id", "computed_at")}
    values["forecast"] = ForecastKind(values["forecast"])
    values["verdict"] = CalibrationVerdict(values["verdict"])
    return StoredSnapshot(snapshot=Snapshot(**values), **kept)
