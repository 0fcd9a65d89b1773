"""Follow a request through the service and out to models: the W3C trace context, and a seam for recorded spans.

Rules of this file:
  * every request has a trace id, and every call of a model a span id of its own, whether or not spans are recorded;
  * the span under way knows who records it, so nothing here knows OpenTelemetry, whose SDK is loaded only where
    spans are collected; elsewhere a span is one look at a context variable;
  * what is noted of a span is an id, a number or a word of a fixed vocabulary: no prompt, reply, equity or key.
"""

import re
from contextvars import ContextVar, Token
from dataclasses import dataclass
from secrets import token_hex
from types import TracebackType
from typing import Final, Protocol, Self

REQUEST_ID_HEADER: Final = "x-request-id"
TRACEPARENT_HEADER: Final = "traceparent"
KNOWN_FLAGS: Final = 0b11
"""Sampled, and random trace id; what other bits mean is not known, so they are not passed on."""

_TRACEPARENT: Final = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace_id>(?!0{32})[0-9a-f]{32})-(?P<span_id>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceParent:
    """Hold a place in a trace: lower-case hex, as W3C writes it."""

    trace_id: str
    span_id: str
    flags: str

    def header(self) -> str:
        """Write it as the header traceparent."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def read_traceparent(sent: str) -> TraceParent | None:
    """Read the header traceparent (W3C Trace Context 1 and 2); None where it is malformed."""
    match = _TRACEPARENT.fullmatch(sent)
    if match is None or (match["version"] == "00" and match["more"] is not None):
        return None
    flags = int(match["flags"], 16) & KNOWN_FLAGS
    return TraceParent(trace_id=match["trace_id"], span_id=match["span_id"], flags=f"{flags:02x}")


class Span:
    """Stand for a part of the work that nobody follows; the base of those that somebody does."""

    __slots__ = ()

    @property
    def recording(self) -> bool:
        """Tell whether anything noted is kept."""
        return False

    @property
    def trace_id(self) -> str | None:
        """Give the id of the trace."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def child(self, name: str) -> "Span":  # noqa: ARG002 (for those that record)
        """Begin a part of this work."""
        return NOTHING

    def call(self, name: str) -> "Span":  # noqa: ARG002
        """Begin a call of another service, which is told its own place in the trace."""
        return NOTHING

    def headers(self) -> dict[str, str]:
        """Give the headers that tell another service where in which trace, and for which request, it is called."""
        return {}

    def rename(self, name: str) -> None:
        """Name the span when more is known than at its beginning."""

    def note(self, **attributes: str | float | None) -> None:
        """Note what is known; None says nothing."""

    def fail(self, word: str) -> None:
        """Mark the work as failed, with a word of a fixed vocabulary."""

    def end(self) -> None:
        """End a span that was not entered."""


NOTHING: Final = Span()

_current: ContextVar[Span] = ContextVar("span", default=NOTHING)


class TracedSpan(Span):
    """Hold a place in a trace, which others are told; nobody records it."""

    __slots__ = ("_token", "place", "request_id")

    def __init__(self, place: TraceParent, *, request_id: str) -> None:
        self.place = place
        self.request_id = request_id
        self._token: Token[Span] | None = None

    @property
    def trace_id(self) -> str:
        """Give the id of the trace."""
        return self.place.trace_id

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None
        if kind is not None:
            self.fail(kind.__name__)
        self.end()

    def call(self, name: str) -> Span:  # noqa: ARG002
        """Begin a call with a span id of its own."""
        place = TraceParent(trace_id=self.place.trace_id, span_id=token_hex(8), flags=self.place.flags)
        return TracedSpan(place, request_id=self.request_id)

    def headers(self) -> dict[str, str]:
        """Give traceparent and request id."""
        return {TRACEPARENT_HEADER: self.place.header(), REQUEST_ID_HEADER: self.request_id}


class Recorder(Protocol):
    """Record spans."""

    def request(self, parent: TraceParent | None, *, request_id: str) -> Span:
        """Begin the span of a request; its parent is the caller's, where it named one."""

    async def close(self) -> None:
        """Send what is recorded, within a bound of time."""


class Tracing:
    """Give each request its place in a trace; `recorder` is there while spans are recorded."""

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def request(self, traceparents: list[str], *, request_id: str, recorded: bool) -> Span:
        """Begin a request that came with these headers traceparent; one that cannot be read counts for none."""
        parent = read_traceparent(traceparents[0]) if len(traceparents) == 1 else None
        if recorded and self.recorder is not None:
            return self.recorder.request(parent, request_id=request_id)
        if parent is None:
            # Nobody samples what nobody records.
            drawn = token_hex(24)
            parent = TraceParent(trace_id=drawn[:32], span_id=drawn[32:], flags="00")
        return TracedSpan(parent, request_id=request_id)


def current() -> Span:
    """Give the span under way."""
    return _current.get()


def span(name: str) -> Span:
    """Begin a part of the work under way; it ends with the block that it is entered for."""
    return _current.get().child(name)


def call_span(name: str) -> Span:
    """Begin a call of another service; it ends with its `end`."""
    return _current.get().call(name)
