"""Score forecasts against outcomes: Brier and its decompositions, log loss, AUC, sharpness.

Every sum is an integer or a sum of correctly rounded quotients of integers (`math.fsum`), so that a figure is within
a unit in the last place of its exact value and Murphy's and CORP's identities hold to 1e-15. k is a percent, v an
outcome in half points (p = k / 100, y = v / 2), n the decisions of a row, N of all. A score that cannot be computed
is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from app.domain.tally import Row, Scored

CLIP_PERCENT: Final = 0.5
"""Log loss is clipped where a forecast comes nearer than this to 0 or 100 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Murphy:
    """Hold Murphy's (1973) decomposition by distinct forecast: Brier = reliability - resolution + uncertainty.

    `uncertainty` is the variance of the outcomes: o(1 - o) of the base rate o, and less where scratches count 1/2.
    """

    reliability: float
    resolution: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corp:
    """Hold the CORP decomposition (Dimitriadis, Gneiting and Jordan 2021).

    Brier = miscalibration - discrimination + uncertainty, by isotonic regression of outcome on forecast.
    """

    miscalibration: float
    discrimination: float
    uncertainty: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Hold what some rows amount to: decisions, sum of percents, sum of half points."""

    n: int
    percents: int
    points: int

    @property
    def mean_forecast(self) -> float:
        return self.percents / (100 * self.n)

    @property
    def observed(self) -> float:
        return self.points / (2 * self.n)


def pooled(rows: Sequence[Row]) -> Pool:
    """Pool rows."""
    n = percents = points = 0
    for row in rows:
        n += row.n
        percents += row.percents
        points += row.points
    return Pool(n=n, percents=percents, points=points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Hold neighbouring rows to which the isotonic regression gives one observed frequency, and their pool."""

    rows: Sequence[Row]
    pool: Pool


def isotonic_blocks(rows: Sequence[Row]) -> list[Block]:
    """Pool adjacent violators: split rows into blocks whose observed frequencies rise (Ayer et al. 1955)."""
    blocks: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        n, points, first = row.n, row.points, number
        while blocks and blocks[-1][1] * n >= points * blocks[-1][0]:
            earlier_n, earlier_points, first = blocks.pop()
            n, points = n + earlier_n, points + earlier_points
        blocks.append((n, points, first))
    bounds = pairwise([*(first for _, _, first in blocks), len(rows)])
    return [Block(rows=members, pool=pooled(members)) for first, end in bounds for members in [rows[first:end]]]


def brier_score(scored: Scored) -> float | None:
    """Compute the mean of (p - y)^2 (Brier 1950)."""
    return _squared_errors(scored.rows) / (10_000 * n) if (n := scored.n) else None


def brier_skill(scored: Scored) -> float | None:
    """Compute 1 - Brier / uncertainty: the gain on always stating the base rate. None when all outcomes are alike."""
    scatter = _scatter(scored)
    if not scatter:
        return None
    # Brier / UNC = (E / 10^4 N) / (S / 4 N^2)
    return (2_500 * scatter - scored.n * _squared_errors(scored.rows)) / (2_500 * scatter)


def murphy(scored: Scored) -> Murphy | None:
    """Decompose the Brier score by distinct forecast."""
    if not (n := scored.n):
        return None
    return Murphy(
        reliability=math.fsum(_unreliability(scored.rows)) / n,
        resolution=_spread(scored.rows, scored),
        uncertainty=_scatter(scored) / (4 * n**2),
    )


def debiased_reliability(scored: Scored) -> float | None:
    """Compute reliability less what chance adds to it (Ferro and Fricker 2012).

    REL - sum of w(n - w) / (n(n - 1)) / N over rows of more than one decision. As in SpecsVerification (Siegert 2017),
    only that part of the correction is made which leaves REL and RES within [0, 1] and the uncertainty below 1/4.
    """
    parts, n = murphy(scored), scored.n
    if parts is None:
        return None
    by_chance = math.fsum(
        (row.n * row.square_points - row.points**2) / (4 * row.n * (row.n - 1)) for row in scored.rows if row.n > 1
    )
    scatter = _scatter(scored)
    off_reliability, off_uncertainty = by_chance / n, scatter / (4 * n**2 * (n - 1)) if n > 1 else 0.0
    off_resolution = off_reliability - off_uncertainty
    room = [1.0]
    if off_reliability:
        room.append(parts.reliability / off_reliability)
    if off_resolution:
        room.append(max(parts.resolution / off_resolution, (parts.resolution - 1) / off_resolution))
    if off_uncertainty:
        room.append((n**2 - scatter) / (4 * n**2) / off_uncertainty)
    return parts.reliability - min(room) * off_reliability


def corp(scored: Scored, blocks: Sequence[Block]) -> Corp | None:
    """Decompose the Brier score by its isotonic regression, whose blocks these are."""
    if not (n := scored.n):
        return None
    # The block's score less that of its observed frequency f: sum of n p^2 - 2 p w, plus f^2 n.
    excess = [
        (
            block.pool.n * sum([row.percent * (row.percent * row.n - 100 * row.points) for row in block.rows])
            + 2_500 * block.pool.points**2
        )
        / (10_000 * block.pool.n)
        for block in blocks
    ]
    return Corp(
        miscalibration=math.fsum(excess) / n,
        discrimination=_spread([block.pool for block in blocks], scored),
        uncertainty=_scatter(scored) / (4 * n**2),
    )


def log_loss(scored: Scored, *, clip_percent: float = 0.0) -> float | None:
    """Compute the mean of -[y ln p + (1 - y) ln(1 - p)], p clipped to [clip, 100 - clip] %. None when infinite."""
    terms = []
    for row in scored.rows:
        percent = min(max(float(row.percent), clip_percent), 100 - clip_percent)
        for weight, stated in ((row.points, percent), (2 * row.n - row.points, 100 - percent)):
            if weight and not stated:
                return None
            if weight:
                terms.append(-weight / 2 * math.log(stated / 100))
    return math.fsum(terms) / scored.n if terms else None


def clipped(scored: Scored) -> int:
    """Count the forecasts that log loss clips."""
    return sum(row.n for row in scored.rows if not CLIP_PERCENT <= row.percent <= 100 - CLIP_PERCENT)


def area_under_curve(scored: Scored) -> float | None:
    """Compute the chance that a win had the higher forecast than a loss, ties counting half. None without both.

    Where scratches count 1/2, each is half a win and half a loss.
    """
    pairs = losses_below = 0
    for row in scored.rows:
        losses = 2 * row.n - row.points
        pairs += row.points * (2 * losses_below + losses)
        losses_below += losses
    every_pair = 2 * scored.points * losses_below
    return pairs / every_pair if every_pair else None


def sharpness(scored: Scored) -> float | None:
    """Compute the standard deviation of the forecasts."""
    if not (n := scored.n):
        return None
    squares = sum(row.percent**2 * row.n for row in scored.rows)
    return math.sqrt(n * squares - scored.percents**2) / (100 * n)


def _squared_errors(rows: Sequence[Row]) -> int:
    """Sum (k - 50 v)^2 = 10^4 (p - y)^2."""
    return sum(row.percent**2 * row.n - 100 * row.percent * row.points + 2_500 * row.square_points for row in rows)


def _scatter(scored: Scored) -> int:
    """Compute N x sum of v^2 - (sum of v)^2 = 4 N^2 x the variance of y."""
    return scored.n * scored.square_points - scored.points**2


def _unreliability(rows: Sequence[Row]) -> list[float]:
    """List n (p - f)^2 by row."""
    return [(row.percent * row.n - 50 * row.points) ** 2 / (10_000 * row.n) for row in rows]


def _spread(pools: Sequence[Pool | Row], scored: Scored) -> float:
    """Compute the mean of (f - o)^2, f the observed frequency of a pool and o that of all."""
    n, points = scored.n, scored.points
    return math.fsum((pool.points * n - points * pool.n) ** 2 / (4 * pool.n * n**2) for pool in pools) / n
