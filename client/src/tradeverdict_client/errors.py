"""Name everything that can go wrong; each error has a stable `code`.

TradeVerdictError
    InvalidInput          refused before it was sent
    ApiError              the service said no (problem+json): status, code, detail, errors, request_id
        BadRequest (400-499 otherwise), Unauthenticated, Forbidden, NotFound, Conflict, Halted, LateClaim,
        RateLimited, ServiceError (5xx)
    NoAnswer              nobody knows what became of it: send the same again, with the same key or event
    UnexpectedAnswer      the service, or something in front of it, broke the contract
    TicketRefused         NotExecutable, TicketExpired (LateClaim is one too), StopMissing
    ModelFailed           the model gave no opinion; only the drop-in for the prototype raises it
    SignalFailed          a failed signal of the drop-in was read as if it were an opinion
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class TradeVerdictError(Exception):
    """Say what went wrong, by a stable code.

    `idempotency_key` is that of the decision that was asked for, `event_id` that of the report that was made: the
    same request may be sent again under them, and counts once.
    """

    code: str = "ERROR"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        self.code = code or type(self).code
        self.detail = detail
        self.attempts = 0
        self.idempotency_key: str | None = None
        self.event_id: str | None = None
        super().__init__(f"{self.code}: {detail}")


class InvalidInput(TradeVerdictError, ValueError):
    """Refuse what must not be sent."""

    code = "INVALID_INPUT"


class NoAnswer(TradeVerdictError):
    """Give up when the deadline is over; what became of the request is not known."""

    code = "NO_ANSWER"


class UnexpectedAnswer(TradeVerdictError):
    """Refuse an answer that is not what the service says it sends."""

    code = "UNEXPECTED_ANSWER"


class TicketRefused(TradeVerdictError):
    """Refuse to let a ticket be used."""

    code = "TICKET_REFUSED"


class NotExecutable(TicketRefused):
    """The decision approved no order; the code is its reason code."""

    code = "DECISION_NOT_EXECUTABLE"


class TicketExpired(TicketRefused):
    """The ticket is past `valid_until`: its price is old and its room may be given away."""

    code = "TICKET_EXPIRED"


class StopMissing(TicketRefused):
    """The ticket has no stop, and is worthless without one."""

    code = "STOP_MISSING"


class ModelFailed(TradeVerdictError):
    """The model gave no opinion; the code is the MODEL_ code of the decision."""

    code = "MODEL_INVALID"


class SignalFailed(TradeVerdictError):
    """A failed signal was read as if it were an opinion."""

    code = "SIGNAL_FAILED"


@dataclass(frozen=True, slots=True)
class FieldError:
    """Name one field that is wrong, by its path."""

    field: str
    message: str


class ApiError(TradeVerdictError):
    """Carry the service's problem document (RFC 9457)."""

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int,
        title: str = "",
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail, code=code)
        self.status = status
        self.title = title
        self.errors = errors
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class BadRequest(ApiError):
    """The request is wrong and stays wrong: `errors` names each field."""


class Unauthenticated(ApiError):
    """A valid key is needed."""


class Forbidden(ApiError):
    """The key lacks the scope, or is not for the account."""


class NotFound(ApiError):
    """There is no such thing, or it belongs to another's account."""


class Conflict(ApiError):
    """What was asked does not fit what happened before; the code says how."""


class Halted(Conflict):
    """Trading is halted, or in reduce_only: do not send the order."""


class LateClaim(Conflict, TicketExpired):
    """The ticket was claimed too late: do not send the order, cancel it if you did."""


class RateLimited(ApiError):
    """Too many requests; `retry_after_s` says how long to wait."""


class ServiceError(ApiError):
    """The service could not answer; nothing was approved that it told anybody of."""


_BY_CODE: Mapping[str, type[ApiError]] = {
    "TICKET_EXPIRED": LateClaim,
    "HALTED": Halted,
    "REDUCE_ONLY": Halted,
}
_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    429: RateLimited,
}


def api_error(*, status: int, problem: object, retry_after_s: float | None) -> ApiError:
    """Make the error of an answer; `problem` is its JSON, or None where it has none (a gateway's page, say)."""
    told: Mapping[str, Any] = problem if isinstance(problem, Mapping) else {}
    code = str(told.get("code") or f"HTTP_{status}")
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status) or (ServiceError if status >= 500 else BadRequest)
    faults = told.get("errors")
    return kind(
        str(told.get("detail") or told.get("title") or f"status {status}"),
        code=code,
        status=status,
        title=str(told.get("title") or ""),
        errors=tuple(
            FieldError(str(fault.get("field", "")), str(fault.get("message", "")))
            for fault in (faults if isinstance(faults, list) else ())
            if isinstance(fault, Mapping)
        ),
        request_id=str(told["instance"]) if told.get("instance") else None,
        retry_after_s=retry_after_s,
    )
