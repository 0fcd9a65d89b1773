"""What the decider was told can be read back to the byte, by those who may see the decision."""

import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.db.vocabulary import Scope
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer
from tests.api.desk import Desk
from tests.api.problems import problem_of
from tests.api.scenes import nvda_trade
from tests.api.served import served
from tests.builders import a_request
from tests.fakes import FakeDecider
from tests.model_server import ModelServer

OF_DECISIONS = ("prompt", "events")


def decided(client: TestClient, account_id: str, headers: dict[str, str] | None = None) -> str:
    answer = client.post("/decide", json=a_request(account={"id": account_id}), headers=headers)
    assert answer.status_code == 200, answer.text
    decision_id: str = answer.json()["decision_id"]
    return decision_id


async def test_a_rebuilt_prompt_is_what_went_over_the_wire(database_url: str, tmp_path: Path) -> None:
    news = [{"headline": 'Füll bööks \u4e2d\u6587 \U0001f4c8 <b>"x"', "timestamp": "2026-11-20T14:00:00Z"}]
    async with ModelServer() as model, served(database_url, tmp_path, model, streamed=False) as client:
        first = (await client.post("/decide", json=a_request(news=news))).json()
        second = (await client.post("/decide", json=a_request(account={"id": "b"}))).json()
        for decision, asked in zip((first, second), model.requests, strict=True):
            answer = await client.get(f"/decisions/{decision['decision_id']}/prompt")
            assert answer.status_code == 200, answer.text
            rebuilt = answer.json()
            sent_system, sent_user = asked.body["system"][0]["text"], asked.body["messages"][0]["content"]
            template = (await client.get(f"/prompts/{rebuilt['prompt_hash']}")).json()
            system = (await client.get(f"/prompts/{rebuilt['system_hash']}")).json()

            assert rebuilt["system"].encode() == sent_system.encode()
            assert rebuilt["user"].encode() == sent_user.encode()
            assert (rebuilt["prompt_hash"], rebuilt["prompt_version"]) == (
                decision["decider"]["prompt_hash"],
                decision["decider"]["prompt_version"],
            )
            assert (template["kind"], system["kind"]) == ("template", "system")
            assert system["body"] == rebuilt["system"]
            assert hashlib.sha256(system["body"].encode()).hexdigest() == rebuilt["system_hash"]
            assert template["version"] == system["version"] == rebuilt["prompt_version"]


def test_what_is_not_stored_is_not_found(client_with: ClientWith) -> None:
    client = client_with()

    problem_of(client.get(f"/prompts/{'0' * 64}"), ErrorCode.NOT_FOUND)
    for part in OF_DECISIONS:
        problem_of(client.get(f"/decisions/{uuid4()}/{part}"), ErrorCode.NOT_FOUND)


@pytest.mark.parametrize("path", ["/prompts/abc", f"/prompts/{'A' * 64}", "/decisions/x/prompt", "/decisions/x/events"])
def test_what_is_no_name_is_refused(client_with: ClientWith, path: str) -> None:
    problem_of(client_with().get(path), ErrorCode.VALIDATION_ERROR)


def test_a_foreign_account_stays_unknown_and_scopes_hold(
    client_with: ClientWith, issue: Issue, account_id: str
) -> None:
    client = client_with(FakeDecider(nvda_trade()), auth=Auth.ON)
    own = bearer(issue(Scope.DECIDE, Scope.READ, accounts=[account_id]))
    foreign = bearer(issue(Scope.READ, accounts=["somebody-else"]))
    blind = bearer(issue(Scope.DECIDE))
    decision_id = decided(client, account_id, own)
    prompt = client.get(f"/decisions/{decision_id}/prompt", headers=own).json()
    shared = f"/prompts/{prompt['prompt_hash']}"

    for part in OF_DECISIONS:
        path = f"/decisions/{decision_id}/{part}"
        assert client.get(path, headers=own).status_code == 200
        problem_of(client.get(path, headers=foreign), ErrorCode.NOT_FOUND)
        problem_of(client.get(path, headers=blind), ErrorCode.FORBIDDEN)
        problem_of(client.get(path), ErrorCode.UNAUTHENTICATED)
    # Templates hold no account's data.
    assert client.get(shared, headers=foreign).status_code == 200
    problem_of(client.get(shared, headers=blind), ErrorCode.FORBIDDEN)


def test_without_the_store_nothing_can_be_read(offline: TestClient) -> None:
    for path in (f"/prompts/{'0' * 64}", *(f"/decisions/{uuid4()}/{part}" for part in OF_DECISIONS)):
        problem_of(offline.get(path), ErrorCode.STORE_UNAVAILABLE)


def test_events_are_listed_as_they_were_told_in_the_order_of_their_arrival(
    client: TestClient, decider: FakeDecider
) -> None:
    desk = Desk(client, decider, "paper-1")
    decision = desk.approved()
    before = _events(client, decision)
    desk.told(decision, "claimed", event_id="a")
    desk.told(decision, "filled", event_id="b")
    desk.told(decision, "closed", event_id="c")
    told = _events(client, decision)

    assert before == []
    assert [event["event"] for event in told][:3] == ["claimed", "filled", "closed"]
    assert {event["event"] for event in told[3:]} <= {"outcome"}
    assert [event["event_id"] for event in told][:3] == ["a", "b", "c"]
    assert told[1]["body"]["price"] == "125.40"


def _events(client: TestClient, decision: dict[str, Any]) -> list[Any]:
    document = client.get(f"/decisions/{decision['decision_id']}/events").json()
    assert document["decision_id"] == decision["decision_id"]
    events: list[Any] = document["events"]
    return events
