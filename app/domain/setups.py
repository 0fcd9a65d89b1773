"""Compare setups: what each won, lost and brought, and how far its win rate may be believed.

A win rate of few trades says little, so each is drawn towards the rate of all: the more, the fewer trades it has and
the less setups have been found to differ. With the wins of setup i taken as beta-binomial around the overall rate m
with s prior trades,

    shrunk_i = (wins_i + s m) / (n_i + s),  s = (1 - g) / g,
    g = (S - m (1 - m) (k - 1)) / (m (1 - m) (N - sum n_i^2 / N - (k - 1))),  S = sum n_i (wins_i / n_i - m)^2

over k setups and N trades (the moment estimator of Kleinman 1973, weights n_i). Where g <= 0 setups differ by no more
than chance: s is infinite, and every shrunk rate is m.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from math import sqrt
from typing import Final

from app.domain.proposal import Setup
from app.domain.tally import ClassCounts

_WIDE: Final = Context(prec=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupSums:
    """Hold the results of one setup: counts per class, sums of R, and what was foretold of them.

    `percents` sums the stated p_win of `forecasts` forecasts, in whole percent.
    """

    setup: Setup
    counts: ClassCounts
    r_win: Decimal
    r_loss: Decimal
    r: Decimal
    r_squares: Decimal
    forecasts: int
    percents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupFigures:
    """Hold the figures of one setup, in R (net results in units of L + C); None where they cannot be computed.

    `expectancy_r` is the mean of all results, `sharpe_r` that mean over their sample standard deviation (per trade, not
    annualized). Averages of wins and losses are of these classes alone: time stops and scratches are neither.
    """

    setup: Setup
    counts: ClassCounts
    win_rate: float | None
    shrunk_win_rate: float | None
    predicted_win_rate: float | None
    average_win_r: float | None
    average_loss_r: float | None
    expectancy_r: float | None
    sharpe_r: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinkage:
    """Hold the rate that win rates are drawn to, and of how many trades its weight is; None: of any number."""

    win_rate: float
    prior_trades: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupComparison:
    """Hold every setup's figures in the order given; `shrinkage` None without any resolved trade."""

    setups: tuple[SetupFigures, ...]
    shrinkage: Shrinkage | None


def compare_setups(setups: Sequence[SetupSums]) -> SetupComparison:
    """Compute every setup's figures."""
    records = [(sums.counts.win, sums.counts.resolved) for sums in setups if sums.counts.resolved]
    trades = sum(n for _, n in records)
    overall = Fraction(sum(wins for wins, _ in records), trades) if trades else None
    prior = None if overall is None else _prior_trades(records, overall)
    return SetupComparison(
        setups=tuple(_figures(sums, overall=overall, prior_trades=prior) for sums in setups),
        shrinkage=(
            None
            if overall is None
            else Shrinkage(win_rate=float(overall), prior_trades=None if prior is None else float(prior))
        ),
    )


def _prior_trades(records: Sequence[tuple[int, int]], overall: Fraction) -> Fraction | None:
    """Estimate s; None where it is infinite. All sums are exact."""
    trades, setups = sum(n for _, n in records), len(records)
    variance = overall * (1 - overall)
    free = trades - Fraction(sum(n * n for _, n in records), trades) - (setups - 1)
    if variance * free <= 0:
        return None
    spread = sum((n * (Fraction(wins, n) - overall) ** 2 for wins, n in records), Fraction(0))
    share = (spread - variance * (setups - 1)) / (variance * free)
    if share <= 0:
        return None
    return max(Fraction(0), (1 - share) / share)


def _figures(sums: SetupSums, *, overall: Fraction | None, prior_trades: Fraction | None) -> SetupFigures:
    counts = sums.counts
    return SetupFigures(
        setup=sums.setup,
        counts=counts,
        win_rate=_ratio(counts.win, counts.resolved),
        shrunk_win_rate=_shrunk(counts, overall=overall, prior_trades=prior_trades),
        predicted_win_rate=_ratio(sums.percents, 100 * sums.forecasts),
        average_win_r=_mean(sums.r_win, counts.win),
        average_loss_r=_mean(sums.r_loss, counts.loss),
        expectancy_r=_mean(sums.r, counts.resolved),
        sharpe_r=_sharpe(sums),
    )


def _shrunk(counts: ClassCounts, *, overall: Fraction | None, prior_trades: Fraction | None) -> float | None:
    if overall is None:
        return None
    if prior_trades is None:
        return float(overall)
    weight = counts.resolved + prior_trades
    return float((counts.win + prior_trades * overall) / weight) if weight else None


def _ratio(part: int, of: int) -> float | None:
    return part / of if of else None


def _mean(total: Decimal, n: int) -> float | None:
    return float(_WIDE.divide(total, Decimal(n))) if n else None


def _sharpe(sums: SetupSums) -> float | None:
    """Compute mean / sd; the variance is taken exactly, for results that hardly differ would cancel out."""
    n = sums.counts.resolved
    if n < 2:
        return None
    with localcontext(_WIDE):
        variance = (sums.r_squares - sums.r * sums.r / n) / (n - 1)
        return float(sums.r / n) / sqrt(variance) if variance > 0 else None
