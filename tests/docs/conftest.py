"""What readers of the documentation have: services that run, and an empty store at the beginning of each page."""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.db.embedded import EmbeddedPostgres
from app.db.tables import NEVER_REMOVED, metadata
from tests.docs.pages import ROOT
from tests.faults.processes import Service, asking, owner_of, start

KEPT = frozenset(NEVER_REMOVED)
"""What a running service knows that it has stored, and nobody may remove."""
ATTEMPTS = 3


@contextmanager
def stopping(service: Service) -> Iterator[Service]:
    """Kill a service at the end."""
    try:
        yield service
    finally:
        service.process.kill()
        service.process.communicate()


@contextmanager
def program(*arguments: str) -> Iterator[str]:
    """Run a module of the tests in a process of its own; give the first line that it prints."""
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def store(postgres: EmbeddedPostgres, migrated_template: str) -> str:
    """The address of the database that the services share."""
    return postgres.create_database("docs", template=migrated_template)


@pytest.fixture(scope="session")
def local(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as `make run` starts it."""
    folder = tmp_path_factory.mktemp("local")
    with stopping(asyncio.run(start(store, folder, MAX_SNAPSHOT_AGE_S=60, LOG_LEVEL="info"))) as service:
        yield service


@pytest.fixture(scope="session")
def deployed(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service as it is deployed to trade live: with keys, and a model (a stand-in)."""
    folder = tmp_path_factory.mktemp("deployed")
    with program("tests.model_server") as model:
        settings: dict[str, Any] = {**asking(model), "AUTH": "on", "LIVE_ALLOWED": "true", "MAX_SNAPSHOT_AGE_S": 60}
        with stopping(asyncio.run(start(store, folder, **settings))) as service:
            yield service


@pytest.fixture(scope="session")
def commands() -> Iterator[Path]:
    """Where the `tradeverdict` command waits to be called."""
    with tempfile.TemporaryDirectory(prefix="docs-") as short:  # for a socket's name may not be long
        address = Path(short) / "commands"
        with program("tests.docs.commands", str(address)) as said:
            assert said == "ready"
            yield address


@pytest.fixture
def empty_store(store: str) -> str:
    """The address of the database, emptied: so a reader begins."""
    tables = ", ".join(name for name in metadata.tables if name not in KEPT)

    async def empty() -> None:
        async with owner_of(store) as owner:
            for attempt in range(ATTEMPTS):
                try:
                    async with owner.transaction():
                        await owner.execute("SET LOCAL tradeverdict.retention = 'on'")
                        await owner.execute(f"TRUNCATE {tables}")
                    return
                except asyncpg.DeadlockDetectedError:  # with what a service does beside its requests
                    if attempt == ATTEMPTS - 1:
                        raise

    asyncio.run(empty())
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the reader's own."""
    return tmp_path
