"""Fit a decider's stated probabilities to its record, and say when what was fitted may be used.

The rules:
  * Platt's two parameters on the logit scale (Platt 1999; Cox 1958), by maximum likelihood, on the earlier 70 % of the
    outcomes by time. A day is never split. The later outcomes are held out to try what was fitted;
  * a calibrator needs 100 resolved outcomes on 10 days, and a slope above 0: one that turned forecasts upside down
    would size a trade the larger, the less likely its decider thinks it;
  * it must gain in Brier score on the held-out outcomes, by more than 2 standard errors clustered by day;
  * off -> shadow asks besides that the whole record rejects the stated p_win, as the verdict `miscalibrated` does. A
    calibrator is tried at every new outcome, and z > 2 that is asked so often is found by chance in about half of all
    honest records; the tests in that verdict may be looked at as often as one likes. What is not known to be wrong
    is not mended;
  * shadow -> on when it still gains after 20 more outcomes. Each trial fits anew; one that fails turns it off.

An isotonic calibrator would need 2,000 effective outcomes and is not offered.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.calibration_verdict import day_tests, is_rejected
from app.domain.evidence import Estimate, e_value, log_e_value
from app.domain.logistic import fit_cox
from app.domain.standing import (
    FURTHEST_LOGIT,
    UNCALIBRATED,
    CalibratorState,
    PlattCalibrator,
    SizingStanding,
    standing_from_json,
    standing_to_json,
)
from app.domain.tally import PERCENTS, DayScore, Row, Scored

__all__ = [
    "FURTHEST_LOGIT",
    "UNCALIBRATED",
    "CalibratorFit",
    "CalibratorStanding",
    "CalibratorState",
    "FitCell",
    "PlattCalibrator",
    "SizingStanding",
    "fit_calibrator",
    "next_standing",
    "standing_from_json",
    "standing_to_json",
]

MIN_RESOLVED: Final = 100
MIN_DAYS: Final = 10
MIN_MORE: Final = 20
"""Outcomes that a calibrator stays in shadow for."""
EARLIER_PERCENT: Final = 70
LEAST_Z: Final = 2.0

FitCell: TypeAlias = tuple[date, int, int, int]
"""A UTC day, a whole percent from 1 to 99, the wins and the number of the decisions that forecast it."""
Counts: TypeAlias = NDArray[np.int64]
"""A number of decisions by day (rows, in order of time) and percent (columns 0 to 100)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratorFit:
    """Hold a fit and its trial: fitted on the earlier outcomes, judged on the later ones.

    `gain_brier` is the Brier score of the stated p less that of the calibrated one on the held-out outcomes
    (positive: calibrating helps), `gain_z` its day-clustered z; None where they cannot be computed. `rejected` tells
    whether the whole record rejects the stated p. `refusal` says why there is no calibrator; None when there is one.
    """

    calibrator: PlattCalibrator | None
    fitted_on: int
    held_out: int
    gain_brier: float | None
    gain_z: float | None
    rejected: bool = False
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratorStanding:
    """Hold the state of a decider's calibrator, why it is so, and the outcomes resolved when it was entered."""

    state: CalibratorState
    calibrator: PlattCalibrator | None
    reason: str
    resolved: int


def fit_calibrator(cells: Iterable[FitCell]) -> CalibratorFit:
    """Fit a calibrator on the earlier outcomes and try it on the later ones; cells may come in any order.

    Raises:
        ValueError: a percent does not lie in 1..99, or the wins of a cell not in 0..n.
    """
    n, wins = _by_day(cells)
    resolved, days = int(n.sum()), len(n)
    split = _split(n)
    rejected = _is_rejected(n, wins)
    fitted_on = int(n[:split].sum())
    held_out = resolved - fitted_on

    def refuse(refusal: str) -> CalibratorFit:
        return CalibratorFit(
            calibrator=None,
            fitted_on=fitted_on,
            held_out=held_out,
            gain_brier=None,
            gain_z=None,
            rejected=rejected,
            refusal=refusal,
        )

    if resolved < MIN_RESOLVED or days < MIN_DAYS:
        return refuse(
            f"{resolved} outcomes on {days} days are resolved; a calibrator needs {MIN_RESOLVED} on {MIN_DAYS} days."
        )
    cox = fit_cox(_rows(n[:split], wins[:split]))
    if cox is None:
        return refuse(f"The earlier {fitted_on} outcomes have no fit: outcomes or forecasts are alike, or separated.")
    if cox.slope <= 0:
        return refuse(
            f"The slope fitted on {fitted_on} outcomes is {cox.slope:.2f}: higher forecasts won no more often."
        )
    calibrator = PlattCalibrator(intercept=cox.intercept, slope=cox.slope)
    gain = _gain(calibrator, n[split:], wins[split:])
    return CalibratorFit(
        calibrator=calibrator,
        fitted_on=fitted_on,
        held_out=held_out,
        gain_brier=None if gain is None else gain.mean,
        gain_z=None if gain is None else gain.t,
        rejected=rejected,
    )


def next_standing(
    *, previous: CalibratorStanding, fit: CalibratorFit, resolved: int, min_decisions: int = MIN_MORE
) -> CalibratorStanding:
    """Decide how a calibrator stands after a trial, `resolved` outcomes being known; the reason is a sentence."""
    failure = _failure(fit) or _nothing_to_mend(previous, fit)
    if failure is not None:
        was_off = previous.state is CalibratorState.OFF
        return CalibratorStanding(
            state=CalibratorState.OFF,
            calibrator=None,
            reason=failure,
            resolved=previous.resolved if was_off else resolved,
        )
    gained = _trial(fit)
    if previous.state is CalibratorState.OFF:
        return CalibratorStanding(
            state=CalibratorState.SHADOW,
            calibrator=fit.calibrator,
            reason=f"The record rejects the stated p_win, and {gained}: tried in shadow.",
            resolved=resolved,
        )
    waited = resolved - previous.resolved
    if previous.state is CalibratorState.SHADOW and waited >= min_decisions:
        return CalibratorStanding(
            state=CalibratorState.ON,
            calibrator=fit.calibrator,
            reason=f"After {waited} more outcomes in shadow, {gained}: turned on.",
            resolved=resolved,
        )
    return CalibratorStanding(
        state=previous.state,
        calibrator=fit.calibrator,
        reason=f"It stays {previous.state}: {gained}.",
        resolved=previous.resolved,
    )


def _failure(fit: CalibratorFit) -> str | None:
    """Say why a trial failed; None when it did not."""
    if fit.calibrator is None:
        return fit.refusal or "No calibrator was fitted."
    if fit.gain_z is None:
        return f"The gain on the later {fit.held_out} outcomes cannot be tested."
    if not fit.gain_z > LEAST_Z:
        return f"Too little is gained: {_trial(fit)}; z must be above {LEAST_Z:g}."
    return None


def _nothing_to_mend(previous: CalibratorStanding, fit: CalibratorFit) -> str | None:
    if previous.state is CalibratorState.OFF and not fit.rejected:
        return f"The record does not reject the stated p_win, although {_trial(fit)}."
    return None


def _trial(fit: CalibratorFit) -> str:
    return (
        f"calibrating as the earlier {fit.fitted_on} outcomes say gains {fit.gain_brier:.5f} of Brier score on the "
        f"later {fit.held_out} (z {fit.gain_z:.2f} by days)"
    )


def _by_day(cells: Iterable[FitCell]) -> tuple[Counts, Counts]:
    """Sum cells by day and percent: all decisions, and the wins."""
    kept = [cell for cell in cells if cell[3]]
    if strange := [cell for cell in kept if not (0 < cell[1] < 100 and 0 <= cell[2] <= cell[3])]:
        raise ValueError(f"no forecasts of 1 to 99 % with so many wins: {strange[0]}")
    days = {day: row for row, day in enumerate(sorted({day for day, *_ in kept}))}
    n, wins = (np.zeros((len(days), len(PERCENTS)), dtype=np.int64) for _ in range(2))
    at = ([days[day] for day, *_ in kept], [percent for _, percent, *_ in kept])
    np.add.at(n, at, [counted for *_, counted in kept])
    np.add.at(wins, at, [won for _, _, won, _ in kept])
    return n, wins


def _split(n: Counts) -> int:
    """Give the number of days, from the first, that hold at most 70 % of all decisions."""
    by_now = n.sum(axis=1).cumsum()
    return int(np.count_nonzero(100 * by_now <= EARLIER_PERCENT * n.sum()))


def _rows(n: Counts, wins: Counts) -> tuple[Row, ...]:
    totals, won = n.sum(axis=0), wins.sum(axis=0)
    return tuple(
        Row(percent=percent, n=int(totals[percent]), points=2 * int(won[percent]), square_points=4 * int(won[percent]))
        for percent in np.flatnonzero(totals).tolist()
    )


def _is_rejected(n: Counts, wins: Counts) -> bool:
    """Ask of the whole record what the verdict asks of a report."""
    percents = np.arange(len(PERCENTS))
    # Per decision k - 50 v, with v = 2 points for a win: k - 100 when won, else k.
    errors = n @ percents - 100 * wins.sum(axis=1)
    tilts = n @ percents**2 - 100 * (wins @ percents)
    losses = n @ percents**2 + wins @ ((100 - percents) ** 2 - percents**2)
    scored = Scored(
        rows=_rows(n, wins),
        days=tuple(
            DayScore(n=of_day, errors=error, losses=loss, tilts=tilt)
            for of_day, error, loss, tilt in zip(
                n.sum(axis=1).tolist(), errors.tolist(), losses.tolist(), tilts.tolist(), strict=True
            )
        ),
    )
    return is_rejected(e_value=e_value(log_e_value(scored)), by_day=day_tests(scored))


def _gain(calibrator: PlattCalibrator, n: Counts, wins: Counts) -> Estimate | None:
    """Estimate what calibrating takes off the Brier score, with days as clusters. None below two days."""
    days, total = len(n), int(n.sum())
    if days < 2:
        return None
    stated = np.arange(len(PERCENTS)) / 100
    calibrated = np.array([0.5, *(float(calibrator.apply(p)) for p in stated[1:-1]), 0.5])  # the ends hold nothing
    if_won, if_not = (1 - stated) ** 2 - (1 - calibrated) ** 2, stated**2 - calibrated**2
    of_day = (wins * if_won + (n - wins) * if_not).sum(axis=1)
    mean = float(of_day.sum() / total)
    variance = days / (days - 1) * float(((of_day - mean * n.sum(axis=1)) ** 2).sum()) / total**2
    return Estimate(mean=mean, standard_error=variance**0.5, degrees=days - 1)
