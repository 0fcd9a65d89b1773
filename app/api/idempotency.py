"""Answer a request that is sent again with the answer of the first (docs/retries.md).

Only the holder of a key's claim decides. No connection to the database is held while others wait for it.

Nothing here is shielded from cancellation: a decision and its key commit in one transaction or not at all, so
whoever is cut off leaves a claim at most. It is given back; where even that fails, its lease ends.
"""

import asyncio
import hashlib
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import orjson
from fastapi import Request, Response

from app.api.errors import ApiError, ErrorCode, FieldError, invalid
from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.idempotency import (
    Claim,
    Finished,
    KeyedRequest,
    KeyUse,
    LeaseLost,
    OtherBody,
    Running,
    claim_key,
    read_key,
    release_key,
)
from app.domain.account import AccountMode

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
RELEASE_S: Final = 0.5
"""No caller waits longer than this for a claim to be given back: its lease ends by itself."""
FIRST_PAUSE_S: Final = 0.01
LONGEST_PAUSE_S: Final = 0.1
PAUSE_GROWTH: Final = 1.5

_KEY: Final = r"[!-~]([ -~]{0,253}[!-~])?"

KEY_HEADER: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": HEADER,
            "in": "header",
            "description": "The same for each attempt at one decision; required for mode live.",
            "schema": {"type": "string", "pattern": f"^{_KEY}$"},
        }
    ]
}
REPLAYED_HEADER: Final[dict[str, Any]] = {
    REPLAYED: {"description": "`true` on the answer of an earlier request", "schema": {"type": "string"}}
}


def idempotency_key(request: Request, *, mode: AccountMode) -> str | None:
    """Read the request's key; only paper may do without one.

    Raises:
        ApiError: IDEMPOTENCY_KEY_REQUIRED, or VALIDATION_ERROR when there are several or it is no key.
    """
    sent = request.headers.getlist(HEADER)
    if not sent and mode is AccountMode.LIVE:
        raise ApiError(ErrorCode.IDEMPOTENCY_KEY_REQUIRED, f"Send the header {HEADER}, anew for each decision.")
    if not sent:
        return None
    if len(sent) > 1:
        raise invalid([FieldError(field=HEADER, message="must be sent once")])
    if re.fullmatch(_KEY, sent[0]) is None:
        raise invalid([FieldError(field=HEADER, message="must be 1 to 255 printable ASCII characters")])
    return sent[0]


def fingerprint(body: bytes) -> bytes:
    """Hash what a JSON body says, whatever the order of its keys, its spaces and its escapes.

    Numbers are alike when they are written alike as a float or as an integer: 1.0 and 1.00 are, 1 and 1.0 are not.
    """
    return hashlib.sha256(orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)).digest()


async def decide_once(
    pool: ConnectionPool,
    keyed: KeyedRequest,
    *,
    lease: timedelta,
    wait_until: float,
    decide: Callable[[Claim], Awaitable[bytes]],
) -> Response:
    """Decide if the key is free, else answer as it was answered, waiting for that until a monotonic time.

    Raises:
        ApiError: IDEMPOTENCY_KEY_REUSED, IDEMPOTENCY_KEY_SPENT or IDEMPOTENCY_IN_FLIGHT.
        StoreUnavailable: nothing was decided, or nobody knows; the same request may be sent again.
    """
    use = await claim_key(pool, keyed, lease=lease)
    if isinstance(use, Claim):
        try:
            return Response(await decide(use), media_type="application/json")
        except LeaseLost as error:
            use = await _successors_use(pool, keyed, error)
        except BaseException:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(RELEASE_S):
                    await release_key(pool, use)
            raise
    return _answer(await _wait(pool, keyed, use, until=wait_until))


async def _successors_use(pool: ConnectionPool, keyed: KeyedRequest, error: LeaseLost) -> KeyUse:
    """Find who has the key now; when nobody has, the database crashed and forgot the claim."""
    use = await read_key(pool, keyed)
    if use is None:
        raise StoreUnavailable(error) from error
    return use


async def _wait(pool: ConnectionPool, keyed: KeyedRequest, use: KeyUse, *, until: float) -> KeyUse:
    """Wait while the holder of the key may still finish."""
    pause_s = FIRST_PAUSE_S
    while isinstance(use, Running) and use.lease_left_s > 0 and (left_s := until - time.monotonic()) > 0:
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
        use = await read_key(pool, keyed) or Running(lease_left_s=0)
    return use


def _answer(use: KeyUse) -> Response:
    match use:
        case Finished(answer=None):
            raise ApiError(ErrorCode.IDEMPOTENCY_KEY_SPENT, "Its decision is no longer stored. Use a new key.")
        case Finished(answer=answer):
            return Response(answer, media_type="application/json", headers={REPLAYED: "true"})
        case OtherBody():
            raise ApiError(ErrorCode.IDEMPOTENCY_KEY_REUSED, "Use a new key for another request.")
        case Running(lease_left_s=left_s):
            raise ApiError(
                ErrorCode.IDEMPOTENCY_IN_FLIGHT,
                "Send the same request again later; it will have the same answer.",
                headers={"Retry-After": str(max(1, math.ceil(left_s)))},
            )
