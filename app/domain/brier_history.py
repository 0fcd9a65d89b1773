"""Follow the Brier score over the days of a record, beside what it can be compared with.

Each point is of the `trailing` days that end with its day, from exact sums (app/domain/tally.py), so the last point of
a record no longer than that is the record's own score. A scratch counts as not won, as in the usual report.

  * `brier`: mean (p - y)^2;
  * `base_rate`: the score of who always says the win rate of those days, o(1 - o): the uncertainty of Murphy (1973);
  * `if_calibrated`: mean p(1 - p), what the same forecasts would score if they were right: the floor for them.
"""

from dataclasses import dataclass
from datetime import date, timedelta

from app.domain.outcome import OutcomeClass
from app.domain.tally import DaySums, PercentSums, Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class BrierPoint:
    """Hold the score of the days up to `day`, of `n` resolved forecasts."""

    day: date
    n: int
    brier: float
    base_rate: float
    if_calibrated: float


def brier_history(tally: Tally, *, trailing: int) -> tuple[BrierPoint, ...]:
    """Give a point for each day on which a forecast was resolved, the earliest first."""
    days = sorted((sums for sums in tally.by_day if sums.day is not None and sums.resolved), key=_day)
    points = []
    first = 0
    for place, sums in enumerate(days):
        while _day(days[first]) <= _day(sums) - timedelta(days=trailing):
            first += 1
        points.append(_point(days[first : place + 1]))
    return tuple(points)


def _day(sums: DaySums) -> date:
    assert sums.day is not None  # noqa: S101 (days that are not known were left out)
    return sums.day


def _point(days: list[DaySums]) -> BrierPoint:
    every = sum((of.of(outcome) for of in days for outcome in OutcomeClass), start=PercentSums())
    won = sum((of.win for of in days), start=PercentSums())
    # In whole percents: sum (p - 100 y)^2 = sum p^2 - 200 sum p over wins + 10,000 wins.
    squared = every.squares - 200 * won.percents + 10_000 * won.n
    rate = won.n / every.n
    return BrierPoint(
        day=_day(days[-1]),
        n=every.n,
        brier=squared / (10_000 * every.n),
        base_rate=rate * (1 - rate),
        if_calibrated=(100 * every.percents - every.squares) / (10_000 * every.n),
    )
