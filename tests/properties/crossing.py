"""Carry a world of plain dicts over to the service's own types, and its judgement back."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

from app.domain.account import Account, AccountMode, AccountState, Halt, HaltState, Position, Reservation, Sessions
from app.domain.buckets import BucketMap
from app.domain.indicators import Bar
from app.domain.market import MarketView, Snapshot, SymbolSnapshot, resolve_market
from app.domain.policy import Policy, Regime, ScaleOut
from app.domain.proposal import Candidate, Direction, EntryType, Mode, ModelFailure, Proposal, Setup
from app.domain.recalibration import CalibratorState, PlattCalibrator, SizingStanding
from app.domain.verdict import Judgement, judge
from tests.properties.worlds import BUCKET_MAP, Record, World

BUCKETS = BucketMap({symbol: tuple(buckets) for symbol, buckets in BUCKET_MAP.items()})


def judged_by_service(world: World) -> Judgement:
    return judge_outcome(world, outcome_of(world.reply))


def judge_outcome(world: World, outcome: Proposal | ModelFailure) -> Judgement:
    """Judge another reply in a world."""
    return judge(
        decision_id="0193a000-0000-7000-8000-000000000000",
        outcome=outcome,
        market=market_of(world),
        account=account_of(world.account),
        state=state_of(world.state),
        policy=policy_of(world.policy),
        decider_serves_live=world.serves_live,
        calibration=standing_of(world),
    )


def market_of(world: World) -> MarketView:
    regime = world.snapshot["regime"]
    snapshot = Snapshot(
        as_of=world.snapshot["as_of"],
        market=tuple(symbol_of(entry) for entry in world.snapshot["market"]),
        regime=None if regime is None else Regime(regime),
    )
    return resolve_market(snapshot, buckets=BUCKETS)


def symbol_of(entry: Record) -> SymbolSnapshot:
    bars = tuple(Bar(bar["t"], *(float(bar[name]) for name in "ohlcv")) for bar in entry.get("bars", ()))
    return SymbolSnapshot(**entry | {"buckets": tuple(entry.get("buckets", ())), "bars": bars})


def account_of(account: Record) -> Account:
    positions = tuple(Position(**position) for position in account["positions"])
    return Account(**account | {"positions": positions, "mode": AccountMode(account.get("mode", "paper"))})


def state_of(state: Record) -> AccountState:
    halts = tuple(
        Halt(account_id=None, state=HaltState(halt), reason="test", operator="test") for halt in state["halts"]
    )
    reservations = tuple(
        Reservation(**entry | {"decision_id": f"ticket-{number}", "direction": Direction(entry["direction"])})
        for number, entry in enumerate(state["reservations"])
    )
    kept = {name: value for name, value in state.items() if name not in {"earlier_sessions", "approved_in_last_two"}}
    sessions = Sessions(earlier=state["earlier_sessions"], approved_in_last_two=state["approved_in_last_two"])
    return AccountState(**kept | {"halts": halts, "reservations": reservations, "sessions": sessions})


def policy_of(policy: Record) -> Policy:
    def limit(value: Any) -> Any:
        return Decimal(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    limits = {name: limit(value) for name, value in policy.items()}
    return Policy(**limits | {"scale_out": ScaleOut(policy["scale_out"])})


def outcome_of(reply: Record) -> Proposal | ModelFailure:
    if "failure" in reply:
        return ModelFailure(reply["failure"])
    candidates = tuple(candidate_of(candidate) for candidate in reply["candidates"])
    return Proposal(mode=Mode(reply["mode"]), candidates=candidates)


def candidate_of(candidate: Record) -> Candidate:
    """As the wire model gives it: a price of 0 is None."""
    words = {
        "direction": Direction(candidate["direction"]),
        "setup": Setup(candidate["setup"]),
        "entry_type": EntryType(candidate["entry_type"]),
    }
    prices = {name: candidate[name] or None for name in ("entry_price", "stop_loss", "target_price")}
    return Candidate(**candidate | words | prices)


def standing_of(world: World) -> SizingStanding:
    calibrator = None
    if world.calibrator is not None:
        intercept, slope = world.calibrator
        calibrator = PlattCalibrator(intercept=intercept, slope=slope)
    return SizingStanding(
        state=CalibratorState(world.calibrator_state),
        calibrator_id=None if calibrator is None else 1,
        calibrator=calibrator,
        derated=world.derated,
        reason="test" if world.derated else None,
    )
