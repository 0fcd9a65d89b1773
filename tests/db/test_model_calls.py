"""The ledger keeps every call once, whoever it was made for, and adds up by day, target, model and key."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db.engine import Connection, ConnectionPool
from app.db.model_calls import (
    Asker,
    cost_today_usd,
    keep_calls_in,
    keep_rest,
    keep_warming_call,
    read_costs,
)
from app.db.operations import Store
from app.db.statistics import Window
from app.domain.account import AccountMode
from app.domain.model_call import CANCELLED, PROPOSED, WARMED, ModelCall
from app.domain.proposal import ModelFailure
from tests.db.builders import decision, new_decision_id, stored


def call(**changes: Any) -> ModelCall:
    """A call that proposed: 900 tokens in, 110 out."""
    example = ModelCall(
        target="first",
        model="claude-haiku-5-5",
        started_ms=0,
        latency_ms=700,
        outcome=PROPOSED,
        status=200,
        input_tokens=900,
        output_tokens=110,
        cache_read_tokens=4000,
        cost_usd=Decimal("0.0015"),
    )
    return replace(example, **changes)


def asker(decision_id: UUID | None = None, **changes: Any) -> Asker:
    example = Asker(decision_id=decision_id, account_id="paper-1", mode=AccountMode.PAPER, api_key_id=None)
    return replace(example, **changes)


async def kept(owner: Connection) -> list[asyncpg.Record]:
    return await owner.fetch("SELECT * FROM model_calls ORDER BY call_id")


@pytest.mark.parametrize("outcome", [*ModelFailure, PROPOSED, CANCELLED, WARMED])
async def test_every_way_a_call_can_end_is_kept(pool: ConnectionPool, owner: Connection, outcome: str) -> None:
    await keep_warming_call(pool, call(outcome=outcome, cache_write_tokens=3, hedged=True, request_id="req_1"))
    (row,) = await kept(owner)

    assert (row["decision_id"], row["account_id"], row["api_key_id"]) == (None, None, None)
    assert (row["outcome"], row["cache_write_tokens"], row["hedged"], row["request_id"]) == (outcome, 3, True, "req_1")
    assert (row["cost_usd"], row["latency_ms"], row["status"]) == (Decimal("0.0015"), 700, 200)


async def test_what_is_kept_can_be_neither_changed_nor_deleted(pool: ConnectionPool, owner: Connection) -> None:
    await keep_warming_call(pool, call())
    for statement in ("UPDATE model_calls SET cost_usd = 0", "DELETE FROM model_calls", "TRUNCATE model_calls"):
        with pytest.raises(asyncpg.PostgresError, match=r"append-only|cannot|refused"):
            await owner.execute(statement)

    assert len(await kept(owner)) == 1


async def test_the_rest_of_a_recorded_decision_adds_only_what_its_transaction_could_not(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    decision_id = (await stored(store, decision())).decision_id
    await keep_rest(
        pool,
        asker=asker(decision_id),
        ended=[call(target="ended")],
        late=[call(target="late")],
        reply={"outcome": "proposal", "text": "nul \x00 and ü"},
        usage={"cost_usd": Decimal("0.1")},
    )
    events = await owner.fetch("SELECT event, body, event_id FROM decision_events ORDER BY sequence")

    assert [(row["target"], row["decision_id"]) for row in await kept(owner)] == [("late", decision_id)]
    assert [row["event"] for row in events] == ["model_reply", "model_usage"]
    assert events[1]["body"] == '{"cost_usd":"0.1"}'


async def test_the_calls_of_a_decision_that_was_not_recorded_are_kept_without_it(
    pool: ConnectionPool, owner: Connection
) -> None:
    await keep_rest(
        pool,
        asker=asker(new_decision_id(), api_key_id="k"),
        ended=[call(target="ended")],
        late=[call(target="late")],
        reply={},
        usage={},
    )
    events = await owner.fetch("SELECT FROM decision_events")

    assert [(row["target"], row["decision_id"], row["account_id"], row["api_key_id"]) for row in await kept(owner)] == [
        ("ended", None, "paper-1", "k"),
        ("late", None, "paper-1", "k"),
    ]
    assert not events


async def test_a_commit_that_only_seemed_to_fail_keeps_no_call_twice(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    decision_id = (await stored(store, decision())).decision_id
    await keep_rest(pool, asker=asker(decision_id), ended=[call()], late=[], reply={}, usage={})
    events = await owner.fetch("SELECT FROM decision_events")

    assert (await kept(owner), events) == ([], [])


async def test_a_budget_counts_the_calls_of_its_key_of_this_day_however_they_ended(
    pool: ConnectionPool, owner: Connection
) -> None:
    await keep_calls_in(owner, [call(), call(outcome=CANCELLED, cancelled=True)], asker=asker(api_key_id="k"))
    await keep_calls_in(owner, [call(cost_usd=Decimal(1))], asker=asker())
    await keep_calls_in(owner, [call(cost_usd=Decimal(7))], asker=None)

    assert await cost_today_usd(pool, api_key_id="k") == Decimal("0.0030")
    assert await cost_today_usd(pool, api_key_id="other") == 0
    # Warming belongs to no caller, not to those without a key either.
    assert await cost_today_usd(pool, api_key_id=None) == 1


async def test_costs_add_up_by_day_target_model_and_key(pool: ConnectionPool, store: Store, owner: Connection) -> None:
    decision_id = (await stored(store, decision())).decision_id
    of = asker(decision_id)
    await keep_calls_in(owner, [call(), call(hedged=True, outcome=CANCELLED, cancelled=True, estimated=True)], asker=of)
    await keep_calls_in(owner, [call(outcome="MODEL_TIMEOUT", priced=False, cost_usd=Decimal(0))], asker=of)
    await keep_calls_in(owner, [call(target="second")], asker=asker(api_key_id="k", account_id="paper-2"))
    await keep_calls_in(owner, [call(outcome=WARMED)], asker=None)
    period, everything = await read_costs(pool, window=Window(days=1), accounts=None)
    _, of_one = await read_costs(pool, window=Window(days=1), accounts=["paper-1"])
    _, of_none = await read_costs(pool, window=Window(days=1), accounts=[])
    first, second = everything

    assert period.first == period.last == first.day
    assert (first.target, first.api_key_id, first.decisions, first.calls) == ("first", None, 1, 4)
    assert (first.hedged, first.cancelled, first.failed, first.warming) == (1, 1, 1, 1)
    assert (first.estimated, first.unpriced, first.cost_usd) == (1, 1, Decimal("0.0045"))
    assert (first.input_tokens, first.output_tokens, first.cache_read_tokens) == (3600, 440, 16000)
    assert (second.target, second.api_key_id, second.decisions, second.calls) == ("second", "k", 0, 1)
    assert [(row.target, row.calls, row.warming) for row in of_one] == [("first", 3, 0)]
    assert of_none == []


async def test_a_day_is_utc_and_a_window_holds_both_its_ends(pool: ConnectionPool, owner: Connection) -> None:
    times = [datetime(2026, 3, day, hour, minute, tzinfo=UTC) for day, hour, minute in ((1, 23, 59), (2, 0, 0))]
    times += [times[-1] + timedelta(days=1) - timedelta(microseconds=1), times[-1] + timedelta(days=1)]
    for time in times:
        await owner.execute(
            "INSERT INTO model_calls (target, model, started_ms, latency_ms, outcome, hedged, cancelled, input_tokens, "
            "output_tokens, cache_read_tokens, cache_write_tokens, cost_usd, priced, estimated, recorded_at) "
            "VALUES ('t', 'm', 0, 0, 'warm', false, false, 0, 0, 0, 0, 1, true, false, $1)",
            time,
        )
    second = times[1].date()
    _, rows = await read_costs(pool, window=Window(first=second, last=second), accounts=None)
    _, both = await read_costs(pool, window=Window(first=second - timedelta(days=1), last=second), accounts=None)

    assert [(row.day, row.calls) for row in rows] == [(second, 2)]
    assert [(row.day.day, row.calls) for row in both] == [(2, 2), (1, 1)]
