"""Tests of what each gate writes into the report, word for word: clients show it, and people decide by it."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.account import AccountMode, HaltState
from app.domain.edge import Edge
from app.domain.exposure import measure_exposure
from app.domain.gates import (
    ACCOUNT_GATES,
    Case,
    Code,
    Finding,
    Gate,
    GateStatus,
    account_blocks,
    borrow,
    conviction,
    daily_loss,
    expected_value,
    kill_switch,
    live_interlock,
    p_win,
    price_collar,
    probe_refusal,
    risk_reward,
    size,
    skip_gates,
    snapshot_fresh,
    stop,
    stop_fault,
    target,
    target_fault,
    weekly_loss,
)
from app.domain.policy import Regime
from app.domain.proposal import Direction, EntryType
from tests.builders import (
    AS_OF,
    SHORT,
    a_candidate,
    a_halt,
    a_market,
    a_policy,
    a_position,
    a_reservation,
    a_state,
    a_symbol,
    an_account,
    an_exit,
    gate_of,
    judged,
)

PASS, BLOCK, SKIP = GateStatus.PASS, GateStatus.BLOCK, GateStatus.NOT_APPLICABLE
NO_QUOTES: Final = {"bid": None, "ask": None}
LIVE: Final = {"mode": AccountMode.LIVE}
SERVING: Final = {"live_allowed": True}
HELD: Final = {"positions": (a_position(),)}
REDUCE_ONLY: Final = {"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}
UNPRICED: Final = "needs a priced entry, stop and target, ATR, spread and volume"
D: Final = Decimal


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the report, and what has to be changed to read it."""

    gate: str
    status: GateStatus
    code: str | None = None
    observed: object = None
    limit: object = None
    detail: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.gate}: {self.code or self.status}: {self.detail}"


def passes(gate: str, observed: object, limit: object, detail: str, **changes: Any) -> Line:
    return Line(gate=gate, status=PASS, observed=observed, limit=limit, detail=detail, changes=changes)


def blocks(gate: str, code: str, observed: object, limit: object, detail: str, **changes: Any) -> Line:
    return Line(gate=gate, status=BLOCK, code=code, observed=observed, limit=limit, detail=detail, changes=changes)


def skips(gate: str, detail: str, **changes: Any) -> Line:
    return Line(gate=gate, status=SKIP, detail=detail, changes=changes)


def ticket(**changes: Any) -> dict[str, Any]:
    return {"reservations": (a_reservation(symbol="ACME", **changes),)}


LINES: Final = [
    passes("kill_switch", "running", None, ""),
    blocks("kill_switch", "HALTED", "halted", None, "flash crash (ana)", state={"halts": (a_halt(),)}),
    blocks("kill_switch", "REDUCE_ONLY", "reduce_only", None, "flash crash (ana)", state=REDUCE_ONLY),
    passes(
        "kill_switch", "reduce_only", None, "reducing is allowed", outcome=an_exit(), account=HELD, state=REDUCE_ONLY
    ),
    skips("live_interlock", "paper account"),
    blocks("live_interlock", "LIVE_NOT_ALLOWED", "live", "LIVE_ALLOWED=false", "", account=LIVE),
    blocks(
        "live_interlock",
        "LIVE_NOT_ALLOWED",
        "live",
        "model",
        "this decider never serves live accounts",
        account=LIVE,
        policy=SERVING,
        decider_serves_live=False,
    ),
    blocks(
        "live_interlock",
        "LIVE_NOT_CONFIRMED",
        "unconfirmed",
        "confirmed",
        "no valid confirmation by a person",
        account=LIVE,
        policy=SERVING,
    ),
    passes(
        "live_interlock",
        "confirmed",
        "confirmed",
        "",
        account=LIVE,
        policy=SERVING,
        state={"live_confirmed": True},
    ),
    passes("live_interlock", "live", None, "", account=LIVE, policy={**SERVING, "require_live_confirm": False}),
    passes("live_interlock", "live", None, "", account={**LIVE, **HELD}, policy=SERVING, outcome=an_exit()),
    passes("proposal_valid", None, None, ""),
    blocks("proposal_valid", "UNKNOWN_SYMBOL", None, None, "GONE is not in the snapshot", candidate={"symbol": "GONE"}),
    passes("snapshot_fresh", D(0), 60, ""),
    passes("snapshot_fresh", D(0), None, "the age check is off", policy={"max_snapshot_age_s": 0}),
    blocks(
        "snapshot_fresh",
        "STALE_SNAPSHOT",
        D("60.001"),
        60,
        "as_of is too old",
        state={"now": AS_OF + timedelta(seconds=60.001)},
    ),
    blocks(
        "snapshot_fresh",
        "FUTURE_SNAPSHOT",
        D("-5.001"),
        -5,
        "as_of lies in the future",
        state={"now": AS_OF - timedelta(seconds=5.001)},
    ),
    passes("quotes", D(100), D(100), "price and mid agree"),
    skips("quotes", "no quotes were sent", symbol={**NO_QUOTES, "spread_pct": "0.001"}),
    skips("quotes", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    passes("duplicate_intent", "none", None, ""),
    blocks(
        "duplicate_intent",
        "DUPLICATE_INTENT",
        "long",
        None,
        "position in the same direction",
        account={"positions": (a_position(symbol="ACME"),)},
    ),
    blocks("duplicate_intent", "DUPLICATE_INTENT", "long", None, "open ticket in the same direction", state=ticket()),
    blocks(
        "duplicate_intent",
        "OPPOSITE_POSITION",
        "short",
        None,
        "open ticket in the opposite direction",
        state=ticket(direction=Direction.SHORT),
    ),
    blocks(
        "duplicate_intent",
        "OPPOSITE_POSITION",
        "short",
        None,
        "position in the opposite direction",
        account={"positions": (a_position(symbol="ACME", quantity=-1, stop_loss="110"),)},
    ),
    passes("price_collar", D(0), D(6), ""),
    skips("price_collar", "the proposal gives no usable entry", candidate={"entry_price": None}),
    skips("price_collar", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks("price_collar", "MISSING_ATR", None, None, "ATR is missing", symbol={"atr": None}),
    blocks(
        "price_collar",
        "PRICE_COLLAR",
        D("6.01"),
        D(6),
        "entry too far from mid",
        candidate={"entry_price": "106.01"},
    ),
    passes("stop", D(5), D(20), ""),
    skips("stop", "the proposal gives no usable entry", candidate={"entry_price": None}),
    skips("stop", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks("stop", "MISSING_ATR", None, None, "ATR is missing", symbol={"atr": None}),
    blocks(
        "stop",
        "STOP_MISSING",
        None,
        D(100),
        "no stop on the loss side of the entry",
        candidate={"stop_loss": None},
    ),
    blocks(
        "stop",
        "STOP_WRONG_SIDE",
        D(100),
        D(100),
        "no stop on the loss side of the entry",
        candidate={"stop_loss": "100"},
    ),
    blocks("stop", "STOP_TOO_TIGHT", D("0.79"), D("0.8"), "stop nearer than allowed", candidate={"stop_loss": "99.21"}),
    blocks("stop", "STOP_TOO_WIDE", D("20.01"), D(20), "stop wider than allowed", candidate={"stop_loss": "79.99"}),
    passes("target", D(15), D(40), ""),
    skips("target", "the proposal gives no usable entry", candidate={"entry_price": None}),
    skips("target", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks("target", "MISSING_ATR", None, None, "ATR is missing", symbol={"atr": None}),
    blocks(
        "target",
        "TARGET_WRONG_SIDE",
        D(100),
        D(100),
        "no target on the profit side of the entry",
        candidate={"target_price": "100"},
    ),
    blocks(
        "target",
        "TARGET_WRONG_SIDE",
        None,
        D(100),
        "no target on the profit side of the entry",
        candidate={"target_price": None},
    ),
    blocks(
        "target",
        "TARGET_TOO_FAR",
        D("40.01"),
        D(40),
        "target further than allowed",
        candidate={"target_price": "140.01"},
    ),
    passes("min_adv", D(1_000_000_000), D(3_000_000), ""),
    skips("min_adv", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks(
        "min_adv",
        "MISSING_ADV",
        None,
        D(3_000_000),
        "average daily dollar volume is missing",
        symbol={"adv": None},
    ),
    blocks("min_adv", "ILLIQUID", D(2_999_999), D(3_000_000), "trades too little", symbol={"adv": "2999999"}),
    passes("spread", D(0), D("0.01"), ""),
    skips("spread", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    skips("spread", "the quotes are inconsistent", symbol={"bid": "101"}),
    blocks("spread", "MISSING_SPREAD", None, D("0.01"), "neither quotes nor a spread", symbol=NO_QUOTES),
    blocks(
        "spread",
        "SPREAD_TOO_WIDE",
        D("0.0101"),
        D("0.01"),
        "spread too wide",
        symbol={**NO_QUOTES, "spread_pct": "0.0101"},
    ),
    passes("min_price", D(100), D(1), ""),
    skips("min_price", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks("min_price", "PRICE_TOO_LOW", D("0.99"), D(1), "price too low", symbol={"price": "0.99"}),
    passes("market_cap", D(50_000_000_000), D(300_000_000), ""),
    skips("market_cap", "no market cap was sent", symbol={"market_cap": None}),
    skips("market_cap", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks(
        "market_cap",
        "MICROCAP",
        D(299_999_999),
        D(300_000_000),
        "company too small",
        symbol={"market_cap": "299999999"},
    ),
    passes("borrow", "yes", "yes", "", candidate=SHORT),
    skips("borrow", "a long entry borrows nothing"),
    skips("borrow", "the snapshot does not hold the symbol", candidate={"symbol": "GONE"}),
    blocks(
        "borrow",
        "MISSING_SHORTABLE",
        None,
        None,
        "whether it can be borrowed is not known",
        candidate=SHORT,
        symbol={"shortable": None},
    ),
    blocks("borrow", "NOT_SHORTABLE", "no", "yes", "cannot be borrowed", candidate=SHORT, symbol={"shortable": False}),
    passes("daily_loss", D(0), D("0.02"), "0.00 of 100000.00 USD"),
    blocks(
        "daily_loss",
        "DAILY_LOSS_LIMIT",
        D("0.02"),
        D("0.02"),
        "2000.00 of 100000.00 USD",
        account={"equity": 98_000, "daily_pnl": -2_000},
    ),
    blocks(
        "daily_loss",
        "MISSING_DAILY_PNL",
        None,
        D("0.02"),
        "neither a P&L nor an earlier equity mark",
        account={"daily_pnl": None},
    ),
    passes("weekly_loss", D(0), D("0.05"), "0.00 of 100000.00 USD"),
    blocks(
        "weekly_loss",
        "WEEKLY_LOSS_LIMIT",
        D("0.05"),
        D("0.05"),
        "5000.00 of 100000.00 USD",
        account={"equity": 95_000, "weekly_pnl": -5_000},
    ),
    blocks(
        "weekly_loss",
        "MISSING_WEEKLY_PNL",
        None,
        D("0.05"),
        "neither a P&L nor an earlier equity mark",
        account={"weekly_pnl": None},
    ),
    passes("conviction", 90, 55, ""),
    passes("conviction", 54, 55, "permitted as a probe", candidate={"conviction": 54}),
    blocks("conviction", "LOW_CONVICTION", 49, 55, "below the probe minimum 50", candidate={"conviction": 49}),
    blocks(
        "conviction",
        "LOW_CONVICTION",
        54,
        55,
        "a probe needs cash above 0.70 of equity",
        candidate={"conviction": 54},
        account={"cash": 70_000},
    ),
    blocks(
        "conviction",
        "LOW_CONVICTION",
        54,
        55,
        "no probes in high volatility",
        candidate={"conviction": 54},
        snapshot={"regime": Regime.HIGH_VOLATILITY},
    ),
    passes("p_win", D("0.5"), D("0.45"), ""),
    passes("p_win", D("0.45"), D("0.45"), "", candidate={"p_win_pct": 45}),
    passes("p_win", D("0.44"), D("0.45"), "the reward makes up for it", candidate={"p_win_pct": 44}),
    *(skips(gate, UNPRICED, symbol={"atr": None}) for gate in ("p_win", "risk_reward", "expected_value", "size")),
    passes("size", 99, 1, "risk_budget binds"),
    blocks(
        "size",
        "SIZE_BUYING_POWER",
        0,
        1,
        "buying_power leaves less than one share",
        account={"buying_power": 0},
    ),
    blocks(
        "size",
        "SIZE_BUYING_POWER",
        2,
        3,
        "200.00 USD is below the smallest order (buying_power binds)",
        account={"buying_power": 200},
        policy={"min_order_notional": 201},
    ),
    blocks(
        "size",
        "MISSING_MARK",
        None,
        None,
        "no price for BOLT, COGS",
        account={"positions": (a_position(mark_price=None), a_position(symbol="COGS", mark_price=None))},
    ),
    blocks(
        "size",
        "MISSING_POSITION_STOP",
        None,
        None,
        "no stop for BOLT, COGS",
        account={"positions": (a_position(stop_loss=None), a_position(symbol="COGS", stop_loss=None))},
    ),
]


@pytest.mark.parametrize("line", LINES, ids=str)
def test_the_report_reads_word_for_word(line: Line) -> None:
    found = gate_of(judged(**line.changes), line.gate)

    assert (found.status, found.code, found.observed, found.limit, found.detail) == (
        line.status,
        line.code,
        line.observed,
        line.limit,
        line.detail,
    )


def test_quotes_that_contradict_themselves_are_described() -> None:
    market = a_market(a_symbol(bid="101"))
    fault = market.symbols[0].quote_fault

    assert fault
    assert gate_of(judged(symbol={"bid": "101"}), "quotes").detail == fault


def test_quotes_below_a_dollar_are_quotes() -> None:
    line = gate_of(judged(symbol={"price": "0.60", "bid": "0.59", "ask": "0.61"}), "quotes")

    assert (line.status, line.observed, line.limit) == (PASS, D("0.60"), D("0.60"))


# --- gates on their own: what no judgement can show, because another part of it comes first -----------------


def a_case(**changes: Any) -> Case:
    """The default case as the gates see it, with the edge of a bargain and no size."""
    account, market, state = an_account(), a_market(), a_state()
    defaults: dict[str, Any] = {
        "account": account,
        "market": market,
        "state": state,
        "policy": a_policy(),
        "decider_serves_live": True,
        "calibrated": False,
        "proposal_fault": None,
        "exposure": measure_exposure(account=account, market=market, state=state),
        "reduces": False,
        "candidate": a_candidate(),
        "view": market.symbols[0],
        "entry": D(100),
        "edge": an_edge(),
    }
    return Case(**{**defaults, **changes})


def an_edge(**changes: Any) -> Edge:
    defaults: dict[str, Any] = {
        "p_win_raw": D("0.5"),
        "p_win": D("0.5"),
        "risk_reward": D(3),
        "ev_r": D(1),
        "ev_pct": D("0.01"),
        "kelly_fraction": D("0.2"),
        "cost_usd": D(0),
        "cost_bps_round_trip": D(0),
    }
    return Edge(**{**defaults, **changes})


def test_only_an_entry_with_a_conviction_below_the_threshold_and_no_refusal_is_a_probe() -> None:
    assert a_case(candidate=a_candidate(conviction=54)).is_probe
    assert not a_case(candidate=a_candidate(conviction=55)).is_probe
    assert not a_case(candidate=a_candidate(conviction=49)).is_probe
    assert not a_case(candidate=None).is_probe


def test_the_probe_minimum_can_be_waived_but_nothing_else_of_a_probe() -> None:
    low = a_case(candidate=a_candidate(conviction=10), probe_minimum_waived=True)

    assert probe_refusal(low) is None
    assert probe_refusal(replace(low, account=an_account(cash=70_000))) is not None
    assert probe_refusal(replace(low, market=a_market(regime=Regime.HIGH_VOLATILITY))) is not None
    assert probe_refusal(a_case(candidate=None)) == "nothing to probe with"


@pytest.mark.parametrize("check", [price_collar, stop, target, borrow])
def test_a_candidate_without_a_symbol_in_the_snapshot_is_not_judged_by_its_data(check: Any) -> None:
    nothing = Finding(status=SKIP, detail="the snapshot does not hold the symbol")

    assert check(a_case(view=None, entry=None)) == nothing
    assert check(a_case(view=None)) == nothing


@pytest.mark.parametrize("check", [stop, target, borrow, conviction])
def test_without_a_candidate_there_is_nothing_to_judge_in_it(check: Any) -> None:
    nothing = Finding(status=SKIP, detail="the snapshot does not hold the symbol")

    assert check(a_case(candidate=None)) == nothing
    assert check(a_case(candidate=None, view=None)) == nothing


def test_a_size_needs_an_entry_too() -> None:
    case = a_case(sizing=judged().sizing)

    assert size(case).status is PASS
    assert size(replace(case, entry=None)).detail == UNPRICED
    assert size(replace(case, sizing=None)).detail == UNPRICED


def test_a_low_p_win_and_a_low_reward_say_so_together() -> None:
    edge = an_edge(p_win=D("0.44"), risk_reward=D("1.79"))

    assert p_win(a_case(edge=edge)) == Finding(
        status=BLOCK,
        observed=D("0.44"),
        limit=D("0.45"),
        code=Code.LOW_P_WIN,
        detail="p_win and risk-reward are both too low",
    )
    assert risk_reward(a_case(edge=edge)) == Finding(
        status=BLOCK,
        observed=D("1.79"),
        limit=D("1.8"),
        code=Code.LOW_RISK_REWARD,
        detail="reward too small for the risk",
    )


def test_an_expected_value_at_the_minimum_says_so() -> None:
    assert expected_value(a_case(edge=an_edge(ev_pct=D(0)))) == Finding(
        status=BLOCK,
        observed=D(0),
        limit=D(0),
        code=Code.NEGATIVE_EV,
        detail="expected value not above the minimum",
    )
    assert expected_value(a_case()) == Finding(status=PASS, observed=D("0.01"), limit=D(0))


@pytest.mark.parametrize(
    ("changes", "mid", "fault"),
    [
        ({"stop_loss": None}, "100", Code.STOP_MISSING),
        ({"stop_loss": "99.99"}, "100", None),
        ({"stop_loss": "100"}, "101", Code.STOP_WRONG_SIDE),
        ({"stop_loss": "99.5"}, "99.5", Code.STOP_WRONG_SIDE),
        ({"stop_loss": "99.5", "entry_type": EntryType.MARKET}, "99.5", Code.STOP_WRONG_SIDE),
        ({"stop_loss": "99.5", "entry_type": EntryType.STOP}, "99.5", None),
        ({"stop_loss": "99.5", "entry_type": EntryType.STOP_LIMIT}, "99", None),
        ({**SHORT, "stop_loss": "100.01"}, "100", None),
        ({**SHORT, "stop_loss": "100"}, "99", Code.STOP_WRONG_SIDE),
        ({**SHORT, "stop_loss": "100.5"}, "100.5", Code.STOP_WRONG_SIDE),
        ({**SHORT, "stop_loss": "100.5", "entry_type": EntryType.STOP}, "100.5", None),
    ],
)
def test_a_stop_lies_on_the_loss_side_of_the_entry_and_of_a_mid_it_may_fill_at(
    changes: dict[str, Any], mid: str, fault: Code | None
) -> None:
    assert stop_fault(candidate=a_candidate(**changes), entry=D(100), mid=D(mid)) is fault


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"target_price": None}, Code.TARGET_WRONG_SIDE),
        ({"target_price": "100"}, Code.TARGET_WRONG_SIDE),
        ({"target_price": "100.01"}, None),
        ({**SHORT, "target_price": None}, Code.TARGET_WRONG_SIDE),
        ({**SHORT, "target_price": "100"}, Code.TARGET_WRONG_SIDE),
        ({**SHORT, "target_price": "99.99"}, None),
    ],
)
def test_a_target_lies_on_the_profit_side_of_the_entry(changes: dict[str, Any], fault: Code | None) -> None:
    assert target_fault(candidate=a_candidate(**changes), entry=D(100)) is fault


def test_the_gates_of_the_account_are_those_that_no_proposal_can_pass() -> None:
    assert (kill_switch, live_interlock, snapshot_fresh, daily_loss, weekly_loss) == ACCOUNT_GATES
    assert [check(a_case()) for check in ACCOUNT_GATES] == [
        Finding(status=PASS, observed="running"),
        Finding(status=SKIP, detail="paper account"),
        Finding(status=PASS, observed=D(0), limit=60),
        Finding(status=PASS, observed=D(0), limit=D("0.02"), detail="0.00 of 100000.00 USD"),
        Finding(status=PASS, observed=D(0), limit=D("0.05"), detail="0.00 of 100000.00 USD"),
    ]
    assert account_blocks(a_case()) == []


def test_what_the_account_blocks_is_told_by_its_codes_in_the_order_of_the_gates() -> None:
    late = a_state(halts=(a_halt(state=HaltState.HALTED),), now=AS_OF + timedelta(seconds=61))

    assert account_blocks(a_case(state=late)) == [Code.HALTED, Code.STALE_SNAPSHOT]


def test_a_reply_that_proposes_nothing_skips_every_gate_with_the_reason() -> None:
    assert {(line.status, line.detail) for line in skip_gates("nothing was proposed")} == {
        (SKIP, "nothing was proposed")
    }


def test_a_rule_for_entries_is_not_even_asked_about_a_reduction() -> None:
    def fails(_: Case) -> Finding:
        raise AssertionError("asked")

    line = Gate("spread", "fraction", fails).judge(a_case(reduces=True))

    assert (line.gate, line.unit, line.status, line.detail) == ("spread", "fraction", SKIP, "a rule for entries")
    with pytest.raises(AssertionError, match="asked"):
        Gate("spread", "fraction", fails, holds_exits=True).judge(a_case(reduces=True))
    with pytest.raises(AssertionError, match="asked"):
        Gate("spread", "fraction", fails).judge(a_case())


def test_the_code_in_the_report_is_plain_text() -> None:
    line = gate_of(judged(account={"daily_pnl": None}), "daily_loss")

    assert type(line.code) is str
