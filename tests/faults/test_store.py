"""The database goes away, or the way to it breaks: whatever was acknowledged is stored, everything else is a 503."""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import asyncpg
import httpx2
import pytest

from app.db.embedded import EmbeddedPostgres
from tests.faults.conftest import Figures
from tests.faults.processes import Service, ask, full_or_quick, request, service
from tests.faults.tcp_proxy import Fate, TcpProxy, first_commit

pytestmark = pytest.mark.xdist_group("waits")

STOPS = full_or_quick(10, 2)
CLIENTS = 8
UP_S = 0.5
DOWN_S = 0.3
RETRY_S = 0.05
RESETS = full_or_quick(20, 4)
PATIENCE_S = 1.5 + 2.0 + 1.5
"""No answer takes longer: the deadline, what the store may take beyond it, and a slow machine."""


async def stored_answers(url: str) -> dict[str, bytes]:
    """Each decision's answer by its account."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT account_id, response::text AS response FROM llm_decisions")
    finally:
        await connection.close()
    assert len({row["account_id"] for row in rows}) == len(rows), "an account was decided twice"
    return {row["account_id"]: row["response"].encode() for row in rows}


def stop_at_once(server: EmbeddedPostgres) -> None:
    """`pg_ctl stop -m immediate`: the server drops everything and recovers from its log when it starts again."""
    stopped = server._run_as_server_user("pg_ctl", "-D", str(server.cluster), "-m", "immediate", "-w", "stop")
    assert stopped.returncode == 0, stopped.stderr


def start_again(server: EmbeddedPostgres) -> None:
    server._ensure_running()


async def test_stopped_at_once_again_and_again_it_has_what_was_acknowledged(
    client: httpx2.AsyncClient,
    durable_postgres: EmbeddedPostgres,
    durable_database_url: str,
    tmp_path: Path,
    figures: Figures,
) -> None:
    acknowledged: dict[str, bytes] = {}
    met: Counter[str] = Counter()
    over = asyncio.Event()

    async def keep_asking(running: Service, name: int) -> None:
        for number in itertools.count():
            if over.is_set():
                return
            account_id = f"account-{name}-{number}"
            # Every other client sends no key: it must not ask again, for it cannot know what became of its request.
            key = account_id if name % 2 else None
            while (answer := await ask(client, running, request(account_id), key=key)).status != 200:
                assert answer.status in (409, 503), answer
                met[f"answers {answer.status}"] += 1
                await asyncio.sleep(RETRY_S)
                if key is None or over.is_set():
                    break
            else:
                acknowledged[account_id] = answer.body
                met["replays"] += answer.replayed

    async with service(durable_database_url, tmp_path, IDEMPOTENCY_LEASE_S=2) as running:
        clients = [asyncio.create_task(keep_asking(running, name)) for name in range(CLIENTS)]
        for _ in range(STOPS):
            await asyncio.sleep(UP_S)
            await asyncio.to_thread(stop_at_once, durable_postgres)
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(start_again, durable_postgres)
        await asyncio.sleep(UP_S)
        over.set()
        await asyncio.gather(*clients)
        assert (await client.get(f"{running.base_url}/readyz")).status_code == 200

    stored = await stored_answers(durable_database_url)
    assert {account: stored.get(account) for account in acknowledged} == acknowledged
    figures(
        f"{STOPS} immediate stops of PostgreSQL under {CLIENTS} clients",
        acknowledged=len(acknowledged),
        lost=len(acknowledged.keys() - stored.keys()),
        stored=len(stored),
        **{name.replace(" ", "_"): count for name, count in met.items()},
    )


async def test_a_connection_reset_during_commit_is_a_503_and_its_retry_has_one_answer(
    client: httpx2.AsyncClient, durable_database_url: str, tmp_path: Path, figures: Figures
) -> None:
    met: Counter[str] = Counter()
    acknowledged: dict[str, bytes] = {}
    async with TcpProxy(durable_database_url) as way, service(way.url, tmp_path) as running:
        for number in range(RESETS):
            fate = (Fate.LOST, Fate.UNANSWERED)[number % 2]
            account_id = f"account-{number}"
            way.fate = first_commit(fate)
            cut_off = await ask(client, running, request(account_id), key=account_id)
            assert (cut_off.status, cut_off.code) == (503, "STORE_UNAVAILABLE")
            assert "order" not in cut_off.json
            met[f"{fate.name.lower()}, 503"] += 1
            was_stored = account_id in await stored_answers(durable_database_url)
            again = await ask(client, running, request(account_id), key=account_id)

            assert again.status == 200
            assert was_stored is again.replayed is (fate is Fate.UNANSWERED)
            acknowledged[account_id] = again.body
            met["decided anew" if not again.replayed else "replayed"] += 1

    assert await stored_answers(durable_database_url) == acknowledged
    figures(f"{RESETS} connections reset during COMMIT", **dict(met.items()))


def late(way: TcpProxy) -> None:
    way.latency_s = 0.4


def dripping(way: TcpProxy) -> None:
    way.drip_s = 0.05


def cut(way: TcpProxy) -> None:
    way.cut = True


def refused(way: TcpProxy) -> None:
    way.refusing = True
    way.reset()


@pytest.mark.parametrize("harm", [late, dripping, cut, refused])
async def test_a_bad_way_to_the_store_is_a_503_in_time_and_recovers_by_itself(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures, harm: Callable[[TcpProxy], None]
) -> None:
    async with TcpProxy(database_url) as way, service(way.url, tmp_path) as running:
        assert (await ask(client, running, request("account-0"))).status == 200
        harm(way)
        began = time.monotonic()
        answer = await ask(client, running, request("account-1"), key="k-1")
        took_s = time.monotonic() - began
        ready = await client.get(f"{running.base_url}/readyz")
        alive = await client.get(f"{running.base_url}/healthz")
        way.heal()
        async with asyncio.timeout(15):
            while (again := await ask(client, running, request("account-1"), key="k-1")).status != 200:
                await asyncio.sleep(RETRY_S)

    stored = await stored_answers(database_url)
    assert answer.status in (200, 503)
    assert (answer.status == 200) <= (stored["account-1"] == answer.body)
    assert stored["account-1"] == again.body
    assert took_s < PATIENCE_S
    assert alive.status_code == 200
    figures(
        f"way to the store {harm.__name__}", answer=answer.status, after_s=f"{took_s:.2f}", readyz=ready.status_code
    )
