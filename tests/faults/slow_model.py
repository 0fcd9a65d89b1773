"""A model service with a long tail: how long it takes, when its numbers come, and how often it hangs or refuses."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tests.llm.routes import streamed_decision
from tests.model_server import Answer, Request, error, message, stream, tool_call

MEDIAN_S: Final = 0.7
P95_S: Final = 1.9
SIGMA: Final = math.log(P95_S / MEDIAN_S) / 1.645
FIRST_SHARE: Final = 0.2
"""Of a reply's time until its first content."""
NUMBERS_SHARE: Final = 0.6
"""Of a reply's time until its last number."""
HANGS: Final = 0.01
OVERLOADS: Final = 0.02
RATE: Final = 25
"""Decisions asked per second, whether answers have come or not."""
WHOLE: Final = message(tool_call(streamed_decision()))
STALL_S: Final = 0.1


class SlowModel:
    """Answer as a slow service does, each time by chance; at once with all that comes before the numbers, or not."""

    def __init__(self, *, seed: int, first_share: float = FIRST_SHARE) -> None:
        self._chance = random.Random(seed)
        self._first_share = first_share

    def __call__(self, request: Request) -> Answer:
        draw, took_s = self._chance.random(), MEDIAN_S * self._chance.lognormvariate(0, SIGMA)
        if draw < HANGS:
            return Answer(body={}, delay_s=60)
        if draw < HANGS + OVERLOADS:
            return Answer(status=529, body=error("overloaded_error"))
        if not request.body.get("stream"):
            return Answer(body=WHOLE, delay_s=took_s)
        first, numbers = (took_s * share for share in (self._first_share, NUMBERS_SHARE))
        return stream(WHOLE, first_s=first, last_number_s=numbers, end_s=took_s)


class Stalls:
    """The moments at which this process, which plays both sides, did not get to run; what it measured then is void."""

    def __init__(self) -> None:
        self._at: list[float] = []

    def within(self, began: float, seconds: float) -> bool:
        """Whether there was one from shortly before a moment until so many seconds after it."""
        return any(began - STALL_S < stalled < began + seconds for stalled in self._at)

    async def watch(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            if time.monotonic() - before > STALL_S:
                self._at.append(before)


@asynccontextmanager
async def stalls_watched() -> AsyncIterator[Stalls]:
    """Notice stalls while the block runs."""
    stalls = Stalls()
    watching = asyncio.create_task(stalls.watch())
    try:
        yield stalls
    finally:
        watching.cancel()


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]
