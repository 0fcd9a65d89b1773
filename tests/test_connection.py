"""An answer leaves in one piece, and nothing that is written waits for what may never come."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.cli import connection
from app.cli.connection import JoiningTransport, PromptProtocol

SOON_S = 0.3


class FakeTransport(asyncio.Transport):
    """Note what is sent, piece by piece, and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append(b"closed")

    def abort(self) -> None:
        self.sent.append(b"aborted")


async def test_head_and_body_leave_in_one_piece_at_once() -> None:
    inner = FakeTransport()
    transport = JoiningTransport(inner, loop=asyncio.get_running_loop())

    transport.write(b"head ")
    transport.write(b"body")

    assert inner.sent == [b"head body"]
    await asyncio.sleep(0)
    assert inner.sent == [b"head body"]


async def test_what_is_no_bytes_but_holds_them_is_joined_too() -> None:
    inner = FakeTransport()
    transport = JoiningTransport(inner, loop=asyncio.get_running_loop())

    transport.write(memoryview(b"first, "))
    transport.write(memoryview(b"second"))

    assert inner.sent == [b"first, second"]


async def test_what_nothing_follows_leaves_with_the_next_step_of_the_loop() -> None:
    inner = FakeTransport()
    transport = JoiningTransport(inner, loop=asyncio.get_running_loop())

    for piece in (b"head ", b"first, ", b"second"):
        transport.write(piece)
    await asyncio.sleep(0)

    assert inner.sent == [b"head first, ", b"second"]


async def test_a_connection_is_closed_after_what_was_written() -> None:
    inner = FakeTransport()
    transport = JoiningTransport(inner, loop=asyncio.get_running_loop())

    transport.write(b"last")
    transport.close()
    await asyncio.sleep(0)

    assert inner.sent == [b"last", b"closed"]


async def test_nothing_is_sent_any_more_over_a_connection_that_is_cut() -> None:
    inner = FakeTransport()
    transport = JoiningTransport(inner, loop=asyncio.get_running_loop())

    transport.write(b"late")
    transport.abort()
    await asyncio.sleep(0)

    assert inner.sent == [b"aborted"]


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer at once, whatever is still to come of the body."""
    await Response(b"no", status_code=401)(scope, receive, send)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server on a free port, whose port is given."""
    server = uvicorn.Server(
        uvicorn.Config(refuse, port=0, http=PromptProtocol, ws="none", lifespan="off", log_config=None)
    )
    running = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize(
    ("asked", "sent_after"),
    [
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"\r\n"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n", b"x"),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", b"GET / HT"),
    ],
    ids=["an empty line", "more of a body that nobody reads", "a part of the next headers"],
)
async def test_what_comes_after_an_answer_does_not_keep_a_connection(
    monkeypatch: pytest.MonkeyPatch, asked: bytes, sent_after: bytes
) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", SOON_S)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(asked)
        assert (await reader.readuntil(b"no")).startswith(b"HTTP/1.1 401")
        started = time.monotonic()
        async with asyncio.timeout(10 * SOON_S):
            with contextlib.suppress(ConnectionError):
                writer.write(sent_after)
                await reader.read()
        waited_s = time.monotonic() - started
        writer.close()

    assert waited_s >= 0.9 * SOON_S


async def test_a_request_in_time_after_an_empty_line_is_answered_and_keeps_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", SOON_S)
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            await reader.readuntil(b"no")
            await asyncio.sleep(1.5 * SOON_S)
            writer.write(b"\r\n")
        writer.close()
