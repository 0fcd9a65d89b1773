"""Tests of the tool's schemas and of reading its input."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.proposal import (
    Candidate,
    Direction,
    EntryType,
    Manage,
    Mode,
    Proposal,
    Setup,
    WatchItem,
    candidate_fault,
)
from app.llm.wire import InvalidReplyError, parse_decision, tool_definition
from tests.llm.builders import wire_candidate, wire_decision, wire_manage

STRICT_KEYWORDS = {"type", "properties", "required", "additionalProperties", "items", "anyOf", "enum", "description"}
HUGE = "x" * 1_000_000


def nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Walk every schema inside a schema."""
    yield schema
    for inner in (*schema.get("properties", {}).values(), *schema.get("anyOf", ())):
        yield from nodes(inner)
    if "items" in schema:
        yield from nodes(schema["items"])


def candidate_of(**changes: Any) -> Candidate:
    """The domain's candidate of a reply whose one candidate has fields changed."""
    return parse_decision(wire_decision(candidates=[wire_candidate(**changes)])).candidates[0]


def detail_of(reply: object) -> str:
    """Why a reply is refused."""
    with pytest.raises(InvalidReplyError) as refusal:
        parse_decision(reply)
    return str(refusal.value)


def read_or_none(reply: object) -> Proposal | None:
    """The proposal of a reply, None where it is refused."""
    try:
        return parse_decision(reply)
    except InvalidReplyError:
        return None


# --- the schema ----------------------------------------------------------------------------------------


def test_the_strict_schema_holds_only_keywords_that_strict_tools_take() -> None:
    used = {keyword for node in nodes(tool_definition(strict=True)["input_schema"]) for keyword in node}

    assert used <= STRICT_KEYWORDS


@pytest.mark.parametrize("strict", [True, False])
def test_every_object_requires_all_its_fields_and_no_others(strict: bool) -> None:
    objects = [node for node in nodes(tool_definition(strict=strict)["input_schema"]) if node.get("type") == "object"]

    assert len(objects) == 4
    for node in objects:
        assert node["required"] == list(node["properties"])
        assert node["additionalProperties"] is False


def test_the_strict_schema_stays_within_the_documented_counts() -> None:
    all_nodes = list(nodes(tool_definition(strict=True)["input_schema"]))
    optional = [name for node in all_nodes for name in node.get("properties", {}) if name not in node["required"]]

    assert len([node for node in all_nodes if "anyOf" in node]) <= 16
    assert len(optional) <= 24


@pytest.mark.parametrize("strict", [True, False])
def test_the_fields_come_in_the_order_in_which_they_are_to_be_written(strict: bool) -> None:
    schema = tool_definition(strict=strict)["input_schema"]

    assert list(schema["properties"]) == ["mode", "candidates", "manage", "watchlist", "notes"]
    assert list(schema["properties"]["candidates"]["items"]["properties"]) == [
        "symbol",
        "direction",
        "setup",
        "entry_type",
        "entry_price",
        "stop_loss",
        "target_price",
        "time_stop_hours",
        "p_win_pct",
        "conviction",
        "thesis",
    ]


def test_the_vocabularies_are_the_domains() -> None:
    schema = tool_definition(strict=True)["input_schema"]
    candidate = schema["properties"]["candidates"]["items"]["properties"]

    assert schema["properties"]["mode"]["enum"] == list(Mode)
    assert candidate["direction"]["enum"] == list(Direction)
    assert candidate["setup"]["enum"] == list(Setup)
    assert candidate["entry_type"]["enum"] == list(EntryType)


def test_the_plain_schema_holds_the_ranges_and_the_strict_one_says_them() -> None:
    plain = tool_definition(strict=False)["input_schema"]["properties"]["candidates"]
    strict = tool_definition(strict=True)["input_schema"]["properties"]["candidates"]

    assert plain["maxItems"] == 3
    assert (
        plain["items"]["properties"]["p_win_pct"]["minimum"],
        plain["items"]["properties"]["p_win_pct"]["maximum"],
    ) == (1, 99)
    assert strict["description"].endswith("at most 3 items")
    assert strict["items"]["properties"]["p_win_pct"]["description"].endswith("at least 1; at most 99")


def test_only_the_strict_tool_says_that_it_is_strict() -> None:
    assert tool_definition(strict=True)["strict"] is True
    assert "strict" not in tool_definition(strict=False)


# --- what is read --------------------------------------------------------------------------------------


def test_a_reply_becomes_the_proposal_it_states() -> None:
    reply = wire_decision(
        watchlist=[{"symbol": "amd", "trigger": "above 200", "target_conviction": 60}], notes="One idea."
    )

    assert parse_decision(reply) == Proposal(
        mode=Mode.TRADE,
        candidates=(
            Candidate(
                symbol="NVDA",
                direction=Direction.LONG,
                setup=Setup.MOMENTUM,
                entry_type=EntryType.LIMIT,
                entry_price=Decimal("125.4"),
                stop_loss=Decimal("119.8"),
                target_price=Decimal("137"),
                time_stop_hours=120,
                p_win_pct=54,
                conviction=72,
                thesis="Trend intact above rising averages.",
            ),
        ),
        watchlist=(WatchItem(symbol="AMD", trigger="above 200", target_conviction=60),),
        notes="One idea.",
    )


def test_an_exit_becomes_the_wish_it_states() -> None:
    reply = wire_decision(
        mode="exit", candidates=[], manage=wire_manage(reduce_pct=33.5, new_stop=0, new_target=210.25)
    )

    assert parse_decision(reply).manage == Manage(
        symbol="AAPL",
        reduce_pct=Decimal("33.5"),
        new_stop=None,
        new_target=Decimal("210.25"),
        reason="Trend broke.",
    )


def test_a_reduction_by_0_stays_0_and_does_not_become_everything() -> None:
    reply = wire_decision(mode="exit", candidates=[], manage=wire_manage(reduce_pct=0))

    assert parse_decision(reply).manage == Manage(
        symbol="AAPL", reduce_pct=Decimal(0), new_stop=None, new_target=None, reason="Trend broke."
    )


@pytest.mark.parametrize("field", ["entry_price", "stop_loss", "target_price"])
@pytest.mark.parametrize("missing", [None, 0, 0.0, -0.0])
def test_a_price_of_null_or_0_is_missing(field: str, missing: float | None) -> None:
    assert getattr(candidate_of(**{field: missing}), field) is None


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0.1, "0.1"), (125, "125"), (1234.56, "1234.56"), (1e-7, "1E-7"), (9_999_999_999_999, "9999999999999")],
)
def test_a_price_is_read_without_binary_noise(number: float, expected: str) -> None:
    assert str(candidate_of(stop_loss=number).stop_loss) == expected


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("direction", " LONG", Direction.LONG),
        ("setup", "Mean_Reversion", Setup.MEAN_REVERSION),
        ("entry_type", "STOP_LIMIT", EntryType.STOP_LIMIT),
        ("symbol", " brk-b ", "BRK.B"),
        ("time_stop_hours", 48.0, 48),
        ("p_win_pct", 54.0, 54),
        ("conviction", 0, 0),
        ("conviction", 100, 100),
        ("p_win_pct", 1, 1),
        ("p_win_pct", 99, 99),
        ("time_stop_hours", 1, 1),
        ("time_stop_hours", 2160, 2160),
    ],
)
def test_a_field_is_read_whatever_its_letter_case_or_number_form(field: str, written: object, expected: object) -> None:
    read = getattr(candidate_of(**{field: written}), field)

    assert read == expected
    assert type(read) is type(expected)


def test_the_mode_is_read_whatever_its_letter_case() -> None:
    assert parse_decision(wire_decision(mode="Neutral")).mode is Mode.NEUTRAL


def test_texts_are_cleaned_and_clipped() -> None:
    reply = wire_decision(
        candidates=[wire_candidate(thesis="buy\u200b  now " + "word " * 60)],
        watchlist=[{"symbol": "NVDA", "trigger": "a\x00b\n" + HUGE, "target_conviction": 1}],
        notes="\U000e0041hidden",
        manage=wire_manage(reason="\u202eback"),
    )

    proposal = parse_decision(reply)

    # 40 words in all: "buy now" and 38 more.
    assert proposal.candidates[0].thesis == "buy now" + " word" * 38
    assert proposal.watchlist[0].trigger.startswith("ab x")
    assert len(proposal.watchlist[0].trigger) == 400
    assert proposal.notes == "hidden"
    assert proposal.manage is not None
    assert proposal.manage.reason == "back"


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("symbol", "NOT A SYMBOL", "is not a symbol"),
        ("symbol", "", "is not a symbol"),
        ("symbol", None, "valid string"),
        ("direction", "up", "must be one of long, short"),
        ("direction", 1, "instance of Direction"),
        ("setup", "vibes", "must be one of breakout"),
        ("entry_type", "twap", "must be one of market"),
        ("entry_price", "125.4", "valid number"),
        ("entry_price", True, "valid number"),
        ("stop_loss", float("nan"), "finite"),
        ("stop_loss", float("inf"), "finite"),
        ("stop_loss", -0.01, "greater than or equal to 0"),
        ("target_price", 1e13, "less than"),
        ("target_price", 10**400, "valid number"),
        ("target_price", [137], "valid number"),
        ("time_stop_hours", 0, "greater than or equal to 1"),
        ("time_stop_hours", 2161, "less than or equal to 2160"),
        ("time_stop_hours", 48.5, "valid integer"),
        ("time_stop_hours", float("nan"), "valid integer"),
        ("time_stop_hours", float("inf"), "valid integer"),
        ("p_win_pct", 0, "greater than or equal to 1"),
        ("p_win_pct", 100, "less than or equal to 99"),
        ("p_win_pct", 7.5, "valid integer"),
        ("p_win_pct", 0.54, "valid integer"),
        ("p_win_pct", "54", "valid integer"),
        ("p_win_pct", True, "valid integer"),
        ("p_win_pct", None, "valid integer"),
        ("conviction", -1, "greater than or equal to 0"),
        ("conviction", 101, "less than or equal to 100"),
        ("thesis", None, "valid string"),
        ("thesis", 7, "valid string"),
    ],
)
def test_a_candidate_out_of_shape_or_range_is_refused(field: str, value: object, reason: str) -> None:
    detail = detail_of(wire_decision(candidates=[wire_candidate(**{field: value})]))

    assert detail.startswith(f"candidates.0.{field}: ")
    assert reason in detail


@pytest.mark.parametrize("field", list(wire_candidate()))
def test_a_candidate_without_one_of_its_fields_is_refused(field: str) -> None:
    candidate = {name: value for name, value in wire_candidate().items() if name != field}

    assert detail_of(wire_decision(candidates=[candidate])) == f"candidates.0.{field}: Field required"


@pytest.mark.parametrize("field", list(wire_decision()))
def test_a_reply_without_one_of_its_fields_is_refused(field: str) -> None:
    reply = {name: value for name, value in wire_decision().items() if name != field}

    assert detail_of(reply) == f"{field}: Field required"


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (wire_decision(mode="hold"), "mode: must be one of trade, adjust, exit, neutral, watchlist"),
        (wire_decision(candidates=[]), "mode trade without candidates"),
        (wire_decision(mode="exit", candidates=[]), "mode exit without manage"),
        (wire_decision(mode="adjust", candidates=[]), "mode adjust without manage"),
        (wire_decision(size=100), "size: Extra inputs are not permitted"),
        (
            wire_decision(candidates=[wire_candidate(quantity=100)]),
            "candidates.0.quantity: Extra inputs are not permitted",
        ),
        (
            wire_decision(manage=wire_manage(reduce_pct=-1)),
            "manage.reduce_pct: Input should be greater than or equal to 0",
        ),
        (
            wire_decision(manage=wire_manage(reduce_pct=100.1)),
            "manage.reduce_pct: Input should be less than or equal to 100",
        ),
        (wire_decision(manage=wire_manage(symbol="?")), "manage.symbol: '?' is not a symbol"),
        (
            wire_decision(watchlist=[{"symbol": "NVDA", "trigger": "", "target_conviction": 101}]),
            "watchlist.0.target_conviction: Input should be less than or equal to 100",
        ),
    ],
)
def test_a_reply_that_does_not_fit_the_tool_is_refused(reply: object, detail: str) -> None:
    assert detail_of(reply) == detail


@pytest.mark.parametrize("field", ["candidates", "watchlist"])
def test_a_fourth_entry_is_refused(field: str) -> None:
    entry = wire_candidate() if field == "candidates" else {"symbol": "A", "trigger": "", "target_conviction": 1}

    assert f"{field}: List should have at most 3 items" in detail_of(wire_decision(**{field: [entry] * 4}))


@pytest.mark.parametrize("reply", [None, "trade", 7, True, [], [wire_decision()], json.dumps(wire_decision()), {}])
def test_what_is_not_an_object_of_the_tools_fields_is_refused(reply: object) -> None:
    assert detail_of(reply)


@pytest.mark.parametrize(
    "reply",
    [
        wire_decision(mode=HUGE),
        wire_decision(candidates=HUGE),
        wire_decision(**{HUGE: 1}),
        wire_decision(candidates=[wire_candidate(symbol=HUGE)]),
        wire_decision(candidates=[wire_candidate(direction=HUGE)]),
        wire_decision(**{"\u202e\x00": 1}),
    ],
)
def test_a_refusal_is_short_and_printable(reply: object) -> None:
    detail = detail_of(reply)

    assert len(detail) <= 200
    assert detail.isprintable()


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["trade", "exit", "NVDA", "long", "momentum", "limit", 0, 50, 1e13, 10**400])
)
arbitrary_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [(), *((name,) for name in wire_decision()), *(("candidates", 0, name) for name in wire_candidate())]
MANAGE_FIELDS = [("manage", name) for name in wire_manage()]


@given(path=st.sampled_from([*FIELDS, *MANAGE_FIELDS]), value=arbitrary_json)
def test_whatever_stands_in_a_field_the_reply_is_refused_or_within_every_range(
    path: tuple[Any, ...], value: object
) -> None:
    reply: Any = wire_decision(manage=wire_manage())
    if path:
        *way, last = path
        place = reply
        for step in way:
            place = place[step]
        place[last] = value
    else:
        reply = value
    proposal = read_or_none(reply)
    if proposal is None:
        return

    assert proposal.mode is not Mode.TRADE or 1 <= len(proposal.candidates) <= 3
    for candidate in proposal.candidates:
        assert candidate_fault(candidate) in (None, f"a {candidate.entry_type} entry needs an entry_price")
