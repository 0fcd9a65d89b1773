"""Let a request that is sent again have the answer of the first, and never a second approval.

A key belongs to one API key, one account and one body. Who claims it may decide; everyone else waits for that
decision or is refused. The rules:

* A claim is a lease on the database clock. When its holder has not finished by then, the next request with the
  same body takes over and gets a higher fence.
* `finish` is part of the transaction that records the decision, so that key and decision are stored together or
  not at all. It matches only the row that its holder claimed: one that lost its lease to another stores nothing.
  From `finish` to the end of that transaction the row is locked, so nobody takes over in between.
* A row is never deleted and `finished` is never undone: a used key never approves again, however old. The answer
  is not copied here, it is read from the decision; when retention has removed that, the key stays used.
* Claims are not flushed to disk (`synchronous_commit = off`). A crash of the database may forget one. Then its
  holder finishes nothing, or, if the same body has been claimed with the same fence since, whoever comes first
  finishes for both. The decision itself is always flushed before it is answered.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeAlias
from uuid import UUID

import asyncpg

from app.db.engine import Connection, ConnectionPool

_KEY: Final = "api_key_id = $1 AND account_id = $2 AND key = $3"
_READ: Final = """
SELECT
    NULL::bigint AS fence,
    held.fingerprint = $4 AS same_body,
    held.state = 'finished' AS finished,
    extract(epoch FROM held.lease_until - clock_timestamp())::float8 AS lease_left_s,
    decision.response::text AS answer
FROM idempotency_keys AS held LEFT JOIN llm_decisions AS decision USING (decision_id)
WHERE held.api_key_id = $1 AND held.account_id = $2 AND held.key = $3
"""
# The subquery in FROM is volatile, so it runs before the row is made and sets how this statement commits.
_CLAIM: Final = f"""
WITH claimed AS (
    INSERT INTO idempotency_keys AS held (api_key_id, account_id, key, fingerprint, state, fence, lease_until)
    SELECT $1, $2, $3, $4, 'running', 1, clock_timestamp() + $5::interval
    FROM (SELECT set_config('synchronous_commit', 'off', true)) AS unflushed
    ON CONFLICT (api_key_id, account_id, key) DO UPDATE
    SET fence = held.fence + 1, lease_until = clock_timestamp() + $5::interval
    WHERE held.state = 'running' AND held.lease_until <= clock_timestamp() AND held.fingerprint = $4
    RETURNING held.fence
)
SELECT fence, true AS same_body, false AS finished, NULL::float8 AS lease_left_s, NULL::text AS answer FROM claimed
UNION ALL
{_READ} AND NOT EXISTS (SELECT FROM claimed)
"""  # noqa: S608 (a constant)
_FINISH: Final = f"""
UPDATE idempotency_keys SET state = 'finished', decision_id = $6, finished_at = clock_timestamp()
WHERE {_KEY} AND fingerprint = $4 AND fence = $5 AND state = 'running'
"""  # noqa: S608 (a constant)
_RELEASE: Final = f"""
UPDATE idempotency_keys SET lease_until = clock_timestamp()
WHERE {_KEY} AND fingerprint = $4 AND fence = $5 AND state = 'running'
"""  # noqa: S608 (a constant)


class LeaseLost(Exception):  # noqa: N818 (a condition to answer for, rather than a bug)
    """Another request took the key over, or the database forgot the claim; nothing may be stored under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """Name one request: whose key it is, for which account, and the SHA-256 of the canonical body."""

    api_key_id: str
    account_id: str
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Hold the right to decide a keyed request, until another takes over with a higher fence."""

    request: KeyedRequest
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Hold the answer that was given under the key; None when its decision is no longer stored."""

    answer: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Say that another request holds the key, and for how many seconds yet; none are left of a lapsed lease."""

    lease_left_s: float


@dataclass(frozen=True, slots=True)
class OtherBody:
    """Say that the key was used with another body."""


KeyUse: TypeAlias = Finished | Running | OtherBody

_LAPSED: Final = Running(lease_left_s=0)


async def claim_key(pool: ConnectionPool, request: KeyedRequest, *, lease: timedelta) -> Claim | KeyUse:
    """Claim a key for as long as the lease lasts, or say what it is used for; in one round trip.

    Raises:
        StoreUnavailable: the store cannot say.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_CLAIM, *_identity(request), lease)
        if row is None or (row["fence"] is None and _use(row) == _LAPSED):
            # The statement waited for a holder, and reads what was there before it waited.
            row = await connection.fetchrow(_READ, *_identity(request))
    assert row is not None  # noqa: S101 (no row is ever deleted)
    return _use(row) if row["fence"] is None else Claim(request=request, fence=row["fence"])


async def read_key(pool: ConnectionPool, request: KeyedRequest) -> KeyUse | None:
    """Tell what a key is used for, without claiming it; None when it is not used at all.

    Raises:
        StoreUnavailable: the store cannot say.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_READ, *_identity(request))
    return None if row is None else _use(row)


async def finish_key(connection: Connection, claim: Claim, *, decision_id: UUID) -> None:
    """Tie a key to its decision for good, as part of the transaction that records it.

    Raises:
        LeaseLost: the claim no longer holds; the transaction must not commit.
    """
    done = await connection.execute(_FINISH, *_identity(claim.request), claim.fence, decision_id)
    if done != "UPDATE 1":
        raise LeaseLost(f"fence {claim.fence}")


async def release_key(pool: ConnectionPool, claim: Claim) -> None:
    """End a claim that came to nothing, so that the next attempt need not wait for the lease.

    Raises:
        StoreUnavailable: it could not be ended; its lease will.
    """
    async with pool.connection() as connection:
        await connection.execute(_RELEASE, *_identity(claim.request), claim.fence)


def _identity(request: KeyedRequest) -> tuple[str, str, str, bytes]:
    return request.api_key_id, request.account_id, request.key, request.fingerprint


def _use(row: asyncpg.Record) -> KeyUse:
    if not row["same_body"]:
        return OtherBody()
    if row["finished"]:
        return Finished(answer=None if row["answer"] is None else row["answer"].encode())
    return Running(lease_left_s=max(0.0, row["lease_left_s"]))
