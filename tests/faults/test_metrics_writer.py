"""Of several processes one writes calibration; whatever becomes of it another does, and all of them show the same."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date, timedelta
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import httpx2
import psutil
import pytest

from app.calibration_watch import IDLE_S
from app.db.calibration_metrics import WINDOWS
from app.db.locks import CALIBRATION_LOCK
from tests.faults.conftest import Figures
from tests.faults.processes import Service, full_or_quick, owner_of, service
from tests.ledger import HAIKU, Foretold, keep

pytestmark = pytest.mark.xdist_group("waits")

KILLS = full_or_quick(6, 1)
PATIENCE_S = 20.0
FIGURES = ("brier", "slope", "calibration_error", "e_value", "resolved", "pending")

Owner: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_HOLDER = """
SELECT pid, client_port FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND (classid::bigint << 32 | objid::bigint) = $1
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def writers_of(owner: Owner) -> list[asyncpg.Record]:
    """The sessions that hold the lock of the writer."""
    return await owner.fetch(_HOLDER, CALIBRATION_LOCK)


def process_of(session: asyncpg.Record, running: list[Service]) -> Service:
    """The living process at the other end of a session's connection."""
    alive = [one for one in running if one.process.poll() is None]
    return next(one for one in alive if session["client_port"] in ports_of(one))


def ports_of(one: Service) -> set[int]:
    return {connection.laddr.port for connection in psutil.Process(one.process.pid).net_connections("tcp")}


async def resolve_one_more(owner: Owner, number: int) -> None:
    """Let an outcome arrive, of a forecast of yesterday."""
    day: date = await owner.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    label = ("win", "2") if number % 2 else ("loss", "-1")
    await keep(owner, [Foretold(day=day - timedelta(days=number % 20), percent=50 + number % 30, paper=label)])
    await owner.execute(
        "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)"
        " VALUES ($1, 'e-1', 'paper-1', 'paper', 'outcome', now(), '{}')",
        uuid4(),
    )


async def wait_for_resolved(owner: Owner, count: int) -> float:
    """Wait until a snapshot of each window has looked at so many outcomes; seconds."""
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_S):
        while await owner.fetchval(
            "SELECT count(DISTINCT window_days) FROM calibration_metrics WHERE resolved = $1", count
        ) < len(WINDOWS):
            await asyncio.sleep(0.05)
    return time.monotonic() - began


async def wait_for_another(owner: Owner, gone: int, *, patience_s: float = PATIENCE_S) -> tuple[asyncpg.Record, float]:
    """Wait until a session other than the one of this pid is the writer; the session and seconds."""
    began = time.monotonic()
    async with asyncio.timeout(patience_s):
        while True:
            found = await writers_of(owner)
            assert len(found) <= 1
            if found and found[0]["pid"] != gone:
                return found[0], time.monotonic() - began
            await asyncio.sleep(0.02)


async def gauges_of(client: httpx2.AsyncClient, one: Service) -> dict[str, str]:
    """What a process shows of calibration, to the last digit."""
    lines = (await client.get(f"{one.base_url}/metrics")).text.splitlines()
    shown = [line.rpartition(" ") for line in lines if 'decider="anthropic/' in line and line[:1] != "#"]
    return {name: value for name, _, value in shown}


async def wait_for_equal_gauges(
    client: httpx2.AsyncClient, running: list[Service], *, resolved: int
) -> tuple[dict[str, str], float]:
    """Wait until all processes show the record of so many outcomes; what they show, and seconds."""
    began = time.monotonic()
    sample = f'tradeverdict_resolved_decisions{{decider="{HAIKU}",window="90d"}}'
    async with asyncio.timeout(PATIENCE_S):
        while True:
            shown = [await gauges_of(client, one) for one in running]
            if all(gauges.get(sample) == f"{resolved}.0" for gauges in shown):
                break
            await asyncio.sleep(0.1)
    assert all(gauges == shown[0] for gauges in shown)
    return shown[0], time.monotonic() - began


@asynccontextmanager
async def never_two(owner_url: str) -> AsyncIterator[list[int]]:
    """Count the writers all the time."""
    seen: list[int] = []

    async def count() -> None:
        async with owner_of(owner_url) as owner:
            while True:
                seen.append(len(await writers_of(owner)))
                await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    try:
        yield seen
    finally:
        counting.cancel()
        await asyncio.wait([counting])


async def test_one_writes_and_when_it_is_killed_the_other_does_and_both_show_the_same(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    taken_over_s: list[float] = []
    written_s: list[float] = []
    shown_s: list[float] = []
    gauges: dict[str, str] = {}
    async with AsyncExitStack() as stack:

        async def another() -> Service:
            return await stack.enter_async_context(service(database_url, tmp_path))

        owner = await stack.enter_async_context(owner_of(database_url))
        for number in range(60):
            await resolve_one_more(owner, number)
        running = [await another(), await another()]
        seen = await stack.enter_async_context(never_two(database_url))
        writer, _ = await wait_for_another(owner, 0)
        await wait_for_resolved(owner, 60)
        for kill in range(1, KILLS + 1):
            await resolve_one_more(owner, 59 + kill)
            # The writer rests between passes; who takes over does not wait for that.
            killed = process_of(writer, running)
            began = time.monotonic()
            await killed.kill()
            writer, took_s = await wait_for_another(owner, writer["pid"])
            assert process_of(writer, running) is not killed
            taken_over_s.append(took_s)
            await wait_for_resolved(owner, 60 + kill)
            written_s.append(time.monotonic() - began)
            running = [*(one for one in running if one is not killed), await another()]
            gauges, waited_s = await wait_for_equal_gauges(client, running, resolved=60 + kill)
            shown_s.append(waited_s)
        rows = await owner.fetch("SELECT * FROM calibration_metrics ORDER BY metrics_id")

    assert max(seen) == 1
    assert len(gauges) == len(FIGURES) * len(WINDOWS) + 2
    # Each writer wrote all windows when it began, and nobody wrote the same record a second time meanwhile.
    taken = [(row["outcome_sequence"], row["window_days"]) for row in rows]
    assert len(set(taken)) == len(taken)
    latest = {row["window_days"]: row for row in rows}
    for days, row in latest.items():
        for name, figure in zip(
            ("brier_score", "calibration_slope", "calibration_error", "calibration_e_value"), FIGURES, strict=False
        ):
            assert float(gauges[f'tradeverdict_{name}{{decider="{HAIKU}",window="{days}d"}}']) == row[figure]
    figures(
        f"{KILLS} writers of calibration killed, 2 processes",
        most_writers_at_once=max(seen),
        times_counted=len(seen),
        taken_over_after_s=f"{min(taken_over_s):.2f} to {max(taken_over_s):.2f}",
        next_snapshot_after_s=f"{min(written_s):.2f} to {max(written_s):.2f}",
        equal_gauges_after_s=f"{max(shown_s):.2f}",
        rows=len(rows),
    )


async def test_a_writer_that_is_frozen_is_succeeded_and_changes_nothing_when_it_wakes(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(owner_of(database_url))
        for number in range(60):
            await resolve_one_more(owner, number)
        running = [await stack.enter_async_context(service(database_url, tmp_path)) for _ in range(2)]
        seen = await stack.enter_async_context(never_two(database_url))
        writer, _ = await wait_for_another(owner, 0)
        await wait_for_resolved(owner, 60)
        frozen = process_of(writer, running)
        frozen.signal(SIGSTOP)
        await resolve_one_more(owner, 60)
        writer, took_s = await wait_for_another(owner, writer["pid"], patience_s=IDLE_S + PATIENCE_S)
        await wait_for_resolved(owner, 61)
        before = await owner.fetchval("SELECT count(*) FROM calibration_metrics")
        frozen.signal(SIGCONT)
        _, shown_s = await wait_for_equal_gauges(client, running, resolved=61)
        after = await owner.fetchval("SELECT count(*) FROM calibration_metrics")
        still = await writers_of(owner)

    assert max(seen) == 1
    assert after == before
    assert [session["pid"] for session in still] == [writer["pid"]]
    figures(
        "a writer of calibration frozen",
        taken_over_after_s=f"{took_s:.1f}",
        rows_written_on_waking=after - before,
        shows_the_same_after_s=f"{shown_s:.1f}",
    )
