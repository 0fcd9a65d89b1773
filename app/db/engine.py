"""Reach PostgreSQL: a pool whose every failure is StoreUnavailable, and which recovers by itself.

What the pool sees to, so that nobody above has to:

* Nothing needs the database at start. Connections are opened when first needed and again after it was away.
* Every wait is bounded: for a connection, for a lock, for a statement; by the server, and by the client where
  the server can no longer be heard. A worker that is paused inside a transaction loses it after
  `IDLE_IN_TRANSACTION_S`, and with it the locks that others wait for.
* Every connection acts as the role that cannot rewrite decisions, whoever it logged in as.
* A connection on which something failed or was cancelled is cut, not cleaned up: the server rolls back. That
  costs a few milliseconds on a path that is rare, waits for nobody, and leaves no state to reason about.
* One that is returned goes to whoever has waited longest, else on top of a pile. asyncpg's own pool opens and closes
  connections; it does not lend them, for its way of lending takes as long as what a short statement takes.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from decimal import Decimal
from types import TracebackType
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


class _Lent:
    """Lend a connection for as long as a block lasts, and turn what fails in it into StoreUnavailable."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool

    async def __aenter__(self) -> Connection:
        try:
            self._connection = await self._pool.take()
        except _FAILURES as error:
            raise StoreUnavailable(error) from error
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            # One that the server cut before has left its pool, and what happened here must not be lost.
            with suppress(asyncpg.InterfaceError):
                self._connection.terminate()
        self._pool.give_back(self._connection)
        if isinstance(error, _FAILURES):
            raise StoreUnavailable(error) from error


def _is_closed(connection: Connection) -> bool:
    try:
        return connection.is_closed()
    except asyncpg.InterfaceError:  # it has left asyncpg's pool
        return True


class ConnectionPool:
    """Lend connections to PostgreSQL and turn every failure into StoreUnavailable."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s
        self._free: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        # Connections that are free, lent or being opened.
        self._places_taken = 0
        self._closing = False

    def connection(self) -> AbstractAsyncContextManager[Connection]:
        """Lend a connection on which each statement commits by itself.

        Raises:
            StoreUnavailable: there is none in time, or the database failed while it was lent.
        """
        return _Lent(self)

    async def take(self) -> Connection:
        """Take a free connection, open one, or wait for one; it must be given back.

        Raises:
            asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError: there is none in time.
        """
        while self._free:
            connection = self._free.pop()
            if not _is_closed(connection):
                return connection
            self._places_taken -= 1
        if self._places_taken < self._pool.get_max_size():
            self._places_taken += 1
        else:
            handed = await self._wait()
            if handed is not None:
                return handed
        try:
            return await self._pool.acquire(timeout=self._acquire_timeout_s)
        except BaseException:
            self._leave_place()
            raise

    def give_back(self, connection: Connection) -> None:
        """Hand a connection to who waits, or keep it; one that was cut leaves its place to another."""
        if _is_closed(connection) or self._closing:
            # Of a pool that closes nothing is kept: it waits until it has its connections back.
            with suppress(asyncpg.InterfaceError):
                connection.terminate()
            self._leave_place()
        elif (waiting := self._next_waiting()) is not None:
            waiting.set_result(connection)
        else:
            self._free.append(connection)

    def _leave_place(self) -> None:
        """Let who waits open a connection in place of one that is gone."""
        if (waiting := self._next_waiting()) is not None:
            waiting.set_result(None)
        else:
            self._places_taken -= 1

    def _next_waiting(self) -> "asyncio.Future[Connection | None] | None":
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                return waiting
        return None

    async def _wait(self) -> "Connection | None":
        """Wait for a connection, or for a place to open one."""
        waiting: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                return await waiting
        except BaseException:
            # What was handed over in the moment that the wait ended goes on to the next.
            if waiting.done() and not waiting.cancelled():
                handed = waiting.result()
                if handed is None:
                    self._leave_place()
                else:
                    self.give_back(handed)
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
        self._closing = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._free:
                    with suppress(asyncpg.InterfaceError):  # it has left asyncpg's pool
                        await self._free.pop().close()
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
        init=_set_up,
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


# The row of a decision is compressed to fit one page, and lz4 takes a fraction of the time of pglz. Not every build of
# PostgreSQL has it, and a column that asked for it could not be restored into one without.
_COMPRESS_FAST: Final = """
SELECT set_config(name, 'lz4', false) FROM pg_settings
WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)
"""


async def _set_up(connection: Connection) -> None:
    await connection.execute(_COMPRESS_FAST)
    # asyncpg's own decoder gives 100000 as 1.0E+5, which is equal but prints differently.
    await connection.set_type_codec("numeric", schema="pg_catalog", encoder=str, decoder=Decimal, format="text")
