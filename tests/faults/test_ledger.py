"""Cancelled, hedged and failed calls add up: the ledger says what the stand-ins themselves counted."""

import asyncio
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.api.served import ledger, served
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.processes import full_or_quick
from tests.llm.routes import streamed_decision
from tests.model_server import Answer, ModelServer, Request, error, message, stream, tool_call

RATE: Final = 20
PROBES_S: Final = 0.05
KINDS: Final = {"well": 70, "late": 10, "529": 5, "500": 4, "refusal": 4, "max_tokens": 3, "reset": 2, "broken": 2}
USAGE: Final = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
"""What the API calls the columns of the ledger."""


class Counting:
    """Answer by chance, each reply with figures and an id of its own, and remember what was said."""

    def __init__(self, name: str, *, seed: int) -> None:
        self._name = name
        self._chance = random.Random(seed)
        self.kinds: Counter[str] = Counter()
        self.said: dict[str, dict[str, int]] = {}

    def __call__(self, _: Request) -> Answer:
        (kind,) = self._chance.choices(list(KINDS), list(KINDS.values()))
        self.kinds[kind] += 1
        request_id = f"{self._name}-{self.kinds.total()}"
        usage = {name: self._chance.randrange(1, 500) for name in USAGE}
        if kind in {"529", "500"}:
            self.said[request_id] = dict.fromkeys(USAGE, 0)
            body = error("overloaded_error" if kind == "529" else "api_error")
            return Answer(status=int(kind), body=body, headers={"request-id": request_id})
        if kind == "reset":
            return Answer(reset=True)
        self.said[request_id] = usage
        stop_reason = kind if kind in {"refusal", "max_tokens"} else "tool_use"
        whole = message(tool_call(streamed_decision()), usage=usage, stop_reason=stop_reason)
        times = (0.7, 0.8, 0.9) if kind == "late" else (0.02, 0.05, 0.1)
        answer = stream(whole, first_s=times[0], last_number_s=times[1], end_s=times[2])
        pieces = (*answer.pieces[:8], (0.0, None)) if kind == "broken" else answer.pieces
        return replace(answer, pieces=pieces, headers={"request-id": request_id})


async def test_the_ledger_is_what_the_stand_ins_counted(database_url: str, tmp_path: Path, figures: Figures) -> None:
    decisions = full_or_quick(3000, 120)
    counting = [Counting("first", seed=3), Counting("second", seed=5)]
    first, second = (ModelServer(count) for count in counting)

    async def one(client: httpx2.AsyncClient, number: int) -> Any:
        await asyncio.sleep(number / RATE)
        answer = await client.post("/decide", json=a_request(account={"id": f"account-{number}"}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    async with (
        first,
        second,
        served(
            database_url,
            tmp_path,
            first,
            second,
            model_hedge_max_share=Decimal("0.2"),
            model_breaker_cool_down_s=Decimal(str(PROBES_S)),
        ) as client,
    ):
        documents = await asyncio.gather(*(one(client, number) for number in range(decisions)))
        attempts = sum(document["decider"]["attempts"] for document in documents)
        kept = await ledger(database_url, calls=attempts)
        costs = (await client.get("/costs")).json()

    asked = {"first": len(first.requests), "second": len(second.requests)}
    unsent = {
        name: [row for row in kept if row["target"] == name and row["cancelled"] and row["request_id"] is None]
        for name in asked
    }
    known = {row["request_id"]: row for row in kept if row["request_id"] is not None}
    said = counting[0].said | counting[1].said
    # A call that lost may be cut off before it learns the id of its answer; its row is an estimate then.
    told = {
        request_id: usage
        for request_id, usage in said.items()
        if request_id in known and not known[request_id]["estimated"]
    }
    totals = {
        column: (
            sum(row[column] for row in kept if not row["estimated"]),
            sum(usage[name] for usage in told.values()),
            sum(line[column] for line in costs["costs"]),
        )
        for name, column in USAGE.items()
    }
    figures(
        "ledger against stand-ins",
        decisions=decisions,
        calls=len(kept),
        requests=sum(asked.values()),
        hedged=sum(row["hedged"] for row in kept),
        cancelled=sum(row["cancelled"] for row in kept),
        failed=sum(row["outcome"].startswith("MODEL_") for row in kept),
        estimated=sum(row["estimated"] for row in kept),
        valid=f"{sum(document['reason_code'] is None for document in documents) / decisions:.1%}",
        cost_usd=costs["cost_usd"],
    )
    figures(
        "tokens: ledger, stand-ins, GET /costs with estimates",
        **{column: "/".join(map(str, each)) for column, each in totals.items()},
    )

    assert len(kept) == attempts
    assert {str(row["decision_id"]) for row in kept} <= {document["decision_id"] for document in documents}
    for name, count in asked.items():
        of = [row for row in kept if row["target"] == name]
        # A call may be cut off before its first byte has left.
        assert count <= len(of) <= count + len(unsent[name])
    for request_id, usage in told.items():
        assert {name: known[request_id][column] for name, column in USAGE.items()} == usage, request_id
    assert all(ledgered == counted for ledgered, counted, _ in totals.values())
    assert all(row["estimated"] for row in kept if row["cancelled"])
    assert sum(line["calls"] for line in costs["costs"]) == len(kept)
    assert Decimal(costs["cost_usd"]) == sum(row["cost_usd"] for row in kept)
    assert sum(line["cancelled"] for line in costs["costs"]) == sum(row["cancelled"] for row in kept) > 0
    assert sum(line["hedged"] for line in costs["costs"]) > 0
