"""The SDK's requests over our connections: on the wire, and in their errors, what they are over the SDK's client."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anthropic
import httpx2
import orjson
import pytest

from app.domain.proposal import ModelFailure
from app.llm.clients import MAX_ERROR_BYTES, Line, make_http_client
from app.llm.decider import DeciderFailure
from app.llm.http1 import PROBED_AFTER_S
from app.llm.targets import Target, TargetKind
from app.llm.transport import LeanHttpClient
from app.settings import Secret
from tests.llm.test_messages import failure_of, one_target, propose
from tests.model_server import Answer, ModelServer, error

PATIENT = httpx2.Timeout(5.0)


@asynccontextmanager
async def lean(*, max_connections: int = 10) -> AsyncIterator[LeanHttpClient]:
    client = LeanHttpClient(max_connections=max_connections, keepalive_s=60)
    try:
        yield client
    finally:
        await client.aclose()


def build(
    client: LeanHttpClient, url: str, *, timeout: httpx2.Timeout = PATIENT, body: bytes = b"{}"
) -> httpx2.Request:
    return client.build_request(
        "POST", url, content=body, headers={"content-type": "application/json"}, timeout=timeout
    )


async def test_a_request_arrives_as_the_sdk_wrote_it() -> None:
    async with ModelServer(Answer(body={"a": 1})) as server, lean() as client:
        sdk = anthropic.AsyncAnthropic(api_key="key", base_url=server.base_url, max_retries=0, http_client=client)
        answer = await sdk.post("/v1/messages", cast_to=httpx2.Response, content=b'{"asked": "\xc3\xa4"}')
        (request,) = server.requests
        address = server.base_url.removeprefix("http://")

    assert answer.json() == {"a": 1}
    assert (request.method, request.path, request.body) == ("POST", "/v1/messages", {"asked": "ä"})
    assert request.headers["authorization"] == "Bearer key"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"].startswith("AsyncAnthropic/")
    assert request.headers["host"] == address


async def test_a_redirect_is_given_back_and_not_followed() -> None:
    async with (
        ModelServer(Answer(status=307, headers={"location": "/elsewhere"}, body=b"")) as server,
        lean() as client,
    ):
        answer = await client.send(build(client, f"{server.base_url}/v1/messages"))

    assert (answer.status_code, len(server.requests)) == (307, 1)


async def test_a_cookie_is_not_brought_back() -> None:
    async with ModelServer(Answer(body={}, headers={"set-cookie": "a=b"})) as server, lean() as client:
        for _ in range(2):
            await client.send(build(client, f"{server.base_url}/v1/messages"))

    assert all("cookie" not in request.headers for request in server.requests)


async def test_a_connection_is_used_again() -> None:
    async with ModelServer(Answer(body={})) as server, lean() as client:
        for _ in range(3):
            await client.send(build(client, f"{server.base_url}/v1/messages"))

        assert server.connections == 1


async def test_a_response_closed_before_its_end_gives_its_connection_up() -> None:
    async with ModelServer(Answer(body={"text": "x" * 100}, drip_s=0.05), Answer(body={})) as server, lean() as client:
        answer = await client.send(build(client, f"{server.base_url}/v1/messages"), stream=True)
        await answer.aclose()
        answer = await client.send(build(client, f"{server.base_url}/v1/messages"))

        assert (answer.status_code, server.connections) == (200, 2)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(reset=True), httpx2.ReadError),
        (Answer(raw=b""), httpx2.RemoteProtocolError),
        (Answer(raw=b"no HTTP at all\r\n\r\n"), httpx2.RemoteProtocolError),
        (Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort"), httpx2.RemoteProtocolError),
        (Answer(body={}, delay_s=2.0), httpx2.ReadTimeout),
        (Answer(body={"text": "x" * 50}, drip_s=2.0), httpx2.ReadTimeout),
    ],
    ids=["reset", "closed", "no HTTP", "cut off", "no answer in time", "no more of it in time"],
)
async def test_a_fault_is_the_error_that_httpx2_has_for_it(answer: Answer, expected: type[Exception]) -> None:
    async with ModelServer(answer) as server, lean() as client:
        with pytest.raises(expected) as raised:
            await client.send(build(client, f"{server.base_url}/v1/messages", timeout=httpx2.Timeout(0.3)))

    assert type(raised.value) is expected


async def test_nobody_listening_is_a_connect_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with lean() as client:
            with pytest.raises(httpx2.ConnectError):
                await client.send(build(client, f"http://127.0.0.1:{bound.getsockname()[1]}/"))


async def test_a_connection_that_is_not_accepted_in_time_is_a_connect_timeout() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(0)
        address = bound.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for peer in waiting:  # until the backlog is full, so that a further connection is left waiting
            peer.setblocking(False)
            peer.connect_ex(address)
        async with lean() as client:
            with pytest.raises(httpx2.ConnectTimeout):
                await client.send(
                    build(client, f"http://127.0.0.1:{address[1]}/", timeout=httpx2.Timeout(5, connect=0.2))
                )
        for peer in waiting:
            peer.close()


async def test_no_connection_to_be_had_in_time_is_a_pool_timeout() -> None:
    async with ModelServer(Answer(body={}, delay_s=1.0)) as server, lean(max_connections=1) as client:
        url = f"{server.base_url}/v1/messages"
        first = asyncio.create_task(client.send(build(client, url)))
        await asyncio.sleep(0.1)
        with pytest.raises(httpx2.PoolTimeout):
            await client.send(build(client, url, timeout=httpx2.Timeout(5, pool=0.2)))
        await first


async def test_what_a_lean_client_cannot_send_is_refused() -> None:
    async with lean() as client:
        with pytest.raises(TypeError, match="files"):
            client.build_request("POST", "http://127.0.0.1/", files={"a": b"b"})


async def test_later_calls_are_sent_in_the_words_of_the_first_with_what_is_their_own() -> None:
    target = Target(name="a", kind=TargetKind.ANTHROPIC, model="m", key=Secret("key"))
    async with ModelServer(Answer(body={})) as server:
        line = Line(replace(target, base_url=server.base_url), max_connections=10)
        for number in range(3):
            body = b'{"number": %d}' % number
            answer = await line.send(body, headers={"traceparent": f"00-{number}"}, limits=httpx2.Timeout(5 + number))
            await answer.aread()
        await line.close()
        requests = server.requests
    first, *later = ({**request.headers} for request in requests)
    of_one_call = ("traceparent", "x-stainless-timeout", "x-stainless-read-timeout", "x-stainless-retry-count")

    assert [request.body["number"] for request in requests] == [0, 1, 2]
    assert [request.path for request in requests] == ["/v1/messages"] * 3
    assert [headers["traceparent"] for headers in (first, *later)] == ["00-0", "00-1", "00-2"]
    for headers in (first, *later):
        for name in of_one_call:
            headers.pop(name, None)
    assert later == [first, first]
    assert first["authorization"] == "Bearer key"


@pytest.mark.parametrize("calls_before", [0, 1])
async def test_a_header_that_would_be_read_as_two_is_not_sent(calls_before: int) -> None:
    async with ModelServer(Answer(body={})) as server:
        line = Line(Target(name="a", kind=TargetKind.GATEWAY, model="m", base_url=server.base_url), max_connections=1)
        for _ in range(calls_before):
            await (await line.send(b"{}", headers={}, limits=PATIENT)).aclose()
        with pytest.raises(anthropic.APIConnectionError) as raised:
            await line.send(b"{}", headers={"x-request-id": "a\r\nx-api-key: b"}, limits=PATIENT)
        await line.close()

    assert isinstance(raised.value.__cause__, httpx2.LocalProtocolError)
    assert len(server.requests) == calls_before


async def test_errors_know_their_request() -> None:
    async with ModelServer(Answer(body={"text": "x" * 50}, drip_s=2.0)) as server, lean() as client:
        request = build(client, f"{server.base_url}/v1/messages", timeout=httpx2.Timeout(0.3))
        answer = await client.send(request, stream=True)
        with pytest.raises(httpx2.ReadTimeout) as raised:
            async for _ in answer.stream:  # type: ignore[union-attr]
                pass
        await answer.aclose()

    assert raised.value.request is request
    assert answer.is_closed


async def test_a_refused_first_call_is_a_pattern_for_later_ones_too() -> None:
    refused = Answer(status=529, body=error("overloaded_error"))
    async with ModelServer(refused, refused, Answer(body={"a": 1})) as server:
        target = Target(name="a", kind=TargetKind.GATEWAY, model="m", base_url=f"{server.base_url}/deeper")
        line = Line(target, max_connections=10)
        for _ in range(2):
            with pytest.raises(anthropic.APIStatusError) as raised:
                await line.send(b"{}", headers={}, limits=PATIENT)
            assert (raised.value.status_code, raised.value.type) == (529, "overloaded_error")
        answer = await line.send(b"{}", headers={}, limits=PATIENT)
        assert orjson.loads(await answer.aread()) == {"a": 1}
        await line.close()

    assert [request.path for request in server.requests] == ["/deeper/v1/messages"] * 3


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "http_proxy", "ALL_PROXY"])
async def test_behind_a_proxy_the_sdks_own_client_is_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = make_http_client(max_connections=1)
    await client.aclose()

    assert not isinstance(client, LeanHttpClient)


async def test_an_address_that_is_not_found_in_time_is_a_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_nothing(*_: object, **__: object) -> None:
        await asyncio.sleep(3)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find_nothing)
    started = time.monotonic()
    async with lean() as client:
        with pytest.raises(httpx2.ConnectTimeout):
            await client.send(build(client, "http://gateway.test/", timeout=httpx2.Timeout(5, connect=0.2)))

    assert time.monotonic() - started < 1.0


async def test_an_idle_connection_is_probed() -> None:
    async with ModelServer(Answer(body={})) as server, lean() as client:
        answer = await client.send(build(client, f"{server.base_url}/v1/messages"), stream=True)
        await answer.aread()
        assert client._pool is not None
        [kept] = client._pool.connections
        connection = kept._transport.get_extra_info("socket")

        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == PROBED_AFTER_S


async def test_a_response_may_have_a_long_header() -> None:
    async with ModelServer(Answer(body={}, headers={"x-policy": "x" * 20_000})) as server, lean() as client:
        answer = await client.send(build(client, f"{server.base_url}/v1/messages"))

    assert len(answer.headers["x-policy"]) == 20_000


async def test_of_an_error_no_more_is_read_than_explains_it() -> None:
    sent = 0

    async def say_on(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 Answer\r\ncontent-type: application/json\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        writer.close()

    async with await asyncio.start_server(say_on, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = Target(name="a", kind=TargetKind.GATEWAY, model="m", base_url=f"http://127.0.0.1:{port}")
        line = Line(target, max_connections=1)
        for _ in range(2):  # the second finds the only connection given up
            with pytest.raises(anthropic.APIStatusError) as raised:
                async with asyncio.timeout(2):
                    await line.send(b"{}", headers={}, limits=PATIENT)

            assert (raised.value.status_code, len(raised.value.response.content)) == (500, MAX_ERROR_BYTES)
        await line.close()

    assert sent < 64 * MAX_ERROR_BYTES  # what the kernel holds of it


@contextlib.asynccontextmanager
async def certified_by_itself(folder: Path) -> AsyncIterator[tuple[str, Path, list[bytes]]]:
    """A server whose certificate nobody else has signed: its address, that certificate, and what it is sent."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl makes the certificate")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([program, "req", *made, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "localhost", 0, family=socket.AF_INET, ssl=context) as server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}", certificate, heard


async def test_a_certificate_that_nobody_vouches_for_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with certified_by_itself(tmp_path) as (base_url, certificate, heard):
        decider = one_target(base_url, kind=TargetKind.GATEWAY)
        reply = await propose(decider)
        await decider.close()

        assert failure_of(reply) == DeciderFailure(
            code=ModelFailure.UNAVAILABLE, detail="the call failed: ConnectError"
        )
        assert heard == []

        # Only whom the operator trusts makes the difference.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        decider = one_target(base_url, kind=TargetKind.GATEWAY)
        await propose(decider)
        await decider.close()

        assert len(heard) == 1
