"""Bring a database's schema up to date, and tell how up to date it is."""

from pathlib import Path
from typing import Final

import app
from app.db.engine import Connection

_HEAD_REVISION: Final = "0013"


class MigrationsMissing(Exception):  # noqa: N818
    """The migrations are not where they should be: beside the `app` package, or in the working directory."""


def upgrade(url: str) -> None:
    """Migrate the database at `url` to the newest revision; wait for whoever is already doing so.

    Blocks, and runs an event loop of its own: call it from a thread that has none.

    Raises:
        MigrationsMissing: the installed program came without its migrations.
        OSError, asyncpg.PostgresError: the database cannot be reached, or refused.
    """
    # Serving needs no Alembic; it takes as long to import as the rest of the program.
    from alembic.config import Config  # noqa: PLC0415

    from alembic import command  # noqa: PLC0415

    config = Config(migrations_ini())
    config.attributes["url"] = url
    command.upgrade(config, "head")


def migrations_ini() -> Path:
    """Find `alembic.ini`: beside the package in a checkout, in the working directory of a container."""
    for folder in (Path(app.__file__).parent.parent, Path.cwd()):
        if (folder / "alembic.ini").is_file() and (folder / "alembic" / "versions").is_dir():
            return folder / "alembic.ini"
    raise MigrationsMissing(
        f"found no alembic.ini with alembic/versions in {Path(app.__file__).parent.parent} or {Path.cwd()}"
    )


def head_revision() -> str:
    """Name the revision that this program was written for.

    A constant, so that readiness checks cost nothing; a test holds it to the newest migration.
    """
    return _HEAD_REVISION


async def current_revision(connection: Connection) -> str | None:
    """Read the revision of the database; None where no migration ever ran."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision
