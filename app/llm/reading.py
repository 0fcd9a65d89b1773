"""Read a message of the Messages API: a proposal, or a MODEL_ code and what is wrong with it.

Nothing in a reply is believed before its type was checked: neither endpoints nor the SDK validate replies.
"""

from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.domain.making import made_quickly
from app.domain.proposal import ModelFailure, Proposal
from app.domain.text import clean_text
from app.llm.decider import DeciderFailure
from app.llm.models import ReplyForm, Usage
from app.llm.wire import TOOL_NAME, InvalidReplyError, parse_decision

MAX_COUNT: Final = 10**8
"""No call has this many tokens; a usage figure beyond it is no figure. All of a decision's fit the store together."""
DETAIL_LIMIT: Final = 200
LABEL_LIMIT: Final = 100

STOPPED_AS_ASKED: Final = frozenset({"tool_use", "end_turn"})
"""Some gateways say end_turn after the call they were forced to make; without our call it is no answer."""
TRUNCATED: Final = frozenset({"max_tokens", "model_context_window_exceeded"})


NOTHING: Final = Usage()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Hold what was understood of one reply, or of the lack of one.

    `usage` is None where the other side never said what was used though it may have used something. `spoke`: it was
    a message of the API, whatever it said, so whoever sent it is up. `retry_after_s`: it asked to be left alone that
    long. `passing`: the same call may well succeed in a moment. `stalled`: it was this process that was slow.
    """

    outcome: Proposal | DeciderFailure
    usage: Usage | None = NOTHING
    stop_reason: str | None = None
    raw_reply: str | None = None
    spoke: bool = False
    passing: bool = False
    stalled: bool = False
    retry_after_s: float | None = None


def failed(code: ModelFailure, detail: str, *, usage: Usage | None = NOTHING) -> Reading:
    """Make the reading of a failure."""
    return Reading(outcome=failure(code, detail), usage=usage)


def failure(code: ModelFailure, detail: str) -> DeciderFailure:
    """Make a failure with its detail cleaned and bounded."""
    return DeciderFailure(code=code, detail=clean_text(detail, limit=DETAIL_LIMIT))


def read_message(body: bytes, *, reply: ReplyForm = ReplyForm.FORCED_TOOL) -> Reading:
    """Read the body of a successful response: a proposal, or what is wrong with it."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return failed(ModelFailure.INVALID, "the reply is not JSON")
    if not isinstance(message, dict):
        return failed(ModelFailure.INVALID, "the reply is not a message")
    return read_parsed(message, reply=reply)


def read_parsed(message: dict[str, Any], *, reply: ReplyForm) -> Reading:
    """Read a message that is a JSON object already."""
    stop_reason = message.get("stop_reason")
    stopped = clean_text(stop_reason, limit=LABEL_LIMIT) if isinstance(stop_reason, str) else None
    return Reading(
        outcome=_outcome(message, stop_reason=stopped, reply=reply),
        usage=read_usage(message.get("usage")),
        stop_reason=stopped,
        spoke=isinstance(message.get("content"), list),
    )


def _outcome(message: dict[str, Any], *, stop_reason: str | None, reply: ReplyForm) -> Proposal | DeciderFailure:
    if stop_reason == "refusal":
        details = message.get("stop_details")
        category = details.get("category") if isinstance(details, dict) else None
        return failure(ModelFailure.REFUSED, f"the model refused: {category}")
    if stop_reason in TRUNCATED:
        return failure(ModelFailure.TRUNCATED, f"the reply was cut off: {stop_reason}")
    content = message.get("content")
    if not isinstance(content, list):
        return failure(ModelFailure.INVALID, "the reply has no content")
    blocks = [block for block in content if isinstance(block, dict)]
    try:
        decision = _tool_input(blocks) if reply is ReplyForm.FORCED_TOOL else _formatted(blocks)
        if stop_reason not in STOPPED_AS_ASKED:
            return failure(ModelFailure.INVALID, f"unexpected stop_reason {stop_reason}")
        return parse_decision(decision)
    except InvalidReplyError as error:
        return failure(ModelFailure.INVALID, str(error))


def _tool_input(blocks: list[dict[str, Any]]) -> object:
    """Give the input of the one call of our tool."""
    calls = [block for block in blocks if block.get("type") == "tool_use"]
    if [call.get("name") for call in calls] != [TOOL_NAME]:
        raise InvalidReplyError(f"expected one call of {TOOL_NAME}, found {len(calls)} tool calls")
    return calls[0].get("input")


def _formatted(blocks: list[dict[str, Any]]) -> object:
    """Give the JSON that a formatted reply's one text holds."""
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidReplyError(f"expected one formatted text, found {len(texts)}")
    try:
        return orjson.loads(texts[0])
    except orjson.JSONDecodeError:
        raise InvalidReplyError("the formatted text is not JSON") from None


def read_usage(usage: object) -> Usage:
    """Read the usage figures; what is no count counts as 0."""
    if not isinstance(usage, dict):
        return Usage()

    def count(name: str) -> int:
        value = usage.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT else 0

    return Usage(
        input=count("input_tokens"),
        output=count("output_tokens"),
        cache_read=count("cache_read_input_tokens"),
        cache_write=count("cache_creation_input_tokens"),
    )
