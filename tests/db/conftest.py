"""A pool as the service has it, and the owner's own connection beside it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.db.engine import Connection, ConnectionPool, create_pool
from app.db.operations import Store


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
