"""Keep the ledger of model calls: what each cost, whoever won, and what a key has spent today."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Final
from uuid import UUID

import orjson
from uuid_utils import uuid7

from app.db.engine import Connection, ConnectionPool
from app.db.locks import lock_account
from app.db.statistics import Period, Window, detailed_turn
from app.db.vocabulary import NotedEvent
from app.domain.account import AccountMode
from app.domain.model_call import ModelCall

CALL_COLUMNS: Final = tuple(field.name for field in fields(ModelCall))
call_values: Final = attrgetter(*CALL_COLUMNS)
"""Gives the values of `CALL_COLUMNS` of a call."""
CALL_TYPES: Final[Mapping[str, str]] = {
    "outcome": "text",
    **dict.fromkeys(("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"), "integer"),
    "cost_usd": "numeric",
}
"""Says as what the values are sent whose columns have types of our own; see `operations.py`."""
_COLUMNS: Final = ("decision_id", "account_id", "api_key_id", *CALL_COLUMNS)
_PLACES: Final = (
    f"${number}::{CALL_TYPES[column]}" if column in CALL_TYPES else f"${number}"
    for number, column in enumerate(_COLUMNS, start=1)
)
_KEEP: Final = f"INSERT INTO model_calls ({', '.join(_COLUMNS)}) VALUES ({', '.join(_PLACES)})"  # noqa: S608 (constants)
_IS_RECORDED: Final = "SELECT EXISTS (SELECT FROM llm_decisions WHERE decision_id = $1)"
_NOTE: Final = """
INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)
VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6)
"""
_COST_TODAY: Final = """
SELECT coalesce(sum(cost_usd), 0) FROM model_calls
WHERE api_key_id IS NOT DISTINCT FROM $1 AND cost_usd > 0
    AND recorded_at >= date_trunc('day', statement_timestamp(), 'UTC')
"""
# With a plain comparison each of the two can use the index.
_COST_TODAY_OF_KEY: Final = _COST_TODAY.replace("IS NOT DISTINCT FROM", "=")
_COST_TODAY_WITHOUT_KEY: Final = _COST_TODAY.replace("IS NOT DISTINCT FROM $1", "IS NULL AND account_id IS NOT NULL")
_SPENT_TODAY: Final = """
SELECT coalesce(sum(of_key.cost_usd), 0) AS total_usd, coalesce(max(of_key.charged_usd), 0) AS dearest_key_usd
FROM (
    SELECT sum(cost_usd) AS cost_usd, sum(cost_usd) FILTER (WHERE account_id IS NOT NULL) AS charged_usd
    FROM model_calls
    WHERE recorded_at >= date_trunc('day', statement_timestamp(), 'UTC')
    GROUP BY api_key_id
) AS of_key
"""
_COSTS: Final = """
SELECT
    (recorded_at AT TIME ZONE 'UTC')::date AS day, target, model, api_key_id,
    count(DISTINCT decision_id) AS decisions, count(*) AS calls,
    count(*) FILTER (WHERE hedged) AS hedged, count(*) FILTER (WHERE cancelled) AS cancelled,
    count(*) FILTER (WHERE outcome NOT IN ('proposal', 'cancelled', 'warm')) AS failed,
    count(*) FILTER (WHERE account_id IS NULL) AS warming, count(*) FILTER (WHERE estimated) AS estimated,
    count(*) FILTER (WHERE NOT priced) AS unpriced,
    sum(input_tokens)::bigint AS input_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(cache_read_tokens)::bigint AS cache_read_tokens, sum(cache_write_tokens)::bigint AS cache_write_tokens,
    sum(cost_usd) AS cost_usd
FROM model_calls
WHERE recorded_at >= $1::date::timestamp AT TIME ZONE 'UTC'
    AND recorded_at < ($2::date + 1)::timestamp AT TIME ZONE 'UTC'
    AND ($3::text[] IS NULL OR account_id = ANY ($3))
GROUP BY 1, 2, 3, 4 ORDER BY 1 DESC, 2, 3, 4 NULLS FIRST
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCosts:
    """Hold what the calls of one day, target, model and key came to; dollars.

    `warming` belong to no decision. The tokens of `estimated` calls are our estimate, for they were cut off; the cost
    of `unpriced` ones is not known, and not in `cost_usd`.
    """

    day: date
    target: str
    model: str
    api_key_id: str | None
    decisions: int
    calls: int
    hedged: int
    cancelled: int
    failed: int
    warming: int
    estimated: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Hold what model calls have cost since midnight UTC: all of them, and those of the key that spent most; dollars.

    Calls that kept targets warm are charged to no key.
    """

    total_usd: Decimal
    dearest_key_usd: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Name on whose behalf a model was called; in the ledger, a call without a decision is one of none recorded."""

    decision_id: UUID | None
    account_id: str
    mode: AccountMode
    api_key_id: str | None


async def keep_calls_in(connection: Connection, calls: Sequence[ModelCall], *, asker: Asker | None) -> None:
    """Add calls to the ledger as part of a transaction; without an asker they kept a target warm."""
    of = (None, None, None) if asker is None else (asker.decision_id, asker.account_id, asker.api_key_id)
    for call in calls:
        await connection.execute(_KEEP, *of, *call_values(call))


async def keep_warming_call(pool: ConnectionPool, call: ModelCall) -> None:
    """Add a call to the ledger that kept a target warm.

    Raises:
        StoreUnavailable: it is not in the ledger.
    """
    async with pool.connection() as connection:
        await keep_calls_in(connection, [call], asker=None)


async def keep_rest(
    pool: ConnectionPool,
    *,
    asker: Asker,
    ended: Sequence[ModelCall],
    late: Sequence[ModelCall],
    reply: object,
    usage: object,
) -> None:
    """Note how a reply ended whose numbers were judged before: its text, its end, and what it cost after all.

    `ended` are the calls that the decision's own transaction kept, if it was committed; `late` those it could not. A
    commit that seemed to fail may have taken effect, or still be under way when nobody waits for it any more: it is
    waited for, or voided by the account's version, so that no call is kept twice.

    Raises:
        StoreUnavailable: it is not noted; the decision stands as it is.
    """
    async with pool.transaction() as connection:
        recorded = await connection.fetchval(_IS_RECORDED, asker.decision_id)
        if not recorded:
            await lock_account(connection, account_id=asker.account_id)
            recorded = await connection.fetchval(_IS_RECORDED, asker.decision_id)
        if not recorded:
            await keep_calls_in(connection, [*ended, *late], asker=replace(asker, decision_id=None))
            return
        await keep_calls_in(connection, late, asker=asker)
        if not late:
            return
        for event, body in ((NotedEvent.MODEL_REPLY, reply), (NotedEvent.MODEL_USAGE, usage)):
            text = orjson.dumps(body, default=str).decode()
            await connection.execute(
                _NOTE, asker.decision_id, f"{event}:{uuid7()}", asker.account_id, asker.mode, event, text
            )


async def cost_today_usd(pool: ConnectionPool, *, api_key_id: str | None) -> Decimal:
    """Sum what the model calls of a key (None: those without one) have cost since midnight UTC.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        if api_key_id is None:
            return Decimal(await connection.fetchval(_COST_TODAY_WITHOUT_KEY))
        return Decimal(await connection.fetchval(_COST_TODAY_OF_KEY, api_key_id))


async def spending_today(pool: ConnectionPool) -> Spending:
    """Add up today's ledger.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_SPENT_TODAY)
    assert row is not None  # noqa: S101 (an aggregate is one row)
    return Spending(**row)


async def read_costs(
    pool: ConnectionPool, *, window: Window, accounts: Collection[str] | None
) -> tuple[Period, list[CallCosts]]:
    """Add up the ledger by UTC day of the call, target, model and key, the latest day first.

    `accounts` None means all, and the calls that kept targets warm, which belong to none.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with detailed_turn(pool), pool.connection() as connection:
        today: date = await connection.fetchval("SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date")
        last = window.last or today
        period = Period(first=window.first or last - timedelta(days=window.days - 1), last=last)
        rows = await connection.fetch(_COSTS, period.first, period.last, None if accounts is None else list(accounts))
    return period, [CallCosts(**row) for row in rows]
