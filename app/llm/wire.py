"""Define the one tool a model may call, and turn its input into a Proposal.

The pydantic models below are the single source: their vocabularies are the domain's enums, their ranges the
domain's, and both JSON schemas are generated from them. A strict tool's schema may hold no range and no length,
so there they become words in descriptions, and they are checked here whatever an endpoint promised. This file
alone checks the shape of a reply: what passes is a Proposal, what does not is an error, nothing is repaired.

A reply that is streamed is asked for in another order: first how many candidates there will be, the candidates
last, so that every number has arrived while the last thesis is still being written. `read_early` knows when.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from app.domain.proposal import (
    CONVICTION_RANGE,
    MAX_CANDIDATES,
    MAX_THESIS_WORDS,
    MAX_WATCHLIST,
    P_WIN_PCT_RANGE,
    TIME_STOP_HOURS_RANGE,
    Candidate,
    Direction,
    EntryType,
    Manage,
    Mode,
    Proposal,
    Setup,
    WatchItem,
)
from app.domain.symbols import normalize_symbol
from app.domain.text import clean_text, first_words

TOOL_NAME: Final = "submit_decision"
TEXT_LIMIT: Final = 400
"""Characters kept of each text a model writes."""
DETAIL_LIMIT: Final = 200
EARLY_LIMIT: Final = 16 * 1024
"""A longer reply is not looked at before it is whole: each look reads it from its start."""
COUNT: Final = "candidate_count"
STREAMED_ORDER: Final = ("mode", COUNT, "watchlist", "manage", "candidates", "notes")
FORMAT_NOTE: Final = (
    f"There is no tool here: answer with the JSON object that {TOOL_NAME} would take, and nothing else."
)
"""What an endpoint that refuses a forced tool is told besides the prompt."""


class InvalidReplyError(ValueError):
    """Say in one short line which field of a tool input is wrong, and why."""


def _word(vocabulary: type[StrEnum]) -> BeforeValidator:
    """Read a word whatever its letter case, which strict tools do not guarantee."""
    words = {str(word): word for word in vocabulary}

    def read(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return words[value.strip().lower()]
        except KeyError as error:
            raise ValueError("must be one of " + ", ".join(words)) from error

    return BeforeValidator(read)


def _whole(value: object) -> object:
    """Read 48.0 as 48, which is one number in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _clean(text: str) -> str:
    return clean_text(text, limit=TEXT_LIMIT)


def _thesis(text: str) -> str:
    return first_words(_clean(text), count=MAX_THESIS_WORDS)


def _field(description: str, *, within: tuple[float, float] | None = None) -> Any:
    low, high = within or (None, None)
    return Field(description=description, ge=low, le=high)


_Symbol = Annotated[str, AfterValidator(normalize_symbol)]
_Text = Annotated[str, AfterValidator(_clean)]
_Whole = Annotated[int, BeforeValidator(_whole)]
_Price = Annotated[float, Field(ge=0, lt=1e13, allow_inf_nan=False)] | None
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None


class _Wire(BaseModel):
    # Strict: no text for a number, no bool for a number, no number for text.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class WireCandidate(_Wire):
    """One entry idea."""

    symbol: _Symbol = _field("as in the data")
    direction: Annotated[Direction, _word(Direction)]
    setup: Annotated[Setup, _word(Setup)]
    entry_type: Annotated[EntryType, _word(EntryType)]
    entry_price: _Price = _field("null for a market entry")
    stop_loss: _Price = _field("where the idea is wrong")
    target_price: _Price = _field("where it pays")
    time_stop_hours: _Whole = _field("when the idea expires", within=TIME_STOP_HOURS_RANGE)
    p_win_pct: _Whole = _field(
        "percent probability that the target trades before the stop and before the time stop", within=P_WIN_PCT_RANGE
    )
    conviction: _Whole = _field("how good the idea is", within=CONVICTION_RANGE)
    thesis: Annotated[str, AfterValidator(_thesis)] = _field(f"why, in at most {MAX_THESIS_WORDS} words")

    def candidate(self) -> Candidate:
        """Make the domain's candidate."""
        return Candidate(
            symbol=self.symbol,
            direction=self.direction,
            setup=self.setup,
            entry_type=self.entry_type,
            entry_price=_price(self.entry_price),
            stop_loss=_price(self.stop_loss),
            target_price=_price(self.target_price),
            time_stop_hours=self.time_stop_hours,
            p_win_pct=self.p_win_pct,
            conviction=self.conviction,
            thesis=self.thesis,
        )


class WireManage(_Wire):
    """A wish to reduce or adjust one held position."""

    symbol: _Symbol = _field("a held symbol")
    reduce_pct: _Percent = _field("percent of the position to close; null: all on exit, none on adjust")
    new_stop: _Price
    new_target: _Price
    reason: _Text

    def manage(self) -> Manage:
        """Make the domain's wish."""
        return Manage(
            symbol=self.symbol,
            reduce_pct=None if self.reduce_pct is None else _decimal(self.reduce_pct),
            new_stop=_price(self.new_stop),
            new_target=_price(self.new_target),
            reason=self.reason,
        )


class WireWatchItem(_Wire):
    """One symbol to act on later."""

    symbol: _Symbol
    trigger: _Text = _field("what would make it a trade")
    target_conviction: _Whole = _field("conviction it would then have", within=CONVICTION_RANGE)


class WireDecision(_Wire):
    """The whole input of the tool, in the order in which it should be written."""

    mode: Annotated[Mode, _word(Mode)]
    candidate_count: Annotated[_Whole, Field(ge=0, le=MAX_CANDIDATES)] | None = Field(
        default=None, description="how many candidates you will give"
    )
    candidates: Annotated[list[WireCandidate], Field(max_length=MAX_CANDIDATES)] = _field(
        "best first; for mode trade only"
    )
    manage: WireManage | None = _field("for mode exit or adjust only, else null")
    watchlist: Annotated[list[WireWatchItem], Field(max_length=MAX_WATCHLIST)]
    notes: _Text = _field("short, or empty")

    @model_validator(mode="after")
    def _says_what_its_mode_needs(self) -> Self:
        if self.mode is Mode.TRADE and not self.candidates:
            raise ValueError("mode trade without candidates")
        if self.mode in (Mode.EXIT, Mode.ADJUST) and self.manage is None:
            raise ValueError(f"mode {self.mode} without manage")
        if self.candidate_count is not None and self.candidate_count != len(self.candidates):
            raise ValueError(f"{len(self.candidates)} candidates where {self.candidate_count} were announced")
        return self

    def proposal(self) -> Proposal:
        """Make the domain's proposal."""
        return Proposal(
            mode=self.mode,
            candidates=tuple(item.candidate() for item in self.candidates),
            manage=None if self.manage is None else self.manage.manage(),
            watchlist=tuple(
                WatchItem(symbol=item.symbol, trigger=item.trigger, target_conviction=item.target_conviction)
                for item in self.watchlist
            ),
            notes=self.notes,
        )


def _decimal(number: float) -> Decimal:
    # The shortest text that reads back as the same number: what the model wrote, without binary noise.
    return Decimal(repr(number).removesuffix(".0"))


def _price(number: float | None) -> Decimal | None:
    """Make a price; 0 is a price nobody named, as null is."""
    return _decimal(number) if number else None


def parse_decision(tool_input: object) -> Proposal:
    """Check a tool input and make it a Proposal.

    Raises:
        InvalidReplyError: it does not fit the tool; the first fault is named, huge text is not echoed.
    """
    try:
        return WireDecision.model_validate(tool_input).proposal()
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:40] for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        detail = f"{place}: {reason}" if place else reason
        raise InvalidReplyError(clean_text(detail, limit=DETAIL_LIMIT)) from None


# --- before the reply has ended ------------------------------------------------------------------------


def read_early(text: str) -> Proposal | None:
    """Read the beginning of a tool input: its proposal once all but the last text is there, until then None.

    Whatever is not on the way to the last thing written is complete. So nothing that is judged can still change when
    the last thing written is a text: the thesis of the last candidate announced, the reason of an exit when no
    candidates are, or the notes. Such a text is empty in the proposal, as are the texts after it.
    """
    written = _LAST_TEXT.search(text) if len(text) <= EARLY_LIMIT else None
    if written is None:
        return None
    try:
        begun = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None
    if not isinstance(begun, dict) or not _is_last_text(begun, name=written[1]):
        return None
    try:
        return parse_decision({"candidates": []} | begun | {"notes": ""})
    except InvalidReplyError:
        return None  # whoever reads the whole reply will say what is wrong


_LAST_TEXT: Final = re.compile(r'"(thesis|reason|notes)"\s*:\s*"(?:[^"\\]|\\.)*(?:"[\s}\]]*)?$')
"""A text that is being written, or has just been and is followed by nothing but closing brackets."""


def _is_last_text(begun: dict[str, Any], *, name: str) -> bool:
    """Tell whether the text being written is the last that comes; if so, empty it."""
    last, count = next(reversed(begun)), begun.get(COUNT)
    if name == "notes":
        return last == "notes"
    if name == "reason":
        return last == "manage" and count == 0 and _emptied(begun["manage"], name)
    candidates = begun.get("candidates")
    return (
        last == "candidates"
        and isinstance(candidates, list)
        and len(candidates) == count != 0
        and _emptied(candidates[-1], name)
    )


def _emptied(fields: object, name: str) -> bool:
    """Empty a text if it is the last field; tell whether it was."""
    if not isinstance(fields, dict) or not fields or next(reversed(fields)) != name:
        return False
    fields[name] = ""
    return True


def judged_alike(early: Proposal, whole: Proposal) -> bool:
    """Tell whether two proposals differ in nothing but texts that no judgement reads."""
    return _without_texts(early) == _without_texts(whole)


def _without_texts(proposal: Proposal) -> Proposal:
    return replace(
        proposal,
        candidates=tuple(replace(candidate, thesis="") for candidate in proposal.candidates),
        manage=None if proposal.manage is None else replace(proposal.manage, reason=""),
        notes="",
    )


# --- the schema ----------------------------------------------------------------------------------------

_IN_WORDS: Final[Mapping[str, Callable[[Any], str]]] = MappingProxyType(
    {
        "minimum": "at least {}".format,
        "maximum": "at most {}".format,
        "exclusiveMaximum": "below {:g}".format,
        "maxItems": "at most {} items".format,
    }
)
"""The keywords of our schema that a strict tool refuses, and how a description says them."""


@cache
def tool_definition(*, strict: bool, streamed: bool = False) -> dict[str, Any]:
    """Give the tool as the Messages API takes it; callers must not change it.

    A strict tool's input always has the schema's shape, but the schema can hold no ranges; the plain one holds
    them, for endpoints that do not know strict tools. `streamed` is the order that `read_early` is made for.
    """
    tool: dict[str, Any] = {"name": TOOL_NAME, "description": "Submit the one decision for this snapshot."}
    schema = decision_schema(strict=strict, streamed=streamed)
    return tool | {"strict": True, "input_schema": schema} if strict else tool | {"input_schema": schema}


@cache
def decision_schema(*, strict: bool, streamed: bool = False) -> dict[str, Any]:
    """Give the JSON schema of a decision; callers must not change it."""
    source = WireDecision.model_json_schema(ref_template="{model}")
    schema = _resolve({"$ref": WireDecision.__name__}, source.pop("$defs") | {WireDecision.__name__: source})
    fields = schema["properties"]
    announced = {"type": "integer", "description": fields.pop(COUNT)["description"], "maximum": MAX_CANDIDATES}
    if streamed:
        fields = {name: fields.get(name, announced) for name in STREAMED_ORDER}
    schema |= {"properties": fields, "required": list(fields)}
    whole: dict[str, Any] = _without_ranges(schema) if strict else schema
    return whole


def _resolve(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Put every definition where it is referred to, and leave out titles and docstrings."""
    if isinstance(node, list):
        return [_resolve(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        definition = {key: value for key, value in definitions[node["$ref"]].items() if key != "description"}
        node = definition | {key: value for key, value in node.items() if key != "$ref"}
    return {
        key: {name: _resolve(value, definitions) for name, value in inner.items()}
        if key == "properties"
        else _resolve(inner, definitions)
        for key, inner in node.items()
        if key != "title"
    }


def _without_ranges(node: Any) -> Any:
    """Move ranges and lengths into descriptions."""
    if isinstance(node, list):
        return [_without_ranges(item) for item in node]
    if not isinstance(node, dict):
        return node
    words = [say(node[keyword]) for keyword, say in _IN_WORDS.items() if keyword in node]
    kept = {key: _without_ranges(value) for key, value in node.items() if key not in _IN_WORDS}
    if words:
        described = [kept["description"]] if "description" in kept else []
        kept["description"] = "; ".join(described + words)
    return kept
