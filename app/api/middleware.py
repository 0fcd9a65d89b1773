"""Give every request an id, one log line and one count, and turn what nobody caught into INTERNAL_ERROR."""

import asyncio
import re
from time import perf_counter
from typing import Final

import structlog
import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import internal_error, problem_response, shutting_down
from app.telemetry import Metrics

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Machines ask for these every few seconds; a line for each would drown the rest."""
CLIENT_CLOSED: Final = 499
"""What is logged and counted when the caller left before it was answered; it is never sent."""

_REQUEST_ID: Final = re.compile(r"[!-~]([ -~]{0,126}[!-~])?")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

log = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """Wrap the whole app (pure ASGI: nothing is buffered)."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        request_id = _request_id(scope)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id, **_trace(scope))
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except asyncio.CancelledError:
            # The server cancels what outlives its grace when it stops, and nothing else does.
            if status is not None:
                raise
            await problem_response(request_id, shutting_down())(scope, receive, send_with_id)
        except Exception:
            log.exception("unexpected error")
            if status is not None:
                raise
            await problem_response(request_id, internal_error())(scope, receive, send_with_id)
        finally:
            self._record(scope, status=status or CLIENT_CLOSED, seconds=perf_counter() - started)

    def _record(self, scope: Scope, *, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.record_request(method=method, route=route, status=status)
        write = log.debug if route in QUIET_ROUTES and status < 500 else log.info
        write(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            latency_ms=round(seconds * 1000, 3),
            api_key_id=scope["state"].get("api_key_id"),
        )


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _request_id(scope: Scope) -> str:
    """Take the caller's id where it is printable and at most 128 characters, else make one."""
    sent = _header(scope, b"x-request-id")
    return sent if _REQUEST_ID.fullmatch(sent) else str(uuid_utils.uuid7())


def _trace(scope: Scope) -> dict[str, str]:
    """Keep the W3C trace id for the log."""
    match = _TRACEPARENT.fullmatch(_header(scope, b"traceparent"))
    return {"trace_id": match[1]} if match else {}
