"""Tests of mapping a stated probability to the one its record supports."""

import math
from decimal import Decimal

import pytest

from app.domain.recalibration import PlattCalibrator

IDENTITY = PlattCalibrator(intercept=0.0, slope=1.0)


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
