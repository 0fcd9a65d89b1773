"""Make what a model might reply: what it should, nearly that, and anything at all that JSON (or less) can hold."""

import copy
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests.properties.worlds import Draw, Record, World, between, pick

PRICES = ("entry_price", "stop_loss", "target_price")

NASTY: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7.5,
    -0.0,
    1e-12,
    1e13,
    1e300,
    10**30,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "0.5",
    "NaN",
    "long",
    "LONG ",
    "NVDA; DROP TABLE llm_decisions",
    "\x00",
    "\u202eevil\u200b",
    "\ud800",
    [],
    {},
    [[]],
    {"value": 1},
)
"""What no field expects, or some do and others must not take."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(("trade", "exit", "NVDA", "long", "mode", "candidates"))
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(("mode", "candidates", "manage", "notes", "x")), inner, max_size=5)
    ),
    max_leaves=12,
)


def number(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def tool_input(reply: Record) -> Record:
    """The tool's input that says what a world's reply says."""
    candidates = [
        candidate | {name: number(candidate[name]) for name in PRICES} for candidate in reply.get("candidates", ())
    ]
    return {
        "mode": reply.get("mode", "neutral"),
        "candidates": candidates,
        "manage": None,
        "watchlist": [],
        "notes": "",
    }


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but its root."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def spoiled(draw: Draw, sound: Any) -> Any:
    """A JSON value with one to three places replaced, taken away, doubled or added to."""
    node = copy.deepcopy(sound)
    for _ in range(pick(draw, 1, 1, 2, 3)):
        *path, last = draw(st.sampled_from(list(places(node)) or [("x",)]))
        parent = node
        for key in path:
            parent = parent[key]
        if last not in (parent if isinstance(parent, dict) else range(len(parent))):
            continue
        match pick(draw, "replace", "replace", "replace", "remove", "add"):
            case "replace":
                parent[last] = draw(st.sampled_from(NASTY) | SCALARS)
            case "remove":
                del parent[last]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(("approved", "quantity", "spread_ok", "")))] = draw(SCALARS)
            case _:
                parent.append(parent[last])
    return node


@st.composite
def manages(draw: Draw, world: World) -> Record:
    """A wish to exit or adjust something, held or not."""
    held = [position["symbol"] for position in world.account["positions"]]
    mark = between(draw, 1, 60_000) / 100
    return {
        "mode": pick(draw, "exit", "adjust"),
        "candidates": [],
        "manage": {
            "symbol": draw(st.sampled_from((*held, "AAPL"))),
            "reduce_pct": pick(draw, None, 0, 0.001, 50, 100, 100.5),
            "new_stop": pick(draw, None, 0, mark),
            "new_target": pick(draw, None, 0, mark),
            "reason": "",
        },
        "watchlist": [],
        "notes": "",
    }


@st.composite
def tool_inputs(draw: Draw, world: World) -> Any:
    """What a model might put into the tool: half of the time what it should."""
    sound = tool_input(world.reply)
    match pick(draw, "sound", "sound", "sound", "sound", "sound", "spoiled", "spoiled", "manage", "anything"):
        case "spoiled":
            return draw(spoiled(sound))
        case "manage":
            manage = draw(manages(world))
            return draw(st.just(manage) | spoiled(manage))
        case "anything":
            return draw(ANYTHING)
        case _:
            return sound
