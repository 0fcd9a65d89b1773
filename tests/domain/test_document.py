"""Tests of the answer as JSON: the rulebook's example, and how money, prices, numbers and times are written."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.buckets import BucketMap
from app.domain.document import decision_document, finite, gate_document, money_text, price_text, utc_text
from app.domain.policy import POLICY_VERSION, Regime, ScaleOut
from app.domain.proposal import ModelFailure, Proposal, Setup, WatchItem
from app.domain.recalibration import CalibratorState, PlattCalibrator
from app.domain.verdict import Judgement
from tests.builders import (
    AS_OF,
    DECISION_ID,
    SHORT,
    a_candidate,
    a_market,
    a_policy,
    a_position,
    a_snapshot,
    a_standing,
    a_symbol,
    a_trade,
    an_account,
    an_adjust,
    an_exit,
    judged,
)

DECIDER: Final[dict[str, Any]] = {"name": "rules", "model": None, "latency_ms": 1}


def document_of(judgement: Judgement, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "decision_id": DECISION_ID,
        "account_id": "paper-1",
        "judgement": judgement,
        "market": a_market(),
        "policy": a_policy(),
        "decider": DECIDER,
        "latency_ms": 7,
    }
    return decision_document(**{**values, **changes})


# --- the rulebook's example, section 3 -----------------------------------------------------------------

SECTORS: Final = BucketMap({"AAPL": ("technology",), "NVDA": ("technology",)})
NVDA: Final = a_snapshot(
    a_symbol(
        symbol="NVDA",
        price="125.4",
        bid="125.38",
        ask="125.42",
        volume=210_000_000,
        avg_volume=250_000_000,
        atr="4.1",
        adv=31_000_000_000,
        spread_pct="0.0003",
        borrow_rate=0,
        market_cap=3_000_000_000_000,
        earnings_date=date(2026, 11, 25),
        buckets=("technology", "ai"),
    ),
    regime=Regime.BULL_TREND,
)
# The model says 54 %; its record says 51 %.
RECORD: Final = PlattCalibrator(intercept=math.log(0.51 / 0.49) - math.log(0.54 / 0.46), slope=1.0)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    judgement = judged(
        a_trade(
            a_candidate(
                symbol="NVDA",
                setup=Setup.MOMENTUM,
                entry_price="125.40",
                stop_loss="119.80",
                target_price="137.00",
                p_win_pct=54,
                conviction=72,
                thesis="Momentum above the 20-day average, about 3:1.",
            )
        ),
        snapshot=NVDA,
        account=an_account(
            cash=62_000,
            buying_power=124_000,
            daily_pnl=-350,
            weekly_pnl=-900,
            daily_executed_notional=0,
            positions=(a_position(symbol="AAPL", quantity=50, avg_price="190", mark_price="201.2", stop_loss="185"),),
        ),
        calibration=a_standing(calibrator=RECORD),
        buckets=SECTORS,
    )
    market = a_market(*NVDA.market)
    return json.loads(json.dumps(document_of(judgement, market=market)))  # type: ignore[no-any-return]


def test_the_rulebooks_example_is_approved(example: dict[str, Any]) -> None:
    head = {name: example[name] for name in ("action", "verdict", "should_execute", "reason_code", "degraded")}

    assert head == {
        "action": "trade",
        "verdict": "approved",
        "should_execute": True,
        "reason_code": None,
        "degraded": False,
    }


def test_the_rulebooks_example_has_its_order(example: dict[str, Any]) -> None:
    # C = 125.40 x (0.04 / 125.40 / 2 + 2 x 0.5 / 10,000) = 0.02 + 0.01254;  D = 5.60 + 0.03254 = 5.63254
    # Conviction 72: 50 bps x .60 = 30 bps = 300;  300 / 5.63254 = 53.26 -> 53;  53 x 5.63254 = 298.52
    # Collar: low = max(125.40 - 6.15, 119.80);  high = min(125.40 + 6.15, 119.80 + 300 / 53 = 125.4603)
    order = example["order"]

    assert order.pop("risk_bps") == pytest.approx(29.9, abs=0.05)
    assert order == {
        "client_order_id": "tv-01930000000070008000000000000001",
        "symbol": "NVDA",
        "side": "buy",
        "quantity": 53,
        "entry_type": "limit",
        "entry_price": "125.40",
        "stop_loss": "119.80",
        "targets": [{"price": "137.00", "fraction": 1.0}],
        "time_stop_at": "2026-11-22T15:30:00Z",
        "notional_usd": "6646.20",
        "risk_usd": "298.52",
        "price_collar": {"low": "119.80", "high": "125.46"},
        "stop_required": True,
        "reduce_only": False,
        "mode": "paper",
    }


def test_the_rulebooks_example_has_its_edge(example: dict[str, Any]) -> None:
    # sigma = 4.1 / (1.596 x 125.40) = 0.020486;  impact = sigma x sqrt(53 / 250 M) = 0.00000943 a side
    # C = 0.03254 + 125.40 x 2 x 0.00000943 = 0.03491;  b = (11.60 - C) / (5.60 + C) = 2.0524
    # EV_R = 0.51 b - 0.49 = 0.5567;  ev_pct = 0.5567 x 5.63491 / 125.40;  Kelly = 0.51 - 0.49 / b
    assert example["edge"] == {
        "p_win_raw": 0.54,
        "p_win": pytest.approx(0.51, abs=1e-12),
        "risk_reward": pytest.approx(2.05, abs=0.005),
        "ev_r": pytest.approx(0.56, abs=0.005),
        "ev_pct": pytest.approx(0.0250, abs=0.00005),
        "kelly_fraction": pytest.approx(0.27, abs=0.005),
        "cost_bps_round_trip": pytest.approx(2.8, abs=0.05),
    }
    assert example["edge"]["risk_reward"] == pytest.approx(2.052402, abs=1e-6)
    assert example["edge"]["cost_bps_round_trip"] == pytest.approx(2.783544, abs=1e-6)


def test_the_rulebooks_example_has_its_sizing(example: dict[str, Any]) -> None:
    sizing = example["sizing"]
    caps = {cap["cap"]: cap["max_quantity"] for cap in sizing["caps"]}

    assert (sizing["risk_per_share"], sizing["atr_multiple"], sizing["binding_cap"]) == ("5.63", 1.2, "risk_budget")
    # AAPL: 50 x 201.20 = 10,060 in technology, (201.20 - 185) x 50 = 810 open risk
    assert caps == {
        "risk_budget": 53,
        "daily_loss_room": 150,  # (2 % x 100,350 - 350 - 810) / 5.63254 = 847 / 5.63254
        "weekly_loss_room": 592,  # (5 % x 100,900 - 900 - 810) / 5.63254 = 3,335 / 5.63254
        "symbol_exposure": 159,  # 20,000 / 125.40
        "leverage": 1_514,  # (200,000 - 10,060) / 125.40
        "bucket:technology": 198,  # (35,000 - 10,060) / 125.40
        "bucket:ai": 279,  # 35,000 / 125.40
        "buying_power": 988,  # 124,000 / 125.40
        "order_notional": 398,  # 50,000 / 125.40
        "daily_notional": 3_987,  # 500,000 / 125.40
        "adv_participation": 24_720_893,  # 3,100,000,000 / 125.40
    }


def test_the_rulebooks_example_says_whose_p_win_was_used(example: dict[str, Any]) -> None:
    assert example["calibration"] == {
        "state": "on",
        "calibrator_id": 7,
        "p_win_calibrated": example["edge"]["p_win"],
        "derated": False,
        "reason": None,
    }


def test_the_rulebooks_example_has_its_risk_state(example: dict[str, Any]) -> None:
    risk = example["risk_state"]
    (technology,) = risk.pop("buckets")

    assert risk == {
        "day_dd_bps": 35,  # 350 / 100,350
        "week_dd_bps": 89,  # 900 / 100,900
        "cash_pct": 0.62,
        "gross_leverage": 0.1006,
        "open_positions": 1,
    }
    assert technology == {"bucket": "technology", "exposure_pct": 0.1006, "limit_pct": 0.35, "reduce_by_usd": 0}


def test_the_rulebooks_example_has_its_gate_claim_and_liquidity(example: dict[str, Any]) -> None:
    min_adv = next(gate for gate in example["gates"] if gate["gate"] == "min_adv")
    claims = {claim["field"]: (claim["claimed"], claim["computed"]) for claim in example["claims"]}

    assert min_adv == {
        "gate": "min_adv",
        "status": "pass",
        "observed": 31_000_000_000,
        "limit": 3_000_000,
        "unit": "usd",
        "code": None,
        "detail": "",
    }
    assert claims["risk_reward"] == (3.0, pytest.approx(2.05, abs=0.005))
    assert claims["p_win"] == (0.54, pytest.approx(0.51))
    # 50 + 50 - 5,000 x 0.04 / 125.40
    assert example["liquidity"] == [{"symbol": "NVDA", "score": pytest.approx(98.4, abs=0.05)}]
    assert example["candidates"] == [
        {"symbol": "NVDA", "rank": 1, "verdict": "approved", "ev_r": example["edge"]["ev_r"], "blocked_by": []}
    ]


def test_the_answer_has_the_fields_of_the_rulebook_in_its_order(example: dict[str, Any]) -> None:
    assert list(example) == [
        "decision_id",
        "account_id",
        "as_of",
        "decided_at",
        "valid_until",
        "action",
        "verdict",
        "should_execute",
        "reason_code",
        "degraded",
        "order",
        "proposal",
        "edge",
        "sizing",
        "calibration",
        "gates",
        "candidates",
        "risk_state",
        "claims",
        "watchlist",
        "notes",
        "data_quality",
        "liquidity",
        "decider",
        "policy",
        "latency_ms",
    ]


def test_an_answer_without_a_record_says_so() -> None:
    nothing = {"state": "off", "calibrator_id": None, "p_win_calibrated": None, "derated": False, "reason": None}

    assert document_of(judged())["calibration"] == nothing
    assert document_of(judged(an_exit()))["calibration"] == nothing


def test_an_answer_says_that_and_why_the_size_is_held_down() -> None:
    standing = a_standing(state=CalibratorState.SHADOW, derated=True, reason="The forecasts were rejected.")

    assert document_of(judged(calibration=standing))["calibration"] == {
        "state": "shadow",
        "calibrator_id": 7,
        "p_win_calibrated": 0.5,
        "derated": True,
        "reason": "The forecasts were rejected.",
    }


# --- what stands where ---------------------------------------------------------------------------------


def test_the_answer_names_its_decision_times_decider_and_policy() -> None:
    policy = a_policy(aggressiveness_level=2)

    document = document_of(
        judged(state={"now": AS_OF + timedelta(seconds=1.5)}, policy=policy), policy=policy, latency_ms=820
    )

    assert document["decision_id"] == DECISION_ID
    assert document["account_id"] == "paper-1"
    assert document["as_of"] == "2026-11-20T15:30:00Z"
    assert document["decided_at"] == "2026-11-20T15:30:01.500000Z"
    assert document["valid_until"] == "2026-11-20T15:31:01.500000Z"
    assert document["decider"] == DECIDER
    assert document["policy"] == {"version": POLICY_VERSION, "hash": policy.hash(), "aggressiveness_level": 2}
    assert document["latency_ms"] == 820


def test_a_proposal_is_shown_as_the_model_said_it() -> None:
    assert document_of(judged(candidate=SHORT))["proposal"] == {
        "symbol": "ACME",
        "direction": "short",
        "setup": "momentum",
        "entry_type": "limit",
        "entry_price": "100.00",
        "stop_loss": "105.00",
        "target_price": "85.00",
        "time_stop_hours": 48,
        "p_win_pct": 50,
        "conviction": 90,
        "thesis": "Higher lows on rising volume.",
    }


def test_prices_that_the_model_did_not_give_are_null() -> None:
    proposal = document_of(judged(candidate={"entry_price": None, "stop_loss": None, "target_price": None}))["proposal"]

    assert (proposal["entry_price"], proposal["stop_loss"], proposal["target_price"]) == (None, None, None)


def test_a_blocked_entry_has_no_order_and_all_else() -> None:
    document = document_of(judged(symbol={"adv": 2_999_999}))

    assert document["order"] is None
    assert document["should_execute"] is False
    assert document["verdict"] == "blocked"
    assert document["reason_code"] == "ILLIQUID"
    assert document["edge"] is not None
    assert document["sizing"] is not None
    assert document["candidates"][0]["blocked_by"] == ["ILLIQUID"]
    assert {gate["status"] for gate in document["gates"]} == {"pass", "block", "not_applicable"}


@pytest.mark.parametrize("outcome", [ModelFailure.TIMEOUT, Proposal(mode=a_trade().mode)])
def test_an_answer_without_a_proposal_has_none(outcome: Any) -> None:
    document = document_of(judged(outcome))

    assert (document["order"], document["proposal"], document["edge"], document["sizing"]) == (None, None, None, None)
    assert document["candidates"] == []
    assert len(document["gates"]) == 21


def test_an_exit_shows_what_it_manages_and_its_order() -> None:
    document = document_of(judged(an_exit(reduce_pct="50"), account={"positions": (a_position(),)}))

    assert document["action"] == "exit"
    assert document["proposal"] == {
        "symbol": "BOLT",
        "reduce_pct": 50.0,
        "new_stop": None,
        "new_target": None,
        "reason": "The idea has played out.",
    }
    assert document["order"] == {
        "client_order_id": "tv-01930000000070008000000000000001",
        "symbol": "BOLT",
        "side": "sell",
        "quantity": 50,
        "entry_type": "market",
        "entry_price": "50.00",
        "stop_loss": None,
        "targets": [],
        "time_stop_at": None,
        "notional_usd": "2500.00",
        "risk_usd": "0.00",
        "risk_bps": 0.0,
        "price_collar": None,
        "stop_required": False,
        "reduce_only": True,
        "mode": "paper",
    }


def test_an_adjust_shows_its_new_stop_and_target() -> None:
    document = document_of(judged(an_adjust(new_stop="46.5", new_target="60"), account={"positions": (a_position(),)}))

    assert document["proposal"]["reduce_pct"] is None
    assert (document["proposal"]["new_stop"], document["proposal"]["new_target"]) == ("46.50", "60.00")
    assert document["order"]["stop_loss"] == "46.50"
    assert document["order"]["targets"] == [{"price": "60.00", "fraction": 1.0}]


def test_an_exit_without_any_price_has_a_null_price_and_notional() -> None:
    order = document_of(judged(an_exit(), account={"positions": (a_position(mark_price=None),)}))["order"]

    assert (order["entry_price"], order["notional_usd"]) == (None, None)


def test_a_ticket_in_thirds_lists_its_targets() -> None:
    order = document_of(judged(policy={"scale_out": ScaleOut.THIRDS}))["order"]

    assert [target["price"] for target in order["targets"]] == ["105.00", "110.00", "115.00"]
    assert sum(target["fraction"] for target in order["targets"]) == pytest.approx(1.0)


def test_watchlist_notes_and_data_quality_are_passed_on() -> None:
    item = WatchItem(symbol="BOLT", trigger="a close above 52", target_conviction=60)

    document = document_of(judged(a_trade(watchlist=(item,), notes="thin tape"), symbol={"avg_volume": 0}))

    assert document["watchlist"] == [{"symbol": "BOLT", "trigger": "a close above 52", "target_conviction": 60}]
    assert document["notes"] == "thin tape"
    assert document["data_quality"] == [{"symbol": "ACME", "field": "avg_volume", "issue": "0 counts as missing"}]


def test_what_is_unknown_is_null_and_never_0() -> None:
    document = document_of(
        judged(account={"daily_pnl": None, "weekly_pnl": None, "positions": (a_position(mark_price=None),)}),
        market=a_market(a_symbol(adv=None)),
    )
    risk = document["risk_state"]

    assert (risk["day_dd_bps"], risk["week_dd_bps"], risk["gross_leverage"]) == (None, None, None)
    assert document["liquidity"] == [{"symbol": "ACME", "score": None}]


def test_drawdowns_are_whole_basis_points_and_reductions_cents() -> None:
    # 349.60 / 100,349.60 = 34.84 bps;  38,000.005 - 35,000 = 3,000.005
    risk = document_of(
        judged(
            account={
                "daily_pnl": "-349.60",
                "weekly_pnl": 0,
                "positions": (a_position(quantity=760, mark_price="50.00000658", stop_loss="50"),),
            }
        )
    )["risk_state"]

    assert risk["day_dd_bps"] == 35
    assert isinstance(risk["day_dd_bps"], int)
    assert risk["week_dd_bps"] == 0
    assert risk["buckets"][0]["reduce_by_usd"] == 3000.01


@pytest.mark.parametrize(
    ("changes", "gate", "observed", "limit"),
    [
        # Whole numbers as integers, others as numbers, words as words.
        ({}, "min_adv", 1_000_000_000, 3_000_000),
        ({}, "conviction", 90, 55),
        ({}, "stop", 5, 20),
        ({"symbol": {"bid": "99.98", "ask": "100.02"}}, "spread", 0.0004, 0.01),
        ({}, "kill_switch", "running", None),
    ],
)
def test_readings_are_numbers_or_words(changes: dict[str, Any], gate: str, observed: object, limit: object) -> None:
    document = document_of(judged(**changes))
    line = next(line for line in document["gates"] if line["gate"] == gate)

    assert (line["observed"], line["limit"]) == (observed, limit)
    assert type(line["observed"]) is type(observed)
    assert type(line["limit"]) is type(limit)


def test_the_whole_answer_is_plain_json() -> None:
    for outcome in (a_trade(), an_exit(), an_adjust(new_stop="46"), ModelFailure.REFUSED):
        document = document_of(judged(outcome, account={"positions": (a_position(),)}))

        assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_portfolio_beyond_all_reason_is_still_written_down() -> None:
    # Three positions of nearly 1e13 shares at nearly 1e13 dollars: 29 digits and cents.
    absurd = Decimal("9999999999999")
    positions = tuple(
        a_position(symbol=name, quantity=absurd, mark_price=absurd, stop_loss=1) for name in ("AAA", "BBB", "CCC")
    )

    risk = document_of(judged(account={"positions": positions}))["risk_state"]

    assert risk["buckets"][0]["reduce_by_usd"] == pytest.approx(3e26)


# --- how it is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 20, 15, 30, tzinfo=UTC), "2026-11-20T15:30:00Z"),
        (datetime(2026, 11, 20, 15, 30, 0, 250_000, tzinfo=UTC), "2026-11-20T15:30:00.250000Z"),
        (datetime(2026, 11, 20, 10, 30, tzinfo=timezone(timedelta(hours=-5))), "2026-11-20T15:30:00Z"),
    ],
)
def test_times_are_utc_with_a_z(moment: datetime, text: str) -> None:
    assert utc_text(moment) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("6646.2", "6646.20"),
        ("298.52462", "298.52"),
        ("0", "0.00"),
        ("1E+4", "10000.00"),
        ("-3.5", "-3.50"),
        # Half a cent goes to the even cent.
        ("0.125", "0.12"),
        ("0.135", "0.14"),
    ],
)
def test_money_is_text_to_the_cent(amount: str, text: str) -> None:
    assert money_text(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("price", "text"),
    [
        ("125.4", "125.40"),
        ("125.400", "125.40"),
        ("125", "125.00"),
        ("1E+2", "100.00"),
        ("0.4699", "0.4699"),
        ("100.005", "100.005"),
        ("0.1234567", "0.123457"),
        ("0.1234565", "0.123456"),
        ("9999999999999", "9999999999999.00"),
    ],
)
def test_prices_are_text_with_two_to_six_decimals(price: str, text: str) -> None:
    assert price_text(Decimal(price)) == text


@pytest.mark.parametrize(
    ("stop", "risk_per_share"),
    [
        # 1 dollar and more to the cent: 5.01 and 5.0154 (with commission 0.01)
        ("95.00", "5.01"),
        ("94.9946", "5.02"),
        # 1.2346 + 0.01
        ("98.7654", "1.24"),
    ],
)
def test_the_risk_of_a_share_is_shown_to_the_cent(stop: str, risk_per_share: str) -> None:
    judgement = judged(candidate={"stop_loss": stop}, symbol={"atr": "1.00"})

    assert document_of(judgement)["sizing"]["risk_per_share"] == risk_per_share


def test_the_risk_of_a_share_below_a_dollar_keeps_its_digits() -> None:
    # max(0.06 + 0.5 x 0.0001, 1.2 x 0.02)
    sizing = document_of(
        judged(
            symbol={"price": "0.50", "atr": "0.02"},
            candidate={"entry_price": "0.50", "stop_loss": "0.44", "target_price": "0.68"},
        )
    )["sizing"]

    assert sizing["risk_per_share"] == "0.06005"


def test_a_statistic_beyond_what_json_can_hold_is_cut_to_the_largest() -> None:
    assert finite(Decimal("1e400")) == 1e300
    assert finite(Decimal("-1e400")) == -1e300
    assert finite(0.25) == 0.25


def test_a_whole_figure_too_large_to_be_exact_in_json_is_a_float() -> None:
    # 2^53 is the last that every reader of JSON holds exactly; 1e25 is more than 64 bits.
    gate = gate_document(judged().gates[0]._replace(observed=Decimal("1e25"), limit=Decimal(2**53)))

    assert (gate["observed"], gate["limit"]) == (1e25, 2**53)
    assert isinstance(gate["observed"], float)
    assert isinstance(gate["limit"], int)
