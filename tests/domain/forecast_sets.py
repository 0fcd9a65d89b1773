"""The sets of forecasts in tests/data/calibration as cells, and cells that Hypothesis makes up."""

import csv
import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import TypeAlias

from hypothesis import strategies as st

from app.domain.outcome import OutcomeClass

Cell: TypeAlias = tuple[date | None, int, OutcomeClass, int]

DATA = Path(__file__).parent.parent / "data" / "calibration"
FIRST_DAY = date(2026, 11, 2)


def expected_values() -> dict[str, dict[str, float | None]]:
    """What independent libraries compute, by set."""
    return {name: of_set["expected"] for name, of_set in json.loads((DATA / "expected.json").read_text()).items()}


def cells_of(name: str) -> list[Cell]:
    """One set as cells: dated ones where the file has dates, ties as scratches."""
    return list(_games() if name == "fte_nba_games" else _by_percent(name))


def _games() -> Iterator[Cell]:
    with (DATA / "fte_nba_games.csv").open() as file:
        for row in csv.DictReader(file):
            outcome = OutcomeClass.WIN if row["outcome"] == "1" else OutcomeClass.LOSS
            yield date.fromisoformat(row["cluster"]), int(row["p_percent"]), outcome, 1


def _by_percent(name: str) -> Iterator[Cell]:
    with (DATA / f"{name}.csv").open() as file:
        for row in csv.DictReader(file):
            percent, n, points = int(row["p_percent"]), int(row["n"]), float(row["wins"])
            # Sum of y = wins + ties/2 and sum of y^2 = wins + ties/4, hence their difference is ties/4.
            ties = round(4 * (points - float(row["sum_y2"]))) if "sum_y2" in row else 0
            wins = round(points - ties / 2)
            yield None, percent, OutcomeClass.WIN, wins
            yield None, percent, OutcomeClass.SCRATCH, ties
            yield None, percent, OutcomeClass.LOSS, n - wins - ties


def cells(
    *, percents: st.SearchStrategy[int] | None = None, days: st.SearchStrategy[date | None] | None = None
) -> st.SearchStrategy[list[Cell]]:
    """Any few decisions, several to a cell."""
    return st.lists(
        st.tuples(
            dates() if days is None else days,
            st.integers(0, 100) if percents is None else percents,
            st.sampled_from(OutcomeClass),
            st.integers(0, 12),
        ),
        max_size=25,
    )


def dates() -> st.SearchStrategy[date | None]:
    return st.integers(0, 5).map(lambda days: FIRST_DAY + timedelta(days=days))
