"""A what-if is the verdict that the same request would have got under another policy, and nothing comes of it."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.whatif import WhatIfResponse
from app.db.vocabulary import Scope
from app.domain.policy import Policy, ScaleOut
from app.domain.proposal import ModelFailure
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer, client_of, execute, settings_for
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda, nvda_trade
from tests.builders import a_request, a_trade, an_exit
from tests.fakes import FakeDecider, Scripted

TABLES = (
    "llm_decisions",
    "account_marks",
    "account_days",
    "reservations",
    "forecasts",
    "decision_events",
    "decision_counts",
    "policies",
)
OF_A_TICKET = {"client_order_id", "valid_until", "should_execute", "order", "price_collar", "time_stop_at", "mode"}
PLAUSIBLE = nvda_trade(p_win_pct=60, target_price="133.50", conviction=58)
"""Risk-reward 1.4: blocked by default, approved by who asks less."""
TWO_IDEAS = a_trade(*PLAUSIBLE.candidates, nvda(conviction=53, thesis="Fainter, and better paid."))


@pytest.fixture(scope="module")
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture(scope="module")
def client(shared_database_url: str, decider: FakeDecider) -> Iterator[TestClient]:
    with client_of(create_app(settings_for(shared_database_url), decider=decider)) as running:
        yield running


def decided(client: TestClient, decider: FakeDecider, scripted: Scripted, account_id: str, **changes: Any) -> Any:
    decider.will(scripted)
    answer = client.post("/decide", json=a_request(account={"id": account_id}, **changes))
    assert answer.status_code == 200, answer.text
    return answer.json()


def what_if(client: TestClient, decision: Any, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/decisions/{decision['decision_id']}/whatif", json=body)
    assert answer.status_code == 200, answer.text
    WhatIfResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def test_a_lower_limit_lets_a_blocked_decision_through(
    client: TestClient, decider: FakeDecider, account_id: str
) -> None:
    decision = decided(client, decider, PLAUSIBLE, account_id)
    assert (decision["verdict"], decision["reason_code"]) == ("blocked", "LOW_RISK_REWARD")

    compared = what_if(client, decision, policy={"MIN_RISK_REWARD": 1.3})

    assert (compared["exact"], compared["verdict_changed"], compared["hypothetical"]) == (True, True, True)
    assert compared["changed_limits"] == [{"setting": "MIN_RISK_REWARD", "stored": "1.8", "whatif": "1.3"}]
    (gate,) = compared["changed_gates"]
    assert (gate["gate"], gate["stored"]["status"], gate["whatif"]["status"]) == ("risk_reward", "block", "pass")
    assert (gate["stored"]["limit"], gate["whatif"]["limit"]) == (1.8, 1.3)
    assert (compared["stored"]["verdict"], compared["stored"]["quantity"]) == ("blocked", None)
    assert (compared["whatif"]["verdict"], compared["whatif"]["reason_code"]) == ("approved", None)
    # 100,000 x 50 bps x .30 = 150;  150 / (125.40 - 119.80 + 0.03) = 26.6
    assert (compared["whatif"]["quantity"], compared["whatif"]["symbol"]) == (26, "NVDA")
    assert compared["whatif"]["sizing"] == compared["stored"]["sizing"] == decision["sizing"]
    assert compared["stored"]["gates"] == decision["gates"]


def timeless(gates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The report without the age of the snapshot, which is another one in each request."""
    return [gate | {"observed": None} if gate["gate"] == "snapshot_fresh" else gate for gate in gates]


@pytest.mark.parametrize(
    ("asked", "configured"),
    [
        ({"aggressiveness_level": 0}, {"aggressiveness_level": 0}),
        ({"aggressiveness_level": 2}, {"aggressiveness_level": 2}),
        ({"aggressiveness_level": 3}, {"aggressiveness_level": 3}),
        ({"policy": {"AGGRESSIVENESS_LEVEL": 2}}, {"aggressiveness_level": 2}),
        (
            {"policy": {"MIN_RISK_REWARD": "1.25", "PER_TRADE_RISK_BPS": 100, "TICKET_TTL_S": 5}},
            {"min_risk_reward": Decimal("1.25"), "per_trade_risk_bps": Decimal(100), "ticket_ttl_s": 5},
        ),
        (
            {"aggressiveness_level": 2, "policy": {"MAX_ORDER_NOTIONAL": 1000.5, "MIN_RISK_REWARD": 1}},
            {"aggressiveness_level": 2, "max_order_notional": Decimal("1000.5"), "min_risk_reward": Decimal(1)},
        ),
        ({"policy": {"SCALE_OUT": "thirds"}}, {"scale_out": ScaleOut.THIRDS}),
        ({"policy": {"MIN_ADV": 1e12, "MAX_SPREAD_PCT": 0.00001}}, None),
    ],
)
def test_it_is_what_a_service_with_that_policy_answers(
    client: TestClient,
    client_with: ClientWith,
    decider: FakeDecider,
    account_id: str,
    asked: dict[str, Any],
    configured: dict[str, Any] | None,
) -> None:
    limits = configured or {"min_adv": Decimal(10**12), "max_spread_pct": Decimal("0.00001")}
    request = {"aggressiveness_level": ...}
    decision = decided(client, decider, TWO_IDEAS, account_id, **request)

    compared = what_if(client, decision, **asked)
    real = decided(client_with(decider, limits=limits), decider, TWO_IDEAS, f"{account_id}-other", **request)

    same = ("action", "verdict", "reason_code", "degraded", "edge", "sizing", "candidates", "policy")
    assert {name: compared["whatif"][name] for name in same} == {name: real[name] for name in same}
    assert timeless(compared["whatif"]["gates"]) == timeless(real["gates"])
    order = real["order"] or {}
    of_order = ("side", "quantity", "entry_price", "stop_loss", "targets", "notional_usd", "risk_usd", "risk_bps")
    assert {name: compared["whatif"][name] for name in of_order} == {name: order.get(name) for name in of_order}
    assert compared["exact"]
    assert compared["stored"]["policy"] == decision["policy"] != real["policy"]


def test_it_judges_by_the_account_of_then(client: TestClient, decider: FakeDecider, account_id: str) -> None:
    first = decided(client, decider, nvda_trade(), account_id)
    second = decided(client, decider, nvda_trade(), account_id)
    assert (first["verdict"], second["reason_code"]) == ("approved", "DUPLICATE_INTENT")

    before, after = (what_if(client, decision, aggressiveness_level=2) for decision in (first, second))

    assert (before["whatif"]["verdict"], after["whatif"]["reason_code"]) == ("approved", "DUPLICATE_INTENT")
    assert before["whatif"]["quantity"] > before["stored"]["quantity"]


@pytest.mark.parametrize("scripted", [ModelFailure.TIMEOUT, an_exit(symbol="AAPL"), nvda_trade()])
def test_with_the_same_policy_nothing_changes(
    client: TestClient, decider: FakeDecider, account_id: str, scripted: Scripted
) -> None:
    decision = decided(client, decider, scripted, account_id)

    for body in ({}, {"aggressiveness_level": 1}, {"policy": {"MIN_RISK_REWARD": "1.80", "LIVE_ALLOWED": False}}):
        compared = what_if(client, decision, **body)

        assert (compared["exact"], compared["verdict_changed"]) == (True, False)
        assert compared["whatif"] == compared["stored"]
        assert (compared["changed_limits"], compared["changed_gates"], compared["assumed"]) == ([], [], [])


def test_it_is_no_ticket_and_leaves_no_trace(
    client: TestClient, decider: FakeDecider, account_id: str, shared_database_url: str
) -> None:
    decision = decided(client, decider, nvda_trade(), account_id)
    counted = "SELECT " + ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
    before = execute(shared_database_url, counted)
    asked = len(decider.prompts)

    compared = what_if(client, decision, policy={"MAX_ORDER_NOTIONAL": 1000})

    assert execute(shared_database_url, counted) == before
    assert len(decider.prompts) == asked
    assert compared["whatif"]["verdict"] == "resized"
    for part in (compared, compared["stored"], compared["whatif"]):
        assert part.keys().isdisjoint(OF_A_TICKET)
    assert decision["order"]["client_order_id"] not in str(compared)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"policy": {"MIN_RISK_REWARDS": 1}}, "policy.MIN_RISK_REWARDS"),
        ({"policy": {"min_risk_reward": 1}}, "policy.min_risk_reward"),
        ({"policy": {"DATABASE_URL": "x"}}, "policy.DATABASE_URL"),
        ({"policy": {"MIN_RISK_REWARD": 101}}, "policy.MIN_RISK_REWARD"),
        ({"policy": {"MIN_RISK_REWARD": "1e1"}}, "policy.MIN_RISK_REWARD"),
        ({"policy": {"TICKET_TTL_S": 1.5}}, "policy.TICKET_TTL_S"),
        ({"policy": {"SCALE_OUT": True}}, "policy.SCALE_OUT"),
        ({"policy": {"MIN_RISK_REWARD": None}}, "policy.MIN_RISK_REWARD"),
        ({"policy": {"MIN_RISK_REWARD": [2]}}, "policy.MIN_RISK_REWARD"),
        ({"policy": {"MIN_STOP_ATR": 6}}, "policy.MIN_STOP_ATR"),
        ({"policy": {"MAX_AGGRESSIVENESS_LEVEL": 0}}, "policy.MAX_AGGRESSIVENESS_LEVEL"),
        ({"policy": {"LIVE_ALLOWED": True}}, "policy.LIVE_ALLOWED"),
        ({"policy": {"REQUIRE_LIVE_CONFIRM": False}}, "policy.REQUIRE_LIVE_CONFIRM"),
        ({"aggressiveness_level": 1, "policy": {"AGGRESSIVENESS_LEVEL": 2}}, "policy.AGGRESSIVENESS_LEVEL"),
        ({"aggressiveness_level": 4}, "aggressiveness_level"),
        ({"level": 2}, "level"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(
    client: TestClient, decider: FakeDecider, account_id: str, body: dict[str, Any], named: str
) -> None:
    decision = decided(client, decider, ModelFailure.TIMEOUT, account_id)

    answer = client.post(f"/decisions/{decision['decision_id']}/whatif", json=body)

    assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == [named]


def test_every_wrong_limit_is_named_at_once(client: TestClient, decider: FakeDecider, account_id: str) -> None:
    decision = decided(client, decider, ModelFailure.TIMEOUT, account_id)
    wrong = {"MIN_ADV": "much", "MAX_HUNCHES": 1, "MIN_P_WIN": 0.5}

    answer = client.post(f"/decisions/{decision['decision_id']}/whatif", json={"policy": wrong})

    assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == ["policy.MIN_ADV", "policy.MAX_HUNCHES"]


def test_no_body_is_no_question(client: TestClient, decider: FakeDecider, account_id: str) -> None:
    decision = decided(client, decider, ModelFailure.TIMEOUT, account_id)
    address = f"/decisions/{decision['decision_id']}/whatif"

    problem_of(client.post(address, content=b"{"), ErrorCode.MALFORMED_JSON)
    problem_of(client.post(address, data={"x": "y"}), ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    problem_of(client.get(address), ErrorCode.METHOD_NOT_ALLOWED)


def test_a_decision_that_does_not_exist_is_not_found(client: TestClient) -> None:
    problem_of(client.post("/decisions/01930000-0000-7000-8000-000000000001/whatif", json={}), ErrorCode.NOT_FOUND)


def test_a_key_asks_about_its_own_accounts_alone(
    client: TestClient, decider: FakeDecider, client_with: ClientWith, issue: Issue, account_id: str
) -> None:
    decision = decided(client, decider, nvda_trade(), account_id)
    address = f"/decisions/{decision['decision_id']}/whatif"
    guarded = client_with(auth=Auth.ON)
    own, others = issue(Scope.READ, accounts=[account_id]), issue(Scope.READ, accounts=["another"])

    assert guarded.post(address, json={}, headers=bearer(own)).status_code == 200
    problem_of(guarded.post(address, json={}, headers=bearer(others)), ErrorCode.NOT_FOUND)
    problem_of(guarded.post(address, json={}, headers=bearer(issue(Scope.DECIDE))), ErrorCode.FORBIDDEN)
    problem_of(guarded.post(address, json={}), ErrorCode.UNAUTHENTICATED)


def test_a_decision_that_came_out_otherwise_says_that_the_comparison_is_not_exact(
    client: TestClient, decider: FakeDecider, shared_database_url: str, account_id: str
) -> None:
    decision = decided(client, decider, nvda_trade(), account_id)
    of_it = f"WHERE decision_id = '{decision['decision_id']}'"
    execute(shared_database_url, "ALTER TABLE llm_decisions DISABLE TRIGGER USER")
    execute(shared_database_url, f"UPDATE llm_decisions SET judged_with = NULL {of_it}")
    assumed = what_if(client, decision)
    execute(
        shared_database_url,
        f"UPDATE llm_decisions SET response = replace(response::text, 'approved', 'resized')::json {of_it}",
    )
    otherwise = what_if(client, decision)
    execute(shared_database_url, f"UPDATE llm_decisions SET request = '{{}}' {of_it}")
    answer = client.post(f"/decisions/{decision['decision_id']}/whatif", json={})
    execute(shared_database_url, "ALTER TABLE llm_decisions ENABLE TRIGGER USER")

    assert (assumed["exact"], assumed["assumed"]) == (True, ["buckets", "decider"])
    assert (otherwise["exact"], otherwise["verdict_changed"]) == (False, True)
    problem_of(answer, ErrorCode.DECISION_NOT_REPLAYABLE)


def test_a_level_above_the_highest_allowed_may_be_asked_about(
    client_with: ClientWith, decider: FakeDecider, account_id: str
) -> None:
    client = client_with(decider, limits={"max_aggressiveness_level": 2})
    decision = decided(client, decider, nvda_trade(), account_id, aggressiveness_level=2)

    compared = what_if(client, decision, aggressiveness_level=3)

    expected = Policy(max_snapshot_age_s=0, aggressiveness_level=3, max_aggressiveness_level=3)
    assert compared["whatif"]["policy"]["hash"] == expected.hash()
    assert compared["whatif"]["policy"]["aggressiveness_level"] == 3
