"""Tests of what a decider's record does to its entries: a mapped p_win, and how that is stored."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.standing import (
    UNCALIBRATED,
    CalibratorState,
    PlattCalibrator,
    SizingStanding,
    standing_from_json,
    standing_to_json,
)

IDENTITY = PlattCalibrator(intercept=0.0, slope=1.0)
PLATT = PlattCalibrator(intercept=-0.1, slope=0.9)
OFF, SHADOW, ON = CalibratorState


@pytest.mark.parametrize("percent", range(1, 100))
def test_an_intercept_of_0_and_a_slope_of_1_change_nothing(percent: int) -> None:
    assert float(IDENTITY.apply(percent / 100)) == pytest.approx(percent / 100, abs=1e-12)


@pytest.mark.parametrize(
    ("intercept", "slope", "p", "expected"),
    [
        # logit 0.8 = ln 4 = 2 ln 2
        (0.0, 0.5, 0.8, 2 / 3),  # logistic(ln 2)
        (0.0, 2.0, 0.8, 16 / 17),  # logistic(4 ln 2)
        (math.log(3), 1.0, 0.5, 0.75),  # logistic(ln 3)
        (-math.log(4), 1.0, 0.8, 0.5),
        (math.log(2), 0.0, 0.99, 2 / 3),  # the forecast says nothing
        (0.0, -1.0, 0.8, 0.2),  # the forecast is upside down
    ],
)
def test_the_logit_is_scaled_and_shifted(intercept: float, slope: float, p: float, expected: float) -> None:
    calibrator = PlattCalibrator(intercept=intercept, slope=slope)

    assert float(calibrator.apply(p)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("intercept", [1e3, -1e3, 1e308, -1e308])
def test_no_record_makes_a_forecast_certain(intercept: float) -> None:
    calibrated = PlattCalibrator(intercept=intercept, slope=1.0).apply(0.5)

    assert isinstance(calibrated, Decimal)
    assert 0 < calibrated < 1
    assert 0 < float(calibrated) < 1


def test_more_extreme_than_the_limit_is_as_extreme_as_the_limit() -> None:
    lowest, highest = (PlattCalibrator(intercept=limit, slope=0.0).apply(0.5) for limit in (-30.0, 30.0))

    assert PlattCalibrator(intercept=31.0, slope=0.0).apply(0.5) == highest
    assert PlattCalibrator(intercept=29.0, slope=0.0).apply(0.5) < highest
    assert PlattCalibrator(intercept=-31.0, slope=0.0).apply(0.5) == lowest
    assert PlattCalibrator(intercept=-29.0, slope=0.0).apply(0.5) > lowest


@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, 1.1, math.nan, math.inf])
def test_what_is_not_strictly_between_0_and_1_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        IDENTITY.apply(p)


# --- the standing that an entry is judged with ---------------------------------------------------------


@pytest.mark.parametrize("state", [SHADOW, ON])
def test_a_calibrator_that_is_applied_must_be_there(state: CalibratorState) -> None:
    with pytest.raises(ValueError, match=f"a calibrator in the state {state} must be given"):
        SizingStanding(state=state, calibrator_id=1, calibrator=None, derated=False, reason=None)


def test_off_applies_no_calibrator_and_shadow_uses_none() -> None:
    found = {
        state: SizingStanding(state=state, calibrator_id=1, calibrator=PLATT, derated=False, reason=None)
        for state in CalibratorState
    }

    assert {state: standing.active for state, standing in found.items()} == {OFF: False, SHADOW: False, ON: True}
    assert found[OFF].calibrated(0.6) is None
    assert found[SHADOW].calibrated(0.6) == found[ON].calibrated(0.6) == PLATT.apply(0.6)


def test_a_decider_of_which_nothing_is_known_is_neither_calibrated_nor_derated() -> None:
    assert not UNCALIBRATED.active
    assert not UNCALIBRATED.derated
    assert UNCALIBRATED.calibrated(0.6) is None


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.sampled_from(CalibratorState),
    st.none() | st.integers(1, 2**62),
    finite,
    finite,
    st.booleans(),
    st.none() | st.text(),
)
def test_a_stored_standing_is_read_back_to_the_last_bit(
    state: CalibratorState, number: int | None, intercept: float, slope: float, derated: bool, reason: str | None
) -> None:
    standing = SizingStanding(
        state=state,
        calibrator_id=number,
        calibrator=PlattCalibrator(intercept=intercept, slope=slope),
        derated=derated,
        reason=reason,
    )

    read = standing_from_json(json.loads(json.dumps(standing_to_json(standing))))

    assert read == standing
    assert json.dumps(standing_to_json(read)) == json.dumps(standing_to_json(standing))


def test_a_standing_without_a_calibrator_is_stored_too() -> None:
    assert standing_to_json(UNCALIBRATED) == {
        "state": "off",
        "calibrator_id": None,
        "calibrator": None,
        "derated": False,
        "reason": None,
    }
    assert standing_from_json(standing_to_json(UNCALIBRATED)) == UNCALIBRATED


def test_a_decision_without_a_stored_standing_was_judged_without_one() -> None:
    assert standing_from_json(None) == UNCALIBRATED


def test_a_whole_number_in_the_store_is_read_as_the_float_it_was() -> None:
    stored = {"state": "on", "calibrator_id": 3, "calibrator": {"intercept": 0, "slope": 1}, "derated": False}

    read = standing_from_json({**stored, "reason": None})

    assert read.calibrator is not None
    assert json.dumps(standing_to_json(read)["calibrator"]) == '{"intercept": 0.0, "slope": 1.0}'
