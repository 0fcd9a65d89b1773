"""Tests of the verdict on a record, and of its words."""

from dataclasses import replace
from datetime import date, timedelta

import pytest

from app.domain.calibration_verdict import (
    CalibrationVerdict,
    DayTests,
    Findings,
    day_tests,
    reasons,
    recommendations,
)
from app.domain.outcome import OutcomeClass
from app.domain.tally import ScratchRule, Tally, score

CALIBRATED, MISCALIBRATED = CalibrationVerdict.CALIBRATED, CalibrationVerdict.MISCALIBRATED
INSUFFICIENT = CalibrationVerdict.INSUFFICIENT

SIXTY_DAYS = DayTests(days=60, even_days=60.0, level_t=3.4, spread_t=-4.1, boldness_t=3.9)
OVERCONFIDENT = Findings(
    n=400,
    min_decisions=20,
    e_value=812.0,
    calibration_error=0.052,
    slope=0.6,
    by_day=SIXTY_DAYS,
    skill=0.03,
    certain=0,
)
"""Both its level and its spread are rejected."""


def by_day(*, level_t: float | None, spread_t: float | None, boldness_t: float | None = 6.0) -> Findings:
    """The overconfident record with other t; its boldness is beyond every limit unless told otherwise."""
    return replace(OVERCONFIDENT, by_day=replace(SIXTY_DAYS, level_t=level_t, spread_t=spread_t, boldness_t=boldness_t))


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
    assert by_day(level_t=level, spread_t=spread).rejected is rejected


@pytest.mark.parametrize(
    ("days", "t", "rejected"),
    [
        # On 60 days sqrt(1.25 ln 8000) = 3.352 is asked, which a t of 3.534 with 59 degrees of freedom is worth.
        (60, 3.52, False),
        (60, 3.55, True),
        # On 10 days sqrt(2.5 ln(25 / 0.009375)) = 4.441: a t of 9.05 with 9 degrees of freedom.
        (10, 9.0, False),
        (10, 9.1, True),
        (2, 1e6, False),
        (3, 1e6, False),
        (4, 1e6, True),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("strongest", ["level_t", "spread_t", "boldness_t"])
def test_the_strongest_t_must_exceed_what_honest_days_reach_at_any_look(
    strongest: str, sign: int, days: int, t: float, rejected: bool
) -> None:
    weak = DayTests(days=days, even_days=float(days), level_t=2.6, spread_t=-2.6, boldness_t=0.0)
    tests = replace(weak, **{strongest: sign * t})  # type: ignore[arg-type]

    assert replace(OVERCONFIDENT, by_day=tests).rejected is rejected


@pytest.mark.parametrize(("t", "rejected"), [(5.6, False), (5.8, True)])
def test_days_of_unlike_size_count_as_fewer_even_ones(t: float, rejected: bool) -> None:
    # As before on 60 days 3.352 is asked; if they weigh as 8, it takes a t of 5.67 with 7 degrees of freedom.
    uneven = replace(SIXTY_DAYS, even_days=8.0, boldness_t=t)

    assert replace(OVERCONFIDENT, by_day=uneven).rejected is rejected


def test_the_strongest_sign_alone_does_not_reject() -> None:
    # Neither the level nor the spread is beyond 2.58.
    assert by_day(level_t=2.5, spread_t=-2.5, boldness_t=9.0).verdict is CALIBRATED


def test_the_t_of_a_record_are_those_of_its_days() -> None:
    monday = date(2026, 11, 2)
    won, lost = OutcomeClass.WIN, OutcomeClass.LOSS
    tests = day_tests(
        score(Tally.of([(monday, 70, won, 1), (monday + timedelta(days=1), 70, lost, 2)]), scratch=ScratchRule.ZERO)
    )

    # p - y: 0.7 - 1 on Monday, 0.7 and 0.7 on Tuesday: 1.1/3 by 4/9. All forecasts are alike: times 0.2 it is the same.
    assert tests.days == 2
    assert tests.even_days == pytest.approx(9 / 5, rel=1e-15)  # 3 decisions: 3^2 / (1^2 + 2^2)
    assert tests.level_t == pytest.approx(1.1 / 3 / (4 / 9), rel=1e-14)
    assert tests.spread_t is None
    assert tests.boldness_t == pytest.approx(1.1 / 3 / (4 / 9), rel=1e-14)


def test_without_known_days_there_is_no_t() -> None:
    tests = day_tests(score(Tally.of([(None, 70, OutcomeClass.LOSS, 90)]), scratch=ScratchRule.ZERO))

    assert tests == DayTests(days=0, even_days=0.0, level_t=None, spread_t=None, boldness_t=None)
    assert tests.strongest is None
    assert tests.asked is None
    assert not tests.reject


def test_a_rejected_record_is_told_what_to_mend() -> None:
    assert reasons(OVERCONFIDENT) == (
        (
            "400 resolved decisions reject the forecasts: the e-value is 812 (20 rejects) and the day-clustered t is "
            "3.40 for their level and -4.10 for their spread (beyond 2.58 rejects, and the strongest sign, that of "
            "their spread, on 60 days is worth 3.83 standard deviations, where 3.35 must be exceeded when one may look "
            "every day)."
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
    level_only = replace(by_day(level_t=-3.4, spread_t=-2.0), calibration_error=-0.052)
    spread_only = replace(by_day(level_t=1.0, spread_t=4.1), slope=1.4)

    assert recommendations(level_only)[:-1] == ("Raise stated probabilities by about 5 points.",)
    assert recommendations(spread_only)[:-1] == (
        "Move forecasts away from their average: ten points of difference have been worth about 14.",
    )


def test_forecasts_that_rank_the_wrong_way_are_not_to_be_sized_by() -> None:
    upside_down = replace(by_day(level_t=0.0, spread_t=-4.1), slope=-0.3)

    assert reasons(upside_down)[-1] == "The slope is -0.30: higher forecasts have won less often."
    assert recommendations(upside_down)[0].startswith("Do not size by these forecasts")


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"e_value": 3.14159}, "the e-value is 3.14, below 20."),
        (
            {"by_day": replace(SIXTY_DAYS, level_t=1.0, spread_t=None, boldness_t=6.0)},
            (
                "the e-value of 812 would reject them if outcomes were independent, but the day-clustered t is 1.00 "
                "for their level, within 2.58."
            ),
        ),
        (
            {"by_day": replace(SIXTY_DAYS, level_t=2.9, spread_t=-3.1, boldness_t=2.0)},
            (
                "the e-value of 812 would reject them if outcomes were independent, but the day-clustered t is 2.90 "
                "for their level and -3.10 for their spread, which may be chance: the strongest sign, that of their "
                "spread, on 60 days is worth 2.97 standard deviations, where 3.35 must be exceeded when one may look "
                "every day."
            ),
        ),
        (
            {"by_day": DayTests(days=60, even_days=8.04, level_t=2.9, spread_t=-3.1, boldness_t=4.25)},
            (
                "the e-value of 812 would reject them if outcomes were independent, but the day-clustered t is 2.90 "
                "for their level and -3.10 for their spread, which may be chance: the strongest sign, that of their "
                "distance from 50 % (t 4.25), on 60 days, which weigh as 8.0 of one size, is worth 2.89 standard "
                "deviations, where 3.35 must be exceeded when one may look every day."
            ),
        ),
        (
            {"by_day": DayTests(days=2, even_days=2.0, level_t=1e6, spread_t=None, boldness_t=1e6)},
            (
                "the e-value of 812 would reject them if outcomes were independent, but the day-clustered t is 1e+06 "
                "for their level, which may be chance: the strongest sign, that of their level, on 2 days is worth "
                "4.30 standard deviations, where 7.99 must be exceeded when one may look every day."
            ),
        ),
        (
            {"by_day": DayTests(days=0, even_days=0.0, level_t=None, spread_t=None, boldness_t=None)},
            (
                "the e-value of 812 would reject them if outcomes were independent, but without at least two known "
                "days this cannot be told."
            ),
        ),
    ],
)
def test_a_record_that_is_not_rejected_says_that_nothing_is_proven(change: dict[str, object], because: str) -> None:
    findings = replace(OVERCONFIDENT, **change)  # type: ignore[arg-type]

    assert findings.verdict is CALIBRATED
    assert reasons(findings)[0] == (
        f"400 resolved decisions do not reject the forecasts, which does not prove them right: {because}"
    )
    assert recommendations(findings) == (
        "Change nothing on account of these figures: chance may explain what is off in them."
        if findings.e_value == 3.14159
        else "Change no forecast yet, but look again as days are added: so far a few bad days may explain what is off.",
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
        slope=None,
        by_day=DayTests(days=0, even_days=0.0, level_t=None, spread_t=None, boldness_t=None),
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
