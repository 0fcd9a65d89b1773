"""The service is killed or frozen in the middle of its work: nothing acknowledged is lost, nothing is done twice."""

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import httpx2
import pytest

from app.db.engine import ConnectionPool
from tests.faults.conftest import Figures
from tests.faults.processes import Service, ask, asking, full_or_quick, owner_of, request, service, services
from tests.model_server import Answer as Reply
from tests.model_server import ModelServer, Request, decide

pytestmark = pytest.mark.xdist_group("waits")

KILLS = full_or_quick(20, 3)
CLIENTS = 16
LEASE_S = 2
DEADLINE_S = 1.5
BETWEEN_KILLS_S = (0.2, 0.6)
RETRY_S = 0.05


class RetryingClients:
    """Clients that ask one of two services until they have an answer, and every third time ask for it again."""

    def __init__(self, client: httpx2.AsyncClient, running: list[Service]) -> None:
        self.client = client
        self.running = running
        self.acknowledged: dict[str, set[bytes]] = defaultdict(set)
        self.met: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.over = asyncio.Event()

    async def run(self, name: int) -> None:
        for number in itertools.count():
            if self.over.is_set():
                return
            for _ in range(2 if number % 3 == 0 else 1):
                began = time.monotonic()
                await self.until_answered(f"{name}-{number}", at=number)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    async def until_answered(self, key: str, *, at: int) -> None:
        for number in itertools.count(at):
            try:
                answer = await ask(self.client, self.running[number % 2], request(f"account-{key}"), key=key)
            except httpx2.TransportError:
                self.met["broken_connections"] += 1
            else:
                self.met["replays" if answer.replayed else f"answers_{answer.status}"] += 1
                if answer.status == 200:
                    self.acknowledged[key].add(answer.body)
                    return
                assert answer.status in (409, 503), answer
            await asyncio.sleep(RETRY_S)


async def test_killed_again_and_again_under_retrying_clients_it_loses_and_repeats_nothing(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async def another() -> Service:
        return await stack.enter_async_context(service(database_url, tmp_path, IDEMPOTENCY_LEASE_S=LEASE_S))

    async with AsyncExitStack() as stack:
        clients = RetryingClients(client, [await another(), await another()])
        tasks = [asyncio.create_task(clients.run(name)) for name in range(CLIENTS)]
        for number in range(1, KILLS):
            await asyncio.sleep(random.uniform(*BETWEEN_KILLS_S))
            await clients.running[number % 2].kill()
            clients.running[number % 2] = await another()
        await clients.running[0].kill()
        async with pool.connection() as connection:
            last_kill = await connection.fetchval("SELECT clock_timestamp()")
            await asyncio.sleep(LEASE_S + DEADLINE_S)
            unresolved = await connection.fetchval(
                "SELECT count(*) FROM idempotency_keys WHERE state <> 'finished' AND created_at < $1", last_kill
            )
        clients.over.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*tasks)

    async with pool.connection() as connection:
        rows = await connection.fetch(
            "SELECT key, response::text AS response, fence, count(*) OVER (PARTITION BY account_id) AS decided"
            " FROM llm_decisions LEFT JOIN idempotency_keys USING (decision_id, account_id)"
        )
    stored = {row["key"]: {row["response"].encode()} for row in rows}
    assert {row["decided"] for row in rows} == {1}
    assert clients.acknowledged == {key: stored.get(key) for key in clients.acknowledged}
    assert unresolved == 0
    figures(
        f"{KILLS} kills under {CLIENTS} clients",
        keys=len(clients.acknowledged),
        decisions=len(rows),
        acknowledged_and_lost=len(clients.acknowledged.keys() - stored.keys()),
        taken_over=sum(row["fence"] > 1 for row in rows),
        unresolved_after_lease_and_deadline=unresolved,
        slowest_answer_s=f"{clients.slowest_s:.2f}",
        **clients.met,
    )


async def test_frozen_past_its_lease_a_holder_changes_nothing_when_it_wakes(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    asked = asyncio.Event()
    replies = iter([0.8])

    def first_slowly(to_model: Request) -> Reply:
        asked.set()
        return Reply(body=decide(to_model).body, delay_s=next(replies, 0.0))

    body = request("paper-1")
    async with (
        ModelServer(first_slowly) as model,
        services(2, database_url, tmp_path, **asking(model), IDEMPOTENCY_LEASE_S=LEASE_S) as (frozen, other),
    ):
        late = asyncio.create_task(ask(client, frozen, body, key="k-1"))
        await asked.wait()
        frozen.signal(SIGSTOP)
        refused = await ask(client, other, body, key="k-1")
        await asyncio.sleep(int(refused.headers["retry-after"]))
        successor = await ask(client, other, body, key="k-1")
        before = await everything(pool)
        frozen.signal(SIGCONT)
        woken = await late
        again = await ask(client, frozen, body, key="k-1")
        after = await everything(pool)

    assert (refused.status, refused.code) == (409, "IDEMPOTENCY_IN_FLIGHT")
    assert 1 <= int(refused.headers["retry-after"]) <= LEASE_S
    assert (successor.status, successor.replayed, successor.json["verdict"]) == (200, False, "approved")
    # It gives its successor's answer, or none when the whole of its time passed while it was frozen.
    assert woken.status == 503 or (woken.status, woken.replayed, woken.body) == (200, True, successor.body)
    assert (again.status, again.replayed, again.body) == (200, True, successor.body)
    assert before == after
    assert len(before["llm_decisions"]) == len(before["reservations"]) == 1
    figures(
        "frozen past its lease while the model thinks",
        decisions=1,
        rows_changed_on_waking=0,
        woken=f"{woken.status}{' replayed' if woken.replayed else ''}",
    )


async def test_frozen_inside_its_transaction_a_holder_loses_it(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    body = request("paper-1")
    async with (
        services(2, database_url, tmp_path, IDEMPOTENCY_LEASE_S=LEASE_S) as (frozen, other),
        owner_of(database_url) as owner,
    ):
        await owner.execute("INSERT INTO accounts (account_id) VALUES ('paper-1')")
        hold = owner.transaction()
        await hold.start()
        await owner.execute("SELECT FROM accounts WHERE account_id = 'paper-1' FOR UPDATE")
        late = asyncio.create_task(ask(client, frozen, body, key="k-1"))
        await until_someone_waits_for_a_lock(pool)
        frozen.signal(SIGSTOP)
        await hold.rollback()  # now the frozen process holds the account
        began = time.monotonic()
        while (successor := await ask(client, other, body, key="k-1")).status != 200:
            assert successor.status in (409, 503)
            await asyncio.sleep(RETRY_S)
        held_s = time.monotonic() - began
        before = await everything(pool)
        frozen.signal(SIGCONT)
        woken = await late
        after = await everything(pool)

    assert (successor.replayed, successor.json["verdict"]) == (False, "approved")
    assert woken.status == 503
    assert before == after
    assert len(before["llm_decisions"]) == len(before["reservations"]) == 1
    assert held_s < LEASE_S + DEADLINE_S + 3
    figures(
        "frozen inside its transaction",
        decisions=1,
        account_free_again_after_s=f"{held_s:.1f}",
        rows_changed_on_waking=0,
    )


async def until_someone_waits_for_a_lock(pool: ConnectionPool) -> None:
    async with asyncio.timeout(5), pool.connection() as connection:
        while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.005)


async def everything(pool: ConnectionPool) -> dict[str, list[Any]]:
    """All rows of the tables that a decision writes."""
    tables = ("llm_decisions", "reservations", "account_marks", "account_days", "idempotency_keys")
    async with pool.connection() as connection:
        return {
            table: [row["row"] for row in await connection.fetch(f"SELECT t::text AS row FROM {table} AS t")]
            for table in tables
        }
