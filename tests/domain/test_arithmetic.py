"""The arithmetic that the contract works out by hand, reproduced number by number."""

import json
import math
from typing import Any

import pytest

from app.api.schemas import DecideRequest
from app.domain.buckets import BucketMap
from app.domain.document import decision_document
from app.domain.market import resolve_market
from app.domain.recalibration import PlattCalibrator
from app.domain.verdict import Judgement, judge
from tests.builders import (
    COSTLESS,
    DECISION_ID,
    a_candidate,
    a_policy,
    a_request,
    a_standing,
    a_state,
    a_trade,
    caps_of,
    judged,
)


def judged_at_100(*, atr: str, stop_loss: str = "98.00") -> Judgement:
    """100,000 dollars, 50 bps, conviction 90 (multiplier 1), bid = ask = entry = 100.00, no commission."""
    return judged(symbol={"atr": atr}, candidate={"stop_loss": stop_loss, "target_price": "106.00"}, policy=COSTLESS)


def test_half_a_percent_of_100_000_at_2_dollars_a_share_is_250_shares() -> None:
    # 100,000 x 50 / 10,000 = 500 dollars; D = max(100 - 98, 1.2 x 1) = 2; 500 / 2 = 250
    judgement = judged_at_100(atr="1.00")

    assert judgement.sizing is not None
    assert judgement.sizing.risk_per_share == 2
    assert caps_of(judgement)["risk_budget"] == 250


def test_the_symbol_cap_of_20_percent_leaves_200_of_them() -> None:
    # 0.20 x 100,000 / 100 = 200, which is less than 250
    judgement = judged_at_100(atr="1.00")

    assert judgement.sizing is not None
    assert (judgement.sizing.quantity, judgement.sizing.binding_cap) == (200, "symbol_exposure")
    assert judgement.verdict == "resized"
    assert judgement.ticket is not None
    assert judgement.ticket.quantity == 200


def test_a_wider_atr_makes_it_166_by_risk_with_the_same_stop() -> None:
    # D = max(100 - 98, 1.2 x 2.5) = 3; 500 / 3.0 = 166.7
    judgement = judged_at_100(atr="2.50")

    assert judgement.sizing is not None
    assert judgement.sizing.risk_per_share == 3
    assert judgement.sizing.quantity == 166
    assert judgement.verdict == "approved"


def test_a_tight_stop_cannot_inflate_the_size() -> None:
    # D = max(100 - 99.50, 1.2 x 2.5) = 3, whatever the stop: not 500 / 0.50 = 1,000 shares
    assert caps_of(judged_at_100(atr="2.50", stop_loss="99.50"))["risk_budget"] == 166


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.fixture(scope="module")
def nvda() -> dict[str, Any]:
    """The response to the rulebook's request (§2) when the model proposes the rulebook's candidate (§3).

    Level 1, bull_trend; the calibrator shifts the log odds by just so much that 0.54 becomes 0.51.
    """
    account, snapshot, level = DecideRequest.model_validate_json(json.dumps(a_request())).to_domain()
    market = resolve_market(snapshot, buckets=BucketMap({"AAPL": ("technology",)}))
    policy = a_policy(aggressiveness_level=level)
    candidate = a_candidate(
        symbol="NVDA",
        entry_price="125.40",
        stop_loss="119.80",
        target_price="137.00",
        conviction=72,
        p_win_pct=54,
    )
    judgement = judge(
        decision_id=DECISION_ID,
        outcome=a_trade(candidate),
        market=market,
        account=account,
        state=a_state(now=market.as_of),
        policy=policy,
        calibration=a_standing(calibrator=PlattCalibrator(intercept=logit(0.51) - logit(0.54), slope=1.0)),
    )
    document = decision_document(
        decision_id=DECISION_ID,
        account_id=account.id,
        judgement=judgement,
        market=market,
        policy=policy,
        decider={},
        latency_ms=0,
    )
    read_back: dict[str, Any] = json.loads(json.dumps(document))
    return read_back


def test_the_nvda_example_is_approved(nvda: dict[str, Any]) -> None:
    assert (nvda["action"], nvda["verdict"], nvda["should_execute"]) == ("trade", "approved", True)
    assert (nvda["reason_code"], nvda["degraded"]) == (None, False)
    assert {gate["status"] for gate in nvda["gates"]} == {"pass", "not_applicable"}


def test_the_nvda_example_has_its_edge(nvda: dict[str, Any]) -> None:
    # Quotes give the spread: (125.42 - 125.38) / 125.40 = 3.190 bps, of which a limit entry pays half: 1.595 bps.
    # Commission 2 x 0.5 = 1 bp. Impact: sigma_day = 4.1 / (1.596 x 125.4) = 2.0486 %, x sqrt(53 / 250 M) twice
    # = 0.189 bps. Together 2.784 bps; C = 125.40 x 2.784 bps = 0.0349.
    # L = 5.60, W = 11.60; b = (11.60 - 0.0349) / (5.60 + 0.0349) = 2.0524
    # EV_R = 0.51 x 2.0524 - 0.49 = 0.5567; ev_pct = 0.5567 x 5.6349 / 125.40 = 2.502 %
    # kelly = 0.51 - 0.49 / 2.0524 = 0.2713
    edge = nvda["edge"]

    assert edge["p_win_raw"] == 0.54
    assert edge["p_win"] == pytest.approx(0.51, abs=1e-12)
    assert round(edge["risk_reward"], 2) == 2.05
    assert round(edge["ev_r"], 2) == 0.56
    assert round(edge["ev_pct"], 4) == 0.0250
    assert round(edge["kelly_fraction"], 2) == 0.27
    assert round(edge["cost_bps_round_trip"], 1) == 2.8
    assert nvda["candidates"] == [
        {"symbol": "NVDA", "rank": 1, "verdict": "approved", "ev_r": edge["ev_r"], "blocked_by": []}
    ]


def test_the_nvda_example_has_its_size(nvda: dict[str, Any]) -> None:
    # Conviction 72 at level 1: multiplier 0.60; bull_trend, long: 1. risk_bps = 50 x 0.60 x 1 = 30: 300 dollars.
    # Kelly: 10,000 x 0.25 x 0.27 = 678 bps, far above. C without impact = 125.40 x 2.595 bps = 0.03254.
    # D = max(5.60 + 0.03254, 1.2 x 4.1 = 4.92) = 5.63254; 300 / 5.63254 = 53.3. Symbol: 20,000 / 125.40 = 159.5.
    # Day: baseline 100,350, room 2,007 - 350 - open risk 50 x 16.20 = 847; / 5.63254 = 150.4.
    # Week: baseline 100,900, room 5,045 - 900 - 810 = 3,335; / 5.63254 = 592.1.
    # Technology: (35,000 - 10,060) / 125.40 = 198.9. Leverage: (200,000 - 10,060) / 125.40 = 1,514.7.
    sizing = nvda["sizing"]
    caps = {cap["cap"]: cap["max_quantity"] for cap in sizing["caps"]}

    assert (sizing["risk_per_share"], sizing["atr_multiple"], sizing["binding_cap"]) == ("5.63", 1.2, "risk_budget")
    assert list(caps.items()) == [
        ("risk_budget", 53),
        ("daily_loss_room", 150),
        ("weekly_loss_room", 592),
        ("symbol_exposure", 159),
        ("leverage", 1514),
        ("bucket:technology", 198),
        ("bucket:ai", 279),  # 35,000 / 125.40
        ("buying_power", 988),  # 124,000 / 125.40
        ("order_notional", 398),  # 50,000 / 125.40
        ("daily_notional", 3987),  # 500,000 / 125.40
        ("adv_participation", 24_720_893),  # 3.1 billion / 125.40
    ]


def test_the_nvda_example_has_its_order(nvda: dict[str, Any]) -> None:
    # 53 x 125.40 = 6,646.20; 53 x 5.63254 = 298.52, which is 29.85 bps of equity.
    # Collar: low = max(125.40 - 1.5 x 4.1 = 119.25, stop 119.80); high = min(131.55, 119.80 + 300 / 53 = 125.460).
    order = nvda["order"]

    assert (order["symbol"], order["side"], order["quantity"]) == ("NVDA", "buy", 53)
    assert (order["entry_type"], order["entry_price"], order["stop_loss"]) == ("limit", "125.40", "119.80")
    assert order["targets"] == [{"price": "137.00", "fraction": 1.0}]
    assert (order["notional_usd"], order["risk_usd"]) == ("6646.20", "298.52")
    assert round(order["risk_bps"], 1) == 29.9
    assert order["price_collar"]["low"] == "119.80"
    # 125.460377..., to the cent 125.46; rounded down, so that a fill there still fits the budget.
    assert 125.46 <= float(order["price_collar"]["high"]) <= 119.80 + 300 / 53
    assert (order["stop_required"], order["reduce_only"], order["mode"]) == (True, False, "paper")


def test_the_nvda_example_has_its_risk_state(nvda: dict[str, Any]) -> None:
    # 350 / 100,350 = 34.9 bps; 900 / 100,900 = 89.2 bps; AAPL: 50 x 201.20 = 10,060
    state = nvda["risk_state"]
    technology = next(bucket for bucket in state["buckets"] if bucket["bucket"] == "technology")

    assert (state["day_dd_bps"], state["week_dd_bps"], state["open_positions"]) == (35, 89, 1)
    assert state["cash_pct"] == 0.62
    assert round(state["gross_leverage"], 2) == 0.10
    assert round(technology["exposure_pct"], 2) == 0.10
    assert (technology["limit_pct"], technology["reduce_by_usd"]) == (0.35, 0)


def test_the_nvda_example_scores_98_for_liquidity(nvda: dict[str, Any]) -> None:
    # min(50, 50 x 31 billion / 10 million) + max(0, 50 - 5,000 x 0.00031898) = 50 + 48.4051
    (liquidity,) = nvda["liquidity"]

    assert liquidity["symbol"] == "NVDA"
    assert round(liquidity["score"], 1) == 98.4
