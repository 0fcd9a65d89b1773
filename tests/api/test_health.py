"""Machines can ask whether the service lives, whether it can decide, and what it did."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.db.embedded import EmbeddedPostgres
from app.domain.proposal import ModelFailure
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import ClientWith, client_of, settings_for
from tests.api.problems import problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider


def test_a_process_without_its_store_lives_but_is_not_ready(offline: TestClient) -> None:
    assert offline.get("/healthz").json() == {"status": "alive"}
    problem_of(offline.get("/readyz"), ErrorCode.STORE_UNAVAILABLE)


def test_a_server_on_which_nothing_was_ever_migrated_is_not_ready(tmp_path: Path) -> None:
    with (
        EmbeddedPostgres(tmp_path) as server,
        client_of(create_app(settings_for(server.create_database("new")), decider=FakeDecider())) as client,
    ):
        answer = client.get("/readyz")

    assert "tradeverdict migrate" in problem_of(answer, ErrorCode.MIGRATIONS_PENDING).detail


def test_a_ready_service_says_who_decides_and_what_its_operator_should_know(client_with: ClientWith) -> None:
    loud = client_with().get("/readyz").json()
    quiet = client_with(auth=Auth.ON, limits={"max_snapshot_age_s": 60}).get("/readyz").json()

    assert (loud["status"], loud["decider"], loud["auth"]) == ("ready", "fake", "off")
    assert [warning.partition(":")[0] for warning in loud["warnings"]] == ["AUTH=off", "MAX_SNAPSHOT_AGE_S=0"]
    assert (quiet["auth"], quiet["warnings"]) == ("on", [])


def samples(client: TestClient) -> dict[str, float]:
    """Every metric by name and labels."""
    lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def test_decisions_and_failures_are_counted_with_bounded_labels(client: TestClient, decider: FakeDecider) -> None:
    for account, scripted in (("a", nvda_trade()), ("b", nvda_trade(conviction=30)), ("c", ModelFailure.TIMEOUT)):
        decider.will(scripted)
        client.post("/decide", json=a_request(account={"id": account}))
    client.get("/no/such/path")
    client.request("BREW", "/decide")

    found = samples(client)
    assert found['tradeverdict_decisions_total{reason="none",verdict="approved"}'] == 1
    assert found['tradeverdict_decisions_total{reason="LOW_CONVICTION",verdict="blocked"}'] == 1
    assert found['tradeverdict_decisions_total{reason="MODEL_TIMEOUT",verdict="no_trade"}'] == 1
    assert found['tradeverdict_gate_blocks_total{code="LOW_CONVICTION",gate="conviction"}'] == 1
    assert found['tradeverdict_model_failures_total{code="MODEL_TIMEOUT"}'] == 1
    assert found["tradeverdict_decision_seconds_count"] == 3
    assert found['tradeverdict_model_seconds_count{decider="fake"}'] == 3
    assert found['tradeverdict_model_cost_usd_total{decider="fake"}'] == pytest.approx(0.0045)
    assert found['tradeverdict_http_requests_total{method="POST",route="/decide",status="200"}'] == 3
    assert found['tradeverdict_http_requests_total{method="GET",route="unmatched",status="404"}'] == 1
    assert found['tradeverdict_http_requests_total{method="other",route="/decide",status="405"}'] == 1
    labels = " ".join(re.findall(r"\{.*\}", " ".join(found)))
    assert "NVDA" not in labels
    assert "paper" not in labels


def test_each_app_counts_by_itself(client_with: ClientWith) -> None:
    first, second = client_with(), client_with()
    first.get("/nothing")

    assert 'tradeverdict_http_requests_total{method="GET",route="unmatched",status="404"}' not in samples(second)
