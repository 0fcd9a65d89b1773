"""Tests of what becomes of a reply: the verdict, the choice among candidates, probes, and the ticket."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.account import AccountMode, Sessions
from app.domain.gates import GateStatus
from app.domain.market import Claim, DataIssue, Snapshot
from app.domain.policy import Regime, ScaleOut
from app.domain.proposal import Candidate, EntryType, Mode, ModelFailure, Proposal, WatchItem
from app.domain.recalibration import UNCALIBRATED, CalibratorState, PlattCalibrator
from app.domain.verdict import (
    Judgement,
    PriceCollar,
    Side,
    Target,
    Ticket,
    Verdict,
    claimed_risk_reward,
    client_order_id,
    entry_price,
)
from tests.builders import (
    AS_OF,
    COSTLESS,
    DECISION_ID,
    SHORT,
    a_candidate,
    a_position,
    a_reservation,
    a_snapshot,
    a_standing,
    a_symbol,
    a_trade,
    a_view,
    an_exit,
    blocking_codes,
    gate_of,
    judged,
)

HALVED: Final = PlattCalibrator(intercept=0.0, slope=0.5)
"""Halves the log odds: 80 % becomes logistic(0.5 x ln 4) = 2 / 3."""


def ticket_of(judgement: Judgement) -> Ticket:
    if judgement.ticket is None:
        raise AssertionError(f"no ticket: {blocking_codes(judgement)}")
    return judgement.ticket


# --- the verdict ---------------------------------------------------------------------------------------


def test_an_entry_that_passes_every_gate_is_approved() -> None:
    judgement = judged()

    assert judgement.verdict is Verdict.APPROVED
    assert judgement.should_execute
    assert judgement.action is Mode.TRADE
    assert judgement.reason_code is None
    assert not judgement.degraded
    assert judgement.candidate == a_candidate()
    assert judgement.manage is None
    assert judgement.ticket is not None


def test_an_entry_that_a_cap_makes_smaller_is_resized() -> None:
    judgement = judged(account={"buying_power": 5_000})

    assert judgement.verdict is Verdict.RESIZED
    assert judgement.should_execute
    assert judgement.reason_code is None
    assert ticket_of(judgement).quantity == 50


def test_an_entry_that_a_gate_refuses_is_blocked_without_a_ticket() -> None:
    judgement = judged(symbol={"adv": 2_999_999})

    assert judgement.verdict is Verdict.BLOCKED
    assert not judgement.should_execute
    assert judgement.reason_code == "ILLIQUID"
    assert judgement.ticket is None
    assert judgement.candidate == a_candidate()
    assert judgement.reserved_notional_usd == 0
    assert judgement.reserved_risk_usd == 0


def test_a_blocked_entry_is_not_called_resized_as_well() -> None:
    assert judged(symbol={"adv": 2_999_999}, account={"buying_power": 5_000}).verdict is Verdict.BLOCKED


@pytest.mark.parametrize("mode", [Mode.NEUTRAL, Mode.WATCHLIST])
def test_a_real_neutral_is_an_opinion(mode: Mode) -> None:
    judgement = judged(Proposal(mode=mode, notes="nothing to do"))

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.reason_code == "MODEL_NEUTRAL"
    assert not judgement.degraded
    assert judgement.action is mode


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ModelFailure.TIMEOUT, "MODEL_TIMEOUT"),
        (ModelFailure.UNAVAILABLE, "MODEL_UNAVAILABLE"),
        (ModelFailure.REFUSED, "MODEL_REFUSED"),
        (ModelFailure.TRUNCATED, "MODEL_TRUNCATED"),
        (ModelFailure.INVALID, "MODEL_INVALID"),
    ],
)
def test_a_failure_of_the_model_is_no_opinion(failure: ModelFailure, code: str) -> None:
    judgement = judged(failure)

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.reason_code == code
    assert judgement.degraded
    assert judgement.action is Mode.NEUTRAL


def test_the_failures_above_are_all_there_are() -> None:
    assert len(ModelFailure) == 5


@pytest.mark.parametrize("mode", [Mode.TRADE, Mode.EXIT, Mode.ADJUST])
def test_a_reply_without_what_its_mode_needs_is_invalid(mode: Mode) -> None:
    judgement = judged(Proposal(mode=mode))

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.reason_code == "MODEL_INVALID"
    assert judgement.degraded


@pytest.mark.parametrize("outcome", [ModelFailure.TIMEOUT, Proposal(mode=Mode.NEUTRAL), Proposal(mode=Mode.TRADE)])
def test_without_a_proposal_nothing_is_judged_and_nothing_can_be_executed(outcome: Any) -> None:
    judgement = judged(outcome)

    assert not judgement.should_execute
    assert judgement.ticket is None
    assert judgement.candidate is None
    assert judgement.edge is None
    assert judgement.sizing is None
    assert judgement.candidates == ()
    assert {gate.status for gate in judgement.gates} == {GateStatus.NOT_APPLICABLE}
    assert {gate.detail for gate in judgement.gates} == {"nothing was proposed"}


def test_a_neutral_that_carries_candidates_trades_none_of_them() -> None:
    judgement = judged(Proposal(mode=Mode.NEUTRAL, candidates=(a_candidate(),)))

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.ticket is None


def test_a_neutral_that_wants_to_manage_a_position_does_not() -> None:
    judgement = judged(Proposal(mode=Mode.NEUTRAL, manage=an_exit().manage), account={"positions": (a_position(),)})

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.ticket is None


def test_the_same_case_is_always_judged_the_same() -> None:
    assert judged() == judged()


# --- what a judgement carries along --------------------------------------------------------------------


def test_a_judgement_lasts_as_long_as_a_ticket_by_the_database_clock() -> None:
    late = judged(state={"now": AS_OF + timedelta(seconds=30)})

    assert late.decided_at == AS_OF + timedelta(seconds=30)
    assert late.valid_until == AS_OF + timedelta(seconds=90)
    assert judged(policy={"ticket_ttl_s": 10}).valid_until == AS_OF + timedelta(seconds=10)


def test_watchlist_notes_and_data_issues_reach_the_judgement() -> None:
    item = WatchItem(symbol="BOLT", trigger="a close above 52", target_conviction=60)

    judgement = judged(a_trade(watchlist=(item,), notes="thin tape"), symbol={"avg_volume": 0})

    assert judgement.watchlist == (item,)
    assert judgement.notes == "thin tape"
    assert judgement.issues == (DataIssue(symbol="ACME", field="avg_volume", issue="0 counts as missing"),)


def test_the_losses_so_far_are_kept_for_the_next_decision() -> None:
    judgement = judged(account={"daily_pnl": -350, "weekly_pnl": None})

    assert judgement.day_loss_usd == 350
    assert judgement.week_loss_usd is None
    assert judged(account={"daily_pnl": None, "weekly_pnl": -900}).week_loss_usd == 900
    assert judged(account={"daily_pnl": None}).day_loss_usd is None


def test_an_approval_reserves_its_risk_and_its_notional_at_the_larger_of_entry_and_mid() -> None:
    # Limit 98, mid 100, stop 93, D = 5 without costs: 100 shares, of which each reserves 100 and risks 5.
    judgement = judged(candidate={"entry_price": "98", "stop_loss": "93"}, policy=COSTLESS)

    assert ticket_of(judgement).quantity == 100
    assert ticket_of(judgement).notional_usd == 9_800
    assert judgement.reserved_notional_usd == 10_000
    assert judgement.reserved_risk_usd == 500
    assert judgement.buckets == ("technology",)


# --- choosing among candidates -------------------------------------------------------------------------

THREE: Final[Snapshot] = a_snapshot(a_symbol(), a_symbol(symbol="BOLT"), a_symbol(symbol="COGS"))


def ranked(*candidates: Candidate, **changes: Any) -> Judgement:
    return judged(a_trade(*candidates), **{"snapshot": THREE, **changes})


def test_the_approved_candidate_with_the_highest_expected_value_becomes_the_order() -> None:
    judgement = ranked(
        a_candidate(p_win_pct=45), a_candidate(symbol="BOLT", p_win_pct=55), a_candidate(symbol="COGS", p_win_pct=50)
    )

    assert ticket_of(judgement).symbol == "BOLT"
    assert [(item.symbol, item.rank) for item in judgement.candidates] == [("BOLT", 1), ("COGS", 2), ("ACME", 3)]
    assert {item.verdict for item in judgement.candidates} == {Verdict.APPROVED}
    values = [item.ev_r for item in judgement.candidates]
    assert values == sorted(values, key=lambda value: -(value or 0))
    assert judgement.edge is not None
    assert values[0] == float(judgement.edge.ev_r)


def test_a_candidate_that_passes_goes_before_a_better_one_that_is_blocked() -> None:
    judgement = ranked(a_candidate(p_win_pct=45), a_candidate(symbol="BOLT", p_win_pct=90, conviction=10))
    first, second = judgement.candidates

    assert ticket_of(judgement).symbol == "ACME"
    assert (first.symbol, first.verdict, first.blocked_by) == ("ACME", Verdict.APPROVED, ())
    assert (second.symbol, second.verdict, second.blocked_by) == ("BOLT", Verdict.BLOCKED, ("LOW_CONVICTION",))


def test_a_resized_candidate_competes_like_an_approved_one() -> None:
    # 35,000 - 30,000 in industrials leave BOLT 50 shares.
    judgement = ranked(
        a_candidate(p_win_pct=45),
        a_candidate(symbol="BOLT", p_win_pct=55),
        state={"reservations": (a_reservation(symbol="GEAR", notional_usd=30_000),)},
    )

    assert judgement.verdict is Verdict.RESIZED
    assert ticket_of(judgement).symbol == "BOLT"
    assert ticket_of(judgement).quantity == 50


def test_when_all_block_the_highest_expected_value_is_reported_with_its_first_code() -> None:
    judgement = ranked(
        a_candidate(p_win_pct=45, conviction=10),
        a_candidate(symbol="BOLT", p_win_pct=55, conviction=10, stop_loss="99.50", target_price="101.50"),
        a_candidate(symbol="COGS", p_win_pct=40, conviction=10),
    )

    assert judgement.verdict is Verdict.BLOCKED
    assert judgement.candidate is not None
    assert judgement.candidate.symbol == "BOLT"
    assert judgement.reason_code == "STOP_TOO_TIGHT"
    assert judgement.candidates[0].blocked_by == ("STOP_TOO_TIGHT", "LOW_CONVICTION")
    assert judgement.ticket is None


def test_a_candidate_that_cannot_be_priced_comes_last() -> None:
    judgement = ranked(a_candidate(stop_loss=None), a_candidate(symbol="BOLT", p_win_pct=1))

    assert [(item.symbol, item.blocked_by[0]) for item in judgement.candidates] == [
        ("BOLT", "NEGATIVE_EV"),
        ("ACME", "STOP_MISSING"),
    ]
    assert judgement.candidates[1].ev_r is None
    assert judgement.reason_code == "NEGATIVE_EV"


def test_of_candidates_that_cannot_be_priced_symbol_order_decides() -> None:
    judgement = ranked(a_candidate(symbol="BOLT", stop_loss=None), a_candidate(symbol="ACME", target_price=None))

    assert [item.symbol for item in judgement.candidates] == ["ACME", "BOLT"]


def test_of_equal_expected_values_the_lower_cost_goes_first() -> None:
    # Nothing can be bought, so there is no impact. ACME's spread of 0.2 % costs 0.10 a share:
    # b = (15.40 - 0.10) / (5 + 0.10) = 3 = 15 / 5, the ratio of BOLT, which costs nothing.
    market = a_snapshot(a_symbol(bid="99.90", ask="100.10"), a_symbol(symbol="BOLT"))

    judgement = ranked(
        a_candidate(target_price="115.40"),
        a_candidate(symbol="BOLT"),
        snapshot=market,
        policy=COSTLESS,
        account={"buying_power": 0},
    )
    first, second = judgement.candidates

    assert first.ev_r == second.ev_r == 1.0
    assert (first.symbol, second.symbol) == ("BOLT", "ACME")


def test_of_equal_expected_values_and_costs_symbol_order_decides() -> None:
    judgement = ranked(a_candidate(symbol="COGS"), a_candidate(symbol="BOLT"), a_candidate())

    assert [item.symbol for item in judgement.candidates] == ["ACME", "BOLT", "COGS"]
    assert ticket_of(judgement).symbol == "ACME"


def test_each_candidate_is_judged_as_if_it_were_the_only_one() -> None:
    together = ranked(a_candidate(symbol="BOLT", p_win_pct=55), a_candidate(p_win_pct=45))
    alone = ranked(a_candidate(symbol="BOLT", p_win_pct=55))

    assert ticket_of(together) == ticket_of(alone)
    assert together.gates == alone.gates
    assert together.sizing == alone.sizing


def test_the_report_is_that_of_the_chosen_candidate() -> None:
    judgement = ranked(a_candidate(p_win_pct=45), a_candidate(symbol="BOLT", p_win_pct=55, conviction=60))

    assert judgement.candidate is not None
    assert judgement.candidate.symbol == "BOLT"
    assert gate_of(judgement, "conviction").observed == 60
    assert judgement.buckets == ("industrials",)


# --- probes --------------------------------------------------------------------------------------------

PROBE: Final = {"conviction": 50, "stop_loss": "96.00", "target_price": "112.00"}
"""Just enough conviction for a probe at level 1, its stop exactly 1 ATR wide."""


def test_a_probe_is_half_the_size_of_the_lowest_band() -> None:
    # 50 bps x .30 x 1/2 = 7.5 bps = 75;  D = max(4, 4.80);  75 / 4.80 = 15.6 -> 15
    judgement = judged(candidate=PROBE, policy=COSTLESS)

    assert judgement.verdict is Verdict.APPROVED
    assert ticket_of(judgement).quantity == 15


@pytest.mark.parametrize(
    ("says", "changes", "codes"),
    [
        ("all conditions hold", {}, ()),
        ("conviction below the minimum", {"candidate": {**PROBE, "conviction": 49}}, ("LOW_CONVICTION",)),
        ("70 % cash", {"account": {"cash": 70_000}}, ("LOW_CONVICTION",)),
        ("cash just above 70 %", {"account": {"cash": "70000.01"}}, ()),
        ("high volatility", {"snapshot": {"regime": Regime.HIGH_VOLATILITY}}, ("LOW_CONVICTION",)),
        ("low volatility", {"snapshot": {"regime": Regime.LOW_VOLATILITY}}, ()),
        ("a stop wider than 1 ATR", {"candidate": {**PROBE, "stop_loss": "95.99"}}, ("STOP_TOO_WIDE",)),
        (
            "at the action threshold it is no probe",
            {"candidate": {"conviction": 55}, "account": {"cash": 0, "buying_power": 10**6}},
            (),
        ),
    ],
)
def test_a_probe_needs_conviction_cash_calm_and_a_close_stop(
    says: str, changes: dict[str, Any], codes: tuple[str, ...]
) -> None:
    assert blocking_codes(judged(**{"candidate": PROBE, **changes})) == codes


@pytest.mark.parametrize(("level", "lowest"), [(0, 55), (1, 50), (2, 48), (3, 45)])
def test_each_level_has_its_own_probe_minimum(level: int, lowest: int) -> None:
    policy = {"aggressiveness_level": level}

    assert blocking_codes(judged(candidate={**PROBE, "conviction": lowest}, policy=policy)) == ()
    assert blocking_codes(judged(candidate={**PROBE, "conviction": lowest - 1}, policy=policy)) == ("LOW_CONVICTION",)


# --- anti-paralysis ------------------------------------------------------------------------------------

IDLE: Final = {"sessions": Sessions(earlier=2, approved_in_last_two=False)}
FAINT: Final = a_candidate(**{**PROBE, "conviction": 50})
ALSO_FAINT: Final = a_candidate(**{**PROBE, "conviction": 50, "symbol": "BOLT", "target_price": "111.00"})
CAUTIOUS: Final = {"aggressiveness_level": 0}
"""Level 0, where a probe needs a conviction of 55."""


def idle(*candidates: Candidate, **changes: Any) -> Judgement:
    candidates = candidates or (FAINT, ALSO_FAINT)
    return ranked(*candidates, **{"policy": CAUTIOUS, "state": IDLE, **changes})


def test_after_two_idle_sessions_the_best_of_two_faint_ideas_may_probe() -> None:
    judgement = idle()
    first, second = judgement.candidates

    assert judgement.verdict is Verdict.APPROVED
    assert (first.symbol, first.blocked_by) == ("ACME", ())
    assert (second.symbol, second.blocked_by) == ("BOLT", ("LOW_CONVICTION",))
    assert gate_of(judgement, "conviction").detail == "permitted as a probe"


def test_a_waived_probe_is_sized_as_a_probe() -> None:
    # 50 bps x .20 x 1/2 = 5 bps = 50;  50 / 4.80 = 10.4 -> 10
    assert ticket_of(idle(policy={**COSTLESS, **CAUTIOUS})).quantity == 10


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("one earlier session", {"state": {"sessions": Sessions(earlier=1)}}),
        ("no earlier session", {"state": {"sessions": Sessions()}}),
        ("an entry in the last two", {"state": {"sessions": Sessions(earlier=2, approved_in_last_two=True)}}),
        ("70 % cash", {"account": {"cash": 70_000}}),
        ("high volatility", {"snapshot": a_snapshot(*THREE.market, regime=Regime.HIGH_VOLATILITY)}),
    ],
)
def test_each_other_condition_still_holds(says: str, changes: dict[str, Any]) -> None:
    judgement = idle(**changes)

    assert judgement.verdict is Verdict.BLOCKED
    assert {item.blocked_by for item in judgement.candidates} == {("LOW_CONVICTION",)}


def test_more_than_two_idle_sessions_count_as_two() -> None:
    assert idle(state={"sessions": Sessions(earlier=3)}).verdict is Verdict.APPROVED


@pytest.mark.parametrize("other", [49, 0])
def test_one_idea_of_some_conviction_is_not_enough(other: int) -> None:
    faint = a_candidate(**{**PROBE, "symbol": "BOLT", "conviction": other})

    assert idle(FAINT, faint).verdict is Verdict.BLOCKED
    assert idle(FAINT).verdict is Verdict.BLOCKED


def test_a_stop_wider_than_one_atr_passes_the_waiver_on_to_the_next() -> None:
    wide = a_candidate(conviction=50, p_win_pct=60)

    judgement = idle(wide, ALSO_FAINT)

    assert ticket_of(judgement).symbol == "BOLT"
    assert judgement.candidates[1].blocked_by == ("LOW_CONVICTION",)


def test_another_blocking_gate_passes_the_waiver_on_to_the_next() -> None:
    market = a_snapshot(a_symbol(market_cap=1), a_symbol(symbol="BOLT"))

    judgement = idle(snapshot=market)

    assert ticket_of(judgement).symbol == "BOLT"
    assert judgement.candidates[1].blocked_by == ("MICROCAP", "LOW_CONVICTION")


def test_when_no_candidate_passes_every_other_gate_none_is_waived() -> None:
    judgement = idle(account={"buying_power": 0})

    assert judgement.verdict is Verdict.BLOCKED
    assert {item.blocked_by for item in judgement.candidates} == {("LOW_CONVICTION", "SIZE_BUYING_POWER")}


def test_the_best_idea_needs_no_waiver_when_its_conviction_is_enough() -> None:
    sure = a_candidate(symbol="COGS", p_win_pct=60)

    judgement = idle(FAINT, ALSO_FAINT, sure)

    assert ticket_of(judgement).symbol == "COGS"
    assert [item.blocked_by for item in judgement.candidates] == [(), ("LOW_CONVICTION",), ("LOW_CONVICTION",)]


# --- the ticket ----------------------------------------------------------------------------------------


def test_a_long_ticket_holds_all_that_a_broker_needs() -> None:
    # D = 5.01, 99 shares; risk 99 x 5.01 = 495.99 = 49.599 bps of 100,000
    # Collar: low = max(100 - 6, 95), high = min(100 + 6, 95 + 500 / 99 = 100.0505) rounded down to the cent.
    assert ticket_of(judged(state={"now": AS_OF + timedelta(seconds=5)})) == Ticket(
        client_order_id="tv-01930000000070008000000000000001",
        symbol="ACME",
        side=Side.BUY,
        quantity=99,
        entry_type="limit",
        entry_price=Decimal("100.00"),
        stop_loss=Decimal("95.00"),
        targets=(Target(price=Decimal("115.00"), fraction=1.0),),
        time_stop_at=AS_OF + timedelta(hours=48, seconds=5),
        notional_usd=Decimal("9900.00"),
        risk_usd=Decimal("495.99"),
        risk_bps=49.599,
        price_collar=PriceCollar(low=Decimal("95.00"), high=Decimal("100.05")),
        stop_required=True,
        reduce_only=False,
        mode=AccountMode.PAPER,
    )


def test_a_short_ticket_sells_short_with_everything_mirrored() -> None:
    ticket = ticket_of(judged(candidate=SHORT))

    assert ticket.side is Side.SELL_SHORT
    assert ticket.quantity == 99
    assert ticket.stop_loss == 105
    assert ticket.targets == (Target(price=Decimal("85.00"), fraction=1.0),)
    assert ticket.risk_usd == Decimal("495.99")
    # low = max(100 - 6, 105 - 500 / 99 = 99.9495) rounded up to the cent, high = min(100 + 6, 105)
    assert ticket.price_collar == PriceCollar(low=Decimal("99.95"), high=Decimal("105.00"))


@pytest.mark.parametrize("entry_type", list(EntryType))
def test_the_ticket_names_the_order_type_of_the_idea(entry_type: EntryType) -> None:
    assert ticket_of(judged(candidate={"entry_type": entry_type})).entry_type == entry_type.value


def test_a_live_ticket_says_so() -> None:
    judgement = judged(
        account={"mode": AccountMode.LIVE}, state={"live_confirmed": True}, policy={"live_allowed": True}
    )

    assert ticket_of(judgement).mode is AccountMode.LIVE


@pytest.mark.parametrize(
    ("entry_type", "direction", "expected"),
    [
        (EntryType.MARKET, {}, "100.10"),
        (EntryType.MARKET, SHORT, "99.90"),
        (EntryType.LIMIT, {}, "99.00"),
        (EntryType.STOP, {}, "99.00"),
        (EntryType.STOP_LIMIT, SHORT, "99.00"),
    ],
)
def test_a_market_order_is_judged_at_the_far_touch_and_the_others_at_their_own_price(
    entry_type: EntryType, direction: Any, expected: str
) -> None:
    candidate = a_candidate(**{**direction, "entry_type": entry_type, "entry_price": "99.00"})

    assert entry_price(candidate=candidate, view=a_view(bid="99.90", ask="100.10")) == Decimal(expected)


def test_a_market_order_without_quotes_is_judged_at_the_price() -> None:
    candidate = a_candidate(entry_type=EntryType.MARKET, entry_price=None)

    assert entry_price(candidate=candidate, view=a_view(bid=None, ask=None)) == 100


def test_the_order_id_is_derived_from_the_decision() -> None:
    assert client_order_id(DECISION_ID) == "tv-01930000000070008000000000000001"
    assert ticket_of(judged()).client_order_id == client_order_id(DECISION_ID)


@pytest.mark.parametrize(
    ("changes", "prices"),
    [
        ({}, ("105", "110", "115")),
        (SHORT, ("95", "90", "85")),
        # W = 9.50 is less than 2 L: never beyond the target.
        ({"target_price": "109.50"}, ("105", "109.50", "109.50")),
    ],
)
def test_a_ticket_in_thirds_has_three_targets(changes: Any, prices: tuple[str, ...]) -> None:
    judgement = judged(candidate=changes, policy={"scale_out": ScaleOut.THIRDS})

    assert [target.price for target in ticket_of(judgement).targets] == [Decimal(price) for price in prices]
    assert [target.fraction for target in ticket_of(judgement).targets] == pytest.approx([1 / 3] * 3)


def test_what_is_scored_is_what_is_traded() -> None:
    # Even odds at b = 3: the nearer slices win more often but less, so that thirds are worth less than 1 R.
    whole, thirds = judged(), judged(policy={"scale_out": ScaleOut.THIRDS})

    assert whole.edge is not None
    assert thirds.edge is not None
    assert 0 < thirds.edge.ev_r < whole.edge.ev_r


# --- the price collar of the ticket --------------------------------------------------------------------

# Without costs: 500 dollars of risk, D = |entry - stop|, reach = 1.5 x 4 = 6 around mid = 100.
SMALL: Final = {"account": {"buying_power": 2_000}}
"""An order of 20 shares, whose 500 dollars of risk would allow 25 a share: the reach binds."""


@pytest.mark.parametrize(
    ("says", "changes", "low", "high"),
    [
        # 100 shares: 95 + 500 / 100
        ("the risk budget binds above", {}, "95", "100"),
        # 50 shares: 95 + 500 / 50 = 105 < 106
        ("half the shares may cost more", {"account": {"buying_power": 5_000}}, "95", "105"),
        # 20 shares: 95 + 25 = 120 > 106
        ("the reach binds above", SMALL, "95", "106"),
        # A stop at 90 lies below 100 - 6.
        ("the reach binds below", {**SMALL, "candidate": {"stop_loss": "90", "target_price": "130"}}, "94", "106"),
        ("a short: the risk budget binds below", {"candidate": SHORT}, "100", "105"),
        ("a short: the reach binds below", {**SMALL, "candidate": SHORT}, "94", "105"),
        (
            "a short: the reach binds above",
            {**SMALL, "candidate": {**SHORT, "stop_loss": "110", "target_price": "70"}},
            "94",
            "106",
        ),
        # Around mid, not around the entry.
        ("a limit below mid", {**SMALL, "candidate": {"entry_price": "98", "stop_loss": "93"}}, "94", "106"),
        # Mid 101: 95 .. 107
        ("mid, not the price", {**SMALL, "symbol": {"bid": "100.9", "ask": "101.1"}}, "95", "107"),
        # Reach 1.5 x 4.001 = 6.0015: 93.9985 and 106.0015 are rounded inward to the cent.
        (
            "rounded inward",
            {**SMALL, "symbol": {"atr": "4.001"}, "candidate": {"stop_loss": "90", "target_price": "130"}},
            "94.00",
            "106.00",
        ),
        # D = 5: 95.005 + 500 / 100 = 100.005, which is the entry and no whole cent.
        (
            "never rounded past the entry",
            {"candidate": {"entry_price": "100.005", "stop_loss": "95.005"}},
            "95.01",
            "100.005",
        ),
        (
            "a short: never rounded past the entry",
            {"candidate": {**SHORT, "entry_price": "99.995", "stop_loss": "104.995"}},
            "99.995",
            "104.99",
        ),
        # Below a dollar the tick is 0.0001: reach 1.5 x 0.020033 = 0.0300495, 0.4699505 and 0.5300495.
        # D = max(0.06, 1.2 x 0.020033); 2,000 / 0.50 = 4,000 shares; 0.44 + 500 / 4,000 = 0.565 does not bind.
        (
            "below a dollar",
            {
                **SMALL,
                "symbol": {"price": "0.50", "atr": "0.020033"},
                "candidate": {"entry_price": "0.50", "stop_loss": "0.44", "target_price": "0.68"},
                "policy": {"min_price": 0},
            },
            "0.4700",
            "0.5300",
        ),
        # Price 1.00: low = 1 - 1.5 x 0.0201 = 0.96985 in hundredths of a cent, high = 1.03015 in cents.
        (
            "around a dollar each side has its own tick",
            {
                **SMALL,
                "symbol": {"price": "1.00", "atr": "0.0201"},
                "candidate": {"entry_price": "1.00", "stop_loss": "0.94", "target_price": "1.18"},
            },
            "0.9699",
            "1.03",
        ),
    ],
)
def test_a_fill_inside_the_collar_keeps_within_its_limits(
    says: str, changes: dict[str, Any], low: str, high: str
) -> None:
    ticket = ticket_of(judged(**{**changes, "policy": {**COSTLESS, **changes.get("policy", {})}}))

    assert ticket.price_collar == PriceCollar(low=Decimal(low), high=Decimal(high))


@pytest.mark.parametrize("direction", [{}, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("entry", ["97.003", "100.00", "102.997"])
def test_the_worst_fill_inside_the_collar_loses_no_more_than_the_budget(direction: Any, entry: str) -> None:
    is_long = not direction
    stop = Decimal(entry) + (-5 if is_long else 5)
    target = Decimal(entry) + (15 if is_long else -15)
    ticket = ticket_of(judged(candidate={**direction, "entry_price": entry, "stop_loss": stop, "target_price": target}))

    assert ticket.price_collar is not None
    assert ticket.stop_loss is not None
    worst = ticket.price_collar.high if is_long else ticket.price_collar.low

    assert abs(worst - ticket.stop_loss) * ticket.quantity <= 500


def test_no_side_of_the_collar_is_a_price_that_cannot_be() -> None:
    # A short of 2 shares: 105 - 500 / 2 and 100 - 1.5 x 80 both lie below nothing.
    judgement = judged(candidate=SHORT, symbol={"atr": 80}, policy={"min_stop_atr": "0.01", "max_order_notional": 200})
    collar = ticket_of(judgement).price_collar

    assert collar is not None
    assert collar.low >= 0


# --- claims --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thesis", "ratio"),
    [
        ("A clean 3:1 setup.", 3.0),
        ("R:R 2.5 above support", 2.5),
        ("R/R of 3", 3.0),
        ("r&r 2.25", 2.25),
        ("RR 4", 4.0),
        ("RRR = 2.8", 2.8),
        ("risk:reward 3.0", 3.0),
        ("risk/reward is about 2", 2.0),
        ("risk to reward 1.9", 1.9),
        ("reward-to-risk of 2.75", 2.75),
        ("reward:risk 12.5", 12.5),
        ("Higher lows on rising volume.", None),
        ("RSI 61, support 119", None),
        ("Opened at 10:15 and held", None),
        ("", None),
        # Words that merely contain the letters claim nothing.
        ("Current price 12 above the open", None),
        ("Strong carry 20 days running", None),
    ],
)
def test_a_risk_reward_that_the_thesis_claims_is_found(thesis: str, ratio: float | None) -> None:
    assert claimed_risk_reward(thesis) == ratio


def test_a_claimed_risk_reward_stands_beside_the_computed_one_and_changes_nothing() -> None:
    boast = judged(candidate={"thesis": "An easy 9:1."})
    plain = judged()

    assert boast.edge is not None
    assert boast.claims == (Claim(field="risk_reward", claimed=9.0, computed=float(boast.edge.risk_reward)),)
    assert plain.claims == ()
    assert ticket_of(boast) == ticket_of(plain)


def test_a_calibrated_p_win_stands_beside_the_stated_one() -> None:
    judgement = judged(candidate={"p_win_pct": 80}, calibration=a_standing(calibrator=HALVED))

    (claim,) = judgement.claims
    assert (claim.field, claim.claimed) == ("p_win", 0.8)
    assert claim.computed == pytest.approx(2 / 3)


# --- the decider's record ------------------------------------------------------------------------------


def test_only_a_calibrator_that_is_on_is_used() -> None:
    found = {
        state: judged(candidate={"p_win_pct": 80}, calibration=a_standing(state=state, calibrator=HALVED))
        for state in CalibratorState
    }
    plain = judged(candidate={"p_win_pct": 80})
    used = {
        state: None if judgement.edge is None else float(judgement.edge.p_win) for state, judgement in found.items()
    }

    assert used == {"off": 0.8, "shadow": 0.8, "on": pytest.approx(2 / 3)}
    for state in (CalibratorState.OFF, CalibratorState.SHADOW):
        assert (found[state].edge, found[state].sizing) == (plain.edge, plain.sizing)
        assert found[state].claims == plain.claims == ()


def test_the_calibrated_p_win_is_kept_in_shadow_and_on() -> None:
    kept = {
        state: judged(candidate={"p_win_pct": 80}, calibration=a_standing(state=state, calibrator=HALVED))
        for state in CalibratorState
    }

    assert kept[CalibratorState.OFF].p_win_calibrated is None
    assert kept[CalibratorState.SHADOW].p_win_calibrated == kept[CalibratorState.ON].p_win_calibrated
    assert float(kept[CalibratorState.ON].p_win_calibrated or 0) == pytest.approx(2 / 3)


def test_the_calibrated_p_win_is_kept_even_where_no_edge_can_be_computed() -> None:
    judgement = judged(candidate={"p_win_pct": 80}, symbol={"atr": None}, calibration=a_standing(calibrator=HALVED))

    assert judgement.edge is None
    assert float(judgement.p_win_calibrated or 0) == pytest.approx(2 / 3)


@pytest.mark.parametrize("p_win_pct", [0, 100])
def test_a_p_win_that_no_decider_may_state_is_not_calibrated(p_win_pct: int) -> None:
    judgement = judged(candidate={"p_win_pct": p_win_pct}, calibration=a_standing(calibrator=HALVED))

    assert judgement.reason_code == "PROPOSAL_INVALID"
    assert judgement.p_win_calibrated is None


def test_the_calibrated_p_win_is_that_of_the_reported_candidate() -> None:
    judgement = ranked(
        a_candidate(p_win_pct=50), a_candidate(symbol="BOLT", p_win_pct=80), calibration=a_standing(calibrator=HALVED)
    )

    assert judgement.candidate is not None
    assert judgement.candidate.symbol == "BOLT"
    assert float(judgement.p_win_calibrated or 0) == pytest.approx(2 / 3)


def test_nothing_is_calibrated_without_a_candidate() -> None:
    standing = a_standing(derated=True, reason="The forecasts were rejected.")

    for outcome in (ModelFailure.TIMEOUT, an_exit()):
        judgement = judged(outcome, calibration=standing)
        assert (judgement.calibration, judgement.p_win_calibrated) == (standing, None)


def test_every_judgement_names_the_record_it_was_made_with() -> None:
    standing = a_standing()

    assert judged(calibration=standing).calibration == standing
    assert judged().calibration == UNCALIBRATED


@pytest.mark.parametrize(
    ("level", "conviction", "free_bps", "derated_bps"),
    [
        # Level 1: .30 .60 .85 1.00 of 50 bps; the lowest is 15.
        (1, 85, "50", "15"),
        (1, 84, "42.5", "15"),
        (1, 65, "30", "15"),
        (1, 64, "15", "15"),
        (1, 55, "15", "15"),
        # Below the threshold it was half the lowest band already.
        (1, 54, "7.5", "7.5"),
        (0, 85, "40", "10"),
        (2, 85, "50", "17.5"),
        (3, 85, "50", "20"),
    ],
)
def test_a_derated_decider_earns_no_more_than_the_lowest_band(
    level: int, conviction: int, free_bps: str, derated_bps: str
) -> None:
    case: dict[str, Any] = {"candidate": {"conviction": conviction}, "policy": {"aggressiveness_level": level}}
    free, derated = judged(**case), judged(**case, calibration=replace(UNCALIBRATED, derated=True, reason="Rejected."))

    assert free.sizing is not None
    assert derated.sizing is not None
    assert (free.sizing.risk_bps, derated.sizing.risk_bps) == (Decimal(free_bps), Decimal(derated_bps))
    assert derated.gates[-1].status == free.gates[-1].status


def test_derating_leaves_kelly_as_the_smaller_cap_where_it_is_one() -> None:
    # Kelly 0.37 - 0.63 / 3 = 0.16;  0.001 x 0.16 x 10,000 = 1.6 bps, below 15
    case: dict[str, Any] = {"candidate": {"p_win_pct": 37}, "policy": {**COSTLESS, "kelly_fraction": Decimal("0.001")}}
    free, derated = judged(**case), judged(**case, calibration=replace(UNCALIBRATED, derated=True, reason="Rejected."))

    assert free.sizing == derated.sizing
    assert free.sizing is not None
    assert free.sizing.risk_bps < 15


# --- what stands beside --------------------------------------------------------------------------------


def test_a_sent_pnl_stands_beside_the_one_derived_from_stored_marks() -> None:
    judgement = judged(
        account={"daily_pnl": 200, "weekly_pnl": -50},
        state={"day_baseline_usd": Decimal(100_500), "week_baseline_usd": Decimal(99_000)},
    )

    assert judgement.claims == (
        Claim(field="daily_pnl", claimed=200.0, computed=-500.0),
        Claim(field="weekly_pnl", claimed=-50.0, computed=1_000.0),
    )


def test_nothing_is_said_of_a_pnl_that_was_not_sent() -> None:
    judgement = judged(
        account={"daily_pnl": None, "weekly_pnl": None},
        state={"day_baseline_usd": Decimal(100_500), "week_baseline_usd": Decimal(99_000)},
    )

    assert judgement.claims == ()


def test_claims_of_the_snapshot_are_those_of_the_judged_symbol() -> None:
    market = a_snapshot(
        a_symbol(bid="99.99", ask="100.01", spread_pct="0.0001"),
        a_symbol(symbol="BOLT", bid="99.98", ask="100.02", spread_pct="0.0003"),
    )

    judgement = ranked(a_candidate(symbol="BOLT"), snapshot=market)

    assert judgement.claims == (Claim(field="spread_pct", claimed=0.0003, computed=0.0004),)
