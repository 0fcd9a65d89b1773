"""Measure what the service itself costs, beside the floor: the least that a FastAPI service can do for the same job.

    .venv/bin/python bench/overhead.py [--rounds 6] [--seconds 8] [--least] [--floor ../shared/bench]

One run starts an embedded PostgreSQL with durable commits, a stand-in for the Messages API that answers at once, the
floor and one worker of this service (keys, gates, audit and reservations on, log lines at level info); with --least,
also what the contract alone costs (bench/least_app.py), over either transport of the SDK. All are asked turn and turn
about, in one order and then in the other, for a machine may be slower a minute later: first by 16 clients on 16
accounts and then by 1 client; requests/s count of the former, the median of the latter. Each account's requests propose
a new symbol and the same one again, which is a duplicate while its reservation lives, so half of the answers are
approved. Reservations live for a second: an account has about as many as a busy bot. Ratios count; absolute figures
belong to the machine.
"""

import argparse
import asyncio
import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from string import ascii_uppercase
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import asyncpg
import orjson
import psutil
import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.embedded import EmbeddedPostgres
from app.db.engine import create_pool
from app.db.migrate import upgrade
from app.db.vocabulary import Scope
from tests.faults.processes import asking, service

ROOT = Path(__file__).parents[1]
CLIENTS = 16
ACCOUNTS = [f"bench-{number:02}" for number in range(CLIENTS)]
WARM_UP_S = 4.0
START_S = 30.0
FLOOR = "floor"
TRANSPORTS = ("httpx2", "aiohttp")
LEAST_TABLE = """
CREATE TABLE least_decisions (id uuid PRIMARY KEY, account_id text, request jsonb, response jsonb);
GRANT SELECT, INSERT ON least_decisions TO tradeverdict_app
"""
FLOOR_PROGRAM, FLOOR_PAYLOAD = "floor_app.py", "payload_floor.json"
SETTINGS = {
    "AUTH": "on",
    "LOG_LEVEL": "info",
    "RATE_LIMIT_PER_MINUTE": 1_000_000,
    "MAX_SNAPSHOT_AGE_S": 60,
    "RESERVATION_TTL_S": 1,
    # Small orders: what an account reserves within a second fits its limits, at any speed.
    "PER_TRADE_RISK_BPS": 2,
}
TRADED = {"price": 125.4, "atr": 4.0, "adv": 30_000_000_000, "bid": 125.38, "ask": 125.42}
OTHERS: dict[str, dict[str, float]] = {
    "AAPL": {"price": 190.1, "atr": 3.1, "adv": 9_000_000_000, "bid": 190.05, "ask": 190.15},
    "MSFT": {"price": 410.2, "atr": 6.2, "adv": 8_000_000_000, "bid": 410.1, "ask": 410.3},
    "XOM": {"price": 112.4, "atr": 1.9, "adv": 1_900_000_000, "bid": 112.38, "ask": 112.42},
    "JPM": {"price": 205.4, "atr": 3.3, "adv": 2_000_000_000, "bid": 205.38, "ask": 205.42},
}
VOLUMES = {"volume": 50_000_000, "avg_volume": 55_000_000}
ACCOUNT = {"equity": 1_000_000, "cash": 600_000, "daily_pnl": 0, "weekly_pnl": 0, "positions": []}
JSON = {"content-type": "application/json"}
APPROVED = (b'"verdict":"approved"', b'"verdict":"resized"')
LENGTH = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)

Bodies = Callable[[int, int], Iterator[bytes]]
"""Gives the bodies that one client sends, by its number and the number of clients."""


@dataclass(kw_only=True)
class Peer:
    """One service under measure, and what was measured of it."""

    name: str
    url: str
    pid: int
    headers: dict[str, str]
    bodies: Bodies
    rates: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)


class Measured(NamedTuple):
    """What one turn showed: requests/s, median in ms, the process's CPU ms per request, the share approved."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    approved: float


def of_the_floor(folder: Path) -> Bodies:
    """Send the floor's payload, always the same."""
    body = (folder / FLOOR_PAYLOAD).read_bytes()
    return lambda _client, _clients: itertools.repeat(body)


def of_the_service() -> Bodies:
    """Send the same snapshot in this service's form: each traded symbol twice, each account in its turn."""
    symbols = map("".join, itertools.product("Q", *[ascii_uppercase] * 4))

    def bodies(client: int, clients: int) -> Iterator[bytes]:
        for turn in itertools.count(client, clients):
            symbol = next(symbols)
            market = [{"symbol": name} | VOLUMES | figures for name, figures in ({symbol: TRADED} | OTHERS).items()]
            headline = "Chip demand beats expectations"
            news = [{"headline": headline, "summary": "...", "source": "wire", "symbols": [symbol]}]
            account = ACCOUNT | {"id": ACCOUNTS[turn % CLIENTS]}
            for _ in range(2):
                as_of = datetime.now(UTC)
                yield orjson.dumps({"account": account, "as_of": as_of, "market": market, "news": news})

    return bodies


class Caller(asyncio.Protocol):
    """Ask over one connection, at as little cost as may be: whoever measures shares two cores with what is measured."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._received = bytearray()
        self._whole = 0
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(exc or ConnectionResetError("closed before it was answered"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._whole and (end := self._received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._received, 0, end + 2)
            assert length is not None, bytes(self._received[:end])
            self._whole = end + 4 + int(length[1])
        if self._whole and len(self._received) >= self._whole:
            assert self._answered is not None
            self._answered.set_result(bytes(self._received))
            self._received.clear()
            self._whole = 0

    async def ask(self, head: bytes, body: bytes) -> bytes:
        """Send a request; give the whole response."""
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))
        return await self._answered

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


async def load(peer: Peer, *, clients: int, seconds: float) -> Measured:
    """Ask as fast as the answers come.

    Raises:
        RuntimeError: an answer was none.
    """
    times_ms: list[float] = []
    approved = 0
    address = urlsplit(peer.url)
    lines = [f"POST {address.path} HTTP/1.1", f"host: {address.netloc}", *map(": ".join, peer.headers.items())]
    head = "".join(f"{line}\r\n" for line in lines).encode()
    cpu_s, began = cpu_of(peer.pid), time.perf_counter()
    until = began + seconds

    async def client(number: int) -> None:
        nonlocal approved
        _, caller = await asyncio.get_running_loop().create_connection(Caller, address.hostname, address.port)
        for body in peer.bodies(number, clients):
            asked = time.perf_counter()
            if asked >= until:
                break
            said = await caller.ask(head, body)
            times_ms.append((time.perf_counter() - asked) * 1000)
            if not said.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{peer.name} answered {said[:500]!r}")
            approved += any(word in said for word in APPROVED)
        caller.close()

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    count, took_s = len(times_ms), time.perf_counter() - began
    return Measured(
        rate=count / took_s,
        p50_ms=median(times_ms),
        p99_ms=sorted(times_ms)[count * 99 // 100],
        cpu_ms=(cpu_of(peer.pid) - cpu_s) / count * 1000,
        approved=approved / count,
    )


def cpu_of(pid: int) -> float:
    """Read the CPU seconds that a process has used."""
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


@contextmanager
def upstream() -> Iterator[str]:
    """Run the stand-in for the Messages API; give its address."""
    command = [sys.executable, ROOT / "bench" / "upstream.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@asynccontextmanager
async def floor(folder: Path, *, llm_url: str, database_url: str) -> AsyncIterator[Peer]:
    """Run the floor on a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "floor_app:app", "--port", str(port), "--log-level", "critical"),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LLM_URL": llm_url, "PG_URL": database_url, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        await listening(port)
        yield Peer(
            name=FLOOR,
            url=f"http://127.0.0.1:{port}/decide",
            pid=process.pid,
            headers=JSON,
            bodies=of_the_floor(folder),
        )
    finally:
        process.terminate()
        await process.wait()


async def listening(port: int) -> None:
    """Wait until somebody listens on a local port.

    Raises:
        TimeoutError: nobody does.
    """
    async with asyncio.timeout(START_S):
        while True:
            await asyncio.sleep(0.1)
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                continue
            writer.close()
            return await writer.wait_closed()


@asynccontextmanager
async def least(transport: str, *, llm_url: str, database_url: str) -> AsyncIterator[Peer]:
    """Run what the contract alone costs, on a migrated database with a key."""
    key = await prepared(database_url)
    owner = await asyncpg.connect(database_url)
    await owner.execute(LEAST_TABLE)
    await owner.close()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "bench.least_app:app", "--port", str(port), "--log-level", "critical"),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LLM_URL": llm_url, "PG_URL": database_url, "TRANSPORT": transport},
    )
    try:
        await listening(port)
        yield Peer(
            name=f"least over {transport}",
            url=f"http://127.0.0.1:{port}/decide",
            pid=process.pid,
            headers=JSON | {"authorization": f"Bearer {key}"},
            bodies=of_the_service(),
        )
    finally:
        process.terminate()
        await process.wait()


async def prepared(database_url: str) -> str:
    """Migrate a database and make a key for all accounts; give its token."""
    await asyncio.to_thread(upgrade, database_url)
    pool = await create_pool(database_url)
    key = await create_key(pool, name="bench", scopes=[Scope.DECIDE], accounts=[EVERY_ACCOUNT])
    await pool.close()
    return key.token


@asynccontextmanager
async def this_service(folder: Path, *, llm_url: str, database_url: str) -> AsyncIterator[Peer]:
    """Run one worker of this service on a migrated database, with a key."""
    token = await prepared(database_url)
    async with service(database_url, folder, **asking(llm_url), **SETTINGS) as running:
        yield Peer(
            name="service",
            url=f"{running.base_url}/decide",
            pid=running.process.pid,
            headers=JSON | {"authorization": f"Bearer {token}"},
            bodies=of_the_service(),
        )


async def measure(options: argparse.Namespace, server: EmbeddedPostgres, folder: Path, llm_url: str) -> None:
    """Ask turn and turn about, and print."""
    async with AsyncExitStack() as stack:
        peers: list[Peer] = []
        if (options.floor / FLOOR_PROGRAM).exists():
            database_url = server.create_database("floor")
            peers.append(
                await stack.enter_async_context(floor(options.floor, llm_url=llm_url, database_url=database_url))
            )
        else:
            print(f"There is no {FLOOR_PROGRAM} in the folder that --floor names: the service is measured alone.")
        for transport in TRANSPORTS if options.least else ():
            database_url = server.create_database(f"least_{transport}")
            peers.append(await stack.enter_async_context(least(transport, llm_url=llm_url, database_url=database_url)))
        database_url = server.create_database("service")
        peers.append(await stack.enter_async_context(this_service(folder, llm_url=llm_url, database_url=database_url)))
        for peer in peers:
            await load(peer, clients=CLIENTS, seconds=WARM_UP_S)
        for turn in range(options.rounds):
            for peer in peers if turn % 2 == 0 else reversed(peers):
                many = await load(peer, clients=CLIENTS, seconds=options.seconds)
                one = await load(peer, clients=1, seconds=options.seconds / 2)
                peer.rates.append(many.rate)
                peer.medians_ms.append(one.p50_ms)
                print(
                    f"round {turn + 1} {peer.name:18} {CLIENTS} clients {many.rate:5.0f}/s p50 {many.p50_ms:5.1f} ms "
                    f"p99 {many.p99_ms:5.1f} ms, CPU {many.cpu_ms:4.2f} ms each, approved {many.approved:4.0%}; "
                    f"1 client p50 {one.p50_ms:5.2f} ms, CPU {one.cpu_ms:4.2f} ms each, approved {one.approved:4.0%}",
                    flush=True,
                )
    for peer in peers:
        print(f"{peer.name:18} {median(peer.rates):5.0f} requests/s, p50 {median(peer.medians_ms):5.2f} ms")
    base = peers[0]
    for peer in peers[1:] if base.name == FLOOR else ():
        print(
            f"{peer.name} / floor: requests/s {median(peer.rates) / median(base.rates):.2f} (wanted: 1.30 or more), "
            f"p50 {median(peer.medians_ms) / median(base.medians_ms):.2f} (wanted: 1.15 or less)"
        )


def main() -> None:
    """Run everything on a PostgreSQL of its own, which is removed at the end."""
    parser = argparse.ArgumentParser(prog="bench/overhead.py", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn of many clients; half for one client")
    parser.add_argument("--least", action="store_true", help="measure beside them what the contract alone costs")
    parser.add_argument("--floor", type=Path, default=ROOT.parent / "shared" / "bench", help="folder of the floor")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "pg") as server,
        upstream() as llm_url,
    ):
        uvloop.run(measure(options, server, Path(folder), llm_url))


if __name__ == "__main__":
    main()
