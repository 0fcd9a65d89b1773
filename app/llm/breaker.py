"""Leave a target alone that keeps failing: a pure state machine; the clock and chance are arguments.

    closed --failures in a row--> open --cool-down over--> half-open --probe succeeded--> closed
                                   ^                          |
                                   +------ probe failed ------+

Only one call probes a half-open target. Calls that began before the breaker opened have no say any more when they
end: they belong to a former `era`.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

JITTER: Final = 0.2
"""Cool-downs are up to a fifth shorter or longer, so that replicas don't probe in step."""
LONGEST_WAIT_S: Final = 60.0
"""A target that asks for more than this is probed all the same."""


class BreakerState(StrEnum):
    """Say whether a target is asked: always, not now, or by one call that finds out."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """Hold how a target has been doing; times are seconds of one monotonic clock."""

    failures_to_open: int
    cool_down_s: float
    failures: int = 0
    open_until: float | None = None
    era: int = 0
    probing: bool = False

    def state(self, *, now: float) -> BreakerState:
        """Tell the state at a time."""
        if self.open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self.open_until else BreakerState.HALF_OPEN

    def admits(self, *, now: float) -> bool:
        """Tell whether a call may begin."""
        state = self.state(now=now)
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self.probing)

    def begun(self, *, now: float) -> "Breaker":
        """Note that a call that was admitted begins; it carries the era that is returned to its end."""
        if self.state(now=now) is BreakerState.HALF_OPEN:
            return replace(self, probing=True, era=self.era + 1)
        return self

    def succeeded(self, *, era: int) -> "Breaker":
        """Note that a call showed the target to be up."""
        if era != self.era or (not self.failures and self.open_until is None):
            return self
        return replace(self, failures=0, open_until=None, probing=False)

    def failed(self, *, era: int, now: float, draw: float, retry_after_s: float | None = None) -> "Breaker":
        """Note that a call failed; `draw` in [0, 1) jitters the cool-down, a retry-after lengthens it."""
        if era != self.era or self.state(now=now) is BreakerState.OPEN:
            return self
        failures = self.failures + 1
        if failures < self.failures_to_open and not self.probing:
            return replace(self, failures=failures)
        wait_s = max(self.cool_down_s, min(retry_after_s or 0.0, LONGEST_WAIT_S))
        return replace(
            self,
            failures=failures,
            open_until=now + wait_s * (1 - JITTER + 2 * JITTER * draw),
            era=self.era + 1,
            probing=False,
        )

    def abandoned(self, *, era: int) -> "Breaker":
        """Note that a call ended without telling how the target does; another one may probe."""
        return replace(self, probing=False) if era == self.era else self
