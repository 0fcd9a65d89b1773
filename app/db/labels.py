"""Give forecasts their labels, and move the sufficient statistics by what that changes.

Whoever labels holds the forecast's account, as a decision does, so a label is changed by one transaction at a
time. The rollup is shared between accounts: `LABEL_LOCK`, taken last and held to the end, orders the changes of
all accounts, which keeps them free of deadlocks.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from uuid_utils import uuid7

from app.db.engine import Connection
from app.db.locks import LABEL_LOCK
from app.db.vocabulary import NotedEvent
from app.domain.lifecycle import Event
from app.domain.outcome import ForecastKind, Outcome, OutcomeClass, Plan, executed_outcome, holding_s
from app.domain.proposal import Direction, EntryType
from app.domain.scoring import Contribution, Labels, contribution
from app.domain.tally import bucket_of
from app.domain.triple_barrier import PaperLabel, PaperState

_COLUMNS: Final = """
decision_id, account_id, mode, day, decider, prompt_hash, setup, symbol, direction, blocked_by, p_win_percent,
p_win_calibrated_percent, conviction, ev_r, entry_type, entry, stop, target, cost_usd, as_of, time_stop_at,
paper_state, paper_outcome, paper_r, paper_entered_at, paper_exit_at, paper_exit_price, executed_outcome, executed_r,
executed_entered_at, executed_exit_at, executed_exit_price, realized_usd, fees_usd
"""
READ_FORECASTS: Final = f"SELECT {_COLUMNS} FROM forecasts WHERE "  # noqa: S608 (constants only)
_READ_ONE: Final = READ_FORECASTS + "decision_id = $1"
_CLASSES: Final = tuple(str(name) for name in OutcomeClass)
_SUMS: Final = (*_CLASSES, *(f"r_{name}" for name in _CLASSES), "r_squares", "ev_n", "ev", "ev_r")
_GATES: Final = ("resolved", "won", "r")
_LABEL: Final = ("outcome", "r_multiple", "entered_at", "exit_at", "exit_price")
_MOVE_PERCENTS: Final = ", ".join(
    f"{name}{of} = sums.{name}{of} + cell.{name}{times}"
    for name in _CLASSES
    for of, times in (("", ""), ("_percents", " * percent"), ("_squares", " * percent * percent"))
)

# The rows must be there before they are changed: an upsert would be refused, for a CHECK is asked of the row as
# proposed, and a step down proposes less than nothing.
_MAKE_COUNTS: Final = """
WITH cell AS (
    SELECT * FROM unnest($7::text[], $8::text[], $9::smallint[], $10::smallint[])
        AS cell (source, forecast, percent, lower)
), daily AS (
    INSERT INTO calibration_daily (day, decider, source, forecast, percent)
    SELECT $1, $3, source, forecast, percent FROM cell ON CONFLICT DO NOTHING
), percents AS (
    INSERT INTO calibration_sums (day, decider, source, forecast, lower)
    SELECT $1, $3, source, forecast, lower FROM cell ON CONFLICT DO NOTHING
), sums AS (
    INSERT INTO outcome_sums (day, account_id, decider, setup, direction, source)
    SELECT DISTINCT $1::date, $2, $3, $5, $6, source FROM cell ON CONFLICT DO NOTHING
)
INSERT INTO calibration_counts (day, account_id, decider, prompt_hash, setup, direction, source, forecast, percent)
SELECT $1, $2, $3, $4, $5, $6, source, forecast, percent FROM cell ON CONFLICT DO NOTHING
"""
# A forecast has one percent of each kind, so that no two cells are of one bucket.
_MOVE_COUNTS: Final = f"""
WITH cell AS (
    SELECT * FROM unnest(
        $7::text[], $8::text[], $9::smallint[], $10::smallint[], $11::bigint[], $12::bigint[], $13::bigint[],
        $14::bigint[]
    ) AS cell (source, forecast, percent, lower, win, loss, scratch, timeout)
), percents AS (
    UPDATE calibration_sums AS sums SET {_MOVE_PERCENTS}
    FROM cell WHERE sums.day = $1 AND sums.decider = $3 AND sums.source = cell.source
        AND sums.forecast = cell.forecast AND sums.lower = cell.lower
), daily AS (
    UPDATE calibration_daily AS count SET
        win = count.win + cell.win, loss = count.loss + cell.loss,
        scratch = count.scratch + cell.scratch, timeout = count.timeout + cell.timeout
    FROM cell WHERE count.day = $1 AND count.decider = $3 AND count.source = cell.source
        AND count.forecast = cell.forecast AND count.percent = cell.percent
)
UPDATE calibration_counts AS count SET
    win = count.win + cell.win, loss = count.loss + cell.loss,
    scratch = count.scratch + cell.scratch, timeout = count.timeout + cell.timeout
FROM cell WHERE count.day = $1 AND count.account_id = $2 AND count.decider = $3 AND count.prompt_hash = $4
    AND count.setup = $5 AND count.direction = $6 AND count.source = cell.source
    AND count.forecast = cell.forecast AND count.percent = cell.percent
"""  # noqa: S608 (constants only)
_MOVE_SUMS: Final = f"""
UPDATE outcome_sums SET {", ".join(f"{name} = {name} + ${number}" for number, name in enumerate(_SUMS, start=7))}
WHERE day = $1 AND account_id = $2 AND decider = $3 AND setup = $4 AND direction = $5 AND source = $6
"""  # noqa: S608 (constants only)
_MOVE_GATES: Final = """
UPDATE gate_sums SET resolved = resolved + $5, won = won + $6, r = r + $7
WHERE day = $1 AND account_id = $2 AND decider = $3 AND code = ANY ($4)
"""
# A forecast outlives a decision that retention has removed, and is labelled all the same, without an event.
_WRITE_LABELS: Final = """
WITH event AS (
    INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)
    SELECT $1, $15::text, $16::text, $17::text, $18::text, coalesce($19::timestamptz, clock_timestamp()), $20::json
    WHERE EXISTS (SELECT FROM llm_decisions WHERE decision_id = $1)
)
UPDATE forecasts SET
    paper_state = $2::text, paper_outcome = $3::text, paper_r = $4, paper_entered_at = $5, paper_exit_at = $6,
    paper_exit_price = $7, executed_outcome = $8::text, executed_r = $9, executed_entered_at = $10,
    executed_exit_at = $11, executed_exit_price = $12, realized_usd = $13, fees_usd = $14
WHERE decision_id = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForecast:
    """Hold a forecast as it is stored, with its present labels; `percents` are whole percent by kind."""

    decision_id: UUID
    account_id: str
    mode: str
    day: date
    decider: str
    prompt_hash: str
    setup: str
    symbol: str
    blocked_by: tuple[str, ...]
    percents: Mapping[ForecastKind, int]
    plan: Plan
    labels: Labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Hold what an executed forecast brought, beside the expected value it had, R (None where it had none)."""

    outcome: Outcome
    predicted_r: Decimal | None


async def executed_result(
    connection: Connection, *, decision_id: UUID, quantity: int, events: Sequence[Event], label: bool = True
) -> Result | None:
    """Compute what a closed ticket's events tell of its forecast, and make that the forecast's label.

    `quantity` is the ticket's, whole shares; `events` are those of the decision, in the order of their arrival. The
    transaction holds the account. None while the ticket is open, and for a decision that foretold nothing.
    """
    row = await connection.fetchrow(_READ_ONE, decision_id)
    if row is None:
        return None
    forecast = stored_forecast(row)
    executed = executed_outcome(plan=forecast.plan, events=events, ticket_quantity=quantity)
    if label:
        await relabel(connection, forecast, dataclasses.replace(forecast.labels, executed=executed))
    return None if executed is None else Result(outcome=executed, predicted_r=forecast.plan.ev_r)


async def relabel(connection: Connection, forecast: StoredForecast, labels: Labels) -> bool:
    """Give a forecast these labels and move the statistics by the difference; tell whether anything changed.

    The transaction holds the account, so that `forecast` is what is stored now.
    """
    if labels == forecast.labels:
        return False
    change = _contribution(forecast, labels) - _contribution(forecast, forecast.labels)
    if change:
        await _move(connection, forecast, change)
    paper, executed = labels.paper.outcome, labels.executed
    await connection.execute(
        _WRITE_LABELS,
        forecast.decision_id,
        labels.paper.state,
        *_values(paper, *_LABEL),
        *_values(executed, *_LABEL, "realized_usd", "fees_usd"),
        f"{NotedEvent.OUTCOME}:{uuid7()}",
        forecast.account_id,
        forecast.mode,
        NotedEvent.OUTCOME,
        _told_at(labels, forecast.labels),
        orjson.dumps(labels, default=str).decode(),
    )
    return True


def _contribution(forecast: StoredForecast, labels: Labels) -> Contribution:
    return contribution(percents=forecast.percents, ev_r=forecast.plan.ev_r, labels=labels)


async def _move(connection: Connection, forecast: StoredForecast, change: Contribution) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LABEL_LOCK)
    key = (forecast.day, forecast.account_id, forecast.decider)
    kept = (*key, forecast.prompt_hash, forecast.setup, forecast.plan.direction)
    cells = sorted({(source, kind, percent, bucket_of(percent)) for source, kind, percent, _ in change.counts})
    if cells:
        names = tuple(list(column) for column in zip(*cells, strict=True))
        steps = [[change.counts.get((*cell[:3], name), 0) for cell in cells] for name in OutcomeClass]
        await connection.execute(_MAKE_COUNTS, *kept, *names)
        await connection.execute(_MOVE_COUNTS, *kept, *names, *steps)
    for source in sorted({source for source, _ in change.sums}):
        steps_of_r = [change.sums.get((source, column), Decimal(0)) for column in _SUMS]
        await connection.execute(_MOVE_SUMS, *key, forecast.setup, forecast.plan.direction, source, *steps_of_r)
    if change.blocked and forecast.blocked_by:
        steps_of_gates = [change.blocked.get(column, Decimal(0)) for column in _GATES]
        await connection.execute(_MOVE_GATES, *key, list(forecast.blocked_by), *steps_of_gates)


def _told_at(labels: Labels, before: Labels) -> datetime | None:
    """Say when what is new came true, by the reporter's clock or the bars'."""
    changed = labels.executed if labels.executed != before.executed else labels.paper.outcome
    return None if changed is None else changed.exit_at


def _values(outcome: Outcome | None, *fields: str) -> list[object]:
    return [None if outcome is None else getattr(outcome, field) for field in fields]


def stored_forecast(row: asyncpg.Record) -> StoredForecast:
    """Read a row of `READ_FORECASTS`."""
    percents = {ForecastKind.P_WIN: row["p_win_percent"], ForecastKind.CONVICTION: row["conviction"]}
    if row["p_win_calibrated_percent"] is not None:
        percents[ForecastKind.P_WIN_CALIBRATED] = row["p_win_calibrated_percent"]
    plan = Plan(
        direction=Direction(row["direction"]),
        entry_type=EntryType(row["entry_type"]),
        entry=row["entry"],
        stop=row["stop"],
        target=row["target"],
        cost_usd=row["cost_usd"],
        as_of=row["as_of"],
        time_stop_at=row["time_stop_at"],
        ev_r=row["ev_r"],
    )
    kept: dict[str, Any] = {
        name: row[name]
        for name in ("decision_id", "account_id", "mode", "day", "decider", "prompt_hash", "setup", "symbol")
    }
    return StoredForecast(
        **kept, blocked_by=tuple(row["blocked_by"]), percents=percents, plan=plan, labels=_labels(row)
    )


def _labels(row: asyncpg.Record) -> Labels:
    paper = PaperLabel(state=PaperState(row["paper_state"]), outcome=_outcome(row, "paper"))
    executed = _outcome(row, "executed")
    if executed is not None:
        executed = dataclasses.replace(executed, realized_usd=row["realized_usd"], fees_usd=row["fees_usd"])
    return Labels(paper=paper, executed=executed)


def _outcome(row: asyncpg.Record, label: str) -> Outcome | None:
    if row[f"{label}_outcome"] is None:
        return None
    entered_at, exit_at = row[f"{label}_entered_at"], row[f"{label}_exit_at"]
    return Outcome(
        outcome=OutcomeClass(row[f"{label}_outcome"]),
        r_multiple=row[f"{label}_r"],
        exit_at=exit_at,
        exit_price=row[f"{label}_exit_price"],
        entered_at=entered_at,
        holding_s=None if entered_at is None else holding_s(entered_at=entered_at, exit_at=exit_at),
    )
