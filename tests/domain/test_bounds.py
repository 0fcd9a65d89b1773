"""Tests of the rooms and bounds that hold before anything is proposed, and of what mutation testing found untold."""

from decimal import Decimal
from typing import Any

import pytest

from app.domain.account import AccountMode, HaltState
from app.domain.edge import assess_edge, reach_probability
from app.domain.exposure import Exposure, measure_exposure
from app.domain.policy import ScaleOut
from app.domain.proposal import Mode, ModelFailure, Proposal
from app.domain.sizing import EntryBounds, notional_rooms
from app.domain.verdict import entry_bounds, judge
from tests.builders import (
    DECISION_ID,
    a_halt,
    a_market,
    a_policy,
    a_position,
    a_reservation,
    a_state,
    a_trade,
    an_account,
    an_adjust,
    gate_of,
    judged,
)


def exposed(*, account: dict[str, Any] | None = None, **state: Any) -> Exposure:
    return measure_exposure(account=an_account(**(account or {})), market=a_market(), state=a_state(**state))


def test_each_room_is_its_limit_less_what_uses_it() -> None:
    # Held: 100 x 50 = 5,000. Reserved: 2,000. Executed today: 30,000.
    account = an_account(positions=(a_position(),), cash=60_000)
    exposure = measure_exposure(
        account=account,
        market=a_market(),
        state=a_state(reservations=(a_reservation(),), executed_notional_usd=Decimal(30_000)),
    )

    assert notional_rooms(account=account, exposure=exposure, policy=a_policy()) == {
        "leverage": 200_000 - 7_000,
        "buying_power": 60_000 - 2_000,
        "order_notional": 50_000,
        "daily_notional": 500_000 - 30_000 - 2_000,
    }


def test_two_lots_of_one_symbol_count_together() -> None:
    exposure = exposed(account={"positions": (a_position(), a_position(quantity=10))})

    assert exposure.by_symbol == {"BOLT": Decimal(5_500)}
    assert exposure.gross_usd == 5_500


def bounded(
    *, account: dict[str, Any] | None = None, policy: dict[str, Any] | None = None, **state: Any
) -> EntryBounds:
    return entry_bounds(
        market=a_market(),
        account=an_account(**(account or {})),
        state=a_state(**state),
        policy=a_policy(**(policy or {})),
    )


def test_a_live_account_that_may_trade_is_told_so_unless_the_decider_never_serves_it() -> None:
    live = an_account(mode=AccountMode.LIVE)
    values: dict[str, Any] = {
        "market": a_market(),
        "account": live,
        "state": a_state(live_confirmed=True),
        "policy": a_policy(live_allowed=True),
    }

    assert entry_bounds(**values).blocked_by == ()
    assert entry_bounds(**values, decider_serves_live=True).blocked_by == ()
    assert entry_bounds(**values, decider_serves_live=False).blocked_by == ("LIVE_NOT_ALLOWED",)


def test_bounds_are_those_of_an_entry_which_reduce_only_forbids() -> None:
    bounds = bounded(halts=(a_halt(state=HaltState.REDUCE_ONLY),))

    assert bounds.blocked_by == ("REDUCE_ONLY",)
    assert not bounds.entries_allowed


def test_a_decider_serves_live_accounts_unless_it_is_said_that_it_never_does() -> None:
    judgement = judge(
        decision_id=DECISION_ID,
        outcome=a_trade(),
        market=a_market(),
        account=an_account(mode=AccountMode.LIVE),
        state=a_state(live_confirmed=True),
        policy=a_policy(live_allowed=True),
    )

    assert judgement.verdict == "approved"


@pytest.mark.parametrize("mode", [Mode.NEUTRAL, Mode.WATCHLIST])
def test_a_neutral_reply_is_an_opinion_and_not_degraded(mode: Mode) -> None:
    assert judged(Proposal(mode=mode)).degraded is False


@pytest.mark.parametrize("outcome", [ModelFailure.TIMEOUT, Proposal(mode=Mode.TRADE)])
def test_a_failure_or_a_trade_without_candidates_is_degraded(outcome: Proposal | ModelFailure) -> None:
    assert judged(outcome).degraded is True


# --- edge ----------------------------------------------------------------------------------------------


def test_the_slice_at_the_target_wins_with_the_stated_probability_to_the_last_digit() -> None:
    # More digits than a float holds; all slices close at the target, so thirds are worth what the whole is.
    p_win = Decimal("0.5000000000000000000001")
    values: dict[str, Any] = {
        "entry": Decimal(100),
        "stop": Decimal(95),
        "target": Decimal(105),
        "cost": Decimal(0),
        "p_win_raw": p_win,
        "p_win": p_win,
    }

    thirds = assess_edge(**values, scale_out=ScaleOut.THIRDS)

    # EV_R = p - (1 - p) = 2e-22
    assert thirds.ev_r == pytest.approx(Decimal("2E-22"), abs=Decimal("1E-24"))


def test_a_drift_too_small_to_matter_is_none() -> None:
    # |theta| x (1 + r) = 8e-10 < 1e-9
    assert reach_probability(theta=4e-10, ratio=1.0) == 0.5
    assert reach_probability(theta=-4e-10, ratio=1.0) == 0.5
    # 1.2e-9 is not: P = 1/2 + theta / 4
    assert reach_probability(theta=6e-10, ratio=1.0) > 0.5


# --- what a refused adjust is told ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"new_stop": "45.00"}, "the new stop does not reduce risk"),
        ({"new_stop": "50.00"}, "the new stop lies beyond the mark"),
        ({"new_target": "50.00"}, "the new target lies on the loss side of the mark"),
        ({}, "the adjust changes nothing"),
    ],
)
def test_a_refused_adjust_is_told_why(changes: dict[str, Any], detail: str) -> None:
    line = gate_of(judged(an_adjust(**changes), account={"positions": (a_position(),)}), "proposal_valid")

    assert (line.code, line.detail) == ("PROPOSAL_INVALID", detail)


def test_a_candidate_that_cannot_be_priced_claims_nothing() -> None:
    judgement = judged(candidate={"thesis": "R:R 3.0"}, symbol={"atr": None})

    assert judgement.edge is None
    assert judgement.claims == ()
