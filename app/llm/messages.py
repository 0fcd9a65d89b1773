"""Ask a model over the Anthropic Messages API, and turn whatever comes back into a Proposal or a MODEL_ code.

Rules of this file:
  * one forced call of one tool; the SDK never retries, and one deadline of our own covers the whole call
    (the SDK's timeout is per phase: a reply that drips would pass it);
  * nothing in a reply is believed before its type was checked: the SDK does not validate replies, so the body is
    parsed here, from the bytes that are also kept for the record;
  * faults of the other side are values, never exceptions; only cancellation passes through;
  * no secret reaches a detail or a stored reply.

The SDK is imported when a decider is made: its import takes seconds, and `rules` does not need it.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

from app.domain.account import Account
from app.domain.market import MarketView
from app.domain.policy import Policy
from app.domain.proposal import ModelFailure, Proposal
from app.domain.text import clean_text
from app.llm.decider import DeciderCall, DeciderFailure, Prompt, Reply
from app.llm.wire import TOOL_NAME, InvalidReplyError, parse_decision, tool_definition
from app.settings import SHORTEST_SECRET

if TYPE_CHECKING:
    import anthropic

DEFAULT_MODEL: Final = "claude-haiku-5-5"
MAX_TOKENS: Final = 1024
"""Cap of one reply: three candidates with their theses take about 450 tokens."""
MAX_CONNECTIONS: Final = 100
KEEPALIVE_S: Final = 120.0
"""An idle connection is kept this long (the default of 5 s would cost sparse callers a handshake each time)."""
MAX_RAW_CHARACTERS: Final = 64 * 1024
"""What is kept of a reply's text."""
MAX_COUNT: Final = 10**9
"""No call has this many tokens; a usage figure beyond it is no figure."""
DETAIL_LIMIT: Final = 200
LABEL_LIMIT: Final = 100
MILLION: Final = Decimal(1_000_000)

STOPPED_AS_ASKED: Final = frozenset({"tool_use", "end_turn"})
"""Some gateways say end_turn after the call they were forced to make; without our call it is no answer."""
TRUNCATED: Final = frozenset({"max_tokens", "model_context_window_exceeded"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Count the tokens of one call; `input` leaves out what the cache read or wrote."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """Hold a model's list price in dollars per million tokens; cache writes live for 5 minutes.

    A prompt of more than `long_prompt` tokens costs `long_factor` times as much, in and out.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    long_prompt: int | None = None
    long_factor: int = 1

    def cost_usd(self, usage: Usage) -> Decimal:
        """Compute what a call cost, in dollars."""
        price = (
            usage.input * self.input
            + usage.output * self.output
            + usage.cache_read * self.cache_read
            + usage.cache_write * self.cache_write
        ) / MILLION
        prompt = usage.input + usage.cache_read + usage.cache_write
        return price * self.long_factor if self.long_prompt is not None and prompt > self.long_prompt else price


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """Hold what must be known to call a model: an unsupported parameter is an error of every call."""

    forced_tool: bool = True
    thinks_unless_disabled: bool = False
    price: ModelPrice | None = None


_THINKS: Final = ModelTraits(thinks_unless_disabled=True)
_REFUSES_FORCING: Final = ModelTraits(forced_tool=False)

MODELS: Final[Mapping[str, ModelTraits]] = MappingProxyType(
    {
        "claude-haiku-5-5": ModelTraits(
            thinks_unless_disabled=True,
            price=ModelPrice(
                input=Decimal("0.10"),
                output=Decimal("0.50"),
                cache_read=Decimal("0.01"),
                cache_write=Decimal("0.125"),
                long_prompt=100_000,
                long_factor=5,
            ),
        ),
        "claude-haiku-4-5": ModelTraits(
            price=ModelPrice(
                input=Decimal("1"), output=Decimal("5"), cache_read=Decimal("0.1"), cache_write=Decimal("1.25")
            ),
        ),
        "claude-sonnet-5": _THINKS,
        "claude-opus-5": _THINKS,
        "claude-sonnet-5-5": _REFUSES_FORCING,
        "claude-opus-5-5": _REFUSES_FORCING,
        "claude-fable-5": _REFUSES_FORCING,
        "claude-fable-5-1": _REFUSES_FORCING,
        "claude-fable-5-2": _REFUSES_FORCING,
        "claude-mythos-5": _REFUSES_FORCING,
        "claude-mythos-5-1": _REFUSES_FORCING,
        "claude-mythos-5-2": _REFUSES_FORCING,
        "claude-mythos-preview": _REFUSES_FORCING,
    }
)
"""Traits and list prices by model, from Anthropic's documentation as of October 2026.

A model that is not listed is called without any thinking parameter, and its cost is unknown.
"""

_FAMILY: Final = re.compile(r"(?:.*[./])?(claude-[a-z0-9-]+?)(?:[-@]\d{8})?(?:-v\d+(?::\d+)?)?")


def model_traits(model: str) -> ModelTraits:
    """Look up a model by its name, whatever prefix, date or version a platform puts around it."""
    match = _FAMILY.fullmatch(model)
    return MODELS.get(match[1], ModelTraits()) if match else ModelTraits()


class MessagesDecider:
    """Propose by asking one model at one endpoint that speaks the Messages API.

    Raises:
        ValueError: the key cannot be sent as a header, or the model is known to refuse a forced tool.
    """

    name = "anthropic"
    serves_live = True

    def __init__(
        self,
        *,
        api_key: str,
        model: str = DEFAULT_MODEL,
        base_url: str | None = None,
        strict: bool = True,
        max_tokens: int = MAX_TOKENS,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        if not api_key or not (api_key.isascii() and api_key.isprintable()):
            raise ValueError("the API key must be printable ASCII")
        traits = model_traits(model)
        if not traits.forced_tool:
            raise ValueError(f"model {model} refuses a forced tool call; choose one that accepts it")
        import anthropic  # noqa: PLC0415 (takes seconds; only this decider needs it)
        import httpx2  # noqa: PLC0415

        self._sdk = anthropic
        self._model = model
        self._price = traits.price
        self._api_key = api_key
        self._client = anthropic.AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            max_retries=0,
            open_telemetry=False,
            http_client=anthropic.DefaultAsyncHttpxClient(
                # A redirect would carry the snapshot to a host nobody configured.
                follow_redirects=False,
                limits=httpx2.Limits(
                    max_connections=max_connections,
                    max_keepalive_connections=max_connections,
                    keepalive_expiry=KEEPALIVE_S,
                ),
            ),
        )
        self._create = self._client.messages.with_raw_response.create
        self._parameters: dict[str, Any] = {
            "model": model,
            "max_tokens": max_tokens,
            "tools": [tool_definition(strict=strict)],
            "tool_choice": {"type": "tool", "name": TOOL_NAME, "disable_parallel_tool_use": True},
        }
        if traits.thinks_unless_disabled:
            self._parameters["thinking"] = {"type": "disabled"}

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
        reading = await self._ask(prompt, budget_s=budget_s)
        price = self._price
        return Reply(
            outcome=reading.outcome,
            call=DeciderCall(
                name=self.name,
                model=self._model,
                prompt_version=prompt.version,
                prompt_hash=prompt.template_hash,
                latency_ms=round((time.monotonic() - started) * 1000),
                input_tokens=reading.usage.input,
                output_tokens=reading.usage.output,
                cache_read_tokens=reading.usage.cache_read,
                cache_write_tokens=reading.usage.cache_write,
                cost_usd=Decimal(0) if price is None else price.cost_usd(reading.usage),
                priced=price is not None,
                request_id=reading.request_id,
                stop_reason=reading.stop_reason,
                raw_reply=reading.raw_reply,
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _ask(self, prompt: Prompt, *, budget_s: float) -> "Reading":
        if budget_s <= 0:
            return _failed(ModelFailure.TIMEOUT, "no time was left to ask")
        try:
            async with asyncio.timeout(budget_s):
                response = await self._create(
                    **self._parameters,
                    system=[{"type": "text", "text": prompt.system, "cache_control": {"type": "ephemeral"}}],
                    messages=[{"role": "user", "content": prompt.user}],
                    timeout=budget_s,
                )
                body = await response.read()
        except (TimeoutError, self._sdk.APITimeoutError):
            return _failed(ModelFailure.TIMEOUT, f"no reply within {budget_s:.3g} s")
        except self._sdk.APIStatusError as error:
            return self._refused_by_status(error)
        except self._sdk.AnthropicError as error:  # the connection failed, before or during the reply
            return _failed(ModelFailure.UNAVAILABLE, f"the call failed: {type(error.__cause__ or error).__name__}")
        return self._record(read_message(body), body=body, request_id=response.request_id)

    def _refused_by_status(self, error: "anthropic.APIStatusError") -> "Reading":
        said: tuple[object, ...] = (error.type, error.api_message)  # read off a body nobody validated
        detail = " ".join((f"HTTP {error.status_code}", *(part for part in said if isinstance(part, str))))
        reading = _failed(ModelFailure.UNAVAILABLE, self._redact(detail))
        return self._record(reading, body=error.response.content, request_id=error.request_id)

    def _record(self, reading: "Reading", *, body: bytes, request_id: str | None) -> "Reading":
        """Add what is kept of every reply: its text without NUL (PostgreSQL), bounded, and the request's id."""
        text = self._redact(body.decode(errors="replace")).replace("\x00", "")
        return replace(
            reading,
            request_id=None if request_id is None else clean_text(request_id, limit=LABEL_LIMIT),
            raw_reply=text[:MAX_RAW_CHARACTERS],
        )

    def _redact(self, text: str) -> str:
        # A shorter key is a placeholder, and replacing it would garble the text.
        return text.replace(self._api_key, "[key]") if len(self._api_key) >= SHORTEST_SECRET else text


# --- reading a message ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Hold what was understood of one reply."""

    outcome: Proposal | DeciderFailure
    usage: Usage = Usage()
    stop_reason: str | None = None
    request_id: str | None = None
    raw_reply: str | None = None


def _failed(code: ModelFailure, detail: str) -> Reading:
    return Reading(outcome=DeciderFailure(code=code, detail=clean_text(detail, limit=DETAIL_LIMIT)))


def read_message(body: bytes) -> Reading:
    """Read the body of a successful response: a proposal, or what is wrong with it."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _failed(ModelFailure.INVALID, "the reply is not JSON")
    if not isinstance(message, dict):
        return _failed(ModelFailure.INVALID, "the reply is not a message")
    stop_reason = message.get("stop_reason")
    stopped = clean_text(stop_reason, limit=LABEL_LIMIT) if isinstance(stop_reason, str) else None
    return Reading(
        outcome=_outcome(message, stop_reason=stopped), usage=_usage(message.get("usage")), stop_reason=stopped
    )


def _outcome(message: dict[str, Any], *, stop_reason: str | None) -> Proposal | DeciderFailure:
    if stop_reason == "refusal":
        details = message.get("stop_details")
        category = details.get("category") if isinstance(details, dict) else None
        return _failure(ModelFailure.REFUSED, f"the model refused: {category}")
    if stop_reason in TRUNCATED:
        return _failure(ModelFailure.TRUNCATED, f"the reply was cut off: {stop_reason}")
    content = message.get("content")
    if not isinstance(content, list):
        return _failure(ModelFailure.INVALID, "the reply has no content")
    calls = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
    if [call.get("name") for call in calls] != [TOOL_NAME]:
        return _failure(ModelFailure.INVALID, f"expected one call of {TOOL_NAME}, found {len(calls)} tool calls")
    if stop_reason not in STOPPED_AS_ASKED:
        return _failure(ModelFailure.INVALID, f"unexpected stop_reason {stop_reason}")
    try:
        return parse_decision(calls[0].get("input"))
    except InvalidReplyError as error:
        return _failure(ModelFailure.INVALID, str(error))


def _failure(code: ModelFailure, detail: str) -> DeciderFailure:
    return DeciderFailure(code=code, detail=clean_text(detail, limit=DETAIL_LIMIT))


def _usage(usage: object) -> Usage:
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
