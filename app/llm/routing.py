"""Ask targets in turn within one budget of time: fall back, hedge, and leave alone what is down.

Rules of this file:
  * one budget covers everything; no target's own timeout and no retry-after extends it;
  * the first valid proposal wins and is the only one that leaves here; what else is under way is cut off, and
    what it cost is counted;
  * a failure, refusal, truncation or invalid reply moves on to the next target that is not left alone; where there
    is none, the same one is asked once more if its fault may have passed, for at most a tenth of decisions;
  * a call that is late is joined by one more (the next target, else the same), for at most a set share of decisions;
  * how targets do is known to this process only, and forgets itself.

When a call is late: no content has come within the 95th percentile of that target's latest calls, or sooner, down to
the 90th, when the second call would otherwise have less than its median left. Where content comes but the answer does
not, the same is asked of the whole answer; that hedge is worth less, so it leaves one to spend for the former kind.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from app.domain.account import Account, AccountMode
from app.domain.market import MarketView
from app.domain.model_call import ModelCall
from app.domain.policy import Policy
from app.domain.proposal import ModelFailure, Proposal
from app.llm.breaker import Breaker, BreakerState
from app.llm.decider import Decider, DeciderFailure, Prompt, Reply
from app.llm.latency import Allowance, LatencyWindow
from app.llm.messages import DECIDER_NAME, Call, MessagesClient, account_of, rest_of
from app.llm.reading import Reading, failure

SHORTEST_CALL_S: Final = 0.05
"""With less time left no call is begun."""
UNKNOWN_HEDGE: Final = 0.6
"""Share of its budget after which a call is late whose target has told too little."""
RETRY_SHARE: Final = 0.1
RETRY_PAUSE_S: Final = 0.05
"""Before the same target is asked again; up to as much again is added by chance."""
SAVED_HEDGES: Final = 5.0
SAVED_RETRIES: Final = 5.0
WARM_CONNECTIONS: Final = 4
NO_TARGET: Final = failure(ModelFailure.UNAVAILABLE, "every target has failed too often of late")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingOptions:
    """Hold how targets are routed over; seconds, and shares of decisions."""

    hedge_max_share: float = 0.05
    retry_max_share: float = RETRY_SHARE
    breaker_failures: int = 5
    breaker_cool_down_s: float = 2.0
    warm_every_s: float = 0.0


class Route:
    """Hold one target's client with what is known of how it does."""

    def __init__(self, client: MessagesClient, *, options: RoutingOptions) -> None:
        self.client = client
        self.answers = LatencyWindow()
        self.beginnings = LatencyWindow()
        self.breaker = Breaker(failures_to_open=options.breaker_failures, cool_down_s=options.breaker_cool_down_s)
        self.used_at = float("-inf")

    @property
    def name(self) -> str:
        """Give the target's name."""
        return self.client.target.name

    def least_s(self) -> float:
        """Give the time with less of which a call would very likely be in vain."""
        return max(SHORTEST_CALL_S, self.answers.quantile(0.05) or 0.0)


@dataclass(slots=True, kw_only=True)
class Running:
    """Hold a call with its route; `first`: it had the whole budget, so being too slow is the target's fault."""

    call: Call
    route: Route
    era: int
    first: bool


class RoutedDecider:
    """Propose by asking targets in turn.

    `draw` gives numbers in [0, 1) for jitter. `last_resort` proposes for paper accounts when no target did.
    `on_warm` is told of calls that were made to keep a target warm: they cost too, and belong to no decision.
    """

    name = DECIDER_NAME
    serves_live = True

    def __init__(
        self,
        clients: Sequence[MessagesClient],
        *,
        draw: Callable[[], float],
        options: RoutingOptions = RoutingOptions(),
        last_resort: Decider | None = None,
        on_warm: Callable[[ModelCall], None] | None = None,
    ) -> None:
        self.routes = tuple(Route(client, options=options) for client in clients)
        self.draw = draw
        self.hedges = Allowance(options.hedge_max_share, most=SAVED_HEDGES)
        self.retries = Allowance(options.retry_max_share, most=SAVED_RETRIES, start=SAVED_RETRIES)
        self._options = options
        self._last_resort = last_resort
        self._on_warm = on_warm
        self._ending: set[Call] = set()
        self._rests: set[asyncio.Task[Reply]] = set()

    async def propose(
        self, *, prompt: Prompt, market: MarketView, account: Account, policy: Policy, budget_s: float
    ) -> Reply:
        """Return a proposal or a typed failure within `budget_s` seconds of being called."""
        started = time.monotonic()
        self.hedges.earn()
        self.retries.earn()
        race = _Race(self, prompt=prompt, until=started + budget_s)
        try:
            counted = await race.run()
        finally:
            self._cut_off(race.running)
        reply = Reply(
            outcome=race.outcome,
            call=account_of(race.calls, counted=counted, prompt=prompt, started=started),
        )
        if isinstance(reply.outcome, DeciderFailure):
            return await self._resort(reply, prompt=prompt, market=market, account=account, policy=policy)
        if counted is None or counted.ended.done():
            return reply
        return replace(reply, rest=self._follow(rest_of(race.calls, counted=counted, prompt=prompt, started=started)))

    def states(self) -> dict[str, BreakerState]:
        """Tell how each target stands."""
        now = time.monotonic()
        return {route.name: route.breaker.state(now=now) for route in self.routes}

    async def keep_warm(self, system: str) -> None:
        """Open connections and warm caches, at once and then whenever a target was idle, until cancelled."""
        routes = [route for route in self.routes if route.client.target.warm]
        if not routes or self._options.warm_every_s <= 0:
            return
        async with asyncio.TaskGroup() as group:
            for route in routes:
                group.create_task(route.client.open_connections(WARM_CONNECTIONS))
        while True:
            async with asyncio.TaskGroup() as group:
                for route in routes:
                    group.create_task(self._warm(route, system))
            await asyncio.sleep(self._options.warm_every_s)

    async def close(self) -> None:
        """Cut off what is under way and close the connections."""
        for call in tuple(self._ending):
            call.cancel()
        for call in tuple(self._ending):
            await call.wait()
        if self._rests:
            await asyncio.wait(self._rests)
        for route in self.routes:
            await route.client.close()
        if self._last_resort is not None:
            await self._last_resort.close()

    async def _warm(self, route: Route, system: str) -> None:
        if time.monotonic() - route.used_at < self._options.warm_every_s:
            return
        call = await route.client.warm(system)
        if call is not None and self._on_warm is not None:
            self._on_warm(call)

    async def _resort(
        self, failed: Reply, *, prompt: Prompt, market: MarketView, account: Account, policy: Policy
    ) -> Reply:
        """Let the last resort stand in, on paper; the failed calls stay on the account."""
        if self._last_resort is None or account.mode is not AccountMode.PAPER:
            return failed
        reply = await self._last_resort.propose(
            prompt=prompt, market=market, account=account, policy=policy, budget_s=SHORTEST_CALL_S
        )
        call = replace(failed.call, name=reply.call.name, model=reply.call.model, target=None, raw_reply=None)
        return replace(reply, call=call, degraded=True)

    def _follow(self, rest: Coroutine[Any, Any, Reply]) -> asyncio.Task[Reply]:
        task = asyncio.create_task(rest)
        self._rests.add(task)
        task.add_done_callback(self._rests.discard)
        return task

    def keep_until_ended(self, call: Call) -> None:
        """Hold on to a call until nothing of it is under way, so that closing can wait for it."""
        self._ending.add(call)
        call.when_over(self._ending.discard)

    def _cut_off(self, running: Sequence[Running]) -> None:
        for item in running:
            item.call.cancel()
            took_s = item.call.took_s or 0.0
            item.route.answers.add_at_least(took_s)
            if item.call.begun_s is None:
                item.route.beginnings.add_at_least(took_s)
            item.route.breaker = item.route.breaker.abandoned(era=item.era)


class _Race:
    """Run the calls of one decision until one proposes or nothing is left to try."""

    def __init__(self, decider: RoutedDecider, *, prompt: Prompt, until: float) -> None:
        self._decider = decider
        self._prompt = prompt
        self._until = until
        self._untried = list(decider.routes)
        self._hedged = False
        self._retried = False
        self._begun_in_time = False
        self._details: list[str] = []
        self._last: tuple[Route, Reading] | None = None
        self.running: list[Running] = []
        self.calls: list[Call] = []
        self.outcome: Proposal | DeciderFailure = NO_TARGET

    async def run(self) -> Call | None:
        """Return the call whose proposal counts; None when none does."""
        if self._left_s() <= 0:
            self.outcome = failure(ModelFailure.TIMEOUT, "no time was left to ask")
            return None
        self._start_next()
        while self.running or await self._try_again():
            if not await self._one_answered(self._until_late_s()):
                self._hedge()
            for item in [item for item in self.running if item.call.answered.done()]:
                self.running.remove(item)
                if self._settle(item):
                    return item.call
                self._start_next()
        return None

    async def _one_answered(self, within_s: float | None) -> bool:
        """Wait until a call has answered, and tell whether one has; by shorter ways than `asyncio.wait`."""
        answers = [item.call.answered for item in self.running]
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()

        def wake(_: object = None) -> None:
            if not woken.done():
                woken.set_result(None)

        for answer in answers:
            answer.add_done_callback(wake)
        timer = None if within_s is None else loop.call_later(within_s, wake)
        try:
            await woken
        finally:
            if timer is not None:
                timer.cancel()
            for answer in answers:
                answer.remove_done_callback(wake)
        return any(answer.done() for answer in answers)

    # --- calls begin -----------------------------------------------------------------------------------

    def _start_next(self) -> None:
        """Ask the next target that may be asked, if there is time; a call that is under way still may win."""
        while self._untried:
            route = self._untried.pop(0)
            if self._may_ask(route):
                self._start(route)
                return

    def _may_ask(self, route: Route) -> bool:
        left_s, now = self._left_s(), time.monotonic()
        enough = left_s >= (route.least_s() if self.calls else SHORTEST_CALL_S)
        return enough and route.breaker.admits(now=now)

    def _start(self, route: Route, *, hedged: bool = False) -> None:
        now = time.monotonic()
        route.breaker, route.used_at = route.breaker.begun(now=now), now
        call = route.client.call(self._prompt, budget_s=self._until - now, hedged=hedged)
        self._decider.keep_until_ended(call)
        self.running.append(Running(call=call, route=route, era=route.breaker.era, first=not self.calls))
        self.calls.append(call)

    async def _try_again(self) -> bool:
        """Ask the last target once more, if its fault may have passed and there is time to let it."""
        if self._last is None or self._retried:
            return False
        route, reading = self._last
        if not reading.passing:
            return False
        pause_s = RETRY_PAUSE_S * (1 + self._decider.draw())
        if reading.retry_after_s is not None:
            pause_s = max(pause_s, reading.retry_after_s)
        if self._left_s() - pause_s < route.least_s() or not self._decider.retries.spend():
            return False
        self._retried = True
        await asyncio.sleep(pause_s)
        if not self._may_ask(route):
            return False
        self._start(route)
        return True

    # --- a call is late --------------------------------------------------------------------------------

    def _until_late_s(self) -> float | None:
        """Give the seconds until the one call under way is late; None where that would change nothing."""
        if self._hedged or len(self.running) != 1 or not self._decider.hedges.ever:
            return None
        (item,) = self.running
        return max(0.0, item.call.started + self._late_after_s(item) - time.monotonic())

    def _late_after_s(self, item: Running) -> float:
        window = item.route.answers
        if item.route.client.target.stream and not self._begun_in_time and item.call.begun_s is None:
            window = item.route.beginnings
        low, high = window.quantile(0.9), window.quantile(0.95)
        if low is None or high is None:
            return item.call.budget_s * UNKNOWN_HEDGE
        median_s = self._second(item).answers.quantile(0.5) or 0.0
        return min(max(item.call.budget_s - median_s, low), high)

    def _hedge(self) -> None:
        (item,) = self.running
        second = self._second(item)
        begun = item.call.begun_s is not None
        if begun and not self._begun_in_time:
            self._begun_in_time = True  # it may still be late with its answer
            return
        self._hedged = True
        if self._may_ask(second) and self._decider.hedges.spend(keep=1.0 if begun else 0.0):
            if second in self._untried:
                self._untried.remove(second)
            self._start(second, hedged=True)

    def _second(self, item: Running) -> Route:
        """Choose whom a hedge asks: the next target that may be asked, else the same."""
        now = time.monotonic()
        return next((route for route in self._untried if route.breaker.admits(now=now)), item.route)

    # --- calls end -------------------------------------------------------------------------------------

    def _settle(self, item: Running) -> bool:
        """Learn from a call that answered; tell whether its proposal is the decision's."""
        route, call, reading = item.route, item.call, item.call.answered.result()
        self.outcome = reading.outcome
        if isinstance(reading.outcome, Proposal):
            route.breaker = route.breaker.succeeded(era=item.era)
            route.answers.add(call.took_s or 0.0)
            if call.begun_s is not None:
                route.beginnings.add(call.begun_s)
            return True
        self._last = (route, reading)
        self._details.append(f"{route.name}: {reading.outcome.detail}" if self._many else reading.outcome.detail)
        self.outcome = failure(reading.outcome.code, "; ".join(self._details))
        self._settle_failure(item, reading, code=reading.outcome.code)
        return False

    @property
    def _many(self) -> bool:
        return len(self._decider.routes) > 1

    def _settle_failure(self, item: Running, reading: Reading, *, code: ModelFailure) -> None:
        route, took_s = item.route, item.call.took_s or 0.0
        if reading.spoke:
            route.breaker = route.breaker.succeeded(era=item.era)
        elif code is ModelFailure.TIMEOUT and (reading.stalled or not item.first):
            route.breaker = route.breaker.abandoned(era=item.era)
        else:
            route.breaker = route.breaker.failed(
                era=item.era,
                now=time.monotonic(),
                draw=self._decider.draw(),
                retry_after_s=reading.retry_after_s,
            )
        if code is ModelFailure.TIMEOUT:
            route.answers.add_at_least(took_s)
            if item.call.begun_s is None:
                route.beginnings.add_at_least(took_s)

    def _left_s(self) -> float:
        return self._until - time.monotonic()
