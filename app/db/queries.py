"""Read decisions back, and ask how the store is."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from app.db.account_state import state_from_json
from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.migrate import current_revision
from app.db.records import DecisionRecord
from app.db.vocabulary import StoredTextKind
from app.domain.account import AccountMode
from app.domain.proposal import Direction, Mode, Setup
from app.domain.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionSummary:
    """Hold what a list shows of a decision: the columns of the same names."""

    decision_id: UUID
    account_id: str
    mode: AccountMode
    as_of: datetime
    decided_at: datetime
    valid_until: datetime
    action: Mode
    verdict: Verdict
    reason_code: str | None
    blocked_by: tuple[str, ...]
    degraded: bool
    symbol: str | None
    direction: Direction | None
    setup: Setup | None
    conviction: int | None
    p_win_raw: float | None
    p_win: float | None
    ev_r: float | None
    quantity: int | None
    notional_usd: Decimal | None
    risk_usd: Decimal | None
    decider_name: str
    model: str | None
    cost_usd: Decimal
    model_latency_ms: int
    latency_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrompt:
    """Hold a text that prompts are made of; `hash` is its SHA-256."""

    hash: str
    version: str
    kind: StoredTextKind
    body: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionPrompt:
    """Hold the prompt of one decision: the static part, and the part made for it."""

    account_id: str
    version: str
    prompt_hash: str
    system_hash: str
    system: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """Hold an event of a decision; `body` is the JSON text that told it."""

    event_id: str
    event: str
    at: datetime
    recorded_at: datetime
    body: str


_SUMMARY: Final = ", ".join(field.name for field in fields(DecisionSummary))
_RECORD: Final = ", ".join(field.name for field in fields(DecisionRecord))
_GET: Final = f"SELECT {_RECORD} FROM llm_decisions WHERE decision_id = $1"  # noqa: S608 (constants only)
_LIST_RECORDS: Final = f"""
SELECT {_RECORD} FROM llm_decisions
WHERE (decided_at, decision_id) < ($1, $2) AND decided_at >= $3
ORDER BY decided_at DESC, decision_id DESC LIMIT $4
"""  # noqa: S608 (constants only)
_GET_POLICY: Final = "SELECT body FROM policies WHERE hash = $1"
_GET_PROMPT: Final = "SELECT hash, version, kind, body, created_at FROM prompts WHERE hash = $1"
_GET_DECISION_PROMPT: Final = """
SELECT account_id, template.version, prompt_hash, system_hash, system.body AS system, prompt_user AS user
FROM llm_decisions AS decision
JOIN prompts AS template ON template.hash = decision.prompt_hash
JOIN prompts AS system ON system.hash = decision.system_hash
WHERE decision_id = $1
"""
_LIST_EVENTS: Final = """
SELECT event_id, event, at, recorded_at, body FROM decision_events WHERE decision_id = $1 ORDER BY sequence
"""
_FIRST: Final = datetime(1900, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_LAST_ID: Final = UUID(int=2**128 - 1)
_TYPES: Final[Mapping[str, Callable[[Any], object]]] = {
    "mode": AccountMode,
    "action": Mode,
    "verdict": Verdict,
    "direction": Direction,
    "setup": Setup,
    "blocked_by": tuple,
    "state": state_from_json,
}


async def list_decisions(
    pool: ConnectionPool,
    *,
    accounts: Collection[str] | None = None,
    symbol: str | None = None,
    verdict: Verdict | None = None,
    decided_from: datetime | None = None,
    decided_to: datetime | None = None,
    after: UUID | None = None,
    limit: int = 50,
) -> list[DecisionSummary]:
    """List decisions, newest first, that pass every filter given.

    `accounts` None means all, an empty one none. Times are of the database clock, from inclusive, to
    exclusive. `after` is the last id of the page before; an id that is not stored gives an empty page.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    # Only filters that are given become conditions, so that each combination gets the plan that suits it.
    conditions: list[str] = []
    values: list[object] = []

    def where(condition: str, value: object) -> None:
        values.append(value)
        conditions.append(condition.format(f"${len(values)}"))

    if accounts is not None and len(accounts) == 1:
        # Equality lets the index give the order; ANY would sort all that the account ever decided.
        where("account_id = {}", next(iter(accounts)))
    elif accounts is not None:
        where("account_id = ANY ({})", list(accounts))
    if symbol is not None:
        where("symbol = {}", symbol)
    if verdict is not None:
        where("verdict = {}", verdict)
    if decided_from is not None:
        where("decided_at >= {}", decided_from)
    if decided_to is not None:
        where("decided_at < {}", decided_to)
    if after is not None:
        where(
            "(decided_at, decision_id) < (SELECT decided_at, decision_id FROM llm_decisions WHERE decision_id = {})",
            after,
        )
    values.append(limit)
    statement = (
        f"SELECT {_SUMMARY} FROM llm_decisions WHERE {' AND '.join(conditions) or 'true'} "  # noqa: S608 (see above)
        f"ORDER BY decided_at DESC, decision_id DESC LIMIT ${len(values)}"
    )
    async with pool.connection() as connection:
        rows = await connection.fetch(statement, *values)
    return [summary_of_row(dict(row)) for row in rows]


async def get_decision(pool: ConnectionPool, decision_id: UUID) -> DecisionRecord | None:
    """Read the whole record of a decision, or None when there is none.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_GET, decision_id)
    return None if row is None else DecisionRecord(**_typed(dict(row)))


async def list_records(
    pool: ConnectionPool, *, since: datetime | None, after: DecisionRecord | None, limit: int
) -> list[DecisionRecord]:
    """List whole records decided at or after a time, newest first; `after` is the last one of the page before.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    before = (_LAST, _LAST_ID) if after is None else (after.decided_at, after.decision_id)
    async with pool.connection() as connection:
        rows = await connection.fetch(_LIST_RECORDS, *before, since or _FIRST, limit)
    return [DecisionRecord(**_typed(dict(row))) for row in rows]


async def get_policy(pool: ConnectionPool, policy_hash: str) -> str | None:
    """Read a policy's canonical JSON by its hash, or None when there is none.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        body: str | None = await connection.fetchval(_GET_POLICY, policy_hash)
    return body


async def get_prompt(pool: ConnectionPool, prompt_hash: str) -> StoredPrompt | None:
    """Read a text that prompts are made of by its hash, or None when there is none.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_GET_PROMPT, prompt_hash)
    return None if row is None else StoredPrompt(**{**row, "kind": StoredTextKind(row["kind"])})


async def get_decision_prompt(pool: ConnectionPool, decision_id: UUID) -> DecisionPrompt | None:
    """Read the prompt of a decision, or None when there is no such decision.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_GET_DECISION_PROMPT, decision_id)
    return None if row is None else DecisionPrompt(**row)


async def list_events(pool: ConnectionPool, decision_id: UUID) -> list[StoredEvent]:
    """List all that was reported and noted of a decision, in the order of its arrival.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        rows = await connection.fetch(_LIST_EVENTS, decision_id)
    return [StoredEvent(**row) for row in rows]


async def schema_revision(pool: ConnectionPool) -> str | None:
    """Read the revision of the database's schema: proof that it answers. None before the first migration.

    Raises:
        StoreUnavailable: it does not answer.
    """
    try:
        async with pool.connection() as connection:
            return await current_revision(connection)
    except StoreUnavailable as error:
        # The role that every connection takes on comes with the first migration of a server.
        if isinstance(error.__cause__, asyncpg.InvalidParameterValueError):
            return None
        raise


def summary_of_row(row: Mapping[str, Any]) -> DecisionSummary:
    """Read what a list shows of a decision off its columns."""
    return DecisionSummary(**_typed(row))


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Give columns the types of their record's fields."""
    return {
        column: _TYPES[column](value) if value is not None and column in _TYPES else value
        for column, value in row.items()
    }
