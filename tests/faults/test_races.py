"""Many callers at once, over two processes: one decision and one model call for each key."""

import asyncio
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import httpx2

from app.db.engine import ConnectionPool
from tests.faults.conftest import Figures
from tests.faults.processes import Answer, ask, asking, full_or_quick, http_client, request, service, services
from tests.model_server import Answer as Reply
from tests.model_server import ModelServer, Request, decide

KEYS = full_or_quick(100, 20)
CALLERS = 20
KEYS_AT_ONCE = 4
MODEL_S = 0.1


def slowly(asked: Request) -> Reply:
    """Decide as the stand-in does, a little later."""
    return Reply(body=decide(asked).body, delay_s=MODEL_S)


async def test_each_key_is_decided_once_and_asks_the_model_at_most_once(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    answers: dict[str, list[Answer]] = defaultdict(list)
    turns = asyncio.Semaphore(KEYS_AT_ONCE)

    async def race(key: str) -> None:
        body = request(f"account-{key}", marker=key)
        async with turns:
            answers[key] = list(
                await asyncio.gather(*(ask(client, running[number % 2], body, key=key) for number in range(CALLERS)))
            )

    async with (
        ModelServer(slowly) as model,
        services(2, database_url, tmp_path, **asking(model)) as running,
    ):
        await asyncio.gather(*(race(f"key-{number}") for number in range(KEYS)))
        calls = Counter(asked.data["news"][0]["headline"] for asked in model.requests)

    decided = await decisions_by_account(pool)
    assert decided == {f"account-{key}": 1 for key in answers}
    assert set(calls.values()) == {1}
    for key, given in answers.items():
        assert {answer.status for answer in given} <= {200, 409}, key
        assert len({answer.body for answer in given if answer.status == 200}) == 1, key
        assert sum(answer.status == 200 and not answer.replayed for answer in given) == 1, key
    statuses = Counter(answer.status for given in answers.values() for answer in given)
    figures(
        f"{KEYS} keys x {CALLERS} callers over 2 processes",
        decisions=sum(decided.values()),
        model_calls=calls.total(),
        most_model_calls_for_a_key=max(calls.values()),
        identical_answers=statuses[200],
        told_to_come_back=statuses[409],
    )


async def decisions_by_account(pool: ConnectionPool) -> dict[str, int]:
    async with pool.connection() as connection:
        rows = await connection.fetch("SELECT account_id, count(*) AS decided FROM llm_decisions GROUP BY account_id")
    return {row["account_id"]: row["decided"] for row in rows}


async def test_a_client_that_hangs_up_finds_its_decision_when_it_comes_back(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    asked = asyncio.Event()

    def slowly_and_told(to_model: Request) -> Reply:
        asked.set()
        return slowly(to_model)

    body = request("paper-1")
    async with (
        ModelServer(slowly_and_told) as model,
        service(database_url, tmp_path, **asking(model)) as running,
    ):
        async with http_client() as impatient:
            hanging = asyncio.create_task(ask(impatient, running, body, key="k-1"))
            await asked.wait()
            hanging.cancel()
            with suppress(asyncio.CancelledError):
                await hanging
        answer = await ask(client, running, body, key="k-1")
        calls = len(model.requests)

    assert (answer.status, answer.replayed, answer.json["verdict"]) == (200, True, "approved")
    assert await decisions_by_account(pool) == {"paper-1": 1}
    assert calls == 1
    figures("a client that hung up", decisions=1, model_calls=calls, replayed=answer.replayed)
