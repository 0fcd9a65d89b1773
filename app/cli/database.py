"""Give a command its database: the configured server, or an embedded one that is started and migrated."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeVar

import asyncpg

from app.cli.errors import CommandError, ExitCode
from app.db.embedded import EmbeddedPostgres
from app.db.engine import ConnectionPool, create_pool
from app.db.migrate import MigrationsMissing, upgrade
from app.main import database_url
from app.settings import Secret, Settings, load_settings

DATABASE_NAME: Final = "tradeverdict"

_Result = TypeVar("_Result")


@contextmanager
def provided_database(settings: Settings) -> Iterator[Settings]:
    """Give the settings with a DATABASE_URL.

    Raises:
        SettingsError: DATABASE_URL is not PostgreSQL's.
        EmbeddedPostgresError: the embedded server cannot be used.
        CommandError: its database cannot be migrated.
    """
    if settings.database_url is not None:
        database_url(settings)
        yield settings
        return
    with EmbeddedPostgres(settings.data_dir) as server:
        url = server.ensure_database(DATABASE_NAME)
        migrate_database(url)
        yield replace(settings, database_url=Secret(url))


def migrate_database(url: str) -> None:
    """Bring a database up to date.

    Raises:
        CommandError: it cannot be reached, refuses, or the migrations are missing.
    """
    try:
        upgrade(url)
    except MigrationsMissing as error:
        raise CommandError(str(error), ExitCode.BAD_INPUT) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CommandError(f"the database cannot be migrated: {reason}", ExitCode.UNAVAILABLE) from error


def with_pool(work: Callable[[ConnectionPool], Awaitable[_Result]]) -> _Result:
    """Do one piece of work on the configured (or embedded) database."""

    async def run(url: str) -> _Result:
        pool = await create_pool(url, min_size=1, max_size=1)
        try:
            return await work(pool)
        finally:
            await pool.close()

    with provided_database(load_settings()) as settings:
        return asyncio.run(run(database_url(settings)))
