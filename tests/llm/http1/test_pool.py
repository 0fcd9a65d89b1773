"""Connections are kept, shared and given up so that none is lost, and none is used that is of no use."""

import asyncio
import random
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.llm.http1 import PROBED_AFTER_S, Connection, Origin, Pool
from tests.llm.http1.wire import HEAD, OK, PATIENT, Peer, Server, always, ask, asked, pooled, serving, until, whole
from tests.llm.test_transport import certified_by_itself


def idle(pool: Pool) -> list[Connection]:
    return [connection for kept in pool._idle.values() for connection in kept]


class Gate:
    """Answers wait behind it."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.asked = 0

    async def play(self, peer: Peer) -> None:
        while await peer.request() is not None:
            self.asked += 1
            await self.opened.wait()
            await peer.say(OK)


async def test_the_connection_used_last_is_used_first() -> None:
    gate = Gate()
    async with serving(gate.play) as server, pooled() as pool:
        calls = [asyncio.create_task(asked(pool, server)) for _ in range(3)]
        await until(lambda: gate.asked == 3)
        gate.opened.set()
        await asyncio.gather(*calls)
        last = idle(pool)[-1]
        for _ in range(3):
            await asked(pool, server)
            assert idle(pool)[-1] is last

        assert (len(server.peers), pool.places_taken) == (3, 3)


async def test_there_are_no_more_connections_than_places_and_the_first_in_line_is_first() -> None:
    gate, order = Gate(), list[int]()

    async def call(number: int) -> None:
        await asked(pool, server)
        order.append(number)

    async with serving(gate.play) as server, pooled(max_connections=2) as pool:
        calls = []
        for number in range(8):
            calls.append(asyncio.create_task(call(number)))
            await asyncio.sleep(0.01)
        await until(lambda: gate.asked == 2)
        gate.opened.set()
        await asyncio.gather(*calls)

        assert len(server.peers) == 2
        # Two connections work side by side: a call may overtake its neighbour, and no other.
        assert all(abs(number - place) <= 1 for place, number in enumerate(order))


async def test_no_place_in_time_is_a_pool_timeout_and_changes_nothing() -> None:
    gate = Gate()
    async with serving(gate.play) as server, pooled(max_connections=1) as pool:
        first = asyncio.create_task(asked(pool, server))
        await until(lambda: gate.asked == 1)
        for limits in (httpx2.Timeout(5, pool=0.1), httpx2.Timeout(5, connect=0.1)):
            started = time.monotonic()
            with pytest.raises(httpx2.PoolTimeout):
                await ask(pool, server, limits=limits)
            assert time.monotonic() - started < 1.0
        gate.opened.set()
        await first
        await asked(pool, server)

        assert len(server.peers) == 1


async def test_who_waits_no_more_is_passed_over() -> None:
    gate = Gate()
    async with serving(gate.play) as server, pooled(max_connections=1) as pool:
        first, second, third = (asyncio.create_task(asked(pool, server)) for _ in range(3))
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 2)
        second.cancel()
        gate.opened.set()

        assert await third == b"{}"
        assert await first == b"{}"
        assert (len(server.peers), pool.places_taken) == (1, 1)


async def test_what_is_handed_to_who_is_cancelled_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def give_back(connection: Connection) -> None:
        as_ever(connection)
        second.cancel()  # after it was handed over, before it is taken

    async with serving(gate.play) as server, pooled(max_connections=1) as pool:
        as_ever = pool.give_back
        monkeypatch.setattr(pool, "give_back", give_back)
        first, second, third = (asyncio.create_task(asked(pool, server)) for _ in range(3))
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 2)
        gate.opened.set()

        assert [await first, await third] == [b"{}"] * 2
        assert (second.cancelled(), len(server.peers), pool.places_taken) == (True, 1, 1)


async def test_a_place_handed_to_who_is_cancelled_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(connection: Connection) -> None:
        as_ever(connection)
        second.cancel()

    gate = Gate()
    async with serving(gate.play) as server, pooled(max_connections=1) as pool:
        as_ever = pool.forget
        monkeypatch.setattr(pool, "forget", forget)
        first, second, third = (asyncio.create_task(ask(pool, server)) for _ in range(3))
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 2)
        first.cancel()
        gate.opened.set()

        assert await whole(await third) == b"{}"
        assert (first.cancelled(), second.cancelled(), pool.places_taken) == (True, True, 1)


async def test_a_connection_that_closes_after_it_was_handed_over_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def give_back(connection: Connection) -> None:
        waiting = len(pool._waiting)
        as_ever(connection)
        if waiting == 2:
            connection.eof_received()

    async with serving(gate.play) as server, pooled(max_connections=1) as pool:
        as_ever = pool.give_back
        monkeypatch.setattr(pool, "give_back", give_back)
        calls = [asyncio.create_task(asked(pool, server)) for _ in range(3)]
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 2)
        gate.opened.set()

        assert await asyncio.gather(*calls) == [b"{}"] * 3
        assert pool.places_taken == 1


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_closed_by_the_other_side_leaves_at_once(reset: bool) -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        await asked(pool, server)
        if reset:
            server.peers[0].reset()
        else:
            server.peers[0].writer.close()
        await until(lambda: pool.places_taken == 0 and not idle(pool) and not pool.connections)

        assert await asked(pool, server) == b"{}"
        assert len(server.peers) == 2


async def test_a_connection_that_was_not_used_for_long_is_closed_without_being_asked_for() -> None:
    async with serving(always(OK)) as server, pooled(keepalive_s=0.3) as pool:
        await asked(pool, server)
        for _ in range(3):  # each use counts anew
            await asyncio.sleep(0.2)
            await asked(pool, server)
        assert (len(server.peers), pool.places_taken) == (1, 1)
        await until(lambda: pool.places_taken == 0)
        await until(lambda: server.open == 0)
        assert pool._timer is None


async def test_a_connection_that_was_not_used_for_long_is_not_handed_out() -> None:
    async with serving(always(OK)) as server, pooled(keepalive_s=0.2) as pool:
        await asked(pool, server)
        assert pool._timer is not None
        pool._timer.cancel()  # as late as a busy loop would have it
        await asyncio.sleep(0.3)
        await asked(pool, server)

        assert (len(server.peers), pool.places_taken) == (2, 1)


async def test_an_idle_connection_makes_room_for_one_to_another_origin() -> None:
    async with (
        serving(always(OK)) as one,
        serving(always(OK)) as other,
        pooled(max_connections=1) as pool,
    ):
        for server in (one, other, one):
            assert await asked(pool, server) == b"{}"

        assert pool.places_taken == 1
        assert (len(one.peers), len(other.peers)) == (2, 1)


async def test_a_connection_in_use_gives_its_place_to_who_waits_for_another_origin() -> None:
    gate = Gate()
    async with serving(gate.play) as one, serving(always(OK)) as other, pooled(max_connections=1) as pool:
        calls = [asyncio.create_task(asked(pool, server)) for server in (one, other, one)]
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 2)
        gate.opened.set()
        await asyncio.gather(*calls)

        assert (len(one.peers), len(other.peers), pool.places_taken) == (2, 1, 1)


# --- the way to a connection ----------------------------------------------------------------------------


async def test_a_connection_sends_at_once_and_is_probed() -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        await asked(pool, server)
        [connection] = idle(pool)
        made = connection._transport.get_extra_info("socket")

        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBED_AFTER_S


async def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        port = server.origin.port

        async def find(host: str, *where: Any, **what: Any) -> list[Any]:
            if host != "a.test":  # uvloop asks for addresses too
                return await as_ever(host, *where, **what)
            stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [
                (socket.AF_INET6, *stream, ("::1", port, 0, 0)),
                (socket.AF_INET, *stream, ("127.0.0.1", 1)),
                (socket.AF_INET, *stream, ("127.0.0.1", port)),
            ]

        as_ever = pool.loop.getaddrinfo
        monkeypatch.setattr(pool.loop, "getaddrinfo", find)
        exchange = await pool.exchange(Origin(tls=False, host="a.test", port=port), HEAD, b"{}", limits=PATIENT)

        assert await whole(exchange) == b"{}"


async def test_a_host_of_the_newer_kind_is_reached() -> None:
    async with serving(always(OK), host="::1") as server, pooled() as pool:
        assert await asked(pool, server) == b"{}"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70 + ".test", "a..test"])
async def test_a_host_that_is_not_found_is_a_connect_error(host: str) -> None:
    async with pooled() as pool:
        with pytest.raises(httpx2.ConnectError):
            await pool.exchange(Origin(tls=False, host=host, port=80), HEAD, b"", limits=PATIENT)

        assert pool.places_taken == 0


@pytest.mark.parametrize("ended_by", ["its limit", "who asked", "closing"])
async def test_a_handshake_that_is_not_answered_leaves_nothing(ended_by: str) -> None:
    async def play(peer: Peer) -> None:
        await peer.reader.read()

    async with serving(play) as server, pooled() as pool:
        origin = server.origin._replace(tls=True)
        limits = httpx2.Timeout(5, connect=0.3 if ended_by == "its limit" else 5)
        call = asyncio.create_task(pool.exchange(origin, HEAD, b"", limits=limits))
        await until(lambda: server.open == 1)
        if ended_by == "who asked":
            call.cancel()
        elif ended_by == "closing":
            await pool.aclose()
        expected = {
            "its limit": httpx2.ConnectTimeout,
            "who asked": asyncio.CancelledError,
            "closing": httpx2.ConnectError,
        }
        with pytest.raises(expected[ended_by]):
            async with asyncio.timeout(2):
                await call

        assert pool.places_taken == 0
        await until(lambda: server.open == 0)


async def test_a_connection_over_tls_is_kept_and_speaks_this_protocol(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with certified_by_itself(tmp_path) as (_, certificate, _):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, tmp_path / "key.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    large = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with serving(always(OK), host="localhost", tls=context) as server, pooled() as pool:
        pool._tls.set_alpn_protocols(["http/1.1"])
        for _ in range(3):
            assert await asked(pool, server) == b"{}"
        spoken = idle(pool)[0]._transport.get_extra_info("ssl_object").selected_alpn_protocol()
        assert (len(server.peers), spoken) == (1, "http/1.1")
    async with serving(always(large), host="localhost", tls=context) as server, pooled(keepalive_s=0.2) as pool:
        for _ in range(2):
            assert len(await asked(pool, server)) == 1_000_000
        assert len(server.peers) == 1
        await until(lambda: pool.places_taken == 0)
        await until(lambda: server.open == 0)


# --- the end --------------------------------------------------------------------------------------------


async def test_closing_ends_all_that_is_under_way() -> None:
    gate = Gate()

    async def play(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.say(OK[:-1])
        await gate.play(peer)

    async with serving(play) as server, pooled(max_connections=2) as pool:
        waiting_for_head = asyncio.create_task(ask(pool, server))
        await until(lambda: len(server.peers) == 1)
        exchange = await ask(pool, server)
        waiting_for_body = asyncio.create_task(whole(exchange))
        in_line = asyncio.create_task(ask(pool, server))
        await until(lambda: gate.asked == 1 and len(pool._waiting) == 1)
        await pool.aclose()
        for call, expected in (
            (waiting_for_head, httpx2.ReadError),
            (waiting_for_body, httpx2.ReadError),
            (in_line, httpx2.ConnectError),
            (asyncio.create_task(ask(pool, server)), httpx2.ConnectError),
        ):
            with pytest.raises(expected):
                await call
        assert pool.places_taken == 0


@pytest.mark.parametrize("when", ["before the head", "before the body", "in line"])
async def test_a_cancelled_call_leaves_no_connection_behind(when: str) -> None:
    gate = Gate()

    async def play(peer: Peer) -> None:
        if when == "before the body" and peer.number == 0:
            await peer.request()
            await peer.say(OK[:-1])
        await gate.play(peer)

    async with serving(play) as server, pooled(max_connections=1) as pool:
        call = asyncio.create_task(asked(pool, server))
        await until(lambda: gate.asked == 1 or (when == "before the body" and len(server.peers) == 1))
        await asyncio.sleep(0.05)
        cancelled = asyncio.create_task(asked(pool, server)) if when == "in line" else call
        await asyncio.sleep(0.05)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert pool.places_taken == (1 if when == "in line" else 0)
        gate.opened.set()

        assert await asked(pool, server) == b"{}"


async def misbehave(peer: Peer, chance: random.Random) -> None:
    """Answer in one of the ways there are, soon or late, well or badly."""
    while await peer.request() is not None:
        await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02]))
        match chance.randrange(10):
            case 0:
                return
            case 1:
                peer.reset()
                return
            case 2:
                await peer.say(OK[: chance.randrange(len(OK))])
                return
            case 3:
                await peer.say(OK + b"more")
            case 4:
                await peer.say(b"HTTP/1.1 200 OK\r\n\r\n{}")
                return
            case 5:
                await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"2\r\n{}\r\n", b"0\r\n\r\n")
            case 6:
                await peer.say(b"no HTTP")
            case 7:
                await peer.say(*(OK[number : number + 1] for number in range(len(OK))))
            case _:
                await peer.say(OK)


@pytest.mark.parametrize("seed", range(6))
async def test_after_any_storm_every_place_is_free_or_holds_a_connection_that_works(seed: int) -> None:
    chance = random.Random(seed)
    answered = failed = cancelled = 0

    async def call(server: Server, limits: httpx2.Timeout) -> None:
        nonlocal answered, failed
        try:
            exchange = await ask(pool, server, limits=limits)
            if chance.random() < 0.1:
                exchange.give_up()
                return
            assert await whole(exchange) in {b"{}", b""}
            answered += 1
        except httpx2.TransportError:
            failed += 1

    async def well_then_badly(peer: Peer) -> None:
        await misbehave(peer, chance)

    async with serving(well_then_badly) as one, serving(well_then_badly) as other, pooled(max_connections=5) as pool:
        calls: set[asyncio.Task[None]] = set()
        for _ in range(600):
            server = chance.choice([one, one, other])
            limits = httpx2.Timeout(chance.choice([0.01, 0.05, 2.0]), connect=chance.choice([0.002, 0.05, 2.0]))
            calls.add(asyncio.create_task(call(server, limits)))
            while len(calls) > 30 or chance.random() < 0.2:
                await asyncio.sleep(chance.choice([0, 0, 0, 0.001]))
                calls = {task for task in calls if not task.done()}
                if calls and chance.random() < 0.3:
                    cancelled += chance.choice(sorted(calls, key=id)).cancel()
                assert pool.places_taken <= 5
                assert not (idle(pool) and any(not waiter.done() for waiter in pool._waiting))
        for task in await asyncio.gather(*calls, return_exceptions=True):
            assert task is None or isinstance(task, asyncio.CancelledError)
        await until(lambda: len(idle(pool)) == pool.places_taken == len(pool.connections))
        assert not pool._waiting
        assert min(answered, failed, cancelled) > 20
        pool._keepalive_s = 0
        pool._close_expired()
        assert pool.places_taken == 0
