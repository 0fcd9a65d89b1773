"""Speak HTTP/1.1 over connections that are kept: what a call of a model needs, and nothing else.

Rules of this file:
  * a connection carries one exchange at a time, and takes the next only when the answer came to its end, the other
    side left it open, and not a byte more came;
  * what nobody waits for ends the connection: a byte between two exchanges, an answer given up, a cancelled wait;
  * a place in the pool belongs to one connection, from before it is opened until it is given up, and is handed on once:
    to who has waited longest, with the connection where it leads to the same origin;
  * nothing is sent twice, and nothing that came is believed to be whole that is not;
  * one timer of a connection serves many exchanges: it looks when the wait of that moment is due, and moves on;
  * errors are those of httpx2.

httptools reads what comes. There are no proxies, redirects, cookies and no HTTP/2.
"""

import asyncio
import math
import re
import socket
import ssl
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple, Self, cast

import aiohappyeyeballs
import httptools
import httpx2

LONGEST_HEADER: Final = 65_536
"""What may come of an answer without any of its body, in bytes."""
MOST_UNREAD: Final = 65_536
"""With more than this unread of an answer no more of it is taken in, in bytes."""
PROBED_AFTER_S: Final = 60
"""A silent connection is probed this often, so that what stands between forgets none that is kept."""
NEXT_ADDRESS_S: Final = 0.25
"""So long one address of a host is tried before the next is tried beside it (RFC 8305)."""
GOODBYE_S: Final = 1.0
"""So long TLS may take to end in good order."""
TICK_S: Final = 0.001
"""Loops count in milliseconds: a timer may be early by one."""
SWITCHING: Final = 101
FIRST_FINAL: Final = 200
WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
"""Methods that say nothing of a body's length where there is none."""
OURS_TO_SAY: Final = frozenset({b"content-length", b"transfer-encoding"})
"""How long a body is, only who sends it knows."""

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE: Final = re.compile(rb"[\r\n\x00]")

Header = tuple[bytes, bytes]


class Origin(NamedTuple):
    """Name where connections lead."""

    tls: bool
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx2.URL) -> Self:
        """Read the origin of an address.

        Raises:
            httpx2.UnsupportedProtocol: it is none that HTTP is spoken with.
        """
        if url.scheme not in {"http", "https"} or not url.raw_host:
            raise httpx2.UnsupportedProtocol("the address has no http or https in front, or no host")
        tls = url.scheme == "https"
        return cls(tls=tls, host=url.raw_host.decode("ascii"), port=url.port or (443 if tls else 80))


def write_lines(headers: Iterable[Header]) -> bytes:
    """Write headers as lines, but for what tells a body's length.

    Raises:
        httpx2.LocalProtocolError: one would not be read as what it is.
    """
    lines = []
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _NO_VALUE.search(value) is not None:
            raise httpx2.LocalProtocolError(f"the header {name!r} cannot be sent")
        if name.lower() not in OURS_TO_SAY:
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def write_beginning(method: str, url: httpx2.URL, headers: Iterable[Header]) -> bytes:
    """Write the request line and the lines of the headers, with Host first where they have none.

    Raises:
        httpx2.LocalProtocolError: a part of it would not be read as what it is.
    """
    headers = list(headers)
    if all(name.lower() != b"host" for name, _ in headers):
        headers.insert(0, (b"Host", url.netloc))
    if _NAME.fullmatch(method.encode()) is None or re.search(rb"[\x00-\x20\x7f]", url.raw_path) is not None:
        raise httpx2.LocalProtocolError("the request line cannot be sent")
    return b"%b %b HTTP/1.1\r\n%b" % (method.encode(), url.raw_path, write_lines(headers))


class Exchange:
    """Hold the answer to one request as it comes: the status is 0 until the head is whole."""

    __slots__ = (
        "chunks",
        "connection",
        "ended",
        "error",
        "head_due",
        "headers",
        "headless",
        "limits",
        "overhead",
        "status",
        "unread",
        "waiter",
    )

    def __init__(self, connection: "Connection", *, headless: bool, limits: httpx2.Timeout) -> None:
        self.connection = connection
        self.headless = headless
        """Whether the answer is a head alone, whatever it says of a body."""
        self.limits = limits
        self.status = 0
        self.headers: list[Header] = []
        self.chunks: list[bytes] = []
        self.unread = 0
        self.overhead = 0
        self.ended = False
        self.error: httpx2.TransportError | None = None
        self.head_due = True
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let who waits look again."""
        if (waiter := self.waiter) is not None:
            self.waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def take(self) -> bytes:
        """Give what has come of the body and was not given yet."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.unread = 0
        self.connection.read_on(self)
        return data

    async def wait(self) -> None:
        """Wait until more has come, it has ended or failed; who stops waiting gives the answer up."""
        waiter = self.connection.expect(self)
        try:
            await waiter
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close the connection, unless the answer has come to its end."""
        if not self.ended and self.error is None:
            self.connection.fail(self, httpx2.ReadError("the response was closed"))


class Body(httpx2.AsyncByteStream):
    """Read the body of an answer as it comes; `request` is what its errors tell of."""

    def __init__(self, exchange: Exchange, *, request: httpx2.Request) -> None:
        self._exchange = exchange
        self._request = request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        exchange = self._exchange
        while not exchange.chunks:
            if exchange.ended:
                raise StopAsyncIteration
            if exchange.error is not None:
                exchange.error.request = self._request
                raise exchange.error
            await exchange.wait()
        return exchange.take()

    async def aclose(self) -> None:
        self._exchange.give_up()

    def __del__(self) -> None:
        # Forgotten without being closed; its place is not to be lost. The collector may run in another thread.
        exchange = self._exchange
        if not exchange.ended and exchange.error is None:
            with suppress(RuntimeError):  # the loop is closed, and with it the connection
                exchange.connection.loop.call_soon_threadsafe(exchange.give_up)


class Connection(asyncio.Protocol):
    """Carry exchanges, one after the other."""

    def __init__(self, pool: "Pool", origin: Origin) -> None:
        self.origin = origin
        self.loop = pool.loop
        self.usable = False
        self.has_place = False
        self.idle_since = math.inf
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._headers: list[Header] = []
        self._reusable = False
        self._reading_paused = False
        self._writing_paused = False
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    # --- the way out ------------------------------------------------------------------------------------

    def begin(
        self, head: bytes, body: bytes, *, headless: bool, limits: httpx2.Timeout
    ) -> tuple[Exchange, asyncio.Future[None]]:
        """Send a request; give its exchange, and what to wait for until the head of the answer is there."""
        exchange = self._exchange = Exchange(self, headless=headless, limits=limits)
        # One write: writelines() of asyncio does not pause who writes before Python 3.12.9 and 3.13.2 (CVE-2024-12254).
        self._transport.write(head + body)
        return exchange, self.expect(exchange)

    def expect(self, exchange: Exchange) -> asyncio.Future[None]:
        """Give what is done when something has come, or it is too late."""
        waiter = exchange.waiter = self.loop.create_future()
        self._set_due(exchange)
        return waiter

    def fail(self, exchange: Exchange, error: httpx2.TransportError) -> None:
        """End an exchange that has not ended, and the connection with it."""
        if self._exchange is exchange and not exchange.ended:
            self._exchange = None
            exchange.error = error
            exchange.wake()
            self.abort()

    def read_on(self, exchange: Exchange) -> None:
        """Take more of an answer in, now that what was there is read."""
        if self._reading_paused and self._exchange is exchange:
            self._reading_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close an idle connection in good order."""
        if self.usable:
            self.usable = False
            self._transport.close()
            self._pool.forget(self)

    def abort(self) -> None:
        """Close the connection at once."""
        self.usable = False
        self._transport.abort()
        self._pool.forget(self)

    def break_off(self, error: httpx2.TransportError) -> None:
        """Close the connection whatever it does."""
        if (exchange := self._exchange) is not None:
            self.fail(exchange, error)
        self.abort()

    def is_open(self) -> bool:
        """Tell whether a request may be sent."""
        return self.usable and not self._transport.is_closing()

    # --- limits -----------------------------------------------------------------------------------------

    def _set_due(self, exchange: Exchange) -> None:
        # While the request is not out, it is the writing that takes time.
        limit_s = exchange.limits.write if self._writing_paused else exchange.limits.read
        self._due = math.inf if limit_s is None else self.loop.time() + limit_s
        if self._due < self._timer_at:
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(self._due, self._look_at_time)
        self._timer_at = self._due

    def _look_at_time(self) -> None:
        self._timer, self._timer_at = None, math.inf
        exchange = self._exchange
        if exchange is None or exchange.waiter is None or self._due == math.inf:
            return
        if self.loop.time() + TICK_S < self._due:
            self._start_timer()
        elif self._writing_paused:
            self.fail(exchange, httpx2.WriteTimeout("the request was not taken in time"))
        else:
            self.fail(exchange, httpx2.ReadTimeout("nothing came in time"))

    # --- what the transport tells -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if self.usable:
                self.abort()
            return
        had, had_head = len(exchange.chunks), exchange.status != 0
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            self.fail(exchange, httpx2.RemoteProtocolError(f"the answer is no HTTP/1.1: {error}"))
        if len(exchange.chunks) == had or not had_head:
            self._count_overhead(exchange, len(data), gained=len(exchange.chunks) > had)
        elif exchange.overhead:
            exchange.overhead = 0
        if exchange.ended:
            self._end(exchange)
        elif self._exchange is exchange:
            self._go_on(exchange)

    def eof_received(self) -> None:
        self._lose(None)
        self._transport.abort()  # to close it would be to wait until all is sent

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._pool.lost(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if (exchange := self._exchange) is not None and exchange.waiter is not None:
            self._set_due(exchange)

    # --- what the parser tells --------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        exchange = self._exchange
        if exchange is None or exchange.ended:
            raise _SurplusError
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        exchange = cast("Exchange", self._exchange)
        parser = self._parser
        status, version = parser.get_status_code(), parser.get_http_version()
        if status == SWITCHING or version not in {"1.1", "1.0"}:
            raise _UnaskedError
        if status < FIRST_FINAL:
            return
        exchange.status = status
        exchange.headers = self._headers
        self._headers = []  # what follows the body is not kept
        self._reusable = version == "1.1"
        if exchange.headless:
            self._reusable = self._reusable and b"close" not in _listed(exchange.headers, b"connection")
            exchange.ended = True

    def on_body(self, chunk: bytes) -> None:
        exchange = cast("Exchange", self._exchange)
        if exchange.ended:
            raise _SurplusError
        exchange.chunks.append(chunk)
        exchange.unread += len(chunk)

    def on_message_complete(self) -> None:
        exchange = cast("Exchange", self._exchange)
        if exchange.status and not exchange.ended:
            exchange.ended = True
            self._reusable = self._reusable and self._parser.should_keep_alive()

    # --- how an exchange goes on, and ends --------------------------------------------------------------

    def _count_overhead(self, exchange: Exchange, size: int, *, gained: bool) -> None:
        exchange.overhead += size
        if exchange.overhead > LONGEST_HEADER:
            # What came may be body for the most part.
            if not gained or _size(exchange.headers) > LONGEST_HEADER:
                exchange.ended, exchange.status = False, 0
                self.fail(exchange, httpx2.RemoteProtocolError(f"a head is longer than {LONGEST_HEADER} bytes"))
            exchange.overhead = 0

    def _go_on(self, exchange: Exchange) -> None:
        if exchange.unread > MOST_UNREAD and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        if exchange.chunks or (exchange.status and exchange.head_due):
            exchange.wake()
        elif exchange.waiter is not None and not self._writing_paused:
            self._set_due(exchange)

    def _end(self, exchange: Exchange) -> None:
        """Give the connection back, if it can carry another exchange."""
        self._exchange = None
        exchange.wake()
        sent = self._transport.get_write_buffer_size() == 0
        if not (sent and self._reusable and self.is_open()):
            self.abort()
            return
        if exchange.headless:  # the parser may wait for the body that the head speaks of
            self._parser = httptools.HttpResponseParser(self)
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._pool.give_back(self)

    def _lose(self, error: Exception | None) -> None:
        self.usable = False
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if error is None and exchange.status and _ends_by_closing(exchange.headers):
                exchange.ended = True
            else:
                exchange.error = _lost(error, exchange)
            exchange.wake()
        self._pool.forget(self)


class Pool:
    """Keep connections of the running loop: those that wait for the next request, and the places for further ones."""

    def __init__(self, *, max_connections: int, keepalive_s: float, tls: ssl.SSLContext) -> None:
        self.loop = asyncio.get_running_loop()
        self.connections: set[Connection] = set()
        self.places_taken = 0
        self._max_connections = max_connections
        self._keepalive_s = keepalive_s
        self._tls = tls
        self._idle: defaultdict[Origin, list[Connection]] = defaultdict(list)
        """The one used last is last."""
        self._waiting: dict[asyncio.Future[Connection | None], Origin] = {}
        """Who waits, the first first; for a connection to use, or for a place to open one."""
        self._opening: set[asyncio.Timeout] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_lost: asyncio.Future[None] | None = None

    async def exchange(
        self, origin: Origin, head: bytes, body: bytes, *, limits: httpx2.Timeout, headless: bool = False
    ) -> Exchange:
        """Send a request; give its exchange when the head of the answer is there.

        `headless`: the answer has no body, whatever its head says, for the method is HEAD.

        Raises:
            httpx2.TransportError: it could not be sent, or not be answered in time.
        """
        connection = self._take_idle(origin)
        if connection is None:
            connection = await self._obtain(origin, limits)
        exchange, waiter = connection.begin(head, body, headless=headless, limits=limits)
        try:
            await waiter
        except BaseException:
            exchange.give_up()
            raise
        if exchange.error is not None and not exchange.status:
            raise exchange.error
        exchange.head_due = False
        return exchange

    async def aclose(self) -> None:
        """Close every connection; who waits for one, or for an answer, gets an error."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            self._refuse(next(iter(self._waiting)), httpx2.ConnectError("the client was closed"))
        for limit in self._opening:
            if not limit.expired():
                limit.reschedule(self.loop.time())
        for connection in tuple(self.connections):
            connection.break_off(httpx2.ReadError("the client was closed"))
        if self.connections:
            self._all_lost = self.loop.create_future()
            await asyncio.wait([self._all_lost], timeout=GOODBYE_S)

    # --- connections that come back ---------------------------------------------------------------------

    def give_back(self, connection: Connection) -> None:
        """Take a connection that can carry another exchange, for who has waited longest or for later."""
        if self._waiting and (first := self._first_in_line()) is not None:
            if self._waiting[first] == connection.origin:
                del self._waiting[first]
                first.set_result(connection)
            else:
                connection.close()  # its place goes to who waits
            return
        connection.idle_since = self.loop.time()
        self._idle[connection.origin].append(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(self._keepalive_s, self._close_expired)

    def forget(self, connection: Connection) -> None:
        """Free the place of a connection that is of no use any more."""
        if connection.has_place:
            connection.has_place = False
            idle = self._idle[connection.origin]
            if connection in idle:
                idle.remove(connection)
            self._free_place()

    def lost(self, connection: Connection) -> None:
        """Note that a connection is closed."""
        self.connections.discard(connection)
        if self._all_lost is not None and not self.connections and not self._all_lost.done():
            self._all_lost.set_result(None)

    def _free_place(self) -> None:
        first = self._first_in_line()
        if first is None:
            self.places_taken -= 1
        else:
            del self._waiting[first]
            first.set_result(None)

    def _first_in_line(self) -> "asyncio.Future[Connection | None] | None":
        # One that was cancelled stands here until its task has run.
        return next((waiter for waiter in self._waiting if not waiter.done()), None)

    def _close_expired(self) -> None:
        self._timer = None
        expired = self.loop.time() + TICK_S - self._keepalive_s
        for idle in self._idle.values():
            while idle and idle[0].idle_since <= expired:
                idle.pop(0).close()
        first = min((idle[0].idle_since for idle in self._idle.values() if idle), default=None)
        if first is not None:
            self._timer = self.loop.call_at(first + self._keepalive_s, self._close_expired)

    # --- connections that are wanted --------------------------------------------------------------------

    def _take_idle(self, origin: Origin) -> Connection | None:
        idle = self._idle[origin]
        if idle:
            expired = self.loop.time() - self._keepalive_s
            while idle:
                connection = idle.pop()
                if connection.idle_since > expired and connection.is_open():
                    return connection
                connection.close()
        return None

    def _take_place(self) -> bool:
        if self.places_taken >= self._max_connections:
            unused = min((idle[0] for idle in self._idle.values() if idle), key=_idle_since, default=None)
            if unused is None:
                return False
            unused.close()
        self.places_taken += 1
        return True

    async def _obtain(self, origin: Origin, limits: httpx2.Timeout) -> Connection:
        """Wait for a connection, or open one; the time that it may take to have one counts from now."""
        started = self.loop.time()
        self._check_open()
        while not self._take_place():
            given = await self._wait_in_line(origin, _least(limits.pool, limits.connect), started)
            if given is None:
                break
            if given.is_open():
                return given
            given.abort()  # closed by the other side since it was handed over
            self._check_open()
        try:
            connection = await self._connect(origin, limits.connect, started)
        except BaseException:
            self._free_place()
            raise
        connection.has_place = True
        self.connections.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise httpx2.ConnectError("the client was closed")

    async def _wait_in_line(self, origin: Origin, limit_s: float | None, started: float) -> Connection | None:
        given: asyncio.Future[Connection | None] = self.loop.create_future()
        self._waiting[given] = origin
        timer = None
        if limit_s is not None:
            error = httpx2.PoolTimeout("no connection became free in time")
            timer = self.loop.call_at(started + limit_s, self._refuse, given, error)
        try:
            return await given
        except BaseException:
            if self._waiting.pop(given, None) is None and not given.cancelled() and given.exception() is None:
                self._hand_on(given.result())
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _refuse(self, waiter: "asyncio.Future[Connection | None]", error: httpx2.TransportError) -> None:
        if self._waiting.pop(waiter, None) is not None and not waiter.done():
            waiter.set_exception(error)

    def _hand_on(self, given: Connection | None) -> None:
        """Give to the next what came to who waits no more."""
        if given is None:
            self._free_place()
        elif given.is_open() and not self._closed:
            self.give_back(given)
        else:
            given.abort()

    async def _connect(self, origin: Origin, limit_s: float | None, started: float) -> Connection:
        self._check_open()
        try:
            async with asyncio.timeout_at(None if limit_s is None else started + limit_s) as limit:
                self._opening.add(limit)
                try:
                    connection = await self._open(origin)
                finally:
                    self._opening.discard(limit)
        except TimeoutError as error:
            self._check_open()  # closing cuts this short
            raise httpx2.ConnectTimeout("no connection in time") from error
        except (OSError, ValueError) as error:  # a host's name may be none
            raise httpx2.ConnectError(str(error)) from error
        if self._closed or not connection.is_open():
            connection.abort()
            self._check_open()
            raise httpx2.ConnectError("the other side closed the connection as soon as it was made")
        return connection

    async def _open(self, origin: Origin) -> Connection:
        loop = self.loop
        addresses = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        made = await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_S, loop=loop, socket_factory=_probed_socket
        )
        taken = False
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self, origin),
                sock=made,
                ssl=self._tls if origin.tls else None,
                server_hostname=origin.host.rstrip(".") if origin.tls else None,
                ssl_shutdown_timeout=GOODBYE_S if origin.tls else None,
            )
            taken = True
        finally:
            if not taken:
                made.close()  # the loop may not have taken it
        return connection


class _SurplusError(Exception):
    """More has come than the answer."""


class _UnaskedError(Exception):
    """The answer is in another version or protocol."""


def _probed_socket(address: aiohappyeyeballs.AddrInfoType) -> socket.socket:
    """Make a socket that sends at once, and whose connection is probed while it is idle."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", PROBED_AFTER_S), ("TCP_KEEPINTVL", PROBED_AFTER_S), ("TCP_KEEPCNT", 5)):
        if hasattr(socket, name):  # not every system lets them be set
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _lost(error: Exception | None, exchange: Exchange) -> httpx2.TransportError:
    if error is None:
        what = "its answer was whole" if exchange.status or exchange.overhead else "it answered"
        return httpx2.RemoteProtocolError(f"the other side closed the connection before {what}")
    return (httpx2.WriteError if isinstance(error, BrokenPipeError) else httpx2.ReadError)(str(error))


def _least(*limits: float | None) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _idle_since(connection: Connection) -> float:
    return connection.idle_since


def _size(headers: list[Header]) -> int:
    return sum(len(name) + len(value) + 4 for name, value in headers)


def _listed(headers: list[Header], name: bytes) -> list[bytes]:
    """Give the words that a header lists, in lower case."""
    values = [value for named, value in headers if named.lower() == name]
    return [word.strip().lower() for value in values for word in value.split(b",")]


def _ends_by_closing(headers: list[Header]) -> bool:
    """Tell whether it is the end of the connection that ends a body (RFC 9112, 6.3)."""
    codings = _listed(headers, b"transfer-encoding")
    return codings[-1] != b"chunked" if codings else not _listed(headers, b"content-length")
