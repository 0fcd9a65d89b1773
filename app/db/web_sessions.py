"""Know who is signed in to the pages: a session is a random token in a cookie, of which a hash is stored.

A session is its key's: it ends with the key, and may do what the key may. Its requests are counted beside those of
bots, so that nobody who looks at a page uses up what a bot may ask.
"""

import hashlib
import secrets
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Final

from app.db.api_keys import ApiKey, key_of_row
from app.db.engine import ConnectionPool
from app.db.rate_limits import COUNT, SECONDS_LEFT, WINDOW_S, whole_seconds

PAGES: Final = "pages"
"""What the requests of pages are counted under; a key's are under this, a colon and its public part."""
SIGN_INS: Final = "sign-in"
TOKEN_BYTES: Final = 32

_KEY: Final = ", ".join(f"key.{spec.name}" for spec in fields(ApiKey) if spec.name != "usable")
_BEGIN: Final = """
INSERT INTO web_sessions (token_sha256, api_key_id, expires_at) VALUES ($1, $2, clock_timestamp() + $3::interval)
RETURNING expires_at
"""
# $1 hash of the token, $2 requests a minute; a session that has ended, or whose key has, counts for nothing.
_FIND: Final = f"""
WITH found AS (
    SELECT {_KEY}, true AS usable, session.expires_at AS session_expires_at
    FROM web_sessions AS session JOIN api_keys AS key ON key.public_id = session.api_key_id
    WHERE session.token_sha256 = $1 AND session.ended_at IS NULL AND session.expires_at > clock_timestamp()
        AND key.revoked_at IS NULL AND (key.expires_at IS NULL OR key.expires_at > clock_timestamp())
), counted AS (
    {COUNT.format(callers=f"(SELECT '{PAGES}:' || public_id AS api_key_id FROM found) AS bearer", limit="$2::integer")}
)
SELECT found.*, EXISTS (SELECT FROM counted) AS admitted,
    ({SECONDS_LEFT.format(caller=f"'{PAGES}:' || found.public_id")}) AS seconds_left
FROM found
"""  # noqa: S608 (constants)
_END: Final = "UPDATE web_sessions SET ended_at = clock_timestamp() WHERE token_sha256 = $1 AND ended_at IS NULL"
_IS_SPENT: Final = f"""
SELECT EXISTS (
    SELECT FROM rate_windows
    WHERE api_key_id = $1 AND requests >= $2 AND started_at > statement_timestamp() - interval '{WINDOW_S} s'
)
"""  # noqa: S608 (a constant)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """Hold a session that began and, for the only time, the token of its cookie."""

    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSession:
    """Hold whose session it is; `refused_for_s` is set when it asked once too often this minute."""

    key: ApiKey
    expires_at: datetime
    refused_for_s: int | None


async def begin_session(pool: ConnectionPool, *, key: ApiKey, lasting: timedelta) -> NewSession:
    """Begin a session of a key whose bearer is known.

    Raises:
        StoreUnavailable: it could not be stored.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    async with pool.connection() as connection:
        expires_at: datetime = await connection.fetchval(_BEGIN, _sha256(token), key.public_id, lasting)
    return NewSession(token=token, expires_at=expires_at)


async def find_session(pool: ConnectionPool, token: str, *, requests_per_minute: int) -> WebSession | None:
    """Find the session of a cookie and count its request; None when there is none, it ended or its key did.

    Raises:
        StoreUnavailable: the store cannot be read, or the request not be counted.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_FIND, _sha256(token), requests_per_minute)
    if row is None:
        return None
    return WebSession(
        key=key_of_row(row),
        expires_at=row["session_expires_at"],
        refused_for_s=None if row["admitted"] else whole_seconds(row["seconds_left"]),
    )


async def end_session(pool: ConnectionPool, token: str) -> None:
    """End a session, if there is one.

    Raises:
        StoreUnavailable: it may not have ended.
    """
    async with pool.connection() as connection:
        await connection.execute(_END, _sha256(token))


async def sign_ins_spent(pool: ConnectionPool, address: str, *, most: int) -> bool:
    """Tell whether an address has failed to sign in as often as it may this minute.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        spent: bool = await connection.fetchval(_IS_SPENT, f"{SIGN_INS}:{address}", most)
    return spent


def _sha256(token: str) -> bytes:
    # A token of 256 random bits needs no salt and no slow hash.
    return hashlib.sha256(token.encode()).digest()
