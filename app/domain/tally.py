"""Count resolved decisions by what was forecast and what came of it: all that calibration needs.

A tally holds, for each whole percent 0..100, how many decisions ended as win, loss, scratch or timeout, and for each
day and class how many there were with the sum and the sum of squares of their percents. Both are integers: any order
of arrival gives the same tally, tallies add, and a correction takes away what it replaces.

An outcome y is 1 for a win, 0 for a loss and a timeout, and what the caller says for a scratch: 0, 1/2, 1, or not
counted at all. Re-labelling is exact because classes are kept apart until a rule is applied. Scores therefore count
outcomes in half points, a win being 2, and percents in whole numbers, so that every sum stays an integer.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from app.domain.outcome import OutcomeClass

PERCENTS: Final = range(101)
CONVICTION_BUCKETS: Final = ((0, 30), (31, 50), (51, 70), (71, 100))
"""The first system's buckets of conviction, both ends included, in percent."""


class ScratchRule(StrEnum):
    """Say what a scratch counts as: y, or nothing at all."""

    ZERO = "0"
    HALF = "0.5"
    ONE = "1"
    EXCLUDE = "exclude"


SCRATCH_POINTS: Final[Mapping[ScratchRule, int | None]] = MappingProxyType(
    {ScratchRule.ZERO: 0, ScratchRule.HALF: 1, ScratchRule.ONE: 2, ScratchRule.EXCLUDE: None}
)


def points_of(outcome: OutcomeClass, *, scratch: ScratchRule) -> int | None:
    """Return the half points of a class: 2 for a win, 0 for a loss or timeout, None when it is not counted."""
    match outcome:
        case OutcomeClass.WIN:
            return 2
        case OutcomeClass.LOSS | OutcomeClass.TIMEOUT:
            return 0
        case OutcomeClass.SCRATCH:
            return SCRATCH_POINTS[scratch]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCounts:
    """Hold how many decisions ended in each class."""

    win: int = 0
    loss: int = 0
    scratch: int = 0
    timeout: int = 0

    @property
    def resolved(self) -> int:
        return self.win + self.loss + self.scratch + self.timeout

    def of(self, outcome: OutcomeClass) -> int:
        of_class: int = getattr(self, outcome)
        return of_class

    def __add__(self, other: "ClassCounts") -> "ClassCounts":
        return ClassCounts(
            win=self.win + other.win,
            loss=self.loss + other.loss,
            scratch=self.scratch + other.scratch,
            timeout=self.timeout + other.timeout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentSums:
    """Hold how many forecasts there were, the sum of their percents, and the sum of the squares of these."""

    n: int = 0
    percents: int = 0
    squares: int = 0

    def __add__(self, other: "PercentSums") -> "PercentSums":
        return PercentSums(
            n=self.n + other.n, percents=self.percents + other.percents, squares=self.squares + other.squares
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySums:
    """Hold what a day adds to every day-clustered figure, by class. `day` None: it is not known which day it was."""

    day: date | None
    win: PercentSums = PercentSums()
    loss: PercentSums = PercentSums()
    scratch: PercentSums = PercentSums()
    timeout: PercentSums = PercentSums()

    @property
    def resolved(self) -> int:
        return self.win.n + self.loss.n + self.scratch.n + self.timeout.n

    def of(self, outcome: OutcomeClass) -> PercentSums:
        of_class: PercentSums = getattr(self, outcome)
        return of_class

    def __add__(self, other: "DaySums") -> "DaySums":
        if self.day != other.day:
            raise ValueError(f"the sums of {self.day} and of {other.day} are not of one day")
        return DaySums(
            day=self.day,
            win=self.win + other.win,
            loss=self.loss + other.loss,
            scratch=self.scratch + other.scratch,
            timeout=self.timeout + other.timeout,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSums:
    """Hold what the forecasts of one bucket amount to, by class; `lower` is the least percent in it."""

    lower: int
    win: PercentSums = PercentSums()
    loss: PercentSums = PercentSums()
    scratch: PercentSums = PercentSums()
    timeout: PercentSums = PercentSums()

    def of(self, outcome: OutcomeClass) -> PercentSums:
        of_class: PercentSums = getattr(self, outcome)
        return of_class


def bucket_of(percent: int) -> int:
    """Return the least percent of a whole percent's bucket of conviction."""
    return next(lower for lower, upper in CONVICTION_BUCKETS if percent <= upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Hold resolved decisions by percent and class, and by day and class.

    `by_percent` and `by_day` tell of the same decisions. Where they do not (no days were asked for, or some decisions
    have none), nothing can be clustered by day and figures that need it are null.
    """

    by_percent: Mapping[int, ClassCounts]
    by_day: tuple[DaySums, ...] = ()

    def __post_init__(self) -> None:
        if strange := [percent for percent in self.by_percent if percent not in PERCENTS]:
            raise ValueError(f"a forecast is a whole percent from 0 to 100, not {strange[0]}")

    @classmethod
    def of(cls, cells: Iterable[tuple[date | None, int, OutcomeClass, int]]) -> Self:
        """Tally cells of day, percent, class and number of decisions, in any order.

        A negative number takes decisions away again, as a correction does.

        Raises:
            ValueError: a percent is not in 0..100, or fewer than no decisions are left.
        """
        numbers: Counter[tuple[date | None, int, OutcomeClass]] = Counter()
        for day, percent, outcome, n in cells:
            numbers[day, percent, outcome] += n
        if min(numbers.values(), default=0) < 0:
            raise ValueError("more decisions were taken away than there are")
        by_percent: dict[int, Counter[str]] = defaultdict(Counter)
        by_day: dict[date | None, dict[str, PercentSums]] = defaultdict(lambda: defaultdict(PercentSums))
        for (day, percent, outcome), n in numbers.items():
            if n:
                by_percent[percent][outcome.value] += n
                by_day[day][outcome.value] += PercentSums(n=n, percents=n * percent, squares=n * percent**2)
        return cls(
            by_percent={percent: ClassCounts(**counts) for percent, counts in sorted(by_percent.items())},
            by_day=_in_order(DaySums(day=day, **sums) for day, sums in by_day.items()),
        )

    def __add__(self, other: "Tally") -> "Tally":
        by_percent = {
            percent: self.by_percent.get(percent, ClassCounts()) + other.by_percent.get(percent, ClassCounts())
            for percent in sorted({*self.by_percent, *other.by_percent})
        }
        by_day: dict[date | None, DaySums] = {}
        for sums in (*self.by_day, *other.by_day):
            by_day[sums.day] = by_day[sums.day] + sums if sums.day in by_day else sums
        return Tally(
            by_percent=by_percent,
            by_day=_in_order(by_day.values()),
        )

    @property
    def counts(self) -> ClassCounts:
        """Return all classes' counts."""
        counts = self.by_percent.values()
        return ClassCounts(
            win=sum([of.win for of in counts]),
            loss=sum([of.loss for of in counts]),
            scratch=sum([of.scratch for of in counts]),
            timeout=sum([of.timeout for of in counts]),
        )

    @property
    def is_dated(self) -> bool:
        """Tell whether the day of every decision is known."""
        dated = sum(sums.resolved for sums in self.by_day if sums.day is not None)
        return dated == self.counts.resolved


def bucket_sums(tally: Tally) -> tuple[BucketSums, ...]:
    """Sum a tally by bucket of conviction, empty ones left out."""
    by_bucket: dict[int, dict[str, PercentSums]] = {}
    for percent, counts in sorted(tally.by_percent.items()):
        sums = by_bucket.setdefault(bucket_of(percent), {})
        for outcome in OutcomeClass:
            if n := counts.of(outcome):
                more = PercentSums(n=n, percents=n * percent, squares=n * percent**2)
                sums[outcome] = sums.get(outcome, PercentSums()) + more
    return tuple(BucketSums(lower=lower, **sums) for lower, sums in by_bucket.items() if sums)


def _in_order(days: Iterable[DaySums]) -> tuple[DaySums, ...]:
    return tuple(sorted(days, key=lambda sums: (sums.day is None, sums.day or date.min)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Hold the scored decisions of one percent: their number, the sum of their half points and of its squares."""

    percent: int
    n: int
    points: int
    square_points: int

    @property
    def percents(self) -> int:
        return self.percent * self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class DayScore:
    """Hold the scored decisions of one day, k the percent and v the half points of each.

    `errors` = sum of k - 50 v, in hundredths of a probability; `losses` = sum of (k - 50 v)^2 and
    `tilts` = sum of k (k - 50 v), in ten-thousandths.
    """

    n: int
    errors: int
    losses: int
    tilts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Hold the decisions that count under a scratch rule: rows by rising percent, and days (None: not known).

    The rest is summed over the rows.
    """

    rows: tuple[Row, ...]
    days: tuple[DayScore, ...] | None
    n: int = field(init=False)
    points: int = field(init=False)
    square_points: int = field(init=False)
    percents: int = field(init=False)

    def __post_init__(self) -> None:
        # Nearly every figure asks for them.
        for name in ("n", "points", "square_points", "percents"):
            object.__setattr__(self, name, sum([getattr(row, name) for row in self.rows]))


def score(tally: Tally, *, scratch: ScratchRule) -> Scored:
    """Apply a scratch rule: turn classes into half points."""
    points = [
        (outcome.value, counted)
        for outcome in OutcomeClass
        if (counted := points_of(outcome, scratch=scratch)) is not None
    ]
    rows = (_scored_row(percent, counts, points) for percent, counts in sorted(tally.by_percent.items()))
    days = (_scored_day(day, points) for day in tally.by_day)
    return Scored(
        rows=tuple(row for row in rows if row.n), days=tuple(day for day in days if day.n) if tally.is_dated else None
    )


def _scored_row(percent: int, counts: ClassCounts, points: Iterable[tuple[str, int]]) -> Row:
    n = of_points = square_points = 0
    for name, v in points:
        of_class = getattr(counts, name)
        n += of_class
        of_points += v * of_class
        square_points += v**2 * of_class
    return Row(percent=percent, n=n, points=of_points, square_points=square_points)


def _scored_day(day: DaySums, points: Iterable[tuple[str, int]]) -> DayScore:
    n = errors = losses = tilts = 0
    for name, v in points:
        of_class = getattr(day, name)
        n += of_class.n
        errors += of_class.percents - 50 * v * of_class.n
        losses += of_class.squares - 100 * v * of_class.percents + 2_500 * v**2 * of_class.n
        tilts += of_class.squares - 50 * v * of_class.percents
    return DayScore(n=n, errors=errors, losses=losses, tilts=tilts)
