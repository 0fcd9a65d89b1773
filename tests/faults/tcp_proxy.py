"""Forward a local port as bad networks do: late, byte by byte, not at all, or until the connection breaks."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65_536


class Fate(Enum):
    """What becomes of a piece of data that a client sent."""

    PASSED = auto()
    LOST = auto()  # the connection breaks before the data is passed on
    UNANSWERED = auto()  # the data is passed on, and the connection breaks before the answer


class TcpProxy:
    """A port in front of another; what it does to connections can be changed at any time.

    `latency_s` passes before each piece of data in each direction, `drip_s` before each byte of an answer; `cut`
    swallows everything in both directions; `refusing` breaks connections as they are made; `fate` decides about
    each piece of data from a client.
    """

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self.latency_s = 0.0
        self.drip_s = 0.0
        self.cut = False
        self.refusing = False
        self.fate: Callable[[bytes], Fate] = lambda _: Fate.PASSED
        self.broken = 0

    @property
    def url(self) -> str:
        """The target's address with this proxy's port in place of its own."""
        assert self._server is not None, "the proxy is not running"
        user, at, _ = self._target.netloc.rpartition("@")
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{port}"))

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        running = list(self._connections)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._server.wait_closed()

    def heal(self) -> None:
        """Forward as it should be from now on."""
        self.latency_s = self.drip_s = 0.0
        self.cut = self.refusing = False
        self.fate = lambda _: Fate.PASSED

    def reset(self) -> None:
        """Break every connection there is."""
        for client, _ in self._connections.values():
            self._break(client)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.refusing:
            self._break(to_client)
            return
        from_target, to_target = await asyncio.open_connection(self._target.hostname, self._target.port)
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = (to_client, to_target)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._until_either_ends(
                    self._requests(from_client, to_client, to_target), self._answers(from_target, to_client)
                )
        finally:
            del self._connections[task]
            for writer in (to_client, to_target):
                writer.close()
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await writer.wait_closed()

    async def _until_either_ends(self, *directions: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(direction) for direction in directions]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _requests(
        self, reader: asyncio.StreamReader, to_client: asyncio.StreamWriter, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(CHUNK):
            fate = self.fate(data)
            if fate is not Fate.LOST:
                await self._forward(data, writer)
            if fate is not Fate.PASSED:
                self._break(to_client)
                return

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if not self.drip_s:
                await self._forward(data, writer)
                continue
            for byte in data:
                await asyncio.sleep(self.drip_s)
                await self._forward(bytes([byte]), writer)

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(self.latency_s)
        if not self.cut:
            writer.write(data)
            await writer.drain()

    def _break(self, writer: asyncio.StreamWriter) -> None:
        """Send RST instead of FIN: without lingering, closing does."""
        self.broken += 1
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def first_commit(fate: Fate) -> Callable[[bytes], Fate]:
    """Give this fate to the first COMMIT that a client of PostgreSQL sends."""
    met = False

    def decide(data: bytes) -> Fate:
        nonlocal met
        if met or b"COMMIT\x00" not in data:
            return Fate.PASSED
        met = True
        return fate

    return decide
