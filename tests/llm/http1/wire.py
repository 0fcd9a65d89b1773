"""Play the other side of a connection byte for byte, and ask it."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx2

from app.llm.http1 import Exchange, Origin, Pool

PATIENT = httpx2.Timeout(5.0)
HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Peer:
    """One connection, as the server sees it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes | None:
        """Read the next request; None when there is none any more."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return head + await self.reader.readexactly(int(length[0].split(b":")[1]) if length else 0)

    async def say(self, *pieces: bytes) -> None:
        """Send pieces, each by itself."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close without a goodbye."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Play = Callable[[Peer], Awaitable[None]]


class Server:
    """The other side: where it is, and the connections that were made to it."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.peers: list[Peer] = []
        self.open = 0


@asynccontextmanager
async def serving(play: Play, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Have a script played on each connection, until it ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        peer = Peer(len(server.peers), reader, writer)
        server.peers.append(peer)
        server.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await play(peer)
        finally:
            server.open -= 1
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async with await asyncio.start_server(meet, host, 0, ssl=tls) as listening:
        port = listening.sockets[0].getsockname()[1]
        server = Server(Origin(tls=tls is not None, host=host, port=port))
        try:
            yield server
        finally:
            for task in tuple(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def always(*pieces: bytes, close: bool = False) -> Play:
    """Answer every request with the same pieces."""

    async def play(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.say(*pieces)
            if close:
                return

    return play


@asynccontextmanager
async def pooled(*, max_connections: int = 10, keepalive_s: float = 60.0) -> AsyncIterator[Pool]:
    """A pool, in which nothing may be left when it is closed."""
    pool = Pool(max_connections=max_connections, keepalive_s=keepalive_s, tls=httpx2.create_ssl_context())
    try:
        yield pool
    finally:
        await pool.aclose()
        assert (pool.places_taken, len(pool.connections), len(pool._waiting)) == (0, 0, 0)


async def ask(
    pool: Pool, server: Server, *, limits: httpx2.Timeout = PATIENT, head: bytes = HEAD, body: bytes = b"{}"
) -> Exchange:
    headless = head.startswith(b"HEAD")
    return await pool.exchange(server.origin, head, b"" if headless else body, limits=limits, headless=headless)


async def whole(exchange: Exchange) -> bytes:
    """Read the body of an answer to its end."""
    body = bytearray()
    while not exchange.ended or exchange.chunks:
        if exchange.chunks:
            body += exchange.take()
        elif exchange.error is not None:
            raise exchange.error
        else:
            await exchange.wait()
    return bytes(body)


async def asked(pool: Pool, server: Server, *, limits: httpx2.Timeout = PATIENT, head: bytes = HEAD) -> bytes:
    """Ask, and read the answer."""
    return await whole(await ask(pool, server, limits=limits, head=head))


async def until(true: Callable[[], bool]) -> None:
    """Wait a moment for what is about to be so."""
    async with asyncio.timeout(3):
        while not true():
            await asyncio.sleep(0.005)
