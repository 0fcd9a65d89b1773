"""Read what the pages show. Each question reads a bounded number of rows by an index, however much is stored.

A list of several accounts is merged from the newest of each. A rare verdict among an account's decisions is looked for
in its newest `LOOK_BACK`; where that was not enough the page says so, and its cursor goes on from there.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Self
from uuid import UUID

import asyncpg

from app.db.engine import ConnectionPool
from app.db.halts import StoredHalt, halt_of_row
from app.db.queries import DecisionSummary, summary_of_row
from app.domain.account import AccountMode
from app.domain.verdict import Verdict

LOOK_BACK: Final = 5_000
LATEST_TIMINGS: Final = 2_000
LATEST_CALLS: Final = 2_000
CALLS_OF_SOME: Final = 500
"""Calls belong to decisions, and only these to accounts: of some accounts those of so many decisions are read."""
MOST_HALTS: Final = 50
ACCOUNTS_LOOKED_AT: Final = 1_000
MOST_ACCOUNTS: Final = 24
MOST_CALLS: Final = 20

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = re.compile(r"([0-9]{1,16})-([0-9a-f]{32})")
_LAST_ID: Final = UUID(int=2**128 - 1)

_SUMMARY: Final = ", ".join(spec.name for spec in fields(DecisionSummary))
_BELOW: Final = "(decided_at, decision_id) < ($1, $2)"
_NEWEST_FIRST: Final = "ORDER BY decided_at DESC, decision_id DESC"
_OF_ALL: Final = f"""
SELECT {_SUMMARY} FROM llm_decisions
WHERE {_BELOW} AND ($3::text IS NULL OR verdict = $3) {_NEWEST_FIRST} LIMIT $4
"""  # noqa: S608 (constants)
_OF_ALL_AND_ANY: Final = _OF_ALL.replace(" AND ($3::text IS NULL OR verdict = $3)", " AND $3::text IS NULL")
_OF_ALL_AND_VERDICT: Final = _OF_ALL.replace("($3::text IS NULL OR verdict = $3)", "verdict = $3")
_OF_ACCOUNTS: Final = f"""
SELECT {_SUMMARY} FROM unnest($3::text[]) AS wanted (id) CROSS JOIN LATERAL (
    SELECT * FROM llm_decisions WHERE account_id = wanted.id AND {_BELOW} {_NEWEST_FIRST} LIMIT $4
) AS newest
{_NEWEST_FIRST} LIMIT $4
"""  # noqa: S608 (constants)
_LOOKED_AT: Final = f"""
SELECT newest.decision_id, newest.decided_at, newest.verdict, wanted.id AS account_id
FROM unnest($3::text[]) AS wanted (id) CROSS JOIN LATERAL (
    SELECT decision_id, decided_at, verdict FROM llm_decisions
    WHERE account_id = wanted.id AND {_BELOW} {_NEWEST_FIRST} LIMIT $4
) AS newest
"""  # noqa: S608 (constants)
# $5 the verdict, $6 the length of a page. `looked_to` is where the search ended that had most left to look at.
_OF_ACCOUNTS_AND_VERDICT: Final = f"""
WITH looked AS MATERIALIZED ({_LOOKED_AT}),
ended AS (
    SELECT max(oldest) AS looked_to FROM (
        SELECT min(decided_at) AS oldest FROM looked GROUP BY account_id HAVING count(*) = $4
    ) AS of_account
),
found AS (
    SELECT decision_id, decided_at FROM looked CROSS JOIN ended
    WHERE verdict = $5 AND (looked_to IS NULL OR decided_at > looked_to) {_NEWEST_FIRST} LIMIT $6
)
SELECT ended.looked_to, decision.* FROM ended LEFT JOIN (
    SELECT {_SUMMARY} FROM llm_decisions WHERE decision_id IN (SELECT decision_id FROM found)
) AS decision ON true
{_NEWEST_FIRST}
"""  # noqa: S608 (constants)

_TIMING: Final = "decided_at, latency_ms, model_latency_ms, degraded, decider_name"
_TIMINGS_OF_ALL: Final = f"SELECT {_TIMING} FROM llm_decisions {_NEWEST_FIRST} LIMIT $1"  # noqa: S608 (constants)
_TIMINGS_OF_ACCOUNTS: Final = f"""
SELECT {_TIMING} FROM unnest($2::text[]) AS wanted (id) CROSS JOIN LATERAL (
    SELECT * FROM llm_decisions WHERE account_id = wanted.id {_NEWEST_FIRST} LIMIT $1
) AS newest
{_NEWEST_FIRST} LIMIT $1
"""  # noqa: S608 (constants)

_CALL: Final = """
target, model, latency_ms, outcome, hedged, cancelled, account_id IS NULL AS warming, cost_usd, priced, recorded_at
"""
_CALLS_OF_ALL: Final = f"SELECT {_CALL} FROM model_calls ORDER BY call_id DESC LIMIT $1"  # noqa: S608 (constants)
_CALLS_OF_ACCOUNTS: Final = f"""
SELECT {_CALL} FROM model_calls WHERE decision_id IN (
    SELECT decision_id FROM unnest($2::text[]) AS wanted (id) CROSS JOIN LATERAL (
        SELECT decision_id, decided_at FROM llm_decisions WHERE account_id = wanted.id {_NEWEST_FIRST} LIMIT $1
    ) AS newest
    {_NEWEST_FIRST} LIMIT $1
)
ORDER BY call_id DESC
"""  # noqa: S608 (constants)
_CALLS_OF_DECISION: Final = f"""
SELECT {_CALL} FROM model_calls WHERE decision_id = $1 ORDER BY started_ms, call_id LIMIT {MOST_CALLS}
"""  # noqa: S608 (constants)

# $2 so many accounts are looked at, $3 of so many the document is read. A headline or a thesis may hold an escaped NUL,
# at which PostgreSQL would refuse to read anything in its document.
_LATEST_OF_ACCOUNTS: Final = r"""
SELECT newest.account_id, decision_id, mode, as_of, decision.decided_at,
    replace(response::text, '\u0000', '\ufffd')::json -> 'risk_state' AS risk_state,
    replace(request::text, '\u0000', '\ufffd')::json -> 'account' ->> 'equity' AS equity
FROM (
    SELECT account.account_id, latest.* FROM (
        SELECT account_id FROM accounts WHERE $1::text[] IS NULL OR account_id = ANY ($1) ORDER BY account_id LIMIT $2
    ) AS account CROSS JOIN LATERAL (
        SELECT decision_id, decided_at FROM llm_decisions
        WHERE account_id = account.account_id ORDER BY decided_at DESC, decision_id DESC LIMIT 1
    ) AS latest
    ORDER BY decided_at DESC LIMIT $3
) AS newest JOIN llm_decisions AS decision USING (decision_id)
ORDER BY newest.decided_at DESC
"""
_HALTS: Final = """
SELECT * FROM halts WHERE $1::text[] IS NULL OR account_id IS NULL OR account_id = ANY ($1)
ORDER BY lifted_at IS NULL DESC, lifted_at IS NULL AND account_id IS NULL DESC, halt_id DESC LIMIT $2
"""
_HALTS_IN_FORCE: Final = """
SELECT * FROM halts
WHERE lifted_at IS NULL AND ($1::text[] IS NULL OR account_id IS NULL OR account_id = ANY ($1))
ORDER BY account_id IS NOT NULL, halt_id DESC LIMIT $2
"""
_POLICY: Final = "SELECT body FROM policies WHERE hash = $1"
_LABEL: Final = """
SELECT paper_state, paper_outcome, paper_r, paper_exit_at, paper_exit_price, executed_outcome, executed_r,
    executed_entered_at, executed_exit_at, executed_exit_price, realized_usd, fees_usd
FROM forecasts WHERE decision_id = $1
"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Say after which decision a page goes on; what it shows lies strictly below, in the order of the list."""

    decided_at: datetime
    decision_id: UUID

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a cursor as it was written.

        Raises:
            ValueError: it is none.
        """
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise ValueError("is not a cursor that this service gave")
        return cls(_EPOCH + timedelta(microseconds=int(match[1])), UUID(match[2]))

    def __str__(self) -> str:
        return f"{(self.decided_at - _EPOCH) // timedelta(microseconds=1)}-{self.decision_id.hex}"


NEWEST: Final = Cursor(datetime(9999, 1, 1, tzinfo=UTC), _LAST_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPage:
    """Hold one page of decisions, newest first; `looked_to` is set when older ones were not looked at."""

    decisions: tuple[DecisionSummary, ...]
    following: Cursor | None
    looked_to: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Hold how long one decision took, and its decider within it; milliseconds."""

    decided_at: datetime
    latency_ms: int
    model_latency_ms: int
    degraded: bool
    decider_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSummary:
    """Hold what the ledger says of one call; `warming` ones belong to no decision."""

    target: str
    model: str
    latency_ms: int
    outcome: str
    hedged: bool
    cancelled: bool
    warming: bool
    cost_usd: Decimal
    priced: bool
    recorded_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRisk:
    """Hold what the latest decision of an account said of its risk; `risk_state` is JSON text."""

    account_id: str
    decision_id: UUID
    mode: AccountMode
    as_of: datetime
    decided_at: datetime
    risk_state: str
    equity: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLabels:
    """Hold what came of a forecast, on paper and as executed; None where nothing did yet."""

    paper_state: str
    paper_outcome: str | None
    paper_r: Decimal | None
    paper_exit_at: datetime | None
    paper_exit_price: Decimal | None
    executed_outcome: str | None
    executed_r: Decimal | None
    executed_entered_at: datetime | None
    executed_exit_at: datetime | None
    executed_exit_price: Decimal | None
    realized_usd: Decimal | None
    fees_usd: Decimal | None


async def page_of_decisions(
    pool: ConnectionPool,
    *,
    accounts: Collection[str] | None,
    verdict: Verdict | None,
    before: Cursor = NEWEST,
    limit: int,
    look_back: int = LOOK_BACK,
) -> DecisionPage:
    """Read one page of decisions of some accounts (None: of all).

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    below = (before.decided_at, before.decision_id)
    looked_to: datetime | None = None
    async with pool.connection() as connection:
        if accounts is None:
            statement = _OF_ALL_AND_ANY if verdict is None else _OF_ALL_AND_VERDICT
            rows = await connection.fetch(statement, *below, verdict, limit + 1)
        elif verdict is None:
            rows = await connection.fetch(_OF_ACCOUNTS, *below, list(accounts), limit + 1)
        else:
            rows = await connection.fetch(
                _OF_ACCOUNTS_AND_VERDICT, *below, list(accounts), look_back, verdict, limit + 1
            )
            looked_to = rows[0]["looked_to"]
            rows = [row for row in rows if row["decision_id"] is not None]
    found = [_summary(row) for row in rows]
    page = tuple(found[:limit])
    if len(found) > limit:
        return DecisionPage(decisions=page, following=Cursor(page[-1].decided_at, page[-1].decision_id), looked_to=None)
    following = None if looked_to is None else Cursor(looked_to, _LAST_ID)
    return DecisionPage(decisions=page, following=following, looked_to=looked_to)


async def latest_timings(pool: ConnectionPool, *, accounts: Collection[str] | None) -> list[Timing]:
    """Read how long the latest decisions took, newest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        if accounts is None:
            rows = await connection.fetch(_TIMINGS_OF_ALL, LATEST_TIMINGS)
        else:
            rows = await connection.fetch(_TIMINGS_OF_ACCOUNTS, LATEST_TIMINGS, list(accounts))
    return [Timing(**row) for row in rows]


async def latest_calls(pool: ConnectionPool, *, accounts: Collection[str] | None) -> list[CallSummary]:
    """Read the latest calls of model targets, newest first; those of no decision only where all accounts are seen.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        if accounts is None:
            rows = await connection.fetch(_CALLS_OF_ALL, LATEST_CALLS)
        else:
            rows = await connection.fetch(_CALLS_OF_ACCOUNTS, CALLS_OF_SOME, list(accounts))
    return [CallSummary(**row) for row in rows]


async def calls_of_decision(pool: ConnectionPool, decision_id: UUID) -> list[CallSummary]:
    """Read the calls that one decision made, in the order in which they began.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        return [CallSummary(**row) for row in await connection.fetch(_CALLS_OF_DECISION, decision_id)]


async def latest_risks(
    pool: ConnectionPool, *, accounts: Collection[str] | None, limit: int = MOST_ACCOUNTS
) -> list[AccountRisk]:
    """Read the risk of each account as its latest decision saw it, the account that asked last first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        wanted = None if accounts is None else list(accounts)
        rows = await connection.fetch(_LATEST_OF_ACCOUNTS, wanted, ACCOUNTS_LOOKED_AT, limit)
    return [AccountRisk(**{**row, "mode": AccountMode(row["mode"])}) for row in rows]


async def halts_in_force(pool: ConnectionPool, *, accounts: Collection[str] | None) -> list[StoredHalt]:
    """Read the halts that stand over some accounts (None: over any), those of all accounts first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    return await _halts(pool, _HALTS_IN_FORCE, accounts)


async def latest_halts(pool: ConnectionPool, *, accounts: Collection[str] | None) -> list[StoredHalt]:
    """Read the halts in force, those of all accounts first, and the latest that were lifted (accounts None: of any).

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    return await _halts(pool, _HALTS, accounts)


async def get_policy_body(pool: ConnectionPool, policy_hash: str) -> str | None:
    """Read a policy's JSON by its hash.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        body: str | None = await connection.fetchval(_POLICY, policy_hash)
    return body


async def get_labels(pool: ConnectionPool, decision_id: UUID) -> StoredLabels | None:
    """Read what came of a decision's forecast; None when it foretold nothing that can be labelled.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_LABEL, decision_id)
    return None if row is None else StoredLabels(**row)


async def _halts(pool: ConnectionPool, statement: str, accounts: Collection[str] | None) -> list[StoredHalt]:
    async with pool.connection() as connection:
        rows = await connection.fetch(statement, None if accounts is None else list(accounts), MOST_HALTS)
    return [halt_of_row(row) for row in rows]


def _summary(row: asyncpg.Record) -> DecisionSummary:
    values: dict[str, Any] = dict(row)
    values.pop("looked_to", None)
    return summary_of_row(values)
