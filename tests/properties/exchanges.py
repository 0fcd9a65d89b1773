"""Make what passes between the service and a model: a request, and whatever comes back over the wire.

Most answers are sound messages, some of them sent oddly (dripped, in chunks, padded to 5 MB); the others say
something wrong, or break the rules of HTTP. An exchange knows what must come of it where that is certain.
"""

import copy
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from tests import oracle
from tests.model_server import Answer, message, tool_call
from tests.properties import worlds as scenery
from tests.properties.replies import ANYTHING, PRICES, SCALARS, spoiled, tool_input, tool_inputs
from tests.properties.worlds import Draw, Record, World, between, pick, worlds

FRIDAY = datetime(2024, 11, 22, 15, 30, tzinfo=UTC)
"""In the past, for a service that does not look at the age of snapshots (as in replays)."""

SENT_ALONE = (
    scenery.spoil_market,
    scenery.spoil_quotes,
    scenery.add_bars,
    scenery.spoil_prices,
    scenery.spoil_words,
    scenery.tempt_a_probe,
    scenery.spoil_loss,
    scenery.spoil_account,
    scenery.spoil_positions,
)
"""Troubles that a request can bring; what they did to the store is undone."""

FIVE_MB = 5 * 1024 * 1024
BULK = "@5MB@"
"""Stands for 5 MB in a body, which nobody wants to see in a report."""


def as_json(value: Any) -> Any:
    """Decimals become the floats that JSON has, times become text."""
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def as_read(value: Any) -> Any:
    """Decimals become what a reader makes of their floats; times move from the worlds' Friday to ours."""
    if isinstance(value, dict):
        return {name: as_read(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_read(inner) for inner in value]
    if isinstance(value, datetime):
        return value - scenery.NOON + FRIDAY
    return Decimal(repr(float(value))) if isinstance(value, Decimal) else value


def dump(value: Any) -> bytes:
    """JSON as careless programs write it: NaN and Infinity bare, lone surrogates escaped."""
    return json.dumps(value).encode()


def is_json(value: Any) -> bool:
    """Whether a value has a form in JSON: NaN and the infinities have none."""
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def request_of(world: World, account_id: str) -> Record:
    """The world as the body of a request."""
    body: Record = as_json(
        {
            "account": world.account | {"id": account_id},
            "as_of": world.snapshot["as_of"],
            "market": world.snapshot["market"],
            "regime": world.snapshot["regime"],
        }
    )
    return body


@st.composite
def sent_worlds(draw: Draw, troubles: Any = SENT_ALONE) -> World:
    """A world as a request brings it to a service with default limits that never saw the account."""
    world: World = draw(worlds(troubles))
    world.snapshot, world.account, world.reply = (
        as_read(part) for part in (world.snapshot, world.account, world.reply)
    )
    world.state = scenery.empty_state(FRIDAY)
    world.policy = oracle.DEFAULT_POLICY | {"max_snapshot_age_s": 0}
    world.calibrator, world.calibrator_state, world.derated, world.serves_live = None, "off", False, True
    return world


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A world, and how the model's side answers the question about it.

    `sound`: the answer says just what the world's reply says. `reasons`: the reason codes it may end in, where it
    is certain to end without an order. `endless`: nobody waits for the end of it. `bulk` is repeated up to 5 MB
    in the place of BULK.
    """

    world: World
    kind: str
    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    drip_s: float = 0.0
    drip_bytes: int = 1
    delay_s: float = 0.0
    reset: bool = False
    zipped: bool = False
    bulk: bytes = b""
    sound: bool = False
    endless: bool = False
    reasons: tuple[str, ...] = ()

    def answer(self) -> Answer:
        """The answer as the stand-in for the model sends it."""
        body = self.body
        if self.bulk:
            body = body.replace(BULK.encode(), self.bulk * (FIVE_MB // len(self.bulk)))
        headers = dict(self.headers)
        if self.zipped:
            body, headers = gzip.compress(body, 1), headers | {"content-encoding": "gzip"}
        return Answer(
            status=self.status,
            body=body,
            headers=headers,
            raw=self.raw,
            drip_s=self.drip_s,
            drip_bytes=self.drip_bytes,
            delay_s=self.delay_s,
            reset=self.reset,
        )


KINDS = (
    *["sound"] * 54,
    *["sound, sent oddly"] * 9,
    *["input spoiled"] * 6,
    *["wrong symbol"] * 4,
    *["huge number"] * 4,
    *["extra field"] * 4,
    *["message spoiled"] * 3,
    *["any JSON"] * 3,
    *["any bytes"] * 3,
    *["cut off"] * 3,
    *["wrong length"] * 2,
    *["not HTTP"] * 2,
    *["error status"],
    *["5 MB"],
    *["endless"],
)
SMUGGLED = {
    "quantity": 1_000_000,
    "notional_usd": 1e9,
    "risk_bps": 10_000,
    "max_order_notional": 1e12,
    "account_id": "somebody-else",
    "approved": True,
    "should_execute": True,
    "verdict": "approved",
    "policy": {"max_leverage": 1000},
}
"""What the tool has no place for."""
HUGE = (1e12, 9_999_999_999_999.0, 1e13, 1e15, 1e300, 10**30, -(10**30), -1e300, 1e-300, 5e-324)
STRANGERS = ("QQQ", "YYYY", "NVDA.X", "BRK.B", "A")


@st.composite
def exchanges(draw: Draw) -> Exchange:
    """A world and an answer of any kind; most worlds are left alone where the answer is what is wrong."""
    kind = pick(draw, *KINDS)
    calm = sent_worlds((scenery.spoil_words,))
    world = draw(sent_worlds() | calm if kind == "sound" else calm)
    sound = message(tool_call(tool_input(world.reply)))
    said: Record = draw(WAYS[kind](world, sound))
    # The tool takes no negative price; then there is no reply that the oracle could read.
    prices = [candidate[name] for candidate in world.reply["candidates"] for name in PRICES]
    if any(price is not None and price < 0 for price in prices):
        said |= {"sound": False}
    return Exchange(world=world, kind=kind, **said)


def as_told(world: World, sound: Record) -> st.SearchStrategy[Record]:
    return st.just({"body": dump(sound), "sound": True})


@st.composite
def sent_oddly(draw: Draw, world: World, sound: Record) -> Record:
    """A sound message that takes a strange way: what it says still counts."""
    body = dump(sound)
    half = between(draw, 1, len(body) - 1)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
    strange: Record = {"type": "message_extra", "x" * 5000: [None, {"deep": [[[[]]]]}]}
    ways: list[Record] = [
        {"body": body, "drip_s": 0.0005, "drip_bytes": pick(draw, 50, 100, 400)},
        {"body": body, "delay_s": 0.005},
        {"body": body, "headers": {"content-type": pick(draw, "text/html", "", "application/xml; charset=utf-16")}},
        {"body": body, "headers": {"connection": "close", "retry-after": "-1", "request-id": "\xe9" * 300}},
        {"body": body, "zipped": True},
        {"raw": head("transfer-encoding: chunked", "connection: close") + chunks},
        {"raw": b"HTTP/1.0 200\r\n\r\n" + body},  # ends where the connection does
        {"body": dump(sound | strange)},
        {"body": dump(sound | {"content": [{"type": "text", "text": "Sure!"}, *sound["content"]]})},
        {"body": dump(sound | {name: draw(ANYTHING.filter(is_json)) for name in ("id", "model", "usage", "role")})},
    ]
    if between(draw, 0, 9) == 0:
        bulky = copy.deepcopy(sound)
        bulky["content"][0]["input"]["candidates"][0]["thesis"] = BULK
        ways = [
            {"body": body + BULK.encode(), "bulk": b" "},
            {"body": dump(bulky), "bulk": pick(draw, b"x", b"word ", b"\xe2\x80\x8b")},
            {"body": dump(sound | {"padding": BULK}), "bulk": b"x", "zipped": True},
        ]
    way: Record = draw(st.sampled_from(ways))
    return way | {"sound": True}


@st.composite
def another_input(draw: Draw, world: World, sound: Record) -> Record:
    """A message whose tool call says something else."""
    return {"body": dump(message(tool_call(draw(tool_inputs(world)))))}


@st.composite
def another_symbol(draw: Draw, world: World, sound: Record) -> Record:
    """Candidates in symbols that the snapshot does not hold; the oracle is told so too."""
    for candidate in world.reply["candidates"]:
        candidate["symbol"] = pick(draw, *STRANGERS)
    return {"body": dump(message(tool_call(tool_input(world.reply)))), "sound": True, "reasons": ("UNKNOWN_SYMBOL",)}


@st.composite
def another_number(draw: Draw, world: World, sound: Record) -> Record:
    """A number beyond all measure in the place of one of the candidate's."""
    call = tool_input(world.reply)
    candidate = pick(draw, *call["candidates"])
    for _ in range(pick(draw, 1, 1, 2, 3)):
        candidate[pick(draw, *PRICES, "time_stop_hours", "p_win_pct", "conviction")] = pick(draw, *HUGE)
    return {"body": dump(message(tool_call(call)))}


@st.composite
def another_field(draw: Draw, world: World, sound: Record) -> Record:
    """One field more than the tool has, somewhere in its input."""
    call = tool_input(world.reply)
    place = pick(draw, call, *call["candidates"])
    name = pick(draw, *SMUGGLED)
    place[name] = SMUGGLED[name]
    return {"body": dump(message(tool_call(call))), "reasons": ("MODEL_INVALID",)}


@st.composite
def another_message(draw: Draw, world: World, sound: Record) -> Record:
    return {"body": dump(draw(spoiled(sound)))}


@st.composite
def any_json(draw: Draw, world: World, sound: Record) -> Record:
    return {"body": dump(draw(ANYTHING)), "reasons": ("MODEL_INVALID",)}


@st.composite
def any_bytes(draw: Draw, world: World, sound: Record) -> Record:
    return {"body": draw(st.binary(max_size=200)), "reasons": ("MODEL_INVALID",)}


@st.composite
def cut_off(draw: Draw, world: World, sound: Record) -> Record:
    """A message that ends too early, with or without the length it was announced with."""
    body = dump(sound)
    kept = body[: between(draw, 0, len(body) - 1)]
    ways: tuple[Record, ...] = (
        {"body": kept, "reasons": ("MODEL_INVALID",)},
        {"raw": head(f"content-length: {len(body)}") + kept, "reasons": ("MODEL_UNAVAILABLE",)},
        {"raw": head("transfer-encoding: chunked") + b"%x\r\n" % len(body) + kept, "reasons": ("MODEL_UNAVAILABLE",)},
        {"raw": head(f"content-length: {len(body)}")[: between(draw, 0, 20)], "reasons": ("MODEL_UNAVAILABLE",)},
    )
    return dict(pick(draw, *ways))


@st.composite
def wrong_length(draw: Draw, world: World, sound: Record) -> Record:
    """A content-length that is not the body's."""
    body = dump(sound)
    ways: tuple[Record, ...] = (
        # Told to close: what follows the announced bytes would spoil the next question on the same connection.
        {
            "headers": {"content-length": str(between(draw, 0, len(body) - 1)), "connection": "close"},
            "reasons": ("MODEL_INVALID",),
        },
        {
            "raw": head(f"content-length: {len(body) + between(draw, 1, 10**6)}") + body,
            "reasons": ("MODEL_UNAVAILABLE",),
        },
        {
            "raw": head(f"content-length: {pick(draw, '-1', '1e3', 'many', '', '9' * 40)}") + body,
            "reasons": ("MODEL_UNAVAILABLE",),
        },
        {
            "raw": head(f"content-length: {len(body)}\r\ncontent-length: {len(body) - 1}") + body,
            "reasons": ("MODEL_UNAVAILABLE",),
        },
    )
    way: Record = pick(draw, *ways)
    return {"body": body} | way


@st.composite
def not_http(draw: Draw, world: World, sound: Record) -> Record:
    """What is no answer at all, or says that its body is coded as it is not."""
    body = dump(sound)
    ways: tuple[Record, ...] = (
        {"reset": True},
        {"raw": draw(st.binary(min_size=1, max_size=100))},
        {"raw": b"SSH-2.0-OpenSSH_9.9\r\n"},
        {"raw": body},
        {"raw": head("x" * 200_000) + body},
        {"body": body, "headers": {"content-encoding": pick(draw, "gzip", "deflate")}},
    )
    way: Record = pick(draw, *ways)
    return way | {"reasons": ("MODEL_UNAVAILABLE",)}


@st.composite
def error_status(draw: Draw, world: World, sound: Record) -> Record:
    """A status that is no success, whatever the body says."""
    status = pick(draw, 301, 307, 400, 401, 403, 404, 413, 418, 429, 500, 502, 503, 529, 599)
    said = pick(draw, sound, {}, {"error": draw(SCALARS)}, {"error": {"type": [], "message": {"x": "\x00"}}})
    return {
        "status": status,
        "body": dump(said),
        "headers": {"location": "http://127.0.0.1:1/"},
        "reasons": ("MODEL_UNAVAILABLE",),
    }


@st.composite
def five_megabytes(draw: Draw, world: World, sound: Record) -> Record:
    """5 MB that say nothing."""
    body = pick(draw, BULK.encode(), dump({"content": BULK}), dump(sound)[:-1] + BULK.encode())
    return {
        "body": body,
        "bulk": pick(draw, b"[", b"{", b"0", b"\x00", b"\xff", b'{"a":', b"[1,"),
        "zipped": pick(draw, False, True),
        "reasons": ("MODEL_INVALID",),
    }


@st.composite
def endless(draw: Draw, world: World, sound: Record) -> Record:
    """A sound message, byte by byte and without haste; or nothing for a long time."""
    return {
        "body": dump(sound),
        "endless": True,
        "reasons": ("MODEL_TIMEOUT",),
        **pick(draw, {"drip_s": 0.02}, {"drip_s": 0.02}, {"delay_s": 30.0}),
    }


def head(*lines: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode("latin-1")


WAYS = {
    "sound": as_told,
    "sound, sent oddly": sent_oddly,
    "input spoiled": another_input,
    "wrong symbol": another_symbol,
    "huge number": another_number,
    "extra field": another_field,
    "message spoiled": another_message,
    "any JSON": any_json,
    "any bytes": any_bytes,
    "cut off": cut_off,
    "wrong length": wrong_length,
    "not HTTP": not_http,
    "error status": error_status,
    "5 MB": five_megabytes,
    "endless": endless,
}
