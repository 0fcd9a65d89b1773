"""Run `tradeverdict serve` as real processes, ask them over real sockets, and do to them what happens to processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from tests.builders import a_request
from tests.model_server import ModelServer

PROVE = os.environ.get("PROVE") == "1"
"""Whether the counts of a test are the full ones."""
PROGRAM = Path(sys.executable).with_name("tradeverdict")
START_S = 60.0
STOP_S = 20.0

Settings = Mapping[str, object]


def full_or_quick(full: int, quick: int) -> int:
    """A count: the full one with PROVE=1."""
    return full if PROVE else quick


def asking(model: ModelServer | str) -> dict[str, object]:
    """Settings that make a service ask a stand-in for the Messages API, once for each decision."""
    return {
        "MODEL_HEDGE_MAX_SHARE": 0,
        "DECIDER": "anthropic",
        "ANTHROPIC_API_KEY": "stand-in",
        "ANTHROPIC_BASE_URL": model if isinstance(model, str) else model.base_url,
    }


class Service:
    """One `tradeverdict serve` process."""

    def __init__(self, process: "subprocess.Popen[str]", *, base_url: str, log: Path) -> None:
        self.process = process
        self.base_url = base_url
        self.log = log

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        """Wait for the process to end."""
        return await asyncio.to_thread(self.process.wait, STOP_S)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.exit_code()


@asynccontextmanager
async def service(
    database_url: str, folder: Path, host: str = "127.0.0.1", port: int = 0, /, **settings: object
) -> AsyncIterator[Service]:
    """A service that answers, without authentication and with the rules as decider unless the settings differ."""
    started = await start(database_url, folder, host, port, **settings)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.signal(signal.SIGCONT)
            await started.kill()
        assert started.process.stdout is not None
        started.process.stdout.close()


@asynccontextmanager
async def services(count: int, database_url: str, folder: Path, **settings: object) -> AsyncIterator[list[Service]]:
    """Several services on one database, started at once."""
    async with AsyncExitStack() as stack:
        yield list(
            await asyncio.gather(
                *(stack.enter_async_context(service(database_url, folder, **settings)) for _ in range(count))
            )
        )


async def start(
    database_url: str, folder: Path, host: str = "127.0.0.1", port: int = 0, /, **settings: object
) -> Service:
    """Start a service, on a free port unless one is named, and wait until it listens; its log lies in the folder."""
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "AUTH": "off",
        "DECIDER": "rules",
        "LOG_LEVEL": "warning",
        "MAX_SNAPSHOT_AGE_S": "0",
    } | {name: str(value) for name, value in settings.items()}
    log = folder / f"service-{len(list(folder.glob('service-*.log')))}-{os.urandom(3).hex()}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--host", host, "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    async with asyncio.timeout(START_S):
        said = await asyncio.to_thread(process.stdout.readline)
    assert said.startswith("tradeverdict serves http://"), f"the service did not start: {said}{log.read_text()}"
    return Service(process, base_url=said.split()[2].rstrip(";"), log=log)


@dataclass(frozen=True)
class Answer:
    """One answer: what a client has of it."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return httpx2.Response(self.status, content=self.body).json()

    @property
    def code(self) -> str:
        """The code of a problem."""
        code: str = self.json["code"]
        return code

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotency-replayed") == "true"


@asynccontextmanager
async def http_client() -> AsyncIterator[httpx2.AsyncClient]:
    """A client for many requests at once."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx2.AsyncClient(timeout=20, limits=limits, trust_env=False) as client:
        yield client


async def ask(
    client: httpx2.AsyncClient, service: Service, body: Any, *, key: str | None = None, token: str | None = None
) -> Answer:
    """Post one decision; transport errors are the caller's."""
    headers = {}
    if key is not None:
        headers["Idempotency-Key"] = key
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    answer = await client.post(f"{service.base_url}/decide", json=body, headers=headers)
    return Answer(answer.status_code, answer.content, answer.headers)


def request(account_id: str, *, marker: str = "Chip orders rise") -> dict[str, Any]:
    """A request that the rules, and the stand-in for a model, trade on; the prompt shows the marker as a headline."""
    news = [{"headline": marker, "timestamp": "2026-11-20T14:00:00Z", "symbols": ["NVDA"]}]
    return a_request(account={"id": account_id}, news=news)


@asynccontextmanager
async def owner_of(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection as the owner of the database."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
