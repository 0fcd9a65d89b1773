"""Tests of what a record proves."""

import math
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence import (
    Estimate,
    anytime_reach,
    anytime_t_limit,
    binomial_interval,
    clustered_boldness,
    clustered_brier,
    clustered_calibration_error,
    clustered_tilt,
    e_value,
    even_days,
    iid_brier,
    log_e_by_percent,
    log_e_value,
    normal_equivalent,
    spiegelhalter_z,
    student_t_quantile,
)
from app.domain.outcome import OutcomeClass
from app.domain.tally import Scored, ScratchRule, Tally, score
from tests.domain.forecast_sets import Cell, cells

WIN, LOSS, SCRATCH = OutcomeClass.WIN, OutcomeClass.LOSS, OutcomeClass.SCRATCH
MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, 2) + timedelta(days=days) for days in range(3))


def scored(*arrived: Cell, scratch: ScratchRule = ScratchRule.ZERO) -> Scored:
    return score(Tally.of(arrived), scratch=scratch)


# --- Student's t ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    [
        (0.975, 1, 12.706204736174694),
        (0.975, 2, 4.302652729749462),
        (0.975, 3, 3.1824463052837078),
        (0.975, 4, 2.7764451051977934),
        (0.975, 5, 2.5705818356363146),
        (0.975, 10, 2.228138851986274),
        (0.975, 29, 2.045229642132703),
        (0.975, 30, 2.0422724563012378),
        (0.975, 100, 1.9839715185235518),
        (0.975, 200, 1.9718962236339088),
        (0.975, 201, 1.971836506779859),
        (0.975, 1000, 1.9623390808264083),
        (0.975, 10**9, 1.959963984540054 + 2.37e-9),  # z + (z^3 + z) / (4 x 10^9)
        (0.995, 1, 63.656741162871526),
        (0.995, 7, 3.4994832973504924),
        (0.9, 12, 1.356217334023205),
        (0.6, 3, 0.2766706623326898),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(probability: float, degrees: int, quantile: float) -> None:
    assert student_t_quantile(probability, degrees=degrees) == pytest.approx(quantile, abs=1e-9)
    assert student_t_quantile(1 - probability, degrees=degrees) == pytest.approx(-quantile, abs=1e-9)


@pytest.mark.parametrize("probability", [0.0005, 0.025, 0.25, 0.75, 0.95, 0.9995])
def test_quantiles_of_t_with_1_and_2_degrees_have_closed_forms(probability: float) -> None:
    # tan(pi (q - 1/2)), and (2q - 1) sqrt(2 / (4 q (1 - q)))
    cauchy = math.tan(math.pi * (probability - 0.5))
    of_two = (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))

    assert student_t_quantile(probability, degrees=1) == pytest.approx(cauchy, rel=1e-11)
    assert student_t_quantile(probability, degrees=2) == pytest.approx(of_two, rel=1e-11)


def test_half_of_t_lies_below_0() -> None:
    assert student_t_quantile(0.5, degrees=7) == 0
    assert student_t_quantile(0.5, degrees=700) == pytest.approx(0, abs=1e-15)


def test_the_two_ways_to_compute_t_meet_where_one_takes_over() -> None:
    # The quantile falls by about (z^3 + z) / (4 x 200^2) = 6e-5 from 200 to 201 degrees, ever more slowly.
    quantiles = [student_t_quantile(0.975, degrees=degrees) for degrees in range(198, 204)]
    falls = [earlier - later for earlier, later in pairwise(quantiles)]

    assert falls == sorted(falls, reverse=True)
    assert falls[0] == pytest.approx(falls[-1], rel=0.06)


@pytest.mark.parametrize(("probability", "degrees"), [(0.975, 0), (0.0004, 5), (0.9996, 5), (math.nan, 5)])
def test_no_other_quantile_is_given(probability: float, degrees: int) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        student_t_quantile(probability, degrees=degrees)


# --- Binomial ------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 100))
def test_binomial_quantiles_are_those_of_the_exact_distribution(n: int, percent: int) -> None:
    p, at_or_below, quantiles = Fraction(percent, 100), Fraction(0), []
    for count in range(n + 1):
        at_or_below += math.comb(n, count) * p**count * (1 - p) ** (n - count)
        quantiles.append((count, at_or_below))
    low, high = (
        next(count for count, mass in quantiles if mass >= tail) for tail in (Fraction("0.025"), Fraction("0.975"))
    )

    assert binomial_interval(n=n, p=percent / 100) == (low, high)


@pytest.mark.parametrize(
    ("n", "p", "interval"),
    [
        (10, 0.0, (0, 0)),
        (10, 1.0, (10, 10)),
        # From scipy.stats.binom.ppf
        (1_000, 0.5, (469, 531)),
        (123_456, 0.013, (1_527, 1_683)),
        (1_000_000, 0.5, (499_020, 500_980)),
    ],
)
def test_binomial_quantiles_of_many_outcomes(n: int, p: float, interval: tuple[int, int]) -> None:
    assert binomial_interval(n=n, p=p) == interval


@given(st.integers(100, 5_000), st.integers(1, 999))
def test_quantiles_of_many_outcomes_are_those_that_masses_add_up_to(n: int, thousandths: int) -> None:
    p = thousandths / 1_000
    wide = 10_000 * n

    assert binomial_interval(n=n, p=p) == summed_quantiles(n=n, p=p)
    assert binomial_interval(n=wide, p=p) == summed_quantiles(n=wide, p=p)


def summed_quantiles(*, n: int, p: float) -> tuple[int, int]:
    """By adding up masses from ten standard deviations below the mean to ten above."""
    sd = math.sqrt(n * p * (1 - p))
    first, last = max(0, math.floor(n * p - 10 * sd)), min(n, math.ceil(n * p + 10 * sd))
    counts = np.arange(first + 1, last + 1)
    steps = np.log(n - counts + 1) - np.log(counts) + math.log(p / (1 - p))
    logs = np.concatenate([[0.0], np.cumsum(steps)])
    at_or_below = np.cumsum(np.exp(logs - logs.max()))
    low, high = (first + int(np.argmax(at_or_below >= tail * at_or_below[-1])) for tail in (0.025, 0.975))
    return low, high


# --- Standard errors -----------------------------------------------------------------------------------


def test_errors_are_clustered_by_day() -> None:
    # Losses: 0.36 on Monday; 0.16 and 0.16 on Tuesday. B = 0.68 / 3; S - B n = 0.36 - B and 0.32 - 2 B = -(0.36 - B)
    # Var = 2/1 x 2 (0.36 - 0.68/3)^2 / 3^2 = 4 x (0.4/3)^2 / 9
    estimate = clustered_brier(scored((MONDAY, 40, WIN, 1), (TUESDAY, 40, LOSS, 2)))

    assert estimate is not None
    assert estimate.mean == pytest.approx(0.68 / 3, rel=1e-15)
    assert estimate.standard_error == pytest.approx(2 * (0.4 / 3) / 3, rel=1e-15)
    assert estimate.degrees == 1
    # t(0.975; 1) = 12.7062
    low, high = estimate.interval()
    assert high - low == pytest.approx(2 * 12.706204736174694 * 0.8 / 9, rel=1e-12)


def test_iid_errors_take_each_outcome_for_itself() -> None:
    # Losses 0.36, 0.16, 0.16: mean 0.68/3, variance = (sum of squares - 3 mean^2) / 2
    estimate = iid_brier(scored((MONDAY, 40, WIN, 1), (TUESDAY, 40, LOSS, 2)))
    variance = (0.36**2 + 2 * 0.16**2 - 3 * (0.68 / 3) ** 2) / 2

    assert estimate is not None
    assert estimate.standard_error == pytest.approx(math.sqrt(variance / 3), rel=1e-14)
    assert estimate.degrees == 2


def test_a_scratch_of_a_half_has_the_loss_of_a_half() -> None:
    # (0.4 - 0.5)^2 = 0.01, 0.4^2 = 0.16, 0.6^2 = 0.36
    estimate = iid_brier(
        scored((MONDAY, 40, WIN, 1), (MONDAY, 40, LOSS, 1), (MONDAY, 40, SCRATCH, 1), scratch=ScratchRule.HALF)
    )
    mean = 0.53 / 3
    variance = (0.36**2 + 0.16**2 + 0.01**2 - 3 * mean**2) / 2

    assert estimate is not None
    assert estimate.mean == pytest.approx(mean, rel=1e-15)
    assert estimate.standard_error == pytest.approx(math.sqrt(variance / 3), rel=1e-14)


def test_the_level_is_tested_by_day() -> None:
    # p - y: 0.7 - 1 on Monday, 0.7 and 0.7 on Tuesday: mean 1.1/3, and S - B n = -0.3 - 1.1/3 = -2/3 and +2/3
    estimate = clustered_calibration_error(scored((MONDAY, 70, WIN, 1), (TUESDAY, 70, LOSS, 2)))

    assert estimate is not None
    assert estimate.mean == pytest.approx(1.1 / 3, rel=1e-15)
    assert estimate.standard_error == pytest.approx(2 * (2 / 3) / 3, rel=1e-15)
    assert estimate.t == pytest.approx(1.1 / 3 / (4 / 9), rel=1e-15)


def test_the_spread_is_tested_by_day() -> None:
    # Mean forecast 0.5. (p - 0.5)(y - p): Monday 0.4 x 0.1 + (-0.4)(-0.1) = 0.08, Tuesday 0.4 x (-0.9) + (-0.4)(0.9)
    # = -0.72. Mean -0.64 / 4 = -0.16; S - B n = 0.08 + 0.32 = 0.4 and -0.4; Var = 2 x 2 x 0.16 / 16 = 0.04
    estimate = clustered_tilt(
        scored((MONDAY, 90, WIN, 1), (MONDAY, 10, LOSS, 1), (TUESDAY, 90, LOSS, 1), (TUESDAY, 10, WIN, 1))
    )

    assert estimate is not None
    assert estimate.mean == pytest.approx(-0.16, rel=1e-15)
    assert estimate.standard_error == pytest.approx(0.2, rel=1e-15)


def test_boldness_is_tested_by_day() -> None:
    # (p - 0.5)(p - y): Monday 0.4 (0.9 - 1) + (-0.4)(0.1 - 0) = -0.08; Tuesday 0.4 x 0.9 + (-0.1)(0.4 - 1) = 0.42.
    # Mean 0.34 / 4 = 0.085; S - B n = -0.08 - 0.17 = -0.25 and 0.25; Var = 2 x 2 x 0.25^2 / 16 = 0.125^2
    estimate = clustered_boldness(
        scored((MONDAY, 90, WIN, 1), (MONDAY, 10, LOSS, 1), (TUESDAY, 90, LOSS, 1), (TUESDAY, 40, WIN, 1))
    )

    assert estimate is not None
    assert estimate.mean == pytest.approx(0.085, rel=1e-14)
    assert estimate.standard_error == pytest.approx(0.125, rel=1e-14)


@pytest.mark.parametrize(
    "arrived",
    [
        [],
        [(MONDAY, 40, WIN, 5)],  # one day
        [(MONDAY, 40, WIN, 5), (None, 40, LOSS, 5)],  # a day unknown
    ],
)
def test_without_two_known_days_nothing_is_clustered(arrived: list[Cell]) -> None:
    assert clustered_brier(scored(*arrived)) is None
    assert clustered_calibration_error(scored(*arrived)) is None
    assert clustered_tilt(scored(*arrived)) is None
    assert clustered_boldness(scored(*arrived)) is None


@pytest.mark.parametrize("arrived", [[], [(MONDAY, 40, WIN, 1)]])
def test_one_outcome_has_no_standard_error(arrived: list[Cell]) -> None:
    assert iid_brier(scored(*arrived)) is None


def test_what_neither_varies_nor_errs_has_no_t() -> None:
    assert Estimate(mean=0.0, standard_error=0.0, degrees=4).t is None
    assert Estimate(mean=0.0, standard_error=0.1, degrees=4).t == 0
    assert Estimate(mean=0.1, standard_error=0.05, degrees=4).t == 2


def test_what_errs_by_the_same_every_day_has_the_largest_t() -> None:
    assert Estimate(mean=0.1, standard_error=0.0, degrees=4).t == 1e6
    assert Estimate(mean=-0.1, standard_error=0.0, degrees=4).t == -1e6
    assert Estimate(mean=0.1, standard_error=1e-300, degrees=4).t == 1e6


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 63.657), (2, 9.9248), (4, 4.6041), (9, 3.2498), (29, 2.7564), (99, 2.6264), (999, 2.5808)]
)
def test_a_t_of_few_days_is_worth_less(degrees: int, t: float) -> None:
    # One in 200 lies beyond each of these, as beyond 2.5758 of a normal distribution. Wallace's formula is a little
    # below on two days, and exact to three digits from ten days on.
    within = 0.006 if degrees >= 9 else 0.09

    assert normal_equivalent(t, degrees=degrees) == pytest.approx(2.5758, rel=within)
    assert normal_equivalent(t, degrees=degrees) <= 2.576
    assert normal_equivalent(-t, degrees=degrees) == -normal_equivalent(t, degrees=degrees)


@pytest.mark.parametrize(("sizes", "even"), [([], 0), ([7], 1), ([5, 5, 5], 3), ([200, 2, 2], 204**2 / 40_008)])
def test_days_count_as_so_many_of_one_size(sizes: list[int], even: float) -> None:
    arrived = [(MONDAY + timedelta(days=day), 40, LOSS, n) for day, n in enumerate(sizes)]

    assert even_days(scored(*arrived)) == pytest.approx(even, rel=1e-15)
    assert even_days(scored(*arrived, (None, 40, LOSS, 1))) == 0


def test_a_t_of_many_days_is_what_it_is() -> None:
    assert normal_equivalent(3.0, degrees=10**9) == pytest.approx(3.0, rel=1e-7)
    assert normal_equivalent(0.0, degrees=1) == 0


def test_the_limit_of_a_t_that_is_looked_at_every_day_is_its_formula() -> None:
    # D = 60: (60 + 15) / 60 = 1.25; ln(75 / (15 x 0.025^2)) = ln 8000
    assert anytime_t_limit(60) == pytest.approx(math.sqrt(1.25 * math.log(8_000)), rel=1e-15)


def test_honest_days_seldom_pass_the_limit_at_any_look() -> None:
    # 2,000 records of 400 days, each day one normal sum of known size, looked at from the second day on.
    sums = np.random.default_rng(20261120).standard_normal((2_000, 400)).cumsum(axis=1)
    days = np.arange(1, 401)
    limits = np.array([anytime_t_limit(of) for of in days.tolist()])
    beyond = (np.abs(sums / np.sqrt(days)) > limits)[:, 1:].any(axis=1)

    assert 0.001 <= beyond.mean() <= 0.025


# --- e-values ------------------------------------------------------------------------------------------


def test_a_first_outcome_proves_nothing() -> None:
    # B(51, 50) / B(50, 50) / 0.5 = (50/100) / 0.5 = 1
    log_e = log_e_value(scored((MONDAY, 50, WIN, 1)))

    assert log_e == pytest.approx(0, abs=1e-12)
    assert e_value(log_e) == pytest.approx(1, rel=1e-12)


def test_every_outcome_on_one_side_is_evidence() -> None:
    # Three wins at 50 %: (50 x 51 x 52) / (100 x 101 x 102) / 0.5^3 = 1060800 / 1030200
    assert e_value(log_e_by_percent(scored((MONDAY, 50, WIN, 3)))) == pytest.approx(1_060_800 / 1_030_200, rel=1e-12)


def test_evidence_of_distinct_forecasts_multiplies_percent_by_percent() -> None:
    some, others = [(MONDAY, 30, WIN, 9), (MONDAY, 30, LOSS, 4)], [(MONDAY, 80, LOSS, 7)]
    together = log_e_by_percent(scored(*some, *others))
    alone = [log_e_by_percent(scored(*part)) for part in (some, others)]

    assert together == pytest.approx(sum(alone), rel=1e-12)


def product_of_ratios(wins: dict[int, float], losses: dict[int, float], *, shift: float, slope: float) -> float:
    """q / p for each win and (1 - q) / (1 - p) for each loss, where q / (1 - q) = e^shift (p / (1 - p))^slope."""
    product = 1.0
    for percent in (30, 60, 80):
        p = percent / 100
        odds = math.exp(shift) * (p / (1 - p)) ** slope
        q = odds / (1 + odds)
        product *= (q / p) ** wins[percent] * ((1 - q) / (1 - p)) ** losses[percent]
    return product


def test_the_e_value_is_the_mean_of_one_by_percent_one_by_slope_and_one_by_shift() -> None:
    # A scratch counts half of a win and half of a loss; what was certain and came true counts as nothing.
    found = scored(
        (MONDAY, 30, WIN, 9),
        (MONDAY, 30, LOSS, 14),
        (MONDAY, 60, SCRATCH, 1),
        (MONDAY, 60, LOSS, 4),
        (MONDAY, 80, WIN, 3),
        (MONDAY, 80, LOSS, 5),
        (MONDAY, 100, WIN, 2),
        (MONDAY, 0, LOSS, 2),
        scratch=ScratchRule.HALF,
    )
    wins, losses = {30: 9.0, 60: 0.5, 80: 3.0}, {30: 14.0, 60: 4.5, 80: 5.0}
    slopes = [
        product_of_ratios(wins, losses, shift=0.0, slope=slope) for slope in (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
    ]
    shifts = [product_of_ratios(wins, losses, shift=shift, slope=1.0) for shift in (-0.8, -0.4, -0.2, 0.2, 0.4, 0.8)]
    three = (math.exp(log_e_by_percent(found)), sum(slopes) / 7, sum(shifts) / 6)

    assert e_value(log_e_value(found)) == pytest.approx(sum(three) / 3, rel=1e-12)


@pytest.mark.parametrize(("said", "came"), [((2, 8), 5), ((3, 7), 4)])
def test_what_is_wrong_alike_at_every_percent_adds_up(said: tuple[int, int], came: int) -> None:
    # At each of 20 to 29 and of 70 to 79 %, of ten as many win: all are drawn to the middle, or all are too high.
    low, high = said
    arrived = [
        (MONDAY, percent, outcome, n)
        for tens in (low, high)
        for percent in range(10 * tens, 10 * tens + 10)
        for outcome, n in (
            (WIN, came if said == (2, 8) else tens - 2),
            (LOSS, 10 - (came if said == (2, 8) else tens - 2)),
        )
    ]
    together, by_percent = e_value(log_e_value(scored(*arrived))), e_value(log_e_by_percent(scored(*arrived)))

    assert together is not None
    assert by_percent is not None
    assert together > 100 * by_percent


def test_right_forecasts_of_several_percents_expect_an_e_value_of_1() -> None:
    # Summed over all ways in which 5 at 30 % and 5 at 80 % can end.
    expected = 0.0
    for low, high in product(range(6), repeat=2):
        log_e = log_e_value(
            scored(
                (MONDAY, 30, WIN, low),
                (MONDAY, 30, LOSS, 5 - low),
                (MONDAY, 80, WIN, high),
                (MONDAY, 80, LOSS, 5 - high),
            )
        )
        assert log_e is not None
        ways = math.comb(5, low) * math.comb(5, high)
        expected += ways * 0.3**low * 0.7 ** (5 - low) * 0.8**high * 0.2 ** (5 - high) * math.exp(log_e)

    assert expected == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("percent", [1, 30, 50, 93])
def test_a_right_forecast_expects_an_e_value_of_1(percent: int) -> None:
    # By the law of total probability: sum over w of P(w) e(w) = 1.
    n, p = 12, percent / 100
    expected = 0.0
    for wins in range(n + 1):
        e = e_value(log_e_value(scored((MONDAY, percent, WIN, wins), (MONDAY, percent, LOSS, n - wins))))
        assert e is not None
        expected += math.comb(n, wins) * p**wins * (1 - p) ** (n - wins) * e

    assert expected == pytest.approx(1, rel=1e-11)


@given(st.integers(1, 99), st.integers(0, 20), st.integers(0, 20), st.floats(0, 1))
def test_outcomes_of_a_half_never_make_evidence_of_right_forecasts(
    percent: int, wins: int, losses: int, share: float
) -> None:
    # One more outcome, of expectation p but 1/2 with chance c <= 2 min(p, 1 - p): the e-value is expected to fall.
    def e_with(*more: Cell) -> float:
        so_far = (MONDAY, percent, WIN, wins), (MONDAY, percent, LOSS, losses)
        log_e = log_e_value(scored(*so_far, *more, scratch=ScratchRule.HALF))
        return 1.0 if log_e is None else math.exp(log_e)

    p = percent / 100
    c = 2 * min(p, 1 - p) * share
    expected = (
        (p - c / 2) * e_with((MONDAY, percent, WIN, 1))
        + c * e_with((MONDAY, percent, SCRATCH, 1))
        + (1 - p - c / 2) * e_with((MONDAY, percent, LOSS, 1))
    )

    assert expected <= e_with() * (1 + 1e-11)


@pytest.mark.parametrize(
    ("percent", "outcome", "log_e"),
    [(0, LOSS, 0.0), (100, WIN, 0.0), (0, WIN, math.inf), (100, LOSS, math.inf)],
)
def test_what_was_certain_proves_nothing_or_everything(percent: int, outcome: OutcomeClass, log_e: float) -> None:
    assert log_e_value(scored((MONDAY, percent, outcome, 3))) == log_e


def test_no_e_value_overflows() -> None:
    log_e = log_e_value(scored((MONDAY, 1, WIN, 1_000_000)))

    assert log_e is not None
    assert log_e > 1_000_000
    assert e_value(log_e) == 1e300
    assert e_value(math.inf) == 1e300
    assert e_value(-5_000.0) == 0


def test_without_outcomes_there_is_no_e_value() -> None:
    assert log_e_value(scored()) is None
    assert e_value(None) is None


# --- The rest ------------------------------------------------------------------------------------------


def test_the_anytime_interval_is_as_wide_as_its_formula() -> None:
    # n = 100: 100/4 + 25 = 50; ln(50 / (25 / 400)) = ln 800 = 6.6846; sqrt(50 x 6.6846) / 100 = 0.18282
    assert anytime_reach(100) == pytest.approx(math.sqrt(50 * math.log(800)) / 100, rel=1e-15)
    assert anytime_reach(0) is None


def test_spiegelhalters_z_weighs_errors_by_their_distance_from_the_middle() -> None:
    # At 80 %: 3 of 4 won. (3 - 3.2)(1 - 1.6) = 0.12; variance 4 x 0.36 x 0.16 = 0.2304, its root 0.48
    assert spiegelhalter_z(scored((MONDAY, 80, WIN, 3), (MONDAY, 80, LOSS, 1))) == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize(
    "arrived",
    [
        [],
        [(MONDAY, 50, WIN, 5)],  # nothing lies off the middle
        [(MONDAY, 80, WIN, 5), (MONDAY, 100, WIN, 1)],  # what is certain has no variance
        [(MONDAY, 80, WIN, 5), (MONDAY, 0, WIN, 1)],
    ],
)
def test_spiegelhalters_z_is_not_always_defined(arrived: list[Cell]) -> None:
    assert spiegelhalter_z(scored(*arrived)) is None


@given(cells(), st.sampled_from(ScratchRule))
def test_an_interval_holds_its_mean(arrived: list[Cell], rule: ScratchRule) -> None:
    for estimate in (
        iid_brier(scored(*arrived, scratch=rule)),
        clustered_brier(scored(*arrived, scratch=rule)),
        clustered_calibration_error(scored(*arrived, scratch=rule)),
        clustered_tilt(scored(*arrived, scratch=rule)),
        clustered_boldness(scored(*arrived, scratch=rule)),
    ):
        if estimate is not None:
            low, high = estimate.interval()
            assert low <= estimate.mean <= high
