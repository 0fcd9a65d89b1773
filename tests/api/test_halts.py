"""The kill switch: whoever may stops an account or all of them, and a named person lets them go on."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.halt import HaltListResponse, HaltOut, ResumeResponse
from app.db.halts import list_halts
from app.db.vocabulary import Scope
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import (
    NOWHERE,
    ClientWith,
    Issue,
    bearer,
    client_of,
    execute,
    on_database,
    settings_for,
)
from tests.api.desk import Desk
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider

WHO = {"reason": "flash crash", "operator": "ana"}


@pytest.fixture
def client(client_with: ClientWith) -> TestClient:
    return client_with()


@pytest.fixture(autouse=True)
def no_halt_outlasts_its_test(client: TestClient) -> Iterator[None]:
    yield
    for halt in in_force(client):
        lift(client, halt["account_id"])


def stop(client: TestClient, account_id: str | None, state: str = "halted", **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    return client.post("/halt", json={"account_id": account_id, "state": state} | WHO | more, headers=headers)


def lift(client: TestClient, account_id: str | None, **more: Any) -> httpx2.Response:
    headers = more.pop("headers", {})
    body = {"account_id": account_id, "reason": "calm again", "operator": "ben"} | more
    return client.request("DELETE", "/halt", json=body, headers=headers)


def in_force(client: TestClient, **headers: str) -> list[dict[str, Any]]:
    answer = client.get("/halt", headers=headers)
    assert answer.status_code == 200, answer.text
    HaltListResponse.model_validate_json(answer.content)
    halts: list[dict[str, Any]] = answer.json()["halts"]
    return halts


def desk_of(client_with: ClientWith, account_id: str) -> Desk:
    decider = FakeDecider()
    return Desk(client_with(decider), decider, account_id)


class TestAHalt:
    def test_is_answered_as_it_is_stored(self, client: TestClient, account_id: str) -> None:
        answer = stop(client, account_id, "reduce_only")

        assert answer.status_code == 200
        stored = HaltOut.model_validate_json(answer.content)
        assert (stored.account_id, stored.state, stored.lifted_at) == (account_id, "reduce_only", None)
        assert [answer.json()] == in_force(client)

    @pytest.mark.parametrize("everyone", [False, True])
    def test_blocks_entries_and_exits(self, client_with: ClientWith, account_id: str, everyone: bool) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, None if everyone else account_id)

        assert desk.ask()["reason_code"] == "HALTED"
        assert desk.ask_to_close()["reason_code"] == "HALTED"

    def test_of_reduce_only_blocks_entries_alone(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, account_id, "reduce_only")

        assert desk.ask()["reason_code"] == "REDUCE_ONLY"
        assert desk.ask_to_close()["should_execute"]

    def test_leaves_other_accounts_alone(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, f"{account_id}-other")

        assert desk.ask()["should_execute"]

    def test_of_one_replica_holds_in_the_others(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(client_with(), account_id)

        assert desk.ask()["reason_code"] == "HALTED"

    def test_that_is_stricter_counts(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, account_id, "halted")
        stop(desk.client, account_id, "reduce_only")

        assert desk.ask_to_close()["reason_code"] == "HALTED"

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"operator": ""}, "operator"),
            ({"operator": " "}, "operator"),
            ({"operator": "a\nb"}, "operator"),
            ({"reason": ""}, "reason"),
            ({"state": "paused"}, "state"),
            ({"until": "tomorrow"}, "until"),
        ],
        ids=str,
    )
    def test_that_names_nobody_or_nothing_is_refused(
        self, client: TestClient, change: dict[str, Any], named: str
    ) -> None:
        problem = problem_of(stop(client, None, **change), ErrorCode.VALIDATION_ERROR)

        assert fields_of(problem) == [named]
        assert in_force(client) == []

    def test_must_say_whose_it_is(self, client: TestClient) -> None:
        problem = problem_of(client.post("/halt", json={"state": "halted"} | WHO), ErrorCode.VALIDATION_ERROR)

        assert fields_of(problem) == ["account_id"]


class TestResuming:
    def test_is_recorded_with_who_and_why(
        self, client_with: ClientWith, account_id: str, shared_database_url: str
    ) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, account_id)
        stop(desk.client, account_id, "reduce_only")

        answer = lift(desk.client, account_id)

        document = ResumeResponse.model_validate_json(answer.content)
        assert [halt.lifted_by for halt in document.lifted] == ["ben", "ben"]
        assert document.in_force == []
        assert desk.ask()["should_execute"]
        stored = on_database(shared_database_url, lambda pool: list_halts(pool, lifted_too=True))
        told = [(halt.operator, halt.lifted_by, halt.lift_reason) for halt in stored if halt.account_id == account_id]
        assert told == [("ana", "ben", "calm again")] * 2

    def test_an_account_leaves_the_global_halt_in_force(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, None)
        stop(desk.client, account_id)

        document = lift(desk.client, account_id).json()

        assert [halt["account_id"] for halt in document["in_force"]] == [None]
        assert desk.ask()["reason_code"] == "HALTED"

    def test_all_leaves_the_halt_of_an_account_in_force(self, client_with: ClientWith, account_id: str) -> None:
        desk = desk_of(client_with, account_id)
        stop(desk.client, None)
        stop(desk.client, account_id)

        document = lift(desk.client, None).json()

        assert [halt["account_id"] for halt in document["in_force"]] == [account_id]
        assert desk.ask()["reason_code"] == "HALTED"

    def test_what_runs_lifts_nothing(self, client: TestClient, account_id: str) -> None:
        assert lift(client, account_id).json() == {"lifted": [], "in_force": []}

    @pytest.mark.parametrize("field", ["operator", "reason"])
    def test_needs_a_named_person_and_a_reason(self, client: TestClient, account_id: str, field: str) -> None:
        stop(client, account_id)

        problem_of(lift(client, account_id, **{field: ""}), ErrorCode.VALIDATION_ERROR)
        assert len(in_force(client)) == 1


class TestKeys:
    @pytest.fixture
    def guarded(self, client_with: ClientWith) -> TestClient:
        return client_with(auth=Auth.ON)

    @pytest.mark.parametrize("scope", [Scope.DECIDE, Scope.READ, Scope.REPORT])
    def test_need_the_scope_admin(self, guarded: TestClient, issue: Issue, account_id: str, scope: Scope) -> None:
        headers = bearer(issue(scope))

        problem_of(stop(guarded, account_id, headers=headers), ErrorCode.FORBIDDEN)
        problem_of(lift(guarded, account_id, headers=headers), ErrorCode.FORBIDDEN)

    @pytest.mark.parametrize(("scope", "status"), [(Scope.READ, 200), (Scope.ADMIN, 200), (Scope.DECIDE, 403)])
    def test_may_look_with_read_or_admin(self, guarded: TestClient, issue: Issue, scope: Scope, status: int) -> None:
        assert guarded.get("/halt", headers=bearer(issue(scope))).status_code == status

    def test_stop_and_resume_their_own_accounts_alone(
        self, guarded: TestClient, client: TestClient, issue: Issue, account_id: str
    ) -> None:
        mine = bearer(issue(Scope.ADMIN, accounts=[account_id]))
        other = f"{account_id}-other"

        assert stop(guarded, account_id, headers=mine).status_code == 200
        for whose in (other, None):
            problem_of(stop(guarded, whose, headers=mine), ErrorCode.FORBIDDEN)
            problem_of(lift(guarded, whose, headers=mine), ErrorCode.FORBIDDEN)
        assert [halt["account_id"] for halt in in_force(client)] == [account_id]
        assert lift(guarded, account_id, headers=mine).status_code == 200

    def test_see_the_halts_of_their_accounts_and_the_global_ones(
        self, guarded: TestClient, client: TestClient, issue: Issue, account_id: str
    ) -> None:
        for whose in (account_id, f"{account_id}-other", None):
            stop(client, whose)

        mine = bearer(issue(Scope.READ, accounts=[account_id]))

        assert [halt["account_id"] for halt in in_force(guarded, **mine)] == [None, account_id]

    def test_without_one_nothing_is_open(self, guarded: TestClient, account_id: str) -> None:
        for answer in (stop(guarded, account_id), lift(guarded, account_id), guarded.get("/halt")):
            problem_of(answer, ErrorCode.UNAUTHENTICATED)


def test_nothing_is_approved_where_halts_cannot_be_read() -> None:
    decider = FakeDecider()
    with client_of(create_app(settings_for(NOWHERE), decider=decider)) as client:
        problem_of(client.post("/decide", json=a_request()), ErrorCode.STORE_UNAVAILABLE)
        problem_of(client.get("/halt"), ErrorCode.STORE_UNAVAILABLE)
        problem_of(stop(client, None), ErrorCode.STORE_UNAVAILABLE)
        problem_of(lift(client, None), ErrorCode.STORE_UNAVAILABLE)


def test_nothing_is_approved_where_the_halts_alone_cannot_be_read(
    client_with: ClientWith, account_id: str, shared_database_url: str
) -> None:
    desk = desk_of(client_with, account_id)
    execute(shared_database_url, "REVOKE SELECT ON halts FROM tradeverdict_app")
    try:
        desk.decider.will(nvda_trade())
        body = a_request(account={"id": account_id})
        problem_of(desk.client.post("/decide", json=body), ErrorCode.STORE_UNAVAILABLE)
    finally:
        execute(shared_database_url, "GRANT SELECT ON halts TO tradeverdict_app")

    assert desk.ask()["should_execute"]
