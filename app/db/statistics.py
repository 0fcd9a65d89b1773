"""Read what calibration is computed from: counts and sums that were kept as outcomes arrived.

No decision and no resolved forecast is read, however many there are. The database adds up: of each group travel one
row per whole percent and one per day. The usual question (every account, and no group but by decider) is answered from
the rollups `calibration_daily` and, without groups, `calibration_sums`: percents are added up from the one, days and
buckets of conviction from the other, whose few rows a day are as many in a store of any size. Any other question is
answered from `calibration_counts`, which is as fine as its keys, so it may take longer and only `DETAILED_AT_ONCE` of
them run at a time in one process: the other connections are for decisions.

Everything that one answer is made of is one reading of the store, by one transaction.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg

from app.db.engine import Connection, ConnectionPool, StoreUnavailable
from app.domain.gate_effects import BlockedForecasts
from app.domain.gates import Code
from app.domain.outcome import ForecastKind, LabelSource, OutcomeClass
from app.domain.proposal import Mode, ModelFailure, Setup
from app.domain.setups import SetupSums
from app.domain.tally import BucketSums, ClassCounts, DaySums, PercentSums, Tally, bucket_sums
from app.domain.verdict import Verdict

STATEMENT_S: Final = 10.0
"""How long one statement may take: over years and by detailed keys there is much to add up."""
UNANSWERED_S: Final = STATEMENT_S + 1
DETAILED_AT_ONCE: Final = 2
MOST_GROUPS: Final = 100
"""Of more groups than this, those with the most resolved forecasts are told."""
MOST_DAYS: Final = 3650
NO_REPLY: Final = (ModelFailure.TIMEOUT, ModelFailure.UNAVAILABLE)
UNREADABLE: Final = (ModelFailure.INVALID, ModelFailure.TRUNCATED, ModelFailure.REFUSED)
LIQUIDITY_CODES: Final = (
    Code.ILLIQUID,
    Code.SPREAD_TOO_WIDE,
    Code.MISSING_ADV,
    Code.MISSING_SPREAD,
    "SIZE_ADV_PARTICIPATION",
)
CORRELATION_CODES: Final = ("SIZE_BUCKET",)
"""What moves together shares a bucket: its cap is what keeps positions from being one bet."""


class Source(StrEnum):
    """Choose the labels that count: of all, the executed one of a forecast where there is one, else its paper one."""

    EXECUTED = "executed"
    PAPER = "paper"
    ALL = "all"


LABELS: Final[Mapping[Source, tuple[LabelSource, ...]]] = MappingProxyType(
    {
        Source.EXECUTED: (LabelSource.EXECUTED,),
        Source.PAPER: (LabelSource.PAPER, LabelSource.PAPER_OF_EXECUTED),
        Source.ALL: (LabelSource.EXECUTED, LabelSource.PAPER),
    }
)
"""The stored labels of each choice: at most one of each forecast."""


class GroupBy(StrEnum):
    """Name what a record can be split by."""

    DECIDER = "decider"
    PROMPT = "prompt"
    SETUP = "setup"
    DIRECTION = "direction"
    ACCOUNT = "account"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Say which UTC days of `as_of` are wanted: `first` to `last`, or the last `days` up to the database's today."""

    days: int = 30
    first: date | None = None
    last: date | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Hold the UTC days that a window came to, both ends included."""

    first: date
    last: date

    @property
    def days(self) -> int:
        """Count the days."""
        return (self.last - self.first).days + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Say whose record is wanted: of which accounts (None: of all), over which window, by which labels."""

    accounts: Collection[str] | None
    window: Window
    source: Source = Source.ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Count sessions (weekdays of one account on which it asked), those with an approved trade, and replies."""

    sessions: int = 0
    sessions_traded: int = 0
    replies: int = 0
    replies_parsed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvSums:
    """Hold the expected values of the resolved forecasts that had one, and what these brought, R."""

    n: int = 0
    predicted_r: Decimal = Decimal(0)
    realized_r: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """Hold all that a report of one group is made of; None is what is not kept by the key of the groups.

    `tally` is of the forecast asked for, `convictions` sums stated conviction. `pending` forecasts wait for their first
    label. Breaches are approved forecasts that a gate of the kind had blocked: there are none.
    """

    tally: Tally
    convictions: tuple[BucketSums, ...]
    pending: int = 0
    liquidity_violations: int = 0
    correlation_breaches: int = 0
    activity: Activity | None = None
    ev: EvSums | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationStatistics:
    """Hold the whole record and, where groups were asked for, each one's by its key, the largest first."""

    period: Period
    overall: CalibrationRecord
    groups: Mapping[str, CalibrationRecord] | None
    groups_left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupStatistics:
    """Hold the results of each setup of which a forecast is resolved."""

    period: Period
    setups: tuple[SetupSums, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCount:
    """Count the decisions that ended alike."""

    action: Mode
    verdict: Verdict
    reason_code: str | None
    decisions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStatistics:
    """Hold how decisions ended, and what each code blocked, the most often blocking first."""

    period: Period
    decisions: tuple[DecisionCount, ...]
    codes: Mapping[str, BlockedForecasts]


_COLUMNS: Final = MappingProxyType(
    {
        GroupBy.DECIDER: "decider",
        GroupBy.PROMPT: "prompt_hash",
        GroupBy.SETUP: "setup",
        GroupBy.DIRECTION: "direction",
        GroupBy.ACCOUNT: "account_id",
    }
)
_UNGROUPED: Final = "NULL::text"
_Key: TypeAlias = str | None
"""The key of a group; None stands for all together."""
_CLASSES: Final = tuple(name.value for name in OutcomeClass)
# Rows are many and each is small: floats add them up in half the time, and are exact to 2^53.
_RESOLVED: Final = " + ".join(f"sum({name}::float8)" for name in _CLASSES)
_DETAILED: WeakKeyDictionary[ConnectionPool, asyncio.Semaphore] = WeakKeyDictionary()

# In the words of the index `forecasts_breaching`.
_BREACHING: Final = "verdict IN ('approved', 'resized') AND cardinality(blocked_by) > 0"
_BEGIN: Final = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = '{STATEMENT_S:.0f}s'"
# Few rows come of many: hashing them takes less time than sorting, which a plan made for any question prefers.
_BEGIN_USUAL: Final = f"{_BEGIN}; SET LOCAL enable_sort = off"
# Where much is to be added up, a plan made for the very question pays; and hashing a million counts needs no disk.
_BEGIN_DETAILED: Final = f"{_BEGIN}; SET LOCAL plan_cache_mode = 'force_custom_plan'; SET LOCAL work_mem = '32MB'"
_TODAY: Final = "SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date"

# Everywhere $1 and $2 are the first and the last day, and the accounts, where not all are wanted, come last.
_IN_PERIOD: Final = "day BETWEEN $1 AND $2"


def _sums(of: str = "{}::float8") -> str:
    return ", ".join(f"sum({of.format(name)})::bigint" for name in _CLASSES)


def _listed(codes: Iterable[str]) -> str:
    return ", ".join(f"'{code}'" for code in codes)


_NAMED_SUMS: Final = ", ".join(f"sum({name})::bigint AS {name}" for name in _CLASSES)
_PERCENT_SUMS: Final = f"{_sums()}, {', '.join(['NULL::bigint'] * 2 * len(_CLASSES))}"
_KEPT_SUMS: Final = f"{_sums()}, {_sums('{}_percents::float8')}, {_sums('{}_squares::float8')}"
_DAY_SUMS: Final = f"{_sums()}, {_sums('{}::float8 * percent')}, {_sums('{}::float8 * percent * percent')}"

# A row per percent and one per day of the kind $4, which is the one that is scored; a row per bucket of conviction,
# which is $5.
_USUAL_TALLIES: Final = f"""
SELECT NULL::text, $4, percent, NULL::date, {_PERCENT_SUMS}, NULL::bigint FROM calibration_daily
WHERE {{where}} AND source = ANY ($3) AND forecast = $4
GROUP BY percent HAVING {_RESOLVED} > 0
UNION ALL
SELECT NULL, $4, NULL, day, {_KEPT_SUMS}, NULL FROM calibration_sums
WHERE {{where}} AND source = ANY ($3) AND forecast = $4
GROUP BY day HAVING {_RESOLVED} > 0
UNION ALL
SELECT NULL, NULL, lower, NULL, {_KEPT_SUMS}, NULL FROM calibration_sums
WHERE {{where}} AND source = ANY ($3) AND forecast = $5
GROUP BY lower HAVING {_RESOLVED} > 0
"""  # noqa: S608 (constants only)
# A row per kind of forecast and percent, and one per day of the kind $4.
_TALLIES: Final = f"""
SELECT NULL::text, forecast, percent, NULL::date, {_PERCENT_SUMS}, NULL::bigint FROM {{table}}
WHERE {{where}} AND source = ANY ($3) AND forecast IN ($4, $5)
GROUP BY forecast, percent HAVING {_RESOLVED} > 0
UNION ALL
SELECT NULL, $4, NULL, day, {_DAY_SUMS}, NULL FROM {{table}}
WHERE {{where}} AND source = ANY ($3) AND forecast = $4
GROUP BY day HAVING {_RESOLVED} > 0
"""  # noqa: S608 (constants only)
# The same of each group, and in the last column how many groups there are.
_GROUP_TALLIES: Final = f"""
WITH cell AS MATERIALIZED (
    SELECT {{key}} AS key, day, forecast, percent, {", ".join(f"sum({name}::float8) AS {name}" for name in _CLASSES)}
    FROM {{table}} WHERE {{where}} AND source = ANY ($3) AND forecast IN ($4, $5)
    GROUP BY key, day, forecast, percent HAVING {_RESOLVED} > 0
), kept AS MATERIALIZED (
    SELECT key, {_RESOLVED} AS resolved, count(*) OVER () AS keys FROM cell WHERE forecast = $4
    GROUP BY key ORDER BY resolved DESC, key LIMIT {MOST_GROUPS}
), tally AS (
    SELECT key, forecast, percent, NULL::date AS day, {_PERCENT_SUMS} FROM cell GROUP BY key, forecast, percent
    UNION ALL
    SELECT key, $4, NULL, day, {_DAY_SUMS} FROM cell WHERE forecast = $4 GROUP BY key, day
)
SELECT tally.*, keys FROM tally JOIN kept USING (key) ORDER BY resolved DESC, key
"""  # noqa: S608 (constants only)

# Parts of one statement, a row for each key: what it is of, the key, four counts and two sums.
_PENDING: Final = """
SELECT 'pending', {key} AS key, count(*), 0, 0, 0, 0::numeric, 0::numeric FROM forecasts
WHERE {where} AND paper_state = 'pending' AND executed_outcome IS NULL AND {foretold} GROUP BY key
"""
_FORETOLD: Final = MappingProxyType(
    {
        ForecastKind.P_WIN: "TRUE",
        ForecastKind.P_WIN_CALIBRATED: "p_win_calibrated_percent IS NOT NULL",
        ForecastKind.CONVICTION: "TRUE",
    }
)
"""Which forecasts made one of that kind: a calibrated one only while there was a calibrator."""
# The index of such forecasts is empty, and so is this.
_BREACHES: Final = f"""
SELECT
    'breaches', {{key}} AS key, count(*) FILTER (WHERE blocked_by && ARRAY[{_listed(LIQUIDITY_CODES)}]),
    count(*) FILTER (WHERE blocked_by && ARRAY[{_listed(CORRELATION_CODES)}]), 0, 0, 0, 0
FROM forecasts WHERE {{where}} AND {_BREACHING} GROUP BY key
"""  # noqa: S608 (constants only)
_ACTIVITY: Final = f"""
SELECT
    'activity', key, count(*) FILTER (WHERE weekday), count(*) FILTER (WHERE weekday AND traded),
    sum(replies)::bigint, sum(parsed)::bigint, 0, 0
FROM (
    SELECT
        {{key}} AS key, extract(isodow FROM day) < 6 AS weekday,
        bool_or(action = 'trade' AND verdict IN ('approved', 'resized')) AS traded,
        sum(CASE WHEN reason_code IN ({_listed(NO_REPLY)}) THEN 0 ELSE decisions END) AS replies,
        sum(CASE WHEN reason_code IN ({_listed((*NO_REPLY, *UNREADABLE))}) THEN 0 ELSE decisions END) AS parsed
    FROM decision_counts WHERE {{where}} GROUP BY key, day, account_id
) AS session GROUP BY key
"""  # noqa: S608 (constants only)
_EV: Final = """
SELECT 'ev', {key} AS key, sum(ev_n)::bigint, 0, 0, 0, sum(ev), sum(ev_r) FROM outcome_sums
WHERE {where} AND source = ANY ($3) GROUP BY key
"""
_ASIDE: Final[Mapping[str, Collection[GroupBy | None]]] = MappingProxyType(
    {
        _EV: (None, GroupBy.DECIDER, GroupBy.ACCOUNT, GroupBy.SETUP, GroupBy.DIRECTION),
        _ACTIVITY: (None, GroupBy.DECIDER, GroupBy.ACCOUNT),
        _PENDING: (None, *GroupBy),
        _BREACHES: (None, *GroupBy),
    }
)
"""What is told beside the tallies, and by which keys it is kept."""

_SETUPS: Final = f"""
WITH result AS (
    SELECT setup, {_NAMED_SUMS}, sum(r_win) AS r_win, sum(r_loss) AS r_loss,
        sum({" + ".join(f"r_{name}" for name in _CLASSES)}) AS r, sum(r_squares) AS r_squares
    FROM outcome_sums WHERE {{where}} AND source = ANY ($3) GROUP BY setup HAVING {_RESOLVED} > 0
), forecast AS (
    SELECT setup, sum(win + loss + scratch + timeout)::bigint AS forecasts,
        sum((win + loss + scratch + timeout) * percent)::bigint AS percents
    FROM calibration_counts WHERE {{where}} AND source = ANY ($3) AND forecast = 'p_win' GROUP BY setup
)
SELECT result.*, coalesce(forecasts, 0) AS forecasts, coalesce(percents, 0) AS percents
FROM result LEFT JOIN forecast USING (setup) ORDER BY setup
"""  # noqa: S608 (constants only)
_DECISIONS: Final = """
SELECT action, verdict, nullif(reason_code, '') AS reason_code, sum(decisions)::bigint AS decisions
FROM decision_counts WHERE {where} GROUP BY action, verdict, reason_code HAVING sum(decisions) > 0
ORDER BY decisions DESC, action, verdict, reason_code
"""
_CODES: Final = """
SELECT code, sum(blocked)::bigint AS blocked, sum(resolved)::bigint AS resolved, sum(won)::bigint AS won, sum(r) AS r
FROM gate_sums WHERE {where} GROUP BY code HAVING sum(blocked) > 0 ORDER BY blocked DESC, code
"""


async def read_calibration(
    pool: ConnectionPool, scope: Scope, *, forecast: ForecastKind, group_by: GroupBy | None = None
) -> CalibrationStatistics:
    """Read what a report on the forecasts of one kind is made of, and the same of each group.

    Raises:
        StoreUnavailable: the store cannot be read, or not in time.
    """
    detailed = scope.accounts is not None or group_by not in (None, GroupBy.DECIDER)
    async with _reading(pool, scope, detailed=detailed) as reading:
        overall, _ = await reading.records(forecast=forecast, group_by=None)
        groups, keys = ({}, 0) if group_by is None else await reading.records(forecast=forecast, group_by=group_by)
    return CalibrationStatistics(
        period=reading.period,
        overall=overall[None],
        groups=None if group_by is None else {key: record for key, record in groups.items() if key is not None},
        groups_left_out=keys - len(groups),
    )


async def read_setups(pool: ConnectionPool, scope: Scope) -> SetupStatistics:
    """Read the results of each setup.

    Raises:
        StoreUnavailable: the store cannot be read, or not in time.
    """
    async with _reading(pool, scope, detailed=True) as reading:
        rows = await reading.fetch(_SETUPS, reading.sources)
    return SetupStatistics(period=reading.period, setups=tuple(_setup(row) for row in rows))


async def read_gates(pool: ConnectionPool, scope: Scope) -> GateStatistics:
    """Read how decisions ended and what each code blocked, whose labels are of paper whatever the source.

    Raises:
        StoreUnavailable: the store cannot be read, or not in time.
    """
    async with _reading(pool, scope, detailed=True) as reading:
        decisions = await reading.fetch(_DECISIONS)
        codes = await reading.fetch(_CODES)
    return GateStatistics(
        period=reading.period,
        decisions=tuple(
            DecisionCount(
                action=Mode(row["action"]),
                verdict=Verdict(row["verdict"]),
                reason_code=row["reason_code"],
                decisions=row["decisions"],
            )
            for row in decisions
        ),
        codes={
            row["code"]: BlockedForecasts(blocked=row["blocked"], resolved=row["resolved"], won=row["won"], r=row["r"])
            for row in codes
        },
    )


@asynccontextmanager
async def detailed_turn(pool: ConnectionPool) -> AsyncIterator[None]:
    """Take one of the few turns that long readings have, so that the other connections stay free for decisions.

    Raises:
        StoreUnavailable: none became free in time.
    """
    turns = _DETAILED.setdefault(pool, asyncio.Semaphore(DETAILED_AT_ONCE))
    try:
        async with asyncio.timeout(STATEMENT_S):
            await turns.acquire()
    except TimeoutError as error:
        raise StoreUnavailable(error) from error
    try:
        yield
    finally:
        turns.release()


@asynccontextmanager
async def _reading(pool: ConnectionPool, scope: Scope, *, detailed: bool) -> AsyncIterator["_Reading"]:
    """Hold the store still for one answer."""
    turn = detailed_turn(pool) if detailed else nullcontext()
    async with turn, pool.connection() as connection:
        await connection.execute(_BEGIN_DETAILED if detailed else _BEGIN_USUAL)
        last = scope.window.last or await connection.fetchval(_TODAY)
        first = scope.window.first or last - timedelta(days=scope.window.days - 1)
        yield _Reading(connection, scope=scope, period=Period(first=first, last=last))
        await connection.execute("COMMIT")


class _Reading:
    """Ask the store for one scope, within one transaction."""

    def __init__(self, connection: Connection, *, scope: Scope, period: Period) -> None:
        self._connection = connection
        self._accounts = None if scope.accounts is None else list(scope.accounts)
        self.period = period
        self.sources = list(LABELS[scope.source])

    async def fetch(
        self, statement: str, *values: object, key: str = _UNGROUPED, forecast: ForecastKind = ForecastKind.P_WIN
    ) -> list[asyncpg.Record]:
        """Fetch the rows of a statement, whose `$3` and so on are the values, of the accounts in the scope."""
        where, arguments = _IN_PERIOD, [self.period.first, self.period.last, *values]
        if self._accounts is not None:
            arguments.append(self._accounts)
            where += f" AND account_id = ANY (${len(arguments)})"
        table = (
            "calibration_daily" if self._accounts is None and key in (_UNGROUPED, "decider") else "calibration_counts"
        )
        return await self._connection.fetch(
            statement.format(where=where, key=key, table=table, foretold=_FORETOLD[forecast]),
            *arguments,
            timeout=UNANSWERED_S,
        )

    async def records(
        self, *, forecast: ForecastKind, group_by: GroupBy | None
    ) -> tuple[dict[_Key, CalibrationRecord], int]:
        """Read the record of each group, or under the key None that of all; and tell how many groups there are."""
        key = _UNGROUPED if group_by is None else _COLUMNS[group_by]
        ungrouped = _USUAL_TALLIES if self._accounts is None else _TALLIES
        tallies = ungrouped if group_by is None else _GROUP_TALLIES
        rows = await self.fetch(tallies, self.sources, forecast, ForecastKind.CONVICTION, key=key)
        parts = [part for part, kept_by in _ASIDE.items() if group_by in kept_by]
        values = [self.sources] if _EV in parts else []
        aside = await self.fetch(" UNION ALL ".join(parts), *values, key=key, forecast=forecast)
        by_key: dict[_Key, list[asyncpg.Record]] = {} if group_by else {None: []}
        for row in rows:
            by_key.setdefault(row[0], []).append(row)
        told = {(row[0], row[1]): tuple(row)[2:] for row in aside}
        records = {
            key: CalibrationRecord(
                tally=_tally(of_key, forecast),
                convictions=_convictions(of_key),
                pending=told.get(("pending", key), _NOTHING)[0],
                liquidity_violations=told.get(("breaches", key), _NOTHING)[0],
                correlation_breaches=told.get(("breaches", key), _NOTHING)[1],
                activity=_activity(told.get(("activity", key), _NOTHING)) if _ACTIVITY in parts else None,
                ev=_ev(told.get(("ev", key), _NOTHING)) if _EV in parts else None,
            )
            for key, of_key in by_key.items()
        }
        return records, rows[0][-1] if rows and group_by else 0


_NOTHING: Final = (0, 0, 0, 0, Decimal(0), Decimal(0))


def _convictions(rows: Iterable[asyncpg.Record]) -> tuple[BucketSums, ...]:
    """Take the buckets of conviction from the rows of one group, or sum them from its rows by percent."""
    buckets = tuple(BucketSums(lower=row[2], **_class_sums(row)) for row in rows if row[1] is None)
    return buckets or bucket_sums(_tally(rows, ForecastKind.CONVICTION))


def _tally(rows: Iterable[asyncpg.Record], forecast: ForecastKind) -> Tally:
    """Build the tally of one kind of forecast from the rows of one group; convictions have no days of their own."""
    by_percent: dict[int, ClassCounts] = {}
    by_day: list[DaySums] = []
    for row in rows:
        _, kind, percent, day, win, loss, scratch, timeout, *_ = row
        if kind != forecast:
            continue
        if day is None:
            by_percent[percent] = ClassCounts(win=win, loss=loss, scratch=scratch, timeout=timeout)
        else:
            by_day.append(DaySums(day=day, **_class_sums(row)))
    return Tally(
        by_percent=dict(sorted(by_percent.items())), by_day=tuple(sorted(by_day, key=lambda sums: sums.day or date.min))
    )


def _class_sums(row: asyncpg.Record) -> dict[str, PercentSums]:
    """Read the three sums of each class, which follow the key, the kind, the percent and the day."""
    first = 4
    n, percents, squares = (
        row[at : at + len(_CLASSES)] for at in range(first, first + 3 * len(_CLASSES), len(_CLASSES))
    )
    return {
        name: PercentSums(n=of_n, percents=of_percents, squares=of_squares)
        for name, of_n, of_percents, of_squares in zip(_CLASSES, n, percents, squares, strict=True)
    }


def _activity(told: tuple[Any, ...]) -> Activity:
    sessions, traded, replies, parsed, *_ = told
    return Activity(sessions=sessions, sessions_traded=traded, replies=replies, replies_parsed=parsed)


def _ev(told: tuple[Any, ...]) -> EvSums:
    return EvSums(n=told[0], predicted_r=told[4], realized_r=told[5])


def _setup(row: asyncpg.Record) -> SetupSums:
    return SetupSums(
        setup=Setup(row["setup"]),
        counts=ClassCounts(**{name: row[name] for name in _CLASSES}),
        **{name: row[name] for name in ("r_win", "r_loss", "r", "r_squares", "forecasts", "percents")},
    )
