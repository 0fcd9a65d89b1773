"""Give every request an id, a trace, one log line and one count; turn what nobody caught into INTERNAL_ERROR."""

import asyncio
import logging
import re
from ipaddress import ip_address
from time import perf_counter
from typing import Final

import structlog
import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import foreign_host, internal_error, problem_response, shutting_down
from app.telemetry import Metrics, name_request
from app.tracing import REQUEST_ID_HEADER, TRACEPARENT_HEADER, Span, Tracing

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics", "/ui/latest"})
"""Machines ask for these every few seconds; a line for each would drown the rest."""
DECIDED: Final = "decided"
"""In the state of a request whose decision has its log line."""
CLIENT_CLOSED: Final = 499
"""What is logged and counted when the caller left before it was answered; it is never sent."""

_REQUEST_ID: Final = re.compile(r"[!-~]([ -~]{0,126}[!-~])?")

log = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """Wrap the whole app (pure ASGI: nothing is buffered).

    `local_only`: without keys, whoever reaches this host may do anything, so only its own names are answered.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, tracing: Tracing, local_only: bool) -> None:
        self._app = app
        self._local_only = local_only
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        span = self._tracing.request(
            _headers(scope, TRACEPARENT_HEADER), request_id=request_id, recorded=scope["path"] not in QUIET_ROUTES
        )
        name_request(request_id=request_id, trace_id=span.trace_id)
        with span:
            await self._answer(scope, receive, send, span=span)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, *, span: Span) -> None:
        started = perf_counter()
        request_id = scope["state"]["request_id"]
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            if self._local_only and not _is_local(scope):
                await problem_response(request_id, foreign_host())(scope, receive, send_with_id)
            else:
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
            self._record(scope, status=status or CLIENT_CLOSED, seconds=perf_counter() - started, span=span)

    def _record(self, scope: Scope, *, status: int, seconds: float, span: Span) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.record_request(method=method, route=route, status=status)
        if span.recording:
            span.rename(f"{method} {route}")
            span.note(method=method, route=route, status=status, request_id=scope["state"]["request_id"])
            if status >= 500:
                span.fail(str(status))
        quiet = route in QUIET_ROUTES and status < 500
        # The line about a decision says all that this one would.
        told = quiet or (status == 200 and DECIDED in scope["state"])
        if told and not logging.getLogger().isEnabledFor(logging.DEBUG):
            return
        write = log.debug if told else log.info
        write(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            latency_ms=round(seconds * 1000, 3),
            api_key_id=scope["state"].get("api_key_id"),
        )


def _is_local(scope: Scope) -> bool:
    """Tell whether the host asked for is an address or a name without a domain, which no stranger's page has.

    A page of another site whose name was made to lead to this machine (DNS rebinding) is asked for by that name.
    """
    host = next(iter(_headers(scope, "host")), "").lower()
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(".localhost")
    return True


def _headers(scope: Scope, name: str) -> list[str]:
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


def _request_id(scope: Scope) -> str:
    """Take the caller's id where it is printable and at most 128 characters, else make one."""
    sent = next(iter(_headers(scope, REQUEST_ID_HEADER)), "")
    return sent if _REQUEST_ID.fullmatch(sent) else str(uuid_utils.uuid7())
