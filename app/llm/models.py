"""Know the models: what each accepts, what it costs, and how tokens are counted."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

MILLION: Final = Decimal(1_000_000)


class ReplyForm(StrEnum):
    """Say how a model is made to answer in our schema: as the input of a forced tool, or as formatted text."""

    FORCED_TOOL = "forced_tool"
    OUTPUT_FORMAT = "output_format"


class Thinking(StrEnum):
    """Say what is asked about thinking; default sends nothing and leaves it to the model."""

    DISABLED = "disabled"
    BETWEEN_TOOLS = "between_tools"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Count the tokens of one call; `input` leaves out what the cache read or wrote."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def prompt(self) -> int:
        """Count what was sent, cached or not."""
        return self.input + self.cache_read + self.cache_write


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
        is_long = self.long_prompt is not None and usage.prompt > self.long_prompt
        return price * self.long_factor if is_long else price


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraits:
    """Hold what must be known to call a model: an unsupported parameter is an error of every call.

    `thinking` is the least thinking that may be asked for; asking for less is an error.
    """

    forced_tool: bool = True
    thinking: Thinking = Thinking.DEFAULT
    may_disable_thinking: bool = True
    always_thinks: bool = False
    price: ModelPrice | None = None


_THINKS: Final = ModelTraits(thinking=Thinking.DISABLED)
_ALWAYS_THINKS: Final = ModelTraits(forced_tool=False, may_disable_thinking=False, always_thinks=True)

MODELS: Final[Mapping[str, ModelTraits]] = MappingProxyType(
    {
        "claude-haiku-5-5": ModelTraits(
            thinking=Thinking.DISABLED,
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
        "claude-sonnet-5-5": ModelTraits(
            forced_tool=False, thinking=Thinking.BETWEEN_TOOLS, may_disable_thinking=False, always_thinks=True
        ),
        "claude-opus-5-5": _ALWAYS_THINKS,
        "claude-fable-5": _ALWAYS_THINKS,
        "claude-fable-5-1": _ALWAYS_THINKS,
        "claude-fable-5-2": _ALWAYS_THINKS,
        "claude-mythos-5": _ALWAYS_THINKS,
        "claude-mythos-5-1": _ALWAYS_THINKS,
        "claude-mythos-5-2": _ALWAYS_THINKS,
        "claude-mythos-preview": _ALWAYS_THINKS,
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
