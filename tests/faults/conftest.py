"""What the fault tests share: databases of their own, a client, and a place for their figures."""

import gc
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from app.db.embedded import EmbeddedPostgres
from app.db.engine import ConnectionPool, create_pool
from app.db.migrate import upgrade
from tests.faults.processes import http_client

Figures = Callable[..., None]
FOLDER = Path(__file__).parent
HALF_CLOSED = "ignore::pytest.PytestUnraisableExceptionWarning"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Forgive sockets of the tests themselves that a cut or a kill left half closed when their event loop ended."""
    for item in items:
        if item.path.is_relative_to(FOLDER):
            item.add_marker(pytest.mark.filterwarnings(HALF_CLOSED))


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Collect such sockets before the next test, which would be blamed for them."""
    yield
    gc.collect()


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Figures:
    """Tell what a test counted, in one line: printed (see `pytest -rA`) and kept on the test's report."""

    def tell(title: str, **counted: object) -> None:
        line = f"{title}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counted.items())
        sys.stdout.write(line + "\n")
        record_property("figures", line)

    return tell


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    """A client for many requests at once."""
    async with http_client() as client:
        yield client


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[ConnectionPool]:
    """Connections to the test's database, as the service has them."""
    pool = await create_pool(database_url, min_size=1, max_size=4)
    yield pool
    await pool.close()


@pytest.fixture(scope="module")
def durable_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that may be stopped at any time and keeps what it committed."""
    with tempfile.TemporaryDirectory(prefix="tradeverdict-") as data_dir, EmbeddedPostgres(Path(data_dir)) as server:
        yield server


@pytest.fixture
def durable_database_url(durable_postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a migrated database on that server, which only one test uses."""
    url = durable_postgres.create_database("faults")
    upgrade(url)
    yield url
    durable_postgres.drop_database("faults")
