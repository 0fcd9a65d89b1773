"""Put a streamed message together from server-sent events; nothing in them is believed before it was checked.

What comes out at the end is a message as it would have come in one piece, so one reader judges both. In between,
`early` gives the proposal as soon as only texts are missing.
"""

from typing import Any, Final

import orjson

from app.domain.proposal import Proposal
from app.llm.models import ReplyForm, Usage
from app.llm.reading import read_usage
from app.llm.wire import TOOL_NAME, read_early

EVENT_STREAM: Final = "text/event-stream"
MAX_BLOCKS: Final = 64


class BrokenStreamError(ValueError):
    """Say in one line what is wrong with a stream."""


class EventReader:
    """Cut a stream of bytes into the JSON objects of its events, whatever the chunks."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """Return the events that this chunk completes.

        Raises:
            BrokenStreamError: an event holds no JSON object.
        """
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events: list[dict[str, Any]] = []
        for line in lines:
            content = line.rstrip(b"\r")
            if content.startswith(b"data:"):
                self._data.append(content[5:])
            elif not content and self._data:
                events.append(_event(b"\n".join(self._data)))
                self._data = []
        return events


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BrokenStreamError("an event is not JSON") from None
    if not isinstance(event, dict):
        raise BrokenStreamError("an event is not an object")
    return event


class StreamedMessage:
    """Collect one message; `begun` once any of its content has arrived, `ended` once its end has."""

    def __init__(self, *, reply: ReplyForm) -> None:
        self._reply = reply
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._written: dict[int, list[str]] = {}
        self._usage: dict[str, Any] = {}
        self.begun = False
        self.ended = False
        self.error: tuple[str, ...] | None = None

    def add(self, event: dict[str, Any]) -> None:
        """Take in one event; kinds that nobody knows are left out, as the API asks of its readers.

        Raises:
            BrokenStreamError: the event contradicts the ones before.
        """
        kind = event.get("type")
        if kind == "message_start":
            self._start(event.get("message"))
        elif kind == "content_block_start":
            self._open(event.get("index"), event.get("content_block"))
        elif kind == "content_block_delta":
            self._write(event.get("index"), event.get("delta"))
        elif kind == "message_delta":
            self._change(event)
        elif kind == "message_stop":
            self.ended = True
        elif kind == "error":
            said = event.get("error")
            parts = (said.get("type"), said.get("message")) if isinstance(said, dict) else ()
            self.error = tuple(part for part in parts if isinstance(part, str))

    @property
    def usage(self) -> Usage | None:
        """Give what the message has said so far of its tokens; None before it said anything."""
        return read_usage(self._usage) if self._message else None

    @property
    def written(self) -> int:
        """Count the characters written."""
        return sum(len(part) for parts in self._written.values() for part in parts)

    def early(self) -> Proposal | None:
        """Give the proposal if only texts are missing and nothing so far speaks against the reply."""
        if self.error is not None or "stop_reason" in self._message:
            return None
        kind = "tool_use" if self._reply is ReplyForm.FORCED_TOOL else "text"
        answers = [index for index, block in self._blocks.items() if block["type"] == kind]
        if len(answers) != 1 or answers[0] != max(self._blocks):
            return None
        (index,) = answers
        if kind == "tool_use" and self._blocks[index].get("name") != TOOL_NAME:
            return None
        return read_early("".join(self._written[index]))

    def message(self) -> dict[str, Any]:
        """Give the message as far as it has come, as the API would send it in one piece."""
        return self._message | {
            "content": [self._whole(index) for index in sorted(self._blocks)],
            "usage": self._usage,
        }

    def _start(self, message: object) -> None:
        if not isinstance(message, dict) or self._message:
            raise BrokenStreamError("a message that is none, or a second one")
        self._message = {name: value for name, value in message.items() if name != "stop_reason"}
        self._message["type"] = "message"
        self._add_usage(message.get("usage"))

    def _open(self, index: object, block: object) -> None:
        if not isinstance(index, int) or not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise BrokenStreamError("a block that is none")
        if index in self._blocks or len(self._blocks) == MAX_BLOCKS:
            raise BrokenStreamError("a block twice, or too many")
        self._blocks[index] = block
        text = block.get("text")
        self._written[index] = [text] if isinstance(text, str) else []

    def _write(self, index: object, delta: object) -> None:
        if not isinstance(index, int) or index not in self._blocks or not isinstance(delta, dict):
            raise BrokenStreamError("a piece of no block")
        piece = delta.get({"tool_use": "partial_json", "text": "text"}.get(self._blocks[index]["type"], ""))
        if isinstance(piece, str) and piece:
            self.begun = True
            self._written[index].append(piece)

    def _change(self, event: dict[str, Any]) -> None:
        delta = event.get("delta")
        if isinstance(delta, dict):
            self._message |= delta
        self._add_usage(event.get("usage"))

    def _add_usage(self, usage: object) -> None:
        """Let later figures replace earlier ones: those of the end are cumulative, and may leave some out."""
        if isinstance(usage, dict):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _whole(self, index: int) -> dict[str, Any]:
        block, text = self._blocks[index], "".join(self._written[index])
        if block["type"] == "tool_use":
            return block | {"input": _json_or_text(text) if text else block.get("input")}
        return block | {"text": text} if block["type"] == "text" else block


def _json_or_text(text: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # the reader will say that it is no input
