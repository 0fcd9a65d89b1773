"""Tests of every gate: at its limit and to both sides of it, with its input missing, and for both directions.

Each row changes the default case of `tests.builders` (ACME at 100.00, ATR 4.00, buy at 100.00, stop 95.00,
target 115.00, 100,000 dollars) in as few fields as it takes, and names the code of one gate, or None where
the gate passes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.account import AccountMode, HaltState
from app.domain.edge import Edge
from app.domain.exposure import measure_exposure
from app.domain.gates import GATES, Case, Code, GateStatus, judge_gates, p_win, risk_reward
from app.domain.policy import Regime
from app.domain.proposal import Direction, EntryType, ModelFailure
from app.domain.recalibration import PlattCalibrator
from tests.builders import (
    AS_OF,
    COSTLESS,
    SHORT,
    a_candidate,
    a_halt,
    a_market,
    a_policy,
    a_position,
    a_reservation,
    a_standing,
    a_state,
    an_account,
    an_exit,
    blocking_codes,
    caps_of,
    gate_of,
    judged,
)

ORDER: Final = [
    "kill_switch",
    "live_interlock",
    "proposal_valid",
    "snapshot_fresh",
    "quotes",
    "duplicate_intent",
    "price_collar",
    "stop",
    "target",
    "min_adv",
    "spread",
    "min_price",
    "market_cap",
    "borrow",
    "daily_loss",
    "weekly_loss",
    "conviction",
    "p_win",
    "risk_reward",
    "expected_value",
    "size",
]
"""The rulebook's table, section 5, top to bottom."""
NO_QUOTES: Final = {"bid": None, "ask": None}
LIVE: Final = {"mode": AccountMode.LIVE}
SERVING_LIVE: Final = {"live_allowed": True}
NO_IMPACT: Final = {"buying_power": 0}
"""An account that can buy nothing: no share is traded, so that costs hold no market impact and stay round."""
STOP_ENTRY: Final = {"entry_type": EntryType.STOP}
FEW_CASH: Final = {"cash": 70_000}
"""Exactly 70 % of equity, which is too little for a probe."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Expect one code (None: the gate passes) of one gate for the default case with some changes."""

    says: str
    gate: str
    code: str | None
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.gate}: {self.says}"


def row(gate: str, code: str | None, says: str, **changes: Any) -> Row:
    return Row(says=says, gate=gate, code=code, changes=changes)


def short(**changes: Any) -> dict[str, Any]:
    return {**SHORT, **changes}


def seconds(age: float) -> dict[str, Any]:
    return {"now": AS_OF + timedelta(seconds=age)}


def loss_of(equity: str, pnl: str, name: str) -> dict[str, Any]:
    """An account whose day or week, all that is not kept, began at equity less P&L."""
    return {"equity": equity, name: pnl}


ROWS: Final = [
    # --- kill_switch
    row("kill_switch", None, "nothing is halted"),
    row("kill_switch", "HALTED", "everything is halted", state={"halts": (a_halt(),)}),
    row("kill_switch", "HALTED", "the account is halted", state={"halts": (a_halt(account_id="paper-1"),)}),
    row("kill_switch", "REDUCE_ONLY", "reduce_only", state={"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}),
    row(
        "kill_switch",
        "HALTED",
        "of two halts the stricter one holds",
        state={"halts": (a_halt(state=HaltState.REDUCE_ONLY), a_halt())},
    ),
    # --- live_interlock
    row("live_interlock", "LIVE_NOT_ALLOWED", "live, by default", account=LIVE),
    row(
        "live_interlock", "LIVE_NOT_ALLOWED", "confirmed but not allowed", account=LIVE, state={"live_confirmed": True}
    ),
    row("live_interlock", "LIVE_NOT_CONFIRMED", "allowed but not confirmed", account=LIVE, policy=SERVING_LIVE),
    row("live_interlock", None, "confirmed", account=LIVE, policy=SERVING_LIVE, state={"live_confirmed": True}),
    row(
        "live_interlock",
        None,
        "no confirmation is required",
        account=LIVE,
        policy={"live_allowed": True, "require_live_confirm": False},
    ),
    row(
        "live_interlock",
        "LIVE_NOT_ALLOWED",
        "the decider never serves live accounts",
        account=LIVE,
        policy=SERVING_LIVE,
        state={"live_confirmed": True},
        decider_serves_live=False,
    ),
    # --- proposal_valid
    row("proposal_valid", None, "a proper proposal"),
    row("proposal_valid", "UNKNOWN_SYMBOL", "not in the snapshot", candidate={"symbol": "GONE"}),
    row("proposal_valid", "PROPOSAL_INVALID", "a limit order without a price", candidate={"entry_price": None}),
    row(
        "proposal_valid",
        "PROPOSAL_INVALID",
        "a stop order without a price",
        candidate={**STOP_ENTRY, "entry_price": None},
    ),
    row(
        "proposal_valid",
        "PROPOSAL_INVALID",
        "a stop_limit order without a price",
        candidate={"entry_type": EntryType.STOP_LIMIT, "entry_price": None},
    ),
    row(
        "proposal_valid",
        None,
        "a market order needs no price",
        candidate={"entry_type": EntryType.MARKET, "entry_price": None},
    ),
    *(
        row("proposal_valid", "PROPOSAL_INVALID", f"{name} {value}", candidate={name: value})
        for name in ("entry_price", "stop_loss", "target_price")
        for value in ("NaN", "Infinity", "-0.01", "0", "10000000000000")
    ),
    row("proposal_valid", None, "a price just below 1e13", candidate={"target_price": "9999999999999.99"}),
    row("proposal_valid", "PROPOSAL_INVALID", "p_win 0 %", candidate={"p_win_pct": 0}),
    row("proposal_valid", None, "p_win 1 %", candidate={"p_win_pct": 1}),
    row("proposal_valid", None, "p_win 99 %", candidate={"p_win_pct": 99}),
    row("proposal_valid", "PROPOSAL_INVALID", "p_win 100 %", candidate={"p_win_pct": 100}),
    row("proposal_valid", "PROPOSAL_INVALID", "conviction -1", candidate={"conviction": -1}),
    row("proposal_valid", None, "conviction 0", candidate={"conviction": 0}),
    row("proposal_valid", None, "conviction 100", candidate={"conviction": 100}),
    row("proposal_valid", "PROPOSAL_INVALID", "conviction 101", candidate={"conviction": 101}),
    row("proposal_valid", "PROPOSAL_INVALID", "a time stop of 0 hours", candidate={"time_stop_hours": 0}),
    row("proposal_valid", None, "a time stop of 1 hour", candidate={"time_stop_hours": 1}),
    row("proposal_valid", None, "a time stop of 90 days", candidate={"time_stop_hours": 2160}),
    row("proposal_valid", "PROPOSAL_INVALID", "a time stop of 2161 hours", candidate={"time_stop_hours": 2161}),
    # --- snapshot_fresh: 60 s old at most, 5 s ahead at most
    row("snapshot_fresh", None, "just within a minute", state=seconds(59.999)),
    row("snapshot_fresh", None, "a minute old", state=seconds(60)),
    row("snapshot_fresh", "STALE_SNAPSHOT", "older than a minute", state=seconds(60.001)),
    row("snapshot_fresh", None, "just within 5 s ahead", state=seconds(-4.999)),
    row("snapshot_fresh", None, "5 s ahead", state=seconds(-5)),
    row("snapshot_fresh", "FUTURE_SNAPSHOT", "further ahead than 5 s", state=seconds(-5.001)),
    row("snapshot_fresh", None, "old, with the age check off", state=seconds(10**8), policy={"max_snapshot_age_s": 0}),
    row(
        "snapshot_fresh",
        None,
        "one second old, with a limit of one",
        state=seconds(1),
        policy={"max_snapshot_age_s": 1},
    ),
    row(
        "snapshot_fresh",
        "STALE_SNAPSHOT",
        "older than a limit of one second",
        state=seconds(1.001),
        policy={"max_snapshot_age_s": 1},
    ),
    row(
        "snapshot_fresh",
        "FUTURE_SNAPSHOT",
        "from the future, with the age check off",
        state=seconds(-5.001),
        policy={"max_snapshot_age_s": 0},
    ),
    # --- quotes (what is inconsistent: test_market.py)
    row("quotes", None, "bid and ask around the price", symbol={"bid": "99.98", "ask": "100.02"}),
    row("quotes", "QUOTES_INCONSISTENT", "crossed", symbol={"bid": "100.02", "ask": "99.98"}),
    row("quotes", "QUOTES_INCONSISTENT", "a negative claimed spread", symbol={**NO_QUOTES, "spread_pct": "-0.0001"}),
    # --- duplicate_intent
    row("duplicate_intent", None, "another symbol is held", account={"positions": (a_position(),)}),
    row(
        "duplicate_intent",
        "DUPLICATE_INTENT",
        "a long position, a long entry",
        account={"positions": (a_position(symbol="ACME"),)},
    ),
    row(
        "duplicate_intent",
        "OPPOSITE_POSITION",
        "a short position, a long entry",
        account={"positions": (a_position(symbol="ACME", quantity=-1, stop_loss="110"),)},
    ),
    row(
        "duplicate_intent",
        "OPPOSITE_POSITION",
        "a long position, a short entry",
        account={"positions": (a_position(symbol="ACME"),)},
        candidate=SHORT,
    ),
    row(
        "duplicate_intent",
        "DUPLICATE_INTENT",
        "a short position, a short entry",
        account={"positions": (a_position(symbol="ACME", quantity="-0.5", stop_loss="110"),)},
        candidate=SHORT,
    ),
    row(
        "duplicate_intent",
        None,
        "a position of no shares is none",
        account={"positions": (a_position(symbol="ACME", quantity=0),)},
    ),
    row(
        "duplicate_intent",
        "DUPLICATE_INTENT",
        "an open ticket, the same way",
        state={"reservations": (a_reservation(symbol="ACME"),)},
    ),
    row(
        "duplicate_intent",
        "OPPOSITE_POSITION",
        "an open ticket, the other way",
        state={"reservations": (a_reservation(symbol="ACME", direction=Direction.SHORT),)},
    ),
    row("duplicate_intent", None, "an open ticket in another symbol", state={"reservations": (a_reservation(),)}),
    row(
        "duplicate_intent",
        None,
        "a ticket that only reduces is no entry",
        state={"reservations": (a_reservation(symbol="ACME", reduce_only=True),)},
    ),
    row(
        "duplicate_intent",
        "DUPLICATE_INTENT",
        "a position the other way and a ticket the same way",
        account={"positions": (a_position(symbol="ACME", quantity=-1, stop_loss="110"),)},
        state={"reservations": (a_reservation(symbol="ACME"),)},
    ),
    # --- price_collar: 1.5 x 4.00 = 6.00 around mid
    row("price_collar", None, "just inside, above", candidate={"entry_price": "105.99"}),
    row("price_collar", None, "6.00 above mid", candidate={"entry_price": "106.00"}),
    row("price_collar", "PRICE_COLLAR", "just outside, above", candidate={"entry_price": "106.01"}),
    row("price_collar", None, "just inside, below", candidate={"entry_price": "94.01", "stop_loss": "90"}),
    row("price_collar", None, "6.00 below mid", candidate={"entry_price": "94.00", "stop_loss": "90"}),
    row("price_collar", "PRICE_COLLAR", "just outside, below", candidate={"entry_price": "93.99", "stop_loss": "90"}),
    row("price_collar", None, "a short 6.00 above mid", candidate=short(entry_price="106.00", stop_loss="110")),
    row(
        "price_collar", "PRICE_COLLAR", "a short outside, above", candidate=short(entry_price="106.01", stop_loss="110")
    ),
    row("price_collar", None, "a short 6.00 below mid", candidate=short(entry_price="94.00")),
    row("price_collar", "PRICE_COLLAR", "a short outside, below", candidate=short(entry_price="93.99")),
    # Bid 99.00 and ask 101.20: mid is 100.10, so 106.10 is 6.00 away although the price is 100.00.
    row(
        "price_collar", None, "from mid", symbol={"bid": "99.00", "ask": "101.20"}, candidate={"entry_price": "106.10"}
    ),
    row(
        "price_collar",
        "PRICE_COLLAR",
        "from mid, not from the price",
        symbol={"bid": "99.00", "ask": "101.20"},
        candidate={"entry_price": "94.09", "stop_loss": "90"},
    ),
    row("price_collar", None, "from the price without quotes", symbol=NO_QUOTES, candidate={"entry_price": "106.00"}),
    row(
        "price_collar", "PRICE_COLLAR", "too far from the price", symbol=NO_QUOTES, candidate={"entry_price": "106.01"}
    ),
    row("price_collar", "MISSING_ATR", "ATR is missing", symbol={"atr": None}),
    row("price_collar", "MISSING_ATR", "an ATR of 0 is missing", symbol={"atr": 0}),
    # --- stop: from 0.2 x 4.00 = 0.80 to 5 x 4.00 = 20.00, on the loss side
    row("stop", None, "wider than the tightest", candidate={"stop_loss": "99.19"}),
    row("stop", None, "0.80 wide", candidate={"stop_loss": "99.20"}),
    row("stop", "STOP_TOO_TIGHT", "nearer than 0.80", candidate={"stop_loss": "99.21"}),
    row("stop", None, "narrower than the widest", candidate={"stop_loss": "80.01"}),
    row("stop", None, "20.00 wide", candidate={"stop_loss": "80.00"}),
    row("stop", "STOP_TOO_WIDE", "wider than 20.00", candidate={"stop_loss": "79.99"}),
    row("stop", None, "a short's, 0.80 wide", candidate=short(stop_loss="100.80")),
    row("stop", "STOP_TOO_TIGHT", "a short's, nearer than 0.80", candidate=short(stop_loss="100.79")),
    row("stop", None, "a short's, 20.00 wide", candidate=short(stop_loss="120.00")),
    row("stop", "STOP_TOO_WIDE", "a short's, wider than 20.00", candidate=short(stop_loss="120.01")),
    row("stop", "STOP_WRONG_SIDE", "at the entry", candidate={"stop_loss": "100.00"}),
    row("stop", "STOP_WRONG_SIDE", "above a long entry", candidate={"stop_loss": "100.01"}),
    row("stop", "STOP_WRONG_SIDE", "a short's, at the entry", candidate=short(stop_loss="100.00")),
    row("stop", "STOP_WRONG_SIDE", "a short's, below the entry", candidate=short(stop_loss="99.99")),
    row("stop", "STOP_MISSING", "there is none", candidate={"stop_loss": None}),
    row("stop", "STOP_MISSING", "a short without one", candidate=short(stop_loss=None)),
    row("stop", "STOP_MISSING", "neither stop nor ATR", candidate={"stop_loss": None}, symbol={"atr": None}),
    row("stop", "MISSING_ATR", "ATR is missing", symbol={"atr": None}),
    # A limit to buy at 102.00 with mid at 100.00 fills at 100.00: a stop of 100.00 would be hit at once.
    row("stop", None, "a limit's, below mid", candidate={"entry_price": "102.00", "stop_loss": "99.99"}),
    row("stop", "STOP_WRONG_SIDE", "a limit's, at mid", candidate={"entry_price": "102.00", "stop_loss": "100.00"}),
    row("stop", "STOP_WRONG_SIDE", "a short limit's, at mid", candidate=short(entry_price="98.00", stop_loss="100.00")),
    row("stop", None, "a short limit's, above mid", candidate=short(entry_price="98.00", stop_loss="100.01")),
    row(
        "stop",
        None,
        "a stop order's may be past mid",
        candidate={**STOP_ENTRY, "entry_price": "102", "stop_loss": "101"},
    ),
    row(
        "stop",
        None,
        "a stop_limit order's may be past mid",
        candidate={"entry_type": EntryType.STOP_LIMIT, "entry_price": "102", "stop_loss": "101"},
    ),
    # Bid 99.00 and ask 101.00: a market order to buy is judged at 101.00, and its stop must be below 100.00 too.
    row(
        "stop",
        "STOP_WRONG_SIDE",
        "a market order's, between mid and ask",
        symbol={"bid": "99.00", "ask": "101.00"},
        candidate={"entry_type": EntryType.MARKET, "stop_loss": "100.00"},
    ),
    row(
        "stop",
        None,
        "a market order's, below mid",
        symbol={"bid": "99.00", "ask": "101.00"},
        candidate={"entry_type": EntryType.MARKET, "stop_loss": "99.99"},
    ),
    row(
        "stop",
        "STOP_WRONG_SIDE",
        "a short market order's, between bid and mid",
        symbol={"bid": "99.00", "ask": "101.00"},
        candidate=short(entry_type=EntryType.MARKET, stop_loss="100.00"),
    ),
    row("stop", None, "a probe's, 1 ATR wide", candidate={"conviction": 50, "stop_loss": "96.00"}),
    row("stop", "STOP_TOO_WIDE", "a probe's, wider than 1 ATR", candidate={"conviction": 50, "stop_loss": "95.99"}),
    row(
        "stop",
        "STOP_TOO_WIDE",
        "a short probe's, wider than 1 ATR",
        candidate=short(conviction=50, stop_loss="104.01"),
    ),
    row(
        "stop",
        None,
        "wider than 1 ATR, where no probe is permitted",
        candidate={"conviction": 50},
        account=FEW_CASH,
    ),
    row(
        "stop",
        "STOP_TOO_WIDE",
        "a probe's keeps the policy's limit where that is narrower",
        candidate={"conviction": 50, "stop_loss": "97.99"},
        policy={"max_stop_atr": "0.5"},
    ),
    # --- target: at most 10 x 4.00 = 40.00 away, on the profit side
    row("target", None, "just nearer than the furthest", candidate={"target_price": "139.99"}),
    row("target", None, "40.00 away", candidate={"target_price": "140.00"}),
    row("target", "TARGET_TOO_FAR", "further than 40.00", candidate={"target_price": "140.01"}),
    row("target", None, "a short's, 40.00 away", candidate=short(target_price="60.00")),
    row("target", "TARGET_TOO_FAR", "a short's, further than 40.00", candidate=short(target_price="59.99")),
    row("target", None, "just above the entry", candidate={"target_price": "100.01"}),
    row("target", "TARGET_WRONG_SIDE", "at the entry", candidate={"target_price": "100.00"}),
    row("target", "TARGET_WRONG_SIDE", "below a long entry", candidate={"target_price": "99.99"}),
    row("target", None, "a short's, just below the entry", candidate=short(target_price="99.99")),
    row("target", "TARGET_WRONG_SIDE", "a short's, at the entry", candidate=short(target_price="100.00")),
    row("target", "TARGET_WRONG_SIDE", "a short's, above the entry", candidate=short(target_price="100.01")),
    row("target", "TARGET_WRONG_SIDE", "there is none", candidate={"target_price": None}),
    row("target", "MISSING_ATR", "ATR is missing", symbol={"atr": None}),
    # --- min_adv
    row("min_adv", "ILLIQUID", "below 3 million", symbol={"adv": "2999999.99"}),
    row("min_adv", None, "3 million", symbol={"adv": "3000000"}),
    row("min_adv", None, "above 3 million", symbol={"adv": "3000000.01"}),
    row("min_adv", "MISSING_ADV", "not known", symbol={"adv": None}),
    row("min_adv", "MISSING_ADV", "0 is missing", symbol={"adv": 0}),
    # --- spread
    row("spread", None, "just below 1 %", symbol={**NO_QUOTES, "spread_pct": "0.009999"}),
    row("spread", None, "a claimed 1 %", symbol={**NO_QUOTES, "spread_pct": "0.01"}),
    row("spread", "SPREAD_TOO_WIDE", "just above 1 %", symbol={**NO_QUOTES, "spread_pct": "0.010001"}),
    row("spread", None, "quotes 1 % apart", symbol={"bid": "99.50", "ask": "100.50"}),
    row("spread", "SPREAD_TOO_WIDE", "quotes further apart", symbol={"bid": "99.49", "ask": "100.50"}),
    row(
        "spread",
        "SPREAD_TOO_WIDE",
        "wide quotes, whatever was claimed",
        symbol={"bid": "99.49", "ask": "100.50", "spread_pct": "0.0001"},
    ),
    row("spread", "MISSING_SPREAD", "neither quotes nor a claim", symbol=NO_QUOTES),
    # --- min_price
    row("min_price", "PRICE_TOO_LOW", "below a dollar", symbol={"price": "0.99"}),
    row("min_price", None, "a dollar", symbol={"price": "1.00"}),
    row("min_price", None, "above a dollar", symbol={"price": "1.01"}),
    # --- market_cap
    row("market_cap", "MICROCAP", "below 300 million", symbol={"market_cap": "299999999.99"}),
    row("market_cap", None, "300 million", symbol={"market_cap": "300000000"}),
    row("market_cap", None, "above 300 million", symbol={"market_cap": "300000000.01"}),
    # --- borrow
    row("borrow", None, "a short that can be borrowed", candidate=SHORT),
    row("borrow", "NOT_SHORTABLE", "a short that cannot", candidate=SHORT, symbol={"shortable": False}),
    row("borrow", "MISSING_SHORTABLE", "a short of which nobody knows", candidate=SHORT, symbol={"shortable": None}),
    # --- daily_loss: 2 % of the 100,000 the day began with
    row("daily_loss", None, "a loss below 2 %", account=loss_of("98000.01", "-1999.99", "daily_pnl")),
    row("daily_loss", "DAILY_LOSS_LIMIT", "a loss of 2 %", account=loss_of("98000", "-2000", "daily_pnl")),
    row("daily_loss", "DAILY_LOSS_LIMIT", "a loss above 2 %", account=loss_of("97999.99", "-2000.01", "daily_pnl")),
    row("daily_loss", None, "a gain", account=loss_of("103000", "3000", "daily_pnl")),
    row("daily_loss", "MISSING_DAILY_PNL", "neither a P&L nor a mark", account={"daily_pnl": None}),
    row(
        "daily_loss",
        None,
        "a mark stands in for the P&L",
        account={"daily_pnl": None},
        state={"day_baseline_usd": Decimal("102000")},
    ),
    # --- weekly_loss: 5 % of the 100,000 the week began with
    row("weekly_loss", None, "a loss below 5 %", account=loss_of("95000.01", "-4999.99", "weekly_pnl")),
    row("weekly_loss", "WEEKLY_LOSS_LIMIT", "a loss of 5 %", account=loss_of("95000", "-5000", "weekly_pnl")),
    row("weekly_loss", "WEEKLY_LOSS_LIMIT", "a loss above 5 %", account=loss_of("94999.99", "-5000.01", "weekly_pnl")),
    row("weekly_loss", "MISSING_WEEKLY_PNL", "neither a P&L nor a mark", account={"weekly_pnl": None}),
    # --- conviction: 55, or a probe from 50
    row("conviction", None, "above the action threshold", candidate={"conviction": 56}, account=FEW_CASH),
    row("conviction", None, "at the action threshold", candidate={"conviction": 55}, account=FEW_CASH),
    row(
        "conviction", "LOW_CONVICTION", "below it, with too little cash", candidate={"conviction": 54}, account=FEW_CASH
    ),
    row("conviction", None, "a probe", candidate={"conviction": 54}),
    row("conviction", None, "a probe just above the minimum", candidate={"conviction": 51}),
    row("conviction", None, "a probe at the minimum", candidate={"conviction": 50}),
    row("conviction", "LOW_CONVICTION", "below the probe minimum", candidate={"conviction": 49}),
    row("conviction", None, "a probe with cash above 70 %", candidate={"conviction": 54}, account={"cash": "70000.01"}),
    row(
        "conviction",
        "LOW_CONVICTION",
        "no probe in high volatility",
        candidate={"conviction": 54},
        snapshot={"regime": Regime.HIGH_VOLATILITY},
    ),
    row(
        "conviction",
        None,
        "enough conviction in high volatility",
        candidate={"conviction": 55},
        snapshot={"regime": Regime.HIGH_VOLATILITY},
    ),
    row(
        "conviction",
        None,
        "a probe in any other regime",
        candidate={"conviction": 54},
        snapshot={"regime": Regime.RISK_OFF},
    ),
    # --- p_win: blocks only where risk_reward blocks too; b = 8.99 / 5 = 1.798
    row("p_win", None, "45 %, with a low reward", candidate={"target_price": "108.99", "p_win_pct": 45}),
    row(
        "p_win",
        "LOW_P_WIN",
        "44 %, with a low reward",
        candidate={"target_price": "108.99", "p_win_pct": 44},
        account=NO_IMPACT,
        policy=COSTLESS,
    ),
    row("p_win", None, "44 %, with reward enough", candidate={"p_win_pct": 44}),
    # --- risk_reward: b = W / 5 without costs
    row(
        "risk_reward",
        "LOW_RISK_REWARD",
        "below 1.8",
        candidate={"target_price": "108.99"},
        account=NO_IMPACT,
        policy=COSTLESS,
    ),
    row("risk_reward", None, "1.8", candidate={"target_price": "109.00"}, account=NO_IMPACT, policy=COSTLESS),
    row("risk_reward", None, "above 1.8", candidate={"target_price": "109.01"}, account=NO_IMPACT, policy=COSTLESS),
    row("risk_reward", "LOW_RISK_REWARD", "1.8 before costs", candidate={"target_price": "109.00"}),
    row(
        "risk_reward",
        "LOW_RISK_REWARD",
        "a short's, below 1.8",
        candidate=short(target_price="91.01"),
        account=NO_IMPACT,
        policy=COSTLESS,
    ),
    row(
        "risk_reward", None, "a short's, 1.8", candidate=short(target_price="91.00"), account=NO_IMPACT, policy=COSTLESS
    ),
    # --- expected_value: 25 % x b - 75 % is 0 at b = 3
    row(
        "expected_value",
        "NEGATIVE_EV",
        "below 0",
        candidate={"p_win_pct": 25, "target_price": "114.99"},
        account=NO_IMPACT,
        policy=COSTLESS,
    ),
    row("expected_value", "NEGATIVE_EV", "0", candidate={"p_win_pct": 25}, account=NO_IMPACT, policy=COSTLESS),
    row(
        "expected_value",
        None,
        "above 0",
        candidate={"p_win_pct": 25, "target_price": "115.01"},
        account=NO_IMPACT,
        policy=COSTLESS,
    ),
    # At 50 % and b = 3, EV_R is 1 and ev_pct 5 / 100.
    row("expected_value", None, "above a minimum", account=NO_IMPACT, policy={**COSTLESS, "min_ev_pct": "0.0499"}),
    row("expected_value", "NEGATIVE_EV", "at a minimum", account=NO_IMPACT, policy={**COSTLESS, "min_ev_pct": "0.05"}),
    # --- size: one share and 100 dollars at least
    row(
        "size",
        None,
        "one share",
        symbol={"price": "1000", "atr": 40},
        account={"buying_power": "1000"},
        candidate={"entry_price": "1000", "stop_loss": "950", "target_price": "1150"},
    ),
    row(
        "size",
        "SIZE_BUYING_POWER",
        "less than one share",
        symbol={"price": "1000", "atr": 40},
        account={"buying_power": "999.99"},
        candidate={"entry_price": "1000", "stop_loss": "950", "target_price": "1150"},
    ),
    row("size", None, "an order of 100 dollars", account={"buying_power": "100"}),
    row(
        "size",
        None,
        "an order above 100 dollars",
        symbol={"price": "100.01"},
        account={"buying_power": "100.01"},
        candidate={"entry_price": "100.01"},
    ),
    row(
        "size",
        "SIZE_BUYING_POWER",
        "an order below 100 dollars",
        symbol={"price": "99.99"},
        account={"buying_power": "100"},
        candidate={"entry_price": "99.99"},
    ),
    row(
        "size",
        "MISSING_MARK",
        "a held symbol without any price",
        account={"positions": (a_position(mark_price=None),)},
    ),
    row(
        "size",
        "MISSING_POSITION_STOP",
        "a held symbol without a stop",
        account={"positions": (a_position(stop_loss=None),)},
    ),
    row(
        "size",
        "MISSING_MARK",
        "a held symbol without either",
        account={"positions": (a_position(mark_price=None, stop_loss=None),)},
    ),
    # What each cap costs to bind below one share is worked out in test_sizing.py.
    row("size", "SIZE_RISK_BUDGET", "no Kelly, no budget", candidate={"p_win_pct": 25}, policy=COSTLESS),
    row("size", "SIZE_DAILY_LOSS_ROOM", "no room for the day", account={"positions": (a_position(quantity=400),)}),
    row(
        "size",
        "SIZE_WEEKLY_LOSS_ROOM",
        "no room for the week",
        account={"weekly_pnl": -4_000, "positions": (a_position(quantity=400),)},
        policy={"max_daily_loss_pct": "0.05"},
    ),
    row(
        "size",
        "SIZE_SYMBOL_EXPOSURE",
        "the symbol is full",
        state={"reservations": (a_reservation(symbol="ACME", notional_usd=20_000),)},
    ),
    row(
        "size",
        "SIZE_LEVERAGE",
        "no leverage left",
        account={"positions": (a_position(quantity=4_000, stop_loss="50"),)},
    ),
    row(
        "size",
        "SIZE_BUCKET",
        "the bucket is full",
        state={"reservations": (a_reservation(notional_usd=35_000, buckets=("technology",)),)},
    ),
    row(
        "size",
        "SIZE_ORDER_NOTIONAL",
        "orders are smaller than a share",
        policy={"max_order_notional": "99", "min_order_notional": 0},
    ),
    row("size", "SIZE_DAILY_NOTIONAL", "the day's notional is used up", account={"daily_executed_notional": 500_000}),
    row(
        "size",
        "SIZE_ADV_PARTICIPATION",
        "a tenth of the volume is less than a share",
        symbol={"adv": "999"},
        policy={"min_adv": 0},
    ),
]


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_gate_blocks_exactly_beyond_its_limit(case: Row) -> None:
    found = gate_of(judged(**case.changes), case.gate)

    assert found.code == case.code
    assert found.status is (GateStatus.PASS if case.code is None else GateStatus.BLOCK)


def test_the_rows_reach_every_code_of_the_gates_and_every_cap() -> None:
    caps = {f"SIZE_{cap.partition(':')[0].upper()}" for cap in caps_of(judged())}

    assert {row.code for row in ROWS if row.code is not None} == {code.value for code in Code} | caps


def test_a_code_is_reported_by_the_gates_that_the_rows_name_and_by_no_other() -> None:
    owners: dict[str, set[str]] = {}
    for case in ROWS:
        for gate in judged(**case.changes).gates:
            if gate.code is not None:
                owners.setdefault(gate.code, set()).add(gate.gate)

    assert {code: gates for code, gates in owners.items() if len(gates) > 1} == {
        "MISSING_ATR": {"price_collar", "stop", "target"}
    }


# --- not applicable ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("live_interlock", {}),
        ("quotes", {"symbol": {**NO_QUOTES, "spread_pct": "0.001"}}),
        ("spread", {"symbol": {"bid": "100.02", "ask": "99.98"}}),
        ("market_cap", {"symbol": {"market_cap": None}}),
        ("borrow", {"symbol": {"shortable": None}}),
        ("borrow", {"symbol": {"shortable": False}}),
    ],
)
def test_a_gate_without_anything_to_judge_is_not_applicable(gate: str, changes: dict[str, Any]) -> None:
    found = gate_of(judged(**changes), gate)

    assert found.status is GateStatus.NOT_APPLICABLE
    assert found.code is None
    assert found.detail


PRICED_GATES: Final = {"p_win", "risk_reward", "expected_value", "size"}


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate": {"stop_loss": None}},
        {"candidate": {"stop_loss": "100.00"}},
        {"candidate": {"target_price": None}},
        {"candidate": {"target_price": "100.00"}},
        {"symbol": {"bid": "100.02", "ask": "99.98"}},
        {"symbol": {"atr": None}},
        {"symbol": {"bid": None, "ask": None}},
        {"symbol": {"adv": None}},
        {"candidate": {"entry_price": None}},
        {"candidate": {"symbol": "GONE"}},
    ],
)
def test_what_cannot_be_priced_is_neither_weighed_nor_sized(changes: dict[str, Any]) -> None:
    judgement = judged(**changes)

    assert {gate_of(judgement, name).status for name in PRICED_GATES} == {GateStatus.NOT_APPLICABLE}
    assert judgement.edge is None
    assert judgement.sizing is None


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate": {"stop_loss": "99.21"}},
        {"candidate": {"stop_loss": "79.99"}},
        {"candidate": {"target_price": "140.01"}},
        {"candidate": {"entry_price": "106.01"}},
        {"symbol": {"bid": "99.40", "ask": "100.60"}},
        {"symbol": {"adv": "2999999"}},
        {"account": {"daily_pnl": None}},
        {"state": {"halts": (a_halt(),)}},
        {"symbol": {"avg_volume": None}},
    ],
)
def test_every_other_fault_leaves_the_edge_and_the_size_in_the_report(changes: dict[str, Any]) -> None:
    judgement = judged(**changes)

    assert GateStatus.NOT_APPLICABLE not in {gate_of(judgement, name).status for name in PRICED_GATES}
    assert judgement.edge is not None
    assert judgement.sizing is not None


def test_a_symbol_outside_the_snapshot_leaves_only_what_needs_no_market_data() -> None:
    judgement = judged(candidate={"symbol": "GONE"})
    judged_gates = {gate.gate for gate in judgement.gates if gate.status is not GateStatus.NOT_APPLICABLE}

    assert judged_gates == {
        "kill_switch",
        "proposal_valid",
        "snapshot_fresh",
        "duplicate_intent",
        "daily_loss",
        "weekly_loss",
        "conviction",
    }
    assert blocking_codes(judgement) == ("UNKNOWN_SYMBOL",)


def test_a_position_in_a_symbol_outside_the_snapshot_is_still_an_opposite_position() -> None:
    held = a_position(symbol="GONE", quantity=-1, stop_loss="60")

    judgement = judged(candidate={"symbol": "GONE"}, account={"positions": (held,)})

    assert blocking_codes(judgement) == ("UNKNOWN_SYMBOL", "OPPOSITE_POSITION")


# --- the report ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_every_gate_is_reported_in_the_order_of_the_rulebook(case: Row) -> None:
    assert [gate.gate for gate in judged(**case.changes).gates] == ORDER


@pytest.mark.parametrize("outcome", [ModelFailure.TIMEOUT, an_exit()], ids=["no proposal", "an exit"])
def test_every_gate_is_reported_without_an_entry_too(outcome: Any) -> None:
    judgement = judged(outcome, account={"positions": (a_position(),)})

    assert [gate.gate for gate in judgement.gates] == ORDER


def test_the_reason_is_the_first_blocking_gates_code() -> None:
    # Every gate that can block beside the others does.
    judgement = judged(
        candidate={**SHORT, "entry_price": "107", "stop_loss": "107.10", "target_price": "60", "conviction": 10},
        symbol={"bid": None, "ask": None, "spread_pct": "0.02", "adv": 1, "market_cap": 1, "shortable": False},
        account={"mode": AccountMode.LIVE, "equity": 90_000, "daily_pnl": -10_000, "weekly_pnl": -10_000},
        state={
            "halts": (a_halt(),),
            "now": AS_OF + timedelta(minutes=2),
            "reservations": (a_reservation(symbol="ACME"),),
        },
        policy={"min_price": "100.01"},
    )

    assert blocking_codes(judgement) == (
        "HALTED",
        "LIVE_NOT_ALLOWED",
        "STALE_SNAPSHOT",
        "OPPOSITE_POSITION",
        "PRICE_COLLAR",
        "STOP_TOO_TIGHT",
        "TARGET_TOO_FAR",
        "ILLIQUID",
        "SPREAD_TOO_WIDE",
        "PRICE_TOO_LOW",
        "MICROCAP",
        "NOT_SHORTABLE",
        "DAILY_LOSS_LIMIT",
        "WEEKLY_LOSS_LIMIT",
        "LOW_CONVICTION",
        "SIZE_DAILY_LOSS_ROOM",
    )
    assert judgement.reason_code == "HALTED"


def test_the_report_shows_what_was_observed_and_the_limit() -> None:
    readings = {
        gate.gate: (gate.observed, gate.limit, gate.unit)
        for gate in judged(
            candidate=short(entry_price="101.00"),
            symbol={"bid": "99.98", "ask": "100.02"},
            account={"equity": 99_000, "daily_pnl": -1_000, "weekly_pnl": 500, **NO_IMPACT},
            state={"now": AS_OF + timedelta(milliseconds=1_500)},
            policy=COSTLESS,
        ).gates
    }
    measured = {name: readings.pop(name) for name in ("risk_reward", "expected_value")}

    assert readings == {
        "kill_switch": ("running", None, "state"),
        "live_interlock": (None, None, "state"),
        "proposal_valid": (None, None, ""),
        "snapshot_fresh": (Decimal("1.5"), 60, "s"),
        "quotes": (Decimal("100.00"), Decimal("100.00"), "usd"),
        "duplicate_intent": ("none", None, "direction"),
        "price_collar": (Decimal("1.00"), Decimal("6.00"), "usd"),
        "stop": (Decimal("4.00"), Decimal("20.00"), "usd"),
        "target": (Decimal("16.00"), Decimal("40.00"), "usd"),
        "min_adv": (Decimal(1_000_000_000), Decimal(3_000_000), "usd"),
        "spread": (Decimal("0.0004"), Decimal("0.01"), "fraction"),
        "min_price": (Decimal("100.00"), Decimal(1), "usd"),
        "market_cap": (Decimal(50_000_000_000), Decimal(300_000_000), "usd"),
        "borrow": ("yes", "yes", "shortable"),
        "daily_loss": (Decimal("0.01"), Decimal("0.02"), "fraction"),
        "weekly_loss": (Decimal(0), Decimal("0.05"), "fraction"),
        "conviction": (90, 55, "conviction"),
        "p_win": (Decimal("0.5"), Decimal("0.45"), "probability"),
        "size": (0, 1, "shares"),
    }
    # C = 101 x 0.0004 / 2 = 0.0202;  b = (16 - 0.0202) / (4 + 0.0202);  ev_pct = (b / 2 - 1 / 2) x 4.0202 / 101
    ratio, ratio_limit, ratio_unit = measured["risk_reward"]
    value, value_limit, value_unit = measured["expected_value"]
    expected = Decimal("15.9798") / Decimal("4.0202")
    assert ratio == pytest.approx(expected)
    assert value == pytest.approx((expected - 1) / 2 * Decimal("4.0202") / 101)
    assert (ratio_limit, ratio_unit, value_limit, value_unit) == (Decimal("1.8"), "ratio", Decimal(0), "fraction")


@pytest.mark.parametrize(
    ("gate", "observed", "limit", "changes"),
    [
        ("kill_switch", "halted", None, {"state": {"halts": (a_halt(),)}}),
        ("live_interlock", "unconfirmed", "confirmed", {"account": LIVE, "policy": SERVING_LIVE}),
        ("snapshot_fresh", Decimal("60.001"), 60, {"state": seconds(60.001)}),
        ("snapshot_fresh", Decimal("-5.001"), -5, {"state": seconds(-5.001)}),
        ("snapshot_fresh", Decimal("-5.001"), -5, {"state": {"now": AS_OF - timedelta(microseconds=5_000_001)}}),
        (
            "duplicate_intent",
            "short",
            None,
            {"state": {"reservations": (a_reservation(symbol="ACME", direction=Direction.SHORT),)}},
        ),
        ("price_collar", Decimal("6.01"), Decimal("6.00"), {"candidate": {"entry_price": "106.01"}}),
        ("stop", Decimal("0.79"), Decimal("0.80"), {"candidate": {"stop_loss": "99.21"}}),
        ("stop", Decimal("20.01"), Decimal("20.00"), {"candidate": {"stop_loss": "79.99"}}),
        ("stop", Decimal("4.01"), Decimal("4.00"), {"candidate": {"stop_loss": "95.99", "conviction": 50}}),
        ("stop", Decimal("100.01"), Decimal("100.00"), {"candidate": {"stop_loss": "100.01"}}),
        ("stop", None, Decimal("100.00"), {"candidate": {"stop_loss": None}}),
        ("target", Decimal("40.01"), Decimal("40.00"), {"candidate": {"target_price": "140.01"}}),
        ("target", Decimal("99.99"), Decimal("100.00"), {"candidate": {"target_price": "99.99"}}),
        ("min_adv", Decimal("2999999"), Decimal("3000000"), {"symbol": {"adv": "2999999"}}),
        ("min_adv", None, Decimal("3000000"), {"symbol": {"adv": None}}),
        ("spread", Decimal("0.0101"), Decimal("0.01"), {"symbol": {**NO_QUOTES, "spread_pct": "0.0101"}}),
        ("spread", None, Decimal("0.01"), {"symbol": NO_QUOTES}),
        ("min_price", Decimal("0.99"), Decimal("1"), {"symbol": {"price": "0.99"}}),
        ("market_cap", Decimal("299999999"), Decimal("300000000"), {"symbol": {"market_cap": "299999999"}}),
        ("borrow", "no", "yes", {"candidate": SHORT, "symbol": {"shortable": False}}),
        ("daily_loss", Decimal("0.02"), Decimal("0.02"), {"account": {"equity": 98_000, "daily_pnl": -2_000}}),
        ("daily_loss", None, Decimal("0.02"), {"account": {"daily_pnl": None}}),
        ("weekly_loss", Decimal("0.05"), Decimal("0.05"), {"account": {"equity": 95_000, "weekly_pnl": -5_000}}),
        ("weekly_loss", None, Decimal("0.05"), {"account": {"weekly_pnl": None}}),
        ("conviction", 49, 55, {"candidate": {"conviction": 49}}),
        ("size", 0, 1, {"account": NO_IMPACT}),
    ],
)
def test_a_block_shows_what_was_observed_and_the_limit(
    gate: str, observed: object, limit: object, changes: dict[str, Any]
) -> None:
    found = gate_of(judged(**changes), gate)

    assert found.status is GateStatus.BLOCK
    assert (found.observed, found.limit) == (observed, limit)
    assert found.detail


@pytest.mark.parametrize(
    ("gate", "words", "changes"),
    [
        ("kill_switch", "flash crash (ana)", {"state": {"halts": (a_halt(),)}}),
        ("kill_switch", "flash crash (ana)", {"state": {"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}}),
        ("proposal_valid", "GONE is not in the snapshot", {"candidate": {"symbol": "GONE"}}),
        ("proposal_valid", "a limit entry needs an entry_price", {"candidate": {"entry_price": None}}),
        ("duplicate_intent", "position", {"account": {"positions": (a_position(symbol="ACME"),)}}),
        ("duplicate_intent", "open ticket", {"state": {"reservations": (a_reservation(symbol="ACME"),)}}),
        ("daily_loss", "2500.00 of 100000.00 USD", {"account": {"equity": 97_500, "daily_pnl": -2_500}}),
        ("conviction", "probe minimum 50", {"candidate": {"conviction": 49}}),
        ("conviction", "cash above 0.70 of equity", {"candidate": {"conviction": 54}, "account": FEW_CASH}),
        (
            "conviction",
            "high volatility",
            {"candidate": {"conviction": 54}, "snapshot": {"regime": Regime.HIGH_VOLATILITY}},
        ),
        ("size", "buying_power leaves less than one share", {"account": NO_IMPACT}),
        ("size", "no price for BOLT", {"account": {"positions": (a_position(mark_price=None),)}}),
        ("size", "no stop for BOLT", {"account": {"positions": (a_position(stop_loss=None),)}}),
        (
            "size",
            "198.00 USD is below the smallest order (buying_power binds)",
            {
                "symbol": {"price": "99"},
                "account": {"buying_power": 200},
                "candidate": {"entry_price": "99"},
                "policy": {"min_order_notional": 200},
            },
        ),
    ],
)
def test_a_block_says_what_a_person_needs_to_know(gate: str, words: str, changes: dict[str, Any]) -> None:
    assert words in gate_of(judged(**changes), gate).detail


def test_a_size_that_passes_is_shown_beside_one_share() -> None:
    found = gate_of(judged(), "size")

    assert (found.observed, found.limit) == (99, 1)


def test_each_gate_has_its_own_name_and_judges_by_its_own_check() -> None:
    assert [gate.name for gate in GATES] == [gate.check.__name__ for gate in GATES] == ORDER


# --- risk-reward, p_win and the calibrator -------------------------------------------------------------


def a_case(*, risk_reward: str, p_win: str, calibrated: bool, level: int = 1) -> Case:
    """A case of which only the edge matters."""
    account, market, state = an_account(), a_market(), a_state()
    return Case(
        account=account,
        market=market,
        state=state,
        policy=a_policy(aggressiveness_level=level),
        decider_serves_live=True,
        calibrated=calibrated,
        proposal_fault=None,
        exposure=measure_exposure(account=account, market=market, state=state),
        reduces=False,
        candidate=a_candidate(),
        view=market.symbols[0],
        entry=Decimal(100),
        edge=Edge(
            p_win_raw=Decimal("0.5"),
            p_win=Decimal(p_win),
            risk_reward=Decimal(risk_reward),
            ev_r=Decimal(1),
            ev_pct=Decimal("0.01"),
            kelly_fraction=Decimal("0.2"),
            cost_usd=Decimal(0),
            cost_bps_round_trip=Decimal(0),
        ),
    )


@pytest.mark.parametrize(
    ("risk_reward_is", "p_win_is", "calibrated", "level", "codes"),
    [
        # Not calibrated: 1.8 holds whatever the model says its chances are.
        ("1.80", "0.44", False, 1, (None, None)),
        ("1.79", "0.44", False, 1, ("LOW_P_WIN", "LOW_RISK_REWARD")),
        ("1.79", "0.45", False, 1, (None, "LOW_RISK_REWARD")),
        ("1.79", "0.99", False, 1, (None, "LOW_RISK_REWARD")),
        # Calibrated: from 45 % on the minimum is waived, below it is not.
        ("1.79", "0.46", True, 1, (None, None)),
        ("1.79", "0.45", True, 1, (None, None)),
        ("1.79", "0.4499", True, 1, ("LOW_P_WIN", "LOW_RISK_REWARD")),
        ("1.80", "0.4499", True, 1, (None, None)),
        ("0.01", "0.45", True, 0, (None, None)),
        ("0.01", "0.45", True, 2, (None, None)),
        # Level 3 asks for 2.0 besides, which nothing waives.
        ("2.00", "0.44", False, 3, (None, None)),
        ("1.99", "0.44", False, 3, ("LOW_P_WIN", "LOW_RISK_REWARD")),
        ("1.99", "0.99", False, 3, (None, "LOW_RISK_REWARD")),
        ("1.99", "0.99", True, 3, (None, "LOW_RISK_REWARD")),
        ("2.00", "0.99", True, 3, (None, None)),
        ("1.99", "0.44", True, 3, ("LOW_P_WIN", "LOW_RISK_REWARD")),
        # The other levels do not.
        ("1.99", "0.44", False, 2, (None, None)),
    ],
)
def test_a_calibrated_p_win_waives_the_risk_reward_minimum_and_nothing_else(
    risk_reward_is: str, p_win_is: str, calibrated: bool, level: int, codes: tuple[str | None, str | None]
) -> None:
    case = a_case(risk_reward=risk_reward_is, p_win=p_win_is, calibrated=calibrated, level=level)

    assert (p_win(case).code, risk_reward(case).code) == codes


def test_the_limit_shown_for_risk_reward_is_the_one_that_held() -> None:
    plain = a_case(risk_reward="3", p_win="0.5", calibrated=False)
    waived = replace(plain, calibrated=True)
    level_3 = a_case(risk_reward="3", p_win="0.5", calibrated=False, level=3)
    level_3_waived = replace(level_3, calibrated=True)

    limits = [risk_reward(case).limit for case in (plain, waived, level_3, level_3_waived)]

    assert limits == [Decimal("1.8"), None, Decimal("2.0"), Decimal("2.0")]


def test_the_report_says_when_a_calibrated_p_win_waived_the_minimum() -> None:
    plain = a_case(risk_reward="3", p_win="0.5", calibrated=False)

    assert risk_reward(replace(plain, calibrated=True)).detail == "waived by a calibrated p_win"
    assert risk_reward(plain).detail == ""


def test_a_policy_stricter_than_level_3_stays_in_force_there() -> None:
    case = replace(
        a_case(risk_reward="2.4", p_win="0.5", calibrated=False),
        policy=a_policy(aggressiveness_level=3, min_risk_reward="2.5"),
    )

    assert risk_reward(case).code == "LOW_RISK_REWARD"


def test_an_active_calibrator_lets_a_low_reward_pass_end_to_end() -> None:
    # b = 5 / 5 less costs, just below 1: far below 1.8, but at 60 % it is worth taking.
    idea = {"target_price": "105.00", "p_win_pct": 60}
    as_stated = PlattCalibrator(intercept=0.0, slope=1.0)

    assert blocking_codes(judged(candidate=idea)) == ("LOW_RISK_REWARD",)
    assert blocking_codes(judged(candidate=idea, calibration=a_standing(calibrator=as_stated))) == ()


# --- exits ---------------------------------------------------------------------------------------------


def test_only_four_gates_answer_for_exits() -> None:
    holding = [gate.name for gate in GATES if gate.holds_exits]

    assert holding == ["kill_switch", "live_interlock", "proposal_valid", "snapshot_fresh"]


def test_the_gates_say_that_a_reduction_is_not_theirs_to_judge() -> None:
    judgement = judged(an_exit(), account={"positions": (a_position(),)})
    skipped = [gate.gate for gate in judgement.gates if gate.detail == "a rule for entries"]

    assert skipped == ORDER[4:]
    assert {gate.status for gate in judgement.gates[4:]} == {GateStatus.NOT_APPLICABLE}


def test_judging_a_case_does_not_change_with_how_often_it_is_judged() -> None:
    case = a_case(risk_reward="3", p_win="0.5", calibrated=False)

    assert judge_gates(case) == judge_gates(case)
