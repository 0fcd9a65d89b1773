"""Issue, find and revoke API keys: `tv_<public id>_<secret>`, of which only a SHA-256 of the secret is stored."""

import hashlib
import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple, Self

import asyncpg

from app.db.engine import ConnectionPool
from app.db.rate_limits import COUNT, SECONDS_LEFT, whole_seconds
from app.db.vocabulary import Scope

EVERY_ACCOUNT: Final = "*"
NO_API_KEY: Final = ""
"""Stands for the key of all callers where authentication is off."""
_PREFIX: Final = "tv"
_COLUMNS: Final = """
public_id, name, secret_sha256, scopes, accounts, created_at, expires_at, revoked_at, last_used_at,
revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp()) AS usable
"""
_INSERT: Final = f"""
INSERT INTO api_keys (public_id, name, secret_sha256, scopes, accounts, expires_at)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_COLUMNS}
"""  # noqa: S608 (a constant)


def found_and_counted(public_id: str, secret_sha256: str, limit: str) -> tuple[str, str]:
    """Write the CTEs that find a key and count its bearer's request, and the columns that tell of both.

    The arguments are the placeholders of their values. The columns are of `found`, which has a row or none.
    """
    # Nobody but its bearer uses up what a key may ask in a minute.
    its_bearer = (
        f"(SELECT public_id AS api_key_id FROM found WHERE usable AND secret_sha256 = {secret_sha256}) AS bearer"  # noqa: S608
    )
    found = f"SELECT {_COLUMNS} FROM api_keys WHERE public_id = {public_id}"  # noqa: S608
    counted = COUNT.format(callers=its_bearer, limit=f"{limit}::integer")
    seconds_left = SECONDS_LEFT.format(caller=public_id)
    return (
        f"found AS ({found}), counted AS ({counted})",
        f"found.*, EXISTS (SELECT FROM counted) AS admitted, ({seconds_left}) AS seconds_left",
    )


_FIND: Final = "WITH {} SELECT {} FROM found".format(*found_and_counted("$1", "$2", "$3"))  # noqa: S608 (constants)
_LIST: Final = f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, public_id"  # noqa: S608 (a constant)
_TOUCH: Final = """
UPDATE api_keys SET last_used_at = clock_timestamp()
WHERE public_id = $1 AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')
"""
_REVOKE: Final = "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE public_id = $1 AND revoked_at IS NULL"


class Credentials(NamedTuple):
    """Hold what a bearer sent of a key: its public part, and the SHA-256 of the secret one."""

    public_id: str
    secret_sha256: bytes

    @classmethod
    def of(cls, *, public_id: str, secret: str) -> Self:
        """Make them of the two parts; the secret itself is not kept."""
        return cls(public_id, _sha256(secret))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Hold a stored key. `usable` tells whether it is neither expired nor revoked, by the database clock."""

    public_id: str
    name: str
    secret_sha256: bytes = field(repr=False)
    scopes: frozenset[Scope]
    accounts: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    usable: bool

    def matches(self, credentials: Credentials) -> bool:
        """Compare the hash of the secret that was sent with the stored one, in constant time."""
        return hmac.compare_digest(credentials.secret_sha256, self.secret_sha256)

    def covers(self, account_id: str) -> bool:
        """Tell whether the key may act for an account."""
        return EVERY_ACCOUNT in self.accounts or account_id in self.accounts


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """Hold a new key and, for the only time, the token to be shown to its owner."""

    key: ApiKey
    token: str = field(repr=False)


def parse_token(token: str) -> Credentials | None:
    """Take a token apart; None when it has not the form of one."""
    parts = token.split("_")
    if len(parts) != 3 or parts[0] != _PREFIX or not all(parts):
        return None
    return Credentials.of(public_id=parts[1], secret=parts[2])


async def create_key(
    pool: ConnectionPool,
    *,
    name: str,
    scopes: Collection[Scope],
    accounts: Collection[str],
    expires_at: datetime | None = None,
) -> IssuedKey:
    """Make a key for some accounts, or for `EVERY_ACCOUNT`.

    Raises:
        StoreUnavailable: it could not be stored.
    """
    public_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    async with pool.connection() as connection:
        row = await connection.fetchrow(
            _INSERT, public_id, name, _sha256(secret), list(scopes), list(accounts), expires_at
        )
    assert row is not None  # noqa: S101 (RETURNING of one row)
    return IssuedKey(key=key_of_row(row), token=f"{_PREFIX}_{public_id}_{secret}")


async def find_key(
    pool: ConnectionPool, credentials: Credentials, *, requests_per_minute: int
) -> tuple[ApiKey | None, int | None]:
    """Find a key, usable or not, and count this request of its bearer, in one round trip.

    Beside the key stands, when its bearer asks once too often, in how many seconds to ask again; that means
    nothing where the key does not match or is not usable.

    Raises:
        StoreUnavailable: the store cannot be read, or the request not be counted.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_FIND, *credentials, requests_per_minute)
    if row is None:
        return None, None
    return key_of_row(row), seconds_refused(row)


async def list_keys(pool: ConnectionPool) -> list[ApiKey]:
    """List every key ever made, oldest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        return [key_of_row(row) for row in await connection.fetch(_LIST)]


async def touch_key(pool: ConnectionPool, public_id: str) -> None:
    """Note that a key was used, at most once a minute.

    Raises:
        StoreUnavailable: it could not be noted.
    """
    async with pool.connection() as connection:
        await connection.execute(_TOUCH, public_id)


async def revoke_key(pool: ConnectionPool, public_id: str) -> bool:
    """Revoke a key for good; False when there is none or it was revoked before.

    Raises:
        StoreUnavailable: it could not be revoked.
    """
    async with pool.connection() as connection:
        return await connection.execute(_REVOKE, public_id) == "UPDATE 1"


def _sha256(secret: str) -> bytes:
    # A secret of 256 random bits needs no salt and no slow hash.
    return hashlib.sha256(secret.encode()).digest()


def seconds_refused(row: asyncpg.Record) -> int | None:
    """Tell from a row with the columns of `found_and_counted` in how many seconds to ask again, if at all."""
    return None if row["admitted"] else whole_seconds(row["seconds_left"])


def key_of_row(row: asyncpg.Record) -> ApiKey:
    """Read a key off a row that has its columns."""
    return ApiKey(
        public_id=row["public_id"],
        name=row["name"],
        secret_sha256=row["secret_sha256"],
        scopes=frozenset(map(Scope, row["scopes"])),
        accounts=frozenset(row["accounts"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
        usable=row["usable"],
    )
