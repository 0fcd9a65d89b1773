"""Hourly bars after a snapshot of Monday 4 March 2024, 15:30 UTC, and what they do to a bid of 125.40.

The example's plan is: buy at 125.40, stop 119.80, target 137.00, time stop after 48 hours.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

MONDAY: Final = "2024-03-04T15:30:00Z"
FIRST: Final = datetime(2024, 3, 4, 16, tzinfo=UTC)
"""When the first whole hour after the snapshot begins."""
TIME_STOP: Final = datetime(2024, 3, 6, 15, 30, tzinfo=UTC)

FILLS: Final = (126.0, 126.5, 125.0, 126.0)
"""Open, high, low and close of an hour in which the bid trades."""
QUIET: Final = (126.0, 127.0, 124.0, 126.0)
WINS: Final = (126.0, 138.0, 125.5, 137.5)
LOSES: Final = (126.0, 126.5, 119.0, 119.5)
AWAY: Final = (128.0, 129.0, 127.0, 128.0)
"""An hour in which nothing trades at 125.40 or below."""

Prices = tuple[float, float, float, float]


def a_bar(t: datetime, prices: Prices = QUIET) -> dict[str, Any]:
    """One bar as bots send it."""
    return {"t": t.isoformat(), **dict(zip("ohlc", prices, strict=True)), "v": 1_000_000}


def hours(*prices: Prices, first: datetime = FIRST) -> list[dict[str, Any]]:
    """Hourly bars in a row."""
    return [a_bar(first + timedelta(hours=number), of_hour) for number, of_hour in enumerate(prices)]
