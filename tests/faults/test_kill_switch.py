"""Once a halt is answered nothing is approved any more, whichever process is asked, also after it was killed."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx2

from app.db.engine import ConnectionPool
from app.domain.lifecycle import STOP_GRACE
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.processes import PROVE, Service, ask, full_or_quick, owner_of, service, services

HALTS = full_or_quick(24, 6)
CALLERS = 8
ACCOUNTS = ("paper-1", "paper-2")
HALTED_S = 0.4
LIVELY_S = 0.2
SETTINGS: dict[str, object] = {"MAX_ORDER_NOTIONAL": 200, "MAX_DAILY_NOTIONAL": 10_000_000_000, "RESERVATION_TTL_S": 1}
"""Orders so small that there is always room for one more."""


class Traffic:
    """Callers that ask for entries all the time, each time in another symbol, of two processes and two accounts."""

    def __init__(self, client: httpx2.AsyncClient, running: list[Service]) -> None:
        self.client = client
        self.running = running
        self.met: Counter[str] = Counter()
        self._symbols = itertools.count(1)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        callers = [asyncio.create_task(self._call(number)) for number in range(CALLERS)]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            over = await asyncio.gather(*callers, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in over), over

    async def _call(self, number: int) -> None:
        for turn in itertools.count(number):
            body = wanting(ACCOUNTS[turn % 2], next(self._symbols))
            try:
                answer = await ask(self.client, self.running[(turn // 2) % 2], body)
            except httpx2.TransportError:
                self.met["broken connections"] += 1
                await asyncio.sleep(0.02)
                continue
            assert answer.status == 200, answer
            self.met[answer.json["reason_code"] or "approved"] += 1


def wanting(account_id: str, number: int) -> dict[str, Any]:
    """A request on a dip that the rules buy, in a symbol that nobody asked about before."""
    letters = "".join(chr(65 + number // 26**place % 26) for place in range(4))
    return a_request(
        account={"id": account_id, "equity": 10_000_000, "cash": 10_000_000, "positions": []}
        | {"buying_power": ..., "daily_pnl": 0, "weekly_pnl": 0},
        symbol={"symbol": f"S{letters}", "rsi": 25, "ma_20": 140.0, "ma_50": 120.0, "bars": []},
        news=[],
        options_flow=[],
    )


async def approvals(owner: "asyncpg.Connection[asyncpg.Record]", account_id: str | None) -> int:
    counted: int = await owner.fetchval(
        "SELECT count(*) FROM llm_decisions WHERE verdict IN ('approved', 'resized') AND ($1::text IS NULL"
        " OR account_id = $1)",
        account_id,
    )
    return counted


async def test_no_approval_commits_after_a_halt(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    restarts = 0
    late: list[int] = []
    between: list[int] = []
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(owner_of(database_url))
        running = await stack.enter_async_context(services(2, database_url, tmp_path, **SETTINGS))
        traffic = Traffic(client, running)
        await stack.enter_async_context(traffic.flowing())
        for number in range(HALTS):
            account_id = (None, *ACCOUNTS)[number % 3]
            whose = {"account_id": account_id, "reason": "drill", "operator": "ana"}
            before = await approvals(owner, account_id)
            await asyncio.sleep(LIVELY_S)
            between.append(await approvals(owner, account_id) - before)

            state = ("halted", "reduce_only")[number % 2]
            url = f"{running[number % 2].base_url}/halt"
            halted = await client.post(url, json=whose | {"state": state})
            assert halted.status_code == 200, halted.text
            committed = await approvals(owner, account_id)
            if number % 3 == 0:
                await running[0].kill()
                running[0] = await stack.enter_async_context(service(database_url, tmp_path, **SETTINGS))
                restarts += 1
            await asyncio.sleep(HALTED_S)
            late.append(await approvals(owner, account_id) - committed)

            url = f"{running[1 - number % 2].base_url}/halt"
            lifted = await client.request("DELETE", url, json=whose)
            assert len(lifted.json()["lifted"]) == 1
        strays = await approved_while_halted(owner)

    assert set(late) == {0}
    assert strays == 0
    # There was something to stop: each time, entries were approved until the halt and refused after it.
    assert min(between) > 0
    assert traffic.met["HALTED"] > 0
    assert traffic.met["REDUCE_ONLY"] > 0
    figures(
        f"{HALTS} halts of an account or of all, {CALLERS} callers over 2 processes",
        restarts_while_halted=restarts,
        approvals_committed_after_a_halt=sum(late),
        approved_while_running=traffic.met["approved"],
        refused_while_halted=traffic.met["HALTED"] + traffic.met["REDUCE_ONLY"],
    )


async def approved_while_halted(owner: "asyncpg.Connection[asyncpg.Record]") -> int:
    """Approvals that were judged, by the database clock, while a halt of their account or of all was in force."""
    counted: int = await owner.fetchval(
        "SELECT count(*) FROM llm_decisions AS decision JOIN halts AS halt ON decision.decided_at > halt.set_at"
        " AND decision.decided_at < halt.lifted_at AND coalesce(halt.account_id, decision.account_id)"
        " = decision.account_id WHERE verdict IN ('approved', 'resized')"
    )
    return counted


async def test_a_fill_without_a_stop_halts_its_account_though_the_process_that_heard_of_it_was_killed(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async with services(2, database_url, tmp_path, **SETTINGS) as running, owner_of(database_url) as owner:
        decision = (await ask(client, running[0], wanting("paper-1", 1))).json
        fill = {"event_id": "fill-1", "event": "filled", "at": decision["decided_at"], "quantity": 1, "price": 125.4}
        url = f"{running[0].base_url}/decisions/{decision['decision_id']}/events"
        told = await client.post(url, json=fill)
        assert told.status_code == 201, told.text
        await running[0].kill()
        if not PROVE:
            await owner.execute("UPDATE reservations SET stop_due_at = clock_timestamp() + interval '1 s'")
        due: datetime = await owner.fetchval("SELECT stop_due_at FROM reservations")
        early = (await ask(client, running[1], wanting("paper-1", 2))).json
        halt = await first_halt(owner)
        late = (await ask(client, running[1], wanting("paper-1", 3))).json
        other = (await ask(client, running[1], wanting("paper-2", 4))).json
        metrics = (await client.get(f"{running[1].base_url}/metrics")).text

    assert (halt["state"], halt["operator"]) == ("reduce_only", "tradeverdict")
    assert (early["reason_code"], late["reason_code"], other["reason_code"]) == (None, "REDUCE_ONLY", None)
    assert "tradeverdict_unprotected_fills_total 1.0" in metrics
    behind_s = (halt["set_at"] - due).total_seconds()
    assert 0 <= behind_s < 5
    figures(
        "a fill without a stop",
        waited_s=STOP_GRACE.seconds if PROVE else 1,
        halted_after_its_time_s=f"{behind_s:.2f}",
        state=halt["state"],
    )


async def first_halt(owner: "asyncpg.Connection[asyncpg.Record]") -> asyncpg.Record:
    async with asyncio.timeout(STOP_GRACE.seconds + 10):
        while (halt := await owner.fetchrow("SELECT state, operator, set_at FROM halts")) is None:
            await asyncio.sleep(0.05)
    return halt
