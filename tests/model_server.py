"""Stand in for the Messages API on a real local socket: scriptable for tests, sensible by itself for demos.

    async with ModelServer(Answer(status=529), Answer(body=message(wire_decision()))) as server:
        decider = MessagesDecider(api_key="key", base_url=server.base_url)

Each request takes the next answer, and the last one repeats; an answer may be a function of the request. Without
any, `decide` proposes a trade in the first symbol of the prompt that is not held. `python -m tests.model_server
[PORT]` serves just that until it is stopped. Standard library only, so that it runs in any Python image.
"""

import argparse
import asyncio
import contextlib
import json
import re
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

PIECE = 12
"""Characters of a reply that one event of a stream holds."""
THESIS = '"thesis": "'
DATA_BLOCK = re.compile(r"<data>\n(.*)\n</data>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it came over the wire; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any

    @property
    def data(self) -> dict[str, Any]:
        """The prompt's data block."""
        match = DATA_BLOCK.search(self.body["messages"][-1]["content"])
        assert match is not None, "the prompt holds no data block"
        block: dict[str, Any] = json.loads(match[1])
        return block


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: `body` is sent as JSON (bytes as they are); `raw` replaces the whole response.

    `delay_s` passes before the first byte, `drip_s` before each `drip_bytes` of the body; `reset` breaks the
    connection instead of answering. `pieces` are sent instead of a body, each after its pause in seconds, as a stream
    of events; a piece that is None breaks the connection.
    """

    body: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_s: float = 0.0
    drip_bytes: int = 1
    raw: bytes | None = None
    reset: bool = False
    pieces: Sequence[tuple[float, bytes | None]] = ()


Script = Answer | Callable[[Request], Answer]


def tool_call(tool_input: object, *, name: object = "submit_decision") -> dict[str, Any]:
    """A tool_use block."""
    return {"type": "tool_use", "id": "toolu_01", "name": name, "input": tool_input}


def message(*content: object, **changes: object) -> dict[str, Any]:
    """A message as the API sends it, with top-level fields changed."""
    example: dict[str, Any] = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": list(content),
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 120,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1800,
            "output_tokens": 92,
        },
    }
    return example | changes


def event(kind: str, **fields: object) -> bytes:
    """A server-sent event as the API sends it."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind} | fields)}\n\n".encode()


def events(whole: Mapping[str, Any]) -> list[bytes]:
    """A message as a stream of events, its tool input or text cut into pieces."""
    usage = whole["usage"]
    start = dict(whole) | {"content": [], "stop_reason": None, "usage": usage | {"output_tokens": 1}}
    sent = [event("message_start", message=start), event("ping")]
    for index, block in enumerate(whole["content"]):
        is_call = block["type"] == "tool_use"
        text = json.dumps(block["input"]) if is_call else block["text"]
        emptied: dict[str, object] = {"input": {}} if is_call else {"text": ""}
        opening = dict(block) | emptied
        kind, field_ = ("input_json_delta", "partial_json") if is_call else ("text_delta", "text")
        pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        sent += [
            event("content_block_start", index=index, content_block=opening),
            *(event("content_block_delta", index=index, delta={"type": kind, field_: piece}) for piece in pieces),
            event("content_block_stop", index=index),
        ]
    delta = {name: whole[name] for name in ("stop_reason", "stop_sequence", "stop_details") if name in whole}
    sent += [
        event("message_delta", delta=delta, usage={"output_tokens": usage["output_tokens"]}),
        event("message_stop"),
    ]
    return sent


def stream(whole: Mapping[str, Any], *, first_s: float = 0.0, last_number_s: float = 0.0, end_s: float = 0.0) -> Answer:
    """Stream a message: its first content comes after `first_s`, its last thesis begins after `last_number_s`."""
    sent = events(whole)
    opening = next((number for number, piece in enumerate(sent) if b"content_block_delta" in piece), 0)
    written = "".join(json.loads(piece.split(b"data: ")[1]).get("delta", {}).get("partial_json", "") for piece in sent)
    thesis = written.rfind(THESIS)
    before = opening + max(0, thesis + len(THESIS) - 1) // PIECE
    times = [
        first_s + max(0, number - opening) / max(1, before - opening) * (last_number_s - first_s)
        if number <= before
        else last_number_s + (number - before) / (len(sent) - 1 - before) * (end_s - last_number_s)
        for number in range(len(sent))
    ]
    pauses = [after - earlier for earlier, after in zip([0.0, *times], times, strict=False)]
    return Answer(pieces=tuple(zip(pauses, sent, strict=True)), headers={"request-id": "req_stream"})


def error(kind: str, text: str = "told you so") -> dict[str, Any]:
    """An error body as the API sends it."""
    return {"type": "error", "error": {"type": kind, "message": text}}


def decide(request: Request) -> Answer:
    """Propose a long in the first symbol with an ATR that is not held, or nothing."""
    data = request.data
    held = {position["symbol"] for position in data["account"]["positions"]}
    free = [symbol for symbol in data["market"] if symbol["symbol"] not in held and "atr" in symbol]
    candidates = [_candidate(symbol) for symbol in free[:1]]
    decision = {
        "mode": "trade" if candidates else "neutral",
        "candidates": candidates,
        "manage": None,
        "watchlist": [],
        "notes": "Proposed by a stand-in for the Messages API.",
    }
    return Answer(body=message(tool_call(decision)), headers={"request-id": "req_stand_in"})


def _candidate(symbol: Mapping[str, Any]) -> dict[str, Any]:
    price, atr = symbol["price"], symbol["atr"]
    return {
        "symbol": symbol["symbol"],
        "direction": "long",
        "setup": "momentum",
        "entry_type": "limit",
        "entry_price": price,
        "stop_loss": round(price - 1.4 * atr, 2),
        "target_price": round(price + 3.5 * atr, 2),
        "time_stop_hours": 120,
        "p_win_pct": 45,
        "conviction": 70,
        "thesis": "A stand-in has no opinion; this tests the way from reply to ticket.",
    }


class ModelServer:
    """Serve answers on a local port while the context lasts, and record what was asked."""

    def __init__(self, *answers: Script, host: str = "127.0.0.1", port: int = 0) -> None:
        self._answers = answers or (decide,)
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._peers: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.connections = 0
        self.heads = 0
        """How often somebody only opened a connection; takes no answer."""

    @property
    def base_url(self) -> str:
        assert self._server is not None, "the server is not running"
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    def begin_again(self, *answers: Script) -> None:
        """Forget what was asked, and give these answers from now on."""
        self._answers = answers or (decide,)
        self.requests.clear()
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._peers.add(task)
        task.add_done_callback(self._peers.discard)
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while (request := await _read(reader)) is not None:
                    if request.method == "HEAD":
                        self.heads += 1
                        await _send(Answer(status=404, body=b""), writer)
                        continue
                    script = self._answers[min(len(self.requests), len(self._answers) - 1)]
                    self.requests.append(request)
                    await _send(script if isinstance(script, Answer) else script(request), writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method=method, path=path, headers=headers, body=json.loads(body) if body else None)


async def _send(answer: Answer, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(answer.delay_s)
    if answer.reset:
        # Without lingering, closing sends RST instead of FIN.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionResetError
    if answer.raw is not None:
        writer.write(answer.raw)
        await writer.drain()
        raise ConnectionResetError  # what was written may not be HTTP: the connection is of no further use
    if answer.pieces:
        await _send_pieces(answer, writer)
        return
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))} | dict(answer.headers)
    lines = [f"HTTP/1.1 {answer.status} Answer", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    if answer.drip_s:
        for start in range(0, len(body), answer.drip_bytes):
            await asyncio.sleep(answer.drip_s)
            writer.write(body[start : start + answer.drip_bytes])
            await writer.drain()
    else:
        writer.write(body)
    await writer.drain()


async def _send_pieces(answer: Answer, writer: asyncio.StreamWriter) -> None:
    headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} | dict(answer.headers)
    lines = [f"HTTP/1.1 {answer.status} Answer", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    for pause_s, piece in answer.pieces:
        if pause_s > 0:
            await writer.drain()
            await asyncio.sleep(pause_s)
        if piece is None or writer.is_closing():
            raise ConnectionResetError
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    writer.write(b"0\r\n\r\n")
    await writer.drain()


async def main() -> None:
    """Serve `decide` until stopped."""
    parser = argparse.ArgumentParser(prog="python -m tests.model_server", description=main.__doc__)
    parser.add_argument("port", nargs="?", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    arguments = parser.parse_args()
    async with ModelServer(host=arguments.host, port=arguments.port) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
