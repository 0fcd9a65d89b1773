"""Tests of the size of an entry: D, the risk budget, and every cap with its arithmetic.

"Costless" cases have bid = ask and COMMISSION_BPS=0, so that C without impact, the only cost that sizing looks
at, is 0 and D is the stop distance or the ATR distance, whichever is wider.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.account import whole_shares
from app.domain.policy import Regime
from app.domain.proposal import EntryType, Setup
from app.domain.sizing import Cap, Sizing, atr_multiple, risk_budget_bps
from app.domain.verdict import Judgement, Verdict, entry_bounds
from tests.builders import (
    COSTLESS,
    SHORT,
    a_candidate,
    a_halt,
    a_market,
    a_policy,
    a_position,
    a_reservation,
    a_state,
    an_account,
    blocking_codes,
    caps_of,
    gate_of,
    judged,
)

CAPS: Final = [
    "risk_budget",
    "daily_loss_room",
    "weekly_loss_room",
    "symbol_exposure",
    "leverage",
    "bucket:technology",
    "buying_power",
    "order_notional",
    "daily_notional",
    "adv_participation",
]
"""The rulebook's caps, section 6, in its order."""
AMPLE: Final = {"cash": 10**9, "buying_power": 10**9}


def sizing_of(judgement: Judgement) -> Sizing:
    if judgement.sizing is None:
        raise AssertionError("the case was not sized")
    return judgement.sizing


# --- the rulebook's own arithmetic ---------------------------------------------------------------------


def test_half_a_percent_of_100_000_at_2_a_share_is_250_shares_and_200_after_the_symbol_cap() -> None:
    # 100,000 x 50 / 10,000 = 500;  D = max(100 - 98, 1.2 x 1) = 2;  500 / 2 = 250;  20 % of 100,000 / 100 = 200
    judgement = judged(candidate={"stop_loss": "98", "target_price": "106"}, symbol={"atr": "1"}, policy=COSTLESS)

    assert caps_of(judgement)["risk_budget"] == 250
    assert sizing_of(judgement).quantity == 200
    assert sizing_of(judgement).binding_cap == "symbol_exposure"
    assert judgement.verdict is Verdict.RESIZED


def test_an_atr_stop_wider_than_the_technical_one_decides_the_size() -> None:
    # D = max(2, 1.2 x 2.5) = 3.00;  500 / 3 = 166.67 -> 166
    judgement = judged(candidate={"stop_loss": "98", "target_price": "106"}, symbol={"atr": "2.5"}, policy=COSTLESS)

    assert sizing_of(judgement).risk_per_share == Decimal("3.00")
    assert sizing_of(judgement).quantity == 166
    assert judgement.verdict is Verdict.APPROVED


def test_with_the_stop_at_the_atr_distance_size_is_the_budget_over_that_distance() -> None:
    # Stop at 1.2 x 4 = 4.80: 500 / 4.80 = 104.17 -> 104
    judgement = judged(candidate={"stop_loss": "95.20"}, policy=COSTLESS)

    assert caps_of(judgement)["risk_budget"] == 104


# --- D -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "changes", "risk_per_share"),
    [
        # The wider of 5 + 0 and 1.2 x 4
        ("a technical stop", {"policy": COSTLESS}, "5"),
        # The wider of 4.79 and 4.80
        ("a stop just inside the ATR distance", {"candidate": {"stop_loss": "95.21"}, "policy": COSTLESS}, "4.80"),
        ("a stop at the ATR distance", {"candidate": {"stop_loss": "95.20"}, "policy": COSTLESS}, "4.80"),
        ("a stop just outside the ATR distance", {"candidate": {"stop_loss": "95.19"}, "policy": COSTLESS}, "4.81"),
        # 0.8 x 4 = 3.20, and the stop is 3 away
        (
            "mean reversion",
            {"candidate": {"stop_loss": "97", "setup": Setup.MEAN_REVERSION}, "policy": COSTLESS},
            "3.20",
        ),
        # 1.2 x 4 = 4.80 with the same stop
        ("momentum", {"candidate": {"stop_loss": "97"}, "policy": COSTLESS}, "4.80"),
        ("a short", {"candidate": {**SHORT, "stop_loss": "106"}, "policy": COSTLESS}, "6"),
        # 5 + 100 x 2 x 0.5 / 10,000
        ("commission", {}, "5.01"),
        # 5 + 100 x (0.02 / 2 + 0.0001)
        ("a spread", {"symbol": {"bid": "99", "ask": "101"}}, "6.01"),
        # A stop order pays the whole spread: 5 + 100 x (2 x 0.02 / 2 + 0.0001)
        ("a stop order", {"symbol": {"bid": "99", "ask": "101"}, "candidate": {"entry_type": EntryType.STOP}}, "7.01"),
        # Judged at the ask: 6 + 101 x (0.02 / 2 + 0.0001)
        (
            "a market order",
            {"symbol": {"bid": "99", "ask": "101"}, "candidate": {"entry_type": EntryType.MARKET}},
            "7.0201",
        ),
        # 5 + 100 x (0.0001 + 0.0365 x 48 / 8760)
        ("a borrowed share", {"symbol": {"borrow_rate": "0.0365"}, "candidate": SHORT}, "5.03"),
        # Costs do not widen the ATR distance: max(3 + 0.01, 4.80)
        ("costs inside the ATR distance", {"candidate": {"stop_loss": "97"}}, "4.80"),
    ],
)
def test_d_is_the_wider_of_the_stop_with_its_costs_and_the_atr_distance(
    says: str, changes: dict[str, Any], risk_per_share: str
) -> None:
    assert sizing_of(judged(**changes)).risk_per_share == Decimal(risk_per_share)


def test_market_impact_does_not_enter_d() -> None:
    quiet, busy = judged(symbol={"avg_volume": 1_000}), judged(symbol={"avg_volume": 10**12})

    assert sizing_of(quiet) == sizing_of(busy)
    assert quiet.edge != busy.edge


@pytest.mark.parametrize("setup", list(Setup))
def test_only_mean_reversion_uses_the_narrower_atr_multiple(setup: Setup) -> None:
    expected = Decimal("0.8") if setup is Setup.MEAN_REVERSION else Decimal("1.2")

    assert atr_multiple(setup=setup, policy=a_policy()) == expected


# --- the risk budget -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regime", "long_bps", "short_bps"),
    [
        (None, "50", "50"),
        (Regime.BULL_TREND, "50", "42.5"),
        (Regime.BEAR_TREND, "42.5", "50"),
        (Regime.HIGH_VOLATILITY, "35", "35"),
        (Regime.LOW_VOLATILITY, "50", "50"),
        (Regime.RISK_ON, "50", "45"),
        (Regime.RISK_OFF, "37.5", "50"),
    ],
)
def test_the_regime_multiplies_the_risk_budget_of_each_direction(
    regime: Regime | None, long_bps: str, short_bps: str
) -> None:
    long_case = judged(snapshot={"regime": regime})
    short_case = judged(snapshot={"regime": regime}, candidate=SHORT)

    assert sizing_of(long_case).risk_bps == Decimal(long_bps)
    assert sizing_of(short_case).risk_bps == Decimal(short_bps)


@pytest.mark.parametrize(
    ("conviction", "risk_bps"),
    [(49, "7.5"), (54, "7.5"), (55, "15"), (64, "15"), (65, "30"), (74, "30"), (75, "42.5"), (84, "42.5"), (85, "50")],
)
def test_conviction_scales_the_risk_budget_by_band(conviction: int, risk_bps: str) -> None:
    # Level 1: half of .30, then .30, .60, .85 and 1.00 of 50 bps; permitted probe or not.
    judgement = judged(candidate={"conviction": conviction, "stop_loss": "97"})

    assert sizing_of(judgement).risk_bps == Decimal(risk_bps)


def test_a_probe_without_the_cash_for_it_is_sized_like_one() -> None:
    judgement = judged(candidate={"conviction": 50}, account={"cash": 1_000})

    assert sizing_of(judgement).risk_bps == Decimal("7.5")


@pytest.mark.parametrize(
    ("kelly", "risk_bps"),
    [
        # 10,000 x 0.25 x 0.02 = 50 is the budget itself.
        ("0.0201", "50"),
        ("0.02", "50"),
        ("0.0199", "49.75"),
        ("0.0001", "0.25"),
        ("0", "0"),
        ("-0.1", "0"),
    ],
)
def test_a_quarter_of_kelly_caps_the_risk_budget(kelly: str, risk_bps: str) -> None:
    budget = risk_budget_bps(
        candidate=a_candidate(), policy=a_policy(), regime=None, kelly_fraction=Decimal(kelly), derated=False
    )

    assert budget == Decimal(risk_bps)


def test_kelly_binds_end_to_end_without_impact_in_it() -> None:
    # b = 20 / 5 = 4 and p = 21 %: Kelly = 0.21 - 0.79 / 4 = 0.0125;  10,000 x 0.25 x 0.0125 = 31.25 bps
    # 312.50 / 5 = 62.5 -> 62 shares, whatever the impact (1,000 shares a day make it large).
    judgement = judged(
        candidate={"p_win_pct": 21, "target_price": "120"}, symbol={"avg_volume": 1_000}, policy=COSTLESS
    )

    assert sizing_of(judgement).risk_bps == Decimal("31.25")
    assert caps_of(judgement)["risk_budget"] == 62


# --- every cap -----------------------------------------------------------------------------------------

# The default costless case allows, by cap: 100 risk_budget (500 / 5), 400 daily_loss_room (2,000 / 5),
# 1,000 weekly_loss_room (5,000 / 5), 200 symbol_exposure (20,000 / 100), 2,000 leverage (200,000 / 100),
# 350 bucket:technology (35,000 / 100), 1,000 buying_power (100,000 / 100), 500 order_notional (50,000 / 100),
# 5,000 daily_notional (500,000 / 100) and 1,000,000 adv_participation (100,000,000 / 100).
DEFAULT_CAPS: Final = dict(zip(CAPS, (100, 400, 1_000, 200, 2_000, 350, 1_000, 500, 5_000, 1_000_000), strict=True))


def test_the_default_case_allows_what_its_arithmetic_says() -> None:
    judgement = judged(policy=COSTLESS)

    assert caps_of(judgement) == DEFAULT_CAPS
    assert list(caps_of(judgement)) == CAPS
    assert sizing_of(judgement).quantity == 100
    assert sizing_of(judgement).binding_cap == "risk_budget"
    assert sizing_of(judgement).atr_multiple == Decimal("1.2")
    assert judgement.verdict is Verdict.APPROVED


BINDING: Final = [
    # 100,000 x 50 bps x .30 (conviction 60) = 150;  150 / 5 = 30
    ("risk_budget", 30, {"candidate": {"conviction": 60}}),
    # 2,000 - (50 - 45) x 320 open risk = 400;  400 / 5 = 80
    ("daily_loss_room", 80, {"account": {"positions": (a_position(quantity=320),)}}),
    # The day began at 100,500 and the week at 104,500: 5 % x 104,500 - 4,500 lost = 725, less (50 - 47.5) x 120 = 300
    # open risk = 425;  425 / 5 = 85.  (The day: 2 % x 100,500 - 500 - 300 = 1,210 -> 242.)
    (
        "weekly_loss_room",
        85,
        {
            "account": {
                "daily_pnl": -500,
                "weekly_pnl": -4_500,
                "positions": (a_position(quantity=120, stop_loss="47.5"),),
            }
        },
    ),
    # 8 % of 100,000 = 8,000;  8,000 / 100 = 80 (what is held of the symbol already: below, for it blocks besides)
    ("symbol_exposure", 80, {"policy": {"max_symbol_exposure_pct": "0.08"}}),
    # 2 x 100,000 - 50 x 3,850 held = 7,500;  7,500 / 100 = 75 (the stop at the mark leaves no open risk)
    ("leverage", 75, {"account": {"positions": (a_position(quantity=3_850, stop_loss="50"),)}}),
    # 35,000 - 28,000 reserved in the bucket = 7,000;  7,000 / 100 = 70
    (
        "bucket:technology",
        70,
        {"state": {"reservations": (a_reservation(notional_usd=28_000, risk_usd=0, buckets=("technology",)),)}},
    ),
    # 6,500 / 100 = 65
    ("buying_power", 65, {"account": {"buying_power": 6_500}}),
    # 6,000 / 100 = 60
    ("order_notional", 60, {"policy": {"max_order_notional": 6_000}}),
    # 500,000 - 494,500 executed = 5,500;  5,500 / 100 = 55
    ("daily_notional", 55, {"account": {"daily_executed_notional": 494_500}}),
    # 0.10 x 50,000 = 5,000;  5,000 / 100 = 50
    ("adv_participation", 50, {"symbol": {"adv": 50_000}, "policy": {"min_adv": 0}}),
]


@pytest.mark.parametrize(("cap", "quantity", "changes"), BINDING, ids=[cap for cap, _, _ in BINDING])
def test_every_cap_binds_when_it_is_the_smallest(cap: str, quantity: int, changes: dict[str, Any]) -> None:
    judgement = judged(**{**changes, "policy": {**COSTLESS, **changes.get("policy", {})}})

    assert caps_of(judgement)[cap] == quantity
    assert sizing_of(judgement).quantity == quantity
    assert sizing_of(judgement).binding_cap == cap
    assert judgement.verdict is (Verdict.APPROVED if cap == "risk_budget" else Verdict.RESIZED)
    assert gate_of(judgement, "size").detail == f"{cap} binds"
    assert list(caps_of(judgement)) == CAPS


def test_the_cases_bind_every_cap() -> None:
    assert [cap for cap, _, _ in BINDING] == CAPS


@pytest.mark.parametrize(
    ("cap", "one_less", "changes"),
    [
        # A cent less of room than a whole number of shares costs one share.
        ("risk_budget", 99, {"account": {"equity": "99999.99", **AMPLE}}),
        ("daily_loss_room", 399, {"state": {"reservations": (a_reservation(notional_usd=0, risk_usd="0.01"),)}}),
        ("weekly_loss_room", 999, {"state": {"reservations": (a_reservation(notional_usd=0, risk_usd="0.01"),)}}),
        (
            "symbol_exposure",
            199,
            {"state": {"reservations": (a_reservation(symbol="ACME", notional_usd="0.01", risk_usd=0),)}},
        ),
        ("leverage", 1_999, {"state": {"reservations": (a_reservation(notional_usd="0.01", risk_usd=0),)}}),
        (
            "bucket:technology",
            349,
            {"state": {"reservations": (a_reservation(notional_usd="0.01", buckets=("technology",)),)}},
        ),
        ("buying_power", 999, {"account": {"buying_power": "99999.99"}}),
        ("order_notional", 499, {"policy": {"max_order_notional": "49999.99"}}),
        ("daily_notional", 4_999, {"account": {"daily_executed_notional": "0.01"}}),
        ("adv_participation", 999_999, {"symbol": {"adv": "999999999.99"}}),
    ],
)
def test_every_cap_is_rounded_toward_zero(cap: str, one_less: int, changes: dict[str, Any]) -> None:
    judgement = judged(**{**changes, "policy": {**COSTLESS, **changes.get("policy", {})}})

    assert caps_of(judgement)[cap] == one_less


@pytest.mark.parametrize(
    ("limit", "cap", "shares"),
    [
        ({"per_trade_risk_bps": "49.5"}, "risk_budget", 99),
        ({"max_daily_loss_pct": "0.019"}, "daily_loss_room", 380),
        ({"max_weekly_loss_pct": "0.049"}, "weekly_loss_room", 980),
        ({"max_symbol_exposure_pct": "0.19"}, "symbol_exposure", 190),
        ({"max_leverage": "1.9"}, "leverage", 1_900),
        ({"max_bucket_exposure_pct": "0.34"}, "bucket:technology", 340),
        ({"max_order_notional": "49000"}, "order_notional", 490),
        ({"max_daily_notional": "499000"}, "daily_notional", 4_990),
        ({"max_adv_participation": "0.09"}, "adv_participation", 900_000),
        ({"atr_mult_trend": "1.3"}, "risk_budget", 96),  # 500 / 5.20
    ],
)
def test_each_limit_moves_its_own_cap(limit: Mapping[str, str], cap: str, shares: int) -> None:
    assert caps_of(judged(policy={**COSTLESS, **limit}))[cap] == shares


def test_what_is_held_and_reserved_of_the_symbol_leaves_less_of_its_cap() -> None:
    # 20,000 - 30 shares held, worth the snapshot's 100 each - 7,000 reserved = 10,000;  10,000 / 100 = 100
    judgement = judged(
        account={"positions": (a_position(symbol="ACME", quantity=30),)},
        state={"reservations": (a_reservation(symbol="ACME", notional_usd=7_000),)},
    )

    assert caps_of(judgement)["symbol_exposure"] == 100
    assert blocking_codes(judgement) == ("DUPLICATE_INTENT",)


def test_without_buying_power_cash_is_what_can_be_spent() -> None:
    assert caps_of(judged(account={"cash": 6_500}))["buying_power"] == 65


def test_sent_buying_power_counts_even_when_cash_is_less() -> None:
    assert caps_of(judged(account={"cash": 0, "buying_power": 6_500}))["buying_power"] == 65


def test_negative_buying_power_leaves_no_room_and_not_a_negative_size() -> None:
    judgement = judged(account={"buying_power": -1})

    assert caps_of(judgement)["buying_power"] == 0
    assert blocking_codes(judgement) == ("SIZE_BUYING_POWER",)


def test_buying_power_binds_shorts_too() -> None:
    assert caps_of(judged(candidate=SHORT, account={"buying_power": 6_500}))["buying_power"] == 65


def test_notional_caps_divide_by_the_larger_of_entry_and_mid() -> None:
    # Mid is 100 both times: a limit at 96 divides by 100, one at 104 by 104.
    below = judged(candidate={"entry_price": "96", "stop_loss": "90"})
    above = judged(candidate={"entry_price": "104"})

    assert caps_of(below)["order_notional"] == 500  # 50,000 / 100
    assert caps_of(above)["order_notional"] == 480  # 50,000 / 104 = 480.8
    assert caps_of(below)["symbol_exposure"] == 200
    assert caps_of(above)["symbol_exposure"] == 192  # 20,000 / 104 = 192.3
    assert caps_of(above)["leverage"] == 1_923
    assert caps_of(above)["bucket:technology"] == 336
    assert caps_of(above)["buying_power"] == 961
    assert caps_of(above)["daily_notional"] == 4_807
    assert caps_of(above)["adv_participation"] == 961_538


def test_a_market_order_divides_by_the_touch_it_pays() -> None:
    # Bid 99, ask 101: a buy is judged at 101, a short sale at 99 but divided by mid, 100.
    quotes = {"bid": "99", "ask": "101"}
    at_market = {"entry_type": EntryType.MARKET, "entry_price": None}

    assert caps_of(judged(symbol=quotes, candidate=at_market))["order_notional"] == 495  # 50,000 / 101
    assert caps_of(judged(symbol=quotes, candidate={**SHORT, **at_market}))["order_notional"] == 500


def test_every_bucket_of_the_symbol_is_a_cap_of_its_own() -> None:
    judgement = judged(
        symbol={"buckets": ("ai", "space")},
        state={"reservations": (a_reservation(notional_usd=30_000, buckets=("ai",)),)},
    )
    caps = caps_of(judgement)

    assert [cap for cap in caps if cap.startswith("bucket:")] == ["bucket:technology", "bucket:ai", "bucket:space"]
    assert (caps["bucket:technology"], caps["bucket:ai"], caps["bucket:space"]) == (350, 50, 350)
    assert sizing_of(judgement).binding_cap == "bucket:ai"


def test_of_equal_caps_the_first_of_the_report_is_named() -> None:
    # 200 by symbol_exposure and 200 by order_notional.
    judgement = judged(
        candidate={"stop_loss": "98", "target_price": "106"},
        symbol={"atr": "1"},
        policy={**COSTLESS, "max_order_notional": 20_000},
    )

    assert (caps_of(judgement)["symbol_exposure"], caps_of(judgement)["order_notional"]) == (200, 200)
    assert sizing_of(judgement).binding_cap == "symbol_exposure"


def test_a_cap_equal_to_the_risk_budget_does_not_resize() -> None:
    # 500 / 5 = 100 by risk, 10,000 / 100 = 100 by order notional.
    judgement = judged(policy={**COSTLESS, "max_order_notional": 10_000})

    assert sizing_of(judgement).quantity == 100
    assert judgement.verdict is Verdict.APPROVED


def test_a_cap_one_share_below_the_risk_budget_resizes() -> None:
    judgement = judged(policy={**COSTLESS, "max_order_notional": "9999.99"})

    assert sizing_of(judgement).quantity == 99
    assert judgement.verdict is Verdict.RESIZED


def test_the_code_of_a_bucket_cap_does_not_name_the_bucket() -> None:
    assert Cap(cap="bucket:technology", max_quantity=0).code == "SIZE_BUCKET"
    assert Cap(cap="order_notional", max_quantity=0).code == "SIZE_ORDER_NOTIONAL"


def test_an_unknown_loss_leaves_no_room_for_one() -> None:
    judgement = judged(account={"daily_pnl": None})

    assert caps_of(judgement)["daily_loss_room"] == 0
    assert judgement.reason_code == "MISSING_DAILY_PNL"


def test_an_unmarked_position_leaves_no_room_that_depends_on_it() -> None:
    judgement = judged(account={"positions": (a_position(mark_price=None),)})
    empty = [cap for cap, shares in caps_of(judgement).items() if shares == 0]

    assert empty == ["daily_loss_room", "weekly_loss_room", "symbol_exposure", "leverage", "bucket:technology"]


# --- whole shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "per_share", "shares"),
    [
        ("10", "5", 2),
        ("9.99", "5", 1),
        ("4.99", "5", 0),
        ("0.99", "0.5", 1),
        ("0", "5", 0),
        ("-0.01", "5", 0),
        ("-10", "5", 0),
        # What no account could pay for is not counted to the last share.
        ("999999999999999", "1", 999_999_999_999_999),
        ("1000000000000001", "1", 10**15),
        ("1E+13", "1E-300", 10**15),
    ],
)
def test_room_is_truncated_to_whole_shares_and_never_negative(room: str, per_share: str, shares: int) -> None:
    assert whole_shares(Decimal(room), Decimal(per_share)) == shares


def test_a_price_of_next_to_nothing_is_refused_by_a_gate_and_not_by_an_exception() -> None:
    # 200,000 dollars of leverage hold 2e30 shares at 1e-25: more digits than the decimal context has.
    judgement = judged(
        symbol={"price": "1E-25", "atr": "1E-25"},
        candidate={"entry_price": "1E-25", "stop_loss": "5E-26", "target_price": "2E-25"},
    )

    assert judgement.reason_code == "PRICE_TOO_LOW"


# --- what the prompt may state before asking -----------------------------------------------------------


def test_the_bounds_of_an_entry_come_from_the_same_rooms() -> None:
    account = an_account(
        cash=40_000,
        daily_pnl=-500,
        weekly_pnl=-1_500,
        daily_executed_notional=1_000,
        positions=(a_position(quantity=700, stop_loss="49"),),
    )
    state = a_state(reservations=(a_reservation(),))

    bounds = entry_bounds(market=a_market(), account=account, state=state, policy=a_policy())

    assert bounds.entries_allowed
    assert bounds.blocked_by == ()
    assert bounds.max_notional_usd == 38_000  # cash of 40,000 less 2,000 reserved
    assert bounds.daily_loss_room_usd == 710  # 2 % x 100,500 - 500 lost - 700 open risk - 100 reserved risk
    assert bounds.weekly_loss_room_usd == 2_775  # 5 % x 101,500 - 1,500 - 700 - 100
    assert bounds.risk_budget_usd == 500  # 100,000 x 50 bps
    assert bounds.full_buckets == ("industrials",)  # 700 x 50 + 2,000 = 37,000 of 35,000


@pytest.mark.parametrize(("held", "full"), [(699, ()), (700, ("industrials",)), (701, ("industrials",))])
def test_a_bucket_is_full_at_its_limit(held: int, full: tuple[str, ...]) -> None:
    # 700 x 50 = 35,000 is 35 % of 100,000.
    account = an_account(positions=(a_position(quantity=held),))

    assert entry_bounds(market=a_market(), account=account, state=a_state(), policy=a_policy()).full_buckets == full


@pytest.mark.parametrize(
    ("notional", "changes"),
    [
        (50_000, {}),
        (10_000, {"account": {"buying_power": 10_000}}),
        (20_000, {"account": {"daily_executed_notional": 480_000}}),
        (30_000, {"account": {"positions": (a_position(quantity=3_400),)}}),  # 200,000 - 170,000
        (0, {"account": {"cash": -5}}),
    ],
)
def test_the_largest_notional_is_the_smallest_account_wide_room(notional: int, changes: dict[str, Any]) -> None:
    bounds = entry_bounds(
        market=a_market(), account=an_account(**changes.get("account", {})), state=a_state(), policy=a_policy()
    )

    assert bounds.max_notional_usd == notional


def test_the_bounds_name_what_blocks_any_entry() -> None:
    bounds = entry_bounds(
        market=a_market(),
        account=an_account(equity=97_000, daily_pnl=-3_000, weekly_pnl=None),
        state=a_state(halts=(a_halt(),)),
        policy=a_policy(),
    )

    assert not bounds.entries_allowed
    assert bounds.blocked_by == ("HALTED", "DAILY_LOSS_LIMIT", "MISSING_WEEKLY_PNL")
    assert bounds.weekly_loss_room_usd is None


@pytest.mark.parametrize(
    ("code", "position"),
    [
        ("MISSING_MARK", a_position(mark_price=None)),
        ("MISSING_POSITION_STOP", a_position(stop_loss=None)),
    ],
)
def test_the_bounds_name_an_unknown_portfolio_too(code: str, position: Any) -> None:
    account = an_account(positions=(position,))

    bounds = entry_bounds(market=a_market(), account=account, state=a_state(), policy=a_policy())

    assert bounds.blocked_by == (code,)
    assert not bounds.entries_allowed
    assert bounds.daily_loss_room_usd is None
