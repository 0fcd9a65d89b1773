"""Weigh what a record proves: standard errors, intervals, and tests that may be looked at after every outcome.

* Decisions of one day share the market's day, so errors are clustered by day: with S_d the sum of a day's terms,
  n_d their number and B the mean of all N, Var = D/(D - 1) x sum of (S_d - B n_d)^2 / N^2, on D - 1 degrees of
  freedom. The iid error is given beside it; N x iid variance / clustered variance is the effective sample size.
* An ordinary test that is looked at after every outcome sooner or later cries wolf. The e-process does so in at most
  1 of 20 honest records ever when an e-value of 20 is asked, but counts on independent outcomes; those of one
  day are not. A verdict therefore asks for both: e >= 20 and a day-clustered |t| > 2.58. That |t|, too, is looked at
  every day; the largest of three must therefore be beyond a limit that holds at every look at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.tally import PERCENTS, Row, Scored

Floats: TypeAlias = NDArray[np.float64]

CONFIDENCE: Final = 0.95
E_PRIOR: Final = 100
"""Weight, in outcomes, of the prior that the e-process puts around each forecast."""
TRUE_SLOPES: Final = (0.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""What the e-process of the slope bets on: outcomes as likely as logistic(slope x logit p)."""
TRUE_SHIFTS: Final = (-0.8, -0.4, -0.2, 0.2, 0.4, 0.8)
"""What the e-process of the level bets on: outcomes as likely as logistic(shift + logit p)."""
LARGEST_E: Final = 1e300
LARGEST_T: Final = 1e6
NORMAL_QUANTILE: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
ANYTIME_RHO: Final = 25.0
ANYTIME_ALPHA: Final = 0.05
DAYS_RHO: Final = 15
"""The number of days around which the limit of a t that is looked at every day is lowest for what it must keep out."""
DAYS_ALPHA: Final = 0.025
TAIL_SDS: Final = 8
"""Standard deviations on either side of a binomial's mean beyond which lies less than 1e-14 of it."""
NORMAL_VARIANCE: Final = 100.0
"""Variance from which a binomial's quantiles are found by their expansion around the normal one."""
EXPANSION_ERROR: Final = 0.01
"""More than ten times what that expansion errs by: at a variance of v less than 0.1/v."""
MANY_DEGREES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Hold a mean with its standard error and the degrees of freedom of that."""

    mean: float
    standard_error: float
    degrees: int

    @property
    def t(self) -> float | None:
        """Return the mean in standard errors, at most 1e6 either way; None when there is neither.

        What is wrong by the same amount every day (always 70 %, never a win) has no error at all, and is no less wrong.
        """
        if not self.mean and not self.standard_error:
            return None
        if abs(self.mean) >= LARGEST_T * self.standard_error:
            return math.copysign(LARGEST_T, self.mean)
        return self.mean / self.standard_error

    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval by Student's t."""
        reach = student_t_quantile((1 + CONFIDENCE) / 2, degrees=self.degrees) * self.standard_error
        return self.mean - reach, self.mean + reach


def iid_brier(scored: Scored) -> Estimate | None:
    """Estimate the Brier score as if outcomes were independent. None below two decisions."""
    if (n := scored.n) < 2:
        return None
    total = squares = 0
    for row in scored.rows:
        of_row = _losses(row)
        total += sum(count * loss for count, loss in of_row)
        squares += sum(count * loss**2 for count, loss in of_row)
    variance = (n * squares - total**2) / (10**8 * n * (n - 1))
    return Estimate(mean=total / (10_000 * n), standard_error=math.sqrt(variance / n), degrees=n - 1)


def clustered_brier(scored: Scored) -> Estimate | None:
    """Estimate the Brier score with days as clusters. None below two days, or when days are not known."""
    return None if scored.days is None else _clustered([(day.n, day.losses) for day in scored.days], unit=10_000)


def clustered_calibration_error(scored: Scored) -> Estimate | None:
    """Estimate mean forecast less mean outcome with days as clusters."""
    return None if scored.days is None else _clustered([(day.n, day.errors) for day in scored.days], unit=100)


def clustered_tilt(scored: Scored) -> Estimate | None:
    """Estimate the covariance of forecast and y - p with days as clusters: (slope - 1) x the variance of forecasts."""
    if scored.days is None:
        return None
    n, percents = scored.n, scored.percents
    return _clustered(
        [(day.n, percents * day.errors - n * day.tilts) for day in scored.days], unit=10_000 * n if n else 1
    )


def clustered_boldness(scored: Scored) -> Estimate | None:
    """Estimate the mean of (p - 1/2)(p - y) with days as clusters: above 0 when forecasts lie too far from even odds.

    Who is too bold is wrong by the level and by the spread at once, and by either only a little.
    """
    if scored.days is None:
        return None
    return _clustered([(day.n, day.tilts - 50 * day.errors) for day in scored.days], unit=10_000)


def even_days(scored: Scored) -> float:
    """Return as how many days of one size they count: N^2 / sum of n_d^2 (Kish 1965). 0 without known days.

    Where one day holds most decisions the mean is nearly that day's own; what it leaves to the others says little of
    how days differ, however many they are (Carter, Schnepel and Steigerwald 2017).
    """
    squares = sum(day.n**2 for day in scored.days or ())
    return scored.n**2 / squares if squares else 0.0


def normal_equivalent(t: float, *, degrees: float) -> float:
    """Return the normal z that is about as unlikely as a t with so many degrees of freedom (Wallace 1959)."""
    return math.copysign(
        (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(t * t / degrees)),
        t,
    )


def anytime_t_limit(days: int) -> float:
    """Compute what |t| of honest days, in normal terms, stays within at every look at once.

    sqrt((D + r) / D x ln((D + r) / (r a^2))) after D days, with r = 15, a = 2.5 % (Robbins 1970; by clusters as in
    Waudby-Smith et al. 2024). a is half of 5 %, for three t are asked, and they are alike.
    """
    return math.sqrt((days + DAYS_RHO) / days * math.log((days + DAYS_RHO) / (DAYS_RHO * DAYS_ALPHA**2)))


def log_e_value(scored: Scored) -> float | None:
    """Compute the logarithm of the e-value against "every forecast is right"; infinite when it cannot be.

    It is the mean of three e-values, each with an eye for another way to be wrong, and so is an e-value itself: each
    percent by itself, one slope for all of them, one shift for all of them. None without decisions.
    """
    if not scored.rows:
        return None
    by_percent = log_e_by_percent(scored)
    if math.isinf(by_percent):
        return math.inf
    return _log_mean([by_percent, _log_e_of(scored, _BY_SLOPE), _log_e_of(scored, _BY_SHIFT)])


def log_e_by_percent(scored: Scored) -> float:
    """Compute the logarithm of the e-value that takes each percent by itself; infinite when one cannot be right.

    By percent p, with s = 100, w of n won: B(sp + w, s(1 - p) + n - w) / [B(sp, s(1 - p)) p^w (1 - p)^(n - w)]. An
    outcome of 1/2 counts as half of each, which by convexity only weakens the evidence. A forecast of 0 or 100 % that
    came true proves nothing; one that did not refutes it.
    """
    terms = []
    for row in scored.rows:
        won, lost = row.points / 2, (2 * row.n - row.points) / 2
        if row.percent in {0, 100}:
            if lost if row.percent else won:
                return math.inf
            continue
        terms += [
            _log_beta(row.percent + won, E_PRIOR - row.percent + lost),
            -_log_beta(row.percent, E_PRIOR - row.percent),
            -won * math.log(row.percent / 100),
            -lost * math.log((100 - row.percent) / 100),
        ]
    return math.fsum(terms)


def e_value(log_e: float | None) -> float | None:
    """Return the e-value, at most 1e300."""
    if log_e is None:
        return None
    return math.exp(log_e) if log_e < math.log(LARGEST_E) else LARGEST_E


def anytime_reach(n: int) -> float | None:
    """Compute the half width of the 95 % interval of a mean of n errors that holds at every look at once.

    sqrt((n/4 + r) ln((n/4 + r) / (r a^2))) / n with r = 25, a = 5 % (Robbins 1970), for independent outcomes only.
    """
    if not n:
        return None
    variance = n / 4 + ANYTIME_RHO
    return math.sqrt(variance * math.log(variance / (ANYTIME_RHO * ANYTIME_ALPHA**2))) / n


def spiegelhalter_z(scored: Scored) -> float | None:
    """Compute Spiegelhalter's (1986) z: sum of (y - p)(1 - 2p) in standard deviations of its own.

    None when no forecast differs from 50 %, and when one says 0 or 100 %: what is certain has no variance.
    """
    if _says_certain(scored):
        return None
    variance = sum(row.n * (50 - row.percent) ** 2 * row.percent * (100 - row.percent) for row in scored.rows)
    excess = sum((50 * row.points - row.percent * row.n) * (50 - row.percent) for row in scored.rows)
    return excess / math.sqrt(variance) if variance else None


def binomial_interval(*, n: int, p: float) -> tuple[int, int]:
    """Return the 2.5 and 97.5 % quantiles of binomial(n, p): the least counts with at least that much at or below.

    Drawing n forecasts of a bin with replacement and an outcome for each, as Bröcker and Smith (2007) do, gives
    exactly binomial(n, mean forecast). However many they are it takes as long: of many the quantiles are expanded
    around the normal one, and masses are added up only where that leaves a doubt.
    """
    if p <= 0 or p >= 1:
        return (0, 0) if p <= 0 else (n, n)
    expanded = _expanded_binomial(n, p)
    return _summed_binomial(n, p) if expanded is None else expanded


def _expanded_binomial(n: int, p: float) -> tuple[int, int] | None:
    """Expand both quantiles by Cornish and Fisher (1938), None where the expansion may round to a wrong count.

    To the variance and the fourth cumulant goes Sheppard's correction for whole numbers, so that the quantile of the
    counts is the least count no less than x - 1/2, x being that of the smooth curve through their distribution.
    """
    variance = n * p * (1 - p)
    if variance < NORMAL_VARIANCE:
        return None
    corrected = variance - 1 / 12
    sd = math.sqrt(corrected)
    skewness = variance * (1 - 2 * p) / sd**3
    excess = (variance * (1 - 6 * p * (1 - p)) + 1 / 120) / corrected**2
    counts = []
    for z in (-NORMAL_QUANTILE, NORMAL_QUANTILE):
        terms = z + skewness * (z**2 - 1) / 6 + excess * (z**3 - 3 * z) / 24 - skewness**2 * (2 * z**3 - 5 * z) / 36
        least = n * p + sd * terms - 0.5
        if abs(least - round(least)) < EXPANSION_ERROR:
            return None
        counts.append(math.ceil(least))
    return counts[0], counts[1]


def _summed_binomial(n: int, p: float) -> tuple[int, int]:
    """Add the masses up, each from the one before."""
    reach = TAIL_SDS * math.sqrt(n * p * (1 - p)) + 40
    first, last = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
    counts = np.arange(first + 1, last + 1)
    log_odds = math.log(p) - math.log1p(-p)
    relative = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - counts) / counts) + log_odds)])
    shares = np.cumsum(np.exp(relative - relative.max()))
    low, high = np.searchsorted(shares / shares[-1], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return first + int(low), first + int(high)


@lru_cache(maxsize=4096)
def student_t_quantile(probability: float, *, degrees: int) -> float:
    """Return the quantile of Student's t with whole degrees of freedom, within 1e-9.

    Up to 200 degrees by Newton's method on the closed form of its distribution (Abramowitz and Stegun 26.7.3-4),
    above by the expansion around the normal quantile (26.7.5).

    Raises:
        ValueError: the probability does not lie in [0.0005, 0.9995], or there are no degrees of freedom.
    """
    if not (0.0005 <= probability <= 0.9995 and degrees >= 1):
        raise ValueError(f"no quantile of Student's t at {probability} with {degrees} degrees of freedom")
    z = NormalDist().inv_cdf(probability)
    if degrees > MANY_DEGREES:
        return _expanded_t(z, degrees)
    return _exact_t(probability, degrees)


def _expanded_t(z: float, degrees: int) -> float:
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1_482 * z**5 - 1_920 * z**3 - 945 * z) / 92_160,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))


def _exact_t(probability: float, degrees: int) -> float:
    """Solve for the angle whose tangent is t / sqrt(degrees); the distribution is concave in it above 0."""
    central = abs(2 * probability - 1)
    density = 2 / math.exp(_log_beta(0.5, degrees / 2))
    angle = 0.0
    for _ in range(100):
        step = (central - _central_mass(angle, degrees)) / (density * math.cos(angle) ** (degrees - 1))
        angle += step
        if abs(step) < 1e-15:
            break
    return math.copysign(math.sqrt(degrees) * math.tan(angle), probability - 0.5)


def _central_mass(angle: float, degrees: int) -> float:
    """Return P(|T| <= sqrt(degrees) tan angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _clustered(days: Sequence[tuple[int, int]], *, unit: int) -> Estimate | None:
    """Estimate the mean of terms from each day's number and sum of them, sums in 1/unit."""
    count = len(days)
    if count < 2:
        return None
    n, total = sum(of for of, _ in days), sum(of for _, of in days)
    # The sum of (S_d N - S n_d)^2, multiplied out: integers lose nothing by it.
    squares = (
        n**2 * sum(of_day**2 for _, of_day in days)
        - 2 * n * total * sum(n_day * of_day for n_day, of_day in days)
        + total**2 * sum(n_day**2 for n_day, _ in days)
    )
    variance = count * squares / ((count - 1) * unit**2 * n**4)
    return Estimate(mean=total / (unit * n), standard_error=math.sqrt(variance), degrees=count - 1)


def _losses(row: Row) -> list[tuple[int, int]]:
    """List how many decisions of a row had which loss, in ten-thousandths.

    Points are 2, 1 or 0: with sum of v = 2 w + h and of v^2 = 4 w + h, w won and h counted half.
    """
    won = (row.square_points - row.points) // 2
    half = row.points - 2 * won
    return [
        (won, (100 - row.percent) ** 2),
        (half, (50 - row.percent) ** 2),
        (row.n - won - half, row.percent**2),
    ]


def _says_certain(scored: Scored) -> bool:
    return any(row.percent in {0, 100} for row in scored.rows)


def _likelihood_ratios(truths: Sequence[tuple[float, float]]) -> Floats:
    """Tabulate ln(q / p) and ln((1 - q) / (1 - p)) by percent, outcome and truth, q = logistic(shift + slope logit p).

    Where a forecast is 0 or 100 % all are 0: every truth agrees with what is certain.
    """
    p = np.array(PERCENTS)[1:-1, np.newaxis] / 100
    shifts, slopes = np.array(truths).T
    logits = shifts + slopes * np.log(p / (1 - p))
    table = np.zeros((len(PERCENTS), 2, len(truths)))
    table[1:-1, 0] = -np.logaddexp(0, -logits) - np.log(p)
    table[1:-1, 1] = -np.logaddexp(0, logits) - np.log1p(-p)
    return table


_BY_SLOPE: Final = _likelihood_ratios([(0.0, slope) for slope in TRUE_SLOPES])
_BY_SHIFT: Final = _likelihood_ratios([(shift, 1.0) for shift in TRUE_SHIFTS])


def _log_e_of(scored: Scored, table: Floats) -> float:
    """Compute ln of the mean over truths of the product of q / p for each win and (1 - q) / (1 - p) for each loss."""
    percents, half_points = [row.percent for row in scored.rows], [(row.points, 2 * row.n) for row in scored.rows]
    points, of = np.array(half_points, dtype=np.float64).T
    counts = np.stack([points, of - points], axis=1) / 2
    # Added up row by row, as a product of matrices is not: equal counts give equal figures.
    return _log_mean((table[percents] * counts[:, :, np.newaxis]).sum(axis=(0, 1)).tolist())


def _log_mean(logs: Sequence[float]) -> float:
    largest = max(logs)
    return largest + math.log(math.fsum(math.exp(log - largest) for log in logs) / len(logs))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
