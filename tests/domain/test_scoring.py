"""What a forecast adds to the statistics follows from its labels, and a change of label is a difference."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.outcome import ForecastKind, LabelSource, Outcome, OutcomeClass
from app.domain.scoring import UNLABELLED, Contribution, Labels, contribution, whole_percent
from app.domain.triple_barrier import PaperLabel, PaperState

EXECUTED, PAPER, PAPER_OF_EXECUTED = LabelSource
WIN, LOSS, SCRATCH, TIMEOUT = OutcomeClass
P_WIN, CALIBRATED, CONVICTION = ForecastKind
PERCENTS = {P_WIN: 54, CALIBRATED: 51, CONVICTION: 72}
NOTHING = Contribution(counts={}, sums={}, blocked={})


def an_outcome(outcome: OutcomeClass = WIN, r: str = "2.000000", **changes: Any) -> Outcome:
    known: dict[str, Any] = {
        "exit_at": datetime(2026, 11, 21, tzinfo=UTC),
        "exit_price": Decimal("110.00"),
        "entered_at": None,
        "holding_s": None,
    }
    return Outcome(outcome=outcome, r_multiple=Decimal(r), **{**known, **changes})


def on_paper(outcome: OutcomeClass = WIN, r: str = "2.000000") -> PaperLabel:
    return PaperLabel(state=PaperState.RESOLVED, outcome=an_outcome(outcome, r))


def labels(executed: Outcome | None = None, paper: PaperLabel = UNLABELLED.paper) -> Labels:
    return Labels(executed=executed, paper=paper)


def added_by(of: Labels, *, ev_r: str | None = "0.620000") -> Contribution:
    return contribution(percents=PERCENTS, ev_r=None if ev_r is None else Decimal(ev_r), labels=of)


@pytest.mark.parametrize("state", [PaperState.PENDING, PaperState.UNFILLED])
def test_a_forecast_without_a_label_adds_nothing(state: PaperState) -> None:
    assert added_by(labels(paper=PaperLabel(state=state))) == NOTHING
    assert not added_by(UNLABELLED)


def test_an_executed_label_is_counted_once_under_each_kind_of_forecast() -> None:
    added = added_by(labels(executed=an_outcome(LOSS, "-1.000000")))

    assert added.counts == {
        (EXECUTED, P_WIN, 54, LOSS): 1,
        (EXECUTED, CALIBRATED, 51, LOSS): 1,
        (EXECUTED, CONVICTION, 72, LOSS): 1,
    }
    assert added.sums == {
        (EXECUTED, "loss"): 1,
        (EXECUTED, "r_loss"): -1,
        (EXECUTED, "r_squares"): 1,
        (EXECUTED, "ev_n"): 1,
        (EXECUTED, "ev"): Decimal("0.62"),
        (EXECUTED, "ev_r"): -1,
    }
    assert added.blocked == {}


def test_a_paper_label_also_says_what_blocking_saved() -> None:
    added = added_by(labels(paper=on_paper(WIN, "2.000000")))

    assert {source for source, *_ in added.counts} == {PAPER}
    assert added.blocked == {"resolved": 1, "won": 1, "r": 2}
    assert added_by(labels(paper=on_paper(LOSS, "-1.000000"))).blocked == {"resolved": 1, "r": -1}


def test_beside_an_executed_label_the_paper_label_is_counted_apart() -> None:
    added = added_by(labels(executed=an_outcome(LOSS, "-1.000000"), paper=on_paper(WIN)))

    by_source = {(source, outcome) for source, _, _, outcome in added.counts}
    assert by_source == {(EXECUTED, LOSS), (PAPER_OF_EXECUTED, WIN)}
    assert [added.sums[PAPER_OF_EXECUTED, "r_win"], added.sums[EXECUTED, "r_loss"]] == [2, -1]
    assert added.blocked == {"resolved": 1, "won": 1, "r": 2}


@pytest.mark.parametrize("outcome", OutcomeClass)
def test_r_is_summed_by_class(outcome: OutcomeClass) -> None:
    added = added_by(labels(executed=an_outcome(outcome, "-0.500000")))

    assert added.sums[EXECUTED, outcome.value] == 1
    assert added.sums[EXECUTED, f"r_{outcome}"] == Decimal("-0.5")
    assert added.sums[EXECUTED, "r_squares"] == Decimal("0.25")


def test_a_forecast_without_an_expected_value_is_left_out_of_its_accuracy() -> None:
    added = added_by(labels(executed=an_outcome()), ev_r=None)

    assert {column for _, column in added.sums} == {"win", "r_win", "r_squares"}


def test_a_forecast_that_was_not_calibrated_is_not_counted_as_one() -> None:
    added = contribution(percents={P_WIN: 54, CONVICTION: 72}, ev_r=None, labels=labels(executed=an_outcome()))

    assert {kind for _, kind, _, _ in added.counts} == {P_WIN, CONVICTION}


def test_an_execution_moves_the_paper_label_to_another_source() -> None:
    before, after = labels(paper=on_paper()), labels(executed=an_outcome(LOSS, "-1.000000"), paper=on_paper())

    change = added_by(after) - added_by(before)

    assert change.counts[PAPER, P_WIN, 54, WIN] == -1
    assert change.counts[PAPER_OF_EXECUTED, P_WIN, 54, WIN] == 1
    assert change.counts[EXECUTED, P_WIN, 54, LOSS] == 1
    # What its gates saved is no other than before.
    assert change.blocked == {}


def test_the_same_labels_make_no_difference() -> None:
    same = labels(executed=an_outcome(), paper=on_paper())

    assert added_by(same) - added_by(same) == NOTHING


def test_a_correction_within_a_class_moves_r_alone() -> None:
    change = added_by(labels(executed=an_outcome(r="1.500000"))) - added_by(labels(executed=an_outcome(r="2.000000")))

    assert change.counts == {}
    # 1.5^2 - 2^2 = 2.25 - 4
    assert change.sums == {
        (EXECUTED, "r_win"): Decimal("-0.5"),
        (EXECUTED, "r_squares"): Decimal("-1.75"),
        (EXECUTED, "ev_r"): Decimal("-0.5"),
    }


OUTCOMES = st.builds(
    an_outcome,
    st.sampled_from(OutcomeClass),
    st.integers(-(10**9), 10**9).map(lambda millionths: str(Decimal(millionths).scaleb(-6))),
)
LABELS = st.builds(
    labels,
    st.none() | OUTCOMES,
    st.just(UNLABELLED.paper) | st.builds(PaperLabel, state=st.just(PaperState.RESOLVED), outcome=OUTCOMES),
)


@given(st.lists(LABELS, min_size=1, max_size=6))
def test_changes_add_up_to_the_last_label(history: list[Labels]) -> None:
    total = NOTHING
    for before, after in zip([UNLABELLED, *history], history, strict=False):
        total -= added_by(before) - added_by(after)

    assert total == added_by(history[-1])


@pytest.mark.parametrize(
    ("p", "percent"),
    [
        ("0.54", 54),
        ("0.5449999", 54),
        ("0.545", 55),
        ("0.5450001", 55),
        ("0.30", 30),
        ("0.60", 60),
        ("0.70", 70),
        ("0.01", 1),
        ("0.004", 1),
        ("0.00000000000001", 1),
        ("0.99", 99),
        ("0.996", 99),
        ("0.99999999999999", 99),
    ],
)
def test_a_probability_is_counted_at_its_nearest_percent(p: str, percent: int) -> None:
    assert whole_percent(Decimal(p)) == percent
