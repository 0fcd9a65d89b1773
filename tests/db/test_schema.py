"""The migrations make the schema that `app/db/tables.py` shows, once, and it refuses what must not be."""

import asyncio
import re
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection as SqlConnection
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

import app
from app.db.embedded import EmbeddedPostgres
from app.db.engine import APP_ROLE, Connection, ConnectionPool, StoreUnavailable
from app.db.migrate import MigrationsMissing, current_revision, head_revision, migrations_ini
from app.db.operations import Store
from app.db.tables import APPEND_ONLY, NEVER_REMOVED, READ_ONLY, UPDATABLE, metadata
from tests.db.builders import AS_OF, decision, mark, reservation, stored

WRITTEN_BY_EVERY_DECISION = (
    *("accounts", "llm_decisions", "account_days", "reservations", "forecasts"),
    *("gate_sums", "decision_counts", "model_calls"),
)

CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, domain_name, is_nullable, column_default, generation_expression,
            identity_generation
        FROM information_schema.columns WHERE table_schema = :schema AND table_name <> 'alembic_version'
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid, true) FROM pg_constraint
        WHERE connamespace = to_regnamespace(:schema) AND conrelid::regclass::text <> 'alembic_version'
    """,
    "indexes": """
        SELECT indrelid::regclass::text, pg_get_indexdef(indexrelid, 0, true) FROM pg_index
        JOIN pg_class ON pg_class.oid = indexrelid
        WHERE relnamespace = to_regnamespace(:schema) AND indrelid::regclass::text <> 'alembic_version'
    """,
    "views": """
        SELECT viewname, definition FROM pg_views WHERE schemaname = :schema
    """,
    "storage": """
        SELECT relname, relpersistence, reloptions::text FROM pg_class
        WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'r' AND relname <> 'alembic_version'
    """,
}


async def connect_for_schema(url: str) -> AsyncConnection:
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    return await engine.connect()


async def catalog(connection: AsyncConnection, *, schema: str) -> dict[str, set[tuple[object, ...]]]:
    await connection.execute(text(f"SET search_path TO {schema}"))
    return {
        part: {tuple(row) for row in await connection.execute(text(query), {"schema": schema})}
        for part, query in CATALOG.items()
    }


async def test_the_migrated_schema_is_the_declared_one(database_url: str) -> None:
    # PostgreSQL itself writes both down, so that CHECKs, defaults, generated columns and partial indexes,
    # which Alembic does not compare, are compared too.
    connection = await connect_for_schema(database_url)
    try:
        await connection.execute(text("CREATE SCHEMA declared"))
        await connection.execute(text("SET search_path TO declared"))
        await connection.run_sync(metadata.create_all, checkfirst=False)

        assert await catalog(connection, schema="declared") == await catalog(connection, schema="public")
    finally:
        await connection.close()


async def test_each_check_of_one_column_is_its_type_s_where_every_decision_writes(owner: Connection) -> None:
    # Those of a table are read and compiled anew for every statement.
    checks = await owner.fetch(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND cardinality(conkey) = 1"
        " AND conrelid = ANY ($1::text[]::regclass[])",
        WRITTEN_BY_EVERY_DECISION,
    )

    assert checks == []


async def test_alembic_finds_nothing_left_to_migrate(database_url: str) -> None:
    def differences(connection: SqlConnection) -> list[Any]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    connection = await connect_for_schema(database_url)
    try:
        assert await connection.run_sync(differences) == []
    finally:
        await connection.close()


async def test_the_database_is_at_the_revision_the_program_expects(owner: Connection) -> None:
    assert head_revision() == ScriptDirectory.from_config(Config(migrations_ini())).get_current_head()
    assert await current_revision(owner) == head_revision()


async def test_migrations_run_by_several_processes_at_once_happen_once(postgres: EmbeddedPostgres) -> None:
    # Two on one database, and one on another of the same server, which shares the role.
    first, second = (postgres.create_database(name) for name in ("raced_1", "raced_2"))
    migrate_one = "import sys; from app.db.migrate import upgrade; upgrade(sys.argv[1])"
    try:
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", migrate_one, url)
            for url in (first, first, second)
        ]
        async with asyncio.timeout(60):
            exits = [await process.wait() for process in processes]

        assert exits == [0, 0, 0]
        assert [await revision_of(url) for url in (first, second)] == [head_revision()] * 2
    finally:
        postgres.drop_database("raced_1")
        postgres.drop_database("raced_2")


async def test_a_database_that_was_never_migrated_has_no_revision(postgres: EmbeddedPostgres) -> None:
    url = postgres.create_database("empty")
    try:
        assert await revision_of(url) is None
    finally:
        postgres.drop_database("empty")


async def revision_of(url: str) -> str | None:
    connection = await asyncpg.connect(url)
    try:
        return await current_revision(connection)
    finally:
        await connection.close()


def test_migrations_are_found_beside_the_package_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site-packages" / "app" / "__init__.py"
    container = tmp_path / "srv"
    (container / "alembic" / "versions").mkdir(parents=True)
    monkeypatch.setattr(app, "__file__", str(installed))
    monkeypatch.chdir(container)

    with pytest.raises(MigrationsMissing, match=re.escape(str(container))):
        migrations_ini()
    (container / "alembic.ini").touch()

    assert migrations_ini() == container / "alembic.ini"


def rewriting() -> Iterator[str]:
    for table in APPEND_ONLY:
        column = next(
            column.name for column in metadata.tables[table].columns if not column.identity and not column.computed
        )
        yield f"DELETE FROM {table}"
        yield f"TRUNCATE {table} CASCADE"
        yield f"UPDATE {table} SET {column} = {column}"


class TestTheServicesRole:
    async def test_is_what_every_connection_acts_as(self, pool: ConnectionPool) -> None:
        async with pool.connection() as connection:
            assert await connection.fetchval("SELECT current_user") == APP_ROLE

    async def test_may_read_and_append_everywhere_and_change_only_what_is_listed(self, owner: Connection) -> None:
        tables = {table: {"SELECT", "INSERT"} for table in metadata.tables}
        tables |= {table: {"SELECT"} for table in ("alembic_version", *READ_ONLY)}
        granted = await owner.fetch(
            "SELECT table_name, array_agg(privilege_type::text) AS privileges"
            " FROM information_schema.role_table_grants WHERE grantee = $1 GROUP BY table_name",
            APP_ROLE,
        )
        updatable = await owner.fetch(
            "SELECT table_name, array_agg(column_name::text) AS columns FROM information_schema.column_privileges"
            " WHERE grantee = $1 AND privilege_type = 'UPDATE' GROUP BY table_name",
            APP_ROLE,
        )

        assert {row["table_name"]: set(row["privileges"]) for row in granted} == tables
        assert {row["table_name"]: sorted(row["columns"]) for row in updatable} == {
            table: sorted(columns) for table, columns in UPDATABLE.items()
        }
        assert not UPDATABLE.keys() & set(APPEND_ONLY)

    async def test_cannot_rewrite_what_was_recorded(self, pool: ConnectionPool, subtests: pytest.Subtests) -> None:
        async with pool.connection() as connection:
            for statement in rewriting():
                with (
                    subtests.test(statement),
                    pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"),
                ):
                    await connection.execute(statement)


class TestAppendOnly:
    async def test_binds_the_owner_too(self, owner: Connection, subtests: pytest.Subtests) -> None:
        for statement in rewriting():
            with (
                subtests.test(statement),
                pytest.raises(asyncpg.InsufficientPrivilegeError, match="is refused: it is append-only"),
            ):
                await owner.execute(statement)

    async def test_lets_the_owner_remove_old_decisions_on_purpose(self, store: Store, owner: Connection) -> None:
        await stored(store, decision())
        async with owner.transaction():
            await owner.execute("SET LOCAL tradeverdict.retention = 'on'")
            await owner.execute("DELETE FROM llm_decisions WHERE decided_at < $1", decision().valid_until)

        assert await owner.fetchval("SELECT count(*) FROM llm_decisions") == 0

    async def test_never_lets_anyone_rewrite_a_decision(self, store: Store, owner: Connection) -> None:
        await stored(store, decision())
        await owner.execute("SET tradeverdict.retention = 'on'")

        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute("UPDATE llm_decisions SET verdict = 'blocked', ticket = NULL")


async def test_what_decisions_name_is_never_removed(store: Store, owner: Connection, subtests: pytest.Subtests) -> None:
    await stored(store, decision())
    await owner.execute("SET tradeverdict.retention = 'on'")
    for table in NEVER_REMOVED:
        for statement in (f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            with (
                subtests.test(statement),
                pytest.raises(asyncpg.InsufficientPrivilegeError, match="decisions name its rows"),
            ):
                await owner.execute(statement)


async def test_a_decision_that_cannot_be_is_refused(store: Store, owner: Connection, subtests: pytest.Subtests) -> None:
    for refusal, changes in (
        ("account_mode_check", {"mode": "demo"}),
        ("proposed_action_check", {"action": "hold"}),
        ("verdict_word_check", {"verdict": "maybe", "ticket": None}),
        ("trade_direction_check", {"direction": "up"}),
        ("setup_name_check", {"setup": "hunch"}),
        ("whole_percent_check", {"conviction": 101}),
        ("whole_percent_check", {"conviction": -1}),
        ("probability_check", {"p_win_raw": 1.01}),
        ("probability_check", {"p_win": float("nan")}),
        ("natural_number_check", {"quantity": -1}),
        ("amount_check", {"notional_usd": Decimal("NaN")}),
        ("amount_check", {"risk_usd": Decimal("Infinity")}),
        ("amount_check", {"cost_usd": Decimal("-0.01")}),
        ("ticket_check", {"ticket": None}),
        ("ticket_check", {"verdict": "blocked"}),
        ("type json", {"request": "{"}),
    ):
        with subtests.test(changes=changes), pytest.raises(StoreUnavailable, match=refusal):
            await stored(store, decision(**changes))
    assert await owner.fetchval("SELECT count(*) FROM llm_decisions") == 0


async def test_an_impossible_equity_or_reservation_is_refused(store: Store, subtests: pytest.Subtests) -> None:
    for equity in (0, -1, Decimal("NaN"), Decimal("Infinity")):
        with subtests.test(equity=equity), pytest.raises(StoreUnavailable, match="positive_amount_check"):
            await stored(store, decision(), showing=mark(equity))
    for refusal, changes in (
        ("trade_direction_check", {"direction": "up"}),
        ("amount_check", {"quantity": Decimal(-1)}),
        ("amount_check", {"notional_usd": Decimal("NaN")}),
    ):
        with subtests.test(changes=changes), pytest.raises(StoreUnavailable, match=f'"{refusal}"'):
            await stored(store, decision(), reserving=reservation(**changes))


async def test_what_no_safety_table_may_hold_is_refused(
    store: Store, owner: Connection, subtests: pytest.Subtests
) -> None:
    await stored(store, decision(), reserving=reservation())
    for constraint, statement in (
        ("release_reason", "UPDATE reservations SET released_at = now(), release_reason = 'bored'"),
        ("reservations_release", "UPDATE reservations SET released_at = now()"),
        ("halts_state", "INSERT INTO halts (state, reason, operator) VALUES ('paused', 'x', 'ann')"),
        ("halts_operator", "INSERT INTO halts (state, reason, operator) VALUES ('halted', 'x', '')"),
        ("halts_lift", "INSERT INTO halts (state, reason, operator, lifted_at) VALUES ('halted', 'x', 'ann', now())"),
        (
            "live_confirmations_expires_at",
            "INSERT INTO live_confirmations (account_id, operator, expires_at) VALUES ('paper-1', 'ann', 'epoch')",
        ),
        ("api_keys_scopes", "INSERT INTO api_keys VALUES ('a', 'n', sha256('s'), '{decide,root}', '{*}')"),
        ("api_keys_scopes", "INSERT INTO api_keys VALUES ('a', 'n', sha256('s'), '{}', '{*}')"),
        ("api_keys_secret_sha256", "INSERT INTO api_keys VALUES ('a', 'n', 'secret', '{read}', '{*}')"),
        (
            "idempotency_keys_finished",
            "INSERT INTO idempotency_keys VALUES ('', 'paper-1', 'k', '', 'finished', 1, now())",
        ),
    ):
        with subtests.test(statement), pytest.raises(asyncpg.CheckViolationError, match=f'"{constraint}_check"'):
            await owner.execute(statement)


async def test_an_event_that_cannot_be_is_refused(store: Store, owner: Connection, subtests: pytest.Subtests) -> None:
    record = await stored(store, decision())
    event = {
        "decision_id": record.decision_id,
        "event_id": "e-1",
        "account_id": record.account_id,
        "mode": record.mode,
        "event": "filled",
        "at": AS_OF,
        "quantity": Decimal(53),
        "price": Decimal("125.40"),
        "body": "{}",
    }
    for constraint, changes in (
        ("event", {"event": "regretted"}),
        ("exit_reason", {"event": "closed", "exit_reason": "bored"}),
        ("fill", {"event": "filled", "quantity": None}),
        ("fill", {"event": "partially_filled", "price": None}),
        ("quantity", {"quantity": Decimal("NaN")}),
        ("realized_pnl", {"realized_pnl": Decimal("NaN")}),
        ("corrects", {"event": "corrected"}),
    ):
        columns = {**event, **changes}
        placeholders = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        with (
            subtests.test(changes=changes),
            pytest.raises(asyncpg.CheckViolationError, match=f'"decision_events_{constraint}_check"'),
        ):
            await owner.execute(
                f"INSERT INTO decision_events ({', '.join(columns)}) VALUES ({placeholders})", *columns.values()
            )


async def test_the_same_event_told_twice_is_refused_the_second_time(store: Store, owner: Connection) -> None:
    record = await stored(store, decision())
    event = (
        "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, body)"
        " VALUES ($1, 'e-1', 'paper-1', 'paper', 'claimed', now(), '{}')"
    )
    await owner.execute(event, record.decision_id)

    with pytest.raises(asyncpg.UniqueViolationError):
        await owner.execute(event, record.decision_id)
