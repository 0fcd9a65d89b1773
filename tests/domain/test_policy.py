"""Tests of the policy: every default and bound of the rulebook, the two tables, the levels and the hash."""

import json
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any, Final

import pytest

from app.domain.policy import (
    AGGRESSIVENESS_LEVELS,
    POLICY_VERSION,
    Policy,
    PolicyError,
    Regime,
    ScaleOut,
    regime_multiplier,
)
from tests.builders import a_policy

# name: default (rulebook, section 4), smallest and largest value that starts
LIMITS: Final[dict[str, tuple[str, str, str]]] = {
    "per_trade_risk_bps": ("50", "0.01", "1000"),
    "max_daily_loss_pct": ("0.02", "0.0001", "0.5"),
    "max_weekly_loss_pct": ("0.05", "0.0001", "0.5"),
    "min_adv": ("3000000", "0", "1000000000000"),
    "max_spread_pct": ("0.01", "0", "0.2"),
    "max_option_spread_pct": ("0.08", "0", "1"),
    "max_option_spread_usd": ("0.25", "0", "100"),
    "max_adv_participation": ("0.10", "0.000001", "1"),
    "min_price": ("1", "0", "1000000"),
    "min_market_cap": ("300000000", "0", "1000000000000"),
    "max_bucket_exposure_pct": ("0.35", "0.0001", "10"),
    "max_symbol_exposure_pct": ("0.20", "0.0001", "10"),
    "max_leverage": ("2.0", "0.01", "10"),
    "max_order_notional": ("50000", "1", "1000000000"),
    "max_daily_notional": ("500000", "1", "10000000000"),
    "min_order_notional": ("100", "0", "1000000"),
    "min_ev_pct": ("0", "0", "1"),
    "min_risk_reward": ("1.8", "0", "100"),
    "min_p_win": ("0.45", "0", "1"),
    "aggressiveness_level": ("1", "0", "3"),
    "max_aggressiveness_level": ("None", "0", "3"),
    "conviction_threshold": ("55", "0", "100"),
    "kelly_fraction": ("0.25", "0", "1"),
    "atr_mult_trend": ("1.2", "0.1", "20"),
    "atr_mult_reversion": ("0.8", "0.1", "20"),
    "max_stop_atr": ("5", "0.1", "50"),
    "min_stop_atr": ("0.2", "0", "10"),
    "price_collar_atr": ("1.5", "0.01", "20"),
    "max_target_atr": ("10", "0.1", "100"),
    "max_snapshot_age_s": ("60", "0", "86400"),
    "commission_bps": ("0.5", "0", "100"),
    "decision_deadline_ms": ("1500", "50", "60000"),
    "reservation_ttl_s": ("300", "1", "86400"),
    "ticket_ttl_s": ("60", "1", "3600"),
}
SWITCHES: Final[dict[str, object]] = {
    "live_allowed": False,
    "require_live_confirm": True,
    "scale_out": ScaleOut.OFF,
}
COMPANIONS: Final[dict[str, dict[str, Any]]] = {
    # What must move along so that a value at its bound contradicts no other.
    "max_daily_loss_pct": {"max_weekly_loss_pct": "0.5"},
    "max_weekly_loss_pct": {"max_daily_loss_pct": "0.0001"},
    "max_order_notional": {"min_order_notional": 0},
    "min_order_notional": {"max_order_notional": 1_000_000},
    "aggressiveness_level": {"max_aggressiveness_level": 3},
    "max_aggressiveness_level": {"aggressiveness_level": 0},
    "max_stop_atr": {"min_stop_atr": 0},
    "min_stop_atr": {"max_stop_atr": 10},
}
WHOLE: Final = {spec.name for spec in fields(Policy) if spec.type in (int, int | None)}


def at(name: str, value: str) -> Policy:
    """The defaults but for one value, and what must move along with it."""
    return a_policy(**{**COMPANIONS.get(name, {}), name: int(value) if name in WHOLE else value})


def test_the_tables_name_every_setting() -> None:
    assert {spec.name for spec in fields(Policy)} == set(LIMITS) | set(SWITCHES)


def test_the_defaults_are_those_of_the_rulebook() -> None:
    policy = Policy()

    assert {name: getattr(policy, name) for name in SWITCHES} == SWITCHES
    for name, (default, _, _) in LIMITS.items():
        assert str(getattr(policy, name)) == str(None if default == "None" else default), name


@pytest.mark.parametrize("name", LIMITS)
def test_a_value_at_its_bounds_starts(name: str) -> None:
    _, low, high = LIMITS[name]

    assert getattr(at(name, low), name) == Decimal(low)
    assert getattr(at(name, high), name) == Decimal(high)


@pytest.mark.parametrize("name", LIMITS)
def test_a_value_just_beyond_its_bounds_stops_the_start_and_is_named(name: str) -> None:
    _, low, high = LIMITS[name]
    step = Decimal(1) if name in WHOLE else Decimal("0.0000001")

    for value in (Decimal(low) - step, Decimal(high) + step):
        with pytest.raises(PolicyError) as refused:
            at(name, str(value))
        assert refused.value.setting == name.upper()
        assert f"{name.upper()}={value}" in str(refused.value)
        assert refused.value.reason.startswith("must lie between")


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in WHOLE])
@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_what_is_not_a_finite_number_stops_the_start(name: str, value: str) -> None:
    with pytest.raises(PolicyError, match=f"{name.upper()}={value}: must be a finite number"):
        at(name, value)


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("MIN_STOP_ATR", {"min_stop_atr": "5.01"}),
        ("MAX_DAILY_LOSS_PCT", {"max_daily_loss_pct": "0.0501"}),
        ("MIN_ORDER_NOTIONAL", {"min_order_notional": "50000.01"}),
        ("MAX_AGGRESSIVENESS_LEVEL", {"aggressiveness_level": 2, "max_aggressiveness_level": 1}),
        ("MAX_SNAPSHOT_AGE_S", {"max_snapshot_age_s": 0, "live_allowed": True}),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(setting: str, changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError) as refused:
        a_policy(**changes)

    assert refused.value.setting == setting
    assert str(refused.value).startswith(f"{setting}={refused.value.value}: ")
    assert refused.value.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"min_stop_atr": "5"},
        {"max_daily_loss_pct": "0.05"},
        {"min_order_notional": "50000"},
        {"aggressiveness_level": 2, "max_aggressiveness_level": 2},
        {"max_snapshot_age_s": 0},
        {"max_snapshot_age_s": 1, "live_allowed": True},
    ],
)
def test_settings_that_just_agree_start(changes: dict[str, Any]) -> None:
    policy = a_policy(**changes)

    assert {name: getattr(policy, name) for name in changes} == {
        name: Decimal(value) if isinstance(value, str) else value for name, value in changes.items()
    }


@pytest.mark.parametrize("spec", fields(Policy), ids=lambda spec: spec.name)
def test_every_setting_says_what_it_means_and_in_which_unit(spec: Any) -> None:
    assert spec.metadata["meaning"]
    assert spec.metadata["unit"]


# --- levels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "action_threshold", "probe_minimum"), [(0, 60, 55), (1, 55, 50), (2, 52, 48), (3, 50, 45)]
)
def test_each_level_has_its_thresholds(level: int, action_threshold: int, probe_minimum: int) -> None:
    policy = a_policy(aggressiveness_level=level)

    assert policy.action_threshold == action_threshold
    assert policy.level.probe_minimum == probe_minimum


@pytest.mark.parametrize(("level", "action_threshold"), [(0, 70), (1, 70), (2, 52), (3, 50)])
def test_only_levels_0_and_1_heed_a_higher_conviction_threshold(level: int, action_threshold: int) -> None:
    assert a_policy(aggressiveness_level=level, conviction_threshold=70).action_threshold == action_threshold


@pytest.mark.parametrize(("level", "action_threshold"), [(0, 60), (1, 55)])
def test_a_lower_conviction_threshold_does_not_lower_a_level(level: int, action_threshold: int) -> None:
    assert a_policy(aggressiveness_level=level, conviction_threshold=10).action_threshold == action_threshold


@pytest.mark.parametrize(
    ("level", "multipliers"),
    [
        # half the lowest | <= 64 | 65-74 | 75-84 | >= 85
        (0, ("0.10", "0.20", "0.40", "0.60", "0.80")),
        (1, ("0.15", "0.30", "0.60", "0.85", "1.00")),
        (2, ("0.175", "0.35", "0.70", "0.95", "1.00")),
        (3, ("0.20", "0.40", "0.80", "1.00", "1.00")),
    ],
)
def test_each_level_has_its_size_multipliers_by_conviction_band(level: int, multipliers: tuple[str, ...]) -> None:
    policy = a_policy(aggressiveness_level=level)
    below = policy.action_threshold - 1
    bands = (
        (0, below),
        (policy.action_threshold, 64),
        (65, 74),
        (75, 84),
        (85, 100),
    )

    for (first, last), multiplier in zip(bands, multipliers, strict=True):
        assert policy.size_multiplier(conviction=first) == Decimal(multiplier)
        assert policy.size_multiplier(conviction=last) == Decimal(multiplier)


def test_a_raised_threshold_makes_probes_of_the_bands_below_it() -> None:
    policy = a_policy(conviction_threshold=80)

    assert policy.size_multiplier(conviction=79) == Decimal("0.15")
    assert policy.size_multiplier(conviction=80) == Decimal("0.85")


@pytest.mark.parametrize(("level", "ratio"), [(0, "1.8"), (1, "1.8"), (2, "1.8"), (3, "2.0")])
def test_level_3_asks_for_a_higher_risk_reward(level: int, ratio: str) -> None:
    assert a_policy(aggressiveness_level=level).required_risk_reward == Decimal(ratio)


def test_the_stricter_of_the_limit_and_the_level_is_required() -> None:
    assert a_policy(aggressiveness_level=3, min_risk_reward="2.5").required_risk_reward == Decimal("2.5")
    assert a_policy(aggressiveness_level=3, min_risk_reward="0").required_risk_reward == Decimal("2.0")
    assert a_policy(aggressiveness_level=2, min_risk_reward="0").required_risk_reward == 0


def test_without_a_highest_level_the_configured_one_is_the_highest() -> None:
    assert a_policy(aggressiveness_level=2).highest_level == 2
    assert a_policy(aggressiveness_level=1, max_aggressiveness_level=3).highest_level == 3


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_request_may_name_any_level_up_to_the_highest(level: int) -> None:
    policy = a_policy(aggressiveness_level=1, max_aggressiveness_level=2)

    asked = policy.at_level(level)

    assert asked.aggressiveness_level == level
    assert asked.level is AGGRESSIVENESS_LEVELS[level]
    assert asked.highest_level == 2
    assert replace(asked, aggressiveness_level=1) == policy


@pytest.mark.parametrize("level", [-1, 2, 3, 4])
def test_a_request_may_name_no_level_above_the_highest_or_below_0(level: int) -> None:
    with pytest.raises(PolicyError, match=f"aggressiveness_level={level}: must lie between 0 and 1"):
        a_policy().at_level(level)


def test_a_lower_level_asked_for_does_not_lower_the_highest() -> None:
    assert a_policy(aggressiveness_level=2).at_level(0).at_level(2).aggressiveness_level == 2


def test_the_configured_level_is_the_policy_itself() -> None:
    policy = a_policy()

    assert policy.at_level(1) is policy


# --- regimes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regime", "long", "short"),
    [
        (None, "1", "1"),
        (Regime.BULL_TREND, "1", "0.85"),
        (Regime.BEAR_TREND, "0.85", "1"),
        (Regime.HIGH_VOLATILITY, "0.7", "0.7"),
        (Regime.LOW_VOLATILITY, "1", "1"),
        (Regime.RISK_ON, "1", "0.9"),
        (Regime.RISK_OFF, "0.75", "1"),
    ],
)
def test_each_regime_has_its_multipliers(regime: Regime | None, long: str, short: str) -> None:
    assert regime_multiplier(regime=regime, long=True) == Decimal(long)
    assert regime_multiplier(regime=regime, long=False) == Decimal(short)


# --- the hash ------------------------------------------------------------------------------------------

DEFAULT_HASH: Final = "58ff9dd6886ca00ce8f02ae7d6037ece0029cf846ffc00136f726e4028697c3a"


def test_the_hash_of_the_defaults_is_known() -> None:
    # It changes with any limit, level, multiplier or spelling: every stored decision's policy has another hash then.
    assert Policy().hash() == DEFAULT_HASH


def test_the_canonical_json_has_sorted_keys_no_spaces_and_plain_numbers() -> None:
    text = Policy().canonical_json()
    body = json.loads(text)

    assert json.dumps(body, sort_keys=True, separators=(",", ":")) == text
    assert set(body) == {"version", "limits", "levels", "regimes", "constants"}
    assert body["constants"] == {
        "conviction_bands": [65, 75, 85],
        "probe": ["0.7", "0.5", "1"],
        "paralysis": [50, 2, 2],
        "future_tolerance_s": 5,
    }
    assert body["version"] == POLICY_VERSION
    assert set(body["limits"]) == {spec.name for spec in fields(Policy)}
    assert body["limits"]["max_adv_participation"] == "0.1"
    assert body["limits"]["min_adv"] == "3000000"
    assert body["limits"]["scale_out"] == "off"
    assert body["limits"]["live_allowed"] is False
    assert body["limits"]["ticket_ttl_s"] == 60
    assert body["limits"]["max_aggressiveness_level"] is None
    assert body["levels"][3] == {
        "action_threshold": 50,
        "probe_minimum": 45,
        "multipliers": ["0.4", "0.8", "1", "1"],
        "respects_conviction_threshold": False,
        "min_risk_reward": "2",
    }
    assert body["regimes"]["bull_trend"] == ["1", "0.85"]
    assert len(body["levels"]) == 4
    assert set(body["regimes"]) == set(Regime)


def test_the_same_number_written_otherwise_has_the_same_hash() -> None:
    assert a_policy(max_leverage="2", min_adv="3E+6").hash() == Policy().hash()


CHANGED: Final[dict[str, Any]] = {
    **{name: Decimal(low) for name, (_, low, _) in LIMITS.items() if name not in WHOLE},
    **{name: int(low) for name, (_, low, _) in LIMITS.items() if name in WHOLE},
    "min_ev_pct": Decimal("0.001"),
    "max_aggressiveness_level": 1,
    "live_allowed": True,
    "require_live_confirm": False,
    "scale_out": ScaleOut.THIRDS,
    # 1 contradicts the smallest order.
    "max_order_notional": Decimal(40_000),
    # 0.1 contradicts the tightest stop.
    "max_stop_atr": Decimal(4),
    # 0.0001 contradicts the daily limit.
    "max_weekly_loss_pct": Decimal("0.04"),
}


@pytest.mark.parametrize("spec", fields(Policy), ids=lambda spec: spec.name)
def test_the_hash_changes_with_any_setting(spec: Any) -> None:
    changed = replace(Policy(), **{spec.name: CHANGED[spec.name]})

    assert changed.hash() != Policy().hash()
    assert len(changed.hash()) == 64
