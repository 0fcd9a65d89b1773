"""Run the migrations: in one transaction, one process at a time."""
# ruff: noqa: D103

import asyncio
import os

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import context
from app.db.engine import asyncpg_url
from app.db.locks import MIGRATION_LOCK
from app.db.tables import metadata


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        # Whoever waits here reads the schema's revision only afterwards, and finds nothing left to do.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        context.run_migrations()


async def migrate_online(url: str) -> None:
    # asyncpg reads the address itself, so that migrations and service understand it alike.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url), poolclass=NullPool
    )
    async with engine.connect() as connection:
        await connection.run_sync(migrate)


def migrate_offline() -> None:
    context.configure(dialect_name="postgresql", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    migrate_offline()
else:
    # `app.db.migrate` says which database; the `alembic` command has only the environment.
    url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]  # noqa: TID251
    asyncio.run(migrate_online(asyncpg_url(url)))
