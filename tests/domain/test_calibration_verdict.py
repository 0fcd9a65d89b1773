"""Tests of the verdict on a record, and of its words."""

from dataclasses import replace

import pytest

from app.domain.calibration_verdict import CalibrationVerdict, Findings, reasons, recommendations

CALIBRATED, MISCALIBRATED = CalibrationVerdict.CALIBRATED, CalibrationVerdict.MISCALIBRATED
INSUFFICIENT = CalibrationVerdict.INSUFFICIENT

OVERCONFIDENT = Findings(
    n=400,
    min_decisions=20,
    e_value=812.0,
    calibration_error=0.052,
    calibration_error_t=3.4,
    slope=0.6,
    slope_t=-4.1,
    skill=0.03,
    certain=0,
)
"""Both its level and its spread are rejected."""


@pytest.mark.parametrize(
    ("n", "verdict"), [(0, INSUFFICIENT), (19, INSUFFICIENT), (20, MISCALIBRATED), (21, MISCALIBRATED)]
)
def test_below_20_decisions_nothing_is_judged(n: int, verdict: CalibrationVerdict) -> None:
    findings = replace(OVERCONFIDENT, n=n)

    assert findings.verdict is verdict
    assert findings.rejected is (verdict is MISCALIBRATED)


@pytest.mark.parametrize(("e_value", "rejected"), [(None, False), (19.99, False), (20.0, True), (1e300, True)])
def test_it_takes_an_e_value_of_20(e_value: float | None, rejected: bool) -> None:
    findings = replace(OVERCONFIDENT, e_value=e_value)

    assert findings.rejected is rejected
    assert findings.verdict is (MISCALIBRATED if rejected else CALIBRATED)


@pytest.mark.parametrize(
    ("level", "spread", "rejected"),
    [
        (None, None, False),
        (0.0, 0.0, False),
        (2.58, 2.58, False),
        (2.59, 0.0, True),
        (-2.59, None, True),
        (0.0, 2.59, True),
        (None, -2.59, True),
    ],
)
def test_it_takes_a_clustered_t_beyond_2_58_of_the_level_or_the_spread(
    level: float | None, spread: float | None, rejected: bool
) -> None:
    findings = replace(OVERCONFIDENT, calibration_error_t=level, slope_t=spread)

    assert findings.rejected is rejected


def test_a_rejected_record_is_told_what_to_mend() -> None:
    assert reasons(OVERCONFIDENT) == (
        (
            "400 resolved decisions reject the forecasts: the e-value is 812 (20 rejects) and the day-clustered t is "
            "3.40 for their level and -4.10 for their spread (beyond 2.58 rejects)."
        ),
        "On average, forecasts are 5.2 points above outcomes.",
        "The slope is 0.60, below 1: overconfident, forecasts lie further apart than outcomes do.",
    )
    assert recommendations(OVERCONFIDENT) == (
        "Lower stated probabilities by about 5 points.",
        "Move forecasts towards their average: ten points of difference have been worth about 6.",
        "Trade smaller until the record recovers.",
    )


def test_only_what_was_rejected_is_to_be_mended() -> None:
    level_only = replace(OVERCONFIDENT, slope_t=-2.0, calibration_error=-0.052, calibration_error_t=-3.4)
    spread_only = replace(OVERCONFIDENT, calibration_error_t=1.0, slope=1.4, slope_t=4.1)

    assert recommendations(level_only)[:-1] == ("Raise stated probabilities by about 5 points.",)
    assert recommendations(spread_only)[:-1] == (
        "Move forecasts away from their average: ten points of difference have been worth about 14.",
    )


def test_forecasts_that_rank_the_wrong_way_are_not_to_be_sized_by() -> None:
    upside_down = replace(OVERCONFIDENT, slope=-0.3, calibration_error_t=0.0)

    assert reasons(upside_down)[-1] == "The slope is -0.30: higher forecasts have won less often."
    assert recommendations(upside_down)[0].startswith("Do not size by these forecasts")


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"e_value": 3.14159}, "the e-value is 3.14, below 20."),
        (
            {"calibration_error_t": 1.0, "slope_t": None},
            (
                "the e-value of 812 would reject them if outcomes were independent, but the day-clustered t is 1.00 "
                "for their level, within 2.58."
            ),
        ),
        (
            {"calibration_error_t": None, "slope_t": None},
            (
                "the e-value of 812 would reject them if outcomes were independent, but without at least two known "
                "days this cannot be told."
            ),
        ),
    ],
)
def test_a_record_that_is_not_rejected_says_that_nothing_is_proven(change: dict[str, float], because: str) -> None:
    findings = replace(OVERCONFIDENT, **change)  # type: ignore[arg-type]

    assert findings.verdict is CALIBRATED
    assert reasons(findings)[0] == (
        f"400 resolved decisions do not reject the forecasts, which does not prove them right: {because}"
    )
    assert recommendations(findings) == (
        "Change nothing on account of these figures: chance may explain what is off in them.",
    )


def test_a_short_record_says_how_many_decisions_are_missing() -> None:
    assert reasons(replace(OVERCONFIDENT, n=19))[0] == "19 resolved decisions: below 20 nothing is judged."
    assert recommendations(replace(OVERCONFIDENT, n=19)) == (
        "Wait for 1 more resolved decision before drawing conclusions.",
    )
    assert recommendations(replace(OVERCONFIDENT, n=18))[0].startswith("Wait for 2 more resolved decisions")


def test_an_empty_record_has_nothing_else_to_say() -> None:
    empty = replace(
        OVERCONFIDENT,
        n=0,
        e_value=None,
        calibration_error=None,
        calibration_error_t=None,
        slope=None,
        slope_t=None,
        skill=None,
    )

    assert reasons(empty) == ("0 resolved decisions: below 20 nothing is judged.",)


@pytest.mark.parametrize(
    ("slope", "says"),
    [
        (0.994, "The slope is 0.99, below 1: overconfident"),
        (0.996, "The slope is 1.00: forecasts lie as far apart as outcomes do."),
        (1.0049, "The slope is 1.00: forecasts lie as far apart as outcomes do."),
        (1.006, "The slope is 1.01, above 1: underconfident"),
        (None, "All forecasts are alike, so that their spread cannot be judged."),
    ],
)
def test_a_slope_below_1_is_overconfident(slope: float | None, says: str) -> None:
    assert reasons(replace(OVERCONFIDENT, slope=slope))[-1].startswith(says)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (0.0004, "On average, forecasts are level with outcomes."),
        (0.0006, "On average, forecasts are 0.1 points above outcomes."),
        (-0.0006, "On average, forecasts are 0.1 points below outcomes."),
    ],
)
def test_the_level_is_told_in_points(error: float, says: str) -> None:
    assert reasons(replace(OVERCONFIDENT, calibration_error=error))[1] == says


def test_certainty_is_advised_against() -> None:
    assert recommendations(replace(OVERCONFIDENT, certain=1))[-1].startswith("Never state 0 or 100 %")


@pytest.mark.parametrize(("skill", "advised"), [(0.01, False), (0.0, True), (-0.2, True), (None, False)])
def test_forecasts_without_skill_are_told_so(skill: float | None, advised: bool) -> None:
    advice = recommendations(replace(OVERCONFIDENT, skill=skill))

    assert any(sentence.startswith("Look for what sets winners apart") for sentence in advice) is advised
    assert len(recommendations(replace(OVERCONFIDENT, n=19, skill=skill))) == 1
