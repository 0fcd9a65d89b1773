"""Keep every change of a decider's calibrator, and read what calibrators are fitted on.

A calibrator belongs to one decider and one prompt template. Its latest row is in force; none means off.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from app.db.engine import Connection
from app.db.statistics import LABELS, Source
from app.domain.outcome import ForecastKind
from app.domain.recalibration import CalibratorFit, CalibratorStanding, FitCell
from app.domain.standing import CalibratorState, PlattCalibrator

Scored: TypeAlias = tuple[str, str]
"""Whose forecasts are calibrated together: a decider and the hash of its prompt template."""

# A walk from one decider and prompt to the next: the table grows with every change, its keys do not.
_READ_LATEST: Final = """
WITH RECURSIVE scored AS (
    (SELECT decider, prompt_hash FROM calibrators ORDER BY decider, prompt_hash LIMIT 1)
    UNION ALL
    SELECT next.decider, next.prompt_hash FROM scored CROSS JOIN LATERAL (
        SELECT decider, prompt_hash FROM calibrators
        WHERE (decider, prompt_hash) > (scored.decider, scored.prompt_hash)
        ORDER BY decider, prompt_hash LIMIT 1
    ) AS next
)
SELECT latest.*, entry.resolved AS resolved_at_entry
FROM scored
CROSS JOIN LATERAL (
    SELECT calibrator_id, decider, prompt_hash, state, intercept, slope, resolved, reason, made_at FROM calibrators
    WHERE decider = scored.decider AND prompt_hash = scored.prompt_hash
    ORDER BY calibrator_id DESC LIMIT 1
) AS latest
CROSS JOIN LATERAL (
    SELECT resolved FROM calibrators
    WHERE decider = latest.decider AND prompt_hash = latest.prompt_hash AND calibrator_id > coalesce(
        (
            SELECT max(calibrator_id) FROM calibrators
            WHERE decider = latest.decider AND prompt_hash = latest.prompt_hash AND state <> latest.state
        ),
        0
    )
    ORDER BY calibrator_id LIMIT 1
) AS entry
"""
_APPEND: Final = """
INSERT INTO calibrators (
    decider, prompt_hash, state, intercept, slope, resolved, fitted_on, held_out, gain_brier, gain_z, reason
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING calibrator_id
"""
_READ_CELLS: Final = """
SELECT
    decider, prompt_hash, day, percent, sum(win)::bigint AS wins,
    sum(win + loss + scratch + timeout)::bigint AS n
FROM calibration_counts WHERE forecast = $1 AND source = ANY ($2) AND percent BETWEEN 1 AND 99
GROUP BY decider, prompt_hash, day, percent
HAVING sum(win + loss + scratch + timeout) > 0
ORDER BY decider, prompt_hash, day, percent
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCalibrator:
    """Hold the latest row of a decider and prompt.

    `resolved` counts the outcomes when it was written, `resolved_at_entry` those when its state was entered.
    """

    calibrator_id: int
    decider: str
    prompt_hash: str
    state: CalibratorState
    calibrator: PlattCalibrator | None
    resolved: int
    resolved_at_entry: int
    reason: str
    made_at: datetime

    @property
    def standing(self) -> CalibratorStanding:
        """Give what the next standing is decided from."""
        return CalibratorStanding(
            state=self.state, calibrator=self.calibrator, reason=self.reason, resolved=self.resolved_at_entry
        )


async def latest_calibrators(connection: Connection) -> dict[Scored, StoredCalibrator]:
    """Read the calibrators in force, by decider and prompt."""
    found = {}
    for row in await connection.fetch(_READ_LATEST):
        values = dict(row)
        intercept, slope = values.pop("intercept"), values.pop("slope")
        calibrator = None if intercept is None else PlattCalibrator(intercept=intercept, slope=slope)
        values["state"] = CalibratorState(values["state"])
        found[row["decider"], row["prompt_hash"]] = StoredCalibrator(calibrator=calibrator, **values)
    return found


async def append_calibrator(
    connection: Connection, *, scored: Scored, standing: CalibratorStanding, fit: CalibratorFit, resolved: int
) -> int:
    """Put a calibrator in force, with the trial it passed or failed on so many resolved outcomes; return its id."""
    calibrator = standing.calibrator
    calibrator_id: int = await connection.fetchval(
        _APPEND,
        *scored,
        standing.state,
        None if calibrator is None else calibrator.intercept,
        None if calibrator is None else calibrator.slope,
        resolved,
        fit.fitted_on,
        fit.held_out,
        fit.gain_brier,
        fit.gain_z,
        standing.reason,
    )
    return calibrator_id


async def cells_to_fit(connection: Connection, *, timeout_s: float | None = None) -> Mapping[Scored, Sequence[FitCell]]:
    """Read all resolved p_win by day and percent, in order of days; a win counts 1, every other outcome 0."""
    cells: defaultdict[Scored, list[FitCell]] = defaultdict(list)
    for row in await connection.fetch(_READ_CELLS, ForecastKind.P_WIN, list(LABELS[Source.ALL]), timeout=timeout_s):
        cells[row["decider"], row["prompt_hash"]].append((row["day"], row["percent"], row["wins"], row["n"]))
    return cells
