"""Know how long a target usually takes, and how many calls more than one a decision may take."""

from bisect import bisect_left, insort
from collections import deque
from typing import Final

WINDOW: Final = 256
"""So many of the latest calls are remembered."""
FEWEST: Final = 20
"""Fewer tell nothing about a 95th percentile."""


class LatencyWindow:
    """Estimate quantiles of the latest latencies, exactly, in bounded memory."""

    def __init__(self, *, size: int = WINDOW, fewest: int = FEWEST) -> None:
        self._latest: deque[float] = deque(maxlen=size)
        self._sorted: list[float] = []
        self._fewest = fewest

    def __len__(self) -> int:
        return len(self._latest)

    def add(self, seconds: float) -> None:
        """Take in one latency; the oldest is forgotten when there are too many."""
        if len(self._latest) == self._latest.maxlen:
            del self._sorted[bisect_left(self._sorted, self._latest[0])]
        self._latest.append(seconds)
        insort(self._sorted, seconds)

    def add_at_least(self, seconds: float) -> None:
        """Take in a call that was cut off: it would have taken longer.

        Short ones say nothing, and counting them would make a target look fast whose calls are often cut off.
        """
        usual = self.quantile(0.9)
        if usual is not None and seconds >= usual:
            self.add(seconds)

    def quantile(self, share: float) -> float | None:
        """Give the latency that this share of calls stays within (nearest rank); None while too few are known."""
        if len(self._sorted) < self._fewest:
            return None
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]


class Allowance:
    """Allow at most a share of calls to be doubled: each call earns that share of one, and one is spent at a time.

    At most `most` are saved up, so that a quiet hour does not pay for a burst.
    """

    def __init__(self, share: float, *, most: float, start: float = 0.0) -> None:
        self._share = share
        self._most = most
        self._saved = start

    @property
    def ever(self) -> bool:
        """Tell whether one can ever be spent."""
        return self._share > 0 or self._saved >= 1

    def earn(self) -> None:
        """Note one call."""
        self._saved = min(self._most, self._saved + self._share)

    def spend(self, *, keep: float = 0.0) -> bool:
        """Take one out if that leaves at least `keep`; tell whether it was."""
        # What is earned in steps of 0.05 must be worth one after twenty of them.
        if self._saved + 1e-9 < 1 + keep:
            return False
        self._saved -= 1
        return True
