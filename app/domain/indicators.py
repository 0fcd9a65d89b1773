"""Compute indicators from daily or intraday bars; each is None where there are too few bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

WILDER_PERIOD: Final = 14
MIN_WILDER_BARS: Final = WILDER_PERIOD + 1
ADV_BARS: Final = 20


@dataclass(frozen=True, slots=True)
class Bar:
    """Hold one bar: opening time (UTC), prices in dollars per share, volume in shares."""

    t: datetime
    open: float
    high: float
    low: float
    close: float
    volume: float


def _wilder(values: Sequence[float]) -> float:
    """Smooth values by Wilder's method: seed with the mean of the first 14, then (13 x last + value) / 14."""
    smoothed = sum(values[:WILDER_PERIOD]) / WILDER_PERIOD
    for value in values[WILDER_PERIOD:]:
        smoothed = (smoothed * (WILDER_PERIOD - 1) + value) / WILDER_PERIOD
    return smoothed


def average_true_range(bars: Sequence[Bar]) -> float | None:
    """Compute ATR(14) in dollars per share (Wilder 1978).

    True range = max(high - low, |high - previous close|, |low - previous close|); needs 15 bars.
    """
    if len(bars) < MIN_WILDER_BARS:
        return None
    ranges = [
        max(bar.high - bar.low, abs(bar.high - before.close), abs(bar.low - before.close))
        for before, bar in pairwise(bars)
    ]
    return _wilder(ranges)


def relative_strength_index(bars: Sequence[Bar]) -> float | None:
    """Compute RSI(14), 0-100 (Wilder 1978); 50 where no close moved; needs 15 bars."""
    if len(bars) < MIN_WILDER_BARS:
        return None
    changes = [bar.close - before.close for before, bar in pairwise(bars)]
    gain = _wilder([max(change, 0.0) for change in changes])
    loss = _wilder([max(-change, 0.0) for change in changes])
    if gain + loss == 0:
        return 50.0
    return 100.0 * gain / (gain + loss)


def average_dollar_volume(bars: Sequence[Bar]) -> float | None:
    """Compute the mean of close x volume over the last 20 bars, dollars a day; needs 20 bars."""
    if len(bars) < ADV_BARS:
        return None
    return sum(bar.close * bar.volume for bar in bars[-ADV_BARS:]) / ADV_BARS


def moving_average(bars: Sequence[Bar], *, length: int) -> float | None:
    """Compute the mean close of the last `length` bars, dollars per share."""
    if len(bars) < length:
        return None
    return sum(bar.close for bar in bars[-length:]) / length
