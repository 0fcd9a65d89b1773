"""Every change of a calibrator is kept, the latest row is in force, and calibrators are fitted on the counts."""

from datetime import date
from typing import Any

import pytest

from app.db.calibrators import append_calibrator, cells_to_fit, latest_calibrators
from app.db.engine import Connection, ConnectionPool, StoreUnavailable
from app.domain.recalibration import CalibratorFit, CalibratorStanding
from app.domain.standing import CalibratorState, PlattCalibrator
from tests.ledger import HAIKU, PROMPT, Foretold, keep

OTHER_PROMPT = "cd" * 32
SCORED = (HAIKU, PROMPT)
MAP = PlattCalibrator(intercept=-0.3, slope=0.1 + 0.2)
FIT = CalibratorFit(calibrator=MAP, fitted_on=70, held_out=30, gain_brier=0.0125, gain_z=2.5)
MONDAY, TUESDAY = date(2026, 3, 2), date(2026, 3, 3)


async def appended(connection: Connection, state: CalibratorState, *, resolved: int, **changes: Any) -> int:
    """Put a calibrator in force; off, it has no map."""
    calibrator = None if state is CalibratorState.OFF else MAP
    standing = CalibratorStanding(state=state, calibrator=calibrator, reason="A reason.", resolved=resolved)
    return await append_calibrator(
        connection, **{"scored": SCORED, "standing": standing, "fit": FIT, "resolved": resolved, **changes}
    )


async def test_nobody_has_a_calibrator_at_first(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        assert await latest_calibrators(connection) == {}
        assert await cells_to_fit(connection) == {}


async def test_the_latest_row_of_each_decider_and_prompt_is_in_force(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        for scored in (("rules", PROMPT), (HAIKU, OTHER_PROMPT), SCORED):
            await appended(connection, CalibratorState.OFF, resolved=100, scored=scored)
            await appended(connection, CalibratorState.SHADOW, resolved=200, scored=scored)
        newest = await appended(connection, CalibratorState.ON, resolved=230)
        found = await latest_calibrators(connection)

    assert {scored: (stored.state, stored.resolved) for scored, stored in found.items()} == {
        ("rules", PROMPT): (CalibratorState.SHADOW, 200),
        (HAIKU, OTHER_PROMPT): (CalibratorState.SHADOW, 200),
        SCORED: (CalibratorState.ON, 230),
    }
    assert found[SCORED].calibrator_id == newest
    assert found[SCORED].calibrator == MAP  # to the last bit
    assert found[SCORED].reason == "A reason."


async def test_a_state_counts_from_the_row_that_entered_it(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        await appended(connection, CalibratorState.SHADOW, resolved=100)
        await appended(connection, CalibratorState.OFF, resolved=120)
        await appended(connection, CalibratorState.SHADOW, resolved=150)
        await appended(connection, CalibratorState.SHADOW, resolved=160)
        # Another decider that changes its mind meanwhile changes nothing here.
        await appended(connection, CalibratorState.OFF, resolved=500, scored=("rules", PROMPT))
        await appended(connection, CalibratorState.SHADOW, resolved=165)
        stored = (await latest_calibrators(connection))[SCORED]

    assert (stored.resolved, stored.resolved_at_entry) == (165, 150)
    assert stored.standing == CalibratorStanding(
        state=CalibratorState.SHADOW, calibrator=MAP, reason="A reason.", resolved=150
    )


async def test_what_is_in_use_cannot_be_stored_without_its_map(pool: ConnectionPool) -> None:
    standing = CalibratorStanding(state=CalibratorState.ON, calibrator=None, reason="A reason.", resolved=100)

    with pytest.raises(StoreUnavailable, match="calibrators_map_in_use_check"):
        async with pool.connection() as connection:
            await append_calibrator(connection, scored=SCORED, standing=standing, fit=FIT, resolved=100)


async def test_the_service_can_not_rewrite_what_was_in_force(pool: ConnectionPool, owner: Connection) -> None:
    async with pool.connection() as connection:
        await appended(connection, CalibratorState.SHADOW, resolved=100)

    for change in ("UPDATE calibrators SET state = 'off'", "DELETE FROM calibrators"):
        with pytest.raises(StoreUnavailable, match="permission denied"):
            async with pool.connection() as connection:
                await connection.execute(change)


async def test_cells_add_up_accounts_setups_and_directions_and_every_label_counts_once(
    pool: ConnectionPool, owner: Connection
) -> None:
    loss, win, timeout = ("loss", "-1"), ("win", "2"), ("timeout", "0.3")
    await keep(
        owner,
        [
            Foretold(day=TUESDAY, percent=54, paper=win),
            Foretold(day=MONDAY, percent=60, account_id="paper-2", setup="breakout", direction="short", paper=win),
            Foretold(day=MONDAY, percent=60, account_id="paper-3", paper=loss),
            Foretold(day=MONDAY, percent=54, paper=timeout, calibrated=40),
            # As executed it was lost; that it won on paper counts nowhere here.
            Foretold(day=MONDAY, percent=60, executed=loss, paper=win),
            Foretold(day=MONDAY, percent=60),
            Foretold(day=MONDAY, percent=60, prompt_hash=OTHER_PROMPT, paper=("scratch", "0")),
            Foretold(day=MONDAY, percent=60, decider="rules", paper=win),
        ],
    )
    async with pool.connection() as connection:
        cells = await cells_to_fit(connection)

    assert cells == {
        # day, percent, wins, n
        SCORED: [(MONDAY, 54, 0, 1), (MONDAY, 60, 1, 3), (TUESDAY, 54, 1, 1)],
        (HAIKU, OTHER_PROMPT): [(MONDAY, 60, 0, 1)],
        ("rules", PROMPT): [(MONDAY, 60, 1, 1)],
    }


async def test_what_no_calibrator_can_map_is_not_fitted(pool: ConnectionPool, owner: Connection) -> None:
    await keep(owner, [Foretold(day=MONDAY, percent=percent, paper=("loss", "-1")) for percent in (1, 2, 98, 99)])
    await owner.execute("UPDATE calibration_counts SET percent = 0 WHERE percent = 2")
    await owner.execute("UPDATE calibration_counts SET percent = 100 WHERE percent = 98")
    async with pool.connection() as connection:
        cells = await cells_to_fit(connection)

    assert [percent for _, percent, *_ in cells[SCORED]] == [1, 99]
