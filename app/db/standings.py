"""Know how every decider stands, without asking the store for each decision.

A decision is judged by what was read at most `STALE_S` seconds ago. Who knows nothing newer asks the store; when that
does not answer nothing is judged, because a decider that was derated meanwhile would be sized as if it were not.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from app.db.calibration_metrics import LONGEST, Snapshot, latest_snapshots
from app.db.calibrators import Scored, StoredCalibrator, latest_calibrators
from app.db.engine import ConnectionPool
from app.domain.outcome import ForecastKind
from app.domain.standing import UNCALIBRATED, CalibratorState, SizingStanding
from app.settings import Derating, Recalibration

STALE_S: Final = 60.0

_NAMES: Final = {ForecastKind.P_WIN: "p_win", ForecastKind.P_WIN_CALIBRATED: "calibrated p_win"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """Hold the calibrators in force, and the latest snapshots of all deciders and windows."""

    calibrators: Mapping[Scored, StoredCalibrator]
    snapshots: tuple[Snapshot, ...]


class Standings:
    """Tell what a decider's record does to its entries, within what the settings allow."""

    def __init__(
        self, pool: ConnectionPool, *, recalibration: Recalibration, derating: Derating, stale_s: float = STALE_S
    ) -> None:
        self._pool = pool
        self._recalibration = recalibration
        self._derating = derating
        self._stale_s = stale_s
        self._read_at: float | None = None
        self._standings: Mapping[Scored, SizingStanding] = MappingProxyType({})
        self._derated: Mapping[str, SizingStanding] = MappingProxyType({})

    async def of(self, *, decider: str, prompt_hash: str) -> SizingStanding:
        """Give the standing of a decider with a prompt template; as a rule without asking the store.

        Raises:
            StoreUnavailable: what is known is too old, and the store cannot be read.
        """
        if self._read_at is None or time.monotonic() - self._read_at > self._stale_s:
            await self.refresh()
        return self._standings.get((decider, prompt_hash)) or self._derated.get(decider, UNCALIBRATED)

    async def refresh(self) -> CalibrationRecord:
        """Read the whole record anew, and return it.

        Raises:
            StoreUnavailable: the store cannot be read; what was known stays, and grows older.
        """
        began = time.monotonic()
        async with self._pool.connection() as connection:
            calibrators = await latest_calibrators(connection)
            snapshots = await latest_snapshots(connection)
        record = CalibrationRecord(
            calibrators=calibrators, snapshots=tuple(stored.snapshot for stored in snapshots.values())
        )
        if self._read_at is not None and began < self._read_at:
            return record  # what began later has overtaken it
        reasons = self._reasons_for_derating(record)
        self._derated = MappingProxyType(
            {decider: _standing(None, CalibratorState.OFF, reason) for decider, reason in reasons.items()}
        )
        self._standings = MappingProxyType(
            {
                scored: _standing(stored, allowed(stored.state, self._recalibration), reasons.get(stored.decider))
                for scored, stored in calibrators.items()
            }
        )
        self._read_at = began
        return record

    def _reasons_for_derating(self, record: CalibrationRecord) -> dict[str, str]:
        if self._derating is Derating.OFF:
            return {}
        return {
            snapshot.decider: reason_for_derating(snapshot)
            for snapshot in record.snapshots
            if snapshot.derated and snapshot.window_days == LONGEST
        }


def allowed(state: CalibratorState, recalibration: Recalibration) -> CalibratorState:
    """Give the state, or the one nearest to it that the setting allows."""
    if recalibration is Recalibration.OFF:
        return CalibratorState.OFF
    if recalibration is Recalibration.SHADOW and state is CalibratorState.ON:
        return CalibratorState.SHADOW
    return state


def reason_for_derating(snapshot: Snapshot) -> str:
    """Say in one sentence what the record shows against a decider."""
    figures = {
        "e-value": snapshot.e_value,
        "t of the level": snapshot.calibration_error_t,
        "t of the spread": snapshot.slope_t,
    }
    said = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items() if figure is not None)
    return (
        f"The {_NAMES.get(snapshot.forecast, snapshot.forecast)} of the last {snapshot.window_days} days "
        f"{'is rejected' if snapshot.rejected else 'was rejected and has not recovered'} "
        f"({snapshot.resolved} resolved: {said}), so no entry earns more than the lowest size multiplier."
    )


def _standing(stored: StoredCalibrator | None, state: CalibratorState, reason: str | None) -> SizingStanding:
    in_use = None if state is CalibratorState.OFF else stored
    return SizingStanding(
        state=state,
        calibrator_id=None if in_use is None else in_use.calibrator_id,
        calibrator=None if in_use is None else in_use.calibrator,
        derated=reason is not None,
        reason=reason,
    )
