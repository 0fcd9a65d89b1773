"""What comes over a connection is an answer, whole and in its own words, or an error."""

import asyncio
import gc
import hashlib
import time

import httpx2
import pytest

from app.llm.http1 import LONGEST_HEADER, MOST_UNREAD, Body, Origin, write_beginning, write_lines
from tests.llm.http1.wire import HEAD, OK, Peer, always, ask, asked, pooled, serving, until, whole

PROBE = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
REQUEST = httpx2.Request("POST", "http://a/")
FORMS = {
    "length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "no length to speak of": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    "no words": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n{}", 200, b"{}", True),
    "chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        200,
        b"hello",
        True,
    ),
    "chunks with more than is needed": (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nstatus: 1\r\nx: y\r\n\r\n",
        200,
        b"hello",
        True,
    ),
    "until it closes": (b"HTTP/1.1 200 OK\r\n\r\nhello", 200, b"hello", False),
    "coded until it closes": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello", 200, b"hello", False),
    "100 first": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"{}", True),
    "103 twice first": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 2 + OK, 200, b"{}", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", 304, b"", True),
    "close": (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "1.0 until it closes": (b"HTTP/1.0 200 OK\r\n\r\nhello", 200, b"hello", False),
    "1.0 that would go on": (
        b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 5\r\n\r\nhello",
        200,
        b"hello",
        False,
    ),
    "error": (b"HTTP/1.1 529 Overloaded\r\ncontent-length: 2\r\nretry-after: 1\r\n\r\n{}", 529, b"{}", True),
}
HEADS = {
    "with a length": (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n", True),
    "of nothing": (b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n", True),
    "without a length": (b"HTTP/1.1 404 No\r\nserver: a\r\n\r\n", True),
    "chunked": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", True),
    "that closes": (b"HTTP/1.1 200 OK\r\nConnection: a, Close\r\n\r\n", False),
    "of 1.0": (b"HTTP/1.0 200 OK\r\n\r\n", False),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", True),
}


@pytest.mark.parametrize("dripped", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("sent", "status", "body", "kept"), FORMS.values(), ids=FORMS)
async def test_every_form_of_an_answer_is_read(
    sent: bytes, status: int, body: bytes, kept: bool, dripped: bool
) -> None:
    pieces = [sent[number : number + 1] for number in range(len(sent))] if dripped else [sent]
    async with serving(always(*pieces, close=not kept)) as server, pooled() as pool:
        for _ in range(3):
            exchange = await ask(pool, server)
            assert (exchange.status, await whole(exchange)) == (status, body)
            assert exchange.error is None

        assert len(server.peers) == (1 if kept else 3)
        assert pool.places_taken == (1 if kept else 0)


@pytest.mark.parametrize("dripped", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("sent", "kept"), HEADS.values(), ids=HEADS)
async def test_an_answer_to_head_has_no_body(sent: bytes, kept: bool, dripped: bool) -> None:
    pieces = [sent[number : number + 1] for number in range(len(sent))] if dripped else [sent]

    async def play(peer: Peer) -> None:
        while request := await peer.request():
            await peer.say(*(pieces if request.startswith(b"HEAD") else [OK]))

    async with serving(play) as server, pooled() as pool:
        for _ in range(2):
            assert await asked(pool, server, head=PROBE) == b""
            assert await asked(pool, server) == b"{}"

        assert len(server.peers) == (1 if kept else 3)


async def test_headers_are_given_as_they_came_and_no_trailers() -> None:
    sent = b"HTTP/1.1 200 OK\r\nX-A: b\r\nx-a:  c \r\nEmpty:\r\nodd: \xff\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with serving(always(sent + b"0\r\nX-Late: d\r\n\r\n")) as server, pooled() as pool:
        exchange = await ask(pool, server)

    assert exchange.headers == [
        (b"X-A", b"b"),
        (b"x-a", b"c"),
        (b"Empty", b""),
        (b"odd", b"\xff"),
        (b"Transfer-Encoding", b"chunked"),
    ]


@pytest.mark.parametrize(
    "sent",
    [
        OK + b"x",
        OK + OK,
        OK + b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n\x00",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}x",
    ],
)
async def test_what_comes_after_an_answer_ends_the_connection_and_not_the_answer(sent: bytes) -> None:
    async with serving(always(sent)) as server, pooled() as pool:
        for number in range(1, 3):
            exchange = await ask(pool, server)
            assert await whole(exchange) in {b"{}", b""}
            assert (exchange.error, pool.places_taken, len(server.peers)) == (None, 0, number)


async def test_a_body_after_an_answer_to_head_ends_the_connection() -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        exchange = await ask(pool, server, head=PROBE)

        assert (exchange.status, await whole(exchange), pool.places_taken) == (200, b"", 0)


async def test_what_nobody_asked_for_ends_an_idle_connection() -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        await asked(pool, server)
        await server.peers[0].say(OK)
        await until(lambda: pool.places_taken == 0)
        await asked(pool, server)

        assert len(server.peers) == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"no HTTP at all\r\n\r\n",
        b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: a\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nlong: " + b"x" * LONGEST_HEADER + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nlong: " + b"x" * LONGEST_HEADER + b"\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"many: x\r\n" * 10_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    ],
)
async def test_what_is_no_answer_is_a_protocol_error(sent: bytes) -> None:
    async with serving(always(sent)) as server, pooled() as pool:
        with pytest.raises(httpx2.RemoteProtocolError):
            await ask(pool, server, limits=httpx2.Timeout(2))

        assert pool.places_taken == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\nno size\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nlong: " + b"x" * 4 * LONGEST_HEADER,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"a: b\r\n" * LONGEST_HEADER,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;" + b"x" * 4 * LONGEST_HEADER,
    ],
)
async def test_a_body_that_goes_wrong_is_a_protocol_error(sent: bytes) -> None:
    async with serving(always(sent)) as server, pooled() as pool:
        with pytest.raises(httpx2.RemoteProtocolError):
            await whole(await ask(pool, server, limits=httpx2.Timeout(2)))

        assert pool.places_taken == 0


async def test_a_long_answer_has_no_long_head() -> None:
    body = b"x" * 40 * LONGEST_HEADER
    sent = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with serving(always(sent)) as server, pooled() as pool:
        for _ in range(2):
            assert await asked(pool, server) == body

        assert len(server.peers) == 1


async def test_many_small_chunks_are_no_long_head() -> None:
    piece = b"1\r\n", b"x", b"\r\n"
    count = LONGEST_HEADER // 8

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *(piece * count), b"0\r\n\r\n")

    async with serving(play) as server, pooled() as pool:
        assert await asked(pool, server) == b"x" * count


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 20",
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)
async def test_an_answer_that_is_cut_off_is_a_protocol_error(sent: bytes) -> None:
    async with serving(always(sent, close=True)) as server, pooled() as pool:
        with pytest.raises(httpx2.RemoteProtocolError):
            await asked(pool, server)

        assert pool.places_taken == 0


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\nhel"])
async def test_a_reset_is_a_read_error(sent: bytes) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(sent)
        await asyncio.sleep(0.05)
        peer.reset()

    async with serving(play) as server, pooled() as pool:
        with pytest.raises(httpx2.ReadError):
            await asked(pool, server)

        assert pool.places_taken == 0


async def test_what_came_before_a_fault_is_given_first() -> None:
    sent = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"
    async with serving(always(sent, close=True)) as server, pooled() as pool:
        body = Body(await ask(pool, server), request=REQUEST)
        assert await anext(body) == b"short"
        for _ in range(2):
            with pytest.raises(httpx2.RemoteProtocolError) as raised:
                await anext(body)
            assert raised.value.request is REQUEST


# --- limits ---------------------------------------------------------------------------------------------


async def test_the_limit_of_reading_begins_anew_with_all_that_comes() -> None:
    sent = OK[:5], OK[5:20], OK[20:-2], b"{", b"}"

    async def play(peer: Peer) -> None:
        await peer.request()
        for piece in sent:
            await asyncio.sleep(0.2)
            await peer.say(piece)

    async with serving(play) as server, pooled() as pool:
        assert await asked(pool, server, limits=httpx2.Timeout(0.5)) == b"{}"  # 1.0 s in all


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 ", OK[:-2], OK[:-1]])
async def test_nothing_more_in_time_is_a_read_timeout(sent: bytes) -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(sent)
        await asyncio.sleep(5)

    async with serving(play) as server, pooled() as pool:
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            await asked(pool, server, limits=httpx2.Timeout(0.3))

        assert 0.25 < time.monotonic() - started < 1.0
        assert pool.places_taken == 0


async def test_each_exchange_has_its_own_limit() -> None:
    async def play(peer: Peer) -> None:
        for pause_s in (0.0, 0.0, 0.4, 0.3):
            await peer.request()
            await asyncio.sleep(pause_s)
            await peer.say(OK)
        await peer.request()
        await asyncio.sleep(5)

    async with serving(play) as server, pooled() as pool:
        await asked(pool, server, limits=httpx2.Timeout(30))
        await asked(pool, server, limits=httpx2.Timeout(0.2))
        await asked(pool, server, limits=httpx2.Timeout(None))
        await asked(pool, server, limits=httpx2.Timeout(30))
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            await asked(pool, server, limits=httpx2.Timeout(0.2))

        assert time.monotonic() - started < 1.0
        assert len(server.peers) == 1


async def test_who_reads_slowly_is_not_too_late() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK[:-1])
        await asyncio.sleep(0.5)
        await peer.say(OK[-1:])

    async with serving(play) as server, pooled() as pool:
        exchange = await ask(pool, server, limits=httpx2.Timeout(0.2))
        await asyncio.sleep(0.6)

        assert await whole(exchange) == b"{}"


async def test_a_request_that_is_not_taken_in_time_is_a_write_timeout() -> None:
    async def play(peer: Peer) -> None:
        await asyncio.sleep(5)  # what nobody reads is not taken in for long

    body = b"x" * 30_000_000
    async with serving(play) as server, pooled() as pool:
        started = time.monotonic()
        with pytest.raises(httpx2.WriteTimeout):
            await ask(pool, server, limits=httpx2.Timeout(5, write=0.3), body=body)

        assert time.monotonic() - started < 2.0
        assert pool.places_taken == 0


async def test_a_large_request_is_taken_as_fast_as_the_other_side_reads() -> None:
    body = b"x" * 20_000_000

    async def play(peer: Peer) -> None:
        request = await peer.request()
        assert request is not None
        await asyncio.sleep(0.3)  # the limit of reading is another than that of writing
        await peer.say(OK if request.endswith(body) else b"no")

    head = HEAD.replace(b": 2", b": %d" % len(body))
    async with serving(play) as server, pooled() as pool:
        exchange = await ask(pool, server, limits=httpx2.Timeout(1.0, write=5.0), head=head, body=body)

        assert await whole(exchange) == b"{}"


@pytest.mark.parametrize("most_unsent", [65_536, 100_000_000])
async def test_an_answer_before_the_request_is_out_stands_and_ends_the_connection(most_unsent: int) -> None:
    """Also where so little of it is left that the transport did not ask to pause."""

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK)
        await peer.reader.readexactly(1_000)
        await peer.say(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
        await asyncio.sleep(5)

    async with serving(play) as server, pooled() as pool:
        await asked(pool, server)
        (connection,) = pool.connections
        connection._transport.set_write_buffer_limits(most_unsent)
        exchange = await ask(pool, server, body=b"x" * 30_000_000)

        assert (exchange.status, await whole(exchange), pool.places_taken) == (413, b"{}", 0)


# --- as it comes ----------------------------------------------------------------------------------------


async def test_every_piece_is_given_when_it_comes() -> None:
    read = asyncio.Queue[None]()

    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(5):
            await read.get()  # nothing is sent before all that was sent has been read
            await peer.say(b"2\r\n%d\n\r\n" % number)
        await read.get()
        await peer.say(b"0\r\n\r\n")

    async with serving(play) as server, pooled() as pool, asyncio.timeout(3):
        body = Body(await ask(pool, server), request=REQUEST)
        read.put_nowait(None)
        pieces = []
        async for piece in body:
            pieces.append(piece)
            read.put_nowait(None)

        assert pieces == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]
        assert pool.places_taken == 1


async def test_no_more_is_taken_in_than_is_read() -> None:
    piece, count, sent = b"x" * 65_536, 800, 0

    async def play(peer: Peer) -> None:
        nonlocal sent
        for _ in range(2):
            await peer.request()
            await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (len(piece) * count))
            for _ in range(count):
                await peer.say(piece)
                sent += len(piece)

    async with serving(play) as server, pooled() as pool:
        for number in range(2):
            exchange = await ask(pool, server, limits=httpx2.Timeout(1.0))
            await asyncio.sleep(0.3)
            assert exchange.unread <= MOST_UNREAD + 2 * 262_144  # what one reading of a loop gives
            assert sent - number * len(piece) * count < len(piece) * count / 2  # and what the kernel holds
            body = await whole(exchange)
            assert hashlib.sha256(body).digest() == hashlib.sha256(piece * count).digest()

        assert len(server.peers) == 1


async def test_an_answer_that_is_read_no_further_gives_its_connection_up() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
        await peer.request()

    async with serving(play) as server, pooled(max_connections=1) as pool:
        for _ in range(2):
            body = Body(await ask(pool, server), request=REQUEST)
            assert await anext(body) == b"abc"
            await body.aclose()
            await body.aclose()
            assert pool.places_taken == 0
            with pytest.raises(httpx2.ReadError):
                await anext(body)


async def test_an_answer_read_to_its_end_keeps_its_connection() -> None:
    async with serving(always(OK)) as server, pooled() as pool:
        body = Body(await ask(pool, server), request=REQUEST)
        assert [piece async for piece in body] == [b"{}"]
        await body.aclose()

        assert pool.places_taken == 1


async def test_an_answer_that_is_forgotten_loses_no_place() -> None:
    async def play(peer: Peer) -> None:
        await peer.request()
        await peer.say(OK[:-1])
        await peer.request()

    async with serving(play) as server, pooled(max_connections=1) as pool:
        Body(await ask(pool, server), request=REQUEST)
        gc.collect()
        await until(lambda: pool.places_taken == 0)
        await ask(pool, server)


# --- the way out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://gateway.test/v1", b"gateway.test"),
        ("http://gateway.test:80/v1", b"gateway.test"),
        ("https://gateway.test:443/v1", b"gateway.test"),
        ("https://gateway.test:8443/v1", b"gateway.test:8443"),
        ("http://127.0.0.1:8080/v1", b"127.0.0.1:8080"),
        ("http://[::1]:8080/v1", b"[::1]:8080"),
        ("http://[::1]/v1", b"[::1]"),
        ("http://bücher.test/v1", b"xn--bcher-kva.test"),
    ],
)
def test_the_host_is_named_as_the_address_names_it(url: str, host: bytes) -> None:
    assert write_beginning("POST", httpx2.URL(url), []) == b"POST /v1 HTTP/1.1\r\nHost: %b\r\n" % host


def test_a_host_that_is_given_stands() -> None:
    given = write_beginning("GET", httpx2.URL("http://a/b?c=d%20e"), [(b"X", b"y"), (b"hOST", b"signed")])

    assert given == b"GET /b?c=d%20e HTTP/1.1\r\nX: y\r\nhOST: signed\r\n"


def test_how_long_the_body_is_nobody_else_says() -> None:
    assert write_lines([(b"Content-Length", b"9"), (b"transfer-encoding", b"chunked"), (b"a", b"b")]) == b"a: b\r\n"


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\nc"),
        (b"a", b"b\rc"),
        (b"a", b"\x00"),
        (b"a\r\n", b"b"),
        (b"a b", b"c"),
        (b"a:", b"c"),
        (b"", b"c"),
    ],
)
def test_a_header_that_would_be_read_as_more_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(httpx2.LocalProtocolError):
        write_lines([header])
    with pytest.raises(httpx2.LocalProtocolError):
        write_beginning("POST", httpx2.URL("http://a/"), [header])


@pytest.mark.parametrize("url", ["ftp://a/", "/v1/messages", "http:///v1", "a"])
def test_an_address_without_http_is_refused(url: str) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        Origin.of(httpx2.URL(url))


async def test_a_head_without_a_body_is_sent_alone() -> None:
    heard: list[bytes | None] = []

    async def play(peer: Peer) -> None:
        heard.append(await peer.request())
        await peer.say(OK[:-2])

    async with serving(play) as server, pooled() as pool:
        await asked(pool, server, head=PROBE)

    assert heard == [PROBE]
