"""Report how honest a decider is, from counts alone.

The rules of the report:
  * all figures come from a tally: at most 101 rows of percent by outcome, and a few sums by day. No decision is read
    again, and any order of arrival gives the same report;
  * a figure that cannot be computed is None, never 0 and never NaN;
  * below 20 resolved decisions there are figures, but no judgement: `insufficient`;
  * the verdict asks whether forecasts are right, not whether they are sharp. The level of the Brier score never enters
    it: an honest trader who says 45 to 65 % cannot come below about 0.244. What the first system asked for is told
    beside it, in `meets_seed_targets`;
  * `miscalibrated` needs an e-value of at least 20, which may be looked at after every outcome but trusts outcomes to
    be independent, and a day-clustered |t| beyond 2.58, which does not. Two clustered t are asked, because forecasts
    go wrong in two ways: by their level (mean forecast less mean outcome) and by their spread (covariance of forecast
    and error). The larger of them, or of the t of both at once, must besides be beyond what honest days reach when
    one may look every day. `calibrated` means no more than that these did not reject;
  * a slope below 1 is OVERconfident: forecasts lie further apart than outcomes do.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from app.domain.calibration_verdict import CalibrationVerdict, Findings, day_tests, reasons, recommendations
from app.domain.evidence import (
    Estimate,
    anytime_reach,
    clustered_brier,
    e_value,
    iid_brier,
    log_e_value,
    spiegelhalter_z,
)
from app.domain.logistic import Cox, fit_calibration_in_the_large, fit_cox
from app.domain.outcome import OutcomeClass
from app.domain.reliability import (
    Bin,
    IsotonicPoint,
    binned_calibration_error,
    binned_slope,
    calibration_error,
    expected_calibration_error,
    isotonic_curve,
    pooled_bins,
    reliability_bins,
    slope,
    smooth_calibration_error,
)
from app.domain.scores import (
    CLIP_PERCENT,
    Corp,
    Murphy,
    Pool,
    area_under_curve,
    brier_score,
    brier_skill,
    clipped,
    corp,
    debiased_reliability,
    isotonic_blocks,
    log_loss,
    murphy,
    pooled,
    sharpness,
)
from app.domain.tally import (
    CONVICTION_BUCKETS,
    BucketSums,
    ClassCounts,
    DaySums,
    PercentSums,
    ScratchRule,
    Tally,
    points_of,
    score,
)

__all__ = [
    "Bin",
    "CalibrationVerdict",
    "ClassCounts",
    "ConvictionBucket",
    "Corp",
    "Counts",
    "Cox",
    "DaySums",
    "IsotonicPoint",
    "Murphy",
    "OutcomeDistribution",
    "PercentSums",
    "Report",
    "ScratchRule",
    "Tally",
    "calibration_report",
    "conviction_buckets",
]

MIN_DECISIONS: Final = 20
SEED_BRIER: Final = 0.20
SEED_SLOPE: Final = (0.8, 1.2)
SEED_CALIBRATION_ERROR: Final = 0.10

Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Hold how many decisions were resolved, by class, whatever the scratch rule."""

    resolved: int
    win: int
    loss: int
    scratch: int
    timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeDistribution:
    """Hold the share of each class among all resolved decisions."""

    win: float
    loss: float
    scratch: float
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvictionBucket:
    """Hold one of the first system's buckets of conviction, both ends included, in percent."""

    lower: int
    upper: int
    n: int
    win_rate: float | None
    mean_forecast: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Hold every calibration figure of a tally, None where it cannot be computed.

    `scored` counts the decisions that figures come from: fewer than `counts.resolved` when scratches are excluded.
    `brier_ci95` and `brier_se` are clustered by day, `..._iid` are not, and `effective_n` is n x iid variance /
    clustered variance. `slope` is Cov(p, y) / Var(p), `slope_binned` the first system's over ten bins.
    `calibration_error` is mean forecast less mean outcome, `calibration_error_t` its day-clustered t, `slope_t` that of
    slope - 1. `calibration_error_ci_anytime` and `e_value` trust outcomes to be independent. `e_value` stops at 1e300;
    `log_e_value` is None where a forecast of 0 or 100 % was wrong. `log_loss` is None where it is infinite;
    `log_loss_clipped` clips `clipped` forecasts at 0.5 %. `rejected` says that the verdict is `miscalibrated`,
    `in_doubt` that this look by itself would reject.
    """

    counts: Counts
    scored: int
    scratch: ScratchRule
    brier: float | None
    brier_ci95: Interval | None
    brier_ci95_iid: Interval | None
    brier_se: float | None
    brier_se_iid: float | None
    skill: float | None
    murphy: Murphy | None
    corp: Corp | None
    reliability_debiased: float | None
    slope: float | None
    slope_binned: float | None
    slope_t: float | None
    calibration_error: float | None
    calibration_error_ci_anytime: Interval | None
    calibration_error_t: float | None
    ece: float | None
    ece_binned: float | None
    smooth_ece: float | None
    log_loss: float | None
    log_loss_clipped: float | None
    clipped: int
    cox: Cox | None
    citl: float | None
    spiegelhalter_z: float | None
    auc: float | None
    sharpness: float | None
    e_value: float | None
    log_e_value: float | None
    effective_n: float | None
    bins: tuple[Bin, ...]
    isotonic: tuple[IsotonicPoint, ...]
    outcome_distribution: OutcomeDistribution | None
    win_rate: float | None
    predicted_win_rate: float | None
    meets_seed_targets: bool | None
    rejected: bool
    in_doubt: bool
    verdict: CalibrationVerdict
    reasons: tuple[str, ...]
    recommendations: tuple[str, ...]


def calibration_report(
    tally: Tally, *, scratch: ScratchRule = ScratchRule.ZERO, min_decisions: int = MIN_DECISIONS
) -> Report:
    """Compute every figure of a tally, and judge it."""
    scored = score(tally, scratch=scratch)
    bins, blocks = pooled_bins(scored), isotonic_blocks(scored.rows)
    brier, brier_iid = clustered_brier(scored), iid_brier(scored)
    log_e, by_day = log_e_value(scored), day_tests(scored)
    whole, slope_binned = pooled(scored.rows), binned_slope(bins)
    findings = Findings(
        n=scored.n,
        min_decisions=min_decisions,
        e_value=e_value(log_e),
        calibration_error=calibration_error(scored),
        slope=slope(scored),
        by_day=by_day,
        skill=brier_skill(scored),
        certain=sum(row.n for row in scored.rows if row.percent in {0, 100}),
    )
    return Report(
        counts=_counts(tally.counts),
        scored=scored.n,
        scratch=scratch,
        brier=brier_score(scored),
        brier_ci95=_within(0, 1, None if brier is None else brier.interval()),
        brier_ci95_iid=_within(0, 1, None if brier_iid is None else brier_iid.interval()),
        brier_se=None if brier is None else brier.standard_error,
        brier_se_iid=None if brier_iid is None else brier_iid.standard_error,
        skill=findings.skill,
        murphy=murphy(scored),
        corp=corp(scored, blocks),
        reliability_debiased=debiased_reliability(scored),
        slope=findings.slope,
        slope_binned=slope_binned,
        slope_t=by_day.spread_t,
        calibration_error=findings.calibration_error,
        calibration_error_ci_anytime=_anytime_interval(findings.calibration_error, scored.n),
        calibration_error_t=by_day.level_t,
        ece=expected_calibration_error(scored),
        ece_binned=binned_calibration_error(bins),
        smooth_ece=smooth_calibration_error(scored),
        log_loss=log_loss(scored),
        log_loss_clipped=log_loss(scored, clip_percent=CLIP_PERCENT),
        clipped=clipped(scored),
        cox=fit_cox(scored.rows),
        citl=fit_calibration_in_the_large(scored.rows),
        spiegelhalter_z=spiegelhalter_z(scored),
        auc=area_under_curve(scored),
        sharpness=sharpness(scored),
        e_value=findings.e_value,
        log_e_value=None if log_e is None or math.isinf(log_e) else log_e,
        effective_n=_effective_n(scored.n, brier_iid, brier),
        bins=reliability_bins(bins),
        isotonic=isotonic_curve(blocks),
        outcome_distribution=_distribution(tally.counts),
        win_rate=whole.observed if scored.n else None,
        predicted_win_rate=whole.mean_forecast if scored.n else None,
        meets_seed_targets=_meets_seed_targets(
            brier=brier_score(scored), slope=slope_binned, calibration_error=findings.calibration_error
        ),
        rejected=findings.rejected,
        in_doubt=findings.in_doubt,
        verdict=findings.verdict,
        reasons=reasons(findings),
        recommendations=recommendations(findings),
    )


def conviction_buckets(
    sums: Iterable[BucketSums], *, scratch: ScratchRule = ScratchRule.ZERO
) -> tuple[ConvictionBucket, ...]:
    """Score the sums of conviction by the first system's buckets: 0-30, 31-50, 51-70, 71-100."""
    pools = {of.lower: _pool(of, scratch=scratch) for of in sums}
    return tuple(
        ConvictionBucket(
            lower=lower,
            upper=upper,
            n=pool.n,
            win_rate=pool.observed if pool.n else None,
            mean_forecast=pool.mean_forecast if pool.n else None,
        )
        for lower, upper in CONVICTION_BUCKETS
        for pool in [pools.get(lower, Pool(n=0, percents=0, points=0))]
    )


def _pool(sums: BucketSums, *, scratch: ScratchRule) -> Pool:
    """Apply a scratch rule to a bucket."""
    n = percents = points = 0
    for outcome in OutcomeClass:
        if (v := points_of(outcome, scratch=scratch)) is not None:
            of_class = sums.of(outcome)
            n += of_class.n
            percents += of_class.percents
            points += v * of_class.n
    return Pool(n=n, percents=percents, points=points)


def _counts(counts: ClassCounts) -> Counts:
    return Counts(
        resolved=counts.resolved, win=counts.win, loss=counts.loss, scratch=counts.scratch, timeout=counts.timeout
    )


def _distribution(counts: ClassCounts) -> OutcomeDistribution | None:
    if not (n := counts.resolved):
        return None
    return OutcomeDistribution(
        win=counts.win / n, loss=counts.loss / n, scratch=counts.scratch / n, timeout=counts.timeout / n
    )


def _within(low: float, high: float, interval: Interval | None) -> Interval | None:
    return None if interval is None else (max(low, interval[0]), min(high, interval[1]))


def _anytime_interval(error: float | None, n: int) -> Interval | None:
    reach = anytime_reach(n)
    return None if error is None or reach is None else _within(-1, 1, (error - reach, error + reach))


def _effective_n(n: int, iid: Estimate | None, clustered: Estimate | None) -> float | None:
    if iid is None or clustered is None or not clustered.standard_error:
        return None
    return n * (iid.standard_error / clustered.standard_error) ** 2


def _meets_seed_targets(*, brier: float | None, slope: float | None, calibration_error: float | None) -> bool | None:
    """Hold a record to what the first system asked for. None when a figure that decides is missing."""
    met = (
        None if brier is None else brier <= SEED_BRIER,
        None if slope is None else SEED_SLOPE[0] <= slope <= SEED_SLOPE[1],
        None if calibration_error is None else abs(calibration_error) <= SEED_CALIBRATION_ERROR,
    )
    return False if False in met else None if None in met else True
