"""Tests of what an entry is worth: risk-reward after costs, expected value, Kelly, and scaling out by thirds."""

import math
from decimal import Decimal
from typing import Any

import pytest

from app.domain.edge import Edge, Slice, assess_edge, kelly_fraction, reach_probability, slices
from app.domain.policy import ScaleOut
from app.domain.recalibration import PlattCalibrator
from tests.builders import COSTLESS, SHORT, a_standing, judged

THIRD = Decimal(1) / 3


def edge(**changes: Any) -> Edge:
    """Entry 100, stop 95, target 115, cost 0.50, even odds: L = 5, W = 15."""
    values: dict[str, Any] = {
        "entry": Decimal(100),
        "stop": Decimal(95),
        "target": Decimal(115),
        "cost": Decimal("0.5"),
        "p_win_raw": Decimal("0.5"),
        "p_win": Decimal("0.5"),
        "scale_out": ScaleOut.OFF,
    }
    return assess_edge(**{**values, **changes})


def test_costs_lower_the_reward_and_raise_the_risk() -> None:
    # b = (15 - 0.5) / (5 + 0.5) = 14.5 / 5.5
    assert edge().risk_reward == Decimal("14.5") / Decimal("5.5")


def test_a_short_is_the_mirror_image_of_a_long() -> None:
    short = edge(stop=Decimal(105), target=Decimal(85))

    assert short == edge()


def test_expected_value_is_in_units_of_what_is_lost_with_costs() -> None:
    # b = (16 - 1) / (4 + 1) = 3;  EV_R = 0.4 x 3 - 0.6 = 0.6;  ev_pct = 0.6 x 5 / 100
    found = edge(stop=Decimal(96), target=Decimal(116), cost=Decimal(1), p_win=Decimal("0.4"))

    assert found.risk_reward == 3
    assert found.ev_r == Decimal("0.6")
    assert found.ev_pct == Decimal("0.03")


def test_expected_value_is_a_fraction_of_the_entry() -> None:
    # Twice the price, the same distances: half the fraction.
    found = edge(entry=Decimal(200), stop=Decimal(196), target=Decimal(216), cost=Decimal(1), p_win=Decimal("0.4"))

    assert found.ev_r == Decimal("0.6")
    assert found.ev_pct == Decimal("0.015")


@pytest.mark.parametrize(
    ("p_win", "kelly"),
    [
        # b = 3: p - (1 - p) / 3
        ("0.25", "0"),
        ("0.4", "0.2"),
        ("0.55", "0.4"),
        ("0.1", "-0.2"),
    ],
)
def test_kelly_is_what_is_won_less_what_is_lost_over_the_ratio(p_win: str, kelly: str) -> None:
    found = edge(stop=Decimal(96), target=Decimal(116), cost=Decimal(1), p_win=Decimal(p_win))

    assert found.kelly_fraction == Decimal(kelly)


@pytest.mark.parametrize("cost", ["15", "16"])
def test_kelly_is_0_where_costs_eat_the_whole_reward(cost: str) -> None:
    found = edge(cost=Decimal(cost), p_win=Decimal("0.99"))

    assert found.risk_reward <= 0
    assert found.kelly_fraction == 0


def test_a_reward_just_above_its_costs_has_a_kelly_fraction() -> None:
    found = edge(cost=Decimal("14.99"))

    assert found.risk_reward > 0
    assert found.kelly_fraction < 0


@pytest.mark.parametrize("stop", ["95", "96.5"])
@pytest.mark.parametrize("cost", ["0", "0.5", "14.99", "15", "16"])
def test_kelly_alone_is_that_of_the_whole_edge(stop: str, cost: str) -> None:
    asked = {"entry": Decimal(100), "stop": Decimal(stop), "target": Decimal(115), "cost": Decimal(cost)}

    assert kelly_fraction(**asked, p_win=Decimal("0.4")) == edge(**asked, p_win=Decimal("0.4")).kelly_fraction


def test_the_cost_is_reported_per_share_and_in_basis_points_of_the_entry() -> None:
    found = edge(entry=Decimal(50), stop=Decimal(45), target=Decimal(65))

    assert found.cost_usd == Decimal("0.5")
    assert found.cost_bps_round_trip == 100


def test_the_stated_probability_is_kept_beside_the_one_that_counts() -> None:
    found = edge(p_win_raw=Decimal("0.7"), p_win=Decimal("0.4"))

    assert found.p_win_raw == Decimal("0.7")
    assert found.p_win == Decimal("0.4")
    assert found.ev_r == Decimal("0.4") * found.risk_reward - Decimal("0.6")


# --- from a candidate to its edge ----------------------------------------------------------------------


def edge_of(**changes: Any) -> Edge:
    found = judged(**changes).edge
    if found is None:
        raise AssertionError("the case was not priced")
    return found


NO_IMPACT: dict[str, Any] = {"account": {"buying_power": 0}, "policy": COSTLESS}


def test_a_whole_percent_becomes_a_probability() -> None:
    found = edge_of(candidate={"p_win_pct": 37}, **NO_IMPACT)

    assert found.p_win == found.p_win_raw == Decimal("0.37")
    assert found.ev_r == Decimal("0.37") * 3 - Decimal("0.63")


def test_a_short_candidate_is_the_mirror_image_of_a_long_one() -> None:
    assert edge_of(candidate=SHORT) == edge_of()


def test_a_calibrator_replaces_the_stated_probability_and_keeps_it() -> None:
    # logit 0.8 = ln 4;  0.5 x ln 4 = ln 2;  logistic(ln 2) = 2 / 3
    halved = a_standing(calibrator=PlattCalibrator(intercept=0.0, slope=0.5))

    found = edge_of(candidate={"p_win_pct": 80}, calibration=halved, **NO_IMPACT)

    assert found.p_win_raw == Decimal("0.8")
    assert float(found.p_win) == pytest.approx(2 / 3, abs=1e-12)
    assert float(found.ev_r) == pytest.approx(2 / 3 * 3 - 1 / 3, abs=1e-12)


# --- scaling out by thirds -----------------------------------------------------------------------------


def test_by_default_the_whole_position_closes_at_the_target() -> None:
    assert slices(loss=Decimal(5), reward=Decimal(15), scale_out=ScaleOut.OFF) == (
        Slice(fraction=Decimal(1), distance=Decimal(15)),
    )


@pytest.mark.parametrize(
    ("reward", "distances"),
    [
        ("15", ("5", "10", "15")),
        ("10", ("5", "10", "10")),
        # Never beyond the target.
        ("8", ("5", "8", "8")),
        ("5", ("5", "5", "5")),
        ("3", ("3", "3", "3")),
    ],
)
def test_thirds_close_at_one_and_two_losses_and_at_the_target(reward: str, distances: tuple[str, ...]) -> None:
    parts = slices(loss=Decimal(5), reward=Decimal(reward), scale_out=ScaleOut.THIRDS)

    assert [part.distance for part in parts] == [Decimal(distance) for distance in distances]
    assert [part.fraction for part in parts] == [THIRD, THIRD, 1 - 2 * THIRD]
    assert sum(part.fraction for part in parts) == 1


@pytest.mark.parametrize("ratio", [0.25, 1.0, 2.0, 3.0, 9.0])
def test_without_drift_the_target_is_reached_by_the_gamblers_odds(ratio: float) -> None:
    # limit 1 / (1 + r) as theta -> 0
    assert reach_probability(theta=0.0, ratio=ratio) == 1 / (1 + ratio)
    for near_zero in (1e-7, -1e-7):
        assert reach_probability(theta=near_zero, ratio=ratio) == pytest.approx(1 / (1 + ratio), abs=1e-6)


@pytest.mark.parametrize("theta", [-3.0, -0.5, -1e-3, 1e-3, 0.5, 3.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_drift_changes_the_odds_by_the_rulebooks_formula(theta: float, ratio: float) -> None:
    expected = (math.exp(theta) - 1) / (math.exp(theta) - math.exp(-theta * ratio))

    assert reach_probability(theta=theta, ratio=ratio) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("theta", "expected"), [(1e6, 1.0), (-1e6, 0.0)])
def test_a_drift_beyond_any_exponential_is_a_certainty(theta: float, expected: float) -> None:
    assert reach_probability(theta=theta, ratio=2.0) == expected


def test_a_reward_of_one_loss_is_worth_the_same_in_thirds() -> None:
    # All three slices close at the target, where each wins with p itself.
    values: dict[str, Any] = {"target": Decimal(105), "p_win": Decimal("0.6")}

    thirds, whole = edge(**values, scale_out=ScaleOut.THIRDS), edge(**values)

    assert thirds.ev_r == pytest.approx(whole.ev_r, abs=Decimal("1e-20"))


def test_thirds_without_drift_are_worth_what_their_costs_take() -> None:
    # p = 1 / (1 + 3) means no drift. Free of costs, each slice is a fair bet:
    # 1/2 x 1 - 1/2, 1/3 x 2 - 2/3 and 1/4 x 3 - 3/4 are all 0.
    found = edge(p_win=Decimal("0.25"), cost=Decimal(0), scale_out=ScaleOut.THIRDS)

    assert float(found.ev_r) == pytest.approx(0.0, abs=1e-12)


def test_thirds_weigh_each_slice_by_its_own_odds() -> None:
    # g = 5, 10, 15 of L = 5 with C = 1: x = 4/6, 9/6, 14/6. Choose theta = ln 2, for which
    # P(r) = (2 - 1) / (2 - 2^-r): P(1) = 2/3, P(2) = 4/7, P(3) = 8/15, the last of which is p.
    # EV_R = ((2/3 x 2/3 - 1/3) + (4/7 x 3/2 - 3/7) + (8/15 x 7/3 - 7/15)) / 3
    found = edge(cost=Decimal(1), p_win=Decimal(8) / 15, scale_out=ScaleOut.THIRDS)
    expected = ((4 / 9 - 1 / 3) + (6 / 7 - 3 / 7) + (56 / 45 - 7 / 15)) / 3

    assert float(found.ev_r) == pytest.approx(expected, abs=1e-12)
    assert float(found.ev_pct) == pytest.approx(expected * 6 / 100, abs=1e-12)


def test_thirds_with_a_drift_against_them_weigh_each_slice_by_its_own_odds() -> None:
    # theta = -ln 2: P(r) = (1/2 - 1) / (1/2 - 2^r): P(1) = 1/3, P(2) = 1/7, P(3) = 1/15.
    found = edge(cost=Decimal(1), p_win=Decimal(1) / 15, scale_out=ScaleOut.THIRDS)
    expected = ((2 / 9 - 2 / 3) + (3 / 14 - 6 / 7) + (7 / 45 - 14 / 15)) / 3

    assert float(found.ev_r) == pytest.approx(expected, abs=1e-12)


def test_thirds_leave_risk_reward_and_kelly_to_the_target() -> None:
    thirds, whole = edge(scale_out=ScaleOut.THIRDS), edge()

    assert thirds.risk_reward == whole.risk_reward
    assert thirds.kelly_fraction == whole.kelly_fraction


@pytest.mark.parametrize("p_win", ["0.01", "0.25", "0.5", "0.99", "0.9999999999"])
@pytest.mark.parametrize("target", ["100.01", "101", "115", "1000"])
def test_thirds_are_worth_something_finite_whatever_the_odds(p_win: str, target: str) -> None:
    found = edge(p_win=Decimal(p_win), target=Decimal(target), scale_out=ScaleOut.THIRDS)

    # x_i lies between -1 and b, and so does any mixture of winning x_i and losing 1.
    assert -1 <= found.ev_r <= max(found.risk_reward, Decimal(0))


def test_a_slice_is_reached_more_often_than_the_target() -> None:
    # p at the target is 0.4: two thirds of the position leave earlier, more often, for less.
    # Free of costs: theta solves P(3) = 0.4; each nearer slice must win more often than 0.4.
    found = edge(p_win=Decimal("0.4"), cost=Decimal(0), scale_out=ScaleOut.THIRDS)
    if_each_won_as_seldom = (Decimal("0.4") * (1 + 2 + 3) - 3 * Decimal("0.6")) / 3

    assert found.ev_r > if_each_won_as_seldom
