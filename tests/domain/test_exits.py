"""Tests of exits and adjusts: they may only take risk away, and next to nothing may stop them.

The default position is 100 shares of BOLT, marked at 50.00, with the stop at 45.00; the snapshot holds ACME only.
"""

from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.account import AccountMode, HaltState
from app.domain.gates import GateStatus
from app.domain.policy import Regime
from app.domain.proposal import Direction, Mode, Proposal
from app.domain.verdict import Judgement, Side, Target, Ticket, Verdict
from tests.builders import (
    AS_OF,
    a_halt,
    a_position,
    a_reservation,
    a_snapshot,
    a_symbol,
    an_adjust,
    an_exit,
    blocking_codes,
    gate_of,
    judged,
)

A_SHORT: Final = a_position(quantity=-100, stop_loss="55.00")


def managed(outcome: Proposal, *, position: Any = None, **changes: Any) -> Judgement:
    """Judge an exit or adjust of the default position, or of the one given."""
    held = a_position() if position is None else position
    return judged(outcome, **{**changes, "account": {"positions": (held,), **changes.get("account", {})}})


def ticket_of(judgement: Judgement) -> Ticket:
    if judgement.ticket is None:
        raise AssertionError(f"no ticket: {blocking_codes(judgement)}")
    return judgement.ticket


# --- exits ---------------------------------------------------------------------------------------------


def test_an_exit_sells_the_whole_position_and_nothing_else() -> None:
    judgement = managed(an_exit())

    assert judgement.verdict is Verdict.APPROVED
    assert judgement.should_execute
    assert judgement.action is Mode.EXIT
    assert judgement.reason_code is None
    assert judgement.manage == an_exit().manage
    assert judgement.candidate is None
    assert ticket_of(judgement) == Ticket(
        client_order_id="tv-01930000000070008000000000000001",
        symbol="BOLT",
        side=Side.SELL,
        quantity=100,
        entry_type="market",
        entry_price=Decimal("50.00"),
        stop_loss=None,
        targets=(),
        time_stop_at=None,
        notional_usd=Decimal("5000.00"),
        risk_usd=Decimal(0),
        risk_bps=0.0,
        price_collar=None,
        stop_required=False,
        reduce_only=True,
        mode=AccountMode.PAPER,
    )


def test_an_exit_buys_a_short_position_back() -> None:
    ticket = ticket_of(managed(an_exit(), position=A_SHORT))

    assert ticket.side is Side.BUY_TO_COVER
    assert ticket.quantity == 100
    assert ticket.reduce_only


def test_an_exit_reserves_no_notional_and_no_risk() -> None:
    judgement = managed(an_exit())

    assert judgement.reserved_notional_usd == 0
    assert judgement.reserved_risk_usd == 0


def test_an_exit_is_neither_weighed_nor_sized_nor_ranked() -> None:
    judgement = managed(an_exit())

    assert judgement.edge is None
    assert judgement.sizing is None
    assert judgement.candidates == ()


@pytest.mark.parametrize(
    ("held", "reduce_pct", "quantity"),
    [
        (100, None, 100),
        (100, "100", 100),
        (100, "50", 50),
        # Rounded up: of 3 shares a tenth is one, and of 100 shares half a percent is one.
        (3, "10", 1),
        (100, "0.5", 1),
        (100, "50.01", 51),
        (101, "50", 51),
        (-101, "50", 51),
        (1, "1", 1),
    ],
)
def test_an_exit_is_rounded_up_to_whole_shares(held: int, reduce_pct: str | None, quantity: int) -> None:
    position = a_position(quantity=held, stop_loss="45" if held > 0 else "55")

    assert ticket_of(managed(an_exit(reduce_pct=reduce_pct), position=position)).quantity == quantity


@pytest.mark.parametrize(
    ("held", "reduce_pct", "quantity"),
    [("10.5", None, 10), ("-10.5", None, 10), ("10.5", "50", 6), ("1.999", "99", 1)],
)
def test_a_fraction_of_a_share_never_makes_an_exit_cross_zero(held: str, reduce_pct: str | None, quantity: int) -> None:
    # 10.5 x 50 % = 5.25 -> 6; 10.5 x 100 % -> 11, but only 10 whole shares are held.
    position = a_position(quantity=held, stop_loss="45" if not held.startswith("-") else "55")

    assert ticket_of(managed(an_exit(reduce_pct=reduce_pct), position=position)).quantity == quantity


@pytest.mark.parametrize(
    ("leaving", "reduce_pct", "quantity"),
    [((30,), None, 70), ((30, 30), None, 40), ((30,), "50", 50), ((99,), None, 1)],
)
def test_shares_that_are_already_leaving_cannot_leave_twice(
    leaving: tuple[int, ...], reduce_pct: str | None, quantity: int
) -> None:
    tickets = tuple(a_reservation(quantity=shares, reduce_only=True) for shares in leaving)

    judgement = managed(an_exit(reduce_pct=reduce_pct), state={"reservations": tickets})

    assert ticket_of(judgement).quantity == quantity


@pytest.mark.parametrize(
    "reservation",
    [
        # An entry ticket adds shares, and another symbol's exit takes none of these.
        a_reservation(quantity=30),
        a_reservation(quantity=30, symbol="COGS", reduce_only=True),
    ],
)
def test_only_live_exit_tickets_of_the_symbol_count_as_leaving(reservation: Any) -> None:
    assert ticket_of(managed(an_exit(), state={"reservations": (reservation,)})).quantity == 100


@pytest.mark.parametrize("shares", [100, 101])
def test_when_every_share_is_leaving_there_is_nothing_left_to_close(shares: int) -> None:
    ticket = a_reservation(quantity=shares, reduce_only=True)

    judgement = managed(an_exit(), state={"reservations": (ticket,)})

    assert blocking_codes(judgement) == ("PROPOSAL_INVALID",)
    assert gate_of(judgement, "proposal_valid").detail == "nothing is left to close"
    assert judgement.ticket is None


@pytest.mark.parametrize("reduce_pct", ["-0.01", "100.01", "300"])
def test_a_reduction_outside_0_to_100_percent_is_invalid(reduce_pct: str) -> None:
    for outcome in (an_exit(reduce_pct=reduce_pct), an_adjust(reduce_pct=reduce_pct, new_stop="46")):
        judgement = managed(outcome)

        assert blocking_codes(judgement) == ("PROPOSAL_INVALID",)
        assert gate_of(judgement, "proposal_valid").detail == "reduce_pct lies outside 0-100"


def test_an_exit_of_nothing_is_invalid() -> None:
    assert blocking_codes(managed(an_exit(reduce_pct=0))) == ("PROPOSAL_INVALID",)


@pytest.mark.parametrize(
    ("symbol", "code"), [("ACME", "PROPOSAL_INVALID"), ("GONE", "UNKNOWN_SYMBOL")], ids=["in the snapshot", "unknown"]
)
def test_what_is_not_held_cannot_be_closed(symbol: str, code: str) -> None:
    for outcome in (an_exit(symbol=symbol), an_adjust(symbol=symbol, new_stop="46")):
        judgement = managed(outcome)

        assert judgement.verdict is Verdict.BLOCKED
        assert blocking_codes(judgement) == (code,)
        assert f"{symbol} is not held" in gate_of(judgement, "proposal_valid").detail
        assert judgement.ticket is None


def test_a_position_of_no_shares_is_not_held() -> None:
    assert blocking_codes(managed(an_exit(), position=a_position(quantity=0))) == ("UNKNOWN_SYMBOL",)


def test_an_exit_does_not_also_move_the_stop() -> None:
    ticket = ticket_of(managed(an_exit(reduce_pct=50, new_stop="1.00", new_target="51.00")))

    assert ticket.stop_loss is None
    assert ticket.targets == ()


@pytest.mark.parametrize(
    ("position", "symbol", "price"),
    [
        # The near touch: bids take what is sold, asks give what is bought back.
        (a_position(), {"price": "52.00", "bid": "51.90", "ask": "52.10"}, "51.90"),
        (A_SHORT, {"price": "52.00", "bid": "51.90", "ask": "52.10"}, "52.10"),
        (a_position(), {"price": "52.00", "bid": None, "ask": None}, "52.00"),
        (A_SHORT, {"price": "52.00", "bid": "52.10", "ask": "51.90"}, "52.00"),
    ],
)
def test_an_exit_is_priced_at_the_touch_where_there_is_one(position: Any, symbol: dict[str, Any], price: str) -> None:
    market = a_snapshot(a_symbol(), a_symbol(symbol="BOLT", **symbol))

    ticket = ticket_of(managed(an_exit(), position=position, snapshot=market))

    assert ticket.entry_price == Decimal(price)
    assert ticket.notional_usd == 100 * Decimal(price)


def test_an_exit_carries_the_buckets_of_its_symbol_where_they_are_known() -> None:
    market = a_snapshot(a_symbol(), a_symbol(symbol="BOLT"))

    assert managed(an_exit(), snapshot=market).buckets == ("industrials",)
    assert managed(an_exit()).buckets == ()


# --- what may stop a reduction, and what may not --------------------------------------------------------


@pytest.mark.parametrize("outcome", [an_exit(), an_adjust(new_stop="46.00")], ids=["exit", "adjust"])
@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("reduce_only", {"state": {"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}}),
        (
            "live and not confirmed",
            {"account": {"mode": AccountMode.LIVE}, "policy": {"live_allowed": True}},
        ),
        ("no daily P&L", {"account": {"daily_pnl": None}}),
        ("no weekly P&L", {"account": {"weekly_pnl": None}}),
        ("a day beyond its loss limit", {"account": {"equity": 50_000, "daily_pnl": -50_000}}),
        ("a week beyond its loss limit", {"account": {"equity": 50_000, "weekly_pnl": -50_000}}),
        ("no cash", {"account": {"cash": -10_000}}),
        ("no data at all of its symbol", {}),
        (
            "no ATR, volume or quotes",
            {
                "snapshot": a_snapshot(
                    a_symbol(symbol="BOLT", price="50", bid=None, ask=None, atr=None, adv=None, avg_volume=None)
                )
            },
        ),
        ("crossed quotes", {"snapshot": a_snapshot(a_symbol(symbol="BOLT", price="50", bid="51", ask="49"))}),
        ("a price of pennies", {"snapshot": a_snapshot(a_symbol(symbol="BOLT", price="0.50", market_cap=1))}),
        ("no mark", {"position": a_position(mark_price=None)}),
        ("no stop", {"position": a_position(stop_loss=None)}),
        ("neither mark nor stop", {"position": a_position(mark_price=None, stop_loss=None)}),
        ("high volatility", {"snapshot": {"regime": Regime.HIGH_VOLATILITY}}),
        ("an open entry ticket", {"state": {"reservations": (a_reservation(),)}}),
        ("the age of the snapshot, at its limit", {"state": {"now": AS_OF + timedelta(seconds=60)}}),
    ],
)
def test_no_rule_for_entries_stops_a_reduction(outcome: Proposal, says: str, changes: dict[str, Any]) -> None:
    judgement = managed(outcome, **changes)

    assert blocking_codes(judgement) == ()
    assert judgement.verdict is Verdict.APPROVED
    assert judgement.ticket is not None


@pytest.mark.parametrize("outcome", [an_exit(), an_adjust(new_stop="46.00")], ids=["exit", "adjust"])
@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("HALTED", {"state": {"halts": (a_halt(),)}}),
        ("LIVE_NOT_ALLOWED", {"account": {"mode": AccountMode.LIVE}}),
        (
            "LIVE_NOT_ALLOWED",
            {"account": {"mode": AccountMode.LIVE}, "policy": {"live_allowed": True}, "decider_serves_live": False},
        ),
        ("STALE_SNAPSHOT", {"state": {"now": AS_OF + timedelta(seconds=60, microseconds=1)}}),
        ("FUTURE_SNAPSHOT", {"state": {"now": AS_OF - timedelta(seconds=5, microseconds=1)}}),
        ("PROPOSAL_INVALID", {"position": a_position(symbol="ACME")}),
    ],
)
def test_only_four_gates_stop_a_reduction(outcome: Proposal, code: str, changes: dict[str, Any]) -> None:
    market = a_snapshot(a_symbol(), a_symbol(symbol="BOLT"))

    judgement = managed(outcome, **{"snapshot": market, **changes})

    assert judgement.verdict is Verdict.BLOCKED
    assert judgement.reason_code == code
    assert not judgement.should_execute
    assert judgement.ticket is None


def test_the_first_of_the_four_gates_gives_the_reason() -> None:
    judgement = managed(
        an_exit(symbol="GONE"),
        account={"mode": AccountMode.LIVE},
        state={"halts": (a_halt(),), "now": AS_OF + timedelta(minutes=2)},
    )

    assert blocking_codes(judgement) == ("HALTED", "LIVE_NOT_ALLOWED", "UNKNOWN_SYMBOL", "STALE_SNAPSHOT")
    assert judgement.reason_code == "HALTED"


def test_a_reduce_only_halt_is_reported_as_passing() -> None:
    gate = gate_of(managed(an_exit(), state={"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}), "kill_switch")

    assert (gate.status, gate.observed, gate.detail) == (GateStatus.PASS, "reduce_only", "reducing is allowed")


def test_without_any_price_an_exit_has_no_notional_and_goes_ahead() -> None:
    ticket = ticket_of(managed(an_exit(), position=a_position(mark_price=None)))

    assert ticket.quantity == 100
    assert ticket.entry_price is None
    assert ticket.notional_usd is None


# --- adjusts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "position", "new_stop", "detail"),
    [
        # A long: old stop 45.00, mark 50.00.
        ("below the old stop", a_position(), "44.99", "does not reduce risk"),
        ("at the old stop", a_position(), "45.00", "does not reduce risk"),
        ("just above the old stop", a_position(), "45.01", None),
        ("just below the mark", a_position(), "49.99", None),
        ("at the mark", a_position(), "50.00", "beyond the mark"),
        ("above the mark", a_position(), "50.01", "beyond the mark"),
        # A short: old stop 55.00, mark 50.00.
        ("a short's, above the old stop", A_SHORT, "55.01", "does not reduce risk"),
        ("a short's, at the old stop", A_SHORT, "55.00", "does not reduce risk"),
        ("a short's, just below the old stop", A_SHORT, "54.99", None),
        ("a short's, just above the mark", A_SHORT, "50.01", None),
        ("a short's, at the mark", A_SHORT, "50.00", "beyond the mark"),
        ("a short's, below the mark", A_SHORT, "49.99", "beyond the mark"),
        # What is not known cannot be compared with, and never blocks a reduction.
        ("where there was none", a_position(stop_loss=None), "10.00", None),
        ("where there was none, beyond the mark", a_position(stop_loss=None), "50.00", "beyond the mark"),
        ("without a mark", a_position(mark_price=None), "49.99", None),
        ("without a mark, below the old stop", a_position(mark_price=None), "44.99", "does not reduce risk"),
    ],
)
def test_a_stop_moves_only_strictly_between_the_old_one_and_the_mark(
    says: str, position: Any, new_stop: str, detail: str | None
) -> None:
    judgement = managed(an_adjust(new_stop=new_stop), position=position)

    if detail is None:
        assert judgement.verdict is Verdict.APPROVED
        assert ticket_of(judgement).stop_loss == Decimal(new_stop)
    else:
        assert blocking_codes(judgement) == ("PROPOSAL_INVALID",)
        assert detail in gate_of(judgement, "proposal_valid").detail
        assert judgement.ticket is None


def test_the_mark_is_the_larger_of_the_positions_and_the_snapshots() -> None:
    market = a_snapshot(a_symbol(), a_symbol(symbol="BOLT", price="60"))

    assert ticket_of(managed(an_adjust(new_stop="59.99"), snapshot=market)).stop_loss == Decimal("59.99")
    assert managed(an_adjust(new_stop="60.00"), snapshot=market).reason_code == "PROPOSAL_INVALID"


@pytest.mark.parametrize(
    ("position", "new_target", "valid"),
    [
        (a_position(), "50.01", True),
        (a_position(), "50.00", False),
        (a_position(), "49.99", False),
        (A_SHORT, "49.99", True),
        (A_SHORT, "50.00", False),
        (A_SHORT, "50.01", False),
        (a_position(mark_price=None), "1.00", True),
    ],
)
def test_a_target_moves_only_on_the_profit_side_of_the_mark(position: Any, new_target: str, valid: bool) -> None:
    judgement = managed(an_adjust(new_target=new_target), position=position)

    assert (judgement.verdict is Verdict.APPROVED) == valid
    assert judgement.reason_code == (None if valid else "PROPOSAL_INVALID")
    if valid:
        assert ticket_of(judgement).targets == (Target(price=Decimal(new_target), fraction=1.0),)


def test_an_adjust_of_the_stop_alone_trades_no_share() -> None:
    judgement = managed(an_adjust(new_stop="46.00"))
    ticket = ticket_of(judgement)

    assert judgement.action is Mode.ADJUST
    assert ticket.quantity == 0
    assert ticket.stop_loss == 46
    assert ticket.targets == ()
    assert ticket.reduce_only
    assert ticket.notional_usd == 0


def test_an_adjust_may_reduce_move_the_stop_and_move_the_target_at_once() -> None:
    ticket = ticket_of(managed(an_adjust(reduce_pct=33, new_stop="48.00", new_target="70.00")))

    assert ticket.quantity == 33
    assert ticket.side is Side.SELL
    assert ticket.stop_loss == 48
    assert ticket.targets == (Target(price=Decimal(70), fraction=1.0),)


@pytest.mark.parametrize("reduce_pct", ["0.01", "1"])
def test_an_adjust_may_reduce_and_change_nothing_else(reduce_pct: str) -> None:
    ticket = ticket_of(managed(an_adjust(reduce_pct=reduce_pct)))

    assert ticket.quantity == 1
    assert ticket.stop_loss is None


def test_an_adjust_without_a_percentage_reduces_nothing() -> None:
    assert ticket_of(managed(an_adjust(new_stop="46.00"))).quantity == 0
    assert ticket_of(managed(an_adjust(new_stop="46.00", reduce_pct=0))).quantity == 0


@pytest.mark.parametrize("changes", [{}, {"reduce_pct": 0}])
def test_an_adjust_that_changes_nothing_is_invalid(changes: dict[str, Any]) -> None:
    judgement = managed(an_adjust(**changes))

    assert blocking_codes(judgement) == ("PROPOSAL_INVALID",)
    assert gate_of(judgement, "proposal_valid").detail == "the adjust changes nothing"


def test_an_adjust_cannot_reduce_what_is_already_leaving() -> None:
    leaving = a_reservation(quantity=100, reduce_only=True)

    judgement = managed(an_adjust(reduce_pct=10), state={"reservations": (leaving,)})

    assert blocking_codes(judgement) == ("PROPOSAL_INVALID",)
    assert gate_of(judgement, "proposal_valid").detail == "nothing is left to reduce"


def test_a_stop_that_adds_risk_spoils_the_whole_adjust() -> None:
    judgement = managed(an_adjust(reduce_pct=50, new_stop="44.00"))

    assert judgement.reason_code == "PROPOSAL_INVALID"
    assert judgement.ticket is None


@pytest.mark.parametrize(
    ("outcome", "position"),
    [
        (an_adjust(new_stop="-5"), a_position(stop_loss=None)),
        (an_adjust(new_stop="NaN"), a_position()),
        (an_adjust(new_target="-5"), A_SHORT),
        (an_adjust(new_target="Infinity"), a_position()),
        (an_exit(reduce_pct="NaN"), a_position()),
    ],
    ids=["negative stop", "NaN stop", "negative target", "infinite target", "NaN percent"],
)
def test_what_is_no_price_or_percentage_is_invalid(outcome: Proposal, position: Any) -> None:
    judgement = managed(outcome, position=position)

    assert judgement.reason_code == "PROPOSAL_INVALID"


def test_a_short_is_reduced_by_buying() -> None:
    ticket = ticket_of(managed(an_adjust(reduce_pct=25), position=A_SHORT))

    assert ticket.side is Side.BUY_TO_COVER
    assert ticket.quantity == 25
    assert a_position(quantity=-100).direction is Direction.SHORT
