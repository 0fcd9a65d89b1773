"""Measure 1, 2 and 4 workers on one PostgreSQL, and recount afterwards that no limit was exceeded.

    .venv/bin/python bench/workers.py [--seconds 3] [--slices 6] [--workers 1 2 4]

Each turn starts an embedded PostgreSQL with durable commits, a stand-in for the Messages API that answers at once, and
so many workers (keys, gates, audit and reservations on). 32 clients on 16 accounts ask as fast as they are answered;
each asks the workers in turn, so every account is asked about at all of them at once. Orders are large and reservations
live for three seconds: each account is at its limits all the time.

Then, from the database alone, every approved order is held to every limit with all that was reserved at that moment;
bars are reported, which resolve forecasts; and the calibration gauges of all workers must become equal.
Clients, stand-in, workers and PostgreSQL share the machine's cores: ratios count, and only roughly. Of the slices of
a turn the one is shown in which whatever else ran on the machine took least of it.
"""

import argparse
import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from string import ascii_uppercase

import aiohttp
import asyncpg
import orjson
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.embedded import EmbeddedPostgres
from app.db.engine import create_pool
from app.db.migrate import upgrade
from app.db.vocabulary import Scope
from bench.overhead import ACCOUNT, ACCOUNTS, JSON, OTHERS, TRADED, VOLUMES, upstream
from tests.deploy.stored_limits import recount_limits
from tests.faults.processes import Service, asking, services

CLIENTS = 32
WARM_UP_S = 3.0
POOL_SIZE = 10
AGE = timedelta(hours=2)
"""How old snapshots are, so that there can be bars after them."""
SETTINGS = {
    "AUTH": "on",
    "LOG_LEVEL": "warning",
    "RATE_LIMIT_PER_MINUTE": 1_000_000,
    "DATABASE_POOL_SIZE": POOL_SIZE,
    "MAX_SNAPSHOT_AGE_S": 86_400,
    "RESERVATION_TTL_S": 3,
    # Answers are to come late here rather than not at all: four workers share two cores with everything else.
    "DECISION_DEADLINE_MS": 10_000,
    "IDEMPOTENCY_LEASE_S": 60,
}
RESOLVED = 100
"""So many forecasts are resolved: above the least that give a verdict."""
FILLS, WINS, LOSES = (126.0, 126.5, 125.0, 126.0), (126.0, 140.0, 125.5, 139.5), (126.0, 126.5, 119.0, 119.5)
APPROVED = {"approved", "resized"}
EQUAL_S = 60.0
RESOLVED_GAUGE = 'tradeverdict_resolved_decisions{decider="anthropic/claude-haiku-5-5",window="90d"}'
CALIBRATION = (
    "tradeverdict_brier_score",
    "tradeverdict_calibration_",
    "tradeverdict_resolved_decisions",
    "tradeverdict_pending_decisions",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn showed: times in ms, CPU in cores used."""

    workers: int
    asked: int
    verdicts: Counter[str]
    rate: float
    p50_ms: float
    p99_ms: float
    services_cpu: float
    postgres_cpu: float
    clients_cpu: float
    others_cpu: float
    connections: int


def bodies(client: int, symbols: Iterator[str]) -> Iterator[bytes]:
    """Give what one client sends: its account, a new symbol each time."""
    account = ACCOUNT | {"id": ACCOUNTS[client % len(ACCOUNTS)]}
    for symbol in symbols:
        market = [{"symbol": name} | VOLUMES | figures for name, figures in ({symbol: TRADED} | OTHERS).items()]
        yield orjson.dumps({"account": account, "as_of": datetime.now(UTC) - AGE, "market": market})


class CpuClock:
    """Add up the CPU seconds of processes and their children; those that end are counted as far as was seen."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._roots = [psutil.Process(pid) for pid in pids]
        self._began = self._read()

    def used_s(self) -> float:
        """Give the seconds since this was made."""
        now = self._read()
        return sum(seconds - self._began.get(pid, 0.0) for pid, seconds in now.items())

    def _read(self) -> dict[int, float]:
        used: dict[int, float] = {}
        for root in self._roots:
            for process in (root, *root.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used[process.pid] = times.user + times.system
        return used


def postmaster_of(server: EmbeddedPostgres) -> int:
    """Read the pid of PostgreSQL's first process."""
    return int((server.cluster / "postmaster.pid").read_text().split()[0])


async def load(
    running: Sequence[Service], *, token: str, symbols: Iterator[str], seconds: float
) -> list[tuple[float, str]]:
    """Ask all workers for so long; the time of each answer in ms, and its verdict, or the code of its refusal.

    Raises:
        RuntimeError: an answer was neither a decision nor a refusal for want of the store.
    """
    answered: list[tuple[float, str]] = []
    until = time.perf_counter() + seconds
    headers = JSON | {"authorization": f"Bearer {token}"}

    async def client(number: int, session: aiohttp.ClientSession) -> None:
        workers = itertools.cycle([*running[number % len(running) :], *running[: number % len(running)]])
        for worker, body in zip(workers, bodies(number, symbols), strict=False):
            asked = time.perf_counter()
            if asked >= until:
                return
            async with session.post(f"{worker.base_url}/decide", data=body, headers=headers) as answer:
                said = await answer.read()
            took_ms = (time.perf_counter() - asked) * 1000
            if answer.status not in (200, 503):
                raise RuntimeError(f"answered {answer.status}: {said[:300]!r}")
            told = orjson.loads(said)
            answered.append((took_ms, told["verdict"] if answer.status == 200 else told["code"]))

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(CLIENTS):
            group.create_task(client(number, session))
    return answered


@asynccontextmanager
async def connection_count(database_url: str) -> AsyncIterator[list[int]]:
    """Count the connections of the service's role again and again; the counts."""
    owner = await asyncpg.connect(database_url)
    counts: list[int] = []

    async def count() -> None:
        while True:
            counts.append(
                await owner.fetchval(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND application_name LIKE 'tradeverdict%'"
                )
            )
            await asyncio.sleep(0.2)

    counting = asyncio.create_task(count())
    try:
        yield counts
    finally:
        counting.cancel()
        await asyncio.wait([counting])
        await owner.close()


async def measure(
    running: Sequence[Service],
    *,
    server: EmbeddedPostgres,
    database_url: str,
    token: str,
    seconds: float,
    slices: int,
) -> Turn:
    """Load the workers slice after slice, and give the one that was disturbed least."""
    symbols = map("".join, itertools.product("Q", *[ascii_uppercase] * 4))
    await load(running, token=token, symbols=symbols, seconds=WARM_UP_S)
    async with connection_count(database_url) as counts:
        measured = [
            await measure_slice(running, server=server, token=token, symbols=symbols, seconds=seconds, counts=counts)
            for _ in range(slices)
        ]
    return min(measured, key=lambda made: made.others_cpu)


async def measure_slice(
    running: Sequence[Service],
    *,
    server: EmbeddedPostgres,
    token: str,
    symbols: Iterator[str],
    seconds: float,
    counts: Sequence[int],
) -> Turn:
    """Load the workers for so long."""
    of_services = CpuClock(one.process.pid for one in running)
    of_postgres = CpuClock([postmaster_of(server)])
    of_bench = CpuClock([os.getpid()])  # the workers and the stand-in are its children
    whole = psutil.cpu_times()
    began = time.perf_counter()
    answered = await load(running, token=token, symbols=symbols, seconds=seconds)
    took_s = time.perf_counter() - began
    now = psutil.cpu_times()
    busy_s = (sum(now) - now.idle - now.iowait) - (sum(whole) - whole.idle - whole.iowait)
    services_cpu, postgres_cpu, bench_cpu = (clock.used_s() / took_s for clock in (of_services, of_postgres, of_bench))
    times_ms = sorted(taken for taken, _ in answered)
    return Turn(
        workers=len(running),
        asked=len(answered),
        verdicts=Counter(verdict for _, verdict in answered),
        rate=len(answered) / took_s,
        p50_ms=median(times_ms),
        p99_ms=times_ms[len(times_ms) * 99 // 100],
        services_cpu=services_cpu,
        postgres_cpu=postgres_cpu,
        clients_cpu=bench_cpu - services_cpu,
        others_cpu=max(0.0, busy_s / took_s - bench_cpu - postgres_cpu),
        connections=max(counts),
    )


async def resolve_some(database_url: str, one: Service, *, token: str) -> int:
    """Report bars that resolve forecasts, every third as a loss; how many were resolved."""
    owner = await asyncpg.connect(database_url)
    rows = await owner.fetch(
        "SELECT symbol, min(as_of) AS as_of FROM forecasts WHERE verdict = ANY ($1) GROUP BY symbol"
        f" ORDER BY symbol LIMIT {RESOLVED}",
        list(APPROVED),
    )
    await owner.close()
    reports = []
    for number, row in enumerate(rows):
        first = row["as_of"].replace(second=0, microsecond=0) + timedelta(minutes=1)
        prices = (FILLS, WINS if number % 3 else LOSES)
        reports.append(
            (
                row["symbol"],
                [
                    {"t": first + timedelta(minutes=minute), **dict(zip("ohlc", bar, strict=True)), "v": 1_000_000}
                    for minute, bar in enumerate(prices)
                ],
            )
        )
    resolved = 0
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(reports), 50):
            body = orjson.dumps({"interval": "1m", "bars": dict(reports[start : start + 50])})
            headers = JSON | {"authorization": f"Bearer {token}"}
            async with session.post(f"{one.base_url}/bars", data=body, headers=headers) as answer:
                said = await answer.json()
                if answer.status != 200:
                    raise RuntimeError(f"bars were answered {answer.status}: {said}")
                resolved += said["resolved"]
    return resolved


async def equal_gauges(running: Sequence[Service], *, resolved: int) -> tuple[int, float]:
    """Wait until all workers show so many resolved forecasts; how many series are then equal, and after how long, s.

    Raises:
        RuntimeError: they differ.
        TimeoutError: one does not show them.
    """
    began = time.perf_counter()

    async def shown_by(one: Service, session: aiohttp.ClientSession) -> dict[str, str]:
        async with session.get(f"{one.base_url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return dict(line.rsplit(" ", 1) for line in lines if line.startswith(CALIBRATION))

    async with aiohttp.ClientSession() as session, asyncio.timeout(EQUAL_S):
        while True:
            shown = [await shown_by(one, session) for one in running]
            known = [gauges.get(RESOLVED_GAUGE) for gauges in shown]
            if all(value is not None and float(value) == resolved for value in known):
                break
            await asyncio.sleep(0.1)
    if any(gauges != shown[0] for gauges in shown):
        raise RuntimeError(f"workers show different gauges: {shown}")
    return len(shown[0]), time.perf_counter() - began


async def turn(
    workers: int, *, seconds: float, slices: int, folder: Path, server: EmbeddedPostgres, llm_url: str
) -> Turn:
    """Measure so many workers on a database of their own, and check what they left.

    Raises:
        RuntimeError: a limit was exceeded, or gauges differ.
    """
    database_url = server.create_database(f"workers_{workers}")
    await asyncio.to_thread(upgrade, database_url)
    pool = await create_pool(database_url)
    key = await create_key(pool, name="bench", scopes=[Scope.DECIDE, Scope.REPORT], accounts=[EVERY_ACCOUNT])
    await pool.close()
    async with services(workers, database_url, folder, **asking(llm_url), **SETTINGS) as running:
        made = await measure(
            running, server=server, database_url=database_url, token=key.token, seconds=seconds, slices=slices
        )
        decided = sum(count for verdict, count in made.verdicts.items() if verdict.islower())
        approved = sum(made.verdicts[verdict] for verdict in APPROVED) / decided
        print(
            f"{workers} worker{'s' if workers > 1 else ' '} {made.rate:5.0f}/s  p50 {made.p50_ms:6.1f} ms  "
            f"p99 {made.p99_ms:6.1f} ms  approved {approved:4.0%}, refused for want of the store "
            f"{made.asked - decided}  connections {made.connections} of {workers * (POOL_SIZE + 1)}\n"
            f"  cores used: services {made.services_cpu:4.2f} "
            f"({made.services_cpu / made.rate * 1000:.2f} ms a request), "
            f"PostgreSQL {made.postgres_cpu:4.2f} ({made.postgres_cpu / made.rate * 1000:.2f} ms), "
            f"clients and stand-in {made.clients_cpu:4.2f}, others on the machine {made.others_cpu:4.2f}",
            flush=True,
        )
        owner = await asyncpg.connect(database_url)
        counted = await recount_limits(owner)
        await owner.close()
        print(
            f"  {counted.orders} orders recounted: {counted.broken.total()} limits exceeded; at most "
            f"{counted.most_at_once} orders and ${counted.most_notional_usd:,.0f} reserved at once in an account",
            flush=True,
        )
        if counted.broken or not counted.orders:
            raise RuntimeError(f"limits were exceeded: {dict(counted.broken)}")
        resolved = await resolve_some(database_url, running[-1], token=key.token)
        series, took_s = await equal_gauges(running, resolved=resolved)
        print(
            f"  {resolved} forecasts resolved: {series} calibration gauges equal in all after {took_s:.1f} s",
            flush=True,
        )
    return made


async def measure_all(options: argparse.Namespace, llm_url: str) -> None:
    """Take the turns, each with a server of its own, and print ratios to the first."""
    turns: list[Turn] = []
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "pg") as server:
            turns.append(
                await turn(
                    workers,
                    seconds=options.seconds,
                    slices=options.slices,
                    folder=Path(folder),
                    server=server,
                    llm_url=llm_url,
                )
            )
    first = turns[0]
    for made in turns[1:]:
        print(
            f"{made.workers} workers / {first.workers}: requests/s {made.rate / first.rate:.2f}, "
            f"p50 {made.p50_ms / first.p50_ms:.2f}, p99 {made.p99_ms / first.p99_ms:.2f}"
        )


def main() -> None:
    """Run every turn."""
    parser = argparse.ArgumentParser(prog="bench/workers.py", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each slice")
    parser.add_argument("--slices", type=int, default=6, help="of each turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    options = parser.parse_args()
    print(f"{CLIENTS} clients on {len(ACCOUNTS)} accounts; {os.cpu_count()} cores for everything, clients too")
    with upstream() as llm_url:
        asyncio.run(measure_all(options, llm_url))


if __name__ == "__main__":
    main()
