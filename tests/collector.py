"""Stand in for an OpenTelemetry collector on a real local socket, for spans over HTTP in protobuf."""

import asyncio
import contextlib
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

MODEL_CALL = "model call"


class Collector:
    """Take spans while the context lasts; one that is `hanging` reads what is sent and never answers."""

    def __init__(self, *, hanging: bool = False) -> None:
        self._hanging = hanging
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.Task[None]] = set()
        self.spans: list[Span] = []
        self.headers: dict[str, str] = {}
        self.bodies = b""
        """Everything that was sent, for what must not be in it."""
        self.resources: list[dict[str, str]] = []

    @property
    def base_url(self) -> str:
        assert self._server is not None, "the collector is not running"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        await self._server.wait_closed()

    def named(self, name: str) -> Span:
        """The one span of a name."""
        [found] = [span for span in self.spans if span.name == name]
        return found

    def calls(self) -> list[Span]:
        """The calls of models, in the order in which they began."""
        found = [span for span in self.spans if span.name == MODEL_CALL]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        task.add_done_callback(self._peers.discard)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._take(reader, writer)
        finally:
            writer.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        if self._hanging:
            await asyncio.Event().wait()
        assert first == "POST /v1/traces HTTP/1.1"
        assert headers["content-type"] == "application/x-protobuf"
        self.headers, self.bodies = headers, self.bodies + body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append({item.key: item.value.string_value for item in of_resource.resource.attributes})
            self.spans += (span for scope in of_resource.scope_spans for span in scope.spans)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()


def noted(span: Span) -> dict[str, Any]:
    """The attributes of a span; ours without their prefix."""
    return {item.key.removeprefix("tradeverdict."): _value(item.value) for item in span.attributes}


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
