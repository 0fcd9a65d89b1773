"""What a forecast is held to, and what became of it when its bot closed it.

The plan of these tests buys at 100, stop 95, target 115; the round trip costs 1, so that 1 R is 5 + 1 = 6 dollars a
share. The ticket is of 10 shares: 60 dollars.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.domain.lifecycle import Event, EventKind, ExitReason
from app.domain.outcome import (
    Outcome,
    OutcomeClass,
    Plan,
    executed_outcome,
    holding_s,
    in_r,
    plan_of,
    rounded_r,
)
from app.domain.proposal import Direction, EntryType
from tests.builders import AS_OF, SHORT, a_candidate, a_market, a_symbol, a_trade, judged

HOUR = timedelta(hours=1)
FILLED_AT = AS_OF + timedelta(minutes=1)
CLOSED_AT = AS_OF + 5 * HOUR
TICKET = 10


def a_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "direction": Direction.LONG,
        "entry_type": EntryType.LIMIT,
        "entry": 100,
        "stop": 95,
        "target": 115,
        "cost_usd": 1,
        "as_of": AS_OF,
        "time_stop_at": AS_OF + 48 * HOUR,
        "ev_r": None,
    }
    values |= changes
    return Plan(**values | {name: Decimal(values[name]) for name in ("entry", "stop", "target", "cost_usd")})


A_SHORT = {"direction": Direction.SHORT, "stop": 105, "target": 85}


def told(kind: EventKind, **changes: Any) -> Event:
    """An event of the whole ticket; amounts may be written as text."""
    values: dict[str, Any] = {"event_id": kind.value, "kind": kind, "at": AS_OF, **changes}
    amounts = {
        name: Decimal(values[name]) for name in ("price", "fees", "realized_pnl") if values.get(name) is not None
    }
    return Event(**values | amounts)


def a_fill(**changes: Any) -> Event:
    return told(EventKind.FILLED, **{"at": FILLED_AT, "quantity": TICKET, "price": "100", **changes})


def a_closing(**changes: Any) -> Event:
    return told(EventKind.CLOSED, **{"at": CLOSED_AT, **changes})


def outcome_of(*events: Event, **plan: Any) -> Outcome:
    outcome = executed_outcome(plan=a_plan(**plan), events=events, ticket_quantity=TICKET)
    assert outcome is not None
    return outcome


def classed(closing: Event, **plan: Any) -> tuple[str, str]:
    """Class and R of a closing after a whole fill at the entry."""
    outcome = outcome_of(a_fill(), closing, **plan)
    return str(outcome.outcome), f"{outcome.r_multiple.normalize():f}"


# --- plans ------------------------------------------------------------------------------------------------


def test_one_r_is_the_planned_loss_and_the_planned_cost() -> None:
    assert a_plan().unit_usd == 6
    assert a_plan(**A_SHORT).unit_usd == 6
    assert (a_plan().sign, a_plan(**A_SHORT).sign) == (1, -1)


def test_a_plan_holds_what_was_judged() -> None:
    judgement = judged()
    assert judgement.edge is not None

    plan = plan_of(candidate=a_candidate(), edge=judgement.edge, market=a_market())

    assert plan == Plan(
        direction=Direction.LONG,
        entry_type=EntryType.LIMIT,
        entry=Decimal(100),
        stop=Decimal(95),
        target=Decimal(115),
        cost_usd=judgement.edge.cost_usd,
        as_of=AS_OF,
        time_stop_at=AS_OF + 48 * HOUR,
        ev_r=rounded_r(judgement.edge.ev_r),
    )
    # C is 0.01 of commission and, with 99 of 10 M shares, some impact.
    assert Decimal("0.01") < plan.cost_usd < Decimal("0.03")


def test_the_plan_of_a_blocked_candidate_is_drawn_up_too() -> None:
    judgement = judged(candidate={"conviction": 0})
    assert judgement.candidate is not None
    assert judgement.ticket is None

    assert plan_of(candidate=judgement.candidate, edge=judgement.edge, market=a_market()) is not None


@pytest.mark.parametrize(("changes", "entry"), [({}, "100.02"), (SHORT, "99.98")])
def test_a_market_entry_is_planned_at_the_far_touch(changes: dict[str, Any], entry: str) -> None:
    market = a_market(a_symbol(bid="99.98", ask="100.02"))

    plan = plan_of(candidate=a_candidate(entry_type=EntryType.MARKET, **changes), edge=None, market=market)

    assert plan is not None
    assert plan.entry == Decimal(entry)


def test_without_an_edge_the_plan_costs_nothing_and_expects_nothing() -> None:
    plan = plan_of(candidate=a_candidate(), edge=None, market=a_market())

    assert plan is not None
    assert (plan.cost_usd, plan.ev_r) == (Decimal(0), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"symbol": "BOLT"},
        {"p_win_pct": 100},
        {"stop_loss": None},
        {"target_price": None},
        {"entry_price": None},
    ],
)
def test_an_incomplete_candidate_has_no_plan(changes: dict[str, Any]) -> None:
    assert plan_of(candidate=a_candidate(**changes), edge=None, market=a_market()) is None


@pytest.mark.parametrize(
    ("prices", "labelled"),
    [
        ({"stop_loss": "99.99", "target_price": "100.01"}, True),
        ({"stop_loss": "100.00"}, False),
        ({"stop_loss": "100.01"}, False),
        ({"target_price": "100.00"}, False),
        ({"target_price": "99.99"}, False),
        ({**SHORT, "stop_loss": "100.01", "target_price": "99.99"}, True),
        ({**SHORT, "stop_loss": "100.00"}, False),
        ({**SHORT, "stop_loss": "99.99"}, False),
        ({**SHORT, "target_price": "100.00"}, False),
        ({**SHORT, "target_price": "100.01"}, False),
    ],
)
def test_a_plan_needs_its_entry_between_stop_and_target(prices: dict[str, Any], labelled: bool) -> None:
    assert (plan_of(candidate=a_candidate(**prices), edge=None, market=a_market()) is not None) is labelled


def test_an_entry_far_from_the_market_has_a_plan() -> None:
    # The stop lies above mid, which the gates refuse; from the entry it lies on the right side.
    plan = plan_of(
        candidate=a_candidate(entry_price="110.00", stop_loss="105.00"), edge=None, market=a_market(a_symbol())
    )

    assert plan is not None


def test_the_reported_candidate_of_a_judgement_has_a_plan() -> None:
    judgement = judged(a_trade(a_candidate(p_win_pct=30), a_candidate(p_win_pct=60)))
    assert judgement.candidate is not None
    assert judgement.edge is not None

    plan = plan_of(candidate=judgement.candidate, edge=judgement.edge, market=a_market())

    assert plan is not None
    assert plan.ev_r == rounded_r(judgement.edge.ev_r) > 0


# --- R ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exact", "rounded"),
    [("0.0000005", "0"), ("0.0000015", "0.000002"), ("-0.0000025", "-0.000002"), ("1.2345674999", "1.234567")],
)
def test_r_is_rounded_to_six_decimals_half_to_even(exact: str, rounded: str) -> None:
    assert rounded_r(Decimal(exact)) == Decimal(rounded)


def test_the_largest_result_by_the_smallest_unit_still_has_its_decimals() -> None:
    # 1e13 / 3e-13 = 3.33e25, 26 digits before the point and 6 after it
    assert in_r(Decimal("1e13"), unit_usd=Decimal("3e-13")) == Decimal("3" * 26 + "." + "3" * 6)


def test_holding_time_is_in_whole_seconds() -> None:
    assert holding_s(entered_at=AS_OF, exit_at=AS_OF + HOUR + timedelta(seconds=1, milliseconds=999)) == 3601


# --- executed outcomes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [(), (told(EventKind.CLAIMED),), (a_fill(),), (told(EventKind.CANCELLED),)])
def test_a_ticket_that_is_not_closed_has_no_outcome(events: tuple[Event, ...]) -> None:
    assert executed_outcome(plan=a_plan(), events=events, ticket_quantity=TICKET) is None


def test_an_outcome_is_reckoned_from_fills_exit_and_fees() -> None:
    outcome = outcome_of(
        told(EventKind.CLAIMED),
        told(EventKind.PARTIALLY_FILLED, at=FILLED_AT, quantity=4, price="99.5", fees="0.2"),
        a_fill(at=FILLED_AT + HOUR, quantity=6, price="100", fees="0.3"),
        a_closing(price="115", quantity=10, fees="0.5", exit_reason=ExitReason.TARGET),
    )

    # Paid 4 x 99.5 + 6 x 100 = 998; got 10 x 115 = 1150; fees 1: net 151, of 60 dollars 2.516667 R.
    # From the first fill, a minute after as_of, to the closing, five hours after it, are 17,940 seconds.
    assert outcome == Outcome(
        outcome=OutcomeClass.WIN,
        r_multiple=Decimal("2.516667"),
        exit_at=CLOSED_AT,
        exit_price=Decimal(115),
        entered_at=FILLED_AT,
        holding_s=17_940,
        realized_usd=Decimal(151),
        fees_usd=Decimal(1),
    )


def test_fills_told_out_of_order_count_by_their_times() -> None:
    late, early = a_fill(quantity=6, at=FILLED_AT + HOUR), a_fill(quantity=4, at=FILLED_AT)

    assert outcome_of(late, early, a_closing(price="115")).entered_at == FILLED_AT


def test_a_short_gains_when_the_price_falls() -> None:
    # (100 - 85) x 10 = 150 of 60 dollars; (100 - 105) x 10 = -50 of 60
    assert classed(a_closing(price="85"), **A_SHORT) == ("win", "2.5")
    assert classed(a_closing(price="105"), **A_SHORT) == ("loss", "-0.833333")


def test_told_realized_pnl_counts_as_it_is_told() -> None:
    outcome = outcome_of(a_fill(fees="2"), a_closing(price="104", realized_pnl="36", fees="2"))

    # 36 / 60; fees are told, and part of it already.
    assert (outcome.r_multiple, outcome.realized_usd, outcome.fees_usd) == (Decimal("0.6"), Decimal(36), Decimal(4))


def test_fees_that_nobody_told_are_unknown() -> None:
    outcome = outcome_of(a_fill(), a_closing(price="104"))

    assert (outcome.fees_usd, outcome.realized_usd) == (None, Decimal(40))


def test_the_closed_shares_count_then_the_filled_then_the_tickets() -> None:
    # Two dollars a share: 5 of 10 filled shares closed, 5 filled, or all 10 of the ticket.
    closed_part = outcome_of(a_fill(quantity=10), a_closing(quantity=5, price="102"))
    filled_part = outcome_of(a_fill(quantity=5), a_closing(price="102"))
    untold = outcome_of(a_closing(price="102"))

    assert [outcome.realized_usd for outcome in (closed_part, filled_part, untold)] == [10, 10, 20]
    assert {outcome.r_multiple for outcome in (closed_part, filled_part, untold)} == {Decimal("0.333333")}


def test_a_closing_without_fills_is_reckoned_from_the_planned_entry() -> None:
    outcome = outcome_of(a_closing(price="106"))

    assert (outcome.r_multiple, outcome.entered_at, outcome.holding_s) == (Decimal(1), None, None)


def test_a_closing_without_a_price_has_none() -> None:
    outcome = outcome_of(a_fill(), a_closing(realized_pnl="-60", exit_reason=ExitReason.STOP))

    assert (outcome.outcome, outcome.r_multiple, outcome.exit_price) == (OutcomeClass.LOSS, Decimal(-1), None)


def test_a_closing_that_tells_nothing_is_a_bug() -> None:
    with pytest.raises(ValueError, match=r"^a closing tells its price or its realized P&L$"):
        outcome_of(a_fill(), a_closing())


def test_corrections_count_in_place_of_what_they_correct() -> None:
    fill, closing = a_fill(fees="1"), a_closing(price="115", exit_reason=ExitReason.TARGET)
    of_fill = told(EventKind.CORRECTED, event_id="c1", corrects=fill.event_id, price="103")
    of_closing = told(
        EventKind.CORRECTED, event_id="c2", corrects=closing.event_id, price="97", exit_reason=ExitReason.STOP
    )

    outcome = outcome_of(fill, closing, of_fill, of_closing)

    # (97 - 103) x 10 - 1 = -61, of 60 dollars
    assert (outcome.outcome, outcome.r_multiple) == (OutcomeClass.LOSS, Decimal("-1.016667"))
    assert outcome.fees_usd == 1
    assert outcome == outcome_of(fill, closing, of_closing, of_fill)


def test_fills_and_closings_that_are_corrected_to_nothing_leave_no_outcome() -> None:
    fill, closing = a_fill(), a_closing(price="115", quantity=10)
    no_fill = told(EventKind.CORRECTED, event_id="c1", corrects=fill.event_id, quantity=0)
    no_closing = told(EventKind.CORRECTED, event_id="c2", corrects=closing.event_id, quantity=0)

    for events in (
        (fill, a_closing(price="115"), no_fill),
        (closing, no_closing),
        (fill, closing, no_fill, no_closing),
    ):
        assert executed_outcome(plan=a_plan(), events=events, ticket_quantity=TICKET) is None


# --- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [None, *ExitReason])
def test_an_exit_at_the_target_or_beyond_is_a_win_for_whatever_reason(reason: ExitReason | None) -> None:
    assert classed(a_closing(price="115", exit_reason=reason)) == ("win", "2.5")
    assert classed(a_closing(price="115.06", exit_reason=reason)) == ("win", "2.51")
    assert classed(a_closing(price="84.94", exit_reason=reason), **A_SHORT) == ("win", "2.51")


@pytest.mark.parametrize("reason", [None, ExitReason.STOP, ExitReason.MANUAL, ExitReason.OTHER])
def test_a_gain_short_of_the_target_is_a_scratch(reason: ExitReason | None) -> None:
    # 14.99 dollars of 6 dollars
    assert classed(a_closing(price="114.99", exit_reason=reason)) == ("scratch", "2.498333")
    assert classed(a_closing(price="85.01", exit_reason=reason), **A_SHORT) == ("scratch", "2.498333")


def test_a_target_told_with_a_gain_is_a_win_even_if_it_slipped() -> None:
    # 0.00006 / 6 = 0.00001 R
    assert classed(a_closing(price="114.99", exit_reason=ExitReason.TARGET)) == ("win", "2.498333")
    assert classed(a_closing(price="100.00006", exit_reason=ExitReason.TARGET)) == ("win", "0.00001")


def test_a_target_told_without_a_gain_is_no_win() -> None:
    assert classed(a_closing(price="100", exit_reason=ExitReason.TARGET)) == ("scratch", "0")
    assert classed(a_closing(price="95", exit_reason=ExitReason.TARGET)) == ("loss", "-0.833333")


@pytest.mark.parametrize(("price", "r_multiple"), [("95", "-0.833333"), ("100", "0"), ("114.99", "2.498333")])
def test_an_exit_at_the_time_stop_is_a_timeout(price: str, r_multiple: str) -> None:
    assert classed(a_closing(price=price, exit_reason=ExitReason.TIME)) == ("timeout", r_multiple)


@pytest.mark.parametrize("reason", [None, ExitReason.TARGET, ExitReason.STOP, ExitReason.MANUAL, ExitReason.OTHER])
def test_a_loss_of_more_than_a_tenth_of_r_is_a_loss(reason: ExitReason | None) -> None:
    # A tenth of R is 0.6 dollars: 99.40 loses it, 99.39 a little more: -0.61 / 6.
    assert classed(a_closing(price="99.41", exit_reason=reason)) == ("scratch", "-0.098333")
    assert classed(a_closing(price="99.40", exit_reason=reason)) == ("scratch", "-0.1")
    assert classed(a_closing(price="99.39", exit_reason=reason)) == ("loss", "-0.101667")


def test_realized_pnl_alone_tells_whether_the_target_was_reached() -> None:
    # The target earns 15 x 10 = 150 before the 3 of fees; half a cent may have been rounded away.
    fee = "3"
    assert classed(a_closing(realized_pnl="146.99", fees=fee)) == ("scratch", "2.449833")
    assert classed(a_closing(realized_pnl="146.994", fees=fee)) == ("scratch", "2.4499")
    assert classed(a_closing(realized_pnl="146.995", fees=fee)) == ("win", "2.449917")
    assert classed(a_closing(realized_pnl="147", fees=fee)) == ("win", "2.45")


def test_realized_pnl_alone_is_held_to_the_fill_and_not_to_the_plan() -> None:
    # In at 101 the target earns 14 x 10 = 140.
    assert outcome_of(a_fill(price="101"), a_closing(realized_pnl="140")).outcome is OutcomeClass.WIN
    assert outcome_of(a_fill(price="101"), a_closing(realized_pnl="139.99")).outcome is OutcomeClass.SCRATCH


def test_realized_pnl_alone_works_for_shorts() -> None:
    assert outcome_of(a_fill(), a_closing(realized_pnl="150"), **A_SHORT).outcome is OutcomeClass.WIN
    assert outcome_of(a_fill(), a_closing(realized_pnl="149"), **A_SHORT).outcome is OutcomeClass.SCRATCH


def test_a_price_at_the_target_outweighs_the_realized_pnl() -> None:
    # Fees may have eaten the gain of a small position; the target was reached.
    assert classed(a_closing(price="115", realized_pnl="-1")) == ("win", "-0.016667")
