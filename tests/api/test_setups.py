"""GET /setups compares setups by their results in R."""

from datetime import date, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.setups import SetupsResponse
from app.db.vocabulary import Scope
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer
from tests.api.problems import fields_of, problem_of
from tests.ledger import Foretold, kept

FRIDAY = date(2026, 3, 6)
MARCH: dict[str, Any] = {"from": "2026-03-01", "to": "2026-03-31"}


@pytest.fixture
def client(client_with: ClientWith) -> TestClient:
    return client_with()


def told(client: TestClient, *, headers: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    answer = client.get("/setups", params=asked, headers=headers or {})
    assert answer.status_code == 200, answer.text
    SetupsResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def traded(account_id: str) -> list[Foretold]:
    """Breakouts: three wins of 1.5 R and a loss. Momentum: a win of 2 R, a loss, a scratch and a time stop."""
    results = {
        "breakout": [("win", "1.5"), ("win", "1.5"), ("win", "1.5"), ("loss", "-1")],
        "momentum": [("win", "2"), ("loss", "-1.2"), ("scratch", "0.1"), ("timeout", "-0.5")],
    }
    return [
        Foretold(day=FRIDAY + timedelta(day), account_id=account_id, setup=setup, percent=50 + 2 * day, paper=paper)
        for setup, papers in results.items()
        for day, paper in enumerate(papers)
    ]


def test_setups_are_told_of_with_all_their_figures(
    client: TestClient, account_id: str, shared_database_url: str
) -> None:
    kept(shared_database_url, traded(account_id))

    found = told(client, account=account_id, **MARCH)

    assert found["window"] == {"from": "2026-03-01", "to": "2026-03-31", "days": 31}
    breakout, momentum = found["setups"]
    # 3 of 4 and 1 of 4: S = 4 x 0.25^2 x 2 = 0.5, g = (0.5 - 0.25) / (0.25 x (8 - 4 - 1)) = 1/3, s = 2
    assert found["shrinkage"]["prior_trades"] == pytest.approx(2)
    assert breakout == {
        "setup": "breakout",
        "n": 4,
        "win": 3,
        "loss": 1,
        "scratch": 0,
        "timeout": 0,
        "win_rate": 0.75,
        "shrunk_win_rate": pytest.approx((3 + 2 * 0.5) / 6),
        "predicted_win_rate": 0.53,
        "average_win_r": 1.5,
        "average_loss_r": -1.0,
        "expectancy_r": 0.875,
        "sharpe_r": pytest.approx(0.875 / 1.25),  # results 1.5, 1.5, 1.5, -1: variance 1.5625
    }
    # 2 - 1.2 + 0.1 - 0.5 = 0.4 of 4
    assert (momentum["n"], momentum["expectancy_r"]) == (4, 0.1)
    assert (momentum["average_win_r"], momentum["average_loss_r"]) == (2.0, -1.2)


def test_an_account_without_results_has_no_setups(client: TestClient, account_id: str) -> None:
    found = told(client, account=account_id)

    assert (found["setups"], found["shrinkage"], found["source"]) == ([], None, "all")


def test_executed_results_alone_can_be_asked_for(client: TestClient, account_id: str, shared_database_url: str) -> None:
    executed = Foretold(day=FRIDAY, account_id=account_id, executed=("loss", "-1"), paper=("win", "3"))
    kept(shared_database_url, [*traded(account_id), executed])

    found = {
        source: {
            setup["setup"]: setup["n"] for setup in told(client, account=account_id, source=source, **MARCH)["setups"]
        }
        for source in ("all", "executed", "paper")
    }

    assert found == {
        "all": {"breakout": 4, "momentum": 5},
        "executed": {"momentum": 1},
        "paper": {"breakout": 4, "momentum": 5},
    }


def test_a_key_sees_its_own_accounts_alone(
    client_with: ClientWith, issue: Issue, account_id: str, shared_database_url: str
) -> None:
    client = client_with(auth=Auth.ON)
    kept(shared_database_url, [*traded(account_id), *traded(f"{account_id}-b")])
    headers = bearer(issue(Scope.READ, accounts=[account_id]))

    assert [setup["n"] for setup in told(client, headers=headers, **MARCH)["setups"]] == [4, 4]
    assert told(client, headers=headers, account=f"{account_id}-b", **MARCH)["setups"] == []


@pytest.mark.parametrize("query", ["days=0", "scratch=0", "from=2026-03-01", "source=live"])
def test_a_question_that_makes_no_sense_is_refused(offline: TestClient, query: str) -> None:
    problem = problem_of(offline.get(f"/setups?{query}"), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) in ([query.partition("=")[0]], [""])
