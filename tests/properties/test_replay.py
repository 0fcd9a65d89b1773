"""Whatever was asked and replied: judged again, a decision gives its answer to the byte, and a what-if the same."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.api.stored import read_stored_request
from app.db.engine import create_pool
from app.domain.buckets import BucketMap
from app.main import create_app
from app.replay import Replay, replay_stored
from app.settings import Auth, DeciderChoice, Secret, Settings
from tests.model_server import Answer, message, tool_call
from tests.properties.counts import CountReport
from tests.properties.exchanges import FRIDAY, dump, exchanges, request_of, sent_worlds
from tests.properties.replies import manages
from tests.properties.test_any_reply import Model, buckets_file
from tests.properties.worlds import Draw, Record, between, pick

PROVE = os.environ.get("PROVE") == "1"
DECISIONS = 1_050 if PROVE else 60
ACCOUNTS = DECISIONS
"""So few that many decisions find marks, reservations and sessions of earlier ones."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model().serve() as serving:
        yield serving


@pytest.fixture
def client(database_url: str, model: Model, tmp_path: Path) -> Iterator[TestClient]:
    told = Settings(
        database_url=Secret(database_url),
        auth=Auth.OFF,
        decider=DeciderChoice.ANTHROPIC,
        anthropic_api_key=Secret("sk-test"),
        anthropic_base_url=model.base_url,
        model_breaker_failures=1000,
        model_warm_every_s=0,
        model_hedge_max_share=Decimal(0),
        buckets_file=buckets_file(tmp_path),
        rate_limit_per_minute=1_000_000,
        limits={"max_snapshot_age_s": 0, "max_aggressiveness_level": 3},
    )
    # Log lines of a thousand requests would bury what the test has to say.
    with capture_logs(), TestClient(create_app(told), raise_server_exceptions=False) as running:
        yield running


@st.composite
def asked(draw: Draw) -> tuple[Record, Answer]:
    """A request of one of few accounts, on one of few days, and what the model's side makes of it."""
    if between(draw, 0, 5) == 0:
        world = draw(sent_worlds())
        answer = Answer(body=dump(message(tool_call(draw(manages(world))))))
    else:
        exchange = draw(exchanges().filter(lambda made: PROVE or not made.endless))
        world, answer = exchange.world, exchange.answer()
    body = request_of(world, f"account-{between(draw, 1, ACCOUNTS)}")
    day = timedelta(days=between(draw, 0, 4))
    if body["as_of"] == FRIDAY.isoformat():
        body["as_of"] = (FRIDAY + day).isoformat()
    return body | {"aggressiveness_level": pick(draw, 0, 1, 1, 2, 3)}, answer


def replayed(url: str) -> list[Replay]:
    async def run() -> list[Replay]:
        pool = await create_pool(url, min_size=1, max_size=1)
        try:
            stored = replay_stored(pool, read_request=read_stored_request, buckets=BucketMap({}))
            return [replay async for replay in stored]
        finally:
            await pool.close()

    return asyncio.run(run())


def test_every_decision_comes_out_again_and_a_what_if_with_its_own_policy_changes_nothing(
    client: TestClient, model: Model, database_url: str, report_counts: CountReport
) -> None:
    verdicts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()

    @settings(max_examples=DECISIONS, suppress_health_check=[HealthCheck.too_slow])
    @given(asked())
    def ask(case: tuple[Record, Answer]) -> None:
        body, model.answer = case
        response = client.post("/decide", json=body)
        assert response.status_code == 200, response.text
        decision: dict[str, Any] = response.json()
        verdicts[f"{decision['action']} {decision['verdict']}"] += 1
        reasons[decision["reason_code"]] += 1

        same = client.post(f"/decisions/{decision['decision_id']}/whatif", json={}).json()

        assert same["exact"], decision
        assert same["whatif"] == same["stored"]
        assert (same["stored"]["verdict"], same["stored"]["gates"]) == (decision["verdict"], decision["gates"])
        assert (same["verdict_changed"], same["changed_gates"], same["changed_limits"]) == (False, [], [])

    ask()
    found = replayed(database_url)

    report_counts("replayed and asked what if, by action and verdict", verdicts)
    assert [replay for replay in found if not replay.identical] == []
    assert len(found) == verdicts.total() >= DECISIONS
    assert len(reasons) > (20 if PROVE else 5)
