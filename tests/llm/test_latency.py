"""Quantiles of the latest latencies, and what may be spent on second calls."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.latency import Allowance, LatencyWindow


def test_too_few_calls_tell_nothing() -> None:
    window = LatencyWindow(fewest=3)
    window.add(1.0)
    window.add(2.0)

    assert window.quantile(0.5) is None


@pytest.mark.parametrize(("share", "latency"), [(0.0, 1.0), (0.5, 6.0), (0.9, 10.0), (0.95, 10.0), (1.0, 10.0)])
def test_a_quantile_is_one_of_the_latencies(share: float, latency: float) -> None:
    window = LatencyWindow(fewest=1)
    for seconds in (7, 3, 10, 1, 2, 9, 8, 4, 6, 5):
        window.add(float(seconds))

    assert window.quantile(share) == latency


@given(st.lists(st.floats(0, 10), min_size=1, max_size=100))
def test_only_the_latest_count(latencies: list[float]) -> None:
    window = LatencyWindow(size=16, fewest=1)
    for seconds in latencies:
        window.add(seconds)
    latest = sorted(latencies[-16:])

    assert len(window) == len(latest)
    assert [window.quantile(rank / len(latest)) for rank in range(len(latest))] == pytest.approx(latest)


def test_the_estimate_follows_a_target_that_becomes_slow() -> None:
    chance = random.Random(1)
    window = LatencyWindow()
    for _ in range(1000):
        window.add(chance.lognormvariate(-0.36, 0.6))  # median 0.7 s
    before = window.quantile(0.9)
    for _ in range(256):
        window.add(3.0)

    assert before == pytest.approx(1.5, rel=0.2)  # 0.7 x e^(0.6 x 1.28) = 1.51
    assert window.quantile(0.9) == 3.0


def test_a_call_cut_off_counts_only_when_it_was_slow_by_then() -> None:
    window = LatencyWindow(fewest=10)
    for tenths in range(1, 11):
        window.add(tenths / 10)
    window.add_at_least(0.5)
    assert len(window) == 10
    window.add_at_least(1.2)

    assert len(window) == 11
    assert window.quantile(1.0) == 1.2


def test_a_share_of_calls_may_be_doubled_and_never_more() -> None:
    allowance = Allowance(0.05, most=5)
    spent = 0
    for calls in range(1, 1001):
        allowance.earn()
        spent += allowance.spend()
        assert spent <= calls * 0.05 + 1e-9

    assert spent == 50


def test_what_is_saved_up_is_bounded() -> None:
    allowance = Allowance(0.05, most=3)
    for _ in range(10_000):
        allowance.earn()

    assert [allowance.spend() for _ in range(4)] == [True, True, True, False]


def test_what_is_kept_back_is_there_for_another() -> None:
    allowance = Allowance(1.0, most=5)
    allowance.earn()

    assert not allowance.spend(keep=1.0)
    assert allowance.spend()


def test_a_share_of_none_allows_none() -> None:
    allowance = Allowance(0.0, most=5)
    for _ in range(1000):
        allowance.earn()

    assert not allowance.spend()
    assert not allowance.ever


@pytest.mark.parametrize(("share", "start", "ever"), [(0.05, 0, True), (0.0, 1, True), (0.0, 0.5, False)])
def test_whether_one_can_ever_be_spent_is_known_before(share: float, start: float, ever: bool) -> None:
    assert Allowance(share, most=5, start=start).ever is ever
