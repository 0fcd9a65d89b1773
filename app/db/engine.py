"""Reach PostgreSQL: a pool whose every failure is StoreUnavailable, and which recovers by itself.

What the pool sees to, so that nobody above has to:

* Nothing needs the database at start. Connections are opened when first needed and again after it was away.
* Every wait is bounded: for a connection, for a lock, for a statement; by the server, and by the client where
  the server can no longer be heard. A worker that is paused inside a transaction loses it after
  `IDLE_IN_TRANSACTION_S`, and with it the locks that others wait for.
* Every connection acts as the role that cannot rewrite decisions, whoever it logged in as.
* A connection on which something failed or was cancelled is cut, not cleaned up: the server rolls back. That
  costs a few milliseconds on a path that is rare, waits for nobody, and leaves no state to reason about.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from decimal import Decimal
from typing import Final, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

APP_ROLE: Final = "tradeverdict_app"
STATEMENT_S: Final = 2.0
LOCK_S: Final = 1.0
IDLE_IN_TRANSACTION_S: Final = 2.0
UNANSWERED_S: Final = 3.0
"""The client gives up on a statement after this long: later than the server would, were it there."""

_SCHEMES: Final = ("postgresql://", "postgres://", "postgresql+asyncpg://")
# What asyncpg raises for a database that is away, overloaded, shutting down or refusing.
_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


class StoreUnavailable(Exception):  # noqa: N818 (a condition to answer 503 on, rather than a bug)
    """The store could not do what was asked; nothing was committed, or nobody knows whether it was.

    The message is one line without data or addresses; the cause is chained.
    """

    def __init__(self, cause: BaseException) -> None:
        # str() of a PostgreSQL error adds its DETAIL, which may quote the refused row.
        said = getattr(cause, "message", None) or str(cause)
        super().__init__(f"{type(cause).__name__}: {said}".splitlines()[0].removesuffix(": "))


class _Connection(asyncpg.Connection):
    """Skip the clean-up round trip at release: no session state is ever left to clean up."""

    def get_reset_query(self) -> str:
        return ""


class ConnectionPool:
    """Lend connections to PostgreSQL and turn every failure into StoreUnavailable."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection on which each statement commits by itself.

        Raises:
            StoreUnavailable: there is none in time, or the database failed while it was lent.
        """
        with _failures_as_unavailable():
            async with self._pool.acquire(timeout=self._acquire_timeout_s) as connection:
                try:
                    yield connection
                except BaseException:
                    # One that the server cut before has left the pool, and what happened here must not be lost.
                    with suppress(asyncpg.InterfaceError):
                        connection.terminate()
                    raise

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside a transaction, which commits on the way out unless an exception passes.

        Raises:
            StoreUnavailable: as above; when COMMIT itself fails it may still have taken effect.
        """
        async with self.connection() as connection:
            await connection.execute("BEGIN")
            yield connection
            await connection.execute("COMMIT")

    async def warm(self, connections: int) -> None:
        """Open this many connections now, so that the first requests need not.

        Raises:
            StoreUnavailable: one could not be opened.
        """
        async with AsyncExitStack() as lent:
            # All are held until the last is open: one that was given back would be lent again.
            for _ in range(connections):
                await lent.enter_async_context(self.connection())

    async def close(self, *, timeout_s: float = 5.0) -> None:
        """Close every connection; those still lent after `timeout_s` seconds are cut."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


async def create_pool(
    url: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    acquire_timeout_s: float = 1.0,
    application_name: str = "tradeverdict",
) -> ConnectionPool:
    """Make a pool of at most `max_size` connections, and open `min_size` of them if the database is there.

    Raises:
        ValueError: the address is not one of PostgreSQL's.
    """
    pool = asyncpg.create_pool(
        asyncpg_url(url),
        min_size=0,
        max_size=max_size,
        max_inactive_connection_lifetime=0,
        timeout=acquire_timeout_s,
        command_timeout=UNANSWERED_S,
        max_cached_statement_lifetime=0,
        connection_class=_Connection,
        init=_read_decimals_as_written,
        server_settings={
            "role": APP_ROLE,
            # Whoever waited for a row must then see it as it is.
            "default_transaction_isolation": "read committed",
            "application_name": application_name,
            "statement_timeout": f"{STATEMENT_S}s",
            "lock_timeout": f"{LOCK_S}s",
            "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
            # Planning the longest statement takes ten times as long as running it, and compiling longer still.
            "plan_cache_mode": "force_generic_plan",
            "jit": "off",
        },
    )
    await pool
    connections = ConnectionPool(pool, acquire_timeout_s=acquire_timeout_s)
    # A service may start before its database: readiness says so, and the first request opens a connection.
    with suppress(StoreUnavailable):
        await connections.warm(min(min_size, max_size))
    return connections


def asyncpg_url(url: str) -> str:
    """Put an address into the form asyncpg reads.

    Raises:
        ValueError: it is of some other database; the message does not repeat it, for it may hold a password.
    """
    for scheme in _SCHEMES:
        if url.startswith(scheme):
            return "postgresql://" + url.removeprefix(scheme)
    raise ValueError(f"the database's address must start with one of {', '.join(_SCHEMES)}")


async def _read_decimals_as_written(connection: Connection) -> None:
    # asyncpg's own decoder gives 100000 as 1.0E+5, which is equal but prints differently.
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=Decimal, format="text")


@contextmanager
def _failures_as_unavailable() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        raise StoreUnavailable(error) from error
