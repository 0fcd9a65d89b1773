"""Tests that hold every mistake of the system this service replaces; each docstring quotes its line of that list.

What the replaced system got wrong about outcomes and their statistics is tested beside the code for them.
"""

import json
from decimal import Decimal
from typing import Any, Final

import pytest
from pydantic import ValidationError

from app.api.schemas import DecideRequest
from app.domain.account import AccountMode, HaltState
from app.domain.market import resolve_market
from app.domain.policy import Policy
from app.domain.proposal import EntryType, ModelFailure
from app.domain.recalibration import PlattCalibrator
from app.domain.verdict import Verdict, entry_bounds
from app.llm.decider import Prompt
from app.llm.prompt import build_prompt
from app.llm.wire import InvalidReplyError, parse_decision, tool_definition
from tests.builders import (
    BUCKETS,
    COSTLESS,
    a_candidate,
    a_halt,
    a_policy,
    a_position,
    a_request,
    a_reservation,
    a_snapshot,
    a_standing,
    a_state,
    a_symbol,
    a_trade,
    an_account,
    an_exit,
    blocking_codes,
    caps_of,
    gate_of,
    judged,
)


def a_tool_candidate(**changes: Any) -> dict[str, Any]:
    return {
        "symbol": "ACME",
        "direction": "long",
        "setup": "momentum",
        "entry_type": "limit",
        "entry_price": 100.0,
        "stop_loss": 95.0,
        "target_price": 115.0,
        "time_stop_hours": 48,
        "p_win_pct": 50,
        "conviction": 90,
        "thesis": "Higher lows on rising volume.",
        **changes,
    }


def a_tool_input(*candidates: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "mode": "trade",
        "candidates": list(candidates) or [a_tool_candidate()],
        "manage": None,
        "watchlist": [],
        "notes": "",
        **changes,
    }


def a_prompt(
    *, symbol: dict[str, Any] | None = None, account: dict[str, Any] | None = None, policy: Policy | None = None
) -> Prompt:
    market = resolve_market(a_snapshot(a_symbol(**(symbol or {}))), buckets=BUCKETS)
    held, limits = an_account(**(account or {})), policy or a_policy()
    bounds = entry_bounds(market=market, account=held, state=a_state(), policy=limits)
    return build_prompt(policy=limits, market=market, account=held, bounds=bounds)


def data_of(prompt: Prompt) -> dict[str, Any]:
    block = prompt.user.split("<data>\n")[1].split("\n</data>")[0]
    data: dict[str, Any] = json.loads(block)
    return data


def test_the_inputs_below_start_from_one_that_passes() -> None:
    assert judged(parse_decision(a_tool_input())).verdict is Verdict.APPROVED


# --- "Forced tool use" ---------------------------------------------------------------------------------

PROSE: Final = 'Sure! {"mode": "trade"} is my decision.'


@pytest.mark.parametrize(
    "reply",
    [PROSE, json.dumps(a_tool_input()), [a_tool_input()], None, 7, "", {}],
    ids=["prose", "JSON text", "a list", "null", "a number", "nothing", "an empty object"],
)
def test_only_a_whole_tool_input_is_a_reply(reply: object) -> None:
    r"""… "Forced tool use" was free text parsed with a greedy `\{.*\}`"""
    with pytest.raises(InvalidReplyError):
        parse_decision(reply)


@pytest.mark.parametrize("field", list(a_tool_candidate()))
def test_a_field_the_model_left_out_is_not_invented(field: str) -> None:
    """… a repair step invented direction=long, stop=0, p_win=0, spread_ok=true."""
    candidate = a_tool_candidate()
    del candidate[field]

    with pytest.raises(InvalidReplyError, match=field):
        parse_decision(a_tool_input(candidate))


def test_the_forced_tool_is_strict_and_knows_no_other_field() -> None:
    """… "Forced tool use" was free text …"""
    tool = tool_definition(strict=True)
    candidate = tool["input_schema"]["properties"]["candidates"]["items"]

    assert tool["strict"] is True
    assert tool["input_schema"]["additionalProperties"] is False
    assert candidate["additionalProperties"] is False
    assert candidate["required"] == list(candidate["properties"]) == list(a_tool_candidate())


# --- self-certified compliance -------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["liquidity_ok", "correlation_ok", "spread_ok", "drawdown", "should_execute"])
def test_the_model_cannot_certify_itself(claim: str) -> None:
    """The model certified its own compliance (liquidity_ok, correlation_ok, drawdown 0)"""
    for reply in (a_tool_input(**{claim: True}), a_tool_input(a_tool_candidate(**{claim: True}))):
        with pytest.raises(InvalidReplyError, match=claim):
            parse_decision(reply)
    assert claim not in json.dumps(tool_definition(strict=False))


def test_whether_to_execute_follows_from_the_gates_and_not_from_what_the_model_says() -> None:
    """… and `should_execute()` believed it."""
    boast = {"thesis": "Liquid, compliant, no drawdown, 9:1, approved.", "conviction": 100, "p_win_pct": 99}

    judgement = judged(candidate=boast, symbol={"adv": 2_999_999}, account={"equity": 98_000, "daily_pnl": -2_000})

    assert not judgement.should_execute
    assert blocking_codes(judgement)[:2] == ("ILLIQUID", "DAILY_LOSS_LIMIT")


# --- what passed ---------------------------------------------------------------------------------------


def test_a_trade_without_a_candidate_is_invalid() -> None:
    """… mode=trade with no recommendation passed;"""
    with pytest.raises(InvalidReplyError, match="mode trade without candidates"):
        parse_decision(a_tool_input(candidates=[]))


@pytest.mark.parametrize(
    ("says", "candidate", "code"),
    [
        ("a long with its stop above the entry", {"stop_loss": 101.0}, "STOP_WRONG_SIDE"),
        ("stop 0", {"stop_loss": 0}, "STOP_MISSING"),
        ("no stop", {"stop_loss": None}, "STOP_MISSING"),
        ("a short with its stop below the entry", {"direction": "short", "target_price": 85.0}, "STOP_WRONG_SIDE"),
    ],
)
def test_a_stop_that_stops_nothing_blocks(says: str, candidate: dict[str, Any], code: str) -> None:
    """… so did a long with its stop above the entry, stop 0,"""
    judgement = judged(parse_decision(a_tool_input(a_tool_candidate(**candidate))))

    assert judgement.reason_code == code
    assert judgement.ticket is None


@pytest.mark.parametrize("p_win_pct", [7.5, 0.54, 0, 100, 750, -5, "54", True, None])
def test_a_probability_is_a_whole_percent_from_1_to_99(p_win_pct: object) -> None:
    """… p_win 7.5,"""
    with pytest.raises(InvalidReplyError, match="p_win_pct"):
        parse_decision(a_tool_input(a_tool_candidate(p_win_pct=p_win_pct)))


def test_the_model_has_no_say_in_the_size() -> None:
    """… a negative size,"""
    for field in ("size", "quantity", "shares", "position_size_pct"):
        with pytest.raises(InvalidReplyError, match=field):
            parse_decision(a_tool_input(a_tool_candidate(**{field: -100})))


def test_a_day_that_lost_9_percent_trades_no_more() -> None:
    """… a −9 % drawdown day."""
    judgement = judged(account={"equity": 91_000, "daily_pnl": -9_000})

    assert judgement.reason_code == "DAILY_LOSS_LIMIT"
    assert gate_of(judgement, "daily_loss").observed == Decimal("0.09")


# --- conviction ----------------------------------------------------------------------------------------


def test_nothing_of_an_invalid_reply_is_kept() -> None:
    """Conviction of an *invalid* reply was kept, so the fallback itself failed;"""
    judgement = judged(ModelFailure.INVALID)

    assert judgement.verdict is Verdict.NO_TRADE
    assert judgement.reason_code == "MODEL_INVALID"
    assert judgement.degraded
    assert judgement.candidate is None
    assert judgement.candidates == ()


@pytest.mark.parametrize(("level", "threshold"), [(0, 60), (1, 55), (2, 52), (3, 50)])
def test_every_level_has_its_own_threshold_and_prompt_and_gate_share_it(level: int, threshold: int) -> None:
    """… one threshold (55) held at every aggressiveness; another file used 50;"""
    policy = a_policy(aggressiveness_level=level)
    no_probe = {"cash": 0, "buying_power": 100_000}

    at = judged(candidate={"conviction": threshold}, policy=policy, account=no_probe)
    below = judged(candidate={"conviction": threshold - 1}, policy=policy, account=no_probe)

    assert gate_of(at, "conviction").code is None
    assert gate_of(below, "conviction").code == "LOW_CONVICTION"
    assert f"conviction is at least {threshold}," in a_prompt(policy=policy).system


@pytest.mark.parametrize("conviction", [0.6, 0.9, 101, -1, "72"])
def test_conviction_is_a_whole_number_from_0_to_100(conviction: object) -> None:
    """… a third compared 0–100 with 0.6."""
    with pytest.raises(InvalidReplyError, match="conviction"):
        parse_decision(a_tool_input(a_tool_candidate(conviction=conviction)))


# --- absent data ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"symbol": {"atr": None}}, "MISSING_ATR"),
        ({"symbol": {"adv": None}}, "MISSING_ADV"),
        ({"symbol": {"bid": None, "ask": None}}, "MISSING_SPREAD"),
        ({"account": {"daily_pnl": None}}, "MISSING_DAILY_PNL"),
        ({"account": {"weekly_pnl": None}}, "MISSING_WEEKLY_PNL"),
        ({"account": {"positions": (a_position(mark_price=None),)}}, "MISSING_MARK"),
        ({"account": {"positions": (a_position(stop_loss=None),)}}, "MISSING_POSITION_STOP"),
    ],
)
def test_absent_data_blocks_and_has_no_default(changes: dict[str, Any], code: str) -> None:
    """Absent data had defaults (price 100, ATR 2, ADV $10M, spread 0.1 %);"""
    assert judged(**changes).reason_code == code


@pytest.mark.parametrize(
    "changes",
    [
        {"account": {"equity": ...}},
        {"account": {"cash": ...}},
        {"account": {"positions": ...}},
        {"symbol": {"price": ...}},
        {"as_of": ...},
        {"market": []},
    ],
)
def test_a_request_without_price_equity_cash_or_positions_is_refused(changes: dict[str, Any]) -> None:
    """Absent data had defaults (price 100, ATR 2, ADV $10M, spread 0.1 %);"""
    DecideRequest.model_validate_json(json.dumps(a_request()))

    with pytest.raises(ValidationError):
        DecideRequest.model_validate_json(json.dumps(a_request(**changes)))


def test_absent_data_stays_absent_on_its_way_in() -> None:
    """Absent data had defaults (price 100, ATR 2, ADV $10M, spread 0.1 %);"""
    body = a_request(symbol=dict.fromkeys(("atr", "adv", "avg_volume", "bid", "ask", "spread_pct", "bars"), ...))

    _, snapshot, _ = DecideRequest.model_validate_json(json.dumps(body)).to_domain()
    (view,) = resolve_market(snapshot, buckets=BUCKETS).symbols

    assert (view.atr, view.adv, view.avg_volume, view.spread_pct) == (None, None, None, None)


def test_the_prompt_shows_the_account_it_is_asked_about() -> None:
    """… the portfolio was never passed, so the prompt always said "$100,000 cash, no positions"."""
    account = data_of(a_prompt(account={"equity": 87_654, "cash": 12_345, "positions": (a_position(),)}))["account"]

    assert (account["equity"], account["cash"]) == (87_654, 12_345)
    assert account["positions"] == [{"symbol": "BOLT", "quantity": 100, "avg_price": 40, "mark": 50, "stop_loss": 45}]


# --- one missing figure --------------------------------------------------------------------------------


def test_a_missing_rsi_leaves_the_rest_of_the_symbol_in_the_prompt() -> None:
    """A missing RSI erased the symbol's whole line (f-string precedence);"""
    with_rsi, without = a_prompt(symbol={"rsi": 61.0}), a_prompt(symbol={"rsi": None})
    (full,), (rest,) = data_of(with_rsi)["market"], data_of(without)["market"]

    assert rest == {name: value for name, value in full.items() if name != "rsi"}
    assert rest["price"] == 100
    assert "MISSING: ACME.rsi" in without.user
    assert "MISSING: ACME.rsi" not in with_rsi.user


def test_an_average_volume_of_0_is_missing_and_divides_nothing() -> None:
    """… average volume 0 crashed."""
    judgement = judged(symbol={"avg_volume": 0})

    assert judgement.verdict is Verdict.APPROVED
    assert judgement.issues[0].field == "avg_volume"
    assert judged(symbol={"avg_volume": 0, "adv": 0}).reason_code == "MISSING_ADV"
    assert data_of(a_prompt(symbol={"avg_volume": 0}))["market"][0]["avg_volume"] == 10_000_000  # adv / price


# --- the order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["long", "short"])
def test_the_order_keeps_its_stop(direction: str) -> None:
    """The order dropped its stop"""
    stop = 95.0 if direction == "long" else 105.0
    candidate = a_tool_candidate(
        direction=direction, stop_loss=stop, target_price=200.0 - 115.0 if stop > 100 else 115.0
    )

    ticket = judged(parse_decision(a_tool_input(candidate))).ticket

    assert ticket is not None
    assert ticket.stop_loss == Decimal(str(stop))
    assert ticket.stop_required


def test_the_order_keeps_its_atr_size_and_its_type() -> None:
    """… and its ATR size: 100 × conviction shares at market."""
    # 500 / (1.2 x 5) = 83.3 and 500 / (1.2 x 10) = 41.7: twice the ATR, half the shares.
    calm = judged(symbol={"atr": 5}, policy=COSTLESS).ticket
    wild = judged(symbol={"atr": 10}, policy=COSTLESS).ticket

    assert calm is not None
    assert wild is not None
    assert (calm.quantity, wild.quantity) == (83, 41)
    assert calm.entry_type == EntryType.LIMIT.value


def test_conviction_above_the_last_band_buys_no_more_shares() -> None:
    """… 100 × conviction shares at market."""
    quantities = [caps_of(judged(candidate={"conviction": conviction}))["risk_budget"] for conviction in (85, 90, 100)]

    assert quantities == [99, 99, 99]


# --- probability and conviction ------------------------------------------------------------------------


def test_what_is_weighed_and_recalibrated_is_p_win_and_never_conviction() -> None:
    """Calibration scored conviction instead of p_win;"""
    halved = a_standing(calibrator=PlattCalibrator(intercept=0.0, slope=0.5))

    edges = {
        conviction: judged(candidate={"p_win_pct": 80, "conviction": conviction}, calibration=halved).edge
        for conviction in (85, 100)
    }

    assert edges[85] == edges[100]
    assert edges[85] is not None
    assert edges[85].p_win_raw == Decimal("0.8")
    assert float(edges[85].p_win) == pytest.approx(2 / 3)  # logistic(ln 4 / 2)


# --- units, NaN, kill switch, unrealized losses --------------------------------------------------------


def test_asking_again_is_no_new_session() -> None:
    """… "Sessions" were counted per call."""
    faint = a_trade(*(a_candidate(symbol=name, conviction=50, stop_loss="96", target_price="112") for name in BOTH))
    market = a_snapshot(*(a_symbol(symbol=name) for name in BOTH))

    asked = [judged(faint, snapshot=market, policy={"aggressiveness_level": 0}) for _ in range(5)]

    assert {judgement.reason_code for judgement in asked} == {"LOW_CONVICTION"}


BOTH: Final = ("ACME", "BOLT")


@pytest.mark.parametrize(
    ("equity", "pnl", "code"),
    [
        # 2 % of 1,000,000 is 20,000 and of 10,000 it is 200; 0.02 dollars are nothing.
        (999_999, -1, None),
        (998_000, -2_000, None),
        (980_000, -20_000, "DAILY_LOSS_LIMIT"),
        (9_800, -200, "DAILY_LOSS_LIMIT"),
        (9_801, -199, None),
    ],
)
def test_a_loss_limit_is_a_fraction_of_equity_and_not_dollars(equity: int, pnl: int, code: str | None) -> None:
    """The stop limit used a loss fraction as dollars."""
    judgement = judged(account={"equity": equity, "cash": 10**6, "daily_pnl": pnl})

    assert gate_of(judgement, "daily_loss").code == code


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_no_gate_ever_sees_a_nan(number: str) -> None:
    """NaN passed gates."""
    body = json.dumps(a_request()).replace('"atr": 4.1', f'"atr": {number}')
    assert number in body
    with pytest.raises(ValidationError):
        DecideRequest.model_validate_json(body)

    for field in ("entry_price", "stop_loss", "target_price"):
        with pytest.raises(InvalidReplyError, match=field):
            parse_decision(a_tool_input(a_tool_candidate(**{field: float(number)})))
        assert judged(candidate={field: number}).reason_code == "PROPOSAL_INVALID"


def test_the_kill_switch_stops_everything_and_reduce_only_stops_entries() -> None:
    """The kill switch failed open."""
    holding = {"positions": (a_position(),)}
    halted = {"halts": (a_halt(),)}
    reduce_only = {"halts": (a_halt(state=HaltState.REDUCE_ONLY),)}

    assert judged(state=halted).reason_code == "HALTED"
    assert judged(an_exit(), account=holding, state=halted).reason_code == "HALTED"
    assert judged(state=reduce_only).reason_code == "REDUCE_ONLY"
    assert judged(an_exit(), account=holding, state=reduce_only).should_execute
    assert judged(account={"mode": AccountMode.LIVE}).reason_code == "LIVE_NOT_ALLOWED"


def test_an_unrealized_loss_counts_although_nothing_was_sold() -> None:
    """Realized-only daily loss."""
    # The caller's own P&L says 0, but the day began at 100,000 and equity is 97,500.
    judgement = judged(account={"equity": 97_500, "daily_pnl": 0}, state={"day_baseline_usd": Decimal(100_000)})

    assert judgement.reason_code == "DAILY_LOSS_LIMIT"


# --- the race and the arithmetic -----------------------------------------------------------------------


def test_a_second_decision_sees_the_ticket_of_the_first() -> None:
    """A duplicate-buy race booked 712 buys before a database guard stopped it."""
    first = judged()
    assert first.ticket is not None
    ticket = a_reservation(
        symbol="ACME",
        quantity=first.ticket.quantity,
        notional_usd=first.reserved_notional_usd,
        risk_usd=first.reserved_risk_usd,
        buckets=first.buckets,
    )

    second = judged(state={"reservations": (ticket,)})

    assert second.reason_code == "DUPLICATE_INTENT"
    assert caps_of(second)["symbol_exposure"] == 101  # (20,000 - 99 x 100) / 100


def test_half_a_percent_of_100_000_is_500_and_buys_250_shares() -> None:
    """The test said 0.5 % of 100,000 is 50 and expected 25 shares (it is 500, and 250)."""
    # 100,000 x 50 / 10,000 = 500;  D = max(2, 1.2 x 1) = 2;  500 / 2 = 250, and 200 after the 20 % symbol cap
    judgement = judged(candidate={"stop_loss": "98", "target_price": "106"}, symbol={"atr": 1}, policy=COSTLESS)

    assert caps_of(judgement)["risk_budget"] == 250
    assert judgement.ticket is not None
    assert judgement.ticket.quantity == 200
