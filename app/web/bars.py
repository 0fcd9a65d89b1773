"""Measure the small bars beside figures, which are drawn without any script."""

from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 120.0
"""Units from one end of a bar to the other."""
ROOM: Final = 1.08
"""So that neither end of what is shown touches the frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Hold where a bar begins and how long it is, and where its limit lies; None where there is none."""

    start: float
    length: float
    limit: float | None


def observed_bar(observed: Any, limit: Any) -> Bar | None:
    """Set what was observed beside its limit, from 0 (or what lies below) to the larger of the two."""
    if not _is_number(observed) or not _is_number(limit):
        return None
    low = min(0.0, float(observed), float(limit)) * ROOM
    high = max(0.0, float(observed), float(limit)) * ROOM
    if high - low <= 0:
        return None

    def place(value: float) -> float:
        return round((value - low) / (high - low) * WIDTH, 2)

    start, end = sorted((place(0.0), place(float(observed))))
    return Bar(start=start, length=round(max(end - start, 1.0), 2), limit=min(place(float(limit)), WIDTH - 1))


def share_bar(value: float, *, of: float) -> Bar | None:
    """Draw a value as a part of a whole; what is larger fills it."""
    if of <= 0:
        return None
    return Bar(start=0.0, length=round(max(min(value / of, 1.0) * WIDTH, 1.0), 2), limit=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
