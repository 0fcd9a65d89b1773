"""The Brier score over time is exact, and its last point is the record's own score."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.brier_history import BrierPoint, brier_history
from app.domain.calibration import calibration_report
from app.domain.outcome import OutcomeClass
from app.domain.tally import Tally

MONDAY = date(2026, 11, 16)
WIN, LOSS = OutcomeClass.WIN, OutcomeClass.LOSS


def test_each_point_looks_back_so_many_days() -> None:
    # Monday: 60 % won, 40 % lost. Wednesday: 50 % lost. Of two days, Wednesday stands alone.
    #   Monday: ((0.6 - 1)^2 + 0.4^2) / 2 = 0.16; half won: 0.25; if right: (0.24 + 0.24) / 2 = 0.24
    #   Wednesday: 0.5^2 = 0.25; none won: 0; if right: 0.25
    #   both: (0.16 x 2 + 0.25) / 3 = 0.19; a third won: 2/9; if right: (0.24 x 2 + 0.25) / 3
    tally = Tally.of([(MONDAY, 60, WIN, 1), (MONDAY, 40, LOSS, 1), (MONDAY + timedelta(days=2), 50, LOSS, 1)])
    monday = BrierPoint(day=MONDAY, n=2, brier=0.16, base_rate=0.25, if_calibrated=0.24)
    wednesday = MONDAY + timedelta(days=2)

    assert brier_history(tally, trailing=2) == (
        monday,
        BrierPoint(day=wednesday, n=1, brier=0.25, base_rate=0.0, if_calibrated=0.25),
    )
    [_, both] = brier_history(tally, trailing=3)
    assert both.n == 3
    assert both.brier == pytest.approx(0.19)
    assert both.base_rate == pytest.approx(2 / 9)
    assert both.if_calibrated == pytest.approx(0.73 / 3)


def test_nothing_resolved_has_no_point() -> None:
    assert brier_history(Tally(by_percent={}), trailing=7) == ()


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9).map(lambda later: MONDAY + timedelta(days=later)),
            st.integers(0, 100),
            st.sampled_from(OutcomeClass),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_the_last_point_of_a_short_record_is_its_own_score(cells: list[tuple[date, int, OutcomeClass, int]]) -> None:
    tally = Tally.of(cells)
    report = calibration_report(tally)
    last = brier_history(tally, trailing=10)[-1]

    assert report.murphy is not None
    assert last.n == report.scored
    assert last.brier == pytest.approx(report.brier, abs=1e-12)
    assert last.base_rate == pytest.approx(report.murphy.uncertainty, abs=1e-12)
