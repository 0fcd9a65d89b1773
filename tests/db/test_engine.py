"""The pool survives its database: it starts without it, fails in time, and recovers by itself."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.begun import Begun
from app.db.embedded import EmbeddedPostgres
from app.db.engine import Connection, ConnectionPool, StoreUnavailable, asyncpg_url, create_pool
from app.db.migrate import head_revision, upgrade
from app.db.operations import Store
from app.db.queries import schema_revision
from tests.db.builders import decision, stored


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    with (
        tempfile.TemporaryDirectory(prefix="tradeverdict-") as data_dir,
        EmbeddedPostgres(Path(data_dir), durable=False) as server,
    ):
        yield server


async def test_the_service_works_again_after_its_database_was_away(server: EmbeddedPostgres) -> None:
    url = server.create_database("restarted")
    await asyncio.to_thread(upgrade, url)
    pool = await create_pool(url)
    store = Store(pool)
    try:
        await stored(store, decision())
        await asyncio.to_thread(server.stop)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await stored(store, decision())
            with pytest.raises(StoreUnavailable):
                await schema_revision(pool)
        await asyncio.to_thread(server.start)

        await stored(store, decision())
        assert await schema_revision(pool) == head_revision()
    finally:
        await pool.close()


async def test_a_service_that_starts_before_its_database_recovers_too(server: EmbeddedPostgres) -> None:
    url = server.create_database("late")
    await asyncio.to_thread(server.stop)
    pool = await create_pool(url)
    try:
        with pytest.raises(StoreUnavailable, match="ConnectionRefusedError"):
            await schema_revision(pool)
        await asyncio.to_thread(server.start)
        # It answers, but was never migrated: the role that the service acts as does not exist.
        assert await schema_revision(pool) is None
        await asyncio.to_thread(upgrade, url)

        assert await schema_revision(pool) == head_revision()
    finally:
        await pool.close()


async def test_connections_that_were_cut_are_replaced(pool: ConnectionPool, owner: Connection) -> None:
    await pool.warm(4)
    cut = await owner.fetchval(
        "SELECT count(pg_terminate_backend(pid, 1000)) FROM pg_stat_activity"
        " WHERE application_name = 'tradeverdict' AND datname = current_database()"
    )
    await asyncio.sleep(0.05)  # the news arrives

    assert cut == 4
    await stored(Store(pool), decision())


async def test_a_pool_that_is_all_lent_is_unavailable_in_time(database_url: str) -> None:
    pool = await create_pool(database_url, max_size=1, acquire_timeout_s=0.1)
    try:
        async with pool.connection():
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                await schema_revision(pool)
        assert await schema_revision(pool) == head_revision()
    finally:
        await pool.close()


@pytest.fixture
async def single(database_url: str) -> AsyncIterator[ConnectionPool]:
    """A pool of one connection, which is open."""
    pool = await create_pool(database_url, min_size=1, max_size=1)
    yield pool
    await pool.close()


async def test_who_waits_longest_is_served_first(single: ConnectionPool) -> None:
    served: list[int] = []

    async def ask(number: int) -> None:
        async with single.connection():
            served.append(number)

    async with single.connection():
        asking = [asyncio.create_task(ask(number)) for number in range(3)]
        await asyncio.sleep(0)
    late = asyncio.create_task(ask(3))
    await asyncio.gather(*asking, late)

    assert served == [0, 1, 2, 3]


async def test_a_connection_lent_to_one_who_gave_up_meanwhile_goes_on_to_the_next(single: ConnectionPool) -> None:
    async def ask() -> int:
        async with single.connection() as connection:
            pid: int = await connection.fetchval("SELECT pg_backend_pid()")
            return pid

    async with single.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        first, second = asyncio.create_task(ask()), asyncio.create_task(ask())
        await asyncio.sleep(0)
    first.cancel()

    assert await second == pid
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await ask() == pid


async def test_one_who_waits_opens_a_connection_in_place_of_one_that_was_cut(single: ConnectionPool) -> None:
    async def ask() -> str | None:
        return await schema_revision(single)

    async def fail() -> None:
        async with single.connection():
            waiting.append(asyncio.create_task(ask()))
            await asyncio.sleep(0)
            raise OSError

    waiting: list[asyncio.Task[str | None]] = []
    with pytest.raises(StoreUnavailable):
        await fail()

    assert await waiting[0] == head_revision()


async def test_a_pool_never_has_more_connections_than_it_may(database_url: str, owner: Connection) -> None:
    pool = await create_pool(database_url, max_size=3)

    async def ask(number: int) -> None:
        async with pool.connection() as connection:
            await connection.fetchval("SELECT pg_sleep(0.005)")
            if number % 7 == 0:
                connection.terminate()
            if number % 11 == 0:
                raise OSError

    ends = await asyncio.gather(*(ask(number) for number in range(100)), return_exceptions=True)
    open_now = await owner.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tradeverdict' AND datname = current_database()"
    )
    async with asyncio.timeout(2):
        await pool.close()

    assert sum(isinstance(end, StoreUnavailable) for end in ends) == 10
    assert 1 <= open_now <= 3


async def test_rows_are_compressed_by_lz4_where_the_server_has_it(pool: ConnectionPool, owner: Connection) -> None:
    has_lz4 = await owner.fetchval(
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    async with pool.connection() as connection:
        used = await connection.fetchval("SHOW default_toast_compression")

    assert used == ("lz4" if has_lz4 else "pglz")


async def test_a_read_that_is_begun_and_given_up_takes_no_place_of_the_pool_with_it(database_url: str) -> None:
    pool = await create_pool(database_url, min_size=0, max_size=2)
    try:
        for _ in range(5):  # while it opens a connection, and while it uses one
            with Begun(schema_revision(pool)):
                pass
            await asyncio.sleep(0)  # asyncio's own loop lets go of a socket with its next step
        async with pool.connection(), pool.connection():
            pass
        for _ in range(5):
            with Begun(schema_revision(pool)):
                pass
            await asyncio.sleep(0)  # asyncio's own loop lets go of a socket with its next step
        assert await schema_revision(pool) == head_revision()
    finally:
        await pool.close()


async def test_a_statement_that_takes_too_long_is_unavailable(pool: ConnectionPool) -> None:
    with pytest.raises(StoreUnavailable, match="canceling statement due to statement timeout"):
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(10)")


async def test_a_server_that_can_no_longer_be_heard_is_unavailable_in_time() -> None:
    # It accepts and says nothing, as a host behind a broken link does.
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = await create_pool(f"postgresql://u:p@127.0.0.1:{port}/d", acquire_timeout_s=0.2)
    try:
        async with asyncio.timeout(10):
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                await schema_revision(pool)
    finally:
        await pool.close()
        server.close()


async def test_a_reader_that_is_cancelled_waits_for_no_answer(pool: ConnectionPool) -> None:
    async def read() -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(1.9)")

    await pool.warm(1)
    started = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read(), 0.05)

    assert asyncio.get_running_loop().time() - started < 1.5


async def test_a_cancellation_is_not_lost_when_the_server_had_cut_the_connection(
    pool: ConnectionPool, owner: Connection
) -> None:
    lent = asyncio.Event()

    async def hold() -> None:
        async with pool.connection():
            lent.set()
            await asyncio.sleep(10)

    holding = asyncio.create_task(hold())
    await lent.wait()
    await owner.execute(
        "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
        " WHERE application_name = 'tradeverdict' AND datname = current_database()"
    )
    await asyncio.sleep(0.05)  # the news arrives
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding


async def test_closing_cuts_what_is_still_lent(database_url: str) -> None:
    pool = await create_pool(database_url)

    async def outlast_the_pool() -> None:
        async with pool.transaction() as connection:
            await pool.close(timeout_s=0.05)
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await outlast_the_pool()


def test_an_error_says_what_failed_without_data_or_password() -> None:
    with pytest.raises(ValueError, match="must start with") as refusal:
        asyncpg_url("mysql://u:secret@host/db")
    assert "secret" not in str(refusal.value)


async def test_an_error_does_not_quote_the_refused_row(store: Store) -> None:
    with pytest.raises(StoreUnavailable) as refusal:
        await stored(store, decision(conviction=101, prompt_user="the account's whole position"))

    assert "whole_percent_check" in str(refusal.value)
    assert "position" not in str(refusal.value)


@pytest.mark.parametrize("url", ["postgresql://u:p@h:1/d", "postgres://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"])
def test_every_usual_form_of_the_address_is_understood(url: str) -> None:
    assert asyncpg_url(url) == "postgresql://u:p@h:1/d"
