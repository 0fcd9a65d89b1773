"""GET /gates shows how decisions ended, and what each gate has saved or cost."""

from datetime import date
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.gates import GatesResponse
from app.db.vocabulary import Scope
from app.domain.gates import GATES
from app.domain.proposal import ModelFailure
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request, an_exit
from tests.fakes import NEUTRAL, FakeDecider
from tests.ledger import Foretold, kept

FRIDAY = date(2026, 3, 6)
MARCH: dict[str, Any] = {"from": "2026-03-01", "to": "2026-03-31"}


@pytest.fixture
def client(client_with: ClientWith) -> TestClient:
    return client_with()


def told(client: TestClient, *, headers: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    answer = client.get("/gates", params=asked, headers=headers or {})
    assert answer.status_code == 200, answer.text
    GatesResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def blocked(account_id: str, *codes: str, paper: tuple[str, str] | None = None) -> Foretold:
    return Foretold(day=FRIDAY, account_id=account_id, verdict="blocked", blocked_by=codes, paper=paper)


def test_a_gate_is_judged_by_what_it_kept_from_happening(
    client: TestClient, account_id: str, shared_database_url: str
) -> None:
    kept(
        shared_database_url,
        [
            blocked(account_id, "ILLIQUID", paper=("win", "2.05")),
            blocked(account_id, "ILLIQUID", "SIZE_BUCKET", paper=("loss", "-1")),
            blocked(account_id, "MISSING_ADV", paper=("loss", "-1")),
            blocked(account_id, "SIZE_RISK_BUDGET"),
            blocked(account_id, "FORMER_CODE", paper=("timeout", "0")),
        ],
    )

    found = told(client, account=account_id, **MARCH)

    codes = {code["code"]: code for code in found["codes"]}
    assert codes["ILLIQUID"] == {
        "code": "ILLIQUID",
        "gate": "min_adv",
        "blocked": 2,
        "resolved": 2,
        "won": 1,
        "win_rate": 0.5,
        "blocked_r": 1.05,
        "mean_r": 0.525,
        "effect": "cost",
    }
    assert {code: (of["gate"], of["blocked_r"], of["effect"]) for code, of in codes.items()} == {
        "ILLIQUID": ("min_adv", 1.05, "cost"),
        "MISSING_ADV": ("min_adv", -1.0, "saved"),
        "SIZE_BUCKET": ("size", -1.0, "saved"),
        "SIZE_RISK_BUDGET": ("size", None, None),
        "FORMER_CODE": (None, 0.0, "neither"),
    }
    assert [gate["gate"] for gate in found["gates"]] == [gate.name for gate in GATES]
    gates = {gate["gate"]: gate for gate in found["gates"]}
    assert gates["min_adv"]["blocked"] == 3
    assert gates["min_adv"]["blocked_r"] == pytest.approx(0.05)
    assert (gates["size"]["blocked"], gates["size"]["resolved"], gates["size"]["effect"]) == (2, 1, "saved")
    assert (gates["stop"]["blocked"], gates["stop"]["blocked_r"], gates["stop"]["effect"]) == (0, None, None)


def test_the_funnel_says_how_decisions_ended(client_with: ClientWith, account_id: str) -> None:
    decider = FakeDecider()
    client = client_with(decider)
    for outcome in (
        nvda_trade(p_win_pct=20),  # before the ticket that would make it a duplicate
        nvda_trade(conviction=10),
        nvda_trade(conviction=10),
        nvda_trade(),
        an_exit(symbol="AAPL"),
        NEUTRAL,
        ModelFailure.TIMEOUT,
    ):
        decider.will(outcome)
        answer = client.post("/decide", json=a_request(account={"id": account_id}))
        assert answer.status_code == 200, answer.text

    asked: dict[str, Any] = {"from": "2026-11-20", "to": "2026-11-20"}
    found = told(client, account=account_id, **asked)

    assert found["funnel"] == {
        "decisions": 7,
        "proposals": 4,
        "approved": 1,
        "resized": 0,
        "blocked": 3,
        "blocked_by_reason": {"LOW_CONVICTION": 2, "NEGATIVE_EV": 1},
        "no_trade": 2,
        "no_trade_by_reason": {"MODEL_NEUTRAL": 1, "MODEL_TIMEOUT": 1},
        "exits": {"approved": 1},
        "adjusts": {},
    }
    assert {code["code"]: code["blocked"] for code in found["codes"]}["LOW_CONVICTION"] == 2


def test_nothing_is_told_of_an_account_that_never_asked(client: TestClient, account_id: str) -> None:
    found = told(client, account=account_id)

    assert (found["funnel"]["decisions"], found["codes"]) == (0, [])
    assert {gate["blocked"] for gate in found["gates"]} == {0}


def test_a_key_sees_its_own_accounts_alone(
    client_with: ClientWith, issue: Issue, account_id: str, shared_database_url: str
) -> None:
    client, other = client_with(auth=Auth.ON), f"{account_id}-b"
    kept(shared_database_url, [blocked(account_id, "ILLIQUID"), blocked(other, "MICROCAP")])
    headers = bearer(issue(Scope.READ, accounts=[account_id]))

    assert [code["code"] for code in told(client, headers=headers, **MARCH)["codes"]] == ["ILLIQUID"]
    assert told(client, headers=headers, account=other, **MARCH)["codes"] == []


@pytest.mark.parametrize("query", ["days=0", "source=paper", "to=2026-03-01"])
def test_a_question_that_makes_no_sense_is_refused(offline: TestClient, query: str) -> None:
    problem = problem_of(offline.get(f"/gates?{query}"), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) in ([query.partition("=")[0]], [""])
