"""Send one request until it is answered, inside one deadline: the rules, without a socket or a clock.

The rules of the rules:
  * what is repeated is the same to the byte: method, path, body, idempotency key;
  * repeated is what may pass by itself: no connection, no answer, 408, 429, 502, 503, 504, and a 409 that says when
    to come back. Never any other 4xx, nor a 500;
  * what must not be done twice (`repeatable=False`) is repeated only when it surely was not done: the connection was
    never made, or 429;
  * the pause before attempt n is drawn from 0 to min(longest_pause_s, first_pause_s x 2^n) ("full jitter", which
    spreads clients that failed together). A Retry-After is obeyed, and a little jitter added, if it fits into what is
    left of the deadline; if not there is no further attempt;
  * an attempt takes at most `attempt_s`, and never goes past the deadline. The last error is what the caller sees.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import httpx

from tradeverdict_client.errors import InvalidInput, NoAnswer, TradeVerdictError, UnexpectedAnswer, api_error
from tradeverdict_client.wire import decode

T = TypeVar("T")

PASSING: Final = frozenset({408, 429, 502, 503, 504})
NOT_DONE: Final = frozenset({429})
NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
LEAST_ATTEMPT_S: Final = 0.001
"""A pause may end a moment after the deadline; the attempt after it still has an end."""
PERMANENT: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class AttemptTimeout(Exception):
    """The attempt took longer than it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLimits:
    """How long to try: seconds for everything, for one attempt, and between attempts."""

    deadline_s: float = 15.0
    attempt_s: float = 5.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("deadline_s", "attempt_s", "first_pause_s", "longest_pause_s"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise InvalidInput(f"{name} is {value}, and must be above 0 and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """One request and how its answer is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    body: bytes | None = None
    params: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    event_id: str | None = None
    repeatable: bool = True

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.idempotency_key is not None:
            headers["Idempotency-Key"] = self.idempotency_key
        return headers


@dataclass(frozen=True, slots=True)
class Send:
    """Ask the driver to send the request, for at most so long; it answers with what came of it."""

    within_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask the driver to wait."""

    for_s: float


Step = Send | Pause
Came = httpx.Response | Exception | None
Conversation = Generator[Step, Came, T]


def conversation(
    call: Call[T], *, limits: RetryLimits, monotonic: Callable[[], float], draw: Callable[[], float]
) -> Conversation[T]:
    """Say step by step what to do, and give the answer at the end; `draw` gives a number from 0 to 1.

    Raises:
        ApiError: the last attempt was answered with an error.
        NoAnswer: the last attempt was not answered.
        UnexpectedAnswer: an answer is not what the service sends.
    """
    until = monotonic() + limits.deadline_s
    attempt = 0
    while True:
        came = yield Send(max(LEAST_ATTEMPT_S, min(limits.attempt_s, until - monotonic())))
        attempt += 1
        try:
            if isinstance(came, httpx.Response) and came.is_success:
                return call.read(came)
            error, asked_s = _failure(call, came)
            if error.__cause__ is None and isinstance(came, Exception):
                error.__cause__ = came
            pause_s = _pause(call, came, asked_s, attempt=attempt, left_s=until - monotonic(), limits=limits, draw=draw)
            if pause_s is None:
                raise error
        except TradeVerdictError as error:
            error.attempts = attempt
            error.idempotency_key = call.idempotency_key
            error.event_id = call.event_id
            raise
        yield Pause(pause_s)


def _failure(call: Call[Any], came: Came) -> tuple[TradeVerdictError, float | None]:
    """Name what went wrong, and how long the service asked to wait."""
    if isinstance(came, httpx.Response):
        asked_s = retry_after(came)
        return _answered(came, asked_s), asked_s
    if isinstance(came, PERMANENT):
        return InvalidInput(f"{call.method} {call.path}: {came}"), None
    what = "no answer in time" if isinstance(came, AttemptTimeout) else f"{type(came).__name__} {came}".strip()
    return NoAnswer(f"{call.method} {call.path}: {what}"), None


def _answered(response: httpx.Response, asked_s: float | None) -> TradeVerdictError:
    if response.status_code < 400:
        return UnexpectedAnswer(f"status {response.status_code}; is the address that of the service?")
    try:
        problem = decode(response.content)
    except UnexpectedAnswer:
        problem = None
    return api_error(status=response.status_code, problem=problem, retry_after_s=asked_s)


def _pause(
    call: Call[Any],
    came: Came,
    asked_s: float | None,
    *,
    attempt: int,
    left_s: float,
    limits: RetryLimits,
    draw: Callable[[], float],
) -> float | None:
    """Say how long to wait before the next attempt; None when there is none."""
    if not _passes(call, came, asked_s):
        return None
    growth = min(attempt - 1, 60)
    pause_s = draw() * min(limits.longest_pause_s, limits.first_pause_s * 2**growth)
    if asked_s is not None:
        pause_s = asked_s + draw() * limits.first_pause_s
        if pause_s >= left_s:
            pause_s = asked_s
    return pause_s if pause_s < left_s else None


def _passes(call: Call[Any], came: Came, asked_s: float | None) -> bool:
    if isinstance(came, httpx.Response):
        status = came.status_code
        if not call.repeatable:
            return status in NOT_DONE
        return status in PASSING or (status == 409 and asked_s is not None)
    if not call.repeatable:
        return isinstance(came, NEVER_SENT)
    return isinstance(came, AttemptTimeout | httpx.RequestError) and not isinstance(came, PERMANENT)


def retry_after(response: httpx.Response) -> float | None:
    """Read Retry-After in seconds; one that is no plain number of them is as good as none."""
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
