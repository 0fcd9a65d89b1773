"""What the tests of the HTTP interface share: clients of the real app on a real database, with a scripted decider."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from typing import Any, TypeVar

import asyncpg
import httpx2
import pytest
import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.db.api_keys import EVERY_ACCOUNT, IssuedKey, create_key
from app.db.embedded import EmbeddedPostgres
from app.db.engine import ConnectionPool, create_pool
from app.db.vocabulary import Scope
from app.main import create_app
from app.settings import Auth, Secret, Settings
from tests.fakes import FakeDecider

NOWHERE = "postgresql://nobody@127.0.0.1:9/nothing"
"""An address at which nothing listens."""

_Result = TypeVar("_Result")
_module_numbers = itertools.count(1)
_account_numbers = itertools.count(1)


def settings_for(database_url: str, *, limits: dict[str, Any] | None = None, **changes: Any) -> Settings:
    """Settings of a local service that judges snapshots of any age."""
    return Settings(
        **{
            "database_url": Secret(database_url),
            "auth": Auth.OFF,
            "limits": {"max_snapshot_age_s": 0} | (limits or {}),
            **changes,
        }
    )


def client_of(app: FastAPI) -> TestClient:
    """A client that shows the answer to a bug, rather than the bug."""
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[structlog.typing.EventDict]]:
    """What the service logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
def decider() -> FakeDecider:
    return FakeDecider()


@pytest.fixture
def client(database_url: str, decider: FakeDecider) -> Iterator[TestClient]:
    """A client of the app with the default limits, on a database of its own."""
    with client_of(create_app(settings_for(database_url), decider=decider)) as running:
        yield running


@pytest.fixture(scope="module")
def offline() -> Iterator[TestClient]:
    """A client of an app whose database is away: for what must be answered without one."""
    with client_of(create_app(settings_for(NOWHERE), decider=FakeDecider())) as running:
        yield running


@pytest.fixture(scope="module")
def shared_database_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A migrated database that the tests of one module share; each uses accounts of its own."""
    name = f"api_{next(_module_numbers)}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)


@pytest.fixture
def account_id() -> str:
    """The name of an account that nobody used before."""
    return f"account-{next(_account_numbers)}"


ClientWith = Callable[..., TestClient]


@pytest.fixture
def client_with(shared_database_url: str) -> Iterator[ClientWith]:
    """Make clients of apps with other settings and deciders, on the shared database."""
    with ExitStack() as stack:

        def make(decider: FakeDecider | None = None, **changes: Any) -> TestClient:
            app = create_app(settings_for(shared_database_url, **changes), decider=decider or FakeDecider())
            return stack.enter_context(client_of(app))

        yield make


Serve = Callable[[FastAPI], AbstractContextManager[httpx2.Client]]


@pytest.fixture
def serve() -> Serve:
    """Run an app under uvicorn on a real socket, in a thread, and give a client of it."""
    return serving


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx2.Client]:
    """Run an app under uvicorn on a real socket, in a thread, and give a client of it."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, http="httptools", loop="uvloop", ws="none", log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise AssertionError("the server did not start")
            thread.join(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


Issue = Callable[..., IssuedKey]


def on_database(url: str, work: Callable[[ConnectionPool], Awaitable[_Result]]) -> _Result:
    """Do one piece of work on a database."""

    async def run() -> _Result:
        pool = await create_pool(url, min_size=1, max_size=1)
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(run())


def execute(url: str, statement: str, *values: object) -> list[asyncpg.Record]:
    """Run one statement as the owner of the database."""

    async def run() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(run())


@pytest.fixture
def issue(shared_database_url: str) -> Issue:
    """Make a key."""

    def make(
        *scopes: Scope, accounts: Collection[str] = (EVERY_ACCOUNT,), expires_at: datetime | None = None
    ) -> IssuedKey:
        return on_database(
            shared_database_url,
            lambda pool: create_key(pool, name="test", scopes=scopes, accounts=accounts, expires_at=expires_at),
        )

    return make


def bearer(issued: IssuedKey) -> dict[str, str]:
    """The header with which a key is sent."""
    return {"authorization": f"Bearer {issued.token}"}
