"""A caller gets no more than its share: of requests in a minute, of model calls at once, of dollars in a day."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import asyncpg
import pytest

from app.api.errors import ErrorCode
from app.main import create_app
from app.settings import DeciderChoice, Secret, SettingsError
from tests.api.conftest import NOWHERE, ClientWith, client_of, settings_for
from tests.api.problems import problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider

LIMITED = frozenset({"RATE_LIMIT_PER_MINUTE"})


async def change(url: str, statement: str) -> None:
    """Run a statement as the owner of the database."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_one_request_too_many_is_refused_until_the_minute_is_over(
    client_with: ClientWith, shared_database_url: str
) -> None:
    client = client_with(rate_limit_per_minute=3, given=LIMITED)

    assert [client.get("/decisions").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = client.get("/decisions")
    problem_of(refused, ErrorCode.RATE_LIMITED)
    assert 55 <= int(refused.headers["retry-after"]) <= 60

    await change(shared_database_url, "UPDATE rate_windows SET started_at = started_at - interval '59.5 s'")
    assert client.get("/decisions").headers["retry-after"] == "1"
    await change(shared_database_url, "UPDATE rate_windows SET started_at = started_at - interval '1 s'")
    assert [client.get("/decisions").status_code for _ in range(4)] == [200, 200, 200, 429]


async def test_a_refused_request_neither_reaches_the_decider_nor_uses_up_its_key(
    client_with: ClientWith, shared_database_url: str, account_id: str
) -> None:
    await change(shared_database_url, "DELETE FROM rate_windows")
    decider = FakeDecider(nvda_trade())
    client = client_with(decider, rate_limit_per_minute=1, given=LIMITED)
    body, key = a_request(account={"id": account_id}), {"Idempotency-Key": "k-1"}
    client.get("/decisions")

    problem_of(client.post("/decide", json=body, headers=key), ErrorCode.RATE_LIMITED)
    assert decider.prompts == []
    await change(shared_database_url, "DELETE FROM rate_windows")

    assert client.post("/decide", json=body, headers=key).json()["verdict"] == "approved"


def test_without_keys_the_default_limit_holds_nobody_up(client_with: ClientWith) -> None:
    client = client_with(rate_limit_per_minute=1)

    assert {client.get("/decisions").status_code for _ in range(5)} == {200}


def decide(database_url: str, decider: FakeDecider, account_id: str, *, budget_usd: str) -> str | None:
    """Decide once within a budget, in a service of its own, and give the reason."""
    settings = settings_for(database_url, model_budget_usd_per_day=Decimal(budget_usd))
    with client_of(create_app(settings, decider=decider)) as client:
        reason: str | None = client.post("/decide", json=a_request(account={"id": account_id})).json()["reason_code"]
    return reason


def test_a_caller_that_finds_every_model_call_taken_is_told_so_in_time(
    client_with: ClientWith, account_id: str
) -> None:
    client = client_with(
        FakeDecider(nvda_trade(), delay_s=0.8), max_concurrent_model_calls=1, limits={"decision_deadline_ms": 500}
    )

    with ThreadPoolExecutor(2) as callers:
        bodies = [a_request(account={"id": f"{account_id}-{number}"}) for number in range(2)]
        answers = [answer.json() for answer in callers.map(lambda body: client.post("/decide", json=body), bodies)]

    assert sorted(answer["reason_code"] or "" for answer in answers) == ["", "MODEL_UNAVAILABLE"]


def test_a_spent_budget_leaves_the_decider_unasked(database_url: str) -> None:
    decider = FakeDecider(nvda_trade())  # each call costs 0.0015 dollars

    reasons = [decide(database_url, decider, f"account-{n}", budget_usd="0.003") for n in range(3)]

    assert reasons == [None, None, "MODEL_UNAVAILABLE"]
    assert len(decider.prompts) == 2


async def test_a_budget_is_for_one_day_of_the_database_clock(database_url: str) -> None:
    decider = FakeDecider(nvda_trade())
    decide(database_url, decider, "account-0", budget_usd="0.0001")
    # The ledger cannot be changed: this call is copied to yesterday, and removed from today.
    await change(
        database_url,
        """
        BEGIN;
        SET LOCAL tradeverdict.retention = 'on';
        CREATE TEMPORARY TABLE spent ON COMMIT DROP AS SELECT * FROM model_calls;
        UPDATE spent SET recorded_at = date_trunc('day', now(), 'UTC') - interval '1 ms';
        DELETE FROM model_calls;
        INSERT INTO model_calls OVERRIDING SYSTEM VALUE SELECT * FROM spent;
        COMMIT
        """,
    )

    reasons = [decide(database_url, decider, f"account-{n}", budget_usd="0.0001") for n in (1, 2)]

    assert reasons == [None, "MODEL_UNAVAILABLE"]


def test_a_budget_for_a_model_of_unknown_price_stops_the_start() -> None:
    settings = settings_for(
        NOWHERE,
        decider=DeciderChoice.ANTHROPIC,
        anthropic_api_key=Secret("stand-in"),
        anthropic_model="some-model",
        model_budget_usd_per_day=Decimal(1),
    )

    with pytest.raises(SettingsError, match=r"^MODEL_BUDGET_USD_PER_DAY: no price is known of some-model"):
        create_app(settings)
