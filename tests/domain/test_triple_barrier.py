"""Which barrier comes first, at which price, and what cannot be known from bars.

The plan of these tests is long: in at 100, stop 95, target 115, no cost, so that 1 R is 5 dollars; decided on Friday
at 15:30 with a time stop of 72 hours, Monday 15:30. Each bar is written "open high low close" and is a day long, the
first on Saturday. Every scene is played twice, as it stands and turned over at 100 (a price of 115 becomes 85) for a
short plan, which must come out the same in R.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.domain.indicators import Bar
from app.domain.outcome import Outcome, OutcomeClass, Plan
from app.domain.proposal import Direction, EntryType
from app.domain.triple_barrier import (
    BarFault,
    DroppedBar,
    PaperLabel,
    PaperState,
    PriceBar,
    clean_bars,
    paper_label,
)
from tests.builders import AS_OF

DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)
SATURDAY = AS_OF.replace(hour=0, minute=0) + DAY
PENDING = PaperLabel(state=PaperState.PENDING)
UNFILLED = PaperLabel(state=PaperState.UNFILLED)
QUIET = "100 101 99 100"
LIMIT = {"entry_type": EntryType.LIMIT, "entry": 98}
"""3 dollars from entry to stop."""
STOP = {"entry_type": EntryType.STOP, "entry": 105}
"""10 dollars from entry to stop, and from entry to target."""
STOP_LIMIT = {"entry_type": EntryType.STOP_LIMIT, "entry": 105}


def a_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "direction": Direction.LONG,
        "entry_type": EntryType.MARKET,
        "entry": 100,
        "stop": 95,
        "target": 115,
        "cost_usd": 0,
        "as_of": AS_OF,
        "time_stop_at": AS_OF + timedelta(hours=72),
        "ev_r": None,
    }
    values |= changes
    return Plan(**values | {name: Decimal(values[name]) for name in ("entry", "stop", "target", "cost_usd")})


def a_bar(prices: str = QUIET, *, t: datetime = SATURDAY, **changes: Any) -> PriceBar:
    open_, high, low, close = map(Decimal, prices.split())
    bar = PriceBar(t=t, open=open_, high=high, low=low, close=close, volume=Decimal(1_000))
    return replace(bar, **changes)


def days(*prices: str) -> list[PriceBar]:
    """Bars from Saturday on; an empty text leaves its day out."""
    return [a_bar(text, t=SATURDAY + number * DAY) for number, text in enumerate(prices) if text]


def turned_over(plan: Plan) -> Plan:
    return replace(
        plan, direction=Direction.SHORT, entry=200 - plan.entry, stop=200 - plan.stop, target=200 - plan.target
    )


def labelled(bars: list[PriceBar], **plan: Any) -> PaperLabel:
    """Label both ways, make sure that they agree, and return the label of the long plan."""
    long = a_plan(**plan)
    label = paper_label(plan=long, bars=bars, interval=DAY)
    mirrored = [
        replace(bar, open=200 - bar.open, high=200 - bar.low, low=200 - bar.high, close=200 - bar.close) for bar in bars
    ]
    short = paper_label(plan=turned_over(long), bars=mirrored, interval=DAY)
    assert short.state is label.state
    if label.outcome is not None and label.outcome.exit_price is not None:
        assert short.outcome == replace(label.outcome, exit_price=200 - label.outcome.exit_price)
    return label


def outcome_of(bars: list[PriceBar], **plan: Any) -> Outcome:
    label = labelled(bars, **plan)
    assert label.state is PaperState.RESOLVED
    assert label.outcome is not None
    return label.outcome


def ended(bars: list[PriceBar], **plan: Any) -> tuple[str, str, str]:
    """Class, R and exit price in short."""
    outcome = outcome_of(bars, **plan)
    return str(outcome.outcome), f"{outcome.r_multiple.normalize():f}", str(outcome.exit_price)


# --- barriers ---------------------------------------------------------------------------------------------


def test_the_target_is_met_from_the_very_price_on() -> None:
    assert labelled(days("100 114.99 99 100")) == PENDING
    # (115 - 100) / 5 = 3
    assert ended(days("100 115 99 100")) == ("win", "3", "115")
    assert ended(days("100 115.01 99 100")) == ("win", "3", "115")


def test_the_stop_is_met_from_the_very_price_on() -> None:
    assert labelled(days("100 101 95.01 100")) == PENDING
    # (95 - 100) / 5 = -1
    assert ended(days("100 101 95 100")) == ("loss", "-1", "95")
    assert ended(days("100 101 94.99 100")) == ("loss", "-1", "95")


def test_the_stop_comes_first_when_both_are_touched_in_one_bar() -> None:
    assert ended(days("100 115 95 114")) == ("loss", "-1", "95")


def test_the_barrier_of_the_earlier_bar_counts() -> None:
    assert ended(days(QUIET, "100 115 99 100", "100 101 95 100")) == ("win", "3", "115")
    assert ended(days(QUIET, "100 101 95 100", "100 115 99 100")) == ("loss", "-1", "95")


def test_a_gap_beyond_the_stop_ends_at_the_open() -> None:
    # (93 - 100) / 5 = -1.4; that it rose to the target later that day changes nothing
    assert ended(days("93 115 92 114")) == ("loss", "-1.4", "93")


def test_a_gap_beyond_the_target_ends_at_the_open() -> None:
    # (117 - 100) / 5 = 3.4; that it fell to the stop later that day changes nothing
    assert ended(days("117 118 95 96")) == ("win", "3.4", "117")


@pytest.mark.parametrize(("prices", "expected"), [("95 115 95 100", "loss"), ("115 115 95 100", "win")])
def test_an_open_at_the_barrier_itself_ends_there_at_the_open(prices: str, expected: str) -> None:
    outcome = outcome_of(days(QUIET, prices))

    assert (outcome.outcome, outcome.exit_at) == (OutcomeClass(expected), SATURDAY + DAY)


def test_costs_count_in_the_result_and_in_the_unit() -> None:
    # L + C = 5 + 1 = 6: the stop (-5 - 1) / 6 = -1; the target (15 - 1) / 6 = 2.333333...
    assert ended(days("100 101 95 100"), cost_usd="1") == ("loss", "-1", "95")
    assert ended(days("100 115 99 100"), cost_usd="1") == ("win", "2.333333", "115")


def test_a_market_entry_is_in_at_the_judged_price_at_as_of() -> None:
    outcome = outcome_of(days("103 115 102 114"))

    # (115 - 100) / 5, whatever the first bar opened at; from Friday 15:30 to the end of Saturday are 32.5 hours
    assert outcome == Outcome(
        outcome=OutcomeClass.WIN,
        r_multiple=Decimal(3),
        exit_at=SATURDAY + DAY,
        exit_price=Decimal(115),
        entered_at=AS_OF,
        holding_s=32 * 3600 + 1800,
        realized_usd=None,
        fees_usd=None,
    )


# --- which bars count ---------------------------------------------------------------------------------------


def test_a_bar_that_began_before_as_of_does_not_count() -> None:
    assert labelled([a_bar("100 101 95 100", t=AS_OF - INSTANT)]) == PENDING
    assert ended([a_bar("100 101 95 100", t=AS_OF)]) == ("loss", "-1", "95")


def test_a_bar_that_begins_at_the_time_stop_does_not_count() -> None:
    time_stop = AS_OF + timedelta(hours=72)
    touching = "100 101 95 100"

    assert ended([a_bar(touching, t=time_stop - INSTANT)]) == ("loss", "-1", "95")
    # Saturday's close of 101 is 0.2 R.
    assert ended([a_bar("100 101 99 101"), a_bar(touching, t=time_stop)]) == ("timeout", "0.2", "101")


def test_missing_bars_are_missing() -> None:
    assert ended(days("", "", "100 115 99 100")) == ("win", "3", "115")


def test_a_label_is_a_function_of_the_set_of_bars() -> None:
    bars = days(QUIET, "100 101 95 100", "100 115 99 100")

    assert labelled(bars[::-1]) == labelled(bars)


# --- the time stop ------------------------------------------------------------------------------------------


def test_without_a_bar_a_plan_is_pending() -> None:
    assert labelled([]) == PENDING


def test_a_plan_is_pending_until_its_bars_reach_the_time_stop() -> None:
    assert labelled(days(QUIET, QUIET)) == PENDING
    # Monday's bar ends at midnight, after 15:30: (102 - 100) / 5 = 0.4.
    assert ended(days(QUIET, QUIET, "100 103 99 102")) == ("timeout", "0.4", "102")


def test_a_bar_that_ends_at_the_time_stop_reaches_it() -> None:
    ends = SATURDAY + DAY

    assert labelled(days(QUIET), time_stop_at=ends + INSTANT) == PENDING
    assert ended(days("100 101 99 101"), time_stop_at=ends) == ("timeout", "0.2", "101")


def test_any_later_bar_tells_that_the_time_is_over() -> None:
    # The last bar that counts is Sunday's: (98 - 100) / 5 = -0.4.
    assert ended(days(QUIET, "100 101 97 98", "", "90 90 90 90")) == ("timeout", "-0.4", "98")


def test_a_time_stop_that_no_bar_met_ends_at_the_open_of_the_next_bar() -> None:
    outcome = outcome_of(days("", "", "", "104 120 90 119", "50 60 40 50"))

    # (104 - 100) / 5 = 0.8 on Tuesday; what Tuesday touched came after the time stop
    assert (outcome.outcome, outcome.r_multiple, outcome.exit_price, outcome.exit_at) == (
        OutcomeClass.TIMEOUT,
        Decimal("0.8"),
        Decimal(104),
        SATURDAY + 3 * DAY,
    )


def test_a_timeout_ends_with_its_last_bar() -> None:
    outcome = outcome_of(days(QUIET, QUIET, QUIET))

    assert (outcome.exit_at, outcome.r_multiple) == (SATURDAY + 3 * DAY, Decimal(0))


def test_a_barrier_in_the_last_bar_comes_before_the_time_stop() -> None:
    assert ended(days(QUIET, QUIET, "100 115 99 100")) == ("win", "3", "115")


# --- limit entries ------------------------------------------------------------------------------------------


def test_a_limit_entry_is_in_from_the_very_price_on() -> None:
    met = "100 115 99 114"
    # (115 - 98) / 3 = 5.666667
    won = ("win", "5.666667", "115")

    assert labelled(days("100 101 98.01 100", met), **LIMIT) == PENDING
    assert ended(days("100 101 98 100", met), **LIMIT) == won
    assert ended(days("100 101 97.99 100", met), **LIMIT) == won


def test_a_limit_entry_opened_better_is_in_at_the_open() -> None:
    # In at 97, out at 95: (95 - 97) / 3 = -0.666667; in at 98 it is a full stop.
    assert ended(days("97 99 96 98", "98 99 95 96"), **LIMIT) == ("loss", "-0.666667", "95")
    assert ended(days("98 99 96 98", "98 99 95 96"), **LIMIT) == ("loss", "-1", "95")


def test_a_limit_entry_filled_inside_a_bar_cannot_have_sold_its_high() -> None:
    assert labelled(days("100 116 98 114.99"), **LIMIT) == PENDING


@pytest.mark.parametrize("close", ["115", "115.01"])
def test_a_limit_entry_filled_inside_a_bar_wins_when_the_close_has_reached_the_target(close: str) -> None:
    assert ended(days(f"100 116 98 {close}"), **LIMIT) == ("win", "5.666667", "115")


def test_a_limit_entry_filled_inside_a_bar_is_stopped_in_it() -> None:
    assert labelled(days("100 101 95.01 96"), **LIMIT) == PENDING
    assert ended(days("100 101 95 96"), **LIMIT) == ("loss", "-1", "95")
    assert ended(days("100 116 95 116"), **LIMIT) == ("loss", "-1", "95")


def test_a_limit_entry_filled_at_the_open_may_sell_the_high_of_its_bar() -> None:
    assert ended(days("98 115 97 100"), **LIMIT) == ("win", "5.666667", "115")


def test_a_limit_entry_may_sell_the_high_of_the_bar_after_its_own() -> None:
    assert ended(days("100 116 98 100", "100 115 99 100"), **LIMIT) == ("win", "5.666667", "115")


def test_a_limit_entry_that_opens_beyond_its_stop_is_stopped_at_once() -> None:
    # In and out at 94, which costs C alone: -0.6 / (3 + 0.6) = -0.166667.
    outcome = outcome_of(days("94 116 93 115"), cost_usd="0.6", **LIMIT)

    assert (outcome.outcome, outcome.r_multiple) == (OutcomeClass.LOSS, Decimal("-0.166667"))
    assert (outcome.entered_at, outcome.exit_at, outcome.holding_s) == (SATURDAY, SATURDAY, 0)


def test_a_limit_entry_in_and_out_inside_one_bar_took_at_most_that_bar() -> None:
    outcome = outcome_of(days(QUIET, "100 101 95 96"), **LIMIT)

    assert (outcome.entered_at, outcome.exit_at, outcome.holding_s) == (SATURDAY + DAY, SATURDAY + 2 * DAY, 86_400)


@pytest.mark.parametrize("order", [LIMIT, STOP, STOP_LIMIT])
def test_an_entry_that_never_traded_is_unfilled(order: dict[str, Any]) -> None:
    assert labelled(days(QUIET, QUIET), **order) == PENDING
    assert labelled(days(QUIET, QUIET, QUIET), **order) == UNFILLED
    assert labelled(days("", "", "", "98 115 95 105"), **order) == UNFILLED


def test_a_filled_limit_entry_meets_the_time_stop_like_any_other() -> None:
    # In at 98, out at Monday's close: (99.5 - 98) / 3 = 0.5.
    assert ended(days("100 101 98 99", QUIET, "100 101 99 99.5"), **LIMIT) == ("timeout", "0.5", "99.5")


# --- stop entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [STOP, STOP_LIMIT])
def test_a_stop_entry_is_in_from_the_very_price_on(order: dict[str, Any]) -> None:
    met = "106 115 105.5 110"

    assert labelled(days("100 104.99 99 104", "104 104.99 99 104"), **order) == PENDING
    # (115 - 105) / 10 = 1
    assert ended(days("100 105 99 104", met), **order) == ("win", "1", "115")
    assert ended(days("100 105.01 99 104", met), **order) == ("win", "1", "115")


@pytest.mark.parametrize("order", [STOP, STOP_LIMIT])
def test_a_stop_entry_filled_inside_a_bar_sells_the_high_of_it(order: dict[str, Any]) -> None:
    assert labelled(days("100 114.99 99 104"), **order) == PENDING
    assert ended(days("100 115 99 104"), **order) == ("win", "1", "115")


@pytest.mark.parametrize("order", [STOP, STOP_LIMIT])
def test_a_stop_entry_filled_inside_a_bar_counts_a_touched_stop_as_after_the_fill(order: dict[str, Any]) -> None:
    assert labelled(days("100 106 95.01 104"), **order) == PENDING
    assert ended(days("100 106 95 104"), **order) == ("loss", "-1", "95")
    assert ended(days("100 115 95 115"), **order) == ("loss", "-1", "95")
    # The open at the stop lies before the fill, so the exit is at the stop and not at the open.
    assert ended(days("94 106 93 104"), **order) == ("loss", "-1", "95")


def test_a_stop_entry_is_in_at_the_open_when_it_gaps_beyond() -> None:
    # In at 108: the target is (115 - 108) / 10 = 0.7, the stop (95 - 108) / 10 = -1.3.
    assert ended(days("108 115 107 110"), **STOP) == ("win", "0.7", "115")
    assert ended(days("108 115 95 110"), **STOP) == ("loss", "-1.3", "95")


def test_a_stop_entry_that_gaps_beyond_the_target_is_in_and_out_at_the_open() -> None:
    # In and out at 116, which costs C alone: -2.5 / (10 + 2.5) = -0.2. The target was reached before the stop.
    outcome = outcome_of(days("116 117 95 96"), cost_usd="2.5", **STOP)

    assert (outcome.outcome, outcome.r_multiple, outcome.exit_at) == (OutcomeClass.WIN, Decimal("-0.2"), SATURDAY)


# --- stop-limit entries -------------------------------------------------------------------------------------


def test_a_stop_limit_entry_does_not_follow_a_gap() -> None:
    assert labelled(days("108 114 105.01 110", "110 114 106 110", "110 114 106 110"), **STOP_LIMIT) == UNFILLED


def test_a_stop_limit_entry_that_gapped_is_in_when_its_bar_trades_back() -> None:
    gapped = "108 116 105 110"

    # In at 105 inside the bar: the high of 116 may have come before.
    assert labelled(days(gapped), **STOP_LIMIT) == PENDING
    assert ended(days(gapped, "110 115 109 110"), **STOP_LIMIT) == ("win", "1", "115")
    assert ended(days("108 116 95 110"), **STOP_LIMIT) == ("loss", "-1", "95")
    assert ended(days("108 116 105 115"), **STOP_LIMIT) == ("win", "1", "115")


def test_a_stop_limit_entry_that_gapped_is_in_when_a_later_bar_trades_back() -> None:
    gapped = "108 110 106 107"

    assert ended(days(gapped, "107 108 105 107", "110 115 109 110"), **STOP_LIMIT) == ("win", "1", "115")
    # A resting limit order that opens better fills at the open, 104: (115 - 104) / 10 = 1.1.
    assert ended(days(gapped, "104 115 103 107"), **STOP_LIMIT) == ("win", "1.1", "115")


def test_a_stop_limit_entry_that_opens_at_its_price_is_in_at_the_open() -> None:
    assert ended(days("105 115 104 110"), **STOP_LIMIT) == ("win", "1", "115")


def test_a_stop_limit_entry_waits_for_its_trigger_below_it() -> None:
    # A limit entry would have been in at 104 already.
    assert labelled(days("104 104.99 100 104"), **STOP_LIMIT) == PENDING


# --- what came before the entry -----------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["98 99 97 98", "100 101 98 100"])
def test_a_target_touched_before_a_limit_entry_was_in_does_not_count(fill: str) -> None:
    assert labelled(days("100 116 99 100", fill), **LIMIT) == PENDING
    assert ended(days("100 116 99 100", fill, "100 101 95 96"), **LIMIT) == ("loss", "-1", "95")


@pytest.mark.parametrize("fill", ["105 106 104 105", "100 106 99 105"])
@pytest.mark.parametrize("order", [STOP, STOP_LIMIT])
def test_a_stop_touched_before_a_stop_entry_was_in_does_not_count(order: dict[str, Any], fill: str) -> None:
    assert labelled(days("100 101 94 100", fill), **order) == PENDING
    assert ended(days("100 101 94 100", fill, "105 115 104 110"), **order) == ("win", "1", "115")


# --- received bars ------------------------------------------------------------------------------------------

NOW = SATURDAY + 10 * DAY


def faults(*bars: PriceBar, now: datetime = NOW) -> list[BarFault]:
    return [dropped.fault for dropped in clean_bars(bars, interval=DAY, now=now).dropped]


def test_clean_bars_are_kept_in_their_order() -> None:
    bars = days(QUIET, QUIET, "100 100 100 100")

    received = clean_bars(bars, interval=DAY, now=NOW)

    assert (received.kept, received.dropped) == (tuple(bars), ())


@pytest.mark.parametrize("field", ["open", "high", "low", "close", "volume"])
@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_bar_with_a_number_that_is_none_is_not_finite(field: str, value: str) -> None:
    changes: dict[str, Any] = {field: Decimal(value)}

    assert faults(replace(a_bar(), **changes)) == [BarFault.NOT_FINITE]


@pytest.mark.parametrize("low", ["0", "-0.01"])
def test_a_bar_with_a_price_of_nothing_or_less_is_not_positive(low: str) -> None:
    assert faults(a_bar(f"100 101 {low} 100")) == [BarFault.NOT_POSITIVE]
    assert faults(a_bar("100 101 0.01 100")) == []


def test_a_bar_may_have_no_volume_but_not_less() -> None:
    assert faults(a_bar(volume=Decimal(0))) == []
    assert faults(a_bar(volume=Decimal("-0.01"))) == [BarFault.NEGATIVE_VOLUME]


def test_a_bar_with_its_high_below_its_low_is_dropped() -> None:
    assert faults(a_bar("100 99.99 100 100")) == [BarFault.HIGH_BELOW_LOW]
    assert faults(a_bar("100 100 100 100")) == []


@pytest.mark.parametrize("prices", ["101.01 101 99 100", "98.99 101 99 100", "100 101 99 101.01", "100 101 99 98.99"])
def test_a_bar_that_opens_or_closes_outside_its_range_is_dropped(prices: str) -> None:
    assert faults(a_bar(prices)) == [BarFault.OUTSIDE_RANGE]


@pytest.mark.parametrize("prices", ["101 101 99 99", "99 101 99 101"])
def test_a_bar_may_open_and_close_at_the_ends_of_its_range(prices: str) -> None:
    assert faults(a_bar(prices)) == []


def test_a_bar_that_is_not_over_is_still_open() -> None:
    ends = SATURDAY + DAY

    assert faults(a_bar(), now=ends - INSTANT) == [BarFault.STILL_OPEN]
    assert faults(a_bar(), now=ends) == []


def test_of_bars_with_one_time_the_first_usable_one_is_kept() -> None:
    dirty, first, second = a_bar("100 99 101 100"), a_bar("100 101 99 100"), a_bar("100 102 98 100")

    received = clean_bars([dirty, first, second, first], interval=DAY, now=NOW)

    assert received.kept == (first,)
    assert received.dropped == (
        DroppedBar(index=0, t=SATURDAY, fault=BarFault.HIGH_BELOW_LOW),
        DroppedBar(index=2, t=SATURDAY, fault=BarFault.DUPLICATED),
        DroppedBar(index=3, t=SATURDAY, fault=BarFault.DUPLICATED),
    )


def test_a_bar_before_the_last_one_kept_is_out_of_order() -> None:
    saturday, sunday, monday = days(QUIET, QUIET, QUIET)

    received = clean_bars([sunday, saturday, sunday, monday], interval=DAY, now=NOW)

    assert received.kept == (sunday, monday)
    assert [(dropped.index, dropped.fault) for dropped in received.dropped] == [
        (1, BarFault.OUT_OF_ORDER),
        (2, BarFault.DUPLICATED),
    ]


def test_a_bar_from_the_future_puts_no_other_out_of_order() -> None:
    future = a_bar(t=NOW)

    received = clean_bars([future, a_bar()], interval=DAY, now=NOW)

    assert received.kept == (a_bar(),)
    assert received.dropped == (DroppedBar(index=0, t=NOW, fault=BarFault.STILL_OPEN),)


def test_a_bar_of_a_snapshot_keeps_its_numbers_as_they_were_written() -> None:
    assert PriceBar.of(Bar(SATURDAY, 125.4, 126.1, 122.4, 125.0, 240_000_000.0)) == PriceBar(
        t=SATURDAY,
        open=Decimal("125.4"),
        high=Decimal("126.1"),
        low=Decimal("122.4"),
        close=Decimal("125"),
        volume=Decimal(240_000_000),
    )
