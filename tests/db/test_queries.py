"""Decisions are listed newest first, page by page, by every filter."""

from dataclasses import fields, replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from app.db.engine import ConnectionPool
from app.db.migrate import head_revision
from app.db.operations import Store
from app.db.queries import get_decision, list_decisions, schema_revision
from app.db.records import DecisionRecord
from app.domain.verdict import Verdict
from tests.db.builders import AS_OF, decision, new_decision_id, no_trade, stored


@pytest.fixture
async def decided(store: Store) -> list[DecisionRecord]:
    """Six decisions a minute apart, oldest first."""
    kinds = [
        decision(account_id="a"),
        decision(account_id="b", symbol="AAPL", verdict=Verdict.RESIZED),
        no_trade(account_id="a"),
        decision(account_id="b"),
        decision(account_id="c", symbol="AAPL"),
        decision(account_id="a", symbol="AAPL", verdict=Verdict.BLOCKED, ticket=None, reason_code="ILLIQUID"),
    ]
    return [
        await stored(store, replace(kind, decided_at=AS_OF + timedelta(minutes=number)))
        for number, kind in enumerate(kinds)
    ]


async def listed(pool: ConnectionPool, decided: list[DecisionRecord], **filters: object) -> list[int]:
    """Name the listed decisions by their place in `decided`."""
    places = {record.decision_id: place for place, record in enumerate(decided)}
    return [places[summary.decision_id] for summary in await list_decisions(pool, **filters)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [5, 4, 3, 2, 1, 0]),
        ({"accounts": ["a"]}, [5, 2, 0]),
        ({"accounts": ["a", "c"]}, [5, 4, 2, 0]),
        ({"accounts": []}, []),
        ({"symbol": "AAPL"}, [5, 4, 1]),
        ({"verdict": Verdict.APPROVED}, [4, 3, 0]),
        ({"symbol": "AAPL", "verdict": Verdict.RESIZED, "accounts": ["b"]}, [1]),
        ({"decided_from": AS_OF + timedelta(minutes=3)}, [5, 4, 3]),
        ({"decided_to": AS_OF + timedelta(minutes=3)}, [2, 1, 0]),
        ({"limit": 2}, [5, 4]),
    ],
    ids=str,
)
async def test_a_list_holds_what_passes_every_filter(
    pool: ConnectionPool, decided: list[DecisionRecord], filters: dict[str, object], expected: list[int]
) -> None:
    assert await listed(pool, decided, **filters) == expected


async def test_pages_join_up_without_gap_or_repetition(pool: ConnectionPool, decided: list[DecisionRecord]) -> None:
    found: list[UUID] = []
    while page := await list_decisions(pool, after=found[-1] if found else None, limit=4):
        found += [summary.decision_id for summary in page]

    assert found == [record.decision_id for record in reversed(decided)]


async def test_decisions_of_one_moment_are_all_on_some_page(pool: ConnectionPool, store: Store) -> None:
    same = [await stored(store, decision()) for _ in range(5)]
    first = await list_decisions(pool, limit=2)
    second = await list_decisions(pool, after=first[-1].decision_id, limit=5)

    assert [summary.decision_id for summary in first + second] == [record.decision_id for record in reversed(same)]


async def test_a_page_after_an_unknown_decision_is_empty(pool: ConnectionPool, decided: list[DecisionRecord]) -> None:
    assert await list_decisions(pool, after=new_decision_id()) == []


async def test_a_summary_shows_the_decisions_own_columns(pool: ConnectionPool, decided: list[DecisionRecord]) -> None:
    summary = (await list_decisions(pool, limit=1))[0]

    for column in fields(summary):
        assert getattr(summary, column.name) == getattr(decided[-1], column.name)


async def test_a_decision_is_given_back_to_the_byte(pool: ConnectionPool, store: Store) -> None:
    # Spaces, key order, repeated keys, escapes and number forms survive.
    body = '{"b" : 1.50,\n "a":1e2, "a":"\\u00e9é\\u0000"}'
    record = await stored(store, decision(request=body, response=body, gates=body, proposal=body))

    assert await get_decision(pool, record.decision_id) == record


@pytest.mark.parametrize("amount", ["100000", "6646.20", "0.00012", "0", "0.00", "123456789012.50"])
async def test_an_amount_is_given_back_digit_for_digit(pool: ConnectionPool, store: Store, amount: str) -> None:
    record = await stored(store, decision(notional_usd=Decimal(amount)))
    kept = await get_decision(pool, record.decision_id)

    assert kept is not None
    assert str(kept.notional_usd) == amount


async def test_an_unknown_decision_is_none(pool: ConnectionPool) -> None:
    assert await get_decision(pool, new_decision_id()) is None


async def test_readiness_reads_the_schemas_revision(pool: ConnectionPool) -> None:
    assert await schema_revision(pool) == head_revision()
