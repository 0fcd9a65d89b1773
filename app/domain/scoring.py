"""Say what a labelled forecast adds to the sufficient statistics, so that a change of label is a difference.

The statistics are sums over forecasts of what this module says, and of nothing else:
  * a forecast is counted once under each kind of forecast it made, at its whole percent, in the class of its
    outcome, under the source of its label;
  * the executed label is `executed`. The paper label is `paper`; beside an executed one it is
    `paper_of_executed`, so that executed + paper counts every resolved forecast exactly once;
  * a paper label also says what the codes that blocked its forecast saved or cost, in R.
Sums of R are exact decimals: the same forecasts give the same sums in any order.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from types import MappingProxyType
from typing import Final, TypeVar

from app.domain.outcome import ForecastKind, LabelSource, Outcome, OutcomeClass
from app.domain.triple_barrier import PaperLabel, PaperState

LOWEST_PERCENT: Final = 1
HIGHEST_PERCENT: Final = 99
"""No probability is counted as 0 or 100 %: what is sure in whole percent is still in doubt."""

_Key = TypeVar("_Key")
_Number = TypeVar("_Number", int, Decimal)
CountKey = tuple[LabelSource, ForecastKind, int, OutcomeClass]
SumKey = tuple[LabelSource, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Hold what is known of a forecast: its trade as executed, and its plan on paper."""

    executed: Outcome | None
    paper: PaperLabel


UNLABELLED: Final = Labels(executed=None, paper=PaperLabel(state=PaperState.PENDING))


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """Hold what forecasts add; what is zero is left out.

    `counts` are per source, kind, whole percent and class. `sums` are per source and column: the classes' own
    counts, `r_<class>` and `r_squares` of R, and `ev_n`, `ev`, `ev_r` of those with an expected value. `blocked`
    is per column of the gates' sums: `resolved`, `won`, `r`.
    """

    counts: Mapping[CountKey, int]
    sums: Mapping[SumKey, Decimal]
    blocked: Mapping[str, Decimal]

    def __sub__(self, other: "Contribution") -> "Contribution":
        return Contribution(
            counts=_difference(self.counts, other.counts),
            sums=_difference(self.sums, other.sums),
            blocked=_difference(self.blocked, other.blocked),
        )

    def __bool__(self) -> bool:
        return bool(self.counts or self.sums or self.blocked)


def whole_percent(p: Decimal) -> int:
    """Round a probability to the nearest whole percent from 1 to 99, halves up."""
    percent = int((p * 100).quantize(Decimal(1), rounding=ROUND_HALF_UP))
    return max(LOWEST_PERCENT, min(HIGHEST_PERCENT, percent))


def contribution(*, percents: Mapping[ForecastKind, int], ev_r: Decimal | None, labels: Labels) -> Contribution:
    """Say what a forecast adds by its labels; `ev_r` is its expected value, R, None where it had none."""
    counts: Counter[CountKey] = Counter()
    sums: dict[SumKey, Decimal] = {}
    blocked: dict[str, Decimal] = {}
    for source, outcome in _sources(labels):
        for kind, percent in percents.items():
            counts[source, kind, percent, outcome.outcome] += 1
        for column, amount in _sums(outcome, ev_r=ev_r).items():
            sums[source, column] = amount
    paper = labels.paper.outcome
    if paper is not None:
        blocked = {"resolved": Decimal(1), "won": Decimal(paper.outcome is OutcomeClass.WIN), "r": paper.r_multiple}
    return Contribution(counts=_nonzero(counts), sums=_nonzero(sums), blocked=_nonzero(blocked))


def _sources(labels: Labels) -> list[tuple[LabelSource, Outcome]]:
    found: list[tuple[LabelSource, Outcome]] = []
    if labels.executed is not None:
        found.append((LabelSource.EXECUTED, labels.executed))
    if labels.paper.outcome is not None:
        source = LabelSource.PAPER if labels.executed is None else LabelSource.PAPER_OF_EXECUTED
        found.append((source, labels.paper.outcome))
    return found


def _sums(outcome: Outcome, *, ev_r: Decimal | None) -> dict[str, Decimal]:
    r = outcome.r_multiple
    sums = {outcome.outcome.value: Decimal(1), f"r_{outcome.outcome.value}": r, "r_squares": r * r}
    if ev_r is not None:
        sums |= {"ev_n": Decimal(1), "ev": ev_r, "ev_r": r}
    return sums


def _nonzero(amounts: Mapping[_Key, _Number]) -> Mapping[_Key, _Number]:
    return MappingProxyType({key: amount for key, amount in amounts.items() if amount})


def _difference(minuend: Mapping[_Key, _Number], subtrahend: Mapping[_Key, _Number]) -> Mapping[_Key, _Number]:
    difference = dict(minuend)
    for key, amount in subtrahend.items():
        difference[key] = difference[key] - amount if key in difference else -amount
    return _nonzero(difference)
