"""Stand in for the Messages API as fast as one core allows: every request is answered at once, with one tool call.

    .venv/bin/python bench/upstream.py [PORT]

It proposes to buy, near 125.40, the first symbol of the request that looks like `QAABC`. Nothing of a request is parsed
but its length; a reply is one prepared text with five letters exchanged.
"""

import asyncio
import re
import sys
from typing import cast

import orjson
import uvloop

MARKER = "QAAAA"
SYMBOL = re.compile(rb"\bQ[A-Z]{4}\b")
INPUT = {
    "mode": "trade",
    "candidates": [
        {
            "symbol": MARKER,
            "direction": "long",
            "setup": "momentum",
            "entry_type": "limit",
            "entry_price": 125.4,
            "stop_loss": 119.8,
            "target_price": 139.0,
            "time_stop_hours": 120,
            "p_win_pct": 50,
            "conviction": 78,
            "thesis": "Higher lows on rising volume above averages that rise, and the news agrees.",
        }
    ],
    "manage": None,
    "watchlist": [],
    "notes": "",
}
MESSAGE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-5-5",
    "content": [{"type": "tool_use", "id": "toolu_01", "name": "submit_decision", "input": INPUT}],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 120,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 1800,
        "output_tokens": 92,
        "service_tier": "standard",
    },
}
BODY = orjson.dumps(MESSAGE)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_011\r\ncontent-length: %d\r\n\r\n"
BEFORE, AFTER = (HEAD % len(BODY) + BODY).split(MARKER.encode())
PROBED = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
LENGTH = re.compile(rb"\ncontent-length: *(\d+)", re.IGNORECASE)


class Peer(asyncio.Protocol):
    """Answer one connection's requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = bytearray()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        while (end := received.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(received, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(received) < whole:
                return
            if received.startswith(b"HEAD"):
                self._transport.write(PROBED)
            else:
                symbol = SYMBOL.search(received, end, whole)
                self._transport.write(BEFORE + (symbol[0] if symbol else MARKER.encode()) + AFTER)
            del received[:whole]


async def main() -> None:
    """Serve until stopped, and say where."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
