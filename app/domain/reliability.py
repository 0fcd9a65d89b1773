"""Hold observed frequencies against forecasts: bins, slopes, calibration errors, the isotonic curve.

Bins are made by integer arithmetic: min(k // 10, 9). Edges in floats put 30, 60 and 70 % one bin low.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.domain.evidence import binomial_interval
from app.domain.scores import Block, Pool, pooled
from app.domain.tally import Row, Scored

BINS: Final = 10

Floats: TypeAlias = NDArray[np.float64]
Spectrum: TypeAlias = NDArray[np.complex128]
"""Fourier transforms of rows of values and their mirror images."""

SMOOTH_NODES: Final = 1_001
"""Nodes of the grid that outcomes are smoothed on; more where the kernel is narrower than 1 %."""
SMOOTH_POINTS: Final = 200
"""Points at which the smoothed error is taken; more where the kernel is narrower than 5 %."""
SMOOTH_FLOOR: Final = 1e-4
"""What relplot adds to the density of forecasts."""
SMOOTH_GAIN: Final = 3
"""More than smoothing can make of an error: forecasts of 0 and 100 % count about half as much as others."""
NARROWEST: Final = 0.001
HALVINGS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Hold one bar of the reliability diagram: forecasts in [lower, upper), the last bin with 100 %.

    `consistency_low` and `consistency_high` hold 95 % of the observed frequencies that calibrated forecasts would show.
    """

    lower: float
    upper: float
    n: int
    mean_forecast: float | None
    observed: float | None
    consistency_low: float | None
    consistency_high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IsotonicPoint:
    """Hold the rising curve that fits best, at one forecast."""

    p: float
    observed: float


def bin_of(percent: int) -> int:
    """Return the number of a whole percent's bin: ten left-closed bins, 100 % in the last."""
    return min(percent // BINS, BINS - 1)


def pooled_bins(scored: Scored) -> tuple[Pool, ...]:
    """Pool rows into ten bins."""
    members: list[list[Row]] = [[] for _ in range(BINS)]
    for row in scored.rows:
        members[bin_of(row.percent)].append(row)
    return tuple(pooled(rows) for rows in members)


def reliability_bins(bins: Sequence[Pool]) -> tuple[Bin, ...]:
    """Make the reliability diagram: ten bins with consistency bars (Bröcker and Smith 2007)."""
    return tuple(_bin(number, pool) for number, pool in enumerate(bins))


def isotonic_curve(blocks: Iterable[Block]) -> tuple[IsotonicPoint, ...]:
    """Draw the rising curve of observed frequency on forecast, one point for each percent that was forecast."""
    return tuple(
        IsotonicPoint(p=row.percent / 100, observed=observed)
        for block in blocks
        for observed in [block.pool.observed]
        for row in block.rows
    )


def slope(scored: Scored) -> float | None:
    """Compute Cov(p, y) / Var(p): 1 when calibrated, below 1 when overconfident. None when all forecasts are alike."""
    return _regression_slope(scored.rows)


def binned_slope(bins: Sequence[Pool]) -> float | None:
    """Compute the slope of observed frequency on mean forecast over the ten bins, weighted by their decisions."""
    return _regression_slope([pool for pool in bins if pool.n])


def calibration_error(scored: Scored) -> float | None:
    """Compute mean forecast less mean outcome."""
    return (scored.percents - 50 * scored.points) / (100 * n) if (n := scored.n) else None


def expected_calibration_error(scored: Scored) -> float | None:
    """Compute the mean of |p - f| by distinct forecast."""
    return _mean_gap(scored.rows, n) if (n := scored.n) else None


def binned_calibration_error(bins: Sequence[Pool]) -> float | None:
    """Compute the mean of |p - f| by bin."""
    return _mean_gap(bins, n) if (n := sum(pool.n for pool in bins)) else None


def smooth_calibration_error(scored: Scored) -> float | None:
    """Compute the smooth ECE (Błasiok and Nakkiran 2023), as relplot 1.0.3 does.

    Errors p - y are smoothed by a Gaussian kernel reflected at 0 and 1; its width is the least, on a grid of 1/1024,
    that is no less than the smooth ECE it gives. Forecasts lie on nodes of the grid, so that smoothing is a product of
    Fourier transforms of the grid and its mirror image.
    """
    if not scored.n:
        return None
    percents = np.array([row.percent for row in scored.rows])
    masses = np.array(
        [[(row.percents - 50 * row.points) / 100 for row in scored.rows], [float(row.n) for row in scored.rows]]
    )

    @cache  # for this record: widths that share a grid, as most do, share what is on it
    def spectrum(nodes: int) -> Spectrum:
        before, hundredths = np.divmod(percents * (nodes - 1), 100)
        grid = np.zeros((2, nodes))
        grid[:, before] = masses * (1 - hundredths / 100)
        grid[:, np.minimum(before + 1, nodes - 1)] += masses * (hundredths / 100)
        return np.fft.rfft(np.concatenate([grid, grid[:, -2:0:-1]], axis=1))

    def error_at(width: float) -> float:
        nodes = max(2 * (SMOOTH_NODES - 1), round(20 / width)) // 2 + 1
        points = _grid(max(SMOOTH_POINTS, round(10 / width)))
        errors, counts = (
            np.interp(points, _grid(nodes), values) for values in _smoothed(spectrum(nodes), nodes, width=width)
        )
        return float(np.abs(errors).sum() / (counts + SMOOTH_FLOOR).sum())

    return _least_error(error_at, at_most=SMOOTH_GAIN * _mean_gap(scored.rows, scored.n))


def _least_error(error_at: Callable[[float], float], *, at_most: float) -> float:
    """Halve [0, 1] down to the least width that is no less than the error it gives, and return that error.

    No error is more than `at_most`: of wider kernels it need not be asked.
    """
    least, too_narrow = 1.0, 0.0
    found = error_at(least) if least < at_most else None
    if found is not None and least < found:
        return found
    for _ in range(HALVINGS):
        width = (least + too_narrow) / 2
        error = error_at(width) if NARROWEST <= width < at_most else None
        if width < NARROWEST or (error is not None and width < error):
            too_narrow = width
        else:
            least, found = width, error
    return error_at(least) if found is None else found


@lru_cache(maxsize=16)
def _grid(nodes: int) -> Floats:
    grid = np.linspace(0, 1, nodes)
    grid.setflags(write=False)
    return grid


def _smoothed(spectrum: Spectrum, nodes: int, *, width: float) -> Floats:
    """Smooth rows of values on nodes over [0, 1] by a Gaussian kernel reflected at both ends."""
    kernel = np.exp(-(((np.arange(nodes) / (nodes - 1) - 0.5) / width) ** 2) / 2) / (math.sqrt(2 * math.pi) * width)
    middle = nodes // 2
    around_0 = np.zeros(2 * (nodes - 1))
    around_0[: nodes - middle], around_0[-middle:] = kernel[middle:], kernel[:middle]
    return np.fft.irfft(spectrum * np.fft.rfft(around_0), n=2 * (nodes - 1))[:, :nodes]


def _bin(number: int, pool: Pool) -> Bin:
    low, high = binomial_interval(n=pool.n, p=pool.mean_forecast) if pool.n else (None, None)
    return Bin(
        lower=number / BINS,
        upper=(number + 1) / BINS,
        n=pool.n,
        mean_forecast=pool.mean_forecast if pool.n else None,
        observed=pool.observed if pool.n else None,
        consistency_low=None if low is None else low / pool.n,
        consistency_high=None if high is None else high / pool.n,
    )


def _regression_slope(pools: Sequence[Pool | Row]) -> float | None:
    if len(pools) < 2:
        return None
    n, percents, points = (
        sum(sums) for sums in zip(*((pool.n, pool.percents, pool.points) for pool in pools), strict=True)
    )
    deviations = [(pool.n, pool.percents * n - percents * pool.n, pool.points * n - points * pool.n) for pool in pools]
    variance = math.fsum(x**2 / of for of, x, _ in deviations)
    return 50 * math.fsum(x * y / of for of, x, y in deviations) / variance


def _mean_gap(pools: Sequence[Pool | Row], n: int) -> float:
    return sum([abs(pool.percents - 50 * pool.points) for pool in pools]) / (100 * n)
