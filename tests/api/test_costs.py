"""GET /costs adds up the ledger, for whoever may see which accounts."""

from decimal import Decimal
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.db.model_calls import keep_calls_in
from app.db.vocabulary import Scope
from app.domain.model_call import WARMED, ModelCall
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer, on_database
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider


def costs(client: TestClient, headers: dict[str, str] | None = None, /, **wanted: Any) -> Any:
    answer = client.get("/costs", params=wanted, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def keep_warm(url: str) -> None:
    """Note one call that kept a target warm."""

    async def note(pool: Any) -> None:
        async with pool.connection() as connection:
            call = ModelCall(
                target="warmed", model="m", started_ms=0, latency_ms=1, outcome=WARMED, cost_usd=Decimal("0.25")
            )
            await keep_calls_in(connection, [call], asker=None)

    on_database(url, note)


def test_a_decision_costs_what_its_calls_did(client: TestClient, decider: FakeDecider) -> None:
    decider.will(nvda_trade())
    decided = client.post("/decide", json=a_request()).json()
    document = costs(client)
    (line,) = document["costs"]

    assert document["window"]["days"] >= 1
    assert line | {"day": ""} == {
        "day": "",
        "target": "fake",
        "model": "fake-1",
        "api_key_id": None,
        "decisions": 1,
        "calls": 1,
        "hedged": 0,
        "cancelled": 0,
        "failed": 0,
        "warming": 0,
        "estimated": 0,
        "unpriced": 0,
        "input_tokens": 1000,
        "output_tokens": 100,
        "cache_read_tokens": 0,
        "cache_write_tokens": 0,
        "cost_usd": "0.0015",
    }
    assert document["cost_usd"] == "0.0015"
    assert decided["decider"]["cost_usd"] == 0.0015


def test_an_empty_ledger_cost_nothing(client: TestClient) -> None:
    document = costs(client, days=1)

    assert (document["cost_usd"], document["costs"], document["window"]["days"]) == ("0", [], 1)


def test_a_key_sees_the_costs_of_its_accounts_and_no_warming(
    client_with: ClientWith, issue: Issue, account_id: str, shared_database_url: str
) -> None:
    client = client_with(FakeDecider(nvda_trade()), auth=Auth.ON)
    everything = issue(Scope.DECIDE, Scope.READ)
    other = f"{account_id}-other"
    restricted = issue(Scope.DECIDE, Scope.READ, accounts=[account_id])
    for key, account in ((restricted, account_id), (everything, account_id), (everything, other)):
        answer = client.post("/decide", json=a_request(account={"id": account}), headers=bearer(key))
        assert answer.status_code == 200, answer.text
    keep_warm(shared_database_url)
    seen = costs(client, bearer(restricted))
    all_of_it = costs(client, bearer(everything))

    assert sorted((line["api_key_id"], line["decisions"], line["warming"]) for line in seen["costs"]) == sorted(
        [(restricted.key.public_id, 1, 0), (everything.key.public_id, 1, 0)]
    )
    assert seen["cost_usd"] == "0.0030"
    assert {"warmed"} == {line["target"] for line in all_of_it["costs"] if line["warming"]}
    assert sum(line["decisions"] for line in all_of_it["costs"] if line["api_key_id"] == everything.key.public_id) == 2
    assert costs(client, bearer(everything), account=other)["cost_usd"] == "0.0015"
    assert costs(client, bearer(restricted), account=other)["costs"] == []


def test_costs_need_the_scope_that_reads(client_with: ClientWith, issue: Issue) -> None:
    client = client_with(auth=Auth.ON)

    problem_of(client.get("/costs"), ErrorCode.UNAUTHENTICATED)
    problem_of(client.get("/costs", headers=bearer(issue(Scope.DECIDE))), ErrorCode.FORBIDDEN)


@pytest.mark.parametrize(
    "wanted", [{"days": 0}, {"days": "x"}, {"from": "2026-01-01"}, {"from": 1, "to": 2}, {"day": 3}, {"account": ""}]
)
def test_a_wrong_parameter_is_named(client_with: ClientWith, wanted: dict[str, Any]) -> None:
    problem = problem_of(client_with().get("/costs", params=wanted), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem)


def test_days_outside_the_window_do_not_count(client: TestClient, decider: FakeDecider) -> None:
    decider.will(nvda_trade())
    client.post("/decide", json=a_request())

    assert costs(client, None, **{"from": "2020-01-01", "to": "2020-01-31"})["costs"] == []


def test_without_the_store_costs_are_not_known(offline: TestClient) -> None:
    problem_of(offline.get("/costs"), ErrorCode.STORE_UNAVAILABLE)
