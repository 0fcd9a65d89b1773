"""Label a plan from bars: which comes first, the target, the stop or the time stop (Lopez de Prado 2018, ch. 3).

A bar tells where the price began, where it ended and how far it went, but not in which order. So a bar is read as
the worst that could have happened in it: a loss where some way through the bar loses, a win only where every way
wins. All rules below follow from that, and from orders at a gap being filled at the open.

  * A bar counts when it starts at or after `as_of` and before the time stop. A missing bar is simply missing.
  * A market entry is in at the judged price at `as_of`. A limit entry is in when the price trades at the entry or
    better, at the open where the bar opens there. A stop entry is in when the price trades at the entry or beyond,
    at the open where the bar opens there. A stop_limit entry is triggered so; once a bar opens beyond, it is a limit
    entry from that open on.
  * A bar that opens at or beyond the stop or the target ends a plan that is in, at the open; so does the open
    that fills the entry. Otherwise the stop comes first when both are touched.
  * A limit entry filled inside a bar cannot have sold the high of that bar: the high may have traded before the
    fill. The close comes after it, so a close at or beyond the target is a win, and the target traded on the way.
  * A stop entry filled inside a bar rose through the entry from below: the target traded after the fill, if at all.
    The low may have traded before it, and counts as after.
  * At the time stop a plan that is in ends at the close of the last bar that counts, or at the open of the first
    bar after it when none counts. An entry that never traded is unfilled, and is not scored.

The prices of a short plan and its bars are turned over (high = -low and so on), so that each rule stands here once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from app.domain.indicators import Bar
from app.domain.outcome import Outcome, OutcomeClass, Plan, holding_s, in_r
from app.domain.proposal import Direction, EntryType


class PaperState(StrEnum):
    """Say how far a paper label has come; `unfilled` is an entry that never traded, and is not scored."""

    PENDING = "pending"
    RESOLVED = "resolved"
    UNFILLED = "unfilled"


class BarFault(StrEnum):
    """Name why a bar is dropped; the names are part of the contract.

    `not_positive` is a price of 0 or less, `outside_range` an open or close beyond high or low, `still_open` a bar
    that is not over, `conflict` (for the store) one that differs from what is stored for its time.
    """

    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "not_positive"
    NEGATIVE_VOLUME = "negative_volume"
    HIGH_BELOW_LOW = "high_below_low"
    OUTSIDE_RANGE = "outside_range"
    STILL_OPEN = "still_open"
    OUT_OF_ORDER = "out_of_order"
    DUPLICATED = "duplicated"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceBar:
    """Hold one bar exactly: opening time (UTC), prices in dollars per share, volume in shares."""

    t: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal

    @classmethod
    def of(cls, bar: Bar) -> "PriceBar":
        """Take over a bar of a snapshot, each number as it was written."""
        prices = (Decimal(repr(value)) for value in (bar.open, bar.high, bar.low, bar.close, bar.volume))
        open_, high, low, close, volume = prices
        return cls(t=bar.t, open=open_, high=high, low=low, close=close, volume=volume)


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedBar:
    """Say which bar is dropped, by its place in the list as received, and why."""

    index: int
    t: datetime
    fault: BarFault


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedBars:
    """Hold received bars: those that may be used, in their order, and those that may not."""

    kept: tuple[PriceBar, ...]
    dropped: tuple[DroppedBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperLabel:
    """Hold a paper label; `outcome` stands exactly with `resolved`."""

    state: PaperState
    outcome: Outcome | None = None


def clean_bars(bars: Sequence[PriceBar], *, interval: timedelta, now: datetime) -> ReceivedBars:
    """Drop the bars that contradict themselves, repeat or go back in time, or are not over by `now`.

    Of bars with one time the first usable one is kept. `now` is the database clock.
    """
    kept: list[PriceBar] = []
    dropped: list[DroppedBar] = []
    seen: set[datetime] = set()
    for index, bar in enumerate(bars):
        fault = _fault(bar)
        if fault is None and bar.t + interval > now:
            fault = BarFault.STILL_OPEN
        if fault is None and bar.t in seen:
            fault = BarFault.DUPLICATED
        if fault is None and kept and bar.t < kept[-1].t:
            fault = BarFault.OUT_OF_ORDER
        if fault is None:
            kept.append(bar)
            seen.add(bar.t)
        else:
            dropped.append(DroppedBar(index=index, t=bar.t, fault=fault))
    return ReceivedBars(kept=tuple(kept), dropped=tuple(dropped))


def _fault(bar: PriceBar) -> BarFault | None:
    prices = (bar.open, bar.high, bar.low, bar.close)
    if not all(value.is_finite() for value in (*prices, bar.volume)):
        return BarFault.NOT_FINITE
    if min(prices) <= 0:
        return BarFault.NOT_POSITIVE
    if bar.volume < 0:
        return BarFault.NEGATIVE_VOLUME
    if bar.high < bar.low:
        return BarFault.HIGH_BELOW_LOW
    if not (bar.low <= bar.open <= bar.high and bar.low <= bar.close <= bar.high):
        return BarFault.OUTSIDE_RANGE
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fill:
    """Hold an entry that traded in bar `index`: at its open or before, or `inside` it, on the way down or up."""

    price: Decimal
    at: datetime
    index: int
    inside: bool = False
    falling: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exit:
    """Hold where and when a plan ended."""

    outcome: OutcomeClass
    price: Decimal
    at: datetime


def paper_label(*, plan: Plan, bars: Sequence[PriceBar], interval: timedelta) -> PaperLabel:
    """Label a plan from the bars of its symbol that are known: a function of their set, in whatever order.

    R = (sign x (exit - fill) - C) / (L + C). The bars are clean, one for each time, and `interval` long each.
    `entered_at` is the start of the bar that filled the entry; `exit_at` the end of the bar that ended the plan,
    or its start when it ended at the open.
    """
    upright, known = plan, sorted(bars, key=lambda bar: bar.t)
    if plan.direction is Direction.SHORT:
        upright, known = _plan_turned_over(plan), [_bar_turned_over(bar) for bar in known]
    counted = [bar for bar in known if plan.as_of <= bar.t < plan.time_stop_at]
    later = next((bar for bar in known if bar.t >= plan.time_stop_at), None)
    time_stop = _time_stop(plan, counted, later=later, interval=interval)

    fill = _filled(upright, counted)
    if fill is None:
        return PaperLabel(state=PaperState.PENDING if time_stop is None else PaperState.UNFILLED)
    ended = _ended(upright, counted[fill.index :], fill=fill, interval=interval) or time_stop
    if ended is None:
        return PaperLabel(state=PaperState.PENDING)
    return PaperLabel(state=PaperState.RESOLVED, outcome=_outcome(plan, fill=fill, ended=ended))


def _plan_turned_over(plan: Plan) -> Plan:
    return replace(
        plan,
        entry=plan.entry.copy_negate(),
        stop=plan.stop.copy_negate(),
        target=plan.target.copy_negate(),
    )


def _bar_turned_over(bar: PriceBar) -> PriceBar:
    return replace(
        bar,
        open=bar.open.copy_negate(),
        high=bar.low.copy_negate(),
        low=bar.high.copy_negate(),
        close=bar.close.copy_negate(),
    )


def _filled(plan: Plan, bars: Sequence[PriceBar]) -> _Fill | None:
    """Find where the entry trades first."""
    order = plan.entry_type
    if order is EntryType.MARKET:
        return _Fill(price=plan.entry, at=plan.as_of, index=0)
    for index, bar in enumerate(bars):
        if order is EntryType.STOP_LIMIT and bar.open >= plan.entry:
            order = EntryType.LIMIT
        falling = order is EntryType.LIMIT
        if bar.open <= plan.entry if falling else bar.open >= plan.entry:
            return _Fill(price=bar.open, at=bar.t, index=index)
        if bar.low <= plan.entry if falling else bar.high >= plan.entry:
            return _Fill(price=plan.entry, at=bar.t, index=index, inside=True, falling=falling)
    return None


def _ended(plan: Plan, bars: Sequence[PriceBar], *, fill: _Fill, interval: timedelta) -> _Exit | None:
    """Find the barrier that a filled plan meets first, from the bar of its fill on."""
    for index, bar in enumerate(bars):
        filled_inside = fill.inside and index == 0
        if not filled_inside and bar.open <= plan.stop:
            return _Exit(outcome=OutcomeClass.LOSS, price=bar.open, at=bar.t)
        if not filled_inside and bar.open >= plan.target:
            return _Exit(outcome=OutcomeClass.WIN, price=bar.open, at=bar.t)
        if bar.low <= plan.stop:
            return _Exit(outcome=OutcomeClass.LOSS, price=plan.stop, at=bar.t + interval)
        best = bar.close if filled_inside and fill.falling else bar.high
        if best >= plan.target:
            return _Exit(outcome=OutcomeClass.WIN, price=plan.target, at=bar.t + interval)
    return None


def _time_stop(plan: Plan, bars: Sequence[PriceBar], *, later: PriceBar | None, interval: timedelta) -> _Exit | None:
    """Give the exit at the time stop, or None while the bars do not reach it."""
    last = bars[-1] if bars else None
    if last is not None and (later is not None or last.t + interval >= plan.time_stop_at):
        return _Exit(outcome=OutcomeClass.TIMEOUT, price=last.close, at=last.t + interval)
    if last is None and later is not None:
        return _Exit(outcome=OutcomeClass.TIMEOUT, price=later.open, at=later.t)
    return None


def _outcome(plan: Plan, *, fill: _Fill, ended: _Exit) -> Outcome:
    """Reckon a paper outcome in R; fill and exit are turned over where the plan is short."""
    return Outcome(
        outcome=ended.outcome,
        r_multiple=in_r(ended.price - fill.price - plan.cost_usd, unit_usd=plan.unit_usd),
        exit_at=ended.at,
        exit_price=ended.price.copy_abs(),
        entered_at=fill.at,
        holding_s=holding_s(entered_at=fill.at, exit_at=ended.at),
    )
