"""nginx in front of replicas: nothing that was sent is sent twice, replicas come and go, and errors are problems."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from app.settings import Settings
from tests.deploy.local import GATEWAY, free_port, name_server, needs_nginx, nginx
from tests.faults.processes import http_client

pytestmark = needs_nginx

FIRST, SECOND, NOBODY = "127.0.0.2", "127.0.0.3", "127.0.0.4"
BOTH = (FIRST, SECOND)


class Replica:
    """Stand in for a replica: it keeps the head of each request, and answers, or hangs up instead."""

    def __init__(self, *, hangs_up: bool = False) -> None:
        self.hangs_up = hangs_up
        self.heads: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((line for line in head.split("\r\n") if line.lower().startswith("content-length:")), ":0")
        await reader.readexactly(int(length.partition(":")[2]))
        self.heads.append(head)
        if not self.hangs_up:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the latest request."""
        lines = (line.partition(": ") for line in self.heads[-1].split("\r\n")[1:])
        return {name.lower(): value for name, _, value in lines if name}


Client = httpx2.AsyncClient


@asynccontextmanager
async def front(folder: Path, replicas: dict[str, Replica], *addresses: str) -> AsyncIterator[Client]:
    """A client of an nginx that knows these addresses, at which these replicas listen, if any does."""
    port = free_port(FIRST)
    servers = [await asyncio.start_server(replica.serve, host, port) for host, replica in replicas.items()]
    try:
        async with (
            name_server(*addresses) as names,
            nginx(folder, names=names, replica_port=port) as address,
            httpx2.AsyncClient(base_url=address, timeout=10, trust_env=False) as client,
        ):
            yield client
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


def problem(answer: httpx2.Response) -> tuple[int, str]:
    """The status and code of a problem document that holds together."""
    document = json.loads(answer.content)
    assert answer.headers["content-type"] == "application/problem+json"
    assert document.keys() == {"type", "title", "status", "code", "detail", "instance"}
    assert (document["status"], document["type"]) == (
        answer.status_code,
        f"urn:tradeverdict:error:{document['code']}",
    )
    return document["status"], document["code"]


async def test_requests_are_shared_out_and_say_who_asked(tmp_path: Path) -> None:
    replicas = {FIRST: Replica(), SECOND: Replica()}
    async with front(tmp_path, replicas, *BOTH) as client:
        for number in range(24):
            headers = {"X-Request-ID": f"r-{number}", "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"}
            assert (await client.post("/decide", content=b"{}", headers=headers)).status_code == 200
        seen = [len(replica.heads) for replica in replicas.values()]
        sent = replicas[FIRST].headers
        await client.post("/decide", content=b"{}")
        unnamed = next(replica.headers for replica in replicas.values() if len(replica.heads) not in seen)
        host = client.base_url.netloc.decode()

    assert sum(seen) == 24
    assert min(seen) > 0
    assert sent["x-request-id"].startswith("r-")
    assert (sent["x-forwarded-for"], sent["x-forwarded-proto"]) == ("127.0.0.1", "https")
    assert sent["host"] == sent["x-forwarded-host"] == host
    assert (unnamed["x-forwarded-proto"], len(unnamed["x-request-id"])) == ("http", 32)


async def test_behind_another_server_of_this_machine_the_caller_is_who_that_one_saw(tmp_path: Path) -> None:
    replica = Replica()
    async with front(tmp_path, {FIRST: replica}, FIRST) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port, local_addr=(GATEWAY, 0))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 6.6.6.6, 9.9.9.9\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()

    assert replica.headers["x-forwarded-for"] == "9.9.9.9"


async def test_a_long_table_waits_for_its_reader_and_one_that_breaks_off_is_cut(tmp_path: Path) -> None:
    piece, most, sent = b"8000\r\n" + b"x" * 0x8000 + b"\r\n", 2048, 0

    async def export(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(most):
            writer.write(piece)
            await writer.drain()
            sent += 1
        # No last chunk: the table broke off.
        writer.close()

    port = free_port(FIRST)
    server = await asyncio.start_server(export, FIRST, port)
    async with (
        server,
        name_server(FIRST) as names,
        nginx(tmp_path, names=names, replica_port=port) as address,
        httpx2.AsyncClient(timeout=10, trust_env=False) as client,
        client.stream("GET", f"{address}/decisions/export") as answer,
    ):
        before = -1
        while before < sent:
            before = sent
            await asyncio.sleep(0.3)
        waiting, kept = sent, sum(file.stat().st_size for file in (tmp_path / "proxy").rglob("*") if file.is_file())
        with pytest.raises(httpx2.RemoteProtocolError):
            async for _ in answer.aiter_raw():
                pass

    assert (waiting < most, kept, sent) == (True, 0, most)


async def test_a_replica_that_refuses_connections_costs_no_request(tmp_path: Path) -> None:
    second = Replica()
    async with front(tmp_path, {SECOND: second}, *BOTH) as client:
        answers = [(await client.post("/decide", content=b"{}")).status_code for _ in range(20)]

    assert answers == [200] * 20
    assert len(second.heads) == 20


async def test_a_request_that_a_replica_took_is_not_given_to_another(tmp_path: Path) -> None:
    first, second = Replica(hangs_up=True), Replica()
    async with front(tmp_path, {FIRST: first, SECOND: second}, *BOTH) as client:
        answers = [await client.post("/decide", content=b"{}", headers={"X-Request-ID": "r-7"}) for _ in range(20)]
    lost = [answer for answer in answers if answer.status_code != 200]

    assert len(first.heads) == len(lost) > 0
    assert len(first.heads) + len(second.heads) == 20
    assert {problem(answer) for answer in lost} == {(502, "REPLICA_UNREACHABLE")}
    assert {(answer.headers["retry-after"], answer.json()["instance"]) for answer in lost} == {("1", "r-7")}


async def test_without_any_replica_the_caller_is_told_to_ask_again(tmp_path: Path) -> None:
    async with front(tmp_path, {}, NOBODY) as client:
        answer = await client.post("/decide", content=b"{}", headers={"X-Request-ID": 'a"b'})

    assert problem(answer) == (502, "REPLICA_UNREACHABLE")
    assert answer.headers["retry-after"] == "1"


async def test_a_replica_that_comes_later_is_found(tmp_path: Path) -> None:
    late, port = Replica(), free_port(FIRST)
    server = await asyncio.start_server(late.serve, FIRST, port)
    try:
        async with (
            name_server(NOBODY) as names,
            nginx(tmp_path, names=names, replica_port=port) as address,
            http_client() as client,
        ):
            before = (await client.post(f"{address}/decide", content=b"{}")).status_code
            names.addresses = (FIRST,)
            async with asyncio.timeout(8):
                while (await client.post(f"{address}/decide", content=b"{}")).status_code != 200:
                    await asyncio.sleep(0.2)
    finally:
        server.close()
        await server.wait_closed()

    assert before == 502


async def test_figures_are_hidden_and_large_bodies_refused_as_the_service_refuses_them(tmp_path: Path) -> None:
    replica, most = Replica(), Settings().max_body_bytes
    async with front(tmp_path, {FIRST: replica}, FIRST) as client:
        hidden = await client.get("/metrics")
        largest = await client.post("/decide", content=b" " * most)
        too_large = await client.post("/decide", content=b" " * (most + 1))

    assert problem(hidden) == (404, "NOT_FOUND")
    assert largest.status_code == 200
    assert problem(too_large) == (413, "BODY_TOO_LARGE")
    assert len(replica.heads) == 1


@pytest.mark.parametrize(
    "path", ["/metrics/", "//metrics", "/%6detrics", "/./metrics", "/x/../metrics", "/metrics?a=1"]
)
async def test_no_other_way_of_writing_it_shows_the_figures(tmp_path: Path, path: str) -> None:
    replica = Replica()
    async with front(tmp_path, {FIRST: replica}, FIRST) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()

    asked = [head.split(" ")[1] for head in replica.heads]
    assert "404" in answer.split("\r\n")[0] or asked == ["/metrics/"], answer
