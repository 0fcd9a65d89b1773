"""Tests of the indicators against arithmetic done by hand."""

from datetime import timedelta

import pytest

from app.domain.indicators import (
    Bar,
    average_dollar_volume,
    average_true_range,
    moving_average,
    relative_strength_index,
)
from tests.builders import a_bar, bars_closing_at, daily_bars


def then(*bars: Bar, after: tuple[Bar, ...]) -> tuple[Bar, ...]:
    """Append bars, each a day later than the one before."""
    return (*after, *bars)


def a_later_bar(**changes: float) -> Bar:
    return a_bar(t=daily_bars(1)[0].t + timedelta(days=1), **changes)


# --- ATR -----------------------------------------------------------------------------------------------


def test_atr_needs_15_bars() -> None:
    assert average_true_range(daily_bars(14)) is None
    assert average_true_range(daily_bars(15)) == 4.0


def test_atr_starts_as_the_mean_of_the_first_14_true_ranges() -> None:
    # The first bar has no previous close, so that its own range of 50 counts for nothing;
    # of the 14 others, 13 span 4 and one 18: (13 x 4 + 18) / 14 = 5
    first, *rest = daily_bars(15)
    bars = (
        a_bar(t=first.t, high=125.0, low=75.0),
        *rest[:-1],
        a_bar(t=rest[-1].t, high=109.0, low=91.0),
    )

    assert average_true_range(bars) == 5.0


def test_atr_is_smoothed_by_wilders_method() -> None:
    # (13 x 4 + 18) / 14 = 5, then (13 x 5 + 19) / 14 = 6
    bars = then(
        a_later_bar(high=109.0, low=91.0),
        a_bar(t=daily_bars(1)[0].t + timedelta(days=2), high=110.0, low=91.0),
        after=daily_bars(15),
    )

    assert average_true_range(bars) == 6.0


@pytest.mark.parametrize(
    ("says", "bar", "true_range"),
    [
        ("high less low", {"high": 103.0, "low": 97.0}, 6.0),
        ("a gap up: high less the close before", {"open": 110.0, "high": 111.0, "low": 109.0, "close": 110.0}, 11.0),
        ("a gap down: the close before less low", {"open": 90.0, "high": 91.0, "low": 88.0, "close": 90.0}, 12.0),
    ],
)
def test_a_true_range_reaches_back_to_the_close_before(says: str, bar: dict[str, float], true_range: float) -> None:
    bars = then(a_later_bar(**bar), after=daily_bars(15))

    assert average_true_range(bars) == pytest.approx((13 * 4 + true_range) / 14)


# --- RSI -----------------------------------------------------------------------------------------------


def test_rsi_needs_15_bars() -> None:
    assert relative_strength_index(bars_closing_at([100.0] * 14)) is None
    assert relative_strength_index(bars_closing_at([100.0] * 15)) is not None


@pytest.mark.parametrize(
    ("says", "closes", "rsi"),
    [
        ("only gains", [float(price) for price in range(100, 115)], 100.0),
        ("only losses", [float(price) for price in range(115, 100, -1)], 0.0),
        ("no move at all", [100.0] * 15, 50.0),
        ("as many gains as losses", [100.0, 101.0] * 7 + [100.0], 50.0),
        # 7 gains of 3 and 7 losses of 1: 100 x 21 / (21 + 7)
        ("gains three times the losses", [100.0 + 2 * (i // 2) + 3 * (i % 2) for i in range(15)], 75.0),
    ],
)
def test_rsi_is_the_share_of_gains(says: str, closes: list[float], rsi: float) -> None:
    assert relative_strength_index(bars_closing_at(closes)) == pytest.approx(rsi)


def test_rsi_is_smoothed_by_wilders_method() -> None:
    # 14 gains of 1: mean gain 1, mean loss 0. Then a loss of 7: gain 13/14, loss 7/14; 100 x 13 / (13 + 7) = 65
    closes = [float(price) for price in range(100, 115)] + [107.0]

    assert relative_strength_index(bars_closing_at(closes)) == pytest.approx(65.0)


# --- ADV and moving averages ---------------------------------------------------------------------------


def test_dollar_volume_needs_20_bars() -> None:
    assert average_dollar_volume(daily_bars(19)) is None
    assert average_dollar_volume(daily_bars(20)) == 100_000_000.0


def test_dollar_volume_is_the_mean_of_close_times_volume_over_the_last_20() -> None:
    # 19 days of 100 x 1,000,000 and one of 50 x 4,000,000: (1,900 + 200) M / 20 = 105 M; what was before is forgotten.
    old = daily_bars(30, volume=9e9)[:10]
    bars = (*old, *daily_bars(19), a_later_bar(close=50.0, low=50.0, volume=4_000_000.0))

    assert average_dollar_volume(bars) == 105_000_000.0


def test_a_moving_average_needs_as_many_bars_as_it_is_long() -> None:
    assert moving_average(bars_closing_at([1.0, 2.0]), length=3) is None
    assert moving_average(bars_closing_at([1.0, 2.0, 6.0]), length=3) == 3.0


def test_a_moving_average_forgets_what_is_older_than_its_length() -> None:
    assert moving_average(bars_closing_at([1000.0, 1.0, 2.0, 6.0]), length=3) == 3.0
