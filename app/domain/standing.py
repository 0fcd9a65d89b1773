"""Say what a decider's record does to its entries: the p_win that sizes them, and whether they are held small.

Nothing here looks at a record; `recalibration` does. This is what remains of it when an entry is judged, and it is
stored with the decision, so that the same judgement can be made again.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

FURTHEST_LOGIT: Final = 30.0
"""A calibrated probability comes no nearer to 0 or 1 than about 1e-13."""


class CalibratorState(StrEnum):
    """Name how far a calibrator is trusted: not at all, recorded beside the stated p, or used for it."""

    OFF = "off"
    SHADOW = "shadow"
    ON = "on"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingStanding:
    """Hold what a decider's record does to its entries: the calibrator, its state, and whether size is derated.

    `reason` says in one sentence why the size is derated; None when it is not.

    Raises:
        ValueError: the state is shadow or on, and there is no calibrator to apply.
    """

    state: CalibratorState
    calibrator_id: int | None
    calibrator: PlattCalibrator | None
    derated: bool
    reason: str | None

    def __post_init__(self) -> None:
        if self.state is not CalibratorState.OFF and self.calibrator is None:
            raise ValueError(f"a calibrator in the state {self.state} must be given")

    @property
    def active(self) -> bool:
        """Tell whether the calibrated p is the one that edge and size use."""
        return self.state is CalibratorState.ON

    def calibrated(self, p: float) -> Decimal | None:
        """Map a stated p in shadow and on; None when the calibrator is off.

        Raises:
            ValueError: p is not strictly between 0 and 1.
        """
        if self.state is CalibratorState.OFF or self.calibrator is None:
            return None
        return self.calibrator.apply(p)


UNCALIBRATED: Final = SizingStanding(
    state=CalibratorState.OFF, calibrator_id=None, calibrator=None, derated=False, reason=None
)
"""The standing of a decider of which nothing is known yet."""


def standing_to_json(standing: SizingStanding) -> dict[str, Any]:
    """Write a standing for storage; floats are written as they are, so that reading gives the very same."""
    calibrator = standing.calibrator
    return {
        "state": standing.state.value,
        "calibrator_id": standing.calibrator_id,
        "calibrator": (None if calibrator is None else {"intercept": calibrator.intercept, "slope": calibrator.slope}),
        "derated": standing.derated,
        "reason": standing.reason,
    }


def standing_from_json(stored: dict[str, Any] | None) -> SizingStanding:
    """Read what standing_to_json wrote; None (nothing was stored) is the standing of an unknown decider.

    Raises:
        KeyError, ValueError: it was not written by standing_to_json.
    """
    if stored is None:
        return UNCALIBRATED
    calibrator = stored["calibrator"]
    return SizingStanding(
        state=CalibratorState(stored["state"]),
        calibrator_id=stored["calibrator_id"],
        calibrator=(
            None
            if calibrator is None
            else PlattCalibrator(intercept=float(calibrator["intercept"]), slope=float(calibrator["slope"]))
        ),
        derated=stored["derated"],
        reason=stored["reason"],
    )
