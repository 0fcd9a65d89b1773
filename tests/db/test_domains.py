"""Columns get their types, and lose them again, without a table being written anew; no statement asks what they are."""

import asyncio
from decimal import Decimal

import asyncpg
import pytest
from alembic.config import Config
from asyncpg.connection import LoggedQuery
from sqlalchemy.exc import IntegrityError

from alembic import command
from app.db.engine import Connection, ConnectionPool, create_pool
from app.db.events import find_ticket, record_event
from app.db.migrate import migrations_ini
from app.db.model_calls import keep_warming_call
from app.db.operations import Store
from app.domain.lifecycle import Event, EventKind, ExitReason
from app.domain.model_call import ModelCall
from tests.db.builders import AS_OF, POLICY, PROMPT, decision, forecast, mark, reservation, stored
from tests.deploy.test_scaling import block

BEFORE = "0011"
AFTER = "0012"
TABLES = ("llm_decisions", "account_marks", "reservations", "forecasts", "gate_sums", "decision_counts", "model_calls")
FIRST_OWN_OID = 16384
"""From here on types are not PostgreSQL's own."""
CALL = ModelCall(target="first", model="m", started_ms=0, latency_ms=900, outcome="MODEL_TIMEOUT", estimated=True)
FILES = """
SELECT relname::text, pg_relation_filenode(oid) FROM pg_class
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1
"""
CHECKS = """
SELECT conrelid::regclass::text, conname::text, pg_get_constraintdef(oid), convalidated FROM pg_constraint
WHERE contype = 'c' AND connamespace = 'public'::regnamespace ORDER BY 1, 2
"""


async def record_everything(store: Store) -> None:
    blocked = decision(blocked_by=("SPREAD_TOO_WIDE",))
    async with store.gating(account_id=blocked.account_id, mode=blocked.mode, as_of=AS_OF) as transaction:
        await transaction.record(
            blocked,
            mark=mark(),
            prompt=PROMPT,
            policy=POLICY,
            reservation=reservation(),
            forecast=forecast(),
            calls=[CALL],
        )


async def rows(connection: Connection) -> dict[str, list[asyncpg.Record]]:
    return {
        table: await connection.fetch(f"SELECT to_jsonb(kept)::text FROM {table} AS kept ORDER BY 1")
        for table in TABLES
    }


@pytest.fixture(params=[False, True], ids=["whole", "partitioned"])
async def migrations(request: pytest.FixtureRequest, store: Store, owner: Connection, database_url: str) -> Config:
    """Of a database of one decision, whose table of decisions is whole or in parts, at the revision of the types."""
    await record_everything(store)
    if request.param:
        await owner.execute(block("partition, once"))
    config = Config(migrations_ini())
    config.attributes["url"] = database_url
    await asyncio.to_thread(command.downgrade, config, AFTER)
    return config


async def test_what_is_stored_stays_as_it_is_in_the_files_where_it_is(migrations: Config, owner: Connection) -> None:
    kept, files, checks = await rows(owner), await owner.fetch(FILES), await owner.fetch(CHECKS)
    assert all(kept.values())

    await asyncio.to_thread(command.downgrade, migrations, BEFORE)

    assert await rows(owner) == kept
    assert await owner.fetch(FILES) == files
    assert await owner.fetchval("SELECT count(*) FROM pg_type WHERE typtype = 'd' AND typname = 'amount'") == 0

    await asyncio.to_thread(command.upgrade, migrations, AFTER)

    assert await rows(owner) == kept
    assert await owner.fetch(FILES) == files
    assert await owner.fetch(CHECKS) == checks


async def test_a_row_that_a_type_refuses_stops_the_migration(migrations: Config, owner: Connection) -> None:
    await asyncio.to_thread(command.downgrade, migrations, BEFORE)
    await owner.execute("ALTER TABLE decision_counts DROP CONSTRAINT decision_counts_decisions_check")
    await owner.execute("UPDATE decision_counts SET decisions = -1")
    await owner.execute("ALTER TABLE decision_counts ADD CONSTRAINT decision_counts_decisions_check CHECK (true)")

    with pytest.raises(IntegrityError, match="decisions"):
        await asyncio.to_thread(command.upgrade, migrations, "head")


async def test_a_new_connection_asks_nothing_about_types(database_url: str) -> None:
    queries: list[LoggedQuery] = []
    pool = await create_pool(database_url, max_size=1)
    try:
        async with pool.connection() as connection:
            connection.add_query_logger(queries.append)
        await record_everything(Store(pool))
        await keep_warming_call(pool, CALL)
        await tell_of_a_trade(pool)
    finally:
        await pool.close()

    asked = [query.args for query in queries if "typeinfo" in query.query]
    assert len(queries) > 10
    assert max((oid for [oids] in asked for oid in oids), default=0) < FIRST_OWN_OID


async def tell_of_a_trade(pool: ConnectionPool) -> None:
    ticket = await stored(Store(pool), decision(), reserving=reservation(), foretelling=forecast())
    for event in (
        Event(event_id="1", kind=EventKind.FILLED, at=AS_OF, quantity=53, price=Decimal(125)),
        Event(
            event_id="2",
            kind=EventKind.CLOSED,
            at=AS_OF,
            quantity=53,
            price=Decimal(126),
            exit_reason=ExitReason.TARGET,
            realized_pnl=Decimal(53),
        ),
    ):
        found = await find_ticket(pool, ticket.decision_id)
        assert found is not None
        await record_event(pool, ticket=found, event=event, body="{}")
