"""On SIGTERM the service takes no more, finishes what it has, and ends with exit code 0."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import httpx2
import pytest

from app.db.engine import ConnectionPool
from tests.faults.conftest import Figures
from tests.faults.processes import ask, asking, owner_of, request, service
from tests.model_server import Answer as Reply
from tests.model_server import ModelServer, Request, decide

pytestmark = pytest.mark.xdist_group("waits")

IN_FLIGHT = 10
MODEL_S = 0.7
GRACE_S = 5.0
"""The whole deadline of 1.5 s, rounded down, and the 4 s that the store and the answers may take."""


async def test_decisions_in_flight_are_finished_and_new_callers_refused(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    def slowly(asked: Request) -> Reply:
        return Reply(body=decide(asked).body, delay_s=MODEL_S)

    async with (
        ModelServer(slowly) as model,
        service(database_url, tmp_path, **asking(model)) as running,
    ):
        in_flight = [
            asyncio.create_task(ask(client, running, request(f"account-{number}"), key=f"key-{number}"))
            for number in range(IN_FLIGHT)
        ]
        while len(model.requests) < IN_FLIGHT:
            await asyncio.sleep(0.01)
        running.signal(signal.SIGTERM)
        began = time.monotonic()
        await asyncio.sleep(0.3)
        with pytest.raises(httpx2.ConnectError):
            async with httpx2.AsyncClient(trust_env=False) as newcomer:
                await newcomer.get(f"{running.base_url}/healthz")
        answers = await asyncio.gather(*in_flight)
        exit_code = await running.exit_code()
        took_s = time.monotonic() - began
        log = running.log.read_text()

    async with pool.connection() as connection:
        unfinished = await connection.fetchval("SELECT count(*) FROM idempotency_keys WHERE state <> 'finished'")
    assert [(answer.status, answer.json["verdict"]) for answer in answers] == [(200, "approved")] * IN_FLIGHT
    assert (exit_code, unfinished) == (0, 0)
    assert took_s < GRACE_S
    assert "Traceback" not in log
    figures("SIGTERM with decisions in flight", finished=len(answers), exit_code=exit_code, after_s=f"{took_s:.1f}")


async def test_what_cannot_be_finished_is_ended_and_its_key_is_free_again(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async with (
        service(database_url, tmp_path, IDEMPOTENCY_LEASE_S=60) as running,
        owner_of(database_url) as owner,
        owner.transaction(),
    ):
        await owner.execute("LOCK TABLE accounts IN ACCESS EXCLUSIVE MODE")
        stuck = asyncio.create_task(ask(client, running, request("paper-1"), key="key-1"))
        await asyncio.sleep(0.3)
        with socket.create_connection(("127.0.0.1", running.port)) as unfinished:
            unfinished.sendall(b"POST /decide HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            await asyncio.sleep(0.1)
            running.signal(signal.SIGTERM)
            began = time.monotonic()
            answer = await stuck
            exit_code = await running.exit_code()
            took_s = time.monotonic() - began
            unfinished.settimeout(2)
            cut_off = unfinished.recv(4096)
        log = running.log.read_text()

    async with pool.connection() as connection:
        key = await connection.fetchrow(
            "SELECT state, lease_until <= clock_timestamp() AS lapsed FROM idempotency_keys"
        )
    assert key is not None
    assert (key["state"], key["lapsed"]) == ("running", True)
    assert (answer.status, answer.code) == (503, "STORE_UNAVAILABLE")
    assert cut_off.startswith(b"HTTP/1.1 503 ")
    assert cut_off.index(b'"SHUTTING_DOWN"') > cut_off.index(b"application/problem+json")
    assert exit_code == 0
    assert took_s < GRACE_S + 1.5
    assert "Traceback" not in log
    figures(
        "SIGTERM with a stuck decision and half a body",
        stuck=f"{answer.status} {answer.code}",
        half=cut_off[9:12].decode(),
        exit_code=exit_code,
        after_s=f"{took_s:.1f}",
    )
