"""Call a target over the Messages API, and turn whatever comes back into a Proposal or a MODEL_ code.

Rules of this file:
  * one call is one request: the SDK never retries, and one deadline of our own covers the whole call
    (the SDK's timeout is per phase: a reply that drips would pass it);
  * nothing in a reply is believed before its type was checked: the SDK does not validate replies, so the body is
    parsed here, from the bytes that are also kept for the record, and no more of them than fit a bound;
  * faults of the other side are values, never exceptions; only cancellation passes through;
  * no secret reaches a detail or a stored reply;
  * what a call cost is known or estimated, whether it succeeded, failed or was cut off.

A streamed call answers twice: `answered` when everything that is judged has arrived, `ended` when the reply is whole.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import orjson

from app.domain.account import Account
from app.domain.market import MarketView
from app.domain.model_call import CANCELLED, PROPOSED, WARMED, ModelCall
from app.domain.policy import Policy
from app.domain.proposal import ModelFailure, Proposal
from app.domain.text import clean_text
from app.llm.clients import PLATFORMS, Line
from app.llm.decider import DeciderCall, DeciderFailure, Prompt, Reply
from app.llm.models import ReplyForm, Thinking, Usage
from app.llm.reading import LABEL_LIMIT, NOTHING, Reading, failed, failure, read_message, read_parsed
from app.llm.streaming import EVENT_STREAM, BrokenStreamError, EventReader, StreamedMessage
from app.llm.targets import Target
from app.llm.wire import FORMAT_NOTE, TOOL_NAME, decision_schema, judged_alike, tool_definition
from app.settings import SHORTEST_SECRET
from app.tracing import call_span

if TYPE_CHECKING:
    import anthropic
    import httpx2

DECIDER_NAME: Final = "anthropic"
MAX_CONNECTIONS: Final = 100
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
"""What is read of a reply; a real one has a few kilobytes."""
MAX_RAW_CHARACTERS: Final = 64 * 1024
"""What is kept of a reply's text."""
STALL_S: Final = 0.1
"""A timeout noticed this much too late is this process's own stall, and no fault of the target."""
REST_S: Final = 10.0
"""So long the end of a reply is waited for once its beginning has been judged."""
DRAIN_S: Final = 0.25
"""So long the end of a finished stream is waited for, to use its connection again."""
WARM_S: Final = 30.0
"""Time for one warming call: the first use of a schema compiles it."""
TOKENS_PER_CHARACTER: Final = 0.35
"""A dear guess at how many tokens a prompt has, until the target has told a few times."""
LEARNING_RATE: Final = 0.2
KEPT_BEGINNINGS: Final = 8
"""Static parts are few: one for each aggressiveness level."""
END_OF_BODY: Final = b"}]}"
REQUEST_ID: Final = "request-id"
CONTENT_ENCODING: Final = "content-encoding"
LOW_EFFORT: Final = {"effort": "low"}
CACHED: Final = {"type": "ephemeral"}
OVERLOADED: Final = frozenset({503, 529})
OVERLOADED_ERROR: Final = "overloaded_error"
"""What says that the same call may well succeed in a moment; so does a retry-after."""
OF_THE_REQUEST: Final = frozenset({400, 413, 422})
"""It is this request that was refused; the next one may be welcome."""


def request_parameters(target: Target) -> dict[str, Any]:
    """Write what is the same in every request to a target."""
    parameters: dict[str, Any] = {"model": target.model, "max_tokens": target.max_tokens}
    if target.reply is ReplyForm.FORCED_TOOL:
        tool = tool_definition(strict=target.strict, streamed=target.stream)
        parameters["tools"] = [tool | {"eager_input_streaming": True} if target.eager else tool]
        parameters["tool_choice"] = {"type": "tool", "name": TOOL_NAME, "disable_parallel_tool_use": True}
    else:
        schema = decision_schema(strict=target.strict, streamed=target.stream)
        parameters["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
        if target.traits.always_thinks:
            parameters["output_config"] |= LOW_EFFORT
    if target.thinking is not Thinking.DEFAULT:
        parameters["thinking"] = {"type": target.thinking.value}
    if target.stream:
        parameters["stream"] = True
    if target.version is not None and target.kind in PLATFORMS:
        parameters["anthropic_version"] = target.version
    return parameters


class MessagesClient:
    """Call one target, and keep the way to it warm."""

    def __init__(self, target: Target, *, max_connections: int = MAX_CONNECTIONS) -> None:
        import anthropic  # noqa: PLC0415 (takes seconds; only deciders that ask a model need it)
        import httpx2  # noqa: PLC0415

        self.target = target
        self.sdk = anthropic
        self.http = httpx2
        self.tokens_per_character = TOKENS_PER_CHARACTER
        self._line = Line(target, max_connections=max_connections)
        self._parameters = request_parameters(target)
        self._fixed_characters = len(orjson.dumps(self._parameters))
        self._beginning = lru_cache(maxsize=KEPT_BEGINNINGS)(self._write_beginning)
        key = "" if target.key is None else target.key.reveal()
        # A shorter key is a placeholder, and replacing it would garble the text.
        self._secret = key if len(key) >= SHORTEST_SECRET else None

    def call(self, prompt: Prompt, *, budget_s: float, hedged: bool = False) -> "Call":
        """Begin a call that ends within `budget_s` seconds, or has all that is judged by then."""
        if self.target.call_timeout_ms is not None:
            budget_s = min(budget_s, self.target.call_timeout_ms / 1000)
        body = self._beginning(prompt.system) + orjson.dumps(prompt.user) + END_OF_BODY
        characters = self._fixed_characters + len(prompt.system) + len(prompt.user)
        return Call(self, body, characters=characters, budget_s=budget_s, hedged=hedged)

    async def warm(self, system: str) -> ModelCall | None:
        """Make the target read the static part into its cache, for no output; None where a model must think first.

        The cache and the grammar belong to tools and static part; the choice of the tool, which a call without
        output may not have, is no part of them.
        """
        if self.target.reply is not ReplyForm.FORCED_TOOL or self.target.traits.always_thinks:
            return None
        body = {name: value for name, value in self._parameters.items() if name not in {"tool_choice", "stream"}}
        body |= {
            "max_tokens": 0,
            "system": self._system(system),
            "messages": [{"role": "user", "content": "."}],
        }
        characters = self._fixed_characters + len(system)
        call = Call(self, orjson.dumps(body), characters=characters, budget_s=WARM_S, hedged=False)
        reading = await call.answer()
        return replace(call.account(since=call.started), outcome=WARMED if reading.spoke else _outcome_word(reading))

    async def open_connections(self, count: int) -> None:
        """Open some connections before they are needed; whether that succeeds shows when they are."""
        url = str(self._line.client.base_url)

        async def open_one() -> None:
            with suppress(self.http.HTTPError, TimeoutError):
                async with asyncio.timeout(WARM_S):
                    await self._line.http_client.head(url)

        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(open_one())

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()

    async def send(self, body: bytes, *, budget_s: float, headers: dict[str, str]) -> "httpx2.Response":
        """Send a body; give the response, whose body is still to be read, and which is to be closed.

        Raises:
            anthropic.AnthropicError: it could not be sent, or the status says that it was refused.
        """
        limits = self.http.Timeout(budget_s, connect=self.connect_s(budget_s))
        return await self._line.send(body, headers=headers, limits=limits)

    def connect_s(self, budget_s: float) -> float:
        """Give the seconds that a connection may take."""
        return min(budget_s, self.target.connect_timeout_ms / 1000)

    def redact(self, text: str) -> str:
        """Write a text without the key."""
        return text if self._secret is None else text.replace(self._secret, "[key]")

    def learn(self, usage: Usage, *, characters: int) -> None:
        """Note how many tokens a prompt had."""
        if usage.prompt:
            self.tokens_per_character += LEARNING_RATE * (usage.prompt / characters - self.tokens_per_character)

    def _write_beginning(self, system: str) -> bytes:
        """Write the body of a request up to what is asked, which is most of it and the same for many."""
        body = self._parameters | {"system": self._system(system), "messages": [{"role": "user", "content": ""}]}
        return orjson.dumps(body).removesuffix(b'""' + END_OF_BODY)

    def _system(self, text: str) -> list[dict[str, Any]]:
        texts = [text] if self.target.reply is ReplyForm.FORCED_TOOL else [text, FORMAT_NOTE]
        blocks: list[dict[str, Any]] = [{"type": "text", "text": part} for part in texts]
        blocks[-1]["cache_control"] = CACHED
        return blocks


class Call:
    """Hold one call under way, from its first byte to the account of it."""

    def __init__(self, client: MessagesClient, body: bytes, *, characters: int, budget_s: float, hedged: bool) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.hedged = hedged
        self.budget_s = budget_s
        self.started = time.monotonic()
        self.begun_s: float | None = None
        """Seconds until the first of the content, where it is streamed."""
        self.took_s: float | None = None
        """Seconds until the answer, or until the call was cut off."""
        self.cancelled = False
        self.answered: asyncio.Future[Reading] = loop.create_future()
        self.ended: asyncio.Future[Reading] = loop.create_future()
        self._body = body
        self._characters = characters
        self._message: StreamedMessage | None = None
        self._request_id: str | None = None
        self._status: int | None = None
        self._limit = asyncio.timeout(budget_s)
        self._span = call_span("model call")
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._settle)

    async def answer(self) -> Reading:
        """Wait for the answer; who stops waiting cuts the call off."""
        try:
            await asyncio.wait([self.answered])
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self.answered.result()

    def cancel(self) -> None:
        """Cut the call off; what it used until now counts."""
        if not self._task.done():
            self.cancelled = not self.answered.done()
            self.took_s = self._elapsed_s() if self.took_s is None else self.took_s
            self._task.cancel()

    def when_over(self, tell: Callable[["Call"], object]) -> None:
        """Have it told when nothing of the call is under way any more."""
        self._task.add_done_callback(lambda _: tell(self))

    async def wait(self) -> None:
        """Wait until nothing of the call is under way."""
        await asyncio.wait([self._task])

    def account(self, *, since: float) -> ModelCall:
        """Account for the call as far as it is known; `since` is the monotonic time its start is counted from."""
        reading = self._latest()
        usage = NOTHING if reading is None else reading.usage
        estimated = reading is None or usage is None or not self.ended.done()
        if estimated or usage is None:
            usage = self._estimate()
        price = self.client.target.price
        is_failure = reading is not None and isinstance(reading.outcome, DeciderFailure)
        took_s = self._elapsed_s() if self.took_s is None else self.took_s
        return ModelCall(
            target=self.client.target.name,
            model=self.client.target.model,
            started_ms=round((self.started - since) * 1000),
            latency_ms=round(took_s * 1000),
            outcome=CANCELLED if reading is None else _outcome_word(reading),
            detail=reading.outcome.detail if is_failure else None,  # type: ignore[union-attr]
            hedged=self.hedged,
            cancelled=self.cancelled,
            status=self._status,
            input_tokens=usage.input,
            output_tokens=usage.output,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
            cost_usd=Decimal(0) if price is None else price.cost_usd(usage),
            priced=price is not None,
            estimated=estimated,
            request_id=self._request_id,
            stop_reason=None if reading is None else reading.stop_reason,
        )

    @property
    def raw_reply(self) -> str | None:
        """Give what is kept of the reply's text."""
        reading = self._latest()
        return None if reading is None else reading.raw_reply

    def _latest(self) -> Reading | None:
        for future in (self.ended, self.answered):
            if future.done() and not future.cancelled():
                return future.result()
        return None

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def _estimate(self) -> Usage:
        """Estimate what was used by a call that never said it to the end."""
        said = None if self._message is None else self._message.usage
        written = 0 if self._message is None else self._message.written
        rate = self.client.tokens_per_character
        output = max(math.ceil(written * rate), 0 if said is None else said.output)
        if said is not None and said.prompt:
            return replace(said, output=output)
        return Usage(input=math.ceil(self._characters * rate), output=output)

    # --- the call itself -------------------------------------------------------------------------------

    async def _run(self) -> Reading:
        if self.budget_s <= 0:
            return failed(ModelFailure.TIMEOUT, "no time was left to ask")
        client = self.client
        try:
            async with self._limit:
                response = await client.send(self._body, budget_s=self.budget_s, headers=self._span.headers())
                try:
                    self._status = response.status_code
                    # Looked through once: each search of the library's reads all of them anew.
                    headers = {
                        name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw
                    }
                    self._note_request_id(headers.get(REQUEST_ID))
                    return await self._receive(response, headers)
                finally:
                    await response.aclose()
        except (TimeoutError, client.sdk.APITimeoutError, client.http.TimeoutException) as error:
            return self._too_slow(error)
        except client.sdk.APIStatusError as error:
            return self._refused(error)
        except (client.sdk.AnthropicError, client.http.HTTPError) as error:
            return self._broken_off(error)
        except Exception as error:
            if client.target.kind not in PLATFORMS:
                raise
            return self._broken_off(error)  # their credentials' libraries raise what they like

    async def _receive(self, response: "httpx2.Response", headers: Mapping[str, str]) -> Reading:
        # Most replies are not compressed, and then there is nothing to undo.
        coming = response.aiter_bytes() if CONTENT_ENCODING in headers else response.stream
        chunks = _bounded(cast("AsyncIterable[bytes]", coming))
        try:
            if headers.get("content-type", "").partition(";")[0].strip().lower() == EVENT_STREAM:
                return await self._receive_events(chunks)
            body = b"".join([chunk async for chunk in chunks])
        except _TooLongError as error:
            reading = failed(ModelFailure.INVALID, f"the reply is longer than {MAX_REPLY_BYTES} bytes", usage=None)
            return self._keep(reading, error.beginning)
        return self._keep(read_message(body, reply=self.client.target.reply), body)

    async def _receive_events(self, chunks: AsyncIterator[bytes]) -> Reading:
        message = self._message = StreamedMessage(reply=self.client.target.reply)
        events = EventReader()
        try:
            async for chunk in chunks:
                for event in events.feed(chunk):
                    message.add(event)
                if message.ended or message.error is not None:
                    break
                self._look_early(message)
        except BrokenStreamError as error:
            return self._keep_message(failed(ModelFailure.INVALID, f"the stream is broken: {error}", usage=None))
        reading = self._keep_message(self._read_whole(message))
        if message.ended:
            self._end(reading)
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_S):
                    async for _ in chunks:
                        pass
        return reading

    def _look_early(self, message: StreamedMessage) -> None:
        """Answer, if everything that is judged has arrived, and give the rest more time."""
        if not message.begun or self.answered.done():
            return
        if self.begun_s is None:
            self.begun_s = self._elapsed_s()
        proposal = message.early()
        if proposal is not None:
            reading = Reading(outcome=proposal, usage=None, spoke=True)
            self._answer(self._keep_message(reading))
            self._limit.reschedule(asyncio.get_running_loop().time() + REST_S)

    def _read_whole(self, message: StreamedMessage) -> Reading:
        if message.error is not None:
            said = self.client.redact(" ".join(message.error))
            reading = failed(ModelFailure.UNAVAILABLE, f"the stream failed: {said}", usage=message.usage)
            return replace(reading, passing=OVERLOADED_ERROR in message.error)
        if not message.ended:
            return failed(ModelFailure.UNAVAILABLE, "the stream broke off", usage=None)
        reading = read_parsed(message.message(), reply=self.client.target.reply)
        if self.answered.done() and isinstance(reading.outcome, Proposal):
            early = self.answered.result().outcome
            if isinstance(early, Proposal) and not judged_alike(early, reading.outcome):
                changed = failure(ModelFailure.INVALID, "the reply changed after its beginning was judged")
                return replace(reading, outcome=changed)
        return reading

    # --- how a call ends -------------------------------------------------------------------------------

    def _answer(self, reading: Reading) -> None:
        if not self.answered.done():
            self.took_s = self._elapsed_s()
            self.answered.set_result(reading)

    def _end(self, reading: Reading) -> None:
        if not self.ended.done():
            self.ended.set_result(reading)
            self._answer(reading)
            if reading.usage is not None:
                self.client.learn(reading.usage, characters=self._characters)

    def _settle(self, task: asyncio.Task[Reading]) -> None:
        if task.cancelled():
            self.answered.cancel()
            self.ended.cancel()
        elif (bug := task.exception()) is not None:
            for future in (self.answered, self.ended):
                if not future.done():
                    future.set_exception(bug)
                    future.exception()  # it counts as seen, also where nobody waits for this one
        else:
            self._end(task.result())
        if self._span.recording:
            self._note_span(bug=not task.cancelled() and task.exception() is not None)
        self._span.end()

    def _note_span(self, *, bug: bool) -> None:
        """Note of this call what the ledger will know too, but no text of the other side."""
        if bug:
            self._span.fail("bug")
            return
        account = self.account(since=self.started)
        self._span.note(
            target=account.target,
            model=account.model,
            outcome=account.outcome,
            hedged=account.hedged,
            cancelled=account.cancelled,
            status=account.status,
            input_tokens=account.input_tokens + account.cache_read_tokens + account.cache_write_tokens,
            output_tokens=account.output_tokens,
            cost_usd=float(account.cost_usd) if account.priced else None,
            estimated=account.estimated,
        )
        if account.outcome not in (PROPOSED, CANCELLED):
            self._span.fail(account.outcome)

    def _too_slow(self, error: Exception) -> Reading:
        elapsed_s, connect_s = self._elapsed_s(), self.client.connect_s(self.budget_s)
        if isinstance(error.__cause__, self.client.http.ConnectTimeout | self.client.http.PoolTimeout):
            reading = failed(ModelFailure.TIMEOUT, f"no connection within {elapsed_s:.3g} s")
            return replace(reading, stalled=elapsed_s > connect_s + STALL_S)
        if self.answered.done():
            detail = "the reply did not end"
            return self._keep_message(failed(ModelFailure.TIMEOUT, detail, usage=None))
        reading = failed(ModelFailure.TIMEOUT, f"no reply within {self.budget_s:.3g} s", usage=None)
        return self._keep_message(replace(reading, stalled=elapsed_s > self.budget_s + STALL_S))

    def _refused(self, error: "anthropic.APIStatusError") -> Reading:
        self._status = error.status_code
        self._note_request_id(error.request_id)
        said: tuple[object, ...] = (error.type, error.api_message)  # read off a body nobody validated
        detail = " ".join((f"HTTP {error.status_code}", *(part for part in said if isinstance(part, str))))
        retry_after_s = _seconds(error.response.headers.get("retry-after"))
        reading = replace(
            failed(ModelFailure.UNAVAILABLE, self.client.redact(detail)),
            passing=error.status_code in OVERLOADED or retry_after_s is not None,
            spoke=error.status_code in OF_THE_REQUEST,
            retry_after_s=retry_after_s,
        )
        return self._keep(reading, error.response.content)

    def _broken_off(self, error: Exception) -> Reading:
        """Read a connection that failed, before or during the reply."""
        cause = error.__cause__ if isinstance(error, self.client.sdk.AnthropicError) and error.__cause__ else error
        usage = NOTHING if isinstance(cause, self.client.http.ConnectError) else None
        detail = f"the call failed: {type(cause).__name__}"
        return self._keep_message(failed(ModelFailure.UNAVAILABLE, detail, usage=usage))

    def _keep_message(self, reading: Reading) -> Reading:
        """Keep a streamed message as far as it has come."""
        if self._message is None:
            return reading
        return self._keep(reading, orjson.dumps(self._message.message()))

    def _keep(self, reading: Reading, body: bytes) -> Reading:
        """Keep a reply's text without NUL (PostgreSQL), bounded."""
        text = self.client.redact(body[: 4 * MAX_RAW_CHARACTERS].decode(errors="replace")).replace("\x00", "")
        return replace(reading, raw_reply=text[:MAX_RAW_CHARACTERS])

    def _note_request_id(self, request_id: str | None) -> None:
        self._request_id = None if request_id is None else clean_text(request_id, limit=LABEL_LIMIT)


class _TooLongError(Exception):
    def __init__(self, beginning: bytes) -> None:
        self.beginning = beginning


async def _bounded(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Pass chunks on until there are more of them than any reply has.

    Raises:
        _TooLongError: there are more.
    """
    size, beginning = 0, b""
    async for chunk in chunks:
        size += len(chunk)
        beginning = beginning or chunk
        if size > MAX_REPLY_BYTES:
            raise _TooLongError(beginning)
        yield chunk


def _outcome_word(reading: Reading) -> str:
    return reading.outcome.code.value if isinstance(reading.outcome, DeciderFailure) else PROPOSED


def _seconds(header: str | None) -> float | None:
    """Read a retry-after in seconds; a date is not read, and no promise."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None


def account_of(
    calls: Sequence[Call], *, counted: Call | None, prompt: Prompt, started: float, name: str = DECIDER_NAME
) -> DeciderCall:
    """Add up all calls of one decision; `counted` is the one whose reply is the decision's."""
    accounts = tuple(call.account(since=started) for call in calls)
    told = counted or (calls[-1] if calls else None)
    of_told = None if told is None else accounts[calls.index(told)]
    of_all = of_told if of_told is not None and len(accounts) == 1 else _sum_of(accounts)
    return DeciderCall(
        name=name,
        model=None if of_told is None else of_told.model,
        target=None if of_told is None else of_told.target,
        prompt_version=prompt.version,
        prompt_hash=prompt.template_hash,
        latency_ms=round((time.monotonic() - started) * 1000),
        attempts=len(accounts),
        hedged=of_all.hedged,
        input_tokens=of_all.input_tokens,
        output_tokens=of_all.output_tokens,
        cache_read_tokens=of_all.cache_read_tokens,
        cache_write_tokens=of_all.cache_write_tokens,
        cost_usd=of_all.cost_usd,
        priced=of_all.priced,
        estimated=of_all.estimated,
        request_id=None if of_told is None else of_told.request_id,
        stop_reason=None if of_told is None else of_told.stop_reason,
        raw_reply=None if told is None else told.raw_reply,
        calls=accounts,
    )


class _Sum(NamedTuple):
    """Hold what several calls come to together."""

    hedged: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Decimal
    priced: bool
    estimated: bool


def _sum_of(accounts: Sequence[ModelCall]) -> _Sum:
    return _Sum(
        hedged=any(account.hedged for account in accounts),
        input_tokens=sum(account.input_tokens for account in accounts),
        output_tokens=sum(account.output_tokens for account in accounts),
        cache_read_tokens=sum(account.cache_read_tokens for account in accounts),
        cache_write_tokens=sum(account.cache_write_tokens for account in accounts),
        cost_usd=sum((account.cost_usd for account in accounts), start=Decimal(0)),
        priced=all(account.priced for account in accounts),
        estimated=any(account.estimated for account in accounts),
    )


async def rest_of(calls: Sequence[Call], *, counted: Call, prompt: Prompt, started: float) -> Reply:
    """Wait for the end of a reply whose beginning was judged, and give it whole, with the final account."""
    await asyncio.wait([counted.ended])
    if counted.ended.cancelled():
        outcome: Proposal | DeciderFailure = failure(ModelFailure.TIMEOUT, "the end of the reply was not waited for")
    else:
        outcome = counted.ended.result().outcome
    return Reply(outcome=outcome, call=account_of(calls, counted=counted, prompt=prompt, started=started))


class MessagesDecider:
    """Propose by asking one target, once: what a target by itself is worth."""

    name = DECIDER_NAME
    serves_live = True

    def __init__(self, target: Target, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._client = MessagesClient(target, max_connections=max_connections)

    async def propose(
        self,
        *,
        prompt: Prompt,
        market: MarketView,  # noqa: ARG002 (rendered in the prompt)
        account: Account,  # noqa: ARG002
        policy: Policy,  # noqa: ARG002
        budget_s: float,
    ) -> Reply:
        """Return a proposal or a typed failure within `budget_s` seconds of being called."""
        started = time.monotonic()
        call = self._client.call(prompt, budget_s=budget_s)
        reading = await call.answer()
        return Reply(
            outcome=reading.outcome,
            call=account_of([call], counted=call, prompt=prompt, started=started),
            rest=None if call.ended.done() else rest_of([call], counted=call, prompt=prompt, started=started),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
