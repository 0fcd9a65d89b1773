"""Every error is a problem document with a stable code and the request's id, and tells nothing of our insides."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from structlog.typing import EventDict

from app.api.errors import CATALOGUE, ErrorCode
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import NOWHERE, ClientWith, Serve, settings_for
from tests.api.problems import fields_of, problem_of
from tests.builders import a_request
from tests.fakes import FakeDecider


@pytest.mark.parametrize(
    "path", ["/nothing", "/decide/", "/decide/x", "/docs", "/redoc", "/decisions/", "/nothing//", "/%00"]
)
def test_an_unknown_path_is_not_found(offline: TestClient, path: str) -> None:
    problem_of(offline.get(path), ErrorCode.NOT_FOUND)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_without_keys_a_strangers_name_of_this_host_is_refused(client_with: ClientWith, host: str) -> None:
    guarded = client_with(auth=Auth.ON)

    problem_of(client_with().get("/decisions", headers={"Host": host}), ErrorCode.FOREIGN_HOST)
    problem_of(client_with().get("/healthz", headers={"Host": host}), ErrorCode.FOREIGN_HOST)
    problem_of(guarded.get("/decisions", headers={"Host": host}), ErrorCode.UNAUTHENTICATED)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "[::1]:8000", "localhost:8000", "LOCALHOST", "desk", "bot.localhost"]
)
def test_without_keys_this_hosts_own_names_are_answered(client_with: ClientWith, host: str) -> None:
    assert client_with().get("/decisions", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/decide", "POST"),
        ("PUT", "/decide", "POST"),
        ("OPTIONS", "/decide", "POST"),
        ("BREW", "/decide", "POST"),
        ("POST", "/decisions", "GET"),
        ("DELETE", "/decisions/01930000-0000-7000-8000-000000000001", "GET"),
        ("PUT", "/decisions/01930000-0000-7000-8000-000000000001/events", "GET, POST"),
        ("PUT", "/halt", "DELETE, GET, POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_wrong_method_is_refused_with_the_right_one(
    offline: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = offline.request(method, path)

    problem_of(answer, ErrorCode.METHOD_NOT_ALLOWED)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("verdict=yes", "verdict"),
        ("from=yesterday", "from"),
        ("from=2026-11-20T00:00:00", "from"),
        ("to=2026-11-20", "to"),
        ("symbol=no+such", "symbol"),
        ("account=", "account"),
        ("cursor=%21", "cursor"),
        ("cursor=AAAA", "cursor"),
        ("cursor=Ü", "cursor"),
        ("acount=paper-1", "acount"),
    ],
)
def test_a_wrong_query_is_refused_by_name(offline: TestClient, query: str, field: str) -> None:
    problem = problem_of(offline.get(f"/decisions?{query}"), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) == [field]


def test_an_id_that_is_none_is_refused(offline: TestClient) -> None:
    problem = problem_of(offline.get("/decisions/latest"), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) == ["decision_id"]


def test_without_its_store_nothing_is_decided(offline: TestClient) -> None:
    answer = offline.post("/decide", json=a_request())

    problem = problem_of(answer, ErrorCode.STORE_UNAVAILABLE)
    assert answer.headers["retry-after"] == "1"
    assert "order" not in answer.text
    assert "127.0.0.1" not in problem.model_dump_json()


@pytest.mark.parametrize("path", ["/decisions", "/decisions/01930000-0000-7000-8000-000000000001", "/readyz"])
def test_without_its_store_nothing_is_read(offline: TestClient, path: str) -> None:
    problem_of(offline.get(path), ErrorCode.STORE_UNAVAILABLE)


def test_a_bug_tells_the_caller_nothing_and_the_log_everything(
    client_with: ClientWith, logs: list[EventDict], account_id: str
) -> None:
    client = client_with(FakeDecider(RuntimeError("canary: the inside of our mind")))

    answer = client.post("/decide", json=a_request(account={"id": account_id}), headers={"x-request-id": "r-1"})

    problem = problem_of(answer, ErrorCode.INTERNAL_ERROR)
    assert problem.instance == "r-1"
    assert "canary" not in answer.text
    [logged] = [event for event in logs if event["event"] == "unexpected error"]
    assert logged["exc_info"]


@pytest.mark.parametrize("request_id", ["r-1", "x" * 128, "a b", "~!@#$%^&*()"])
def test_a_sane_request_id_is_kept(offline: TestClient, request_id: str) -> None:
    assert offline.get("/healthz", headers={"x-request-id": request_id}).headers["x-request-id"] == request_id


@pytest.mark.parametrize("request_id", ["", " ", "x" * 129, "a\tb", "ü"])
def test_any_other_request_id_is_replaced(offline: TestClient, request_id: str) -> None:
    made = offline.get("/healthz", headers=[(b"x-request-id", request_id.encode("latin-1"))]).headers["x-request-id"]

    assert made != request_id
    assert len(made) == 36


def test_each_request_is_logged_once_with_its_ids(offline: TestClient, logs: list[EventDict]) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    offline.get("/nothing", headers={"x-request-id": "r-2", "traceparent": f"00-{trace}-b7ad6b7169203331-01"})

    [logged] = [event for event in logs if event["event"] == "request"]
    assert (logged["method"], logged["path"], logged["route"], logged["status"]) == (
        "GET",
        "/nothing",
        "unmatched",
        404,
    )


def test_errors_over_a_real_socket_are_problems_too(serve: Serve) -> None:
    with serve(create_app(settings_for(NOWHERE), decider=FakeDecider())) as running:
        problem_of(running.post("/healthz", content=b"x" * 100), ErrorCode.METHOD_NOT_ALLOWED)
        problem_of(running.get("/decisions?limit=%ff"), ErrorCode.VALIDATION_ERROR)
        problem_of(running.get("/nothing"), ErrorCode.NOT_FOUND)
        assert running.get("/healthz").json() == {"status": "alive"}


def test_every_code_is_documented_with_its_status_and_title() -> None:
    documented = (Path(__file__).parents[2] / "docs/errors.md").read_text()

    for code, (status, title) in CATALOGUE.items():
        assert f"| {status} | {code} | {title} | " in documented
