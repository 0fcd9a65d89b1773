"""Stop trading, and let it go on: one account or all of them.

Whoever sets a halt waits for the decisions under way; whoever decides afterwards sees it. So no approval
commits after a halt has. What was judged and not yet recorded is void: a trigger on `halts` sees to that, so it
holds for a halt that is set by hand too. Several halts may be in force at once (a person's and the service's own): the
strictest counts, and lifting lifts them all. Nothing is deleted: who, when and why stay.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from app.db.engine import Connection, ConnectionPool
from app.db.locks import lock_account, lock_every_account, void_every_judgement
from app.domain.account import HaltState

_SET: Final = "INSERT INTO halts (account_id, state, reason, operator) VALUES ($1, $2, $3, $4) RETURNING *"
_LIFT: Final = """
UPDATE halts SET lifted_at = clock_timestamp(), lifted_by = $2, lift_reason = $3
WHERE account_id IS NOT DISTINCT FROM $1 AND lifted_at IS NULL RETURNING *
"""
_LIST_IN_FORCE: Final = "SELECT * FROM halts WHERE lifted_at IS NULL ORDER BY halt_id DESC"
_COUNT: Final = "SELECT state, count(*) AS halts FROM halts WHERE lifted_at IS NULL GROUP BY state"
_LIST: Final = "SELECT * FROM halts ORDER BY halt_id DESC LIMIT $1"

# Longer than a stuck holder keeps its locks (IDLE_IN_TRANSACTION_S), shorter than the client waits (UNANSWERED_S):
# one paused process must not keep a halt from being set.
_BE_PATIENT: Final = "SET LOCAL lock_timeout = '2800ms'; SET LOCAL statement_timeout = '2800ms'"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredHalt:
    """Hold a halt and what became of it; `account_id` None stands for every account."""

    halt_id: int
    account_id: str | None
    state: HaltState
    reason: str
    operator: str
    set_at: datetime
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


async def set_halt(
    pool: ConnectionPool, *, account_id: str | None, state: HaltState, reason: str, operator: str
) -> StoredHalt:
    """Halt an account, or with None every account; in force for all replicas when this returns.

    Raises:
        StoreUnavailable: it may not be in force.
    """
    async with pool.transaction() as connection:
        return await set_halt_in(connection, account_id=account_id, state=state, reason=reason, operator=operator)


async def set_halt_in(
    connection: Connection, *, account_id: str | None, state: HaltState, reason: str, operator: str
) -> StoredHalt:
    """Halt as part of a transaction, in force when that commits."""
    await _hold_off_decisions(connection, account_id)
    row = await connection.fetchrow(_SET, account_id, state, reason, operator)
    assert row is not None  # noqa: S101 (RETURNING of one row)
    return halt_of_row(row)


async def lift_halt(pool: ConnectionPool, *, account_id: str | None, reason: str, operator: str) -> list[StoredHalt]:
    """Lift every halt of an account, or with None every halt of all accounts at once; return them.

    An account stays halted while a halt of all accounts is in force, and the other way round.

    Raises:
        StoreUnavailable: they may still be in force.
    """
    async with pool.transaction() as connection:
        await _hold_off_decisions(connection, account_id)
        if account_id is None:
            # Else a decision that was judged under the halt would still report it.
            await void_every_judgement(connection)
        return [halt_of_row(row) for row in await connection.fetch(_LIFT, account_id, operator, reason)]


async def list_halts(pool: ConnectionPool, *, lifted_too: bool = False, limit: int = 200) -> list[StoredHalt]:
    """List the halts in force, or the latest ever set; newest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        rows = await (connection.fetch(_LIST, limit) if lifted_too else connection.fetch(_LIST_IN_FORCE))
    return [halt_of_row(row) for row in rows]


async def count_halts(pool: ConnectionPool) -> dict[HaltState, int]:
    """Count the halts in force by state; a state of which there is none is left out.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        return {HaltState(row["state"]): row["halts"] for row in await connection.fetch(_COUNT)}


async def _hold_off_decisions(connection: Connection, account_id: str | None) -> None:
    await connection.execute(_BE_PATIENT)
    if account_id is None:
        await lock_every_account(connection)
    else:
        await lock_account(connection, account_id=account_id)


def halt_of_row(row: asyncpg.Record) -> StoredHalt:
    """Read a halt off its row."""
    return StoredHalt(**{**row, "state": HaltState(row["state"])})
