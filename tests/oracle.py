"""Judge entries a second time, from the rulebook alone, to check the service against.

Nothing here comes from `app`: plain dicts go in and come out, every number is a `Fraction` (exact, so a limit
is a limit and not a rounding of it), and the code follows the rulebook's paragraphs rather than any layering.
It is meant to be read next to the rulebook and to be slow, dull and right. Entries only: exits and adjusts
follow other rules.

Shapes (symbols in their canonical spelling; numbers are Decimal, int, str or Fraction, never float):

- `snapshot`: `as_of` (aware datetime), `regime` or None, `market`: list of dicts with the field names of the
  request (rulebook §2), `bars` being a list of `{"t", "o", "h", "l", "c", "v"}`, daily, `t` an aware datetime;
- `account`: the request's account object;
- `state`: what the store knows: `now`, `halts` (list of "halted" / "reduce_only"), `live_confirmed`,
  `reservations` (list of dicts), `day_baseline_usd`, `week_baseline_usd`, `day_deepest_loss_usd`,
  `week_deepest_loss_usd`, `executed_notional_usd`, `earlier_sessions`, `approved_in_last_two`,
  `position_buckets`;
- `reply`: `{"failure": "MODEL_..."}` or `{"mode": ..., "candidates": [...]}`;
- `policy`: the lower-case names of rulebook §4, as `DEFAULT_POLICY`;
- `bucket_map`: symbol to bucket names; `calibrator`: None or `(intercept, slope)`,
  `calibrator_state`: "off", "shadow" or "on", `derated`: the record holds sizes down.

Where the rulebook leaves a choice, a comment starting with "Reading:" says what was chosen.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

F = Fraction
Record: TypeAlias = dict[str, Any]
Number: TypeAlias = Decimal | Fraction | str | int
Status: TypeAlias = tuple[str, str | None]
BucketLists: TypeAlias = Mapping[str, Sequence[str]]
Calibrator: TypeAlias = tuple[float, float] | None

DEFAULT_POLICY: Record = {
    "per_trade_risk_bps": F(50),
    "max_daily_loss_pct": F("0.02"),
    "max_weekly_loss_pct": F("0.05"),
    "min_adv": F(3000000),
    "max_spread_pct": F("0.01"),
    "max_adv_participation": F("0.10"),
    "min_price": F(1),
    "min_market_cap": F(300000000),
    "max_bucket_exposure_pct": F("0.35"),
    "max_symbol_exposure_pct": F("0.20"),
    "max_leverage": F(2),
    "max_order_notional": F(50000),
    "max_daily_notional": F(500000),
    "min_order_notional": F(100),
    "min_ev_pct": F(0),
    "min_risk_reward": F("1.8"),
    "min_p_win": F("0.45"),
    "aggressiveness_level": 1,
    "conviction_threshold": 55,
    "kelly_fraction": F("0.25"),
    "atr_mult_trend": F("1.2"),
    "atr_mult_reversion": F("0.8"),
    "max_stop_atr": F(5),
    "min_stop_atr": F("0.2"),
    "price_collar_atr": F("1.5"),
    "max_target_atr": F(10),
    "max_snapshot_age_s": 60,
    "commission_bps": F("0.5"),
    "live_allowed": False,
    "require_live_confirm": True,
    "scale_out": "off",
}

# §4: level: action threshold, probe minimum, multipliers for conviction <=64, 65-74, 75-84, >=85
LEVELS: dict[int, tuple[int, int, tuple[Fraction, Fraction, Fraction, Fraction]]] = {
    0: (60, 55, (F("0.20"), F("0.40"), F("0.60"), F("0.80"))),
    1: (55, 50, (F("0.30"), F("0.60"), F("0.85"), F("1.00"))),
    2: (52, 48, (F("0.35"), F("0.70"), F("0.95"), F("1.00"))),
    3: (50, 45, (F("0.40"), F("0.80"), F("1.00"), F("1.00"))),
}

# §7: regime: multiplier of risk_bps for longs, for shorts
REGIMES: dict[str | None, tuple[Fraction, Fraction]] = {
    None: (F(1), F(1)),
    "bull_trend": (F(1), F("0.85")),
    "bear_trend": (F("0.85"), F(1)),
    "high_volatility": (F("0.7"), F("0.7")),
    "low_volatility": (F(1), F(1)),
    "risk_on": (F(1), F("0.9")),
    "risk_off": (F("0.75"), F(1)),
}

# §5, in the order of the report
GATES = (
    "kill_switch",
    "live_interlock",
    "proposal_valid",
    "snapshot_fresh",
    "quotes",
    "duplicate_intent",
    "price_collar",
    "stop",
    "target",
    "min_adv",
    "spread",
    "min_price",
    "market_cap",
    "borrow",
    "daily_loss",
    "weekly_loss",
    "conviction",
    "p_win",
    "risk_reward",
    "expected_value",
    "size",
)

PASS: Status = ("pass", None)
NOT_APPLICABLE: Status = ("not_applicable", None)


def block(code: str) -> Status:
    return ("block", code)


def passes_unless(broken: bool, code: str) -> Status:
    return block(code) if broken else PASS


def number(value: Number) -> Fraction:
    """Turn a number of any exact kind into a Fraction."""
    if isinstance(value, float):
        raise TypeError("the oracle takes no floats: say the decimal as a string")
    return Fraction(value)


def optional(value: Number | None) -> Fraction | None:
    """As `number`; None stays None."""
    return None if value is None else number(value)


def nonzero(value: Number | None) -> Fraction | None:
    """As `optional`, where zero says no more than None."""
    return optional(value) or None


# ------------------------------------------------------------------------------------------ §2: the market


class Symbol(NamedTuple):
    """What counts about one symbol; None is missing."""

    price: Fraction
    mid: Fraction
    bid: Fraction  # the touches; the price where there are no quotes to trust
    ask: Fraction
    quotes: Status
    spread: Fraction | None
    atr: Fraction | None
    adv: Fraction | None
    avg_volume: Fraction | None
    market_cap: Fraction | None
    shortable: bool | None
    borrow_rate: Fraction
    buckets: tuple[str, ...]


class DailyBar(NamedTuple):
    t: datetime
    high: Fraction
    low: Fraction
    close: Fraction
    volume: Fraction


def usable_bars(bars: Sequence[Record], as_of: datetime) -> list[DailyBar]:
    """Give the clean daily bars that were known at `as_of`, oldest first.

    Reading: "high < low, high < open" stands for every bar whose prices cannot be: open or close outside
    [low, high], or a price of 0 or less.
    Reading: of two bars with one time or in the wrong order, the one later in the list is the dirty one.
    Reading: "more than 7 days old" is counted from the bar's own time, its day's midnight.
    """
    clean: list[DailyBar] = []
    for bar in bars:
        opened, high, low, close, volume = (number(bar[name]) for name in "ohlcv")
        possible = 0 < low <= min(opened, close) and max(opened, close) <= high and volume >= 0
        if possible and (not clean or bar["t"] > clean[-1].t):
            clean.append(DailyBar(bar["t"], high, low, close, volume))
    known = [bar for bar in clean if bar.t.astimezone(UTC).date() < as_of.astimezone(UTC).date()]
    if known and as_of - known[-1].t > timedelta(days=7):
        return []
    return known


def wilder_atr(bars: Sequence[DailyBar]) -> Fraction | None:
    """ATR(14): the mean of the first 14 true ranges, then (13 x ATR + TR) / 14; 15 bars at least."""
    if len(bars) < 15:
        return None
    ranges = [
        max(bar.high - bar.low, abs(bar.high - before.close), abs(bar.low - before.close))
        for before, bar in pairwise(bars)
    ]
    atr = sum(ranges[:14], F(0)) / 14
    for true_range in ranges[14:]:
        atr = (13 * atr + true_range) / 14
    return atr


def dollar_volume(bars: Sequence[DailyBar]) -> Fraction | None:
    """ADV: the mean of close x volume over the last 20 bars.

    Reading: fewer than 20 bars give none (a shorter mean is another statistic).
    """
    if len(bars) < 20:
        return None
    return sum((bar.close * bar.volume for bar in bars[-20:]), F(0)) / 20


def settle_claim(sent: Fraction | None, computed: Fraction | None, worse: Any) -> Fraction | None:
    """Choose between a sent figure and the recomputed one: more than 10 % apart, the worse counts."""
    if sent is None or computed is None:
        return sent if computed is None else computed
    return worse(sent, computed) if abs(sent - computed) > computed / 10 else sent


def quotes_contradict(entry: Record, price: Fraction, atr: Fraction | None) -> bool:
    """Crossed, one-sided, 0 or less, a negative claimed spread, or too far from the price."""
    bid, ask, claimed = (optional(entry.get(name)) for name in ("bid", "ask", "spread_pct"))
    if claimed is not None and claimed < 0:
        return True
    if bid is None or ask is None:
        return bid is not ask
    if bid <= 0 or ask <= 0 or bid > ask:
        return True
    mid = (bid + ask) / 2
    return abs(price - mid) > max(mid / 100, (atr or F(0)) / 2)


def buckets_of(symbol: str, bucket_map: BucketLists, added: Iterable[str]) -> tuple[str, ...]:
    """The shipped buckets, then the request's; symbols with none at all share `unclassified`."""
    return tuple(dict.fromkeys((*bucket_map.get(symbol, ()), *added))) or ("unclassified",)


def resolve_symbol(entry: Record, as_of: datetime, bucket_map: BucketLists) -> Symbol:
    """Work out what one snapshot entry says."""
    price = number(entry["price"])
    bars = usable_bars(entry.get("bars") or [], as_of)
    atr = settle_claim(nonzero(entry.get("atr")), wilder_atr(bars) or None, max)
    # Reading: bars without any volume contradict every sent ADV; the smaller figure, 0, counts, and is missing.
    adv = settle_claim(nonzero(entry.get("adv")), dollar_volume(bars), min) or None

    bid, ask = optional(entry.get("bid")), optional(entry.get("ask"))
    spread = optional(entry.get("spread_pct"))
    mid, touches = price, (price, price)
    contradiction = quotes_contradict(entry, price, atr)
    if contradiction:
        spread = None
    elif bid is not None and ask is not None:  # quotes replace a claimed spread
        mid, touches = (bid + ask) / 2, (bid, ask)
        spread = (ask - bid) / mid
    # Reading: with neither bid nor ask there are no quotes to check (a negative claimed spread blocks all the same).
    quotes = passes_unless(contradiction, "QUOTES_INCONSISTENT")
    if quotes == PASS and bid is None and ask is None:
        quotes = NOT_APPLICABLE
    return Symbol(
        price=price,
        mid=mid,
        bid=touches[0],
        ask=touches[1],
        quotes=quotes,
        spread=spread,
        atr=atr,
        adv=adv,
        avg_volume=nonzero(entry.get("avg_volume")),
        market_cap=optional(entry.get("market_cap")),
        shortable=entry.get("shortable"),
        borrow_rate=optional(entry.get("borrow_rate")) or F(0),
        buckets=buckets_of(entry["symbol"], bucket_map, entry.get("buckets") or ()),
    )


# ----------------------------------------------------------------------------------------- §2: the account


class Loss(NamedTuple):
    baseline: Fraction
    so_far: Fraction


def period_loss(account: Record, state: Record, *, sent: str, period: str) -> Loss | None:
    """Measure the loss of a day or week; None when neither a stored mark nor a P&L is known.

    Reading: a P&L that leaves a baseline of 0 or less contradicts the equity and tells nothing.
    """
    equity, pnl = number(account["equity"]), optional(account.get(sent))
    baseline = optional(state[f"{period}_baseline_usd"])
    if baseline is None and pnl is not None:
        baseline = equity - pnl
    if baseline is None or baseline <= 0:
        return None
    losses = [F(0), number(state[f"{period}_deepest_loss_usd"]), baseline - equity]
    if pnl is not None:
        losses.append(-pnl)
    return Loss(baseline, max(losses))


class Book(NamedTuple):
    """What positions and live reservations already use; `missing` names what could not be known."""

    missing: str | None
    gross: Fraction
    by_symbol: dict[str, Fraction]
    by_bucket: dict[str, Fraction]
    open_risk: Fraction
    reserved: Fraction
    reserved_risk: Fraction


def value_positions(account: Record, resolved: Mapping[str, Symbol]) -> dict[str, Fraction | None]:
    """Value each held share at the larger of its mark and the snapshot's price; None when there is neither."""
    marks: dict[str, Fraction | None] = {}
    for position in account["positions"]:
        symbol = position["symbol"]
        known = [nonzero(position.get("mark_price")), resolved[symbol].price if symbol in resolved else None]
        marks[symbol] = max((mark for mark in known if mark is not None), default=None)
    return marks


def open_book(account: Record, state: Record, resolved: Mapping[str, Symbol], bucket_map: BucketLists) -> Book:
    """Count positions at mark, and every live reservation.

    Reading: the open risk of a long is measured from the same larger value; that of a short from the smaller of
    mark and price, or a dearer short would look safer (ADR 0004).
    Reading: a position's stop of 0 is no stop.
    """
    held = [position for position in account["positions"] if number(position["quantity"]) != 0]
    marks = value_positions(account, resolved)
    missing = None
    if any(nonzero(position.get("stop_loss")) is None for position in held):
        missing = "MISSING_POSITION_STOP"
    if any(marks[position["symbol"]] is None for position in held):
        missing = "MISSING_MARK"

    taken: list[tuple[str, Iterable[str], Fraction]] = []
    open_risk = F(0)
    for position in held:
        symbol, quantity = position["symbol"], number(position["quantity"])
        mark, stop = marks[symbol], nonzero(position.get("stop_loss"))
        if mark is None:
            continue
        if stop is not None:
            known = [nonzero(position.get("mark_price")), resolved[symbol].price if symbol in resolved else None]
            lowest = min(value for value in known if value is not None)
            open_risk += max(F(0), mark - stop if quantity > 0 else stop - lowest) * abs(quantity)
        now = resolved[symbol].buckets if symbol in resolved else buckets_of(symbol, bucket_map, ())
        taken.append((symbol, state["position_buckets"].get(symbol) or now, abs(quantity) * mark))
    reservations = state["reservations"]
    taken.extend((entry["symbol"], entry["buckets"], number(entry["notional_usd"])) for entry in reservations)

    by_symbol: dict[str, Fraction] = {}
    by_bucket: dict[str, Fraction] = {}
    for symbol, buckets, notional in taken:
        by_symbol[symbol] = by_symbol.get(symbol, F(0)) + notional
        for bucket in buckets:
            by_bucket[bucket] = by_bucket.get(bucket, F(0)) + notional
    return Book(
        missing=missing,
        gross=sum((notional for _, _, notional in taken), F(0)),
        by_symbol=by_symbol,
        by_bucket=by_bucket,
        open_risk=open_risk,
        reserved=sum((number(entry["notional_usd"]) for entry in reservations), F(0)),
        reserved_risk=sum((number(entry["risk_usd"]) for entry in reservations), F(0)),
    )


# ------------------------------------------------------------------------------------- §7: edge and costs


def calibrated(p: Fraction, calibrator: Calibrator, state: str) -> Fraction | None:
    """Platt: logistic(intercept + slope x logit p), in shadow and on."""
    if state == "off":
        return None
    assert calibrator is not None
    intercept, slope = calibrator
    score = intercept + slope * math.log(float(p) / (1 - float(p)))
    return F(1 / (1 + math.exp(-score)))


def cost_without_impact(candidate: Record, entry: Fraction, symbol: Symbol, policy: Record) -> Fraction:
    """C without impact: the spread (half of it once or twice), two commissions, a short's borrow."""
    assert symbol.spread is not None
    half_spreads = 2 if candidate["entry_type"] in ("stop", "stop_limit") else 1
    rate = half_spreads * symbol.spread / 2 + 2 * policy["commission_bps"] / 10000
    if candidate["direction"] == "short":
        rate += symbol.borrow_rate * F(candidate["time_stop_hours"]) / 8760
    return F(entry * rate)


def impact(quantity: int, symbol: Symbol) -> Fraction:
    """One side's market impact as a fraction of entry: sigma_day x sqrt(quantity / average daily shares)."""
    assert symbol.atr is not None
    assert symbol.adv is not None
    shares = symbol.avg_volume or symbol.adv / symbol.price
    sigma_day = float(symbol.atr) / (1.596 * float(symbol.price))
    return F(sigma_day * math.sqrt(float(quantity / shares)))


def risk_reward(loss: Fraction, reward: Fraction, cost: Fraction) -> Fraction:
    return (reward - cost) / (loss + cost)


def kelly(p: Fraction, b: Fraction) -> Fraction:
    return p - (1 - p) / b if b > 0 else F(0)


def reach(theta: float, ratio: float) -> float:
    """Chance that a diffusion with constant drift reaches +ratio before -1 (in units of the planned loss).

    (e^theta - 1) / (e^theta - e^(-theta ratio)), written so that nothing overflows for either sign.
    """
    if abs(theta) < 1e-9:
        return 1 / (1 + ratio)
    if theta > 0:
        return math.expm1(-theta) / math.expm1(-theta * (1 + ratio))
    return math.expm1(theta) / math.expm1(theta * (1 + ratio)) * math.exp(theta * ratio)


def drift(p: float, ratio: float) -> float:
    """The theta at which `reach(theta, ratio)` is p, by bisection (reach grows with theta)."""
    low, high = -1000.0, 1000.0
    for _ in range(200):
        middle = (low + high) / 2
        if reach(middle, ratio) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def expected_value(p: Fraction, loss: Fraction, reward: Fraction, cost: Fraction, scale_out: str) -> Fraction:
    """EV_R, in units of loss + cost."""
    if scale_out == "off":
        return p * risk_reward(loss, reward, cost) - (1 - p)
    theta = drift(float(p), float(reward / loss))
    total = F(0)
    for distance in (min(loss, reward), min(2 * loss, reward), reward):
        reached = F(reach(theta, float(distance / loss)))
        total += (reached * (distance - cost) / (loss + cost) - (1 - reached)) / 3
    return total


# ---------------------------------------------------------------------------------------------- §6: sizing


def thresholds(policy: Record) -> tuple[int, int]:
    """(action threshold, probe minimum) of the configured level."""
    level = policy["aggressiveness_level"]
    threshold, probe_minimum, _ = LEVELS[level]
    return (max(threshold, policy["conviction_threshold"]) if level in (0, 1) else threshold), probe_minimum


def band_multiplier(conviction: int, policy: Record) -> Fraction:
    """Size multiplier of a conviction; below the action threshold half the lowest band, probe or not."""
    lowest, second, third, highest = LEVELS[policy["aggressiveness_level"]][2]
    if conviction < thresholds(policy)[0]:
        return lowest / 2
    if conviction <= 64:
        return lowest
    if conviction <= 74:
        return second
    return third if conviction <= 84 else highest


# ----------------------------------------------------------------------------------------------- §5: gates


class Case(NamedTuple):
    """All that one candidate is judged by."""

    candidate: Record
    snapshot: Record
    account: Record
    state: Record
    policy: Record
    bucket_map: BucketLists
    serves_live: bool
    calibrator: Calibrator
    calibrator_state: str
    derated: bool
    resolved: dict[str, Symbol]
    waived: bool  # the probe minimum is waived (anti-paralysis)

    @property
    def symbol(self) -> Symbol | None:
        return self.resolved.get(self.candidate["symbol"])

    @property
    def is_long(self) -> bool:
        return bool(self.candidate["direction"] == "long")

    @property
    def is_probe(self) -> bool:
        """A permitted probe: enough conviction (or waived), cash > 70 % of equity, no high volatility."""
        threshold, probe_minimum = thresholds(self.policy)
        conviction = self.candidate["conviction"]
        return bool(
            conviction < threshold
            and (conviction >= probe_minimum or self.waived)
            and number(self.account["cash"]) > F("0.7") * number(self.account["equity"])
            and self.snapshot.get("regime") != "high_volatility"
        )

    def loss(self, period: str) -> Loss | None:
        if period == "daily":
            return period_loss(self.account, self.state, sent="daily_pnl", period="day")
        return period_loss(self.account, self.state, sent="weekly_pnl", period="week")


def kill_switch(case: Case) -> Status:
    if "halted" in case.state["halts"]:
        return block("HALTED")
    return passes_unless("reduce_only" in case.state["halts"], "REDUCE_ONLY")


def live_interlock(case: Case) -> Status:
    """Reading: a decider that must never serve live mode (§8) is LIVE_NOT_ALLOWED there."""
    if case.account.get("mode", "paper") != "live":
        return NOT_APPLICABLE
    if not case.policy["live_allowed"] or not case.serves_live:
        return block("LIVE_NOT_ALLOWED")
    unconfirmed = case.policy["require_live_confirm"] and not case.state["live_confirmed"]
    return passes_unless(unconfirmed, "LIVE_NOT_CONFIRMED")


def proposal_valid(case: Case) -> Status:
    """Refuse an unknown symbol, a negative price, and an order without the entry price that its type needs.

    Reading: with two faults, that of the symbol is named; nothing else could be looked up.
    """
    if case.symbol is None:
        return block("UNKNOWN_SYMBOL")
    prices = [optional(case.candidate.get(name)) for name in ("entry_price", "stop_loss", "target_price")]
    negative = any(price is not None and price < 0 for price in prices)
    unpriced = case.candidate["entry_type"] != "market" and not prices[0]
    return passes_unless(negative or unpriced, "PROPOSAL_INVALID")


def snapshot_fresh(case: Case) -> Status:
    """Reading: MAX_SNAPSHOT_AGE_S = 0 turns off the age, not the look into the future."""
    age, limit = case.state["now"] - case.snapshot["as_of"], case.policy["max_snapshot_age_s"]
    if age < timedelta(seconds=-5):
        return block("FUTURE_SNAPSHOT")
    return passes_unless(limit != 0 and age > timedelta(seconds=limit), "STALE_SNAPSHOT")


def duplicate_intent(case: Case) -> Status:
    """Reading: with both sides open in the symbol, the first code of the table is given."""
    symbol = case.candidate["symbol"]
    held = [number(p["quantity"]) for p in case.account["positions"] if p["symbol"] == symbol]
    sides = {"long" if quantity > 0 else "short" for quantity in held if quantity != 0}
    sides |= {r["direction"] for r in case.state["reservations"] if r["symbol"] == symbol}
    if case.candidate["direction"] in sides:
        return block("DUPLICATE_INTENT")
    return passes_unless(bool(sides), "OPPOSITE_POSITION")


def period_gate(case: Case, period: str) -> Status:
    loss = case.loss(period)
    if loss is None:
        return block(f"MISSING_{period.upper()}_PNL")
    limit = case.policy[f"max_{period}_loss_pct"]
    return passes_unless(loss.so_far / loss.baseline >= limit, f"{period.upper()}_LOSS_LIMIT")


def conviction(case: Case) -> Status:
    enough = case.candidate["conviction"] >= thresholds(case.policy)[0] or case.is_probe
    return passes_unless(not enough, "LOW_CONVICTION")


def market_gates(case: Case, symbol: Symbol) -> dict[str, Status]:
    """What the market says of the symbol, whatever the plan."""
    policy = case.policy
    gates = {
        "quotes": symbol.quotes,
        "min_adv": block("MISSING_ADV")
        if symbol.adv is None
        else passes_unless(symbol.adv < policy["min_adv"], "ILLIQUID"),
        "min_price": passes_unless(symbol.price < policy["min_price"], "PRICE_TOO_LOW"),
    }
    if symbol.spread is not None:
        gates["spread"] = passes_unless(symbol.spread > policy["max_spread_pct"], "SPREAD_TOO_WIDE")
    elif symbol.quotes[0] != "block":
        gates["spread"] = block("MISSING_SPREAD")
    if symbol.market_cap is not None:
        gates["market_cap"] = passes_unless(symbol.market_cap < policy["min_market_cap"], "MICROCAP")
    if not case.is_long:
        gates["borrow"] = (
            block("MISSING_SHORTABLE")
            if symbol.shortable is None
            else passes_unless(not symbol.shortable, "NOT_SHORTABLE")
        )
    return gates


class Plan(NamedTuple):
    """Entry, stop and target of a candidate; None is missing."""

    entry: Fraction
    stop: Fraction | None
    target: Fraction | None


def plan_of(case: Case, symbol: Symbol) -> Plan:
    """A market order is judged at the far touch, every other at its own price."""
    candidate = case.candidate
    entry = symbol.ask if case.is_long else symbol.bid
    if candidate["entry_type"] != "market":
        entry = number(candidate["entry_price"])
    return Plan(entry, nonzero(candidate.get("stop_loss")), nonzero(candidate.get("target_price")))


def price_collar(case: Case, symbol: Symbol, plan: Plan) -> Status:
    if symbol.atr is None:
        return block("MISSING_ATR")
    too_far = abs(plan.entry - symbol.mid) > case.policy["price_collar_atr"] * symbol.atr
    return passes_unless(too_far, "PRICE_COLLAR")


def stop_gate(case: Case, symbol: Symbol, plan: Plan) -> Status:
    """Reading: a side needs no ATR to be wrong, so it is looked at before the ATR is missed."""
    if plan.stop is None:
        return block("STOP_MISSING")
    above = [plan.entry] + [symbol.mid] * (case.candidate["entry_type"] in ("market", "limit"))
    if any(plan.stop >= price if case.is_long else plan.stop <= price for price in above):
        return block("STOP_WRONG_SIDE")
    if symbol.atr is None:
        return block("MISSING_ATR")
    width = abs(plan.entry - plan.stop) / symbol.atr
    if width < case.policy["min_stop_atr"]:
        return block("STOP_TOO_TIGHT")
    widest = min(case.policy["max_stop_atr"], F(1)) if case.is_probe else case.policy["max_stop_atr"]
    return passes_unless(width > widest, "STOP_TOO_WIDE")


def target_gate(case: Case, symbol: Symbol, plan: Plan) -> Status:
    """Reading: as for the stop, the side is looked at before the ATR."""
    if plan.target is None or (plan.target <= plan.entry if case.is_long else plan.target >= plan.entry):
        return block("TARGET_WRONG_SIDE")
    if symbol.atr is None:
        return block("MISSING_ATR")
    too_far = abs(plan.target - plan.entry) > case.policy["max_target_atr"] * symbol.atr
    return passes_unless(too_far, "TARGET_TOO_FAR")


# -------------------------------------------------------------------------------- §6 and §7, for one plan


def cap_ratios(case: Case, symbol: Symbol, book: Book, n: Fraction, distance: Fraction, budget: Fraction) -> Record:
    """Every cap of §6 in its order, as an exact (not yet floored) number of shares."""
    assert symbol.adv is not None
    account, policy = case.account, case.policy
    equity = number(account["equity"])

    def loss_room(period: str) -> Fraction:
        # Reading: an unknown loss or an unknown open risk leaves no room (MISSING_ codes say why).
        loss = case.loss(period)
        if loss is None or book.missing is not None:
            return F(0)
        room = policy[f"max_{period}_loss_pct"] * loss.baseline - loss.so_far
        return F(room - book.open_risk - book.reserved_risk)

    sent_power = optional(account.get("buying_power"))
    power = number(account["cash"]) if sent_power is None else sent_power
    executed = max(
        optional(account.get("daily_executed_notional")) or F(0), number(case.state["executed_notional_usd"])
    )

    def exposure_room(limit: Fraction, used: Fraction) -> Fraction:
        # Reading: with a position that nobody can value no exposure is known, and none has room.
        return F(0) if book.missing == "MISSING_MARK" else F(limit * equity - used)

    in_symbol = book.by_symbol.get(case.candidate["symbol"], F(0))
    rooms = {
        "risk_budget": budget / distance,
        "daily_loss_room": loss_room("daily") / distance,
        "weekly_loss_room": loss_room("weekly") / distance,
        "symbol_exposure": exposure_room(policy["max_symbol_exposure_pct"], in_symbol) / n,
        "leverage": exposure_room(policy["max_leverage"], book.gross) / n,
    }
    for bucket in symbol.buckets:
        in_bucket = book.by_bucket.get(bucket, F(0))
        rooms[f"bucket:{bucket}"] = exposure_room(policy["max_bucket_exposure_pct"], in_bucket) / n
    # Reading: reserved notional is taken off what was sent as much as off cash.
    rooms["buying_power"] = (power - book.reserved) / n
    rooms["order_notional"] = policy["max_order_notional"] / n
    # Reading: every live reservation counts as reserved today.
    rooms["daily_notional"] = (policy["max_daily_notional"] - executed - book.reserved) / n
    rooms["adv_participation"] = policy["max_adv_participation"] * symbol.adv / n
    return {name: max(F(0), shares) for name, shares in rooms.items()}


def size_and_edge(case: Case, symbol: Symbol, plan: Plan, gates: dict[str, Status]) -> Record:
    """Size the plan and weigh it; writes the gates size, p_win, risk_reward and expected_value."""
    assert symbol.atr is not None
    assert plan.stop is not None
    assert plan.target is not None
    policy, candidate, entry = case.policy, case.candidate, plan.entry
    loss, reward = abs(entry - plan.stop), abs(plan.target - entry)
    p_raw = F(candidate["p_win_pct"], 100)
    p_calibrated = calibrated(p_raw, case.calibrator, case.calibrator_state)
    p = p_calibrated if p_calibrated is not None and case.calibrator_state == "on" else p_raw

    # Size: no impact in D and in Kelly, so that nothing depends on the quantity.
    plain_cost = cost_without_impact(candidate, entry, symbol, policy)
    multiple = policy["atr_mult_reversion" if candidate["setup"] == "mean_reversion" else "atr_mult_trend"]
    distance = max(loss + plain_cost, multiple * symbol.atr)
    regime = REGIMES[case.snapshot.get("regime")][0 if case.is_long else 1]
    multiplier = band_multiplier(candidate["conviction"], policy)
    if case.derated:  # the lowest band; below the action threshold half of it, as ever
        multiplier = min(multiplier, LEVELS[policy["aggressiveness_level"]][2][0])
    risk_bps = min(
        policy["per_trade_risk_bps"] * multiplier * regime,
        10000 * policy["kelly_fraction"] * max(F(0), kelly(p, risk_reward(loss, reward, plain_cost))),
    )
    book = open_book(case.account, case.state, case.resolved, case.bucket_map)
    budget = number(case.account["equity"]) * risk_bps / 10000
    ratios = cap_ratios(case, symbol, book, max(entry, symbol.mid), distance, budget)
    quantity = min(math.floor(shares) for shares in ratios.values())
    binding = next(name for name, shares in ratios.items() if math.floor(shares) == quantity)
    too_small = quantity < 1 or quantity * entry < policy["min_order_notional"]
    gates["size"] = passes_unless(too_small, "SIZE_" + binding.split(":")[0].upper())
    if book.missing is not None:
        gates["size"] = block(book.missing)

    # Edge: at the final quantity.
    cost = plain_cost + 2 * entry * impact(quantity, symbol)
    b = risk_reward(loss, reward, cost)
    ev_r = expected_value(p, loss, reward, cost, policy["scale_out"])
    ev_pct = ev_r * (loss + cost) / entry
    gates["expected_value"] = passes_unless(ev_pct <= policy["min_ev_pct"], "NEGATIVE_EV")
    waived = case.calibrator_state == "on" and p >= policy["min_p_win"]
    low = (b < policy["min_risk_reward"] and not waived) or (policy["aggressiveness_level"] == 3 and b < 2)
    gates["risk_reward"] = passes_unless(low, "LOW_RISK_REWARD")
    gates["p_win"] = passes_unless(low and p < policy["min_p_win"], "LOW_P_WIN")
    return {
        "entry": entry,
        "quantity": quantity,
        "caps": {name: math.floor(shares) for name, shares in ratios.items()},
        "cap_ratios": ratios,
        "binding_cap": binding,
        "risk_per_share": distance,
        "atr_multiple": multiple,
        "risk_bps": risk_bps,
        "cost": cost,
        "cost_bps": 10000 * cost / entry,
        "p_win_raw": p_raw,
        "p_win": p,
        "risk_reward": b,
        "ev_r": ev_r,
        "ev_pct": ev_pct,
        "kelly": kelly(p, b),
    }


def judge_candidate(case: Case) -> Record:
    """Evaluate every gate for one candidate and give it a verdict."""
    gates = dict.fromkeys(GATES, NOT_APPLICABLE)
    for gate in (kill_switch, live_interlock, proposal_valid, snapshot_fresh, duplicate_intent, conviction):
        gates[gate.__name__] = gate(case)
    gates["daily_loss"], gates["weekly_loss"] = period_gate(case, "daily"), period_gate(case, "weekly")
    sized: Record = {"quantity": None, "ev_r": None, "cost_bps": None}

    symbol = case.symbol
    if symbol is not None:
        gates.update(market_gates(case, symbol))
    # Reading: an order without the entry price it needs has no collar, stop or target to look at.
    if symbol is not None and gates["proposal_valid"] == PASS:
        plan = plan_of(case, symbol)
        gates["price_collar"] = price_collar(case, symbol, plan)
        gates["stop"] = stop_gate(case, symbol, plan)
        gates["target"] = target_gate(case, symbol, plan)
        side_faults = {"STOP_MISSING", "STOP_WRONG_SIDE", "TARGET_WRONG_SIDE"}
        # Reading: "volume missing" is ADV missing; a sent avg_volume does not stand in for it.
        unsound = gates["quotes"][0] == "block" or None in (symbol.atr, symbol.spread, symbol.adv)
        if not unsound and side_faults.isdisjoint({gates["stop"][1], gates["target"][1]}):
            sized = size_and_edge(case, symbol, plan, gates)

    codes = [code for _, code in gates.values() if code is not None]
    verdict = "blocked" if codes else "approved"
    if verdict == "approved" and sized["quantity"] < sized["caps"]["risk_budget"]:
        verdict = "resized"
    return {
        **sized,
        "symbol": case.candidate["symbol"],
        "p_win_calibrated": calibrated(F(case.candidate["p_win_pct"], 100), case.calibrator, case.calibrator_state),
        "gates": gates,
        "verdict": verdict,
        "reason_code": codes[0] if codes else None,
        "blocked_by": codes,
    }


def standing(judged: Record) -> tuple[Any, ...]:
    """Sort key, best first: the highest EV_R, then the lower cost, then symbol order.

    Reading: cost is compared in basis points of entry; a candidate without an EV_R comes last.
    """
    if judged["ev_r"] is None:
        return (1, 0, 0, judged["symbol"])
    return (0, -judged["ev_r"], judged["cost_bps"], judged["symbol"])


def waive_one_probe_minimum(cases: Sequence[Case], results: list[Record]) -> None:
    """Anti-paralysis: let the best candidate that passes every other gate be a probe below the minimum.

    Reading: "passes every other gate" includes the other conditions of a probe (cash, regime, a stop within
    1 ATR); and when the best such candidate needs no waiver, nobody has one.
    """
    state = cases[0].state
    paralysed = state["earlier_sessions"] >= 2 and not state["approved_in_last_two"]
    if not paralysed or sum(case.candidate["conviction"] >= 50 for case in cases) < 2:
        return
    waived = [judge_candidate(case._replace(waived=True)) for case in cases]
    fit = [index for index, result in enumerate(waived) if result["verdict"] != "blocked"]
    if fit:
        best = min(fit, key=lambda index: standing(waived[index]))
        results[best] = waived[best]


def decide(
    *,
    reply: Record,
    snapshot: Record,
    account: Record,
    state: Record,
    policy: Record,
    bucket_map: BucketLists,
    serves_live: bool = True,
    calibrator: Calibrator = None,
    calibrator_state: str = "off",
    derated: bool = False,
) -> Record:
    """Give the verdict on one reply: that of its best approved candidate, else of its best blocked one."""
    reason = reply.get("failure")
    if reason is None and reply["mode"] in ("neutral", "watchlist"):
        reason = "MODEL_NEUTRAL"
    elif reason is None and not reply["candidates"]:
        reason = "MODEL_INVALID"
    if reason is not None:
        gates = dict.fromkeys(GATES, NOT_APPLICABLE)
        no_trade: Record = {"verdict": "no_trade", "reason_code": reason, "symbol": None, "gates": gates}
        return {**no_trade, "quantity": None, "ev_r": None, "p_win_calibrated": None, "candidates": []}

    resolved = {e["symbol"]: resolve_symbol(e, snapshot["as_of"], bucket_map) for e in snapshot["market"]}
    cases = [
        Case(
            candidate,
            snapshot,
            account,
            state,
            policy,
            bucket_map,
            serves_live,
            calibrator,
            calibrator_state,
            derated,
            resolved,
            waived=False,
        )
        for candidate in reply["candidates"]
    ]
    results = [judge_candidate(case) for case in cases]
    waive_one_probe_minimum(cases, results)
    chosen = [result for result in results if result["verdict"] != "blocked"] or results
    best: Record = min(chosen, key=lambda result: standing(result))  # noqa: PLW0108
    return {**best, "candidates": results}
