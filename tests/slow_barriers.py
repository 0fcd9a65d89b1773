"""Label a plan a second time: slowly, in exact fractions, by walking every way the price can have gone.

Shares no code with app.domain.triple_barrier and none of its rules. It knows only what an order is, and that a bar's
price begins at the open, visits the low and the high in some order as often as it likes, moves without jumps, and
ends at the close. From that it tries every way through a bar, level by level, executing the orders as their prices
trade, and keeps the worst: a way that loses before one that leaves the plan open before one that wins. Between bars
the price jumps, and orders execute at the open. Time goes forward one interval after the other, bar or no bar.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

LOSS, OPEN, WIN = 0, 1, 2
WAITING, TRIGGERED, IN, OUT = "waiting", "triggered", "in", "out"


class Phase(NamedTuple):
    """Where a plan stands: `paid` once it is in, `got` and its class once it is out, and whether at an open."""

    name: str
    paid: Fraction | None = None
    got: Fraction | None = None
    rank: int = OPEN


@dataclass(frozen=True)
class SlowLabel:
    """state, and for a resolved plan: class, R to 6 decimals, when and where out, when in."""

    state: str
    outcome: str | None = None
    r_multiple: Fraction | None = None
    exit_price: Fraction | None = None
    exit_at: datetime | None = None
    entered_at: datetime | None = None


class Orders:
    """The orders of one plan, as a broker holds them; reads the plan's fields by name."""

    def __init__(self, plan: Any) -> None:
        self.buys = plan.direction.value == "long"
        self.kind = plan.entry_type.value
        self.entry, self.stop, self.target = (Fraction(price) for price in (plan.entry, plan.stop, plan.target))

    def at(self, price: Fraction, phase: Phase) -> Phase:
        """Execute at one price whatever can be executed there, until nothing more can."""
        while (after := self._once(price, phase)) != phase:
            phase = after
        return phase

    def _once(self, price: Fraction, phase: Phase) -> Phase:
        up_to_entry = price >= self.entry if self.buys else price <= self.entry
        down_to_entry = price <= self.entry if self.buys else price >= self.entry
        if phase.name == WAITING:
            if self.kind == "limit" and down_to_entry:
                return Phase(IN, paid=price)
            if self.kind == "stop" and up_to_entry:
                return Phase(IN, paid=price)
            if self.kind == "stop_limit" and up_to_entry:
                return Phase(TRIGGERED)
        if phase.name == TRIGGERED and down_to_entry:
            return Phase(IN, paid=price)
        if phase.name == IN:
            if (self.buys and price <= self.stop) or (not self.buys and price >= self.stop):
                return Phase(OUT, paid=phase.paid, got=price, rank=LOSS)
            if (self.buys and price >= self.target) or (not self.buys and price <= self.target):
                return Phase(OUT, paid=phase.paid, got=price, rank=WIN)
        return phase

    def worst_through(self, bar: Any, phase: Phase) -> Phase:
        """Try every way from the open over low and high to the close; return where the worst one ends."""
        low, high, close = Fraction(bar.low), Fraction(bar.high), Fraction(bar.close)
        inner = [
            price for price in (self.entry, self.stop, self.target, close, Fraction(bar.open)) if low < price < high
        ]
        levels = sorted({low, high, *inner})
        start = (levels.index(Fraction(bar.open)), False, False, phase)
        reached, edge, ends = {start}, [start], set()
        while edge:
            place, was_low, was_high, phase = edge.pop()
            phase = self.at(levels[place], phase)
            was_low, was_high = was_low or place == 0, was_high or place == len(levels) - 1
            if phase.name == OUT or (was_low and was_high and levels[place] == close):
                ends.add(phase)
            for step in (-1, 1) if phase.name != OUT else ():
                state = (place + step, was_low, was_high, phase)
                if 0 <= place + step < len(levels) and state not in reached:
                    reached.add(state)
                    edge.append(state)
        worst = min(end.rank for end in ends)
        (end,) = {end for end in ends if end.rank == worst}
        return end


def slow_label(*, plan: Any, bars: Mapping[datetime, Any], interval: timedelta) -> SlowLabel:
    """Label a plan from bars by their time, which lie whole intervals apart from midnight UTC."""
    orders = Orders(plan)
    phase = Phase(IN, paid=Fraction(plan.entry)) if plan.entry_type.value == "market" else Phase(WAITING)
    entered_at = plan.as_of if phase.name == IN else None
    moment = plan.as_of.replace(hour=0, minute=0, second=0, microsecond=0)
    while moment < plan.as_of:
        moment += interval
    last = None
    while moment < plan.time_stop_at:
        bar = bars.get(moment)
        if bar is not None:
            last = bar
            at_open = orders.at(Fraction(bar.open), phase)
            through = at_open if at_open.name == OUT else orders.worst_through(bar, at_open)
            if entered_at is None and through.paid is not None:
                entered_at = moment
            if through.name == OUT:
                ended_at = moment if at_open.name == OUT else moment + interval
                return _resolved(plan, through, ("loss", "", "win")[through.rank], ended_at, entered_at)
            phase = through
        moment += interval
    end_of_bars = max(bars, default=None)
    over_by_bar = last is not None and last.t + interval >= plan.time_stop_at
    if not over_by_bar and (end_of_bars is None or end_of_bars < plan.time_stop_at):
        return SlowLabel(state="pending")
    if phase.name != IN:
        return SlowLabel(state="unfilled")
    if last is not None:
        return _resolved(plan, phase._replace(got=Fraction(last.close)), "timeout", last.t + interval, entered_at)
    first = min(moment for moment in bars if moment >= plan.time_stop_at)
    return _resolved(plan, phase._replace(got=Fraction(bars[first].open)), "timeout", first, entered_at)


def _resolved(plan: Any, phase: Phase, outcome: str, exit_at: datetime, entered_at: datetime | None) -> SlowLabel:
    assert phase.paid is not None
    assert phase.got is not None
    gross = phase.got - phase.paid if plan.direction.value == "long" else phase.paid - phase.got
    cost = Fraction(plan.cost_usd)
    unit = abs(Fraction(plan.entry) - Fraction(plan.stop)) + cost
    return SlowLabel(
        state="resolved",
        outcome=outcome,
        r_multiple=round((gross - cost) / unit, 6),
        exit_price=phase.got,
        exit_at=exit_at,
        entered_at=entered_at,
    )
