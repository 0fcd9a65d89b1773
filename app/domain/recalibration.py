"""Map a decider's stated probability to the one its record supports."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

FURTHEST_LOGIT: Final = 30.0
"""A calibrated probability comes no nearer to 0 or 1 than about 1e-13."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattCalibrator:
    """Recalibrate on the logit scale (Platt 1999): p -> logistic(intercept + slope x logit p)."""

    intercept: float
    slope: float

    def apply(self, p: float) -> Decimal:
        """Return the calibrated probability, in (0, 1).

        Raises:
            ValueError: p is not strictly between 0 and 1.
        """
        if not 0 < p < 1:
            raise ValueError(f"a forecast must lie strictly between 0 and 1, not {p}")
        logit = self.intercept + self.slope * math.log(p / (1 - p))
        # No forecast may be 0 or 1. Fourteen decimals are more than any record supports, and rid 45 % of the noise
        # that would put it below a limit of 45 %.
        p_calibrated = 1 / (1 + math.exp(-max(-FURTHEST_LOGIT, min(FURTHEST_LOGIT, logit))))
        return Decimal(repr(round(p_calibrated, 14)))
