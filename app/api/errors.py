"""Answer every error as RFC 9457 `application/problem+json` with a stable code.

Each error maps once, in `CATALOGUE`. Details are for the caller: they name fields and limits, never internals.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from app.db.engine import StoreUnavailable

MEDIA_TYPE: Final = "application/problem+json"
STORE_RETRY_AFTER_S: Final = 1
MAX_REPORTED: Final = 50
"""A body can be wrong in thousands of places; this many are named."""

log = structlog.stdlib.get_logger(__name__)


class ErrorCode(StrEnum):
    """Name every error of the HTTP interface; the names are part of the contract."""

    MALFORMED_JSON = "MALFORMED_JSON"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    BAD_REQUEST = "BAD_REQUEST"
    BODY_TOO_LARGE = "BODY_TOO_LARGE"
    BODY_TOO_SLOW = "BODY_TOO_SLOW"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    NOT_FOUND = "NOT_FOUND"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"
    FOREIGN_HOST = "FOREIGN_HOST"
    DECISION_NOT_EXECUTABLE = "DECISION_NOT_EXECUTABLE"
    DECISION_NOT_REPLAYABLE = "DECISION_NOT_REPLAYABLE"
    EVENT_CONFLICT = "EVENT_CONFLICT"
    EVENT_IMPOSSIBLE = "EVENT_IMPOSSIBLE"
    EVENT_OUT_OF_ORDER = "EVENT_OUT_OF_ORDER"
    TICKET_EXPIRED = "TICKET_EXPIRED"
    HALTED = "HALTED"
    REDUCE_ONLY = "REDUCE_ONLY"
    IDEMPOTENCY_KEY_REQUIRED = "IDEMPOTENCY_KEY_REQUIRED"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    IDEMPOTENCY_KEY_SPENT = "IDEMPOTENCY_KEY_SPENT"
    IDEMPOTENCY_IN_FLIGHT = "IDEMPOTENCY_IN_FLIGHT"
    RATE_LIMITED = "RATE_LIMITED"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    MIGRATIONS_PENDING = "MIGRATIONS_PENDING"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL_ERROR = "INTERNAL_ERROR"


CATALOGUE: Final[Mapping[ErrorCode, tuple[int, str]]] = MappingProxyType(
    {
        ErrorCode.MALFORMED_JSON: (422, "The body is not JSON"),
        ErrorCode.VALIDATION_ERROR: (422, "The request does not fit its schema"),
        ErrorCode.BAD_REQUEST: (400, "The request cannot be understood"),
        ErrorCode.BODY_TOO_LARGE: (413, "The body is too large"),
        ErrorCode.BODY_TOO_SLOW: (408, "The body did not arrive in time"),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, "The body is of a type that is not read here"),
        ErrorCode.UNAUTHENTICATED: (401, "A valid key is needed"),
        ErrorCode.FORBIDDEN: (403, "The key does not allow this"),
        ErrorCode.NOT_FOUND: (404, "There is nothing here"),
        ErrorCode.METHOD_NOT_ALLOWED: (405, "The method is not allowed here"),
        ErrorCode.FOREIGN_HOST: (421, "The host asked for is not this one"),
        ErrorCode.DECISION_NOT_EXECUTABLE: (409, "The decision has no order"),
        ErrorCode.DECISION_NOT_REPLAYABLE: (409, "The decision cannot be judged again"),
        ErrorCode.EVENT_CONFLICT: (409, "The event id was used for another event"),
        ErrorCode.EVENT_IMPOSSIBLE: (422, "The ticket cannot have had this event"),
        ErrorCode.EVENT_OUT_OF_ORDER: (409, "The ticket is past this event"),
        ErrorCode.TICKET_EXPIRED: (409, "The ticket is no longer valid"),
        ErrorCode.HALTED: (409, "Trading is halted"),
        ErrorCode.REDUCE_ONLY: (409, "Only reductions are allowed"),
        ErrorCode.IDEMPOTENCY_KEY_REQUIRED: (422, "A live decision needs an idempotency key"),
        ErrorCode.IDEMPOTENCY_KEY_REUSED: (422, "The idempotency key was used with another body"),
        ErrorCode.IDEMPOTENCY_KEY_SPENT: (422, "The idempotency key was used long ago"),
        ErrorCode.IDEMPOTENCY_IN_FLIGHT: (409, "The first request with this idempotency key still runs"),
        ErrorCode.RATE_LIMITED: (429, "Too many requests"),
        ErrorCode.STORE_UNAVAILABLE: (503, "The store cannot be reached, so nothing was decided"),
        ErrorCode.MIGRATIONS_PENDING: (503, "The database is not at the current schema"),
        ErrorCode.SHUTTING_DOWN: (503, "The service is stopping, and nothing was decided"),
        ErrorCode.INTERNAL_ERROR: (500, "Something is broken on our side"),
    }
)
"""HTTP status and title of each code."""

_CODE_OF_STATUS: Final[Mapping[int, ErrorCode]] = MappingProxyType(
    {
        404: ErrorCode.NOT_FOUND,
        405: ErrorCode.METHOD_NOT_ALLOWED,
        413: ErrorCode.BODY_TOO_LARGE,
        415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    }
)
"""What the framework raises by itself; any other 4xx is a BAD_REQUEST."""


class FieldError(BaseModel):
    """One field that is wrong, by its path in the request."""

    field: str
    message: str


class Problem(BaseModel):
    """An error (RFC 9457); `code` is stable, `instance` is the request id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:tradeverdict:error:VALIDATION_ERROR",
                    "title": "The request does not fit its schema",
                    "status": 422,
                    "code": "VALIDATION_ERROR",
                    "detail": "market.0.price: Input should be greater than 0",
                    "instance": "0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10",
                    "errors": [{"field": "market.0.price", "message": "Input should be greater than 0"}],
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    code: ErrorCode
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class ApiError(Exception):
    """Carry one catalogued error to its answer."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers


def invalid(errors: Sequence[FieldError]) -> ApiError:
    """Say which fields are wrong."""
    first = errors[0]
    detail = f"{first.field}: {first.message}" if first.field else first.message
    return ApiError(ErrorCode.VALIDATION_ERROR, detail, errors=errors[:MAX_REPORTED])


def invalid_body(error: ValidationError) -> ApiError:
    """Turn pydantic's report on a body into MALFORMED_JSON or VALIDATION_ERROR."""
    faults = error.errors(include_url=False, include_input=False)
    if faults[0]["type"] == "json_invalid":
        return ApiError(ErrorCode.MALFORMED_JSON, faults[0]["msg"])
    return invalid([_field_error(fault) for fault in faults])


def _field_error(fault: Mapping[str, Any], *, skip: int = 0) -> FieldError:
    """Name a field by its path; a ValueError's own words need no prefix."""
    cause = fault.get("ctx", {}).get("error")
    message = str(cause) if isinstance(cause, ValueError) else str(fault["msg"])
    return FieldError(field=".".join(str(part) for part in fault["loc"][skip:]), message=message)


def problem_response(request_id: str, error: ApiError) -> Response:
    """Render an error as problem+json."""
    status, title = CATALOGUE[error.code]
    body: dict[str, Any] = {
        "type": f"urn:tradeverdict:error:{error.code}",
        "title": title,
        "status": status,
        "code": error.code,
        "detail": error.detail,
        "instance": quote(request_id, safe=""),
    }
    if error.errors:
        body["errors"] = [fault.model_dump() for fault in error.errors]
    return Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=error.headers)


def refusal(request_id: str, error: ApiError | StoreUnavailable) -> Response:
    """Render what an endpoint anticipates; that the store is away is logged too."""
    if isinstance(error, StoreUnavailable):
        log.error("store unavailable", reason=str(error))
        error = ApiError(
            ErrorCode.STORE_UNAVAILABLE,
            "Try again; nothing was approved.",
            headers={"Retry-After": str(STORE_RETRY_AFTER_S)},
        )
    return problem_response(request_id, error)


def foreign_host() -> ApiError:
    """Say that a request names a host by which a service without keys does not go."""
    return ApiError(
        ErrorCode.FOREIGN_HOST, "Without keys (AUTH=off) only an address, or a name of this machine, is answered."
    )


def shutting_down() -> ApiError:
    """Say that the request outlived the time that a stopping service gives."""
    return ApiError(
        ErrorCode.SHUTTING_DOWN,
        "Ask again; another process may answer.",
        headers={"Retry-After": str(STORE_RETRY_AFTER_S), "Connection": "close"},
    )


def internal_error() -> ApiError:
    """Say that it is our fault, and nothing else."""
    return ApiError(ErrorCode.INTERNAL_ERROR, "The error was recorded under this request id.")


def _allowed(app: FastAPI, request: Request, named: Mapping[str, str] | None) -> Mapping[str, str]:
    """List all methods that a path takes; the framework names those of its first endpoint alone."""
    path = getattr(request.scope.get("route"), "path", None)
    methods = app.openapi()["paths"].get(path)
    return (named or {}) if methods is None else {"Allow": ", ".join(sorted(map(str.upper, methods)))}


def install_error_handlers(app: FastAPI) -> None:
    """Make every anticipated error of the app a problem document; what is not anticipated is the middleware's."""

    async def on_refusal(request: Request, error: ApiError | StoreUnavailable) -> Response:
        return refusal(request.state.request_id, error)

    async def on_invalid_query(request: Request, error: RequestValidationError) -> Response:
        faults = [_field_error(fault, skip=1) for fault in error.errors()]
        return problem_response(request.state.request_id, invalid(faults))

    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = _CODE_OF_STATUS.get(error.status_code, ErrorCode.BAD_REQUEST)
        headers = error.headers
        if code is ErrorCode.METHOD_NOT_ALLOWED:
            headers = _allowed(app, request, headers)
        refused = ApiError(code, f"{request.method} {request.url.path}", headers=headers)
        return problem_response(request.state.request_id, refused)

    handlers: Mapping[type[Exception], Any] = {
        ApiError: on_refusal,
        StoreUnavailable: on_refusal,
        RequestValidationError: on_invalid_query,
        HTTPException: on_http_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
