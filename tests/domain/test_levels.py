"""Tests of the aggressiveness table by what a decision makes of it: sizes and thresholds, level by level."""

from typing import Any

import pytest

from tests.builders import COSTLESS, caps_of, gate_of, judged


def budgeted(*, level: int, conviction: int, **policy: Any) -> int:
    """Shares that the risk budget allows: 100,000 x 50 bps = 500 dollars, D = max(100 - 95, 1.2 x 4) = 5."""
    judgement = judged(
        candidate={"conviction": conviction}, policy={**COSTLESS, "aggressiveness_level": level, **policy}
    )
    return caps_of(judgement)["risk_budget"]


@pytest.mark.parametrize(
    ("level", "threshold", "shares"),
    [
        # 100 shares x the multiplier: of a probe (half the lowest), and from the threshold, 65, 75 and 85 on
        (0, 60, (10, 20, 40, 60, 80)),
        (1, 55, (15, 30, 60, 85, 100)),
        (2, 52, (17, 35, 70, 95, 100)),  # 17.5 is cut to whole shares
        (3, 50, (20, 40, 80, 100, 100)),
    ],
)
def test_each_level_sizes_each_conviction_by_the_rulebooks_table(
    level: int, threshold: int, shares: tuple[int, ...]
) -> None:
    convictions = (threshold - 1, threshold, 65, 75, 85)

    assert tuple(budgeted(level=level, conviction=conviction) for conviction in convictions) == shares
    # The last conviction of each band is sized as its first.
    lasts = (threshold - 1, 64, 74, 84, 100)
    assert tuple(budgeted(level=level, conviction=conviction) for conviction in lasts) == shares


@pytest.mark.parametrize(("level", "threshold", "probe_minimum"), [(0, 60, 55), (1, 55, 50), (2, 52, 48), (3, 50, 45)])
def test_each_level_acts_and_probes_from_its_own_conviction_on(level: int, threshold: int, probe_minimum: int) -> None:
    def found(conviction: int) -> tuple[str, object, str]:
        # A probe's stop may be no wider than 1 ATR = 4.
        candidate = {"conviction": conviction, "stop_loss": "96"}
        line = gate_of(judged(candidate=candidate, policy={"aggressiveness_level": level}), "conviction")
        return line.status.value, line.limit, line.detail

    assert found(threshold) == ("pass", threshold, "")
    assert found(threshold - 1) == ("pass", threshold, "permitted as a probe")
    assert found(probe_minimum) == ("pass", threshold, "permitted as a probe")
    assert found(probe_minimum - 1) == ("block", threshold, f"below the probe minimum {probe_minimum}")


@pytest.mark.parametrize(("level", "limit"), [(0, 70), (1, 70), (2, 52), (3, 50)])
def test_only_the_two_careful_levels_heed_a_higher_conviction_threshold(level: int, limit: int) -> None:
    judgement = judged(policy={"aggressiveness_level": level, "conviction_threshold": 70})

    assert gate_of(judgement, "conviction").limit == limit


@pytest.mark.parametrize(("level", "limit"), [(0, "1.8"), (1, "1.8"), (2, "1.8"), (3, "2.0")])
def test_only_level_3_asks_for_a_reward_of_its_own(level: int, limit: str) -> None:
    judgement = judged(policy={"aggressiveness_level": level})

    assert str(gate_of(judgement, "risk_reward").limit) == limit
