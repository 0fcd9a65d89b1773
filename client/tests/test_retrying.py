"""Requests are repeated when that may help and is safe, inside one deadline, and never otherwise.

No socket and no clock: the conversation is led by hand, and time passes only where a test says so.
"""

from dataclasses import replace

import httpx
import pytest

from tradeverdict_client import ApiError, InvalidInput, NoAnswer, RateLimited, RetryLimits, UnexpectedAnswer
from tradeverdict_client.retrying import AttemptTimeout, Call, Came, Pause, Send, conversation, retry_after

CALL: Call[str] = Call(method="POST", path="/decide", body=b"{}", idempotency_key="key-1", read=lambda got: got.text)
LIMITS = RetryLimits(deadline_s=10, attempt_s=4, first_pause_s=0.1, longest_pause_s=2)


class Led:
    """A conversation, the time in it, and what it asked for."""

    def __init__(self, *, call: Call[str] = CALL, draw: float = 1.0, limits: RetryLimits = LIMITS) -> None:
        self.now = 1000.0
        self.steps = conversation(call, limits=limits, monotonic=lambda: self.now, draw=lambda: draw)
        self.sent = [self.expect_send(None)]

    def expect_send(self, came: Came) -> float:
        step = self.steps.send(came)
        assert isinstance(step, Send)
        return step.within_s

    def fails(self, came: Came, *, after_s: float = 0.0) -> float:
        """Let the attempt fail after a time; wait as told, and send again. Gives the pause."""
        self.now += after_s
        step = self.steps.send(came)
        assert isinstance(step, Pause)
        self.now += step.for_s
        self.sent.append(self.expect_send(None))
        return step.for_s

    def gives_up(self, came: Came, *, after_s: float = 0.0) -> Exception:
        self.now += after_s
        with pytest.raises(Exception) as raised:  # noqa: PT011 (each test looks at which)
            self.steps.send(came)
        return raised.value

    def ends(self, came: Came) -> str:
        with pytest.raises(StopIteration) as stopped:
            self.steps.send(came)
        answer: str = stopped.value.value
        return answer


def answered(status: int, *, retry_after: str | None = None, content: bytes = b"") -> httpx.Response:
    return httpx.Response(status, content=content, headers={} if retry_after is None else {"Retry-After": retry_after})


def test_an_answer_ends_it() -> None:
    assert Led().ends(answered(200, content=b"yes")) == "yes"


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_passes_by_itself_is_repeated(status: int) -> None:
    led = Led()

    led.fails(answered(status))

    assert led.ends(answered(200, content=b"yes")) == "yes"


def test_a_conflict_that_says_when_to_come_back_is_repeated() -> None:
    assert Led(draw=0).fails(answered(409, retry_after="3")) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 422, 500, 501, 505])
def test_no_other_error_is_repeated(status: int) -> None:
    error = Led().gives_up(answered(status))

    assert isinstance(error, ApiError)
    assert (error.status, error.attempts, error.idempotency_key) == (status, 1, "key-1")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 500])
def test_nor_when_it_says_when_to_come_back(status: int) -> None:
    assert isinstance(Led().gives_up(answered(status, retry_after="1")), ApiError)


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("late"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("late"),
        httpx.WriteError("broken"),
        httpx.WriteTimeout("late"),
        httpx.PoolTimeout("busy"),
        httpx.CloseError("closed"),
        httpx.RemoteProtocolError("cut off"),
        httpx.ProxyError("no way"),
        httpx.DecodingError("garbled"),
        AttemptTimeout(),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_broken_connection_is_tried_again(failure: Exception) -> None:
    led = Led()

    led.fails(failure)

    assert led.ends(answered(200, content=b"yes")) == "yes"


@pytest.mark.parametrize("failure", [httpx.UnsupportedProtocol("ftp"), httpx.LocalProtocolError("bad header")])
def test_what_can_never_be_sent_is_not_tried_again(failure: Exception) -> None:
    error = Led().gives_up(failure)

    assert isinstance(error, InvalidInput)
    assert error.__cause__ is failure


def test_pauses_double_up_to_the_longest() -> None:
    led = Led(draw=1.0, limits=replace(LIMITS, deadline_s=100))

    assert [led.fails(answered(503)) for _ in range(7)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2])


def test_pauses_are_drawn_from_nothing_to_the_whole() -> None:
    assert Led(draw=0.0).fails(answered(503)) == 0
    assert Led(draw=0.5).fails(answered(503)) == pytest.approx(0.05)


def test_no_attempt_lasts_longer_than_it_may_nor_past_the_deadline() -> None:
    led = Led(draw=0.0)

    led.fails(AttemptTimeout(), after_s=4)
    led.fails(AttemptTimeout(), after_s=4)

    assert led.sent == [4, 4, 2]


def test_at_the_deadline_the_last_failure_is_told() -> None:
    led = Led(draw=0.0)
    led.fails(AttemptTimeout(), after_s=4)
    led.fails(AttemptTimeout(), after_s=4)
    cause = httpx.ReadTimeout("late")

    error = led.gives_up(cause, after_s=2)

    assert isinstance(error, NoAnswer)
    assert (error.code, error.attempts, error.idempotency_key) == ("NO_ANSWER", 3, "key-1")
    assert error.__cause__ is cause


def test_a_pause_that_does_not_fit_ends_it() -> None:
    led = Led(draw=1.0)

    assert isinstance(led.gives_up(httpx.ReadError("reset"), after_s=9.95), NoAnswer)


def test_an_answered_failure_is_told_as_the_service_said_it() -> None:
    body = b'{"code": "STORE_UNAVAILABLE", "detail": "Try again.", "instance": "request-1"}'

    error = Led(draw=1.0).gives_up(answered(503, content=body), after_s=9.95)

    assert isinstance(error, ApiError)
    assert (error.code, error.request_id) == ("STORE_UNAVAILABLE", "request-1")


def test_retry_after_is_obeyed_with_a_little_jitter() -> None:
    assert Led(draw=0.0).fails(answered(503, retry_after="3")) == 3
    assert Led(draw=1.0).fails(answered(503, retry_after="3")) == pytest.approx(3.1)


def test_retry_after_that_just_fits_loses_its_jitter() -> None:
    assert Led(draw=1.0).fails(answered(429, retry_after="3"), after_s=6.95) == 3  # 10 - 6.95 = 3.05 < 3.1


def test_retry_after_that_does_not_fit_ends_it_at_once() -> None:
    error = Led().gives_up(answered(429, retry_after="60"))

    assert isinstance(error, RateLimited)
    assert (error.retry_after_s, error.attempts) == (60, 1)


@pytest.mark.parametrize("text", ["", "soon", "-1", "1e3", "nan", "Fri, 20 Nov 2026 15:30:00 GMT", "9" * 10, "²"])
def test_a_retry_after_that_is_no_number_of_seconds_is_as_good_as_none(text: str) -> None:
    headers = [(b"Retry-After", text.encode())]

    assert retry_after(httpx.Response(503, headers=headers)) is None


def test_what_must_not_be_done_twice_is_repeated_only_when_it_was_not_done() -> None:
    once = replace(CALL, repeatable=False)

    for undone in (httpx.ConnectError("refused"), httpx.ConnectTimeout("late"), answered(429, retry_after="1")):
        assert Led(call=once).fails(undone) is not None
    for unknown in (httpx.ReadError("reset"), httpx.ReadTimeout("late"), AttemptTimeout(), answered(503)):
        assert Led(call=once).gives_up(unknown) is not None


def test_a_redirect_is_no_answer() -> None:
    assert isinstance(Led().gives_up(answered(302)), UnexpectedAnswer)


@pytest.mark.parametrize("name", ["deadline_s", "attempt_s", "first_pause_s", "longest_pause_s"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_limits(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=name):
        RetryLimits(**{name: value})
