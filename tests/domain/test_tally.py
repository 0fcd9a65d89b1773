"""Tests of counting resolved decisions."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.outcome import OutcomeClass
from app.domain.tally import ClassCounts, DaySums, PercentSums, Row, ScratchRule, Tally, points_of, score
from tests.domain.forecast_sets import FIRST_DAY, Cell, cells, dates

WIN, LOSS, SCRATCH, TIMEOUT = OutcomeClass.WIN, OutcomeClass.LOSS, OutcomeClass.SCRATCH, OutcomeClass.TIMEOUT
MONDAY, TUESDAY = date(2026, 11, 2), date(2026, 11, 3)

maybe_dates = st.none() | dates()


def test_decisions_are_counted_by_percent_and_summed_by_day() -> None:
    tally = Tally.of([(TUESDAY, 60, WIN, 2), (MONDAY, 60, LOSS, 1), (MONDAY, 55, WIN, 3)])

    assert tally.by_percent == {55: ClassCounts(win=3), 60: ClassCounts(win=2, loss=1)}
    assert tally.by_day == (
        # 3 x 55 = 165, 3 x 55^2 = 9075; 60^2 = 3600
        DaySums(
            day=MONDAY,
            win=PercentSums(n=3, percents=165, squares=9075),
            loss=PercentSums(n=1, percents=60, squares=3600),
        ),
        DaySums(day=TUESDAY, win=PercentSums(n=2, percents=120, squares=7200)),
    )
    assert tally.counts == ClassCounts(win=5, loss=1)


@given(st.data(), cells(days=maybe_dates))
def test_any_order_of_arrival_gives_the_same_tally(data: st.DataObject, arrived: list[Cell]) -> None:
    one_by_one = [(day, percent, outcome, 1) for day, percent, outcome, n in arrived for _ in range(n)]
    in_any_order = data.draw(st.permutations(one_by_one))

    assert Tally.of(in_any_order) == Tally.of(arrived)


@given(cells(days=maybe_dates), cells(days=maybe_dates))
def test_tallies_add(some: list[Cell], others: list[Cell]) -> None:
    assert Tally.of(some) + Tally.of(others) == Tally.of(some + others)


@given(cells(days=maybe_dates), cells(days=maybe_dates))
def test_what_was_corrected_leaves_no_trace(right: list[Cell], wrong: list[Cell]) -> None:
    taken_back = [(day, percent, outcome, -n) for day, percent, outcome, n in wrong]

    assert Tally.of(wrong + right + taken_back) == Tally.of(right)


def test_nothing_is_taken_away_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="more decisions were taken away"):
        Tally.of([(MONDAY, 60, WIN, 1), (TUESDAY, 60, WIN, -1)])


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_forecast_is_a_whole_percent(percent: int) -> None:
    with pytest.raises(ValueError, match="whole percent from 0 to 100"):
        Tally.of([(MONDAY, percent, WIN, 1)])


def test_sums_of_two_days_are_not_added() -> None:
    with pytest.raises(ValueError, match="not of one day"):
        DaySums(day=MONDAY) + DaySums(day=TUESDAY)


def test_days_are_known_only_when_they_are_of_every_decision() -> None:
    dated, undated = Tally.of([(MONDAY, 60, WIN, 1)]), Tally.of([(None, 60, WIN, 1)])

    assert Tally.of([]).is_dated
    assert dated.is_dated
    assert not undated.is_dated
    assert not (dated + undated).is_dated
    assert not Tally(by_percent=dated.by_percent).is_dated
    assert score(undated, scratch=ScratchRule.ZERO).days is None


@pytest.mark.parametrize(
    ("rule", "points"),
    [(ScratchRule.ZERO, 0), (ScratchRule.HALF, 1), (ScratchRule.ONE, 2), (ScratchRule.EXCLUDE, None)],
)
def test_a_scratch_counts_what_the_rule_says(rule: ScratchRule, points: int | None) -> None:
    assert points_of(SCRATCH, scratch=rule) == points
    assert points_of(WIN, scratch=rule) == 2
    assert points_of(LOSS, scratch=rule) == 0
    assert points_of(TIMEOUT, scratch=rule) == 0


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        # Of 1 win, 2 losses, 3 scratches and 4 timeouts:
        (ScratchRule.ZERO, Row(percent=70, n=10, points=2, square_points=4)),
        (ScratchRule.HALF, Row(percent=70, n=10, points=2 + 3, square_points=4 + 3)),
        (ScratchRule.ONE, Row(percent=70, n=10, points=2 + 6, square_points=4 + 12)),
        (ScratchRule.EXCLUDE, Row(percent=70, n=7, points=2, square_points=4)),
    ],
)
def test_rows_are_scored_by_the_rule(rule: ScratchRule, row: Row) -> None:
    tally = Tally.of([(MONDAY, 70, WIN, 1), (MONDAY, 70, LOSS, 2), (MONDAY, 70, SCRATCH, 3), (MONDAY, 70, TIMEOUT, 4)])

    assert score(tally, scratch=rule).rows == (row,)


@given(cells(), st.sampled_from(ScratchRule))
def test_days_and_rows_score_the_same_decisions(arrived: list[Cell], rule: ScratchRule) -> None:
    scored = score(Tally.of(arrived), scratch=rule)
    errors = sum(row.percents - 50 * row.points for row in scored.rows)
    losses = sum(
        row.percent**2 * row.n - 100 * row.percent * row.points + 2_500 * row.square_points for row in scored.rows
    )
    tilts = sum(row.percent * (row.percents - 50 * row.points) for row in scored.rows)

    assert scored.days is not None
    assert scored.n == sum(day.n for day in scored.days)
    assert errors == sum(day.errors for day in scored.days)
    assert losses == sum(day.losses for day in scored.days)
    assert tilts == sum(day.tilts for day in scored.days)
    assert all(day.n for day in scored.days)


def test_a_day_of_nothing_but_excluded_scratches_is_no_day() -> None:
    tally = Tally.of([(FIRST_DAY, 60, SCRATCH, 3), (TUESDAY, 60, WIN, 1)])

    assert (
        score(tally, scratch=ScratchRule.EXCLUDE).days
        == score(Tally.of([(TUESDAY, 60, WIN, 1)]), scratch=ScratchRule.ZERO).days
    )
