"""The answer goes out with the last number; the thesis, the usage and whatever goes wrong later follow into the record.

The whole service on a real socket, over a stand-in that streams.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.settings import LastResort
from tests.api.conftest import NOWHERE
from tests.api.desk import now
from tests.api.served import HAIKU, cost_usd, ledger, rows, served, targets_file
from tests.builders import a_request
from tests.faults.processes import ask as ask_process
from tests.faults.processes import request as process_request
from tests.faults.processes import service
from tests.llm.routes import streamed_decision
from tests.model_server import Answer, ModelServer, error, message, stream, tool_call

pytestmark = pytest.mark.xdist_group("waits")

NUMBERS_S = 0.2
END_S = 0.9
WHOLE = message(tool_call(streamed_decision()))
THESIS = "Trend intact above rising averages."


def streaming(whole: Any = WHOLE, *, end_s: float = END_S) -> Answer:
    return stream(whole, first_s=0.1, last_number_s=NUMBERS_S, end_s=end_s)


async def ask(client: httpx2.AsyncClient, **account: Any) -> Any:
    answer = await client.post("/decide", json=a_request(account=account))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def noted(client: httpx2.AsyncClient, decision: Any) -> list[Any]:
    """The events of a decision, once how its reply ended is among them."""
    async with asyncio.timeout(15):
        while True:
            answer = await client.get(f"/decisions/{decision['decision_id']}/events")
            listed: list[Any] = answer.json()["events"]
            if any(event["event"] == "model_usage" for event in listed):
                return listed
            await asyncio.sleep(0.05)


async def test_the_answer_goes_out_with_the_last_number_and_the_rest_follows(database_url: str, tmp_path: Path) -> None:
    async with ModelServer(streaming()) as model, served(database_url, tmp_path, model) as client:
        await ask(client, id="another")  # the first one of a process is slower
        began = time.monotonic()
        decision = await ask(client)
        took_s = time.monotonic() - began
        url = f"/decisions/{decision['decision_id']}"
        before = (await client.get(f"{url}/events")).json()["events"]
        stored = (await client.get(url)).json()
        reply, usage = await noted(client, decision)
        unchanged = (await client.get(url)).json()
        calls = await ledger(database_url, calls=2)
        costs = (await client.get("/costs")).json()

    assert decision["verdict"] == "approved"
    assert NUMBERS_S <= took_s < END_S - 0.2
    assert before == []
    assert unchanged == stored
    assert reply["event"] == "model_reply"
    assert reply["body"]["proposal"]["candidates"][0]["thesis"] == THESIS
    assert (reply["body"]["outcome"], reply["body"]["stop_reason"]) == ("proposal", "tool_use")
    told = WHOLE["usage"]
    assert (usage["body"]["input_tokens"], usage["body"]["output_tokens"], usage["body"]["cache_read_tokens"]) == (
        told["input_tokens"],
        told["output_tokens"],
        told["cache_read_input_tokens"],
    )
    assert len(model.requests) == len(calls) == 2
    assert all(row["outcome"] == "proposal" and not row["estimated"] and row["decision_id"] for row in calls)
    each = cost_usd(input=120, cache_read=1800, output=92)
    assert [row["cost_usd"] for row in calls] == [each, each]
    (line,) = costs["costs"]
    assert (line["target"], line["model"], line["decisions"], line["calls"]) == ("first", HAIKU, 2, 2)
    assert (line["input_tokens"], line["output_tokens"], line["cache_read_tokens"]) == (240, 184, 3600)
    assert Decimal(costs["cost_usd"]) == Decimal(line["cost_usd"]) == 2 * each


def ending(stop_reason: str) -> Answer:
    return streaming(message(tool_call(streamed_decision()), stop_reason=stop_reason))


def broken() -> Answer:
    pieces = streaming().pieces
    return Answer(pieces=(*pieces[:-3], (0.0, None)))


@pytest.mark.parametrize(
    ("code", "make"),
    [
        ("MODEL_REFUSED", lambda: ending("refusal")),
        ("MODEL_TRUNCATED", lambda: ending("max_tokens")),
        ("MODEL_UNAVAILABLE", broken),
    ],
)
async def test_what_goes_wrong_after_the_numbers_is_noted_and_changes_nothing(
    database_url: str, tmp_path: Path, code: str, make: Callable[[], Answer]
) -> None:
    async with ModelServer(make()) as model, served(database_url, tmp_path, model) as client:
        decision = await ask(client)
        query = "SELECT decision::text FROM llm_decisions AS decision"
        (before,) = await rows(database_url, query)
        reply, _ = await noted(client, decision)
        (after,) = await rows(database_url, query)
        (call,) = await ledger(database_url, calls=1)
        ticket = await client.post(
            f"/decisions/{decision['decision_id']}/events",
            json={"event_id": "1", "event": "claimed", "at": now()},
        )

    assert decision["should_execute"]
    assert (reply["body"]["outcome"], reply["body"]["proposal"]) == (code, None)
    assert reply["body"]["detail"]
    assert after == before
    assert call["outcome"] == code
    assert ticket.status_code == 201, ticket.text


@pytest.mark.parametrize(("end_s", "outcome"), [(2.0, "proposal"), (9.5, "MODEL_TIMEOUT")])
async def test_a_stop_keeps_the_ends_that_are_still_to_come(
    database_url: str, tmp_path: Path, end_s: float, outcome: str
) -> None:
    async with ModelServer(streaming(end_s=end_s)) as model, httpx2.AsyncClient(timeout=20, trust_env=False) as client:
        path = targets_file(tmp_path, model.base_url)
        async with service(database_url, tmp_path, DECIDER="anthropic", MODEL_TARGETS_FILE=path) as running:
            answer = await ask_process(client, running, process_request("paper-1"))
            running.signal(signal.SIGTERM)
            exit_code = await running.exit_code()
            log = running.log.read_text()
    (call,) = await rows(database_url, "SELECT * FROM model_calls")
    (reply, _) = await rows(database_url, "SELECT body::json ->> 'outcome' AS word FROM decision_events")

    assert answer.json["verdict"] == "approved"
    assert exit_code == 0
    assert "Traceback" not in log
    assert str(call["decision_id"]) == answer.json["decision_id"]
    assert reply["word"] == outcome
    assert call["estimated"] is (outcome != "proposal")


async def test_cancelled_and_failed_calls_are_in_the_ledger_of_their_decision(
    database_url: str, tmp_path: Path
) -> None:
    never, overloaded = Answer(body={}, delay_s=60), Answer(status=529, body=error("overloaded_error"))
    async with (
        ModelServer(overloaded, never) as first,
        ModelServer(streaming(end_s=0.3)) as second,
        served(database_url, tmp_path, first, second, model_hedge_max_share=Decimal(1)) as client,
    ):
        failed_over, hedged = await ask(client, id="a"), await ask(client, id="b")
        calls = await ledger(database_url, calls=4)

    assert (failed_over["verdict"], hedged["verdict"]) == ("approved", "approved")
    assert hedged["decider"]["hedged"]
    assert sorted((str(row["decision_id"]), row["target"], row["outcome"], row["hedged"]) for row in calls) == sorted(
        [
            (failed_over["decision_id"], "first", "MODEL_UNAVAILABLE", False),
            (failed_over["decision_id"], "second", "proposal", False),
            (hedged["decision_id"], "first", "cancelled", False),
            (hedged["decision_id"], "second", "proposal", True),
        ]
    )
    assert [row["estimated"] for row in calls if row["cancelled"]] == [True]


async def test_the_calls_of_a_decision_that_could_not_be_recorded_are_kept_once_the_store_is_well(
    database_url: str, tmp_path: Path
) -> None:
    refuse = """
    CREATE FUNCTION refuse_for_now() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$
    """
    tables = ("llm_decisions", "model_calls")
    async with ModelServer(streaming(end_s=0.3)) as model, served(database_url, tmp_path, model) as client:
        await rows(database_url, refuse)
        for table in tables:
            await rows(
                database_url,
                f"CREATE TRIGGER broken BEFORE INSERT ON {table} EXECUTE FUNCTION refuse_for_now()",
            )
        answer = await client.post("/decide", json=a_request())
        await asyncio.sleep(0.6)
        while_broken = await rows(database_url, "SELECT FROM model_calls")
        for table in tables:
            await rows(database_url, f"DROP TRIGGER broken ON {table}")
        (call,) = await ledger(database_url, calls=1)

    assert answer.status_code == 503
    assert while_broken == []
    assert (call["decision_id"], call["account_id"], call["outcome"]) == (None, "paper-1", "proposal")


async def test_the_last_resort_stands_in_on_paper_and_says_so_and_never_live(database_url: str, tmp_path: Path) -> None:
    limits = {"live_allowed": True, "max_snapshot_age_s": 60}
    async with (
        ModelServer(Answer(status=500, body=error("api_error"))) as model,
        served(database_url, tmp_path, model, model_last_resort=LastResort.RULES, limits=limits) as client,
    ):
        paper = (await client.post("/decide", json=a_request(as_of=now()))).json()
        live = await client.post(
            "/decide",
            json=a_request(as_of=now(), account={"id": "live-1", "mode": "live"}),
            headers={"Idempotency-Key": "k-1"},
        )
        calls = await ledger(database_url, calls=2)

    assert (paper["decider"]["name"], paper["degraded"], paper["decider"]["attempts"]) == ("rules", True, 1)
    assert paper["reason_code"] not in {"MODEL_UNAVAILABLE", "MODEL_TIMEOUT"}
    assert live.status_code == 200, live.text
    assert (live.json()["decider"]["name"], live.json()["verdict"]) == ("anthropic", "no_trade")
    assert (live.json()["reason_code"], live.json()["degraded"]) == ("MODEL_UNAVAILABLE", True)
    assert [row["outcome"] for row in calls] == ["MODEL_UNAVAILABLE"] * 2


async def test_without_its_store_the_service_asks_no_model(tmp_path: Path) -> None:
    async with ModelServer(streaming()) as model, served(NOWHERE, tmp_path, model) as client:
        answer = await client.post("/decide", json=a_request())

    assert answer.status_code == 503
    assert model.requests == []
