"""What a caller may ask for is bounded, and exactly so: how often, how much, how deep and how slowly."""

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from app.cli.connection import HEADERS_S
from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.engine import ConnectionPool
from app.db.vocabulary import Scope
from tests.faults.conftest import Figures
from tests.faults.processes import Answer, Service, ask, asking, full_or_quick, request, service, services
from tests.model_server import Answer as Reply
from tests.model_server import ModelServer, Request, decide

pytestmark = pytest.mark.xdist_group("waits")

LIMIT = 60
CALLS = full_or_quick(400, 150)
CALLS_AT_ONCE = 40
BODY_LIMIT = 4096
SLOW_CLIENTS = 200
MEGABYTE = 1_000_000


async def test_the_rate_limit_is_exact_over_two_processes(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    keys = [
        await create_key(pool, name=name, scopes=[Scope.DECIDE, Scope.READ], accounts=[EVERY_ACCOUNT])
        for name in ("busy", "quiet")
    ]
    busy, quiet = ({"Authorization": f"Bearer {key.token}"} for key in keys)
    async with services(2, database_url, tmp_path, AUTH="on", RATE_LIMIT_PER_MINUTE=LIMIT) as running:
        turns = asyncio.Semaphore(CALLS_AT_ONCE)

        async def call(number: int) -> httpx2.Response:
            async with turns:
                return await client.get(f"{running[number % 2].base_url}/decisions", headers=busy)

        began = time.monotonic()
        first = await asyncio.gather(*map(call, range(CALLS)))
        took_s = time.monotonic() - began
        decided = await client.post(f"{running[0].base_url}/decide", json=request("paper-1"), headers=busy)
        other = await client.get(f"{running[0].base_url}/decisions", headers=quiet)
        wrong = await client.get(f"{running[0].base_url}/decisions", headers={"Authorization": "Bearer tv_0_0"})
        open_to_all = [await client.get(f"{running[1].base_url}/{path}") for path in ("healthz", "readyz", "metrics")]

    assert took_s < 60, "the calls took longer than the window"
    statuses = Counter(answer.status_code for answer in first)
    assert statuses == {200: LIMIT, 429: CALLS - LIMIT}
    refused = next(answer for answer in first if answer.status_code == 429)
    assert refused.json()["code"] == "RATE_LIMITED"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (decided.status_code, other.status_code, wrong.status_code) == (429, 200, 401)
    assert {answer.status_code for answer in open_to_all} == {200}
    figures(f"rate limit {LIMIT}, {CALLS} calls over 2 processes", passed=statuses[200], refused=statuses[429])


async def test_without_keys_a_rate_limit_that_was_set_holds_for_all(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async with services(2, database_url, tmp_path, RATE_LIMIT_PER_MINUTE=10) as running:
        answers = await asyncio.gather(*(ask(client, running[n % 2], request(f"account-{n}")) for n in range(25)))

    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: 10, 429: 15}
    figures("rate limit 10 without keys, 25 decisions over 2 processes", passed=statuses[200], refused=statuses[429])


async def test_the_model_is_called_at_most_so_often_at_once(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    called_at: list[float] = []

    def slowly(asked: Request) -> Reply:
        called_at.append(time.monotonic())
        return Reply(body=decide(asked).body, delay_s=0.7)

    async with (
        ModelServer(slowly) as model,
        service(
            database_url, tmp_path, **asking(model), MAX_CONCURRENT_MODEL_CALLS=2, DECISION_DEADLINE_MS=15_000
        ) as running,
    ):
        answers = await asyncio.gather(*(ask(client, running, request(f"account-{n}")) for n in range(8)))

    assert {answer.json["verdict"] for answer in answers} == {"approved"}
    # Each call lasts 0.7 s and more from when it is met, so the one after the next is met that much later.
    gaps_s = [third - first for first, third in zip(called_at, called_at[2:], strict=False)]
    assert min(gaps_s) > 0.69
    figures(
        "8 callers, 2 model calls of 0.7 s at once", calls=len(called_at), least_s_to_the_third=f"{min(gaps_s):.2f}"
    )


async def test_a_spent_model_budget_ends_the_calls_of_every_process(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    # One call of the stand-in: 120 tokens in, 92 out, 1800 cached: 120 x 0.10 + 92 x 0.50 + 1800 x 0.01 = 76 USD / 1e6,
    # so that three calls reach 200 / 1e6.
    async with (
        ModelServer() as model,
        services(2, database_url, tmp_path, **asking(model), MODEL_BUDGET_USD_PER_DAY="0.0002") as running,
    ):
        answers = [await ask(client, running[n % 2], request(f"account-{n}")) for n in range(6)]
        called = len(model.requests)

    reasons = [answer.json["reason_code"] for answer in answers]
    assert reasons == [None] * 3 + ["MODEL_UNAVAILABLE"] * 3
    assert called == 3
    figures("a budget of 0.0002 USD over 2 processes", calls_at_0_000076_usd=called, refused=3)


@asynccontextmanager
async def small(database_url: str, folder: Path) -> AsyncIterator[Service]:
    async with service(database_url, folder, MAX_BODY_BYTES=BODY_LIMIT) as running:
        yield running


def padded(size: int) -> bytes:
    body = json.dumps(request("paper-1")).encode()
    return body + b" " * (size - len(body))


async def test_one_byte_too_many_is_refused_both_ways_and_nesting_costs_no_memory(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    async with small(database_url, tmp_path) as running:
        url = f"{running.base_url}/decide"
        at_limit = [await client.post(url, content=sent) for sent in (padded(BODY_LIMIT), chunks(padded(BODY_LIMIT)))]
        above = [
            await client.post(url, content=sent) for sent in (padded(BODY_LIMIT + 1), chunks(padded(BODY_LIMIT + 1)))
        ]
    async with service(database_url, tmp_path) as running:
        url = f"{running.base_url}/decide"
        await client.post(url, content=b"[]")
        process = psutil.Process(running.process.pid)
        before = process.memory_info().rss
        nested = [
            await client.post(url, content=opening * 10_000 + closing * 10_000)
            for opening, closing in ((b"[", b"]"), (b'{"news":', b"}"), (b'[{"a":', b"}]"))
            for _ in range(20)
        ]
        grown = process.memory_info().rss - before
        alive = await client.get(f"{running.base_url}/healthz")

    assert [answer.status_code for answer in at_limit] == [200, 200]
    assert [(answer.status_code, answer.json()["code"]) for answer in above] == [(413, "BODY_TOO_LARGE")] * 2
    assert {answer.status_code for answer in nested} == {422}
    assert alive.status_code == 200
    assert grown < 20 * MEGABYTE
    figures("limit + 1 byte", declared=above[0].status_code, chunked=above[1].status_code)
    figures(
        "10,000-deep JSON", bodies=len(nested), memory_grown_mb=f"{grown / MEGABYTE:.1f}", healthz=alive.status_code
    )


async def test_two_hundred_slow_clients_hold_nobody_up_and_are_cut_off(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    headers = b"POST /decide HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    unfinished = (b"", headers, headers + b"X-Slow: ", headers + b"Content-Length: 1000\r\n\r\n{")
    with ExitStack() as stack:
        async with service(database_url, tmp_path, DATABASE_POOL_SIZE=2) as running:
            slow = [
                stack.enter_context(socket.create_connection(("127.0.0.1", running.port))) for _ in range(SLOW_CLIENTS)
            ]
            for number, connection in enumerate(slow):
                connection.sendall(unfinished[number % len(unfinished)])
            answers: list[Answer] = []
            slowest_s = 0.0
            for number in range(20):
                began = time.monotonic()
                answers.append(await ask(client, running, request(f"account-{number}")))
                alive = await client.get(f"{running.base_url}/healthz")
                slowest_s = max(slowest_s, time.monotonic() - began)
                assert alive.status_code == 200
            held = connections_of(running)
            # They send on, a byte now and then, so that no mere silence ends them.
            ends_at = time.monotonic() + HEADERS_S + 3
            while time.monotonic() < ends_at and connections_of(running) > 5:
                for number, connection in enumerate(slow):
                    if number % len(unfinished):
                        try_to_send(connection)
                await asyncio.sleep(1)
            left = connections_of(running)

    assert {answer.status for answer in answers} == {200}
    assert slowest_s < 1.5
    assert held >= SLOW_CLIENTS
    assert left <= 5  # those of the quick client
    figures(f"{SLOW_CLIENTS} slow clients", held=held, slowest_decision_and_healthz_s=f"{slowest_s:.2f}", left=left)


def try_to_send(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.sendall(b"x")


def connections_of(running: Service) -> int:
    """How many callers the process has connections to."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == running.port
        for connection in psutil.Process(running.process.pid).net_connections("tcp")
    )


async def test_endless_headers_are_cut_off(database_url: str, tmp_path: Path, figures: Figures) -> None:
    sent = 0
    async with service(database_url, tmp_path) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: ")
            try:
                for _ in range(10_000):
                    connection.sendall(b"x" * 10_000)
                    sent += 10_000
            except OSError:
                pass
        memory = psutil.Process(running.process.pid).memory_info().rss

    assert sent < 20 * MEGABYTE
    figures("endless headers", cut_off_after_mb=f"{sent / MEGABYTE:.1f}", memory_mb=f"{memory / MEGABYTE:.0f}")
