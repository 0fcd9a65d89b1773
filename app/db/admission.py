"""Admit a request in one round trip: find its key, count it, and read the account that it asks about.

The three are one statement, so the key and the account are of one moment. An account is read before anybody knows
whether the key is good for it: what was read is the caller's only when the key matches and covers it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from app.db.account_state import (
    STATE_COLUMNS,
    STATE_COLUMNS_HOLDING_NOTHING,
    STATE_SOURCE,
    KnownAccount,
    known_account_of_row,
    state_arguments,
)
from app.db.api_keys import ApiKey, Credentials, found_and_counted, key_of_row, seconds_refused
from app.db.engine import ConnectionPool
from app.domain.account import AccountMode

_CTES, _KEY_COLUMNS = found_and_counted("$9", "$10", "$11")
_ADMIT, _ADMIT_HOLDING_NOTHING = (
    f"WITH {_CTES} SELECT {_KEY_COLUMNS}, {columns} FROM {STATE_SOURCE} LEFT JOIN found ON true"  # noqa: S608 (constants)
    for columns in (STATE_COLUMNS, STATE_COLUMNS_HOLDING_NOTHING)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """Hold the key that was found, usable or not, and what is known of the account.

    `refused_for_s` says in how many seconds to ask again when the key's bearer asks once too often; it means nothing
    where the key does not match or is not usable.
    """

    key: ApiKey | None
    refused_for_s: int | None
    known: KnownAccount


async def admit(
    pool: ConnectionPool,
    credentials: Credentials,
    *,
    requests_per_minute: int,
    account_id: str,
    mode: AccountMode,
    as_of: datetime,
    held: Collection[str] = (),
) -> Admission:
    """Find a key and count this request of its bearer as `find_key` does, and read the account as `read_known` does.

    Raises:
        StoreUnavailable: the store cannot be read, or the request not be counted.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(
            _ADMIT if held else _ADMIT_HOLDING_NOTHING,
            *state_arguments(account_id=account_id, mode=mode, as_of=as_of, held=held),
            *credentials,
            requests_per_minute,
        )
    assert row is not None  # noqa: S101 (a SELECT from one row)
    known = known_account_of_row(row)
    if row["public_id"] is None:
        return Admission(key=None, refused_for_s=None, known=known)
    return Admission(key=key_of_row(row), refused_for_s=seconds_refused(row), known=known)
