"""Propose by fixed rules: the decider that needs no key, and the baseline every model is scored against.

Deterministic and point-in-time: the same resolved snapshot always gives the same proposal.

Entries, in symbols not held whose ATR, RSI and moving averages are known; long only (see below):
  * momentum: price > MA20 > MA50 and 50 <= RSI < 75;
  * mean reversion: RSI < 30 and price at least 1.5 ATR under MA20.
The entry is a limit at the ask (the price without quotes), so it fills at once or not at all. The stop lies the
policy's ATR multiple of the setup away, the target where risk:reward after costs clears the policy's minimum
by 0.2; impact, which depends on the size, is what the 0.2 is for. The time stop is 60 days. Liquidity, limits and
whether costs eat the edge are for the gates to judge.

p_win: a driftless price reaches +R stop distances before -1 with probability 1 / (1 + R) (gambler's ruin).
On the daily bars that ship with the service (30 companies, 2006-2015, about 4000 and 1200 trades one after the
other) momentum entries reached their targets 1.11 times and reversions 1.12 times as often, near 37 % at R = 2 and
alike from R = 2 to 3. That is what they claim, and a test measures it again. Nearly all of it is the drift of the
market: longs on any day did so 1.06 to 1.09 times as often. A stronger signal did not raise the rate, so strength
moves conviction alone. The mirrored shorts did so 0.84 and 0.94 times as often, in falling markets no better: at
an honest p_win they have a negative expected value, so they are not proposed. The bars are of companies that were
still large in 2015, which flatters longs.

Exits come first: a held symbol is closed when its price is beyond its stop, or when it was opened on the right
side of MA50 and is now on the wrong one.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final

from app.domain.account import Account, Position
from app.domain.costs import round_trip_cost
from app.domain.market import MarketView, SymbolView
from app.domain.policy import Policy
from app.domain.proposal import (
    MAX_CANDIDATES,
    MAX_WATCHLIST,
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
from app.domain.sizing import atr_multiple
from app.llm.decider import DeciderCall, Prompt, Reply

RULES_VERSION: Final = "rules-1"

TIME_STOP_HOURS: Final = 60 * 24
RISK_REWARD_MARGIN: Final = Decimal("0.2")
LEAST_CONVICTION: Final = 55
CONVICTION_SPAN: Final = 30
"""Conviction runs from 55 for the weakest signal to 85 for the strongest."""

RSI_MIDDLE: Final = 50.0
RSI_OVERBOUGHT: Final = 75.0
RSI_OVERSOLD: Final = 30.0
DIP_ATR: Final = 1.5
STRONG_ATR: Final = 2.0
"""A trend or dip this many ATR deep is as strong as can be."""
NEAR_ATR: Final = 1.0
"""A price this near to its signal is watched."""
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Hold the indicators of a symbol for which all are known: dollars per share, RSI 0-100."""

    price: float
    atr: float
    rsi: float
    ma_20: float
    ma_50: float

    @property
    def trend_atr(self) -> float:
        """Give how far the faster average lies above the slower, in ATR."""
        return (self.ma_20 - self.ma_50) / self.atr

    @property
    def lead_atr(self) -> float:
        """Give how far the price lies above MA20, in ATR."""
        return (self.price - self.ma_20) / self.atr


@dataclass(frozen=True, slots=True)
class Rule:
    """Hold one entry rule: its setup, how strong its signal is (0-1, None: no signal), and its record.

    `uplift` is how often its target came before its stop, as a multiple of a driftless price's 1 / (1 + R).
    """

    setup: Setup
    strength: Callable[[Picture], float | None]
    uplift: Decimal
    reason: str


def momentum_strength(picture: Picture) -> float | None:
    """Measure a rising trend that is not overbought."""
    if not (picture.price > picture.ma_20 > picture.ma_50 and RSI_MIDDLE <= picture.rsi < RSI_OVERBOUGHT):
        return None
    return _mean(
        picture.trend_atr / STRONG_ATR,
        picture.lead_atr / STRONG_ATR,
        (picture.rsi - RSI_MIDDLE) / (RSI_OVERBOUGHT - RSI_MIDDLE),
    )


def reversion_strength(picture: Picture) -> float | None:
    """Measure an oversold dip well below its average."""
    if not (picture.rsi < RSI_OVERSOLD and picture.lead_atr <= -DIP_ATR):
        return None
    return _mean((RSI_OVERSOLD - picture.rsi) / RSI_OVERSOLD, (-picture.lead_atr - DIP_ATR) / STRONG_ATR)


def _mean(*parts: float) -> float:
    return sum(min(part, 1.0) for part in parts) / len(parts)


RULES: Final = (
    Rule(Setup.MOMENTUM, momentum_strength, Decimal("1.11"), "Price above MA20 above MA50, not overbought"),
    Rule(Setup.MEAN_REVERSION, reversion_strength, Decimal("1.12"), "Oversold, well below MA20"),
)


def propose_by_rules(*, market: MarketView, account: Account, policy: Policy) -> Proposal:
    """Propose an exit, else entries, else what to watch, else nothing."""
    manage = _exit(market=market, account=account)
    if manage is not None:
        return Proposal(mode=Mode.EXIT, manage=manage)
    ranked: list[tuple[bool, int, str, Candidate]] = []
    watchlist: list[WatchItem] = []
    for view in market.symbols:
        picture = _picture(view)
        if picture is None or account.position(view.symbol) is not None:
            continue
        candidate = _candidate(view, picture=picture, policy=policy)
        if candidate is not None and candidate.conviction >= policy.action_threshold:
            incomplete = view.adv is None or view.spread_pct is None
            ranked.append((incomplete, -candidate.conviction, view.symbol, candidate))
        elif (trigger := _trigger(picture, signal=candidate is not None)) is not None:
            item = WatchItem(symbol=view.symbol, trigger=trigger, target_conviction=policy.action_threshold)
            watchlist.append(item)
    mode = Mode.TRADE if ranked else Mode.WATCHLIST if watchlist else Mode.NEUTRAL
    return Proposal(
        mode=mode,
        candidates=tuple(candidate for *_, candidate in sorted(ranked, key=lambda entry: entry[:3])[:MAX_CANDIDATES]),
        watchlist=tuple(watchlist[:MAX_WATCHLIST]),
        notes="" if mode is Mode.TRADE else "No rule gives an entry.",
    )


def _picture(view: SymbolView) -> Picture | None:
    if view.atr is None or view.rsi is None or view.ma_20 is None or view.ma_50 is None:
        return None
    atr = float(view.atr)
    if atr == 0:  # a decimal too small for a float
        return None
    return Picture(price=float(view.price), atr=atr, rsi=view.rsi, ma_20=view.ma_20, ma_50=view.ma_50)


def _candidate(view: SymbolView, *, picture: Picture, policy: Policy) -> Candidate | None:
    """Give the entry of the first rule that has a signal, or None."""
    for rule in RULES:
        strength = rule.strength(picture)
        if strength is not None:
            return _entry(view, rule=rule, strength=strength, policy=policy)
    return None


def _entry(view: SymbolView, *, rule: Rule, strength: float, policy: Policy) -> Candidate | None:
    """Place entry, stop and target; None where no honest target lies within the policy's reach."""
    atr = view.atr or ZERO
    tick = Decimal("0.01") if view.price >= 1 else Decimal("0.0001")
    entry = (view.ask or view.price).quantize(tick, rounding=ROUND_CEILING)
    multiple = min(max(atr_multiple(setup=rule.setup, policy=policy), policy.min_stop_atr), policy.max_stop_atr)
    stop = (entry - multiple * atr).quantize(tick, rounding=ROUND_FLOOR)
    cost = round_trip_cost(
        entry=entry,
        entry_type=EntryType.LIMIT,
        spread_pct=view.spread_pct or ZERO,
        commission_bps=policy.commission_bps,
        impact=ZERO,
        borrow_rate=None,
        hours=TIME_STOP_HOURS,
    )
    loss = entry - stop
    wanted = policy.required_risk_reward + RISK_REWARD_MARGIN
    target = (entry + wanted * (loss + cost) + cost).quantize(tick, rounding=ROUND_CEILING)
    if stop <= 0 or target - entry > policy.max_target_atr * atr:
        return None
    ratio = (target - entry) / loss
    p_win_pct = round(100 * rule.uplift / (1 + ratio))
    candidate = Candidate(
        symbol=view.symbol,
        direction=Direction.LONG,
        setup=rule.setup,
        entry_type=EntryType.LIMIT,
        entry_price=entry,
        stop_loss=stop,
        target_price=target,
        time_stop_hours=TIME_STOP_HOURS,
        p_win_pct=p_win_pct,
        conviction=LEAST_CONVICTION + round(CONVICTION_SPAN * strength),
        thesis=f"{rule.reason}: RSI {view.rsi:.0f}. Such signals reached a target {ratio:.1f} stop distances away "
        f"about {p_win_pct} times in 100.",
    )
    return candidate if candidate_fault(candidate) is None else None


def _trigger(picture: Picture, *, signal: bool) -> str | None:
    """Say what a symbol close to a signal still lacks."""
    if signal:
        return "a stronger signal"
    if picture.price > picture.ma_20 > picture.ma_50:
        return f"RSI between {RSI_MIDDLE:.0f} and {RSI_OVERBOUGHT:.0f}"
    if picture.ma_20 > picture.ma_50 and picture.lead_atr > -NEAR_ATR:
        return f"price above MA20 ({picture.ma_20:.2f})"
    if picture.lead_atr <= -DIP_ATR and picture.rsi < RSI_OVERSOLD + 5:
        return f"RSI below {RSI_OVERSOLD:.0f}"
    return None


def _exit(*, market: MarketView, account: Account) -> Manage | None:
    """Close the first position (in symbol order; broken stops first) that should not be held any longer."""
    reasons: list[tuple[int, str, str]] = []
    for position in account.positions:
        view = market.symbol(position.symbol)
        if view is None or position.quantity == 0:
            continue
        if _lost(position, price=view.price, line=position.stop_loss):
            reasons.append((0, position.symbol, "The price is beyond the stop."))
        elif _trend_broke(position, view=view):
            reasons.append((1, position.symbol, "The price crossed MA50: the trend it was opened in broke."))
    if not reasons:
        return None
    _, symbol, reason = min(reasons)
    return Manage(symbol=symbol, reduce_pct=None, new_stop=None, new_target=None, reason=reason)


def _lost(position: Position, *, price: Decimal, line: Decimal | None) -> bool:
    """Tell whether a price lies on the loss side of a line."""
    if line is None:
        return False
    return price < line if position.direction is Direction.LONG else price > line


def _trend_broke(position: Position, *, view: SymbolView) -> bool:
    """Tell whether the price crossed MA50 since opening; a dip was bought below it and is left to its stop."""
    if view.ma_50 is None:
        return False
    line = Decimal(repr(view.ma_50))
    opened_beyond = position.avg_price is not None and _lost(position, price=position.avg_price, line=line)
    return not opened_beyond and _lost(position, price=view.price, line=line)


class RulesDecider:
    """Propose by the rules above, behind the interface of every decider."""

    name = "rules"
    serves_live = False

    async def propose(
        self,
        *,
        prompt: Prompt,
        market: MarketView,
        account: Account,
        policy: Policy,
        budget_s: float,  # noqa: ARG002 (the rules answer at once)
    ) -> Reply:
        """Return what the rules propose; they never fail."""
        started = time.monotonic()
        proposal = propose_by_rules(market=market, account=account, policy=policy)
        return Reply(
            outcome=proposal,
            call=DeciderCall(
                name=self.name,
                model=RULES_VERSION,
                prompt_version=prompt.version,
                prompt_hash=prompt.template_hash,
                latency_ms=round((time.monotonic() - started) * 1000),
            ),
        )

    async def close(self) -> None:
        """Release nothing."""
