"""Nothing that strangers write moves a gate, a limit, a size or the symbols that may be traded."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from app.db.engine import ConnectionPool
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.hostile_text import HIDDEN, hostile_headlines
from tests.faults.processes import ask, asking, service
from tests.model_server import DATA_BLOCK, ModelServer, Request, decide, message, tool_call
from tests.model_server import Answer as Reply

AT_ONCE = 8
FLOW = {"symbol": "NVDA", "total_volume": 100_000, "put_call_ratio": 0.7}


def saying(text: str | None, account_id: str) -> dict[str, Any]:
    """A request in which strangers say the text wherever they may say anything; None leaves them silent."""
    news, flow = [], FLOW
    if text is not None:
        said = {"headline": text[:1000], "summary": text, "source": text[:200], "event_type": text[:200]}
        news = [said | {"timestamp": "2026-11-20T14:00:00Z", "symbols": ["NVDA", text[:200]]}]
        flow = FLOW | {"smart_money_sentiment": text[:200], "unusual_activity": [text[:1000], {text[:50]: text[:400]}]}
    return a_request(account={"id": account_id}, news=news, options_flow=[flow])


def account_of(number: int) -> str:
    return f"account-{number}"


def part_beside_the_text(asked: Request) -> bytes:
    """The whole call as bytes, without what strangers said: text of news and options flow in the data block."""
    body = json.loads(json.dumps(asked.body))
    content = body["messages"][-1]["content"]
    data = asked.data
    data.pop("news")
    for flow in data["options_flow"]:
        flow.pop("sentiment", None)
        flow.pop("unusual", None)
    body["messages"][-1]["content"] = DATA_BLOCK.sub("", content)
    return json.dumps({"body": body, "data": data}).encode()


def strings(node: Any) -> Iterator[str]:
    """Every text in a document, names included, with its escapes read."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield name
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def decided_on(record: dict[str, Any]) -> bytes:
    """What was judged and how, as bytes, without the two things that no two decisions share: ids and times."""
    gates = json.loads(record["gates"])
    for gate in gates:
        if gate["gate"] == "snapshot_fresh":
            gate["observed"] = None
    ticket = json.loads(record["ticket"]) | {"client_order_id": None, "time_stop_at": None}
    response = json.loads(record["response"])
    shared = {
        name: response[name] for name in ("verdict", "edge", "candidates", "risk_state", "claims", "data_quality")
    }
    return json.dumps([gates, json.loads(record["sizing"]), ticket, shared, record["policy_hash"]]).encode()


async def test_gates_limits_and_symbols_are_the_same_bytes_whatever_strangers_say(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    texts: list[str | None] = [None, *hostile_headlines()]
    calls: dict[bytes, int] = {}
    seen: set[str] = set()
    turns = asyncio.Semaphore(AT_ONCE)

    def note(asked: Request) -> Reply:
        calls.setdefault(part_beside_the_text(asked), 0)
        calls[part_beside_the_text(asked)] += 1
        for text in (*strings(asked.body), *strings(asked.data)):
            seen.update(text)
        return decide(asked)

    async with (
        ModelServer(note) as model,
        service(database_url, tmp_path, **asking(model), DECISION_DEADLINE_MS=10_000) as running,
    ):

        async def say(number: int, text: str | None) -> None:
            async with turns:
                answer = await ask(client, running, saying(text, account_of(number)))
                assert (answer.status, answer.json["should_execute"]) == (200, True), (text, answer.body)

        await asyncio.gather(*(say(number, text) for number, text in enumerate(texts)))

    async with pool.connection() as connection:
        records = await connection.fetch("SELECT gates, sizing, ticket, response, policy_hash FROM llm_decisions")
    assert len(texts) > 201
    assert len(records) == len(texts)
    assert list(calls.values()) == [len(texts)]
    assert len({decided_on(dict(record)) for record in records}) == 1
    assert seen.isdisjoint(HIDDEN)
    figures(
        f"{len(texts) - 1} hostile headlines",
        different_calls_beside_the_text=len(calls),
        different_gates_sizes_and_tickets=1,
        hidden_code_points_tried=len(HIDDEN),
        reached_the_model=len(seen.intersection(HIDDEN)),
    )


async def test_what_a_model_repeats_of_it_is_cleaned_before_anyone_reads_it(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    texts = hostile_headlines()
    read = 0

    def repeat(asked: Request) -> Reply:
        # The account's equity tells which text is asked about.
        text = texts[int(asked.data["account"]["equity"]) - 100_000]
        proposed = decide(asked).body["content"][0]["input"]  # type: ignore[index]
        proposed["candidates"][0]["thesis"] = text
        watch = [{"symbol": "NVDA", "trigger": text, "target_conviction": 60}]
        return Reply(body=message(tool_call(proposed | {"notes": text, "watchlist": watch})))

    async with (
        ModelServer(repeat) as model,
        service(database_url, tmp_path, **asking(model), DECISION_DEADLINE_MS=10_000) as running,
    ):
        for number in range(len(texts)):
            body = a_request(account={"id": account_of(number), "equity": 100_000 + number})
            answer = await ask(client, running, body)
            assert (answer.status, answer.json["should_execute"]) == (200, True), (texts[number], answer.body)
            assert answer.json["order"]["symbol"] == "NVDA"
            assert {letter for text in strings(answer.json) for letter in text}.isdisjoint(HIDDEN)
            read += 1

    figures("answers of a model that repeats hostile text", read=read, with_hidden_code_points=0)
