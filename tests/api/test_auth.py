"""A key opens what its scopes and accounts name, while it is neither expired nor revoked."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from app.api.auth import Authenticator
from app.api.errors import ApiError, ErrorCode
from app.db.api_keys import list_keys, revoke_key
from app.db.engine import create_pool
from app.db.vocabulary import Scope
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import NOWHERE, ClientWith, Issue, bearer, client_of, on_database, settings_for
from tests.api.problems import problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider


@pytest.fixture
def guarded(client_with: ClientWith) -> TestClient:
    """A client of a service that needs keys."""
    return client_with(FakeDecider(nvda_trade()), auth=Auth.ON)


def test_without_a_key_nothing_but_health_is_open(guarded: TestClient) -> None:
    for answer in (
        guarded.post("/decide", json=a_request()),
        guarded.get("/decisions"),
        guarded.get("/decisions/01930000-0000-7000-8000-000000000001"),
    ):
        problem_of(answer, ErrorCode.UNAUTHENTICATED)
        assert answer.headers["www-authenticate"] == 'Bearer realm="tradeverdict"'
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert guarded.get(path).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/decisions?limit=all"),
        ("GET", "/decisions/7"),
        ("POST", "/decisions/7/events"),
        ("POST", "/decide"),
        ("POST", "/halt"),
        ("DELETE", "/halt"),
    ],
)
def test_without_a_key_nobody_learns_what_else_is_wrong(guarded: TestClient, method: str, path: str) -> None:
    problem_of(guarded.request(method, path, content=b"{"), ErrorCode.UNAUTHENTICATED)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer tv_",
        "Bearer tv__",
        "Bearer tv_a_b_c",
        "Basic dXNlcjpwYXNz",
        "tv_0000000000000000_00",
        "Bearer tv_0000000000000000_0000000000000000000000000000000000000000000000000000000000000000",
        "Bearer tv_\u00fc_\u00fc",
    ],
)
def test_a_wrong_key_is_refused(guarded: TestClient, header: str) -> None:
    answer = guarded.get("/decisions", headers=[(b"authorization", header.encode("latin-1"))])

    problem_of(answer, ErrorCode.UNAUTHENTICATED)


def test_a_key_is_checked_to_its_last_character(guarded: TestClient, issue: Issue) -> None:
    token = issue(Scope.READ).token
    wrong = token[:-1] + ("0" if token[-1] != "0" else "1")

    assert guarded.get("/decisions", headers={"authorization": f"bearer {token}"}).status_code == 200
    problem_of(guarded.get("/decisions", headers={"authorization": f"Bearer {wrong}"}), ErrorCode.UNAUTHENTICATED)


def test_a_key_opens_only_what_its_scopes_name(guarded: TestClient, issue: Issue, account_id: str) -> None:
    reads, decides = bearer(issue(Scope.READ)), bearer(issue(Scope.DECIDE))
    request = a_request(account={"id": account_id})

    assert guarded.get("/decisions", headers=reads).status_code == 200
    assert guarded.post("/decide", json=request, headers=decides).status_code == 200
    problem_of(guarded.post("/decide", json=request, headers=reads), ErrorCode.FORBIDDEN)
    problem_of(guarded.get("/decisions", headers=decides), ErrorCode.FORBIDDEN)


def test_a_key_acts_for_its_accounts_alone(guarded: TestClient, issue: Issue, account_id: str) -> None:
    mine, theirs = account_id, f"{account_id}-other"
    everyone = bearer(issue(Scope.READ, Scope.DECIDE))
    restricted = bearer(issue(Scope.READ, Scope.DECIDE, accounts=[mine]))
    own = guarded.post("/decide", json=a_request(account={"id": mine}), headers=restricted).json()
    other = guarded.post("/decide", json=a_request(account={"id": theirs}), headers=everyone).json()

    refused = guarded.post("/decide", json=a_request(account={"id": theirs}), headers=restricted)

    problem_of(refused, ErrorCode.FORBIDDEN)
    listed = guarded.get("/decisions", headers=restricted).json()["decisions"]
    assert [decision["decision_id"] for decision in listed] == [own["decision_id"]]
    assert guarded.get(f"/decisions?account={theirs}", headers=restricted).json()["decisions"] == []
    assert guarded.get(f"/decisions/{own['decision_id']}", headers=restricted).status_code == 200
    hidden = guarded.get(f"/decisions/{other['decision_id']}", headers=restricted)
    problem_of(hidden, ErrorCode.NOT_FOUND)


def test_an_expired_or_revoked_key_is_a_wrong_key(guarded: TestClient, issue: Issue, shared_database_url: str) -> None:
    expired = issue(Scope.READ, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked = issue(Scope.READ)
    assert guarded.get("/decisions", headers=bearer(revoked)).status_code == 200

    assert on_database(shared_database_url, lambda pool: revoke_key(pool, revoked.key.public_id))

    for key in (expired, revoked):
        problem_of(guarded.get("/decisions", headers=bearer(key)), ErrorCode.UNAUTHENTICATED)


def test_a_bearer_known_to_be_good_is_checked_anew_for_each_decision(
    guarded: TestClient, issue: Issue, shared_database_url: str, account_id: str
) -> None:
    issued = issue(Scope.DECIDE)
    request = a_request(account={"id": account_id})
    assert [guarded.post("/decide", json=request, headers=bearer(issued)).status_code for _ in range(2)] == [200, 200]

    assert on_database(shared_database_url, lambda pool: revoke_key(pool, issued.key.public_id))

    bodies: list[dict[str, Any]] = [{"json": request}, {"json": {}}, {"content": b"{"}, {"data": {"a": "b"}}]
    for body in bodies:
        problem_of(guarded.post("/decide", **body, headers=bearer(issued)), ErrorCode.UNAUTHENTICATED)


def test_a_bearer_known_to_be_good_learns_what_is_wrong_with_a_request(
    guarded: TestClient, issue: Issue, account_id: str
) -> None:
    decides, reads = bearer(issue(Scope.DECIDE, Scope.READ, accounts=[account_id])), bearer(issue(Scope.READ))
    for known in (decides, reads):
        assert guarded.get("/decisions", headers=known).status_code == 200

    problem_of(guarded.post("/decide", content=b"{", headers=decides), ErrorCode.MALFORMED_JSON)
    problem_of(guarded.post("/decide", json={}, headers=decides), ErrorCode.VALIDATION_ERROR)
    problem_of(guarded.post("/decide", json=a_request(), headers=decides), ErrorCode.FORBIDDEN)
    for body in (b"{", b"{}"):
        problem_of(guarded.post("/decide", content=body, headers=reads), ErrorCode.FORBIDDEN)
    problem_of(guarded.post("/decide", json=a_request(), headers=reads), ErrorCode.FORBIDDEN)


def test_a_bearer_known_to_be_good_is_held_by_a_halt_from_the_next_decision_on(
    guarded: TestClient, issue: Issue, account_id: str
) -> None:
    known = bearer(issue(Scope.DECIDE, Scope.ADMIN))
    request = a_request(account={"id": account_id})
    assert guarded.post("/decide", json=request, headers=known).json()["verdict"] == "approved"
    halt = {"account_id": account_id, "state": "halted", "reason": "test", "operator": "me"}
    assert guarded.post("/halt", json=halt, headers=known).status_code == 200

    assert guarded.post("/decide", json=request, headers=known).json()["reason_code"] == "HALTED"


async def test_strangers_bodies_and_those_of_bearers_beyond_their_limit_are_not_read_before_their_keys(
    shared_database_url: str, issue: Issue
) -> None:
    pool = await create_pool(shared_database_url, min_size=1, max_size=1)
    authenticator = Authenticator(pool, auth=Auth.ON, requests_per_minute=1, limit_without_key=False)
    issued = await asyncio.to_thread(issue, Scope.DECIDE)
    asked, guessed = (
        Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})
        for token in (issued.token, f"tv_{issued.key.public_id}_{'0' * 64}")
    )

    recognized = [authenticator.recognize(asked) is not None]
    for _ in range(2):
        with suppress(ApiError):
            await authenticator.authorize(asked, Scope.DECIDE)
        recognized.append(authenticator.recognize(asked) is not None)
        assert authenticator.recognize(guessed) is None
    await pool.close()

    assert recognized == [False, True, False]


def test_the_use_of_a_key_is_noted_and_stored_with_the_decision(
    guarded: TestClient, issue: Issue, shared_database_url: str, account_id: str
) -> None:
    issued = issue(Scope.DECIDE, Scope.READ)

    answer = guarded.post("/decide", json=a_request(account={"id": account_id}), headers=bearer(issued)).json()

    record = guarded.get(f"/decisions/{answer['decision_id']}", headers=bearer(issued)).json()
    assert record["api_key_id"] == issued.key.public_id
    [listed] = [k for k in on_database(shared_database_url, list_keys) if k.public_id == issued.key.public_id]
    assert listed.last_used_at is not None


def test_keys_that_cannot_be_checked_open_nothing() -> None:
    app = create_app(settings_for(NOWHERE, auth=Auth.ON), decider=FakeDecider())
    with client_of(app) as client:
        answer = client.get("/decisions", headers={"authorization": f"Bearer tv_{'0' * 16}_{'0' * 64}"})

    problem_of(answer, ErrorCode.STORE_UNAVAILABLE)


def test_a_fault_beside_the_reading_of_the_store_is_told_to_whose_key_is_good_and_harms_nothing(
    guarded: TestClient, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object, **__: object) -> None:
        raise AssertionError("a bug")

    key = issue(Scope.DECIDE)

    def asked() -> Any:
        return guarded.post("/decide", headers=bearer(key), json=a_request())

    assert asked().status_code == 200  # from here on the bearer is recognized
    with monkeypatch.context() as patched:
        patched.setattr("app.service.DecisionService.situation", faulty)
        for _ in range(20):
            problem_of(asked(), ErrorCode.INTERNAL_ERROR)

    assert asked().status_code == 200
    assert guarded.get("/readyz").status_code == 200
