"""Watch how calibrated deciders are: one replica writes it down, every replica reads it.

The writer is whoever holds `CALIBRATION_LOCK`, on a connection of its own that does all its work: who loses the
connection loses the lock and can write nothing more, and another replica takes over within seconds. A writer that is
frozen is cut off by the server after `IDLE_S`.

A pass reads the counts as they are at one moment, examines every calibrator, takes snapshots and writes what changed.
It is made when outcomes have arrived, and at least once an hour, then for figures that did not change too.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from app.db.calibration_metrics import (
    LONGEST,
    WINDOWS,
    Forecasts,
    Moment,
    Series,
    Snapshot,
    append_snapshot,
    count_pending,
    latest_snapshots,
    read_moment,
    read_tallies,
    snapshot_of,
)
from app.db.calibrators import (
    Scored,
    StoredCalibrator,
    append_calibrator,
    cells_to_fit,
    latest_calibrators,
)
from app.db.engine import Connection, StoreUnavailable, create_pool
from app.db.locks import become_calibration_writer
from app.db.standings import Standings, allowed, reason_for_derating
from app.domain.calibration import Report, calibration_report
from app.domain.outcome import ForecastKind
from app.domain.recalibration import CalibratorFit, CalibratorStanding, FitCell, fit_calibrator, next_standing
from app.domain.standing import CalibratorState
from app.domain.tally import Tally
from app.settings import Derating, Recalibration, Settings
from app.telemetry import Metrics

FOLLOW_S: Final = 3.0
"""How often every replica reads."""
IDLE_S: Final = 15
"""A writer that says nothing for this long is taken for frozen."""
STATEMENT_S: Final = 60
"""Adding up all counts may take longer than anything a request waits for."""
RESTS: Final = 10
"""A pass is followed by a rest of this many times its length, so that a large store is not kept busy."""
AFTER_A_BUG_S: Final = 30.0

# A peer that vanished without a word is noticed in 5 + 3 x 2 s.
_SESSION: Final = f"""
SET statement_timeout = '{STATEMENT_S}s'; SET idle_session_timeout = '{IDLE_S}s';
SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Say how often the writer looks for outcomes, the least time between passes, and the most; seconds."""

    look_s: float = 1.0
    least_s: float = 10.0
    most_s: float = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratorChange:
    """Hold what an examination changes: the standing from now on, and the trial that it follows from."""

    scored: Scored
    before: CalibratorState
    standing: CalibratorStanding
    fit: CalibratorFit
    resolved: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Hold what the store knew at one moment: all that a pass is made from.

    `tallies` and `pending` are by window in days.
    """

    moment: Moment
    calibrators: Mapping[Scored, StoredCalibrator]
    cells: Mapping[Scored, Sequence[FitCell]]
    snapshots: Mapping[Series, Snapshot]
    tallies: Mapping[int, Mapping[Forecasts, Tally]]
    pending: Mapping[int, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Hold what a pass found: what changes of calibrators, and all snapshots with their reports."""

    changes: tuple[CalibratorChange, ...]
    snapshots: tuple[tuple[Snapshot, Report], ...]


async def follow_calibration(standings: Standings, metrics: Metrics) -> None:
    """Keep the standings and the gauges as the store has them, until cancelled; every replica does."""
    reachable = True
    while True:
        try:
            record = await standings.refresh()
            metrics.show_calibration(record.snapshots)
            reachable = True
        except StoreUnavailable as error:
            if reachable:
                log.warning("calibration is not followed", reason=str(error))
            reachable = False
        except Exception:  # a bug must not end the watch
            log.exception("calibration is not followed")
        await asyncio.sleep(FOLLOW_S)


async def write_calibration(database_url: str, settings: Settings, *, pace: Pace | None = None) -> None:
    """Write snapshots and calibrators whenever no other replica does, until cancelled."""
    writer = CalibrationWriter(settings, pace=pace or Pace())
    reachable = True
    while True:
        pause_s = writer.pace.look_s
        try:
            pool = await create_pool(database_url, min_size=0, max_size=1, application_name="tradeverdict calibration")
            try:
                async with pool.connection() as connection:
                    reachable = True
                    await writer.write_on(connection)
            finally:
                await pool.close()
        except StoreUnavailable as error:
            if reachable:
                log.warning("calibration is not written", reason=str(error))
            reachable = False
        except Exception:
            log.exception("calibration is not written")
            pause_s = AFTER_A_BUG_S
        await asyncio.sleep(pause_s)


class CalibrationWriter:
    """Be the one that writes, for as long as the connection and its lock last."""

    def __init__(self, settings: Settings, *, pace: Pace) -> None:
        self.pace = pace
        self._settings = settings

    async def write_on(self, connection: Connection) -> None:
        """Wait to become the writer, and write until the connection ends.

        Raises:
            StoreUnavailable: it ended, and so did the lock.
        """
        await connection.execute(_SESSION)
        while not await become_calibration_writer(connection):  # noqa: ASYNC110 (another process holds it)
            await asyncio.sleep(self.pace.look_s)
        log.info("calibration is written here")
        written, last_full, rested = None, None, time.monotonic()
        while True:
            now = time.monotonic()
            moment = await read_moment(connection)
            full = last_full is None or now - last_full >= self.pace.most_s
            if full or (now >= rested and moment.outcome_sequence != written):
                written = await self.make_pass(connection, full=full)
                last_full = now if full else last_full
                ended = time.monotonic()
                rested = ended + max(self.pace.least_s, RESTS * (ended - now))
            await asyncio.sleep(self.pace.look_s)

    async def make_pass(self, connection: Connection, *, full: bool) -> int:
        """Examine everything and write what changed, or all of it; return the last outcome that was looked at."""
        known = await read_known(connection)
        findings = await asyncio.to_thread(self.examine, known)
        taken = [
            (snapshot, report)
            for snapshot, report in findings.snapshots
            if full or not _is_known(snapshot, known.snapshots.get((snapshot.decider, snapshot.window_days)))
        ]
        if findings.changes or taken:
            await connection.execute("BEGIN")
            for change in findings.changes:
                await append_calibrator(
                    connection,
                    scored=change.scored,
                    standing=change.standing,
                    fit=change.fit,
                    resolved=change.resolved,
                )
            for snapshot, report in taken:
                await append_snapshot(connection, snapshot, report=report)
            await connection.execute("COMMIT")
        _report(known, findings)
        return known.moment.outcome_sequence

    def examine(self, known: Known) -> Findings:
        """Decide how every calibrator stands, and take every snapshot."""
        changes = tuple(
            change
            for scored in sorted(known.cells.keys() | known.calibrators.keys())
            if (change := self._examine_calibrator(known.calibrators.get(scored), scored, known.cells.get(scored, ())))
        )
        states = {scored: stored.state for scored, stored in known.calibrators.items()}
        states |= {change.scored: change.standing.state for change in changes}
        deciders = {decider for decider, _ in (*known.cells, *known.snapshots)} | known.pending[LONGEST].keys()
        snapshots = [
            taken
            for decider in sorted(deciders)
            for taken in self._take_snapshots(known, decider, forecast_in_use(decider, states, known.cells))
        ]
        return Findings(changes=changes, snapshots=tuple(snapshots))

    def _examine_calibrator(
        self, stored: StoredCalibrator | None, scored: Scored, cells: Sequence[FitCell]
    ) -> CalibratorChange | None:
        """Fit anew and decide; None where nobody has to know."""
        before = (
            CalibratorStanding(state=CalibratorState.OFF, calibrator=None, reason="", resolved=0)
            if stored is None
            else stored.standing
        )
        if self._settings.recalibration is Recalibration.OFF and before.state is CalibratorState.OFF:
            return None
        resolved = sum(n for *_, n in cells)
        fit = fit_calibrator(cells)
        after = next_standing(
            previous=before, fit=fit, resolved=resolved, min_decisions=self._settings.calibration_min_decisions
        )
        after = within_setting(after, before=before, recalibration=self._settings.recalibration)
        change = CalibratorChange(scored=scored, before=before.state, standing=after, fit=fit, resolved=resolved)
        if after.state is not before.state:
            return change
        if after.state is not CalibratorState.OFF:
            return None if after.calibrator == before.calibrator else change
        # Why one is still off is told at its first trial, and again each time the record has doubled.
        tried = fit.gain_z is not None and resolved >= 2 * (0 if stored is None else stored.resolved)
        return change if tried else None

    def _take_snapshots(self, known: Known, decider: str, forecast: ForecastKind) -> list[tuple[Snapshot, Report]]:
        reports = {
            days: calibration_report(
                known.tallies[days].get((decider, forecast), Tally(by_percent={})),
                min_decisions=self._settings.calibration_min_decisions,
            )
            for days in WINDOWS
        }
        before = known.snapshots.get((decider, LONGEST))
        held = before is not None and before.derated and before.forecast is forecast and reports[LONGEST].in_doubt
        derated = self._settings.calibration_derating is Derating.ON and (reports[LONGEST].rejected or held)
        return [
            (
                snapshot_of(
                    report,
                    window_days=days,
                    decider=decider,
                    forecast=forecast,
                    pending=known.pending[days].get(decider, 0),
                    derated=derated,
                    outcome_sequence=known.moment.outcome_sequence,
                ),
                report,
            )
            for days, report in reports.items()
        ]


async def read_known(connection: Connection) -> Known:
    """Read what the store knows at this moment."""
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    moment = await read_moment(connection)
    known = Known(
        moment=moment,
        calibrators=await latest_calibrators(connection),
        cells=await cells_to_fit(connection, timeout_s=STATEMENT_S),
        snapshots={series: stored.snapshot for series, stored in (await latest_snapshots(connection)).items()},
        tallies={
            days: await read_tallies(connection, today=moment.today, days=days, timeout_s=STATEMENT_S)
            for days in WINDOWS
        },
        pending={
            days: await count_pending(connection, today=moment.today, days=days, timeout_s=STATEMENT_S)
            for days in WINDOWS
        },
    )
    await connection.execute("ROLLBACK")  # it only read
    return known


def within_setting(
    standing: CalibratorStanding, *, before: CalibratorStanding, recalibration: Recalibration
) -> CalibratorStanding:
    """Hold a standing back to the furthest state that the setting allows."""
    state = allowed(standing.state, recalibration)
    if state is standing.state:
        return standing
    return CalibratorStanding(
        state=state,
        calibrator=None if state is CalibratorState.OFF else standing.calibrator,
        reason=f"Kept {state} by RECALIBRATION={recalibration}, which overrules: {standing.reason}",
        resolved=before.resolved if state is before.state else standing.resolved,
    )


def forecast_in_use(
    decider: str, states: Mapping[Scored, CalibratorState], cells: Mapping[Scored, Sequence[FitCell]]
) -> ForecastKind:
    """Tell which p_win the edge and size of a decider use: what its prompt with the latest outcomes has come to."""
    latest = max(
        ((days[-1][0], sum(n for *_, n in days), scored) for scored, days in cells.items() if scored[0] == decider),
        default=None,
    )
    on = latest is not None and states.get(latest[2]) is CalibratorState.ON
    return ForecastKind.P_WIN_CALIBRATED if on else ForecastKind.P_WIN


def _is_known(snapshot: Snapshot, latest: Snapshot | None) -> bool:
    return latest is not None and snapshot.same_figures(latest)


def _report(known: Known, findings: Findings) -> None:
    """Log what is different from now on."""
    for change in findings.changes:
        decider, prompt_hash = change.scored
        log.info(
            "calibrator examined" if change.standing.state is change.before else "calibrator changed",
            decider=decider,
            prompt_hash=prompt_hash,
            before=change.before.value,
            state=change.standing.state.value,
            resolved=change.resolved,
            reason=change.standing.reason,
        )
    for snapshot, _ in findings.snapshots:
        before = known.snapshots.get((snapshot.decider, snapshot.window_days))
        was_derated = before is not None and before.derated
        if snapshot.window_days == LONGEST and snapshot.derated is not was_derated:
            log.warning(
                "decider derated" if snapshot.derated else "decider no longer derated",
                decider=snapshot.decider,
                reason=reason_for_derating(snapshot) if snapshot.derated else None,
            )
