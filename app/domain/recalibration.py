"""Map a decider's stated probability to the one its record supports."""

import math
from dataclasses import dataclass
from decimal import Decimal


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
        # Beyond +-36 the logistic rounds to 0 or 1 in double precision, and no forecast may be either.
        return Decimal(repr(1 / (1 + math.exp(-max(-36.0, min(36.0, logit))))))
