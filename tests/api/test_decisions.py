"""Decisions can be listed, filtered, paged through and read in full, as they were stored."""

import json
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.responses import DecisionListResponse, DecisionRecordResponse
from app.domain.proposal import ModelFailure
from app.main import create_app
from tests.api.conftest import client_of, settings_for
from tests.api.problems import problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider, Scripted

STORED: list[tuple[str, Scripted]] = [
    ("a", nvda_trade()),
    ("a", ModelFailure.TIMEOUT),
    ("b", nvda_trade(conviction=10)),
    ("b", nvda_trade()),
]
"""Accounts and replies, oldest first: approved, no trade, blocked, approved."""


@pytest.fixture(scope="module")
def client(shared_database_url: str) -> Iterator[TestClient]:
    """A client of a service that decided four times."""
    decider = FakeDecider()
    with client_of(create_app(settings_for(shared_database_url), decider=decider)) as running:
        for account, scripted in STORED:
            decider.will(scripted)
            assert running.post("/decide", json=a_request(account={"id": account})).status_code == 200
        yield running


def listed(client: TestClient, query: str) -> list[tuple[str, str]]:
    """Account and verdict of each decision listed."""
    answer = client.get(f"/decisions?{query}")
    assert answer.status_code == 200, answer.text
    page = DecisionListResponse.model_validate_json(answer.content)
    return [(decision.account_id, decision.verdict.value) for decision in page.decisions]


def test_decisions_are_listed_newest_first(client: TestClient) -> None:
    assert listed(client, "") == [("b", "approved"), ("b", "blocked"), ("a", "no_trade"), ("a", "approved")]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("account=a", [("a", "no_trade"), ("a", "approved")]),
        ("account=nobody", []),
        ("verdict=approved", [("b", "approved"), ("a", "approved")]),
        ("verdict=approved&account=b", [("b", "approved")]),
        ("symbol=nvda&verdict=blocked", [("b", "blocked")]),
        ("symbol=AAPL", []),
        ("from=2000-01-01T00:00:00Z&to=2001-01-01T00:00:00%2B02:00", []),
        ("from=2000-01-01T00:00:00Z&limit=1", [("b", "approved")]),
    ],
)
def test_filters_narrow_the_list(client: TestClient, query: str, expected: list[tuple[str, str]]) -> None:
    assert listed(client, query) == expected


def test_times_are_inclusive_from_and_exclusive_to(client: TestClient) -> None:
    third = client.get("/decisions").json()["decisions"][1]["decided_at"]

    assert listed(client, f"from={third}") == [("b", "approved"), ("b", "blocked")]
    assert listed(client, f"to={third}") == [("a", "no_trade"), ("a", "approved")]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_pages_hold_every_decision_once(client: TestClient, limit: int) -> None:
    found: list[str] = []
    query = f"limit={limit}"
    for _ in range(10):
        page = client.get(f"/decisions?{query}").json()
        found += [decision["decision_id"] for decision in page["decisions"]]
        if page["next_cursor"] is None:
            break
        query = f"limit={limit}&cursor={page['next_cursor']}"

    assert found == [decision["decision_id"] for decision in client.get("/decisions").json()["decisions"]]
    assert len(found) == len(STORED)


def test_a_decision_can_be_read_in_full(client: TestClient) -> None:
    summary = client.get("/decisions?account=a&verdict=approved").json()["decisions"][0]

    answer = client.get(f"/decisions/{summary['decision_id']}")

    record = DecisionRecordResponse.model_validate_json(answer.content)
    document = answer.json()
    assert {name: document[name] for name in summary} == summary
    assert document["request"] == json.loads(json.dumps(a_request(account={"id": "a"})))
    assert record.response.order == record.ticket
    assert record.response.gates == record.gates
    assert record.notional_usd == "6646.2"
    assert document["proposal"]["candidates"][0]["symbol"] == "NVDA"
    assert "NVDA" in record.prompt_user


def test_a_decision_that_does_not_exist_is_not_found(client: TestClient) -> None:
    problem_of(client.get("/decisions/01930000-0000-7000-8000-000000000001"), ErrorCode.NOT_FOUND)


def test_a_cursor_that_was_never_given_leads_nowhere(client: TestClient) -> None:
    assert listed(client, f"cursor={'A' * 22}") == []
