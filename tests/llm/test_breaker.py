"""The breaker as a table of transitions, with the clock and chance given."""

import pytest

from app.llm.breaker import JITTER, LONGEST_WAIT_S, Breaker, BreakerState

COOL_DOWN_S = 2.0
MIDDLE = 0.5
"""The draw that leaves a cool-down as it is."""


def breaker(failures_to_open: int = 3) -> Breaker:
    return Breaker(failures_to_open=failures_to_open, cool_down_s=COOL_DOWN_S)


def failing(state: Breaker, times: int, *, now: float = 0.0, draw: float = MIDDLE) -> Breaker:
    for _ in range(times):
        state = state.failed(era=state.era, now=now, draw=draw)
    return state


def opened(**retry: float) -> Breaker:
    """A breaker that opened at 0 s."""
    state = failing(breaker(), 2)
    return state.failed(era=state.era, now=0.0, draw=MIDDLE, **retry)


def test_it_opens_at_the_set_number_of_failures_in_a_row_and_not_before() -> None:
    assert failing(breaker(), 2).state(now=0.0) is BreakerState.CLOSED
    assert failing(breaker(), 3).state(now=0.0) is BreakerState.OPEN


def test_a_success_in_between_starts_the_count_anew() -> None:
    state = failing(breaker(), 2)
    state = failing(state.succeeded(era=state.era), 2)

    assert state.state(now=0.0) is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("now", "state", "admits"),
    [
        (0.0, BreakerState.OPEN, False),
        (COOL_DOWN_S - 0.001, BreakerState.OPEN, False),
        (COOL_DOWN_S, BreakerState.HALF_OPEN, True),
        (1000.0, BreakerState.HALF_OPEN, True),
    ],
)
def test_it_lets_nothing_through_until_the_cool_down_is_over(now: float, state: BreakerState, admits: bool) -> None:
    assert opened().state(now=now) is state
    assert opened().admits(now=now) is admits


def test_only_one_call_probes() -> None:
    state = opened().begun(now=COOL_DOWN_S)

    assert state.state(now=COOL_DOWN_S) is BreakerState.HALF_OPEN
    assert not state.admits(now=COOL_DOWN_S)


def test_a_probe_that_succeeds_closes_it() -> None:
    state = opened().begun(now=COOL_DOWN_S)
    state = state.succeeded(era=state.era)

    assert state.state(now=COOL_DOWN_S) is BreakerState.CLOSED
    assert state.failures == 0


def test_a_probe_that_fails_opens_it_for_one_more_cool_down() -> None:
    state = opened().begun(now=COOL_DOWN_S)
    state = failing(state, 1, now=COOL_DOWN_S)

    assert state.state(now=2 * COOL_DOWN_S - 0.001) is BreakerState.OPEN
    assert state.admits(now=2 * COOL_DOWN_S)


def test_a_probe_that_is_abandoned_lets_another_one_through() -> None:
    state = opened().begun(now=COOL_DOWN_S)

    assert state.abandoned(era=state.era).admits(now=COOL_DOWN_S)


def test_calls_from_before_it_opened_have_no_say() -> None:
    before = failing(breaker(), 2)
    era = before.era
    state = opened()

    assert state.succeeded(era=era) == state
    assert state.failed(era=era, now=COOL_DOWN_S, draw=MIDDLE) == state
    probing = state.begun(now=COOL_DOWN_S)
    assert probing.succeeded(era=era) == probing
    assert probing.failed(era=era, now=COOL_DOWN_S, draw=MIDDLE) == probing
    assert probing.abandoned(era=era) == probing


@pytest.mark.parametrize(("draw", "share"), [(0.0, 1 - JITTER), (0.5, 1.0), (0.999_999, 1 + JITTER)])
def test_chance_makes_the_cool_down_shorter_or_longer_by_a_fifth(draw: float, share: float) -> None:
    state = failing(breaker(failures_to_open=1), 1, draw=draw)

    assert state.open_until == pytest.approx(COOL_DOWN_S * share, rel=1e-5)


@pytest.mark.parametrize(
    ("retry_after_s", "wait_s"), [(0.0, COOL_DOWN_S), (1.0, COOL_DOWN_S), (30.0, 30.0), (1e9, LONGEST_WAIT_S)]
)
def test_a_retry_after_makes_it_longer_up_to_a_bound(retry_after_s: float, wait_s: float) -> None:
    assert opened(retry_after_s=retry_after_s).open_until == wait_s
