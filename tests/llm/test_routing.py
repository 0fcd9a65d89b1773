"""Targets asked in turn over real sockets: fallback, breaker, hedge, retry-after, cost, and nothing left behind."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from decimal import Decimal

import pytest

from app.domain.account import AccountMode
from app.domain.model_call import CANCELLED, PROPOSED, ModelCall
from app.domain.proposal import ModelFailure, Proposal
from app.llm.breaker import BreakerState
from app.llm.latency import Allowance
from app.llm.messages import MessagesClient
from app.llm.routing import WARM_CONNECTIONS, RoutedDecider, RoutingOptions
from app.llm.rules import RulesDecider
from app.llm.wire import parse_decision, tool_definition
from tests.fakes import FakeDecider
from tests.llm.builders import account, wire_candidate, wire_decision
from tests.llm.routes import ask, code_of, routed, streamed_decision, target, timed
from tests.model_server import Answer, ModelServer, Request, Script, error, message, stream, tool_call

GOOD = Answer(body=message(tool_call(wire_decision())))
OTHER = Answer(body=message(tool_call(wire_decision(candidates=[wire_candidate(p_win_pct=61)]))))
NOBODY_COMES = Answer(body={}, delay_s=60)
DOWN = Answer(status=500, body=error("api_error"))
OVERLOADED = Answer(status=529, body=error("overloaded_error"))


class Servers:
    """Start stand-ins that run until the test ends."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, *answers: Script) -> ModelServer:
        return await self._stack.enter_async_context(ModelServer(*answers))


@pytest.fixture
async def serving() -> AsyncIterator[Servers]:
    async with AsyncExitStack() as stack:
        yield Servers(stack)


# --- fallback ------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Answer, ModelFailure]] = {
    "nothing comes": (NOBODY_COMES, ModelFailure.TIMEOUT),
    "drip": (Answer(body=GOOD.body, drip_s=0.02), ModelFailure.TIMEOUT),
    "reset": (Answer(reset=True), ModelFailure.UNAVAILABLE),
    "400": (Answer(status=400, body=error("invalid_request_error")), ModelFailure.UNAVAILABLE),
    "401": (Answer(status=401, body=error("authentication_error")), ModelFailure.UNAVAILABLE),
    "403": (Answer(status=403, body=error("permission_error")), ModelFailure.UNAVAILABLE),
    "404": (Answer(status=404, body=error("not_found_error")), ModelFailure.UNAVAILABLE),
    "413": (Answer(status=413, body=error("request_too_large")), ModelFailure.UNAVAILABLE),
    "429, retry after 30 s": (
        Answer(status=429, body=error("rate_limit_error"), headers={"retry-after": "30"}),
        ModelFailure.UNAVAILABLE,
    ),
    "500": (DOWN, ModelFailure.UNAVAILABLE),
    "529": (OVERLOADED, ModelFailure.UNAVAILABLE),
    "HTML 200": (
        Answer(body=b"<html>Welcome</html>", headers={"content-type": "text/html"}),
        ModelFailure.INVALID,
    ),
    "broken JSON": (Answer(body=b'{"content": ['), ModelFailure.INVALID),
    "empty content": (Answer(body=message()), ModelFailure.INVALID),
    "wrong tool": (Answer(body=message(tool_call(wire_decision(), name="get_weather"))), ModelFailure.INVALID),
    "two tools": (Answer(body=message(tool_call(wire_decision()), tool_call({}, name="x"))), ModelFailure.INVALID),
    "text instead of the tool": (
        Answer(body=message({"type": "text", "text": "Buy."}, stop_reason="end_turn")),
        ModelFailure.INVALID,
    ),
    "refusal": (Answer(body=message(stop_reason="refusal")), ModelFailure.REFUSED),
    "max_tokens": (Answer(body=message(stop_reason="max_tokens")), ModelFailure.TRUNCATED),
    "unknown stop reason": (
        Answer(body=message(tool_call(wire_decision()), stop_reason="tired")),
        ModelFailure.INVALID,
    ),
    "a number out of range": (
        Answer(body=message(tool_call(wire_decision(candidates=[wire_candidate(p_win_pct=100)])))),
        ModelFailure.INVALID,
    ),
    "longer than any reply": (Answer(body=b"x" * 9_000_000), ModelFailure.INVALID),
}
BUDGET_S = 0.4


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_ends_in_its_code_and_the_connections_are_of_use_afterwards(
    serving: Servers, fault: Answer, code: ModelFailure
) -> None:
    well = False
    server = await serving(lambda _: GOOD if well else fault)
    async with routed(server, max_connections=1, breaker_failures=100) as decider:
        for _ in range(2):
            reply, took_s = await timed(decider, budget_s=BUDGET_S)
            assert code_of(reply) is code
            assert took_s < BUDGET_S + 1
        well = True
        healed = await ask(decider)

    assert healed.outcome == parse_decision(wire_decision())


@pytest.mark.parametrize(("fault", "code"), FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_moves_on_to_the_next_target_while_there_is_time(
    serving: Servers, fault: Answer, code: ModelFailure
) -> None:
    first, second = await serving(fault), await serving(GOOD)
    hasty = target(first.base_url, call_timeout_ms=300)
    async with routed(hasty, target(second.base_url, name="second"), hedge_max_share=0.0) as decider:
        reply = await ask(decider)
    tried, counted = reply.call.calls

    assert reply.outcome == parse_decision(wire_decision())
    assert (tried.target, tried.outcome) == ("first", code.value)
    assert (counted.target, counted.outcome) == ("second", PROPOSED)
    assert (reply.call.target, reply.call.attempts, reply.call.hedged) == ("second", 2, False)


async def test_another_letter_case_of_an_enum_is_no_fault(serving: Servers) -> None:
    server = await serving(Answer(body=message(tool_call(wire_decision(mode="TRADE")))))
    async with routed(server) as decider:
        assert isinstance((await ask(decider)).outcome, Proposal)


async def test_a_connection_that_cannot_be_made_moves_on(serving: Servers) -> None:
    async with ModelServer() as gone:
        address = gone.base_url
    second = await serving(GOOD)
    async with routed(target(address), target(second.base_url, name="second")) as decider:
        reply = await ask(decider)

    assert reply.call.target == "second"
    assert reply.call.calls[0].detail == "the call failed: ConnectError"
    assert not reply.call.calls[0].estimated  # nothing was sent, so nothing can have been used
    assert reply.call.calls[0].cost_usd == 0


@contextmanager
def full_backlog() -> Iterator[str]:
    """An address that completes no handshake, because too many wait for it already."""
    with socket.socket() as listener, socket.socket() as one, socket.socket() as another:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (one, another):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_connection_that_takes_too_long_moves_on(serving: Servers) -> None:
    with full_backlog() as address:
        second = await serving(GOOD)
        slow = target(address, connect_timeout_ms=150)
        async with routed(slow, target(second.base_url, name="second")) as decider:
            reply = await ask(decider)

    assert reply.call.target == "second"
    assert reply.call.calls[0].outcome == ModelFailure.TIMEOUT
    assert "no connection within" in str(reply.call.calls[0].detail)


async def test_when_all_fail_the_last_code_counts_and_every_target_is_named(serving: Servers) -> None:
    first, second = await serving(FAULTS["refusal"][0]), await serving(DOWN)
    async with routed(first, second) as decider:
        reply = await ask(decider)

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert reply.outcome.detail == "first: the model refused: None; second: HTTP 500 api_error told you so"  # type: ignore[union-attr]
    assert [call.outcome for call in reply.call.calls] == ["MODEL_REFUSED", "MODEL_UNAVAILABLE"]


async def test_without_time_for_another_call_none_is_made(serving: Servers) -> None:
    first, second = await serving(Answer(status=500, body={}, delay_s=0.2)), await serving(GOOD)
    async with routed(first, second) as decider:
        reply = await ask(decider, budget_s=0.24)

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert second.requests == []


# --- retry-after ---------------------------------------------------------------------------------------


async def test_a_retry_after_that_fits_is_obeyed_when_there_is_no_other_target(serving: Servers) -> None:
    busy = Answer(status=429, body=error("rate_limit_error"), headers={"retry-after": "0.3"})
    server = await serving(busy, GOOD)
    async with routed(server) as decider:
        reply, took_s = await timed(decider, budget_s=2)

    assert isinstance(reply.outcome, Proposal)
    assert took_s >= 0.3
    assert reply.call.attempts == 2


@pytest.mark.parametrize("retry_after", ["30", "1", "soon", "-1", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_retry_after_that_does_not_fit_or_is_no_time_is_not(serving: Servers, retry_after: str) -> None:
    busy = Answer(status=429, body=error("rate_limit_error"), headers={"retry-after": retry_after})
    server = await serving(busy, GOOD)
    async with routed(server) as decider:
        reply, took_s = await timed(decider, budget_s=1)

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert took_s < 0.9
    assert len(server.requests) == 1


async def test_an_overloaded_target_is_asked_once_more_and_not_twice(serving: Servers) -> None:
    server = await serving(OVERLOADED)
    async with routed(server) as decider:
        reply = await ask(decider)

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert len(server.requests) == reply.call.attempts == 2


async def test_a_tenth_of_decisions_may_ask_the_same_target_again(serving: Servers) -> None:
    server = await serving(OVERLOADED)
    async with routed(server, breaker_failures=1000, retry_max_share=0.1) as decider:
        for _ in range(100):
            await ask(decider)

    # 5 saved up from the start, and 0.1 more with each of 100 decisions
    assert len(server.requests) == pytest.approx(100 + 5 + 10, abs=1)


# --- the breaker ---------------------------------------------------------------------------------------


async def test_a_target_that_keeps_failing_is_left_alone_and_probed_by_one_call(serving: Servers) -> None:
    well = False
    server = await serving(lambda _: GOOD if well else DOWN)
    async with routed(server, breaker_failures=3, breaker_cool_down_s=0.3) as decider:
        for _ in range(3):
            await ask(decider)
        assert decider.states() == {"first": BreakerState.OPEN}
        reply, took_s = await timed(decider)
        assert code_of(reply) is ModelFailure.UNAVAILABLE
        assert (reply.call.attempts, reply.call.model, reply.call.calls) == (0, None, ())
        assert took_s < 0.1
        assert len(server.requests) == 3

        await asyncio.sleep(0.35)
        assert decider.states() == {"first": BreakerState.HALF_OPEN}
        await asyncio.gather(*(ask(decider) for _ in range(5)))
        assert len(server.requests) == 4  # one probe, which failed

        well = True
        await asyncio.sleep(0.35)
        assert isinstance((await ask(decider)).outcome, Proposal)
        assert decider.states() == {"first": BreakerState.CLOSED}


async def test_while_the_first_target_is_left_alone_the_second_is_asked_at_once(serving: Servers) -> None:
    first, second = await serving(DOWN), await serving(GOOD)
    async with routed(first, second, breaker_failures=2) as decider:
        for _ in range(5):
            assert isinstance((await ask(decider)).outcome, Proposal)

    assert (len(first.requests), len(second.requests)) == (2, 5)


@pytest.mark.parametrize("name", ["refusal", "max_tokens", "a number out of range", "400", "413"])
async def test_what_is_a_matter_of_the_request_does_not_open_the_breaker(serving: Servers, name: str) -> None:
    server = await serving(FAULTS[name][0])
    async with routed(server, breaker_failures=2) as decider:
        for _ in range(4):
            await ask(decider)
        assert decider.states() == {"first": BreakerState.CLOSED}


async def test_a_retry_after_keeps_the_breaker_open_as_long(serving: Servers) -> None:
    server = await serving(Answer(status=429, body=error("rate_limit_error"), headers={"retry-after": "30"}))
    async with routed(server, breaker_failures=1, breaker_cool_down_s=0.1) as decider:
        await ask(decider)
        await asyncio.sleep(0.2)
        assert decider.states() == {"first": BreakerState.OPEN}


# --- the hedge -----------------------------------------------------------------------------------------


async def warmed_up(decider: RoutedDecider, *, calls: int = 40) -> None:
    """Let a decider see enough calls for a percentile, and save up for hedges.

    It spends none meanwhile: one call in twenty is later than the 95th percentile, and none of these is to be.
    """
    own, decider.hedges = decider.hedges, Allowance(0.0, most=0.0)
    for _ in range(calls):
        await ask(decider)
        own.earn()
    decider.hedges = own


def late_from(number: int, *, server: list[Request], late: Answer = NOBODY_COMES, then: Answer = GOOD) -> Script:
    """Answer well until a number of requests has come, then let one be late."""

    def answer(_: Request) -> Answer:
        server.append(_)
        return late if len(server) == number else then

    return answer


async def test_a_late_call_is_joined_by_one_more_and_the_first_valid_reply_wins(serving: Servers) -> None:
    seen: list[Request] = []
    first, second = await serving(late_from(41, server=seen)), await serving(OTHER)
    async with routed(first, second) as decider:
        await warmed_up(decider)
        reply, took_s = await timed(decider, budget_s=10)
    late, hedge = reply.call.calls

    assert reply.outcome == parse_decision(wire_decision(candidates=[wire_candidate(p_win_pct=61)]))
    assert took_s < 5
    assert (reply.call.attempts, reply.call.hedged, reply.call.target) == (2, True, "second")
    assert (late.target, late.outcome, late.cancelled, late.hedged) == ("first", CANCELLED, True, False)
    assert (hedge.target, hedge.outcome, hedge.cancelled, hedge.hedged) == ("second", PROPOSED, False, True)
    assert hedge.started_ms > 0
    assert (late.estimated, hedge.estimated, reply.call.estimated) == (True, False, True)


async def test_a_call_that_was_cut_off_counts_with_an_estimate_of_what_was_sent(serving: Servers) -> None:
    seen: list[Request] = []
    server = await serving(late_from(41, server=seen))
    async with routed(server) as decider:
        await warmed_up(decider)
        reply = await ask(decider, budget_s=10)
    late, hedge = reply.call.calls

    # The stand-in says 120 + 1800 tokens of the same prompt each time, so that is what is expected of it; all of it
    # uncached, because nobody said otherwise.
    assert late.input_tokens == pytest.approx(1920, rel=0.01)
    assert late.cost_usd == late.input_tokens * Decimal("0.10") / 1_000_000
    assert reply.call.input_tokens == late.input_tokens + 120
    assert reply.call.cost_usd == late.cost_usd + hedge.cost_usd


async def test_a_hedge_that_fails_leaves_the_late_call_to_answer(serving: Servers) -> None:
    seen: list[Request] = []
    late = Answer(body=GOOD.body, delay_s=1.0)
    first, second = await serving(late_from(41, server=seen, late=late)), await serving(DOWN)
    async with routed(first, second) as decider:
        await warmed_up(decider)
        reply = await ask(decider, budget_s=5)

    assert reply.outcome == parse_decision(wire_decision())
    assert [call.outcome for call in reply.call.calls] == [PROPOSED, "MODEL_UNAVAILABLE"]
    assert reply.call.target == "first"


async def test_at_most_the_set_share_of_decisions_is_hedged(serving: Servers) -> None:
    seen: list[Request] = []

    def slow_every_fourth(request: Request) -> Answer:
        seen.append(request)
        return Answer(body=GOOD.body, delay_s=0.15 if len(seen) % 4 == 0 else 0.0)

    server = await serving(slow_every_fourth)
    async with routed(server, hedge_max_share=0.05) as decider:
        replies = [await ask(decider) for _ in range(200)]

    assert sum(reply.call.hedged for reply in replies) <= 10


async def test_a_share_of_zero_turns_hedging_off(serving: Servers) -> None:
    seen: list[Request] = []
    first, second = await serving(late_from(41, server=seen)), await serving(OTHER)
    async with routed(first, second, hedge_max_share=0.0) as decider:
        await warmed_up(decider)
        reply = await ask(decider, budget_s=0.5)

    assert code_of(reply) is ModelFailure.TIMEOUT
    assert second.requests == []


async def test_exactly_one_proposal_leaves_and_nothing_stays_under_way(serving: Servers) -> None:
    before = asyncio.all_tasks()
    first, second = await serving(NOBODY_COMES), await serving(OTHER)
    async with routed(first, second, hedge_max_share=1.0, breaker_failures=1000) as decider:
        replies = await asyncio.gather(*(ask(decider, budget_s=1.0) for _ in range(5)))
        assert all(isinstance(reply.outcome, Proposal) for reply in replies)
        assert [reply.call.attempts for reply in replies] == [2] * 5
    servers_own = len(first._peers) + len(second._peers)

    assert len(asyncio.all_tasks() - before) <= servers_own


async def test_cancelling_a_decision_cuts_every_call_off(serving: Servers) -> None:
    server = await serving(NOBODY_COMES)
    async with routed(server) as decider:
        decision = asyncio.create_task(ask(decider, budget_s=30))
        while not server.requests:
            await asyncio.sleep(0.01)
        decision.cancel()
        with pytest.raises(asyncio.CancelledError):
            await decision
        for _ in range(100):
            if not decider._ending:
                break
            await asyncio.sleep(0.01)
        assert not decider._ending


# --- the account ---------------------------------------------------------------------------------------


async def test_every_call_that_went_out_is_on_an_account_and_all_accounts_add_up(serving: Servers) -> None:
    whole = message(tool_call(streamed_decision()))
    answers = [stream(whole, end_s=0.05), OVERLOADED, NOBODY_COMES, Answer(body=whole), DOWN]
    sent: list[Answer] = []

    def in_turn(_: Request) -> Answer:
        sent.append(answers[len(sent) % len(answers)])
        return sent[-1]

    server = await serving(in_turn)
    async with routed(server, server, streamed=True, hedge_max_share=1.0, breaker_failures=1000) as decider:
        early = [await ask(decider, budget_s=0.5) for _ in range(40)]
        replies = [reply if reply.rest is None else await reply.rest for reply in early]
    calls = [call for reply in replies for call in reply.call.calls]
    whole_ones = [answer for answer in sent if answer.pieces or answer.body is whole]
    told = [call for call in calls if not call.estimated]

    assert len(calls) == sum(reply.call.attempts for reply in replies) == len(server.requests)
    assert sum(call.output_tokens for call in told) == 92 * len(whole_ones)
    assert sum(call.input_tokens for call in told) == 120 * len(whole_ones)
    assert sum(call.estimated for call in calls) == sum(answer is NOBODY_COMES for answer in sent) > 0
    assert all(call.input_tokens > 1000 for call in calls if call.estimated)
    for reply in replies:
        assert reply.call.cost_usd == sum(call.cost_usd for call in reply.call.calls)
        assert reply.call.input_tokens == sum(call.input_tokens for call in reply.call.calls)
        assert reply.call.output_tokens == sum(call.output_tokens for call in reply.call.calls)


async def test_a_call_whose_price_nobody_knows_leaves_the_cost_of_the_decision_open(serving: Servers) -> None:
    first, second = await serving(DOWN), await serving(GOOD)
    unpriced = target(first.base_url, model="qwen3-coder")
    async with routed(unpriced, target(second.base_url, name="second")) as decider:
        reply = await ask(decider)

    assert [call.priced for call in reply.call.calls] == [False, True]
    assert not reply.call.priced


# --- the last resort -----------------------------------------------------------------------------------


async def test_on_paper_the_rules_stand_in_and_it_is_said(serving: Servers) -> None:
    server = await serving(DOWN)
    async with routed(server, last_resort=RulesDecider()) as decider:
        reply = await ask(decider)

    assert isinstance(reply.outcome, Proposal)
    assert reply.degraded
    assert (reply.call.name, reply.call.attempts) == ("rules", 1)
    assert [call.outcome for call in reply.call.calls] == ["MODEL_UNAVAILABLE"]


async def test_live_accounts_have_no_last_resort(serving: Servers) -> None:
    server, fake = await serving(DOWN), FakeDecider()
    async with routed(server, last_resort=fake) as decider:
        reply = await ask(decider, of=account(mode=AccountMode.LIVE))

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert not reply.degraded
    assert fake.prompts == []


# --- warm ----------------------------------------------------------------------------------------------


async def test_an_idle_target_is_kept_warm_and_the_cost_is_told(serving: Servers) -> None:
    server = await serving(Answer(body=message(stop_reason="max_tokens")))
    told: list[ModelCall] = []
    client = MessagesClient(target(server.base_url, given={"warm": True}))
    decider = RoutedDecider([client], draw=lambda: 0.5, options=RoutingOptions(warm_every_s=0.2), on_warm=told.append)
    keeping = asyncio.create_task(decider.keep_warm("static part"))
    while len(told) < 2:
        await asyncio.sleep(0.01)
    keeping.cancel()
    await asyncio.wait([keeping])
    await decider.close()
    calls = [request.body for request in server.requests]

    assert server.heads == server.connections == WARM_CONNECTIONS
    assert calls[0]["max_tokens"] == 0
    assert calls[0]["tools"] == [tool_definition(strict=True)]
    assert calls[0]["system"] == [{"type": "text", "text": "static part", "cache_control": {"type": "ephemeral"}}]
    assert calls[0].keys().isdisjoint({"tool_choice", "stream"})
    assert (told[0].outcome, told[0].cache_read_tokens) == ("warm", 1800)


async def test_a_target_in_use_or_not_to_be_warmed_is_not_called_unasked(serving: Servers) -> None:
    server = await serving(GOOD)
    async with routed(server, warm_every_s=0.05) as decider:
        await asyncio.wait_for(decider.keep_warm("static part"), timeout=5)

    assert server.requests == []


async def test_connections_outlive_the_pause_between_two_warming_calls(serving: Servers) -> None:
    server = await serving(GOOD)
    async with routed(server) as decider:
        await ask(decider)
        await asyncio.sleep(5.5)  # longer than HTTP clients keep an idle connection by default
        await ask(decider)

    assert server.connections == 1


# --- time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget_s", [0.0, -1.0])
async def test_without_time_nobody_is_asked(serving: Servers, budget_s: float) -> None:
    server = await serving(GOOD)
    async with routed(server) as decider:
        reply = await ask(decider, budget_s=budget_s)

    assert code_of(reply) is ModelFailure.TIMEOUT
    assert (server.requests, reply.call.attempts) == ([], 0)


async def test_no_target_of_many_extends_the_budget(serving: Servers) -> None:
    servers = [await serving(NOBODY_COMES) for _ in range(3)]
    async with routed(*servers, hedge_max_share=1.0) as decider:
        started = time.monotonic()
        reply = await ask(decider, budget_s=0.5)

    assert code_of(reply) is ModelFailure.TIMEOUT
    assert time.monotonic() - started < 1.5
