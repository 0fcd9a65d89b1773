"""Read a JSON body within limits of size and time, whichever way it is sent."""

import asyncio
from collections.abc import Collection
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.api.errors import ApiError, ErrorCode
from app.begun import Begun

BODY_TIMEOUT_S: Final = 10.0
JSON: Final = "application/json"
UNSTATED: Final = "application/octet-stream"
"""What many clients send with bytes when nobody told them a type."""


async def read_json_body(request: Request, *, limit: int) -> bytes:
    """Read a raw JSON body, of at most `limit` bytes.

    Raises:
        ApiError: BODY_TOO_LARGE, BODY_TOO_SLOW or UNSUPPORTED_MEDIA_TYPE.
    """
    body, _ = await read_body(request, limit=limit, accepted=(JSON,))
    return body


async def read_body(request: Request, *, limit: int, accepted: Collection[str]) -> tuple[bytes, str]:
    """Read the raw body, of at most `limit` bytes, and its media type; stop reading once it is larger.

    A body whose sender states no type is read as JSON; what web forms may send anywhere is refused.

    Raises:
        ApiError: BODY_TOO_LARGE, BODY_TOO_SLOW or UNSUPPORTED_MEDIA_TYPE.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    try:
        # Most bodies are here with their headers: then nothing is waited for, and no clock is needed.
        with Begun(_whole(request.receive, limit=limit)) as whole:
            if whole.ended:
                body = await whole
            else:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    body = await whole
    except TimeoutError as error:
        raise ApiError(
            ErrorCode.BODY_TOO_SLOW, f"The limit is {BODY_TIMEOUT_S:.0f} s.", headers={"Connection": "close"}
        ) from error
    media_type = request.headers.get("content-type", UNSTATED).partition(";")[0].strip().lower()
    if media_type == UNSTATED:
        media_type = JSON
    if media_type not in accepted:
        raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"The Content-Type is {media_type[:100]}.")
    return body, media_type


async def _whole(receive: Receive, *, limit: int) -> bytes:
    """Put a body together; one that comes in one piece, as most do, is given as it came."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        last = not message.get("more_body", False)
        if last and not body:
            return chunk
        body += chunk
        if last:
            return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(ErrorCode.BODY_TOO_LARGE, f"The limit is {limit} bytes.")
