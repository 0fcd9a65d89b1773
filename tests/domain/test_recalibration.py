"""Tests of fitting a calibrator to a record, and of when it may be used."""

import math
from collections.abc import Iterable
from datetime import date, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.calibration import calibration_report
from app.domain.outcome import OutcomeClass
from app.domain.recalibration import (
    CalibratorFit,
    CalibratorStanding,
    CalibratorState,
    FitCell,
    PlattCalibrator,
    fit_calibrator,
    next_standing,
)
from app.domain.tally import Tally

MONDAY = date(2026, 1, 5)
PLATT = PlattCalibrator(intercept=-0.1, slope=0.9)
OFF, SHADOW, ON = CalibratorState


def on_day(number: int, *cells: tuple[int, int, int]) -> list[FitCell]:
    """The day's percents, wins and numbers."""
    return [(MONDAY + timedelta(days=number), *cell) for cell in cells]


def record(days: int, *cells: tuple[int, int, int]) -> list[FitCell]:
    """The same every day."""
    return [cell for number in range(days) for cell in on_day(number, *cells)]


def tally_of(cells: Iterable[FitCell]) -> Tally:
    return Tally.of(
        (day, percent, outcome, count)
        for day, percent, won, of in cells
        for outcome, count in ((OutcomeClass.WIN, won), (OutcomeClass.LOSS, of - won))
    )


# --- the fit -------------------------------------------------------------------------------------------


def test_the_fit_maps_each_forecast_to_its_frequency() -> None:
    # 80 % won 3 of 5, 20 % won 2 of 5: logit(3/5) = ln 1.5 at logit 0.8 = ln 4, and the same with both signs turned.
    fit = fit_calibrator(record(20, (80, 3, 5), (20, 2, 5)))

    assert fit.calibrator is not None
    assert fit.calibrator.intercept == pytest.approx(0, abs=1e-9)
    assert fit.calibrator.slope == pytest.approx(math.log(1.5) / math.log(4), abs=1e-9)
    assert float(fit.calibrator.apply(0.8)) == pytest.approx(0.6, abs=1e-9)
    assert fit.refusal is None


def test_it_is_fitted_on_the_earlier_outcomes_and_tried_on_the_later_ones() -> None:
    earlier, later = record(7, (80, 3, 5), (20, 2, 5)), [*on_day(8, (80, 5, 5)), *on_day(9, (80, 5, 5), (20, 0, 20))]

    fit = fit_calibrator([*earlier, *later])

    # 70 of 100; what comes later, the very opposite, changes nothing in the fit.
    assert (fit.fitted_on, fit.held_out) == (70, 30)
    assert fit.refusal == "100 outcomes on 9 days are resolved; a calibrator needs 100 on 10 days."
    longer = fit_calibrator([*earlier, *later, *on_day(10, (80, 0, 0)), *on_day(11, (60, 1, 1))])
    assert (longer.fitted_on, longer.held_out) == (70, 31)
    assert longer.calibrator is not None
    assert float(longer.calibrator.apply(0.8)) == pytest.approx(0.6, abs=1e-9)


def test_the_gain_is_what_calibrating_takes_off_the_brier_score_by_day() -> None:
    # Fitted on 14 days: 80 % -> 60 %, 20 % -> 40 %. Held out: 6 days of 3 + 1 outcomes.
    earlier = record(14, (80, 3, 5), (20, 2, 5))
    wins = [1, 2, 3, 1, 2, 2]
    later = [cell for number, won in enumerate(wins) for cell in on_day(20 + number, (80, won, 9), (20, 1, 1))]

    fit = fit_calibrator([*earlier, *later])

    # A win at 80 %: 0.04 - 0.16 = -0.12, a loss 0.64 - 0.36 = 0.28; a win at 20 %: 0.64 - 0.36 = 0.28.
    of_days = [-0.12 * won + 0.28 * (9 - won) + 0.28 for won in wins]
    mean = sum(of_days) / 60
    variance = 6 / 5 * sum((of_day - 10 * mean) ** 2 for of_day in of_days) / 60**2
    assert (fit.fitted_on, fit.held_out) == (140, 60)
    assert fit.gain_brier == pytest.approx(mean, rel=1e-9)
    assert fit.gain_z == pytest.approx(mean / math.sqrt(variance), rel=1e-9)


def test_a_day_is_never_split() -> None:
    # 9 days of 6, then 10 + 80: the first ten days hold 64 of 144, 44 %; with the eleventh it is all of them.
    cells = [*record(9, (80, 2, 3), (20, 1, 3)), *on_day(9, (80, 6, 10)), *on_day(10, (80, 30, 80))]

    fit = fit_calibrator(cells)

    assert (fit.fitted_on, fit.held_out) == (64, 80)


@pytest.mark.parametrize(
    ("days", "n", "earlier"),
    [(10, 10, 70), (20, 10, 140), (11, 10, 70), (12, 10, 80), (13, 10, 90), (10, 11, 77)],
)
def test_at_most_70_percent_are_fitted_on(days: int, n: int, earlier: int) -> None:
    # 11 days of 10: 77 is the limit, 7 days fit; 12: 84; 13: 91.
    assert fit_calibrator(record(days, (80, 3, 5), (20, 2, n - 5))).fitted_on == earlier


@pytest.mark.parametrize(
    ("cells", "refusal"),
    [
        ([], "0 outcomes on 0 days are resolved; a calibrator needs 100 on 10 days."),
        (record(11, (60, 5, 9)), "99 outcomes on 11 days are resolved; a calibrator needs 100 on 10 days."),
        (record(9, (60, 5, 20)), "180 outcomes on 9 days are resolved; a calibrator needs 100 on 10 days."),
        (
            record(10, (60, 5, 10)),  # one forecast
            "The earlier 70 outcomes have no fit: outcomes or forecasts are alike, or separated.",
        ),
        (
            record(10, (60, 0, 5), (70, 0, 5)),  # one outcome
            "The earlier 70 outcomes have no fit: outcomes or forecasts are alike, or separated.",
        ),
        (
            record(10, (60, 0, 5), (70, 5, 5)),  # all above 65 % won
            "The earlier 70 outcomes have no fit: outcomes or forecasts are alike, or separated.",
        ),
        (
            [*on_day(0, (60, 5, 400)), *record(12, (60, 2, 5), (70, 4, 5))],  # the first day is 77 %
            "The earlier 0 outcomes have no fit: outcomes or forecasts are alike, or separated.",
        ),
        (
            record(10, (80, 2, 5), (20, 3, 5)),
            "The slope fitted on 70 outcomes is -0.29: higher forecasts won no more often.",
        ),
    ],
)
def test_no_calibrator_comes_of_a_record_that_allows_none(cells: list[FitCell], refusal: str) -> None:
    fit = fit_calibrator(cells)

    assert (fit.calibrator, fit.gain_brier, fit.gain_z) == (None, None, None)
    assert fit.refusal == refusal


def test_a_gain_on_a_single_day_cannot_be_tested() -> None:
    fit = fit_calibrator([*record(10, (80, 3, 5), (20, 2, 5)), *on_day(10, (80, 40, 60), (20, 30, 60))])

    assert (fit.fitted_on, fit.held_out) == (100, 120)
    assert fit.calibrator is not None
    assert (fit.gain_brier, fit.gain_z) == (None, None)


@pytest.mark.parametrize("cell", [(0, 1, 2), (100, 1, 2), (-1, 1, 2), (50, 3, 2), (50, -1, 2), (50, 0, -1)])
def test_what_no_record_holds_is_refused(cell: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no forecasts of 1 to 99 % with so many wins"):
        fit_calibrator(on_day(0, cell))


def test_a_cell_of_nothing_is_no_day() -> None:
    cells = record(10, (80, 3, 5), (20, 2, 5))

    assert fit_calibrator([*cells, *on_day(40, (100, 0, 0))]) == fit_calibrator(cells)


@given(st.randoms(use_true_random=False))
def test_any_order_and_any_cutting_into_cells_gives_the_same_fit(random: Random) -> None:
    outcomes = [
        cell
        for number in range(12)
        for _ in range(10)
        for cell in on_day(number, (random.randint(20, 80), random.randint(0, 1), 1))
    ]
    shuffled = random.sample(outcomes, len(outcomes))
    day, percent, *_ = shuffled[0]
    others = [cell for cell in shuffled if cell[:2] != (day, percent)]
    same = [cell for cell in shuffled if cell[:2] == (day, percent)]
    pooled = (day, percent, sum(cell[2] for cell in same), len(same))

    assert fit_calibrator(shuffled) == fit_calibrator(outcomes)
    assert fit_calibrator([*others, pooled]) == fit_calibrator(outcomes)


@given(st.integers(1, 100), st.integers(1, 12), st.integers(5, 95), st.randoms(use_true_random=False))
def test_a_record_is_rejected_exactly_where_its_report_says_so(
    n: int, days: int, true_percent: int, random: Random
) -> None:
    cells = [
        cell
        for _ in range(n)
        for cell in on_day(
            random.randrange(days), (random.choice([30, 50, 70]), int(random.randint(0, 99) < true_percent), 1)
        )
    ]

    assert fit_calibrator(cells).rejected is calibration_report(tally_of(cells), min_decisions=0).rejected


def test_one_who_is_wrong_by_the_same_every_day_is_rejected() -> None:
    assert fit_calibrator(record(20, (70, 0, 2))).rejected


def test_one_whose_days_are_all_won_or_all_lost_is_not() -> None:
    # Half of 400 at 70 % are won: much too few, were it not that every day is no more than one outcome.
    cells = [cell for day in range(40) for cell in on_day(day, (70, 10 * (day % 2), 10))]
    report = calibration_report(tally_of(cells))

    assert report.e_value is not None
    assert report.e_value > 20
    assert not report.rejected
    assert not fit_calibrator(cells).rejected


# --- the standing --------------------------------------------------------------------------------------


def a_fit(**changes: object) -> CalibratorFit:
    """A trial that was passed on a record that rejects the stated p_win."""
    defaults: dict[str, object] = {
        "calibrator": PLATT,
        "fitted_on": 700,
        "held_out": 300,
        "gain_brier": 0.004,
        "gain_z": 2.5,
        "rejected": True,
    }
    return CalibratorFit(**{**defaults, **changes})  # type: ignore[arg-type]


def a_previous(state: CalibratorState, *, resolved: int = 1000) -> CalibratorStanding:
    return CalibratorStanding(
        state=state, calibrator=None if state is OFF else PLATT, reason="before", resolved=resolved
    )


@pytest.mark.parametrize(
    ("before", "more", "z", "rejected", "after"),
    [
        (OFF, 0, 2.01, True, SHADOW),
        (OFF, 0, 2.0, True, OFF),
        (OFF, 0, -2.5, True, OFF),
        (OFF, 0, None, True, OFF),
        (OFF, 0, math.nan, True, OFF),
        (OFF, 500, 9.0, False, OFF),
        (OFF, 500, 9.0, True, SHADOW),
        (SHADOW, 0, 2.01, True, SHADOW),
        (SHADOW, 19, 9.0, True, SHADOW),
        (SHADOW, 20, 2.01, True, ON),
        (SHADOW, 20, 2.01, False, ON),
        (SHADOW, 20, 2.0, True, OFF),
        (SHADOW, -5, 2.5, True, SHADOW),  # a correction took outcomes away
        (ON, 0, 2.01, True, ON),
        (ON, 500, 2.01, False, ON),
        (ON, 0, 2.0, True, OFF),
        (ON, 0, None, True, OFF),
    ],
)
def test_a_calibrator_goes_from_off_to_shadow_to_on_and_back_to_off(
    before: CalibratorState, more: int, z: float | None, rejected: bool, after: CalibratorState
) -> None:
    found = next_standing(
        previous=a_previous(before), fit=a_fit(gain_z=z, rejected=rejected), resolved=1000 + more, min_decisions=20
    )

    assert found.state is after
    assert found.calibrator == (None if after is OFF else PLATT)
    assert found.resolved == (1000 if after is before else 1000 + more)
    assert found.reason != "before"


def test_a_calibrator_that_stays_is_the_newly_fitted_one() -> None:
    anew = PlattCalibrator(intercept=0.0, slope=0.8)

    for state in (SHADOW, ON):
        found = next_standing(previous=a_previous(state), fit=a_fit(calibrator=anew), resolved=1001)
        assert (found.state, found.calibrator) == (state, anew)


@pytest.mark.parametrize("state", list(CalibratorState))
def test_what_cannot_be_fitted_is_off_for_the_reason_of_the_fit(state: CalibratorState) -> None:
    fit = a_fit(calibrator=None, gain_brier=None, gain_z=None, refusal="There is no fit.")

    found = next_standing(previous=a_previous(state), fit=fit, resolved=1000)

    assert (found.state, found.calibrator, found.reason) == (OFF, None, "There is no fit.")


TRIAL = "calibrating as the earlier 700 outcomes say gains 0.00400 of Brier score on the later 300 (z 2.50 by days)"


@pytest.mark.parametrize(
    ("before", "more", "changes", "reason"),
    [
        (OFF, 0, {}, f"The record rejects the stated p_win, and {TRIAL}: tried in shadow."),
        (OFF, 0, {"rejected": False}, f"The record does not reject the stated p_win, although {TRIAL}."),
        (SHADOW, 5, {}, f"It stays shadow: {TRIAL}."),
        (SHADOW, 25, {}, f"After 25 more outcomes in shadow, {TRIAL}: turned on."),
        (ON, 25, {}, f"It stays on: {TRIAL}."),
        (
            ON,
            25,
            {"gain_z": 1.5},
            f"Too little is gained: {TRIAL.replace('2.50', '1.50')}; z must be above 2.",
        ),
        (ON, 25, {"gain_z": None}, "The gain on the later 300 outcomes cannot be tested."),
    ],
)
def test_the_reason_tells_of_the_trial(
    before: CalibratorState, more: int, changes: dict[str, object], reason: str
) -> None:
    assert next_standing(previous=a_previous(before), fit=a_fit(**changes), resolved=1000 + more).reason == reason


def test_an_overconfident_record_turns_a_calibrator_on_by_way_of_shadow() -> None:
    # Says 90 and 10 %, and is right in 3 of 5: 60 and 40 %.
    standing = a_previous(OFF, resolved=0)
    states = []
    for days in range(5, 30):
        cells = record(days, (90, 3, 5), (10, 2, 5))
        standing = next_standing(previous=standing, fit=fit_calibrator(cells), resolved=10 * days)
        states.append(standing.state)

    # Below 10 days nothing is tried; the 2 days after that are 20 more outcomes.
    assert states == [OFF] * 5 + [SHADOW] * 2 + [ON] * 18
