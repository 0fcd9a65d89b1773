"""Fit outcomes on the logit of their forecasts (Cox 1958): logit P(y) = a + b logit p."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.tally import Row

Floats: TypeAlias = NDArray[np.float64]

STEPS: Final = 100
SETTLED: Final = 1e-11
"""A fit has settled when a step changes no coefficient by more than this, relative to 1 or to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cox:
    """Hold the fitted line: intercept 0 and slope 1 when calibrated, a slope below 1 when overconfident."""

    intercept: float
    slope: float


def fit_cox(rows: Sequence[Row]) -> Cox | None:
    """Fit intercept and slope by maximum likelihood.

    None when no finite fit exists: outcomes are alike, forecasts are alike, or a threshold on the forecast separates
    wins from losses (Albert and Anderson 1984); and when a forecast says 0 or 100 %, whose logit is infinite.
    """
    if _says_certain(rows) or _are_separated(rows):
        return None
    logits = _logits(rows)
    centre = math.fsum(row.n * logit for row, logit in zip(rows, logits, strict=True)) / sum(row.n for row in rows)
    fitted = _maximise(rows, np.column_stack([np.ones(len(rows)), logits - centre]), offset=np.zeros(len(rows)))
    if fitted is None:
        return None
    at_centre, slope = fitted
    return Cox(intercept=at_centre - slope * centre, slope=slope)


def fit_calibration_in_the_large(rows: Sequence[Row]) -> float | None:
    """Fit the intercept with the slope held at 1: below 0 when forecasts are too high.

    None when outcomes are alike, and when a forecast says 0 or 100 %.
    """
    points, most = sum(row.points for row in rows), sum(2 * row.n for row in rows)
    if _says_certain(rows) or not 0 < points < most:
        return None
    fitted = _maximise(rows, np.ones((len(rows), 1)), offset=_logits(rows))
    return None if fitted is None else fitted[0]


def _says_certain(rows: Sequence[Row]) -> bool:
    return any(row.percent in {0, 100} for row in rows)


def _are_separated(rows: Sequence[Row]) -> bool:
    """Tell whether some threshold has all wins on one side and all losses on the other, ties at it allowed."""
    won = [row.percent for row in rows if row.points]
    lost = [row.percent for row in rows if row.points < 2 * row.n]
    return not won or not lost or min(won) >= max(lost) or min(lost) >= max(won)


def _logits(rows: Sequence[Row]) -> Floats:
    return np.array([math.log(row.percent / (100 - row.percent)) for row in rows])


def _maximise(rows: Sequence[Row], terms: Floats, *, offset: Floats) -> tuple[float, ...] | None:
    """Maximise the likelihood by Newton's method, halving a step that does not raise it. None when it won't settle."""
    n, won = np.array([float(row.n) for row in rows]), np.array([row.points / 2 for row in rows])

    def likelihood(coefficients: Floats) -> float:
        eta = offset + terms @ coefficients
        return float(won @ eta - n @ np.logaddexp(0, eta))

    coefficients = np.zeros(terms.shape[1])
    reached = likelihood(coefficients)
    for _ in range(STEPS):
        p = np.exp(-np.logaddexp(0, -(offset + terms @ coefficients)))
        information = terms.T @ ((n * p * (1 - p))[:, np.newaxis] * terms)
        try:
            step = np.linalg.solve(information, terms.T @ (won - n * p))
        except np.linalg.LinAlgError:
            return None
        while (raised := likelihood(coefficients + step)) < reached - 1e-12 * abs(reached):
            step = step / 2
        coefficients, reached = coefficients + step, raised
        if np.all(np.abs(step) <= SETTLED * np.maximum(1, np.abs(coefficients))):
            return tuple(float(c) for c in coefficients)
    return None
