"""A streamed reply is judged as soon as its last number has arrived; what goes wrong later shows in the rest."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.proposal import ModelFailure, Proposal
from app.llm.decider import DeciderFailure, Reply
from app.llm.models import ReplyForm
from app.llm.reading import read_parsed
from app.llm.streaming import BrokenStreamError, EventReader, StreamedMessage
from app.llm.wire import judged_alike, parse_decision, read_early, tool_definition
from tests.llm.builders import wire_candidate, wire_decision, wire_manage
from tests.llm.routes import ask, code_of, routed, streamed_decision, target, timed
from tests.model_server import Answer, ModelServer, Script, error, event, events, message, stream, tool_call

# --- how early -----------------------------------------------------------------------------------------

HELD = wire_manage(reason="Trend broke.")
WATCHED = {"symbol": "MSFT", "trigger": "a close above 420", "target_conviction": 60}
EARLY: dict[str, tuple[dict[str, Any], str]] = {
    "one candidate": (streamed_decision(), '"conviction": 72, "thesis": "'),
    "two candidates": (
        streamed_decision(candidate_count=2, candidates=[wire_candidate(), wire_candidate(conviction=61)]),
        '"conviction": 61, "thesis": "',
    ),
    "an exit": (
        streamed_decision(mode="exit", candidate_count=0, manage=HELD, candidates=[]),
        '"new_target": null, "reason": "',
    ),
    "nothing to do": (
        streamed_decision(mode="neutral", candidate_count=0, candidates=[], notes="Quiet."),
        '"candidates": [], "notes": "',
    ),
    "something to watch": (
        streamed_decision(mode="watchlist", candidate_count=0, candidates=[], watchlist=[WATCHED], notes="Soon."),
        '"candidates": [], "notes": "',
    ),
    "the order of replies that are not streamed": (wire_decision(notes="Quiet."), '"watchlist": [], "notes": "'),
}


@pytest.mark.parametrize(("decision", "ending"), EARLY.values(), ids=EARLY.keys())
def test_a_reply_is_judged_when_only_its_last_text_is_missing(decision: dict[str, Any], ending: str) -> None:
    text = json.dumps(decision)
    early = [read_early(text[:length]) for length in range(len(text) + 1)]
    first = next(length for length, proposal in enumerate(early) if proposal is not None)

    assert text[:first].endswith(ending)
    whole = parse_decision(decision)
    assert all(judged_alike(proposal, whole) for proposal in early if proposal is not None)


OPENING = '{"mode":"trade","candidate_count":1,"watchlist":[],"manage":null,"candidates":['
NEVER: dict[str, str] = {
    "a number that may go on": OPENING + '{"conviction":7',
    "fewer candidates than announced": json.dumps(streamed_decision(candidate_count=2))[:-20],
    "a thesis before the numbers": OPENING + '{"thesis":"x',
    "a number out of range": json.dumps(streamed_decision(candidates=[wire_candidate(p_win_pct=100)]))[:-20],
    "a candidate written twice": json.dumps(streamed_decision())[:-30] + '","thesis":"again","conviction":9',
    "no object": '["notes": "',
    "nothing": "",
    "text": "Buy.",
}


@pytest.mark.parametrize("text", NEVER.values(), ids=NEVER.keys())
def test_a_reply_is_not_judged_before_it_is_certain(text: str) -> None:
    assert read_early(text) is None


@given(st.text(alphabet='{}[]":,\\thesisnotes01 ', max_size=60))
def test_no_beginning_of_any_text_fails_the_reader(text: str) -> None:
    read_early('{"mode":"neutral","notes":' + text)


def test_a_reply_that_breaks_its_announcement_is_invalid() -> None:
    reading = read_parsed(message(tool_call(streamed_decision(candidate_count=2))), reply=ReplyForm.FORCED_TOOL)

    assert isinstance(reading.outcome, DeciderFailure)
    assert reading.outcome.detail == "1 candidates where 2 were announced"


def test_only_a_streamed_tool_announces_its_candidates() -> None:
    streamed = tool_definition(strict=True, streamed=True)["input_schema"]

    assert list(streamed["properties"]) == streamed["required"]
    assert streamed["required"] == ["mode", "candidate_count", "watchlist", "manage", "candidates", "notes"]
    assert "candidate_count" not in tool_definition(strict=True)["input_schema"]["properties"]


# --- putting a message together ------------------------------------------------------------------------


@given(st.integers(1, 64))
def test_chunks_may_be_cut_anywhere(size: int) -> None:
    whole = message({"type": "text", "text": "Let me see."}, tool_call(wire_decision()))
    sent = b"".join(events(whole))
    reader, streamed = EventReader(), StreamedMessage(reply=ReplyForm.FORCED_TOOL)
    for start in range(0, len(sent), size):
        for item in reader.feed(sent[start : start + size]):
            streamed.add(item)

    assert streamed.ended
    assert streamed.message() == whole
    assert read_parsed(streamed.message(), reply=ReplyForm.FORCED_TOOL).outcome == parse_decision(wire_decision())


def test_line_ends_of_windows_and_comments_are_read() -> None:
    sent = b': keep-alive\r\n\r\nevent: ping\r\ndata: {"type":\r\ndata: "ping"}\r\n\r\n'

    assert EventReader().feed(sent) == [{"type": "ping"}]


@pytest.mark.parametrize(
    "sent",
    [
        b"data: {\n\n",
        b"data: [1]\n\n",
        event("content_block_delta", index=0, delta={}),
        event("content_block_start", index="x", content_block={}),
        event("content_block_start", index=0, content_block={"type": ["text"]}),
        event("message_start", message="text"),
        event("message_start", message={}) + event("message_start", message={}),
    ],
)
def test_what_contradicts_itself_is_broken(sent: bytes) -> None:
    def read() -> None:
        streamed = StreamedMessage(reply=ReplyForm.FORCED_TOOL)
        for item in EventReader().feed(sent):
            streamed.add(item)

    with pytest.raises(BrokenStreamError):
        read()


# --- over a socket -------------------------------------------------------------------------------------

Serve = Callable[..., Any]
WHOLE = message(tool_call(streamed_decision()))


@pytest.fixture
async def serving() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def serve(*answers: Script) -> ModelServer:
            return await stack.enter_async_context(ModelServer(*answers))

        yield serve


async def rest_of(reply: Reply) -> Reply:
    assert reply.rest is not None
    return await reply.rest


async def test_the_proposal_comes_first_and_its_thesis_and_usage_follow(serving: Serve) -> None:
    server = await serving(stream(WHOLE, first_s=0.1, last_number_s=0.3, end_s=0.9))
    async with routed(server, streamed=True) as decider:
        await rest_of(await ask(decider))
        reply, took_s = await timed(decider)
        rest = await rest_of(reply)

    assert isinstance(reply.outcome, Proposal)
    assert [candidate.thesis for candidate in reply.outcome.candidates] == [""]
    assert took_s < 0.8
    assert reply.call.estimated
    assert rest.outcome == parse_decision(streamed_decision())
    assert rest.rest is None
    assert (rest.call.output_tokens, rest.call.stop_reason, rest.call.estimated) == (92, "tool_use", False)
    assert rest.call.calls[0].latency_ms == reply.call.calls[0].latency_ms
    assert rest.call.raw_reply is not None
    assert json.loads(rest.call.raw_reply)["content"][0]["input"] == streamed_decision()
    assert server.connections == 1
    assert server.requests[0].body["stream"] is True


async def test_a_target_that_answers_in_one_piece_all_the_same_is_read(serving: Serve) -> None:
    server = await serving(Answer(body=WHOLE))
    async with routed(server, streamed=True) as decider:
        reply = await ask(decider)

    assert reply.outcome == parse_decision(streamed_decision())
    assert reply.rest is None


END_S = 0.3
"""So long the stand-in takes for what comes after the last number."""


def ending(stop_reason: str, *more: object) -> Answer:
    """A stream whose end differs from what its beginning promised."""
    return stream(message(tool_call(streamed_decision()), *more, stop_reason=stop_reason), end_s=END_S)


def cut(*more: bytes | None) -> Answer:
    """A stream that stops in its last thesis, then sends something else."""
    pieces = stream(WHOLE, end_s=END_S).pieces
    return Answer(pieces=(*pieces[: int(len(pieces) * 0.93)], *((0.05, piece) for piece in more)))


LATE_FAULTS: dict[str, tuple[Answer, ModelFailure]] = {
    "a refusal": (ending("refusal"), ModelFailure.REFUSED),
    "max_tokens": (ending("max_tokens"), ModelFailure.TRUNCATED),
    "an unknown stop reason": (ending("tired"), ModelFailure.INVALID),
    "overloaded": (cut(event("error", error=error("overloaded_error")["error"])), ModelFailure.UNAVAILABLE),
    "a reset": (cut(None), ModelFailure.UNAVAILABLE),
    "an end too soon": (cut(), ModelFailure.UNAVAILABLE),
    "no JSON": (cut(b"data: {\n\n"), ModelFailure.INVALID),
    "another tool after ours": (ending("tool_use", tool_call({"x": 1}, name="get_weather")), ModelFailure.INVALID),
}


@pytest.mark.parametrize(("answer", "code"), LATE_FAULTS.values(), ids=LATE_FAULTS.keys())
async def test_what_goes_wrong_after_the_last_number_shows_in_the_rest(
    serving: Serve, answer: Answer, code: ModelFailure
) -> None:
    server = await serving(answer, stream(WHOLE))
    async with routed(server, streamed=True, max_connections=1) as decider:
        reply = await ask(decider)
        rest = await rest_of(reply)
        healed = await ask(decider)

    assert isinstance(reply.outcome, Proposal)
    assert code_of(rest) is code
    assert isinstance(healed.outcome, Proposal)


async def test_a_reply_that_changes_after_it_was_judged_is_said_to(serving: Serve) -> None:
    text = json.dumps(streamed_decision())
    pieces = [
        (0.0, event("message_start", message={"usage": {}})),
        (0.0, event("content_block_start", index=0, content_block=tool_call({}))),
        (0.0, event("content_block_delta", index=0, delta={"partial_json": text[:-30]})),
        (0.1, event("content_block_delta", index=0, delta={"partial_json": text[-30:-1] + ', "mode": "neutral"}'})),
        (0.0, event("message_delta", delta={"stop_reason": "tool_use"})),
        (0.0, event("message_stop")),
    ]
    server = await serving(Answer(pieces=pieces))
    async with routed(server, streamed=True) as decider:
        reply = await ask(decider)
        rest = await rest_of(reply)

    assert isinstance(reply.outcome, Proposal)
    assert code_of(rest) is ModelFailure.INVALID


async def test_a_stream_that_hangs_before_its_last_number_ends_at_the_budget(serving: Serve) -> None:
    server = await serving(Answer(pieces=(*stream(WHOLE).pieces[:10], (60.0, None))))
    async with routed(server, streamed=True) as decider:
        reply, took_s = await timed(decider, budget_s=0.4)
    (call,) = reply.call.calls

    assert code_of(reply) is ModelFailure.TIMEOUT
    assert took_s < 1.5
    assert (call.input_tokens, call.cache_read_tokens) == (120, 1800)  # said at the start of the stream
    assert call.estimated
    assert call.output_tokens > 0


async def test_closing_ends_what_is_still_being_written(serving: Serve) -> None:
    server = await serving(stream(WHOLE, end_s=60))
    async with routed(server, streamed=True) as decider:
        reply = await ask(decider)
    rest = await rest_of(reply)

    assert isinstance(reply.outcome, Proposal)
    assert code_of(rest) is ModelFailure.TIMEOUT
    assert rest.call.estimated


async def test_a_rest_that_nobody_waits_for_ends_by_itself(serving: Serve) -> None:
    server = await serving(stream(WHOLE, end_s=0.2))
    async with routed(server, streamed=True) as decider:
        for _ in range(3):
            assert isinstance((await ask(decider)).outcome, Proposal)


async def test_formatted_text_is_judged_early_too(serving: Serve) -> None:
    text = {"type": "text", "text": json.dumps(streamed_decision())}
    server = await serving(
        Answer(pieces=tuple((0.01, piece) for piece in events(message(text, stop_reason="end_turn"))))
    )
    opus = target(server.base_url, model="claude-opus-5-5", streamed=True)
    async with routed(opus) as decider:
        reply = await ask(decider)
        rest = await rest_of(reply)

    assert isinstance(reply.outcome, Proposal)
    assert rest.outcome == parse_decision(streamed_decision())
    assert rest.outcome != reply.outcome
