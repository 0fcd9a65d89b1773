"""Make worlds to judge in: a market, an account, a store, a policy and a reply, as plain dicts.

A world starts sound: what a careful model would propose to a healthy account. Then up to three troubles are
drawn, and each spoils one thing, moves one thing to a limit, or (the first choice of most) does no harm. So a
good share of worlds ends in an order, and every code is within reach. Nothing here knows the service; the
shapes are those of `tests/oracle.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from hypothesis import strategies as st

from tests import oracle

Record: TypeAlias = dict[str, Any]
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

NOON = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)  # a Friday
SYMBOLS = ("NVDA", "AAPL", "XOM", "GLD", "ZZZZ")
BUCKET_MAP = {
    "NVDA": ["technology", "semiconductors", "ai"],
    "AAPL": ["technology"],
    "XOM": ["energy"],
    "GLD": ["metals"],
    # ZZZZ has none: unclassified
}
SETUPS = ("breakout", "mean_reversion", "momentum", "earnings_miss", "short_squeeze", "other")


@dataclass
class World:
    """All that one reply is judged by."""

    snapshot: Record
    account: Record
    state: Record
    reply: Record
    policy: Record = field(default_factory=lambda: dict(oracle.DEFAULT_POLICY))
    calibrator: tuple[float, float] | None = None
    calibrator_state: str = "off"
    derated: bool = False
    serves_live: bool = True
    troubles: list[str] = field(default_factory=list)

    def judged_by_oracle(self) -> Record:
        return oracle.decide(
            reply=self.reply,
            snapshot=self.snapshot,
            account=self.account,
            state=self.state,
            policy=self.policy,
            bucket_map=BUCKET_MAP,
            serves_live=self.serves_live,
            calibrator=self.calibrator,
            calibrator_state=self.calibrator_state,
            derated=self.derated,
        )

    @property
    def entries(self) -> dict[str, Record]:
        """The market's entries by symbol."""
        return {entry["symbol"]: entry for entry in self.snapshot["market"]}


def cents(count: int) -> Decimal:
    return Decimal(count) / 100


def between(draw: Draw, low: int, high: int) -> int:
    return int(draw(st.integers(low, high)))


def pick(draw: Draw, *options: Any) -> Any:
    return draw(st.sampled_from(options))


# ------------------------------------------------------------------------------------------- sound worlds


def empty_state(now: datetime = NOON) -> Record:
    return {
        "now": now,
        "halts": [],
        "live_confirmed": False,
        "reservations": [],
        "day_baseline_usd": None,
        "week_baseline_usd": None,
        "day_deepest_loss_usd": Decimal(0),
        "week_deepest_loss_usd": Decimal(0),
        "executed_notional_usd": Decimal(0),
        "earlier_sessions": 0,
        "approved_in_last_two": False,
        "position_buckets": {},
    }


def mid_of(entry: Record) -> Decimal:
    """Mid where both quotes are there, else the price."""
    bid, ask = entry.get("bid"), entry.get("ask")
    return entry["price"] if bid is None or ask is None else (bid + ask) / 2  # type: ignore[no-any-return]


def sound_symbol(draw: Draw, symbol: str) -> Record:
    price = between(draw, 200, 60_000)  # cents: $2 to $600
    atr = between(draw, max(1, price // 200), max(2, price // 12))  # 0.5 % to 8 %
    half_spread = between(draw, 0, min(price // 400, atr // 8))  # the spread: up to 0.5 % and a quarter of ATR
    mid = price + between(draw, -(price // 200), price // 200)
    entry: Record = {
        "symbol": symbol,
        "price": cents(price),
        "atr": cents(atr),
        "adv": Decimal(between(draw, 5, 30_000)) * 1_000_000,
        "shortable": True,
    }
    quoting = pick(draw, "quotes", "quotes", "quotes", "claim", "both")
    if quoting != "claim":
        entry |= {"bid": cents(mid - half_spread), "ask": cents(mid + half_spread)}
    if quoting != "quotes":
        entry["spread_pct"] = Decimal(between(draw, 0, 50)) / 10_000
    if draw(st.booleans()):
        entry["avg_volume"] = Decimal(between(draw, 100, 300_000)) * 1000
    if draw(st.booleans()):
        entry["market_cap"] = Decimal(between(draw, 300, 3_000_000)) * 1_000_000
    if pick(draw, False, False, True):
        entry["borrow_rate"] = Decimal(between(draw, 0, 3000)) / 10_000
    if pick(draw, False, False, True):
        entry["buckets"] = [pick(draw, "technology", "ai", "momentum")]
    return entry


def sound_candidate(draw: Draw, entry: Record) -> Record:
    """A plan whose stop, target and entry lie within the limits of the default policy."""
    sign = pick(draw, 1, 1, -1)
    atr, mid = atr_of(entry), mid_of(entry)
    kind = pick(draw, "market", "limit", "limit", "stop", "stop_limit")
    price = mid + Decimal(between(draw, -100, 100)) / 100 * atr
    if kind == "market":
        price = entry.get("ask" if sign > 0 else "bid") or mid
    nearer = min(price, mid) if sign > 0 else max(price, mid)
    stop = nearer - sign * Decimal(between(draw, 20, 250)) / 100 * atr
    loss = abs(price - stop)
    reward = min(loss * between(draw, 200, 400) / 100, 10 * atr)
    return {
        "symbol": entry["symbol"],
        "direction": "long" if sign > 0 else "short",
        "setup": draw(st.sampled_from(SETUPS)),
        "entry_type": kind,
        "entry_price": None if kind == "market" else price,
        "stop_loss": stop,
        "target_price": price + sign * reward,
        "time_stop_hours": between(draw, 1, 240),
        "p_win_pct": between(draw, 42, 80),
        "conviction": between(draw, 55, 100),
        "thesis": "",
    }


def sound_account(draw: Draw, entries: list[Record], taken: set[str]) -> Record:
    equity = Decimal(between(draw, 20, 3000)) * 1000
    account: Record = {
        "id": "paper-1",
        "equity": equity,
        "cash": equity * between(draw, 20, 110) / 100,
        "daily_pnl": equity * between(draw, -100, 200) / 10_000,
        "weekly_pnl": equity * between(draw, -200, 400) / 10_000,
        "positions": [],
    }
    if draw(st.booleans()):
        account["buying_power"] = equity * between(draw, 20, 200) / 100
    if draw(st.booleans()):
        account["daily_executed_notional"] = Decimal(between(draw, 0, 300)) * 1000
    prices = {entry["symbol"]: entry["price"] for entry in entries}
    for symbol in SYMBOLS:
        if symbol not in taken and pick(draw, False, False, True):
            account["positions"].append(sound_position(draw, symbol, prices.get(symbol), equity))
    return account


def sound_position(draw: Draw, symbol: str, price: Decimal | None, equity: Decimal) -> Record:
    """Up to 10 % of equity, with a stop up to 3 % away (up to 0.3 % of equity at risk)."""
    mark = price or cents(between(draw, 500, 50_000))
    quantity = int(equity * between(draw, 1, 100) / 1000 / mark) * pick(draw, 1, 1, -1)
    away = mark * between(draw, -20, 30) / 1000
    position: Record = {"symbol": symbol, "quantity": Decimal(quantity), "mark_price": mark}
    return position | {"stop_loss": mark - away if quantity > 0 else mark + away}


def sound_bars(draw: Draw, entry: Record) -> list[Record]:
    """Daily bars that ended yesterday, around the entry's price, whose ATR and ADV are near what it says."""
    count = pick(draw, 16, 21, 25, 30)
    close = entry["price"]
    step = atr_of(entry) / 2
    shares = (
        (entry["adv"] or Decimal(10_000_000))
        / close
        * pick(draw, Decimal("0.8"), Decimal("0.95"), Decimal(1), Decimal("1.2"))
    )
    day = NOON.replace(hour=0, minute=0)
    bars: list[Record] = []
    for ago in range(1, count + 1):
        opened = close + step * between(draw, -2, 2) / 4
        bars.append(
            {
                "t": day - timedelta(days=ago),
                "o": opened,
                "h": max(opened, close) + step,
                "l": min(opened, close) - step,
                "c": close,
                "v": shares.quantize(Decimal(1)),
            }
        )
        close = max(opened, step * 4)
    return bars[::-1]


# ---------------------------------------------------------------------------------------------- troubles


def first(world: World) -> Record:
    """The first candidate, the one that troubles befall."""
    candidate: Record = world.reply["candidates"][0]
    return candidate


def sign_of(candidate: Record) -> int:
    return 1 if candidate["direction"] == "long" else -1


def entry_of(world: World) -> Record:
    entries = world.entries
    return entries.get(first(world)["symbol"]) or next(iter(entries.values()))


def price_of(world: World) -> Decimal:
    """The entry price of the first candidate."""
    candidate, entry = first(world), entry_of(world)
    if candidate["entry_price"] is not None:
        return candidate["entry_price"]  # type: ignore[no-any-return]
    touch = entry.get("ask" if candidate["direction"] == "long" else "bid")
    return entry["price"] if touch is None or entry.get("bid") is None else touch  # type: ignore[no-any-return]


TINY = Decimal("0.0001")


def near(draw: Draw, limit: Decimal, step: Decimal = TINY) -> Decimal:
    """The limit, or just under or over it."""
    return limit + step * between(draw, -1, 1)


def atr_of(entry: Record) -> Decimal:
    """The ATR that was sent, or 2 % of price where an earlier trouble took it."""
    return entry["atr"] or entry["price"] / 50  # type: ignore[no-any-return]


def spoil_market(draw: Draw, world: World) -> None:
    """A market figure goes missing, to its limit, or wrong."""
    entry = entry_of(world)
    price = entry["price"]
    changes: tuple[Record, ...] = (
        {},
        {"atr": None},
        {"atr": Decimal(0)},
        {"adv": None},
        {"adv": Decimal(0)},
        {"adv": near(draw, Decimal(3_000_000), Decimal(1))},
        {"avg_volume": Decimal(0)},
        {"avg_volume": Decimal(1000)},
        {"market_cap": near(draw, Decimal(300_000_000), Decimal(1))},
        {"market_cap": Decimal(0)},
        {"shortable": None},
        {"shortable": False},
        {"borrow_rate": Decimal(2)},
        {"shortable": None},
        {"shortable": False},
        {"atr": atr_of(entry) * 3},
        {"atr": atr_of(entry) / 4},
        {"price": Decimal("0.99"), "atr": Decimal("0.03"), "bid": None, "ask": None, "spread_pct": TINY},
        {"price": price * Decimal("1.008")},
    )
    entry.update(pick(draw, *changes))


def spoil_quotes(draw: Draw, world: World) -> None:
    """Quotes go missing, cross, or leave the price."""
    entry = entry_of(world)
    price, atr = entry["price"], atr_of(entry)
    # The price may lie from mid by max(1 % of mid, half an ATR).
    far = max(price / 100, atr / 2)
    changes: tuple[Record, ...] = (
        {},
        {"bid": None, "ask": None, "spread_pct": None},
        {"bid": price, "ask": None},
        {"bid": None, "ask": price},
        {"bid": Decimal(0), "ask": price},
        {"bid": Decimal(-1), "ask": price},
        {"bid": price, "ask": price - TINY},
        {"bid": price, "ask": price},
        {"spread_pct": -TINY},
        {"bid": None, "ask": None, "spread_pct": near(draw, Decimal("0.01"))},
        {"bid": price * Decimal("0.995"), "ask": near(draw, price * Decimal("1.005"))},
        {"bid": price - far, "ask": near(draw, price - far)},
        {"bid": near(draw, price + far), "ask": price + far},
    )
    entry.update(pick(draw, *changes))


def add_bars(draw: Draw, world: World) -> None:
    """Bars are sent, clean or dirty, instead of or besides ATR and ADV."""
    entry = entry_of(world)
    bars = sound_bars(draw, entry)
    for missing in pick(draw, (), ("atr",), ("adv",), ("atr", "adv")):
        entry[missing] = None
    spoiled = dict(bars[between(draw, 0, len(bars) - 1)])
    match pick(draw, "clean", "clean", "dirty", "repeated", "unordered", "today", "old", "silent"):
        case "dirty":
            bars.insert(between(draw, 0, len(bars)), spoiled | {"h": spoiled["l"] / 2})
        case "repeated":
            bars.insert(bars.index(spoiled), spoiled | {"c": spoiled["o"]})
        case "unordered":
            bars.append(spoiled)
        case "silent":
            bars = [bar | {"v": Decimal(0)} for bar in bars]
        case "today":
            bars.append(spoiled | {"t": NOON.replace(hour=0, minute=0)})
        case "old":
            back = timedelta(days=between(draw, 5, 8))
            bars = [bar | {"t": bar["t"] - back} for bar in bars]
    entry["bars"] = bars


def spoil_prices(draw: Draw, world: World) -> None:
    """Entry, stop or target goes missing, to the wrong side, or to its limit."""
    candidate, entry = first(world), entry_of(world)
    price, atr, sign = price_of(world), atr_of(entry), sign_of(candidate)
    mid = mid_of(entry)
    changes: tuple[Record, ...] = (
        {},
        {"stop_loss": None},
        {"stop_loss": Decimal(0)},
        {"stop_loss": price},
        {"stop_loss": price + sign * atr},
        {"stop_loss": mid},
        {"stop_loss": near(draw, mid)},
        {"stop_loss": near(draw, price - sign * atr / 5)},
        {"stop_loss": near(draw, price - sign * atr)},
        {"stop_loss": near(draw, price - sign * 5 * atr)},
        {"target_price": None},
        {"target_price": Decimal(0)},
        {"target_price": near(draw, price)},
        {"target_price": price - sign * atr},
        {"target_price": near(draw, price + sign * 10 * atr)},
        {"target_price": price + sign * atr * Decimal("1.9"), "stop_loss": price - sign * atr},
        {"entry_type": "limit", "entry_price": near(draw, mid + atr * 3 / 2)},
        {"entry_type": "stop", "entry_price": near(draw, mid - atr * 3 / 2)},
        {"entry_type": "limit", "entry_price": None},
        {"entry_type": "stop_limit", "entry_price": Decimal(0)},
        {"entry_type": "market"},
    )
    candidate.update(pick(draw, *changes))


def exact_ratio(draw: Draw, world: World) -> None:
    """Without costs the risk-reward lies at its limit, or a hair beside it."""
    candidate, entry = first(world), entry_of(world)
    entry.update({"bid": entry["price"], "ask": entry["price"], "avg_volume": Decimal(10) ** 12})
    world.policy["commission_bps"] = Fraction(0)
    price, sign = price_of(world), sign_of(candidate)
    loss = abs(price - (candidate["stop_loss"] or price * Decimal("0.98")))
    candidate["target_price"] = price + sign * loss * near(draw, pick(draw, Decimal("1.8"), Decimal(2)))


def spoil_words(draw: Draw, world: World) -> None:
    """The candidate's symbol, conviction or probability changes."""
    changes: tuple[Record, ...] = (
        {},
        {"symbol": "QQQ"},
        {"conviction": between(draw, 0, 54)},
        {"conviction": between(draw, 44, 61)},
        {"conviction": pick(draw, 64, 65, 74, 75, 84, 85)},
        {"p_win_pct": between(draw, 1, 45)},
        {"p_win_pct": between(draw, 43, 46)},
        {"p_win_pct": 99},
        {"time_stop_hours": 2160},
    )
    first(world).update(pick(draw, *changes))


def tempt_a_probe(draw: Draw, world: World) -> None:
    """Conviction lies below the threshold, cash around 70 % of equity, the stop around one ATR."""
    candidate, account = first(world), world.account
    candidate["conviction"] = between(draw, 40, 59)
    account["cash"] = near(draw, account["equity"] * pick(draw, Decimal("0.7"), Decimal("0.9")))
    price, atr, sign = price_of(world), atr_of(entry_of(world)), sign_of(candidate)
    candidate["stop_loss"] = near(draw, price - sign * atr * pick(draw, 1, Decimal("0.8")))
    candidate["target_price"] = price + sign * atr * 3
    world.state["earlier_sessions"] = between(draw, 0, 3)
    world.state["approved_in_last_two"] = pick(draw, False, False, True)
    world.snapshot["regime"] = pick(draw, None, "bull_trend", "high_volatility")


def paralyse(draw: Draw, world: World) -> None:
    """Sessions without an entry, and up to three candidates of which the first lies below the probe minimum."""
    candidates, entry = world.reply["candidates"], entry_of(world)
    while len(candidates) < 3 and pick(draw, True, True, True, False):
        candidates.append(sound_candidate(draw, entry) | {"conviction": between(draw, 48, 60)})
    tempt_a_probe(draw, world)
    candidates[0]["conviction"] = between(draw, 20, 54)
    world.account["cash"] = world.account["equity"]
    world.state["earlier_sessions"] = pick(draw, 2, 2, 3, 1)


def spoil_loss(draw: Draw, world: World) -> None:
    """The day's or week's P&L goes missing, to its limit, or is outdone by what the store knows."""
    account, state = world.account, world.state
    equity = account["equity"]
    # A loss of x % of baseline: equity = 0.98 baseline, so pnl = -equity x 2/98 (as exactly as cents go).
    at_limit = (-equity * 2 / 98).quantize(Decimal("0.01"))
    changes: tuple[tuple[Record, Record], ...] = (
        ({}, {}),
        ({"daily_pnl": None}, {}),
        ({"weekly_pnl": None}, {}),
        ({"daily_pnl": None}, {"day_baseline_usd": equity * Decimal("1.01")}),
        ({"daily_pnl": Decimal(0)}, {"day_baseline_usd": near(draw, equity / Decimal("0.98"))}),
        ({"daily_pnl": near(draw, at_limit)}, {}),
        ({"daily_pnl": -equity / 49}, {"day_baseline_usd": equity}),
        ({"weekly_pnl": near(draw, -equity / 20)}, {"week_baseline_usd": equity}),
        ({}, {"day_deepest_loss_usd": equity * between(draw, 5, 30) / 1000, "day_baseline_usd": equity}),
        ({}, {"week_deepest_loss_usd": equity * between(draw, 20, 60) / 1000}),
        ({"daily_pnl": equity}, {}),
        ({"weekly_pnl": equity * 2}, {"week_baseline_usd": equity / 2}),
    )
    sent, stored = pick(draw, *changes)
    account.update(sent)
    state.update(stored)


def spoil_account(draw: Draw, world: World) -> None:
    """The account is small, poor, busy, or already exposed."""
    account, state = world.account, world.state
    equity = account["equity"]
    changes: tuple[tuple[Record, Record], ...] = (
        ({}, {}),
        ({"equity": Decimal(between(draw, 50, 5000)), "daily_pnl": Decimal(0), "weekly_pnl": Decimal(0)}, {}),
        ({"cash": Decimal(0), "buying_power": None}, {}),
        ({"cash": -equity / 10}, {}),
        ({"buying_power": Decimal(between(draw, -50, 500))}, {}),
        ({"daily_executed_notional": Decimal(between(draw, 4900, 5010)) * 100}, {}),
        ({}, {"executed_notional_usd": Decimal(between(draw, 4900, 5010)) * 100}),
    )
    sent, stored = pick(draw, *changes)
    account.update(sent)
    state.update(stored)


def spoil_positions(draw: Draw, world: World) -> None:
    """A position lacks a mark or stop, fills a limit, or lies in the candidate's own symbol."""
    account, entry = world.account, entry_of(world)
    held = {position["symbol"] for position in account["positions"]}
    symbol = pick(draw, entry["symbol"], *SYMBOLS, "YYYY")
    if symbol in held:
        return
    known = world.entries.get(symbol)
    mark = known["price"] if known else Decimal(50)
    quantity = Decimal(int(account["equity"] * between(draw, 0, 60) / 100 / mark)) * pick(draw, 1, 1, -1)
    position = {"symbol": symbol, "quantity": quantity, "mark_price": mark * pick(draw, 1, Decimal("1.1"))}
    position |= {"stop_loss": mark * pick(draw, Decimal("0.999"), 1, Decimal("1.001"))}
    position |= pick(draw, {}, {}, {}, {"mark_price": None}, {"stop_loss": None}, {"quantity": Decimal(0)})
    account["positions"].append(position)
    if draw(st.booleans()):
        world.state["position_buckets"][symbol] = (pick(draw, "technology", "energy", "unclassified"),)


def reserve(draw: Draw, world: World) -> None:
    """Tickets that nobody released still count."""
    equity, entry = world.account["equity"], entry_of(world)
    buckets = (*BUCKET_MAP.get(entry["symbol"], ("unclassified",)), *entry.get("buckets", ()))
    for _ in range(between(draw, 1, 2)):
        symbol = pick(draw, "AAPL", "XOM", "YYYY", "GLD", entry["symbol"])
        world.state["reservations"].append(
            {
                "symbol": symbol,
                "direction": pick(draw, "long", "short"),
                "quantity": Decimal(10),
                "notional_usd": equity * between(draw, 1, 30) / 100,
                "risk_usd": equity * between(draw, 0, 40) / 10_000,
                "buckets": pick(draw, tuple(BUCKET_MAP.get(symbol, ("unclassified",))), buckets),
            }
        )


def pass_time(draw: Draw, world: World) -> None:
    """The snapshot is old, or from the future."""
    age = timedelta(microseconds=1) * between(draw, -1, 1) + timedelta(
        seconds=pick(draw, 30, 60, 60, -5, -5, 600, -600)
    )
    world.state["now"] = world.snapshot["as_of"] + age


def go_live(draw: Draw, world: World) -> None:
    """The account is live; whether the service, the decider and a person allow it is another matter."""
    world.account["mode"] = "live"
    world.policy["live_allowed"] = pick(draw, True, True, False)
    world.policy["require_live_confirm"] = pick(draw, True, True, False)
    world.state["live_confirmed"] = draw(st.booleans())
    world.serves_live = pick(draw, True, True, False)


def halt(draw: Draw, world: World) -> None:
    world.state["halts"] = pick(draw, [], ["halted"], ["reduce_only"], ["reduce_only", "halted"])


def change_reply(draw: Draw, world: World) -> None:
    """The model proposes nothing."""
    failures = ("MODEL_TIMEOUT", "MODEL_UNAVAILABLE", "MODEL_REFUSED", "MODEL_TRUNCATED", "MODEL_INVALID")
    silent: list[Record] = [{"failure": code} for code in failures]
    silent += [{"mode": mode, "candidates": kept} for mode in ("neutral", "watchlist") for kept in ([], [first(world)])]
    silent += [{"mode": "trade", "candidates": []}]
    world.reply = pick(draw, world.reply, *silent)


def change_policy(draw: Draw, world: World) -> None:
    """Another limit, or another level of aggressiveness, is in force."""
    changes: tuple[Record, ...] = (
        {},
        {"aggressiveness_level": 0},
        {"aggressiveness_level": 2},
        {"aggressiveness_level": 3},
        {"aggressiveness_level": 3, "min_risk_reward": Fraction(1)},
        {"conviction_threshold": 70},
        {"conviction_threshold": 90},
        {"per_trade_risk_bps": Fraction(200)},
        {"max_symbol_exposure_pct": Fraction("0.03")},
        {"max_bucket_exposure_pct": Fraction("0.12")},
        {"max_leverage": Fraction("0.5")},
        {"max_order_notional": Fraction(2000)},
        {"max_daily_notional": Fraction(20_000)},
        {"max_adv_participation": Fraction("0.0001")},
        {"min_order_notional": Fraction(5000)},
        {"min_ev_pct": Fraction("0.01")},
        {"min_risk_reward": Fraction("2.5")},
        {"min_p_win": Fraction("0.6"), "min_risk_reward": Fraction("2.5")},
        {"kelly_fraction": Fraction("0.01")},
        {"kelly_fraction": Fraction(0)},
        {"commission_bps": Fraction(0)},
        {"commission_bps": Fraction(20)},
        {"max_stop_atr": Fraction("0.9")},
        {"min_stop_atr": Fraction(1)},
        {"price_collar_atr": Fraction("0.5")},
        {"max_target_atr": Fraction(3)},
        {"max_snapshot_age_s": 0, "live_allowed": False},
        {"max_daily_loss_pct": Fraction("0.005")},
    )
    world.policy.update(pick(draw, *changes))


TROUBLES = (
    spoil_market,
    spoil_quotes,
    add_bars,
    spoil_prices,
    exact_ratio,
    spoil_words,
    tempt_a_probe,
    paralyse,
    spoil_loss,
    spoil_account,
    spoil_positions,
    reserve,
    pass_time,
    go_live,
    halt,
    change_policy,
    change_reply,  # last: after it there is no candidate to spoil
)


@st.composite
def worlds(
    draw: Draw, troubles: tuple[Callable[[Draw, World], None], ...] = TROUBLES, most_candidates: int = 3
) -> World:
    """A world with up to three troubles."""
    listed = draw(st.permutations(SYMBOLS))[: between(draw, 1, 3)]
    market = [sound_symbol(draw, symbol) for symbol in listed]
    candidates = [
        sound_candidate(draw, draw(st.sampled_from(market)))
        for _ in range(min(pick(draw, 1, 1, 2, 3), most_candidates))
    ]
    world = World(
        snapshot={
            "as_of": NOON,
            "regime": draw(st.sampled_from((None, *filter(None, oracle.REGIMES)))),
            "market": market,
        },
        account=sound_account(draw, market, {candidate["symbol"] for candidate in candidates}),
        state=empty_state(NOON + timedelta(seconds=between(draw, 0, 60))),
        reply={"mode": "trade", "candidates": candidates},
    )
    if pick(draw, False, False, True):
        world.calibrator = (between(draw, -50, 50) / 100, between(draw, 50, 150) / 100)
        world.calibrator_state = pick(draw, "on", "on", "on", "shadow", "off")
    world.derated = pick(draw, False, False, False, True)
    if pick(draw, False, False, False, True):
        world.policy["scale_out"] = "thirds"
    world.serves_live = pick(draw, True, True, False)
    count = min(pick(draw, 1, 1, 2, 1, 2, 3), len(troubles))
    chosen = draw(st.lists(st.integers(0, len(troubles) - 1), min_size=count, max_size=count, unique=True))
    for index in sorted(chosen):
        troubles[index](draw, world)
        world.troubles.append(troubles[index].__name__)
    return world
