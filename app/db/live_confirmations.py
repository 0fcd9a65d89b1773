"""Let a named person confirm that an account may trade live, for a while. AccountState tells if one stands."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from app.db.engine import ConnectionPool
from app.db.locks import lock_account

_CONFIRM: Final = """
INSERT INTO live_confirmations (account_id, operator, confirmed_at, expires_at)
SELECT $1, $2, now, now + $3 FROM clock_timestamp() AS now RETURNING *
"""
_REVOKE: Final = """
UPDATE live_confirmations SET revoked_at = clock_timestamp(), revoked_by = $2
WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > clock_timestamp() RETURNING *
"""
_LIST: Final = "SELECT * FROM live_confirmations ORDER BY confirmation_id DESC LIMIT $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveConfirmation:
    """Hold one confirmation and what became of it."""

    confirmation_id: int
    account_id: str
    operator: str
    confirmed_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    revoked_by: str | None


async def confirm_live(pool: ConnectionPool, *, account_id: str, operator: str, lasting: timedelta) -> LiveConfirmation:
    """Confirm live trading of an account from now on, by the database clock.

    Raises:
        StoreUnavailable: it could not be stored.
    """
    async with pool.transaction() as connection:
        await lock_account(connection, account_id=account_id)
        row = await connection.fetchrow(_CONFIRM, account_id, operator, lasting)
    assert row is not None  # noqa: S101 (RETURNING of one row)
    return LiveConfirmation(**row)


async def revoke_live(pool: ConnectionPool, *, account_id: str, operator: str) -> list[LiveConfirmation]:
    """Revoke what stands of an account's confirmations and return it; no live entry commits after that.

    Raises:
        StoreUnavailable: they may still stand.
    """
    async with pool.transaction() as connection:
        await lock_account(connection, account_id=account_id)
        return [LiveConfirmation(**row) for row in await connection.fetch(_REVOKE, account_id, operator)]


async def list_live_confirmations(pool: ConnectionPool, *, limit: int = 200) -> list[LiveConfirmation]:
    """List the latest confirmations, newest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        return [LiveConfirmation(**row) for row in await connection.fetch(_LIST, limit)]
