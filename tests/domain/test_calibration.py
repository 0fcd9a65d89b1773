"""Tests of the calibration report: against independent libraries, against naive arithmetic, and at its edges."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import date, timedelta
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.domain.calibration import (
    CalibrationVerdict,
    ClassCounts,
    Counts,
    OutcomeDistribution,
    Report,
    ScratchRule,
    Tally,
    calibration_report,
    conviction_buckets,
)
from app.domain.outcome import OutcomeClass
from app.domain.reliability import bin_of
from app.domain.tally import bucket_sums, points_of
from tests.domain.forecast_sets import FIRST_DAY, Cell, cells, cells_of, expected_values

WIN, LOSS, SCRATCH, TIMEOUT = OutcomeClass.WIN, OutcomeClass.LOSS, OutcomeClass.SCRATCH, OutcomeClass.TIMEOUT

EXPECTED = expected_values()
SETS = ("fte_nba", "fte_nba_games", "fte_nfl", "flare_c1_noaa", "niamey_emos", "sk10883_a", "sk10883_b")
FIGURES = {
    "n": "counts.resolved",
    "wins": "counts.win",
    "brier": "brier",
    "bss": "skill",
    "rel": "murphy.reliability",
    "res": "murphy.resolution",
    "unc": "murphy.uncertainty",
    "rel_ferro_fricker": "reliability_debiased",
    "corp_mcb": "corp.miscalibration",
    "corp_dsc": "corp.discrimination",
    "slope10_left_closed": "slope_binned",
    "slope_ols_raw": "slope",
    "auc": "auc",
    "log_loss_clip": "log_loss_clipped",
    "smece": "smooth_ece",
    "cox_slope": "cox.slope",
    "citl": "citl",
    "spiegelhalter_z": "spiegelhalter_z",
    "brier_se_iid": "brier_se_iid",
    "brier_se_cluster": "brier_se",
    "sharpness_sd": "sharpness",
}
TOLERANCES = {"cox_slope": 1e-9, "citl": 1e-9, "smece": 1e-6}


def figure_of(report: Report, path: str) -> float | None:
    value: object = report
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    assert value is None or isinstance(value, int | float)
    return value


def report_on(*arrived: Cell, scratch: ScratchRule = ScratchRule.ZERO) -> Report:
    return calibration_report(Tally.of(arrived), scratch=scratch)


def numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from numbers_in(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from numbers_in(getattr(value, field.name))


# --- Against independent libraries ---------------------------------------------------------------------


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("name", SETS)
def test_figures_are_those_of_independent_libraries(name: str, figure: str) -> None:
    expected = EXPECTED[name.removesuffix("_games")][figure]
    if figure == "brier_se_cluster" and name != "fte_nba_games":
        expected = None  # only this file has dates

    actual = figure_of(report_on(*cells_of(name)), FIGURES[figure])

    if expected is None:
        assert actual is None
    else:
        assert actual == pytest.approx(expected, rel=0, abs=TOLERANCES.get(figure, 1e-12))


def test_every_expected_figure_but_the_slope_over_misplaced_bins_is_compared() -> None:
    compared = {*FIGURES, "slope10_right_closed"}

    assert all(compared.issuperset(of_set) for of_set in EXPECTED.values())


def test_ties_count_half_as_an_independent_library_counts_them() -> None:
    brier = report_on(*cells_of("nfl_elo_ties_half"), scratch=ScratchRule.HALF).brier

    assert brier == pytest.approx(EXPECTED["nfl_elo_ties_half"]["brier"], rel=0, abs=1e-12)


@pytest.mark.parametrize("rule", list(ScratchRule))
@pytest.mark.parametrize("name", [*SETS, "nfl_elo_ties_half"])
def test_both_decompositions_add_up_to_the_brier_score(name: str, rule: ScratchRule) -> None:
    assert_decompositions_add_up(report_on(*cells_of(name), scratch=rule))


@given(cells(), st.sampled_from(ScratchRule))
def test_smoothing_hardly_adds_to_errors(arrived: list[Cell], rule: ScratchRule) -> None:
    report = report_on(*arrived, scratch=rule)

    # An error beside forecasts of 0 or 100 % counts about twice, since these lie on the mirror.
    if report.smooth_ece is not None and report.ece is not None:
        assert report.smooth_ece <= 2.1 * report.ece + 1e-12


@given(cells(), st.sampled_from(ScratchRule))
def test_both_decompositions_of_anything_add_up(arrived: list[Cell], rule: ScratchRule) -> None:
    assert_decompositions_add_up(report_on(*arrived, scratch=rule))


def assert_decompositions_add_up(report: Report) -> None:
    murphy, corp = report.murphy, report.corp
    if report.brier is None:
        assert murphy is None
        assert corp is None
        return
    assert murphy is not None
    assert corp is not None
    assert abs(murphy.reliability - murphy.resolution + murphy.uncertainty - report.brier) <= 1e-15
    assert abs(corp.miscalibration - corp.discrimination + corp.uncertainty - report.brier) <= 1e-15


# --- Against naive arithmetic --------------------------------------------------------------------------


def decisions(arrived: list[Cell], rule: ScratchRule) -> list[tuple[date | None, Fraction, Fraction]]:
    """One (day, p, y) for each decision that counts."""
    return [
        (day, Fraction(percent, 100), Fraction(points, 2))
        for day, percent, outcome, n in arrived
        for points in [points_of(outcome, scratch=rule)]
        if points is not None
        for _ in range(n)
    ]


def mean(values: list[Fraction]) -> Fraction:
    return sum(values, Fraction(0)) / len(values)


def variance(values: list[Fraction]) -> Fraction:
    return mean([value**2 for value in values]) - mean(values) ** 2


def close(actual: float | None, exact: Fraction | float | None) -> bool:
    if actual is None or exact is None:
        return actual is None and exact is None
    return math.isclose(actual, exact, rel_tol=1e-12, abs_tol=1e-15)


@given(cells(), st.sampled_from(ScratchRule))
def test_figures_are_those_of_counting_decisions_one_by_one(arrived: list[Cell], rule: ScratchRule) -> None:
    each = decisions(arrived, rule)
    assume(each)
    p, y = [p for _, p, _ in each], [y for _, _, y in each]
    report = report_on(*arrived, scratch=rule)
    n = len(each)
    covariance = mean([p * y for _, p, y in each]) - mean(p) * mean(y)
    losses = [(p - y) ** 2 for _, p, y in each]
    by_p = {value: [y for _, p, y in each if p == value] for value in set(p)}
    unreliability = sum((len(of) * (value - mean(of)) ** 2 for value, of in by_p.items()), Fraction(0)) / n
    by_bin = {number: [(p, y) for _, p, y in each if min(int(p * 10), 9) == number] for number in range(10)}

    assert report.scored == n
    assert close(report.brier, mean(losses))
    assert close(report.skill, 1 - mean(losses) / variance(y) if variance(y) else None)
    assert report.murphy is not None
    assert close(report.murphy.reliability, unreliability)
    assert close(report.murphy.uncertainty, variance(y))
    assert close(report.slope, covariance / variance(p) if variance(p) else None)
    assert close(report.calibration_error, mean(p) - mean(y))
    assert close(report.win_rate, mean(y))
    assert close(report.predicted_win_rate, mean(p))
    assert close(report.sharpness, math.sqrt(variance(p)))
    assert close(report.ece, sum((len(of) * abs(value - mean(of)) for value, of in by_p.items()), Fraction(0)) / n)
    assert close(
        report.ece_binned,
        sum((abs(sum((p - y for p, y in of), Fraction(0))) for of in by_bin.values()), Fraction(0)) / n,
    )
    iid = variance(losses) * n / (n - 1) / n if n > 1 else None
    assert close(report.brier_se_iid, None if iid is None else math.sqrt(iid))


@given(cells(), st.sampled_from(ScratchRule))
def test_clustered_figures_are_those_of_adding_up_days(arrived: list[Cell], rule: ScratchRule) -> None:
    each = decisions(arrived, rule)
    days = sorted({day for day, *_ in each if day is not None})
    report = report_on(*arrived, scratch=rule)

    def clustered(terms: list[tuple[date | None, Fraction]]) -> tuple[Fraction, Fraction] | None:
        if len(days) < 2:
            return None
        overall = mean([term for _, term in terms])
        by_day = [[term for of, term in terms if of == day] for day in days]
        squares = sum(((sum(of, Fraction(0)) - overall * len(of)) ** 2 for of in by_day), Fraction(0))
        return overall, Fraction(len(days), len(days) - 1) * squares / len(terms) ** 2

    def t(terms: list[tuple[date | None, Fraction]]) -> float | None:
        estimate = clustered(terms)
        if estimate is None or not any(estimate):
            return None
        return estimate[0] / math.sqrt(estimate[1]) if estimate[1] else math.copysign(1e6, estimate[0])

    brier = clustered([(day, (p - y) ** 2) for day, p, y in each])
    mean_p = mean([p for _, p, _ in each]) if each else Fraction(0)
    assert close(report.brier_se, math.sqrt(brier[1]) if brier else None)
    assert close(report.calibration_error_t, t([(day, p - y) for day, p, y in each]))
    assert close(report.slope_t, t([(day, (p - mean_p) * (y - p)) for day, p, y in each]))
    if brier and brier[1] and report.brier_se_iid is not None:
        assert close(report.effective_n, len(each) * report.brier_se_iid**2 / brier[1])
    else:
        assert report.effective_n is None


@given(cells(), st.sampled_from(ScratchRule))
def test_auc_is_the_chance_that_a_win_was_forecast_higher(arrived: list[Cell], rule: ScratchRule) -> None:
    each = decisions(arrived, rule)
    # Each decision is a win of weight y and a loss of weight 1 - y.
    alike = Counter((p, y) for _, p, y in each)
    weights = [
        (wins * losses * win_y * (1 - loss_y), 1 if win_p > loss_p else Fraction(1, 2) if win_p == loss_p else 0)
        for ((win_p, win_y), wins), ((loss_p, loss_y), losses) in product(alike.items(), alike.items())
    ]
    pairs = sum((weight for weight, _ in weights), Fraction(0))
    expected = sum((weight * right for weight, right in weights), Fraction(0)) / pairs if pairs else None

    assert close(report_on(*arrived, scratch=rule).auc, expected)


@given(cells(), st.sampled_from(ScratchRule))
def test_the_isotonic_curve_is_the_largest_of_least_means(arrived: list[Cell], rule: ScratchRule) -> None:
    # The min-max formula: at k, the maximum over i <= k of the minimum over j >= k of the mean of i..j.
    each = decisions(arrived, rule)
    values = sorted({p for _, p, _ in each})
    of = {value: [y for _, p, y in each if p == value] for value in values}
    n, total = ({value: measure(ys) for value, ys in of.items()} for measure in (len, sum))

    def mean_between(first: Fraction, last: Fraction) -> Fraction:
        between = [value for value in values if first <= value <= last]
        return Fraction(sum(total[value] for value in between), sum(n[value] for value in between))

    curve = report_on(*arrived, scratch=rule).isotonic

    assert [point.p for point in curve] == [float(value) for value in values]
    for point, value in zip(curve, values, strict=True):
        fitted = max(
            min(mean_between(first, last) for last in values if last >= value) for first in values if first <= value
        )
        assert point.observed == float(fitted)
    assert [point.observed for point in curve] == sorted(point.observed for point in curve)


@given(cells(percents=st.integers(1, 99)), st.sampled_from(ScratchRule))
def test_the_cox_fit_leaves_no_score(arrived: list[Cell], rule: ScratchRule) -> None:
    # At the maximum of the likelihood, sum of (y - q) = 0 and sum of (y - q) logit p = 0.
    report, each = report_on(*arrived, scratch=rule), decisions(arrived, rule)
    logits = [math.log(p / (1 - p)) for _, p, _ in each]

    def residuals(intercept: float, slope: float) -> list[float]:
        return [
            float(y) - 1 / (1 + math.exp(-(intercept + slope * logit)))
            for (_, _, y), logit in zip(each, logits, strict=True)
        ]

    if report.cox is not None:
        left = residuals(report.cox.intercept, report.cox.slope)
        assert math.fsum(left) == pytest.approx(0, abs=1e-8)
        assert math.fsum(r * logit for r, logit in zip(left, logits, strict=True)) == pytest.approx(0, abs=1e-8)
    else:
        won, lost = [p for _, p, y in each if y > 0], [p for _, p, y in each if y < 1]
        assert not won or not lost or min(won) >= max(lost) or min(lost) >= max(won)
    if report.citl is not None:
        assert math.fsum(residuals(report.citl, 1.0)) == pytest.approx(0, abs=1e-8)
    else:
        assert len({y for _, _, y in each} - {Fraction(0)}) == 0 or all(y == 1 for _, _, y in each)


@given(st.data(), cells(), st.sampled_from(ScratchRule))
def test_any_order_of_arrival_gives_the_same_report(
    data: st.DataObject, arrived: list[Cell], rule: ScratchRule
) -> None:
    assert report_on(*data.draw(st.permutations(arrived)), scratch=rule) == report_on(*arrived, scratch=rule)


# --- What every report keeps to ------------------------------------------------------------------------


@given(
    cells(days=st.none() | st.just(FIRST_DAY) | st.just(FIRST_DAY + timedelta(days=1))), st.sampled_from(ScratchRule)
)
def test_every_figure_is_finite_and_in_its_range(arrived: list[Cell], rule: ScratchRule) -> None:
    report = report_on(*arrived, scratch=rule)

    assert all(math.isfinite(number) for number in numbers_in(report))
    shares = (
        report.brier,
        *(report.brier_ci95 or ()),
        *(report.brier_ci95_iid or ()),
        report.reliability_debiased,
        report.ece,
        report.ece_binned,
        report.smooth_ece,
        report.auc,
        report.win_rate,
        report.predicted_win_rate,
        *(number for bin_ in report.bins for number in (bin_.observed, bin_.consistency_low, bin_.consistency_high)),
        *numbers_in((report.murphy, report.corp, report.isotonic, report.outcome_distribution)),
    )
    assert all(-1e-15 <= share <= 1 + 1e-15 for share in shares if share is not None)
    assert all(-1 <= bound <= 1 for bound in report.calibration_error_ci_anytime or ())
    assert report.skill is None or report.skill <= 1
    assert report.sharpness is None or 0 <= report.sharpness <= 0.5
    assert report.log_loss is None or report.log_loss >= 0
    assert report.e_value is None or report.e_value >= 0
    assert sum(bin_.n for bin_ in report.bins) == report.scored
    assert report.rejected is (report.verdict is CalibrationVerdict.MISCALIBRATED)


def test_of_nothing_nothing_can_be_computed() -> None:
    report = report_on()

    said = {field.name: getattr(report, field.name) for field in fields(report)}
    told = {"counts", "scored", "scratch", "clipped", "bins", "isotonic"}
    judged = {"rejected", "in_doubt", "verdict", "reasons", "recommendations"}
    assert {name for name, value in said.items() if value is not None} == told | judged
    assert report.counts == Counts(resolved=0, win=0, loss=0, scratch=0, timeout=0)
    assert report.isotonic == ()
    assert report.verdict is CalibrationVerdict.INSUFFICIENT


@pytest.mark.parametrize("outcome", [WIN, LOSS])
def test_where_all_outcomes_are_alike_nothing_tells_winners_from_losers(outcome: OutcomeClass) -> None:
    report = report_on((FIRST_DAY, 40, outcome, 15), (FIRST_DAY, 60, outcome, 15))

    assert report.skill is None
    assert report.auc is None
    assert report.cox is None
    assert report.citl is None
    assert report.slope == 0
    assert report.murphy is not None
    assert report.murphy.uncertainty == 0


def test_where_all_forecasts_are_alike_there_is_no_slope() -> None:
    report = report_on((FIRST_DAY, 60, WIN, 15), (FIRST_DAY, 60, LOSS, 10))

    assert report.slope is None
    assert report.slope_binned is None
    assert report.cox is None
    assert report.auc == 0.5
    assert report.sharpness == 0
    # logit 15/25 = logit 0.6: level
    assert report.citl == pytest.approx(0, abs=1e-12)
    assert report.calibration_error == 0
    assert report.brier == pytest.approx(0.24, abs=1e-15)


def test_forecasts_in_one_bin_have_a_slope_but_no_binned_one() -> None:
    report = report_on((FIRST_DAY, 61, LOSS, 10), (FIRST_DAY, 62, WIN, 10))

    # From 61 to 62 %, outcomes rise from 0 to 100 %
    assert report.slope == pytest.approx(100)
    assert report.slope_binned is None


@pytest.mark.parametrize("rising", [True, False])
def test_wins_and_losses_that_a_threshold_separates_have_no_cox_fit(rising: bool) -> None:
    low, high = (LOSS, WIN) if rising else (WIN, LOSS)
    separated = [(FIRST_DAY, 40, low, 5), (FIRST_DAY, 50, low, 5), (FIRST_DAY, 50, high, 5), (FIRST_DAY, 60, high, 5)]

    assert report_on(*separated).cox is None
    assert report_on(*separated, (FIRST_DAY, 40, high, 1)).cox is not None


def test_a_nearly_separated_record_still_has_its_cox_fit() -> None:
    # 999,999 of a million won at 51 %, one of a million at 50 %, by hand: logit f = a + b logit p on both
    million = 1_000_000
    report = report_on(
        (FIRST_DAY, 50, WIN, 1),
        (FIRST_DAY, 50, LOSS, million - 1),
        (FIRST_DAY, 51, WIN, million - 1),
        (FIRST_DAY, 51, LOSS, 1),
    )
    logit = math.log(million - 1)

    assert report.cox is not None
    assert report.cox.intercept == pytest.approx(-logit, rel=1e-9)
    assert report.cox.slope == pytest.approx(2 * logit / math.log(51 / 49), rel=1e-9)


def test_certain_forecasts_that_came_true_keep_what_needs_no_logit() -> None:
    report = report_on((FIRST_DAY, 0, LOSS, 12), (FIRST_DAY, 100, WIN, 12))

    assert report.brier == 0
    assert report.skill == 1
    assert report.slope == 1
    assert report.log_loss == 0
    # Clipped at 0.5 %: -ln 0.995
    assert report.log_loss_clipped == pytest.approx(-math.log(0.995), rel=1e-14)
    assert report.clipped == 24
    assert report.e_value == 1
    assert report.cox is None
    assert report.citl is None
    assert report.spiegelhalter_z is None


def test_a_certain_forecast_that_failed_has_no_log_loss_and_all_the_evidence() -> None:
    report = report_on((FIRST_DAY, 100, LOSS, 1), (FIRST_DAY, 60, WIN, 30))

    assert report.log_loss is None
    assert report.log_loss_clipped is not None
    assert report.clipped == 1
    assert report.e_value == 1e300
    assert report.log_e_value is None


def test_the_debiased_reliability_takes_off_what_chance_adds() -> None:
    # At 20 %: 1 of 5, at 40 %: 4 of 10, at 90 %: 1 of 1. REL = 1 x 0.1^2 / 16. Chance: (1 x 4 / 20 + 4 x 6 / 90) / 16
    # is more than that, and reliability is never below 0.
    calibrated = report_on(
        (FIRST_DAY, 20, WIN, 1), (FIRST_DAY, 20, LOSS, 4), (FIRST_DAY, 40, WIN, 4), (FIRST_DAY, 40, LOSS, 6),
        (FIRST_DAY, 90, WIN, 1),
    )  # fmt: skip
    assert calibrated.murphy is not None
    assert calibrated.murphy.reliability == pytest.approx(0.01 / 16, rel=1e-12)
    assert calibrated.reliability_debiased == pytest.approx(0, abs=1e-15)

    # At 20 %: 4 of 10, at 90 %: 7 of 10. REL = (10 x 0.04 + 10 x 0.04) / 20 = 0.04; (24/90 + 21/90) / 20 = 0.025.
    # RES = 0.0225 and UNC = 0.55 x 0.45 = 0.2475 leave room for that: 0.0225 - 0.025 + 0.2475/19 > 0, and
    # 0.2475 + 0.2475/19 > 0.25: of the latter only 0.0025 / (0.2475/19) is made, 19 %.
    some = report_on(
        (FIRST_DAY, 20, WIN, 4), (FIRST_DAY, 20, LOSS, 6), (FIRST_DAY, 90, WIN, 7), (FIRST_DAY, 90, LOSS, 3)
    )
    assert some.reliability_debiased == pytest.approx(0.04 - 0.0025 / (0.2475 / 19) * 0.025, rel=1e-12)

    # At 20 %: 9 of 10, at 90 %: 9 of 10. REL = 10 x 0.49 / 20 = 0.245; (9/90 + 9/90) / 20 = 0.01, but RES = 0 leaves no
    # room for any of it.
    none = report_on(
        (FIRST_DAY, 20, WIN, 9), (FIRST_DAY, 20, LOSS, 1), (FIRST_DAY, 90, WIN, 9), (FIRST_DAY, 90, LOSS, 1)
    )
    assert none.reliability_debiased == pytest.approx(0.245, rel=1e-12)

    # At 20 %: 6 of 10, at 90 %: 10 of 10. REL = (10 x 0.16 + 10 x 0.01) / 20 = 0.085; 24/90 / 20 = 0.0133, all of it.
    whole = report_on((FIRST_DAY, 20, WIN, 6), (FIRST_DAY, 20, LOSS, 4), (FIRST_DAY, 90, WIN, 10))
    assert whole.reliability_debiased == pytest.approx(0.085 - 24 / 90 / 20, rel=1e-12)


# --- Bins ----------------------------------------------------------------------------------------------


def test_thirty_sixty_and_seventy_percent_land_in_bins_3_6_and_7() -> None:
    report = report_on((FIRST_DAY, 30, WIN, 1), (FIRST_DAY, 60, WIN, 2), (FIRST_DAY, 70, WIN, 4))

    assert [bin_.n for bin_ in report.bins] == [0, 0, 0, 1, 0, 0, 2, 4, 0, 0]
    assert [(bin_.lower, bin_.upper) for bin_ in report.bins] == [
        (0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9),
        (0.9, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("percent", range(101))
def test_every_percent_has_the_bin_of_its_tens(percent: int) -> None:
    assert bin_of(percent) == (9 if percent == 100 else int(f"{percent:02}"[0]))


def test_a_bin_holds_what_calibrated_forecasts_would_show() -> None:
    # Mean forecast (50 x 400 + 54 x 600) / 1000 = 52.4 %, 548 of 1000 won.
    # binomial(1000, 0.524): standard deviation sqrt(1000 x 0.524 x 0.476) = 15.79, quantiles 493 and 555
    bin_ = report_on(
        (FIRST_DAY, 50, WIN, 248), (FIRST_DAY, 50, LOSS, 152), (FIRST_DAY, 54, WIN, 300), (FIRST_DAY, 54, LOSS, 300)
    ).bins[5]

    assert bin_.mean_forecast == pytest.approx(0.524, rel=1e-15)
    assert bin_.observed == 0.548
    assert bin_.consistency_low == 0.493
    assert bin_.consistency_high == 0.555


def test_an_empty_bin_has_no_frequency() -> None:
    empty = report_on((FIRST_DAY, 30, WIN, 1)).bins[0]

    assert empty.n == 0
    assert empty.mean_forecast is None
    assert empty.observed is None
    assert empty.consistency_low is None
    assert empty.consistency_high is None


# --- Scratches and classes -----------------------------------------------------------------------------


def test_a_scratch_counts_as_the_caller_says() -> None:
    # At 60 %: 2 wins, 1 loss, 1 scratch
    arrived = [(FIRST_DAY, 60, WIN, 2), (FIRST_DAY, 60, LOSS, 1), (FIRST_DAY, 60, SCRATCH, 1)]
    briers = {rule: report_on(*arrived, scratch=rule).brier for rule in ScratchRule}

    assert briers[ScratchRule.ZERO] == pytest.approx((0.16 + 0.16 + 0.36 + 0.36) / 4, rel=1e-14)
    assert briers[ScratchRule.HALF] == pytest.approx((0.16 + 0.16 + 0.36 + 0.01) / 4, rel=1e-14)
    assert briers[ScratchRule.ONE] == pytest.approx((0.16 + 0.16 + 0.36 + 0.16) / 4, rel=1e-14)
    assert briers[ScratchRule.EXCLUDE] == pytest.approx((0.16 + 0.16 + 0.36) / 3, rel=1e-14)


def test_a_scratch_of_nothing_is_a_loss_and_a_scratch_of_one_a_win() -> None:
    rest = [(FIRST_DAY, 60, WIN, 9), (FIRST_DAY, 40, LOSS, 7)]

    for rule, same in ((ScratchRule.ZERO, LOSS), (ScratchRule.ONE, WIN)):
        scratched = report_on(*rest, (FIRST_DAY, 60, SCRATCH, 5), scratch=rule)
        plain = report_on(*rest, (FIRST_DAY, 60, same, 5), scratch=rule)
        assert list(numbers_in((scratched.murphy, scratched.corp, scratched.cox, scratched.isotonic))) == list(
            numbers_in((plain.murphy, plain.corp, plain.cox, plain.isotonic))
        )


def test_excluded_scratches_are_resolved_but_not_scored() -> None:
    report = report_on((FIRST_DAY, 60, WIN, 15), (FIRST_DAY, 60, SCRATCH, 10), scratch=ScratchRule.EXCLUDE)

    assert report.counts.resolved == 25
    assert report.scored == 15
    assert report.verdict is CalibrationVerdict.INSUFFICIENT


def test_outcomes_are_distributed_over_four_classes() -> None:
    report = report_on(
        (FIRST_DAY, 60, WIN, 4), (FIRST_DAY, 60, LOSS, 3), (FIRST_DAY, 50, SCRATCH, 2), (FIRST_DAY, 50, TIMEOUT, 1)
    )

    assert report.counts == Counts(resolved=10, win=4, loss=3, scratch=2, timeout=1)
    assert report.outcome_distribution == OutcomeDistribution(win=0.4, loss=0.3, scratch=0.2, timeout=0.1)
    assert report.win_rate == 0.4
    assert report.predicted_win_rate == pytest.approx((7 * 0.6 + 3 * 0.5) / 10, rel=1e-15)


# --- The verdict ---------------------------------------------------------------------------------------


def record(days: int, *of_day: tuple[int, OutcomeClass, int]) -> list[Cell]:
    """The same outcomes every day, but for one win more at 50 % every other day, so that days differ."""
    return [
        cell
        for number in range(days)
        for day in [FIRST_DAY + timedelta(days=number)]
        for cell in [
            *((day, percent, outcome, n) for percent, outcome, n in of_day),
            (day, 50, WIN if number % 2 else LOSS, 1),
        ]
    ]


def test_an_honest_record_is_not_rejected_however_high_its_brier_score() -> None:
    # Says 50 % and wins half of the time: a Brier score of 0.25, which the first system would not accept.
    report = calibration_report(Tally.of(record(30, (50, WIN, 5), (50, LOSS, 5))))

    assert report.brier == 0.25
    assert report.verdict is CalibrationVerdict.CALIBRATED
    assert report.meets_seed_targets is False


def test_too_high_a_level_is_miscalibrated() -> None:
    report = calibration_report(Tally.of(record(30, (80, WIN, 5), (80, LOSS, 5))))

    assert report.e_value is not None
    assert report.e_value >= 20
    assert report.calibration_error_t is not None
    assert report.calibration_error_t > 2.58
    assert report.verdict is CalibrationVerdict.MISCALIBRATED
    assert report.recommendations[0].startswith("Lower stated probabilities by about 27 points")


def test_too_wide_a_spread_is_miscalibrated_though_its_level_is_right() -> None:
    # Says 90 and 10 % and wins half of the time on either side: on average that is right.
    report = calibration_report(Tally.of(record(30, (90, WIN, 3), (90, LOSS, 3), (10, WIN, 3), (10, LOSS, 3))))

    assert report.calibration_error == pytest.approx(0, abs=1e-15)
    assert report.calibration_error_t == pytest.approx(0, abs=1e-12)
    assert report.slope_t is not None
    assert report.slope_t < -2.58
    assert report.verdict is CalibrationVerdict.MISCALIBRATED
    assert any("overconfident" in reason for reason in report.reasons)


def test_one_bad_day_is_no_proof() -> None:
    # 40 losses at 70 % on one day are overwhelming if independent; days say no more than: that was one day.
    report = calibration_report(
        Tally.of([*record(10, (70, WIN, 7), (70, LOSS, 3)), (FIRST_DAY + timedelta(days=10), 70, LOSS, 40)])
    )

    assert report.e_value is not None
    assert report.e_value >= 20
    assert report.verdict is CalibrationVerdict.CALIBRATED
    assert "would reject them if outcomes were independent" in report.reasons[0]


@pytest.mark.parametrize(("n", "verdict"), [(19, "insufficient"), (20, "calibrated")])
def test_twenty_decisions_are_enough_to_judge(n: int, verdict: str) -> None:
    report = report_on((FIRST_DAY, 50, WIN, n))

    assert report.verdict == verdict
    assert report.brier == 0.25


def test_how_many_decisions_are_enough_may_be_set() -> None:
    tally = Tally.of([(FIRST_DAY, 50, WIN, 29)])

    assert calibration_report(tally, min_decisions=30).verdict is CalibrationVerdict.INSUFFICIENT
    assert calibration_report(tally, min_decisions=29).verdict is CalibrationVerdict.CALIBRATED


@pytest.mark.parametrize(
    ("wins_at_10", "wins_at_90", "meets"),
    [
        # Of 10 each. Slope = (f90 - f10) / 0.8, calibration error = 0.5 - (f10 + f90) / 2
        (1, 9, True),  # Brier 0.09, slope 1, error 0
        (2, 9, True),  # Brier 0.13, slope 0.875, error -0.05
        (2, 8, False),  # slope 0.75
        (0, 10, False),  # slope 1.25
        (0, 8, True),  # Brier 0.09, slope 1, error 0.1
        (0, 7, False),  # Brier 0.13, slope 0.875, error 0.15
        (4, 10, False),  # Brier (4 x 0.81 + 6 x 0.01 + 10 x 0.01) / 20 = 0.17, slope 0.75
    ],
)
def test_the_targets_of_the_first_system_are_told(wins_at_10: int, wins_at_90: int, meets: bool) -> None:
    report = report_on(
        (FIRST_DAY, 10, WIN, wins_at_10),
        (FIRST_DAY, 10, LOSS, 10 - wins_at_10),
        (FIRST_DAY, 90, WIN, wins_at_90),
        (FIRST_DAY, 90, LOSS, 10 - wins_at_90),
    )

    assert report.meets_seed_targets is meets


def test_targets_that_cannot_be_held_to_are_not_met_by_default() -> None:
    # Three wins at 95 %: no slope, hence not known; three losses: a Brier score of 0.9, hence not met.
    assert report_on((FIRST_DAY, 95, WIN, 3)).meets_seed_targets is None
    assert report_on((FIRST_DAY, 95, LOSS, 3)).meets_seed_targets is False


# --- Conviction ----------------------------------------------------------------------------------------


def test_conviction_falls_into_the_buckets_of_the_first_system() -> None:
    edges = [(FIRST_DAY, percent, LOSS, 1) for percent in (0, 30, 31, 50, 51, 70, 71, 100)]
    buckets = conviction_buckets(bucket_sums(Tally.of([*edges, (FIRST_DAY, 60, WIN, 2)])))

    assert [(b.lower, b.upper, b.n) for b in buckets] == [(0, 30, 2), (31, 50, 2), (51, 70, 4), (71, 100, 2)]
    assert buckets[2].win_rate == 0.5
    # (51 + 70 + 2 x 60) / 4 = 60.25
    assert buckets[2].mean_forecast == 0.6025


def test_an_empty_bucket_has_no_win_rate() -> None:
    bucket = conviction_buckets(bucket_sums(Tally(by_percent={60: ClassCounts(win=1)})))[0]

    assert bucket.n == 0
    assert bucket.win_rate is None
    assert bucket.mean_forecast is None


# --- Speed ---------------------------------------------------------------------------------------------


def test_a_report_on_every_percent_of_ten_million_decisions_is_complete(
    record_property: Callable[[str, object], None],
) -> None:
    tally = Tally.of(
        (FIRST_DAY + timedelta(days=day), percent, outcome, 800 + 7 * percent * (outcome is WIN) + 13 * (day % 5))
        for day in range(30)
        for percent in range(1, 100)
        for outcome in OutcomeClass
    )
    took = []
    for _ in range(10):
        began = time.process_time()
        calibration_report(tally)
        took.append(time.process_time() - began)

    report = calibration_report(tally)
    assert all(getattr(report, field.name) is not None for field in fields(report))
    record_property(
        "counts",
        f"calibration report on {report.counts.resolved} decisions in 99 rows and 30 days: "
        f"{1000 * min(took):.1f} ms at best, {1000 * sorted(took)[5]:.1f} ms in the middle, of the processor's time",
    )
