"""Tests of the Messages client over a real local socket: every reply and fault ends as a proposal or a code."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.domain.policy import Policy
from app.domain.proposal import Mode, ModelFailure, Proposal
from app.llm.decider import DeciderFailure, Reply
from app.llm.messages import MAX_RAW_CHARACTERS, MessagesDecider
from app.llm.models import ModelPrice, Usage, model_traits
from app.llm.prompt import build_prompt
from app.llm.targets import Target, TargetError, TargetKind, chosen
from app.llm.wire import FORMAT_NOTE, TOOL_NAME, decision_schema, parse_decision, tool_definition
from app.settings import Secret
from tests.llm.builders import account, bounds, nvda, view, wire_candidate, wire_decision
from tests.model_server import Answer, ModelServer, Script, decide, error, message, tool_call

KEY = "sk-test-1234567890"
ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "data" / "messages_api_replies.json"

Ask = Callable[..., Awaitable[tuple[Reply, ModelServer]]]


def one_target(base_url: str | None = None, *, max_connections: int = 100, **fields: Any) -> MessagesDecider:
    """A decider over one target, by default as the ANTHROPIC_ settings make it."""
    example: dict[str, Any] = {
        "name": "anthropic",
        "kind": TargetKind.ANTHROPIC,
        "model": "claude-haiku-5-5",
        "key": Secret(KEY),
        "base_url": base_url,
    }
    target = chosen(**(example | fields), own=False, may_stream=False, given={})
    return MessagesDecider(target, max_connections=max_connections)


async def propose(decider: MessagesDecider, *, budget_s: float = 5.0) -> Reply:
    """Ask a decider about the rulebook's example."""
    market, of, policy = view(), account(), Policy()
    prompt = build_prompt(policy=policy, market=market, account=of, bounds=bounds())
    return await decider.propose(prompt=prompt, market=market, account=of, policy=policy, budget_s=budget_s)


@pytest.fixture(params=["first call", "later call"])
async def ask(request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    """Start a server with some answers, ask it once, and give the reply and the server, which keeps running.

    What the SDK writes for the first call of a target is sent again for later ones, so everything is asked of both.
    """
    async with AsyncExitStack() as stack:

        async def run(*answers: Script, budget_s: float = 5.0, **options: Any) -> tuple[Reply, ModelServer]:
            server = await stack.enter_async_context(ModelServer(*answers))
            decider = one_target(server.base_url, **options)
            stack.push_async_callback(decider.close)
            if request.param == "later call":
                server.begin_again(Answer(body=b"no message"))
                await propose(decider)
                server.begin_again(*answers)
            return await propose(decider, budget_s=budget_s), server

        yield run


def failure_of(reply: Reply) -> DeciderFailure:
    """The failure of a reply that must have failed."""
    assert isinstance(reply.outcome, DeciderFailure)
    return reply.outcome


# --- what is asked -------------------------------------------------------------------------------------


async def test_a_tool_call_becomes_the_proposal_and_the_call_is_accounted_for(ask: Ask) -> None:
    body = message(tool_call(wire_decision()))
    reply, _ = await ask(Answer(body=body, headers={"request-id": "req_011"}))
    call = reply.call

    assert reply.outcome == parse_decision(wire_decision())
    assert (call.name, call.model) == ("anthropic", "claude-haiku-5-5")
    assert (call.input_tokens, call.output_tokens, call.cache_read_tokens, call.cache_write_tokens) == (
        120,
        92,
        1800,
        0,
    )
    # 120 x $0.10 + 92 x $0.50 + 1800 x $0.01 = 12 + 46 + 18 = 76 millionths of a dollar
    assert call.cost_usd == Decimal("0.000076")
    assert call.priced
    assert (call.request_id, call.stop_reason) == ("req_011", "tool_use")
    assert call.raw_reply == json.dumps(body)
    assert (call.attempts, call.hedged) == (1, False)


async def test_the_request_forces_one_call_of_the_strict_tool_and_caches_the_static_part(ask: Ask) -> None:
    _, server = await ask(Answer(body=message(tool_call(wire_decision()))))
    (request,) = server.requests
    body = request.body

    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert body["model"] == "claude-haiku-5-5"
    assert body["tools"] == [tool_definition(strict=True)]
    assert next(iter(body["tools"][0]["input_schema"]["properties"])) == "mode"
    assert body["tool_choice"] == {"type": "tool", "name": TOOL_NAME, "disable_parallel_tool_use": True}
    assert body["thinking"] == {"type": "disabled"}
    assert body["max_tokens"] == 1024
    assert [block["cache_control"] for block in body["system"]] == [{"type": "ephemeral"}]
    assert [block["role"] for block in body["messages"]] == ["user"]
    assert body.keys() == {"model", "tools", "tool_choice", "thinking", "max_tokens", "system", "messages"}


async def test_the_tool_is_plain_where_the_endpoint_knows_no_strict_tools(ask: Ask) -> None:
    _, server = await ask(Answer(body=message(tool_call(wire_decision()))), strict=False)

    assert server.requests[0].body["tools"] == [tool_definition(strict=False)]


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("claude-haiku-5-5", {"type": "disabled"}),
        ("claude-sonnet-5", {"type": "disabled"}),
        ("anthropic.claude-opus-5-20260801-v1:0", {"type": "disabled"}),
        ("claude-haiku-4-5-20251001", None),
        ("qwen3-coder", None),
    ],
)
async def test_thinking_is_disabled_only_where_it_is_on_and_may_be(ask: Ask, model: str, thinking: object) -> None:
    reply, server = await ask(Answer(body=message(tool_call(wire_decision()))), model=model)

    assert server.requests[0].body.get("thinking") == thinking
    assert reply.call.model == model


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-opus-5-5", "eu.anthropic.claude-fable-5-1-v1:0"])
async def test_a_model_that_refuses_a_forced_tool_is_asked_for_formatted_text(ask: Ask, model: str) -> None:
    text = {"type": "text", "text": json.dumps(wire_decision())}
    thought = {"type": "thinking", "thinking": "", "signature": "x"}
    reply, server = await ask(Answer(body=message(thought, text, stop_reason="end_turn")), model=model)
    body = server.requests[0].body

    assert reply.outcome == parse_decision(wire_decision())
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": decision_schema(strict=True)}
    assert body["output_config"]["effort"] == "low"
    assert body.keys().isdisjoint({"tools", "tool_choice"})
    assert body["system"][-1] == {"type": "text", "text": FORMAT_NOTE, "cache_control": {"type": "ephemeral"}}
    assert body.get("thinking") in (None, {"type": "between_tools"})


@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-opus-5-5", "eu.anthropic.claude-fable-5-1-v1:0"])
def test_a_forced_tool_of_a_model_that_refuses_it_stops_the_start(model: str) -> None:
    with pytest.raises(TargetError, match="refuses a forced tool"):
        Target(name="x", kind=TargetKind.ANTHROPIC, key=Secret(KEY), model=model)


@pytest.mark.parametrize("key", ["", "schlüssel", "two\nlines"])
def test_a_key_that_no_header_can_hold_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(TargetError, match="must be printable ASCII"):
        one_target(key=Secret(key))


async def test_connections_are_reused(ask: Ask) -> None:
    async with ModelServer() as server:
        decider = one_target(server.base_url)
        for _ in range(3):
            assert isinstance((await propose(decider)).outcome, Proposal)
        await decider.close()

    assert len(server.requests) == 3
    assert server.connections == 1


def test_the_sdk_is_not_imported_before_a_decider_is_made() -> None:
    code = "import sys, app.llm.messages, app.llm.rules; sys.exit('anthropic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what comes back -----------------------------------------------------------------------------------

GOOD = tool_call(wire_decision())
OUT_OF_RANGE = tool_call(wire_decision(candidates=[wire_candidate(p_win_pct=100)]))
UPPER_CASE = tool_call(wire_decision(mode="TRADE", candidates=[wire_candidate(direction="Long", setup="MOMENTUM")]))
TEXT = {"type": "text", "text": '{"mode": "neutral"}'}
HTML = {"content-type": "text/html"}

READABLE = {
    "text before the call": message(TEXT, GOOD),
    "unknown blocks beside the call": message({"type": "thinking_v9", "odd": [1]}, GOOD),
    "enums in another letter case": message(UPPER_CASE),
    "end_turn after the forced call, as some gateways say": message(GOOD, stop_reason="end_turn"),
    "no usage": message(GOOD, usage=None),
    "usage of the wrong types": message(GOOD, usage={"input_tokens": "many", "output_tokens": -1, "x": True}),
    "a usage figure that no call has": message(GOOD, usage={"input_tokens": 10**18}),
}


@pytest.mark.parametrize("body", READABLE.values(), ids=READABLE.keys())
async def test_a_valid_call_is_read_whatever_surrounds_it(ask: Ask, body: object) -> None:
    reply, _ = await ask(Answer(body=body))

    assert reply.outcome == parse_decision(wire_decision())
    assert 0 <= reply.call.input_tokens <= 120


UNREADABLE: dict[str, tuple[ModelFailure, str, Answer]] = {
    "text instead of the call": (
        ModelFailure.INVALID,
        "found 0 tool calls",
        Answer(body=message(TEXT, stop_reason="end_turn")),
    ),
    "a stop sequence": (
        ModelFailure.INVALID,
        "found 0 tool calls",
        Answer(body=message(TEXT, stop_reason="stop_sequence")),
    ),
    "another tool": (
        ModelFailure.INVALID,
        "expected one call of submit_decision",
        Answer(body=message(tool_call(wire_decision(), name="get_weather"))),
    ),
    "another tool beside ours": (
        ModelFailure.INVALID,
        "found 2 tool calls",
        Answer(body=message(GOOD, tool_call({}, name="get_weather"))),
    ),
    "two calls": (ModelFailure.INVALID, "found 2 tool calls", Answer(body=message(GOOD, GOOD))),
    "a tool name of the wrong type": (
        ModelFailure.INVALID,
        "found 1 tool calls",
        Answer(body=message(tool_call({}, name=["x"]))),
    ),
    "empty content": (ModelFailure.INVALID, "found 0 tool calls", Answer(body=message())),
    "content of the wrong type": (ModelFailure.INVALID, "no content", Answer(body=message(content="text"))),
    "blocks of the wrong type": (ModelFailure.INVALID, "found 0 tool calls", Answer(body=message("text", 7, None))),
    "no stop reason": (ModelFailure.INVALID, "stop_reason None", Answer(body=message(GOOD, stop_reason=None))),
    "an unknown stop reason": (
        ModelFailure.INVALID,
        "stop_reason tired",
        Answer(body=message(GOOD, stop_reason="tired")),
    ),
    "a stop reason of the wrong type": (
        ModelFailure.INVALID,
        "stop_reason None",
        Answer(body=message(GOOD, stop_reason=["tool_use"])),
    ),
    "pause_turn": (
        ModelFailure.INVALID,
        "stop_reason pause_turn",
        Answer(body=message(GOOD, stop_reason="pause_turn")),
    ),
    "input that is text": (
        ModelFailure.INVALID,
        "valid dictionary",
        Answer(body=message(tool_call(json.dumps(wire_decision())))),
    ),
    "input that is empty": (ModelFailure.INVALID, "mode: Field required", Answer(body=message(tool_call({})))),
    "a number out of range": (ModelFailure.INVALID, "p_win_pct", Answer(body=message(OUT_OF_RANGE))),
    "a trade without candidates": (
        ModelFailure.INVALID,
        "mode trade without candidates",
        Answer(body=message(tool_call(wire_decision(candidates=[])))),
    ),
    "NaN": (
        ModelFailure.INVALID,
        "not JSON",
        Answer(body=message(tool_call(wire_decision(candidates=[wire_candidate(stop_loss=float("nan"))])))),
    ),
    "an empty object": (ModelFailure.INVALID, "no content", Answer(body={})),
    "a list": (ModelFailure.INVALID, "not a message", Answer(body=[message(GOOD)])),
    "an error with status 200": (ModelFailure.INVALID, "no content", Answer(body=error("overloaded_error"))),
    "HTML with status 200": (ModelFailure.INVALID, "not JSON", Answer(body=b"<html>Welcome</html>", headers=HTML)),
    "broken JSON": (ModelFailure.INVALID, "not JSON", Answer(body=json.dumps(message(GOOD)).encode()[:-9])),
    "no body": (ModelFailure.INVALID, "not JSON", Answer(body=b"")),
    "bytes that are no text": (ModelFailure.INVALID, "not JSON", Answer(body=b"\xff\x00\xfe")),
    "very deep JSON": (ModelFailure.INVALID, "not JSON", Answer(body=b"[" * 200_000)),
    "a refusal": (
        ModelFailure.REFUSED,
        "the model refused: cyber",
        Answer(body=message(stop_reason="refusal", stop_details={"category": "cyber"})),
    ),
    "a refusal without category": (
        ModelFailure.REFUSED,
        "refused",
        Answer(body=message(stop_reason="refusal", stop_details=7)),
    ),
    "a refusal beside a call": (ModelFailure.REFUSED, "refused", Answer(body=message(GOOD, stop_reason="refusal"))),
    "max_tokens": (ModelFailure.TRUNCATED, "cut off: max_tokens", Answer(body=message(stop_reason="max_tokens"))),
    "max_tokens beside a call": (
        ModelFailure.TRUNCATED,
        "cut off",
        Answer(body=message(GOOD, stop_reason="max_tokens")),
    ),
    "a full context window": (
        ModelFailure.TRUNCATED,
        "cut off",
        Answer(body=message(GOOD, stop_reason="model_context_window_exceeded")),
    ),
    "a redirect": (
        ModelFailure.UNAVAILABLE,
        "HTTP 307",
        Answer(status=307, headers={"location": "http://127.0.0.1:9/v1/messages"}, body=b""),
    ),
    "an error page": (ModelFailure.UNAVAILABLE, "HTTP 502", Answer(status=502, body=b"<html>Bad", headers=HTML)),
    "an error of the wrong types": (
        ModelFailure.UNAVAILABLE,
        "HTTP 500",
        Answer(status=500, body={"error": {"type": ["x"], "message": {"y": 1}}}),
    ),
    "a reset": (ModelFailure.UNAVAILABLE, "the call failed: ReadError", Answer(reset=True)),
    "something that is not HTTP": (
        ModelFailure.UNAVAILABLE,
        "RemoteProtocolError",
        Answer(raw=b"SSH-2.0-banner\r\n\r\n"),
    ),
    "a body shorter than promised": (
        ModelFailure.UNAVAILABLE,
        "RemoteProtocolError",
        Answer(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n{}"),
    ),
    "a body that does not decompress": (
        ModelFailure.UNAVAILABLE,
        "DecodingError",
        Answer(body=b"not gzip", headers={"content-encoding": "gzip"}),
    ),
}


@pytest.mark.parametrize(("code", "detail", "answer"), UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_reply_that_is_no_decision_is_a_failure_with_its_code(
    ask: Ask, code: ModelFailure, detail: str, answer: Answer
) -> None:
    reply, server = await ask(answer)

    assert failure_of(reply).code is code
    assert detail in failure_of(reply).detail
    assert len(server.requests) == 1  # nothing is retried


STATUSES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}


@pytest.mark.parametrize(("status", "kind"), STATUSES.items())
async def test_an_error_status_is_unavailable_and_says_which(ask: Ask, status: int, kind: str) -> None:
    answer = Answer(status=status, body=error(kind), headers={"request-id": "req_7", "retry-after": "30"})
    reply, server = await ask(answer)

    assert failure_of(reply) == DeciderFailure(
        code=ModelFailure.UNAVAILABLE, detail=f"HTTP {status} {kind} told you so"
    )
    assert reply.call.request_id == "req_7"
    assert len(server.requests) == 1
    assert reply.call.latency_ms < 3000  # a retry-after of 30 s is not obeyed


async def test_a_port_where_nobody_listens_is_unavailable() -> None:
    async with ModelServer() as server:
        base_url = server.base_url
    decider = one_target(base_url)

    assert failure_of(await propose(decider)).code is ModelFailure.UNAVAILABLE
    await decider.close()


# --- the deadline --------------------------------------------------------------------------------------

SLOW = {
    "before the first byte": Answer(body=message(GOOD), delay_s=3),
    "in drips that never pause for long": Answer(body=message(GOOD), drip_s=0.01),
    "with an error": Answer(status=529, body=error("overloaded_error"), delay_s=3),
}


@pytest.mark.parametrize("answer", SLOW.values(), ids=SLOW.keys())
async def test_a_slow_reply_is_a_timeout_at_the_deadline(ask: Ask, answer: Answer) -> None:
    await ask(Answer(body=message(GOOD)))  # the first call of a process is slower
    started = time.monotonic()
    reply, _ = await ask(answer, budget_s=0.3)

    assert failure_of(reply).code is ModelFailure.TIMEOUT
    assert 0.3 <= time.monotonic() - started < 1.5


@pytest.mark.parametrize("budget_s", [0.0, -1.0])
async def test_without_time_left_nobody_is_asked(ask: Ask, budget_s: float) -> None:
    reply, server = await ask(budget_s=budget_s)

    assert failure_of(reply).code is ModelFailure.TIMEOUT
    assert server.requests == []


async def test_cancelling_passes_through() -> None:
    async with ModelServer(Answer(body=message(GOOD), delay_s=30)) as server:
        decider = one_target(server.base_url)
        call = asyncio.create_task(propose(decider, budget_s=30))
        while not server.requests:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await decider.close()


async def test_the_next_call_succeeds_after_every_kind_of_failure() -> None:
    faults = [answer for _, _, answer in UNREADABLE.values()] + [
        Answer(delay_s=30),
        Answer(body=b"x" * 100, drip_s=0.3),
    ]
    answers: list[Script] = [script for fault in faults for script in (fault, decide)]
    async with ModelServer(*answers) as server:
        decider = one_target(server.base_url, max_connections=1)
        for fault in faults:
            budget_s = 0.2 if fault.delay_s or fault.drip_s else 5.0
            assert isinstance((await propose(decider, budget_s=budget_s)).outcome, DeciderFailure)
            assert isinstance((await propose(decider)).outcome, Proposal)
        await decider.close()


# --- what is kept --------------------------------------------------------------------------------------


async def test_the_stored_reply_is_bounded_and_holds_no_nul(ask: Ask) -> None:
    reply, _ = await ask(Answer(body=b"\x00<html>" + b"x" * 1_000_000, headers=HTML))

    assert reply.call.raw_reply == ("<html>" + "x" * 1_000_000)[:MAX_RAW_CHARACTERS]


async def test_the_key_is_in_no_detail_and_no_stored_reply(ask: Ask) -> None:
    reply, server = await ask(Answer(status=401, body=error("authentication_error", f"{KEY} is not a key")))

    assert KEY in str(server.requests[0].headers)
    assert KEY not in repr(reply)
    assert failure_of(reply).detail == "HTTP 401 authentication_error [key] is not a key"


async def test_a_placeholder_for_a_key_does_not_garble_the_stored_reply() -> None:
    body = message(GOOD)
    async with ModelServer(Answer(body=body)) as server:
        decider = one_target(server.base_url, key=Secret("x"))
        reply = await propose(decider)
        await decider.close()

    assert reply.call.raw_reply == json.dumps(body)


async def test_a_failed_reply_still_costs_what_it_used(ask: Ask) -> None:
    reply, _ = await ask(Answer(body=message(stop_reason="max_tokens")))

    assert failure_of(reply).code is ModelFailure.TRUNCATED
    assert reply.call.output_tokens == 92
    assert reply.call.cost_usd == Decimal("0.000076")
    assert reply.call.stop_reason == "max_tokens"


async def test_the_cost_of_an_unlisted_model_is_said_to_be_unknown(ask: Ask) -> None:
    reply, _ = await ask(Answer(body=message(GOOD)), model="claude-sonnet-5")

    assert not reply.call.priced
    assert reply.call.cost_usd == 0


def test_a_prompt_beyond_the_cheap_tier_costs_the_factor_more() -> None:
    price = model_traits("claude-haiku-5-5").price
    assert isinstance(price, ModelPrice)

    # 100,000 x $0.10 per million = 0.01; one token more makes all five times as dear
    assert price.cost_usd(Usage(input=60_000, cache_read=40_000)) == Decimal("0.0064")
    assert price.cost_usd(Usage(input=100_000)) == Decimal("0.01")
    assert price.cost_usd(Usage(input=100_001)) == Decimal("0.0500005")
    assert price.cost_usd(Usage(cache_write=1000, output=1000)) == Decimal("0.000625")


# --- replies recorded elsewhere ------------------------------------------------------------------------

RECORDINGS = json.loads(RECORDED.read_text())["replies"]


@pytest.mark.parametrize("recording", RECORDINGS, ids=[reply["from"] for reply in RECORDINGS])
async def test_a_recorded_reply_is_a_proposal_or_a_code(ask: Ask, recording: dict[str, Any]) -> None:
    reply, _ = await ask(Answer(status=recording["status"], body=recording["body"]))

    # None of them was asked for our tool.
    expected = ModelFailure.INVALID if recording["status"] == 200 else ModelFailure.UNAVAILABLE
    assert failure_of(reply).code is expected


# --- the stand-in itself -------------------------------------------------------------------------------


async def test_the_stand_in_proposes_a_trade_that_its_prompt_allows(ask: Ask) -> None:
    reply, _ = await ask()

    assert isinstance(reply.outcome, Proposal)
    assert [candidate.symbol for candidate in reply.outcome.candidates] == ["NVDA"]


async def test_the_stand_in_is_neutral_where_every_symbol_is_held_or_without_atr() -> None:
    market, of, policy = view(nvda(atr=None)), account(), Policy()
    prompt = build_prompt(policy=policy, market=market, account=of, bounds=bounds())
    async with ModelServer() as server:
        decider = one_target(server.base_url)
        reply = await decider.propose(prompt=prompt, market=market, account=of, policy=policy, budget_s=5)
        await decider.close()

    assert isinstance(reply.outcome, Proposal)
    assert reply.outcome.mode is Mode.NEUTRAL


async def test_the_stand_in_runs_as_a_command_of_its_own() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.model_server", "0", cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    base_url = (await process.stdout.readline()).decode().strip()
    decider = one_target(base_url)
    try:
        assert isinstance((await propose(decider)).outcome, Proposal)
    finally:
        await decider.close()
        process.terminate()
        await process.wait()
