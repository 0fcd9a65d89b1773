"""POST /decide answers with a verdict that is already in the store, or with none."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi.testclient import TestClient
from structlog.typing import EventDict

from app.api.errors import ErrorCode
from app.api.examples import DECIDE_REQUEST, DECIDE_RESPONSE
from app.api.responses import DecisionResponse
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from app.domain.proposal import ModelFailure
from app.main import create_app
from tests.api.conftest import ClientWith, Serve, settings_for
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request, an_adjust, an_exit
from tests.fakes import FakeDecider

PASSING = ("decision_id", "decided_at", "valid_until", "latency_ms", "decider", "policy")
"""What differs each time, or with the settings of the test."""


def timeless(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs each time."""
    kept = {name: value for name, value in answer.items() if name not in PASSING}
    kept["order"] = {k: v for k, v in kept["order"].items() if k not in ("client_order_id", "time_stop_at")}
    kept["gates"] = [gate for gate in kept["gates"] if gate["gate"] != "snapshot_fresh"]
    return kept


def execute(database_url: str, statement: str) -> Any:
    """Run a statement as the owner of the database and return its first value."""

    async def run() -> Any:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def test_the_documented_example_is_what_the_service_answers(client: TestClient, decider: FakeDecider) -> None:
    decider.will(nvda_trade())

    answer = client.post("/decide", json=DECIDE_REQUEST)

    assert timeless(answer.json()) == timeless(DECIDE_RESPONSE)


def test_the_answer_is_the_stored_one_to_the_byte(client: TestClient, decider: FakeDecider, database_url: str) -> None:
    decider.will(nvda_trade())

    answer = client.post("/decide", json=a_request())

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert execute(database_url, "SELECT response::text FROM llm_decisions").encode() == answer.content


@pytest.mark.parametrize(
    "scripted", [nvda_trade(), nvda_trade(conviction=10), an_exit(), an_adjust(new_stop="46.00"), ModelFailure.TIMEOUT]
)
def test_every_kind_of_answer_fits_the_documented_schema(
    client_with: ClientWith, account_id: str, scripted: Any
) -> None:
    held = {"symbol": "BOLT", "quantity": 100, "avg_price": 40, "mark_price": 50, "stop_loss": 45}
    client = client_with(FakeDecider(scripted))

    answer = client.post("/decide", json=a_request(account={"id": account_id, "positions": [held]}))

    assert DecisionResponse.model_validate_json(answer.content).account_id == account_id


def test_an_exit_is_a_reduce_only_order(client_with: ClientWith, account_id: str) -> None:
    held = {"symbol": "BOLT", "quantity": 100, "avg_price": 40, "mark_price": 50, "stop_loss": 45}
    client = client_with(FakeDecider(an_exit(reduce_pct=Decimal(50))))

    answer = client.post("/decide", json=a_request(account={"id": account_id, "positions": [held]})).json()

    assert (answer["action"], answer["verdict"]) == ("exit", "approved")
    assert (answer["order"]["side"], answer["order"]["quantity"], answer["order"]["reduce_only"]) == ("sell", 50, True)


def test_a_level_that_is_not_allowed_is_refused_by_name(client_with: ClientWith, account_id: str) -> None:
    request = a_request(account={"id": account_id}, aggressiveness_level=2)

    problem = problem_of(client_with().post("/decide", json=request), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) == ["aggressiveness_level"]


def test_a_level_up_to_the_highest_allowed_is_used(client_with: ClientWith, account_id: str) -> None:
    client = client_with(limits={"max_aggressiveness_level": 2})

    answer = client.post("/decide", json=a_request(account={"id": account_id}, aggressiveness_level=2))

    assert answer.json()["policy"]["aggressiveness_level"] == 2


def test_the_request_id_is_stored_and_logged(client: TestClient, database_url: str, logs: list[EventDict]) -> None:
    answer = client.post("/decide", json=a_request(), headers={"x-request-id": "bot-7"})

    assert answer.headers["x-request-id"] == "bot-7"
    assert execute(database_url, "SELECT request_id FROM llm_decisions") == "bot-7"
    assert [event["verdict"] for event in logs if event["event"] == "decision"] == ["no_trade"]


def test_a_decider_gets_only_what_the_deadline_leaves(client_with: ClientWith, account_id: str) -> None:
    decider = FakeDecider()
    client_with(decider, limits={"decision_deadline_ms": 800}).post(
        "/decide", json=a_request(account={"id": account_id})
    )

    assert 0 < decider.budgets_s[0] < 0.8


def test_text_with_characters_that_databases_refuse_is_stored(client_with: ClientWith, account_id: str) -> None:
    news = [{"headline": "nul \x00 and \U0001f600", "timestamp": "2026-11-20T14:00:00Z"}]

    answer = client_with().post("/decide", json=a_request(account={"id": account_id}, news=news))

    assert answer.status_code == 200


def test_nothing_is_answered_before_it_is_committed(
    client: TestClient, decider: FakeDecider, database_url: str
) -> None:
    # A deferred constraint trigger lets every statement pass and fails COMMIT itself.
    execute(
        database_url,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no commit today'; END $$",
    )
    execute(
        database_url,
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON llm_decisions DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    decider.will(nvda_trade())

    answer = client.post("/decide", json=a_request())

    problem_of(answer, ErrorCode.STORE_UNAVAILABLE)
    assert "client_order_id" not in answer.text
    assert len(decider.prompts) == 1
    assert execute(database_url, "SELECT count(*) FROM llm_decisions") == 0
    assert execute(database_url, "SELECT count(*) FROM reservations") == 0


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that a test may stop."""
    with (
        tempfile.TemporaryDirectory(prefix="tradeverdict-") as folder,
        EmbeddedPostgres(Path(folder), durable=False) as server,
    ):
        yield server


def test_the_service_outlives_its_database(own_postgres: EmbeddedPostgres, serve: Serve) -> None:
    url = own_postgres.create_database("stoppable")
    upgrade(url)
    app = create_app(settings_for(url), decider=FakeDecider(nvda_trade()))
    with serve(app) as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/decide", json=a_request(account={"id": "before"})).json()["should_execute"] is True

        own_postgres.stop()

        answer = client.post("/decide", json=a_request(account={"id": "during"}))
        problem_of(answer, ErrorCode.STORE_UNAVAILABLE)
        assert "client_order_id" not in answer.text
        problem_of(client.get("/readyz"), ErrorCode.STORE_UNAVAILABLE)
        assert client.get("/healthz").status_code == 200

        own_postgres.start()

        assert wait_until_ready(client) < 10
        assert client.post("/decide", json=a_request(account={"id": "after"})).json()["should_execute"] is True
        stored = [decision["account_id"] for decision in client.get("/decisions").json()["decisions"]]
        assert stored == ["after", "before"]


def test_the_service_starts_before_its_database(own_postgres: EmbeddedPostgres, serve: Serve) -> None:
    url = own_postgres.create_database("late")
    upgrade(url)
    own_postgres.stop()
    with serve(create_app(settings_for(url), decider=FakeDecider())) as client:
        assert client.get("/healthz").status_code == 200
        problem_of(client.get("/readyz"), ErrorCode.STORE_UNAVAILABLE)

        own_postgres.start()

        assert wait_until_ready(client) < 10
        assert client.post("/decide", json=a_request()).status_code == 200


def wait_until_ready(client: httpx2.Client) -> float:
    """Wait for /readyz, and tell how many seconds it took."""
    started = time.monotonic()
    while client.get("/readyz").status_code != 200 and time.monotonic() - started < 20:
        time.sleep(0.05)
    return time.monotonic() - started
