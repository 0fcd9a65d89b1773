"""An answer leaves in one piece, and nothing that is written waits for what may never come."""

import asyncio
from collections.abc import Iterable
from typing import Any

from app.cli.connection import JoiningTransport


class FakeTransport(asyncio.Transport):
    """Note what is sent, piece by piece, and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.sent.append(b"".join(list_of_data))

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
