"""The operator's SQL of docs/scaling.md does what the page says, and the service goes on with it."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app.db.engine import Connection, ConnectionPool, StoreUnavailable, create_pool
from app.db.operations import Store
from app.db.queries import get_decision
from app.db.records import DecisionRecord, NewReservation
from app.db.tables import metadata
from tests.db.builders import decision, forecast, mark, no_trade, reservation, stored
from tests.deploy.stored_limits import recount_limits

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"
NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=401)
RECENT = NOW - timedelta(days=399)
REQUEST = (
    '{"account": {"id": "paper-1", "equity": 100000, "cash": 100000, "daily_pnl": 0, "weekly_pnl": 0, "positions": []},'
    ' "market": [{"symbol": "NVDA", "price": 125.4, "bid": 125.4, "ask": 125.4, "atr": 4.0, "adv": 30000000000}]}'
)
PROPOSAL = (
    '{"candidates": [{"symbol": "NVDA", "direction": "long", "entry_type": "limit", "entry_price": 125.4,'
    ' "stop_loss": 119.8, "target_price": 139.0}]}'
)


def block(name: str) -> str:
    """The SQL of the page that begins with this comment."""
    (found,) = re.findall(rf"^```sql\n-- {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def id_at(moment: datetime, number: int = 0) -> UUID:
    """A UUIDv7 of a moment."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (0x7 << 76) | (0x2 << 62) | number)


def decided(at: datetime, number: int = 0, **changes: object) -> DecisionRecord:
    return decision(decision_id=id_at(at, number), as_of=at, decided_at=at, **changes)


def lapsed(at: datetime, **changes: object) -> NewReservation:
    return reservation(expires_at=at + timedelta(minutes=5), **changes)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPool]:
    pool = await create_pool(database_url, min_size=0, max_size=4)
    yield pool
    await pool.close()


@pytest.fixture
def store(pool: ConnectionPool) -> Store:
    return Store(pool)


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def left(owner: Connection, table: str = "llm_decisions") -> set[UUID]:
    return {row["decision_id"] for row in await owner.fetch(f"SELECT decision_id FROM {table}")}


async def test_retention_removes_what_is_old_and_leaves_what_is_open_or_counted(
    store: Store, owner: Connection
) -> None:
    plain = await stored(store, no_trade(decision_id=id_at(OLD), as_of=OLD, decided_at=OLD))
    superseded = await stored(store, decided(OLD, 1), reserving=lapsed(OLD), foretelling=forecast())
    claimed = await stored(store, decided(OLD, 2, symbol="AMD"), reserving=lapsed(OLD, symbol="AMD"))
    last_of_its_symbol = await stored(store, decided(OLD, 3, symbol="GLD"), reserving=lapsed(OLD, symbol="GLD"))
    ended = await stored(store, decided(OLD, 4), reserving=lapsed(OLD))
    recent = await stored(store, decided(RECENT, 5), reserving=lapsed(RECENT))
    newer_amd = await stored(store, decided(RECENT, 6), reserving=lapsed(RECENT, symbol="AMD"))
    await owner.execute("UPDATE reservations SET claimed_at = created_at WHERE decision_id = $1", claimed.decision_id)
    await owner.execute(
        "UPDATE reservations SET claimed_at = created_at, released_at = created_at, release_reason = 'closed'"
        " WHERE decision_id = $1",
        ended.decision_id,
    )
    for record in (ended, claimed, recent):
        await owner.execute(
            "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)"
            " VALUES ($1, 'e-1', 'paper-1', 'paper', 'claimed', $2, '{}')",
            record.decision_id,
            record.decided_at,
        )
    counted = await owner.fetch("SELECT * FROM decision_counts ORDER BY day, verdict")

    await owner.execute(block("retention"))

    kept = {record.decision_id for record in (claimed, last_of_its_symbol, recent, newer_amd)}
    assert await left(owner) == kept
    assert await left(owner, "reservations") == kept
    assert await left(owner, "decision_events") == {claimed.decision_id, recent.decision_id}
    # Marks go with their decisions, and what was made of them with its day; what calibration is computed from is there.
    assert await left(owner, "account_marks") == kept
    assert await owner.fetchval("SELECT array_agg(day) FROM account_days") == [RECENT.date()]
    assert await left(owner, "forecasts") == {superseded.decision_id}
    assert await owner.fetch("SELECT * FROM decision_counts ORDER BY day, verdict") == counted
    assert not kept & {plain.decision_id, ended.decision_id}


async def test_retention_is_the_owners_alone(store: Store, pool: ConnectionPool, owner: Connection) -> None:
    old = await stored(store, no_trade(decision_id=id_at(OLD), as_of=OLD, decided_at=OLD))

    with pytest.raises(StoreUnavailable, match="permission denied"):
        async with pool.connection() as connection:
            await connection.execute(block("retention"))

    assert await left(owner) == {old.decision_id}


async def differences(url: str) -> list[tuple[object, ...]]:
    """What the migrations would still change, the partitions of decisions aside."""
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )

    def compare(connection: SqlConnection) -> list[tuple[object, ...]]:
        def is_ours(item: object, name: str | None, kind: str, *_: object) -> bool:
            # PostgreSQL keeps a copy of a foreign key for each partition that it may lead to.
            if isinstance(item, ForeignKeyConstraint):
                return not any(element.target_fullname.startswith("llm_decisions_") for element in item.elements)
            return not (kind == "table" and str(name).startswith("llm_decisions_"))

        context = MigrationContext.configure(connection, opts={"include_object": is_ours})
        return list(compare_metadata(context, metadata))

    async with engine.connect() as connection:
        return await connection.run_sync(compare)


async def partition_of(owner: Connection, record: DecisionRecord) -> str:
    name: str = await owner.fetchval(
        "SELECT tableoid::regclass::text FROM llm_decisions WHERE decision_id = $1", record.decision_id
    )
    return name


async def test_a_partitioned_store_is_the_schema_that_was_and_decides_on(
    store: Store, pool: ConnectionPool, owner: Connection, database_url: str
) -> None:
    next_month = (NOW.replace(day=1) + timedelta(days=32)).replace(day=2)
    after_next = (next_month.replace(day=1) + timedelta(days=32)).replace(day=2)
    far = NOW + timedelta(days=400)
    before = await stored(store, decided(OLD, 1), reserving=lapsed(OLD), foretelling=forecast())
    assert await differences(database_url) == []

    await owner.execute(block("partition, once"))
    await owner.execute(block("partition, every month"))

    assert await differences(database_url) == []
    later = [await stored(store, decided(at, 2), reserving=lapsed(at)) for at in (NOW, next_month, after_next, far)]
    assert [await partition_of(owner, record) for record in (before, *later)] == [
        "llm_decisions_before",
        "llm_decisions_before",
        next_month.strftime("llm_decisions_%Y_%m"),
        after_next.strftime("llm_decisions_%Y_%m"),
        "llm_decisions_rest",
    ]
    for record in (before, *later):
        assert (await get_decision(pool, record.decision_id)) is not None
    assert await left(owner, "account_marks") == {record.decision_id for record in (before, *later)}
    # It is as append-only as before, for the owner and for the service.
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute("DELETE FROM llm_decisions")
    with pytest.raises(StoreUnavailable, match="permission denied"):
        async with pool.connection() as connection:
            await connection.execute("DELETE FROM llm_decisions")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await owner.execute(
            "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)"
            " VALUES ($1, 'e-1', 'paper-1', 'paper', 'claimed', now(), '{}')",
            id_at(NOW, 99),
        )


async def test_a_partition_goes_when_retention_has_emptied_it_and_not_before(store: Store, owner: Connection) -> None:
    old = await stored(store, decided(OLD, 1), reserving=lapsed(OLD))
    await owner.execute(block("partition, once"))
    later = await stored(store, decided(NOW + timedelta(days=400), 2), reserving=lapsed(NOW))

    marks = await owner.fetch("SELECT * FROM account_marks ORDER BY decision_id")
    with pytest.raises(asyncpg.RaiseError, match="still holds decisions"):
        await owner.execute(block("partition, dropped"))
    await owner.execute("ROLLBACK")
    await owner.execute(block("retention"))
    await owner.execute(block("partition, dropped"))

    assert await left(owner) == {later.decision_id}
    assert old.decision_id != later.decision_id
    assert await owner.fetch("SELECT * FROM account_marks") == marks[1:]
    assert await owner.fetchval("SELECT to_regclass('llm_decisions_before')") is None


async def test_the_recount_of_limits_names_a_limit_that_two_reservations_break_together(
    store: Store, owner: Connection
) -> None:
    order = {"quantity": Decimal(80), "notional_usd": Decimal(10_032), "risk_usd": Decimal(456)}
    # 10,032 dollars each, of 100,000: one is within 20 % of a symbol, and a second; a third is not.
    for number in range(3):
        at = NOW + timedelta(milliseconds=number)
        record = decided(at, number, request=REQUEST, proposal=PROPOSAL)
        await stored(store, record, showing=mark(), reserving=lapsed(at, buckets=("ai",), **order))
        recount = await recount_limits(owner)
        assert recount.orders == number + 1
        assert recount.most_at_once == number + 1
        assert recount.most_notional_usd == 10_032 * (number + 1)
        assert set(recount.broken) == (set() if number < 1 else {"MAX_SYMBOL_EXPOSURE_PCT"})
