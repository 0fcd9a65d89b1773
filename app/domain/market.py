"""Hold a market snapshot as sent, and resolve it: what counts for a decision, and what was wrong with it.

Rules (rulebook, section 2):
  * nothing has a default; zero ATR, ADV or average volume is missing;
  * bars fill what was not sent; where both exist and differ by more than 10 %, the larger ATR and the
    smaller ADV count and the difference is reported;
  * only bars that were complete before `as_of` count, and none when the last is more than 7 days old;
  * quotes replace a claimed spread; quotes that contradict themselves or the price block;
  * news from after `as_of`, or undated, is dropped (look-ahead) and counted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Final

from app.domain.buckets import BucketMap
from app.domain.indicators import (
    Bar,
    average_dollar_volume,
    average_true_range,
    moving_average,
    relative_strength_index,
)
from app.domain.making import made_quickly
from app.domain.policy import Regime

BARS_MAX_AGE: Final = timedelta(days=7)
ONE_DAY: Final = timedelta(days=1)
CLAIM_TOLERANCE: Final = Decimal("0.10")
"""A sent ATR or ADV may differ from the recomputed one by this fraction of the recomputed one."""
MID_TOLERANCE_PCT: Final = Decimal("0.01")
MID_TOLERANCE_ATR: Final = Decimal("0.5")
"""The price may lie from mid by the larger of 1 % of mid and half an ATR."""
TWO: Final = Decimal(2)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolSnapshot:
    """Hold what the caller sent about one symbol.

    Prices and ATR in dollars per share, ADV and market cap in dollars, volumes in shares, `spread_pct` a
    fraction of mid, `borrow_rate` a fraction a year, RSI and IV rank 0-100.
    """

    symbol: str
    price: Decimal
    bid: Decimal | None = None
    ask: Decimal | None = None
    volume: Decimal | None = None
    avg_volume: Decimal | None = None
    atr: Decimal | None = None
    adv: Decimal | None = None
    spread_pct: Decimal | None = None
    shortable: bool | None = None
    borrow_rate: Decimal | None = None
    rsi: float | None = None
    ma_20: float | None = None
    ma_50: float | None = None
    support: Decimal | None = None
    resistance: Decimal | None = None
    iv_rank: float | None = None
    market_cap: Decimal | None = None
    pe_ratio: float | None = None
    earnings_date: date | None = None
    buckets: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class NewsItem:
    """Hold one piece of news; its text is data from strangers."""

    headline: str
    summary: str = ""
    source: str = ""
    timestamp: datetime | None = None
    relevance_score: float | None = None
    sentiment_score: float | None = None
    symbols: tuple[str, ...] = ()
    event_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionsFlow:
    """Hold a summary of one symbol's options trading; premium in dollars."""

    symbol: str
    total_volume: float | None = None
    put_call_ratio: float | None = None
    net_premium: float | None = None
    smart_money_sentiment: str = ""
    unusual_activity: tuple[str, ...] = ()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Hold the market at `as_of` (UTC) as the caller sent it."""

    as_of: datetime
    market: tuple[SymbolSnapshot, ...]
    news: tuple[NewsItem, ...] = ()
    options_flow: tuple[OptionsFlow, ...] = ()
    regime: Regime | None = None


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class DataIssue:
    """Report one thing that was wrong with the data and what was done about it."""

    symbol: str | None
    field: str
    issue: str


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Set a figure that somebody claimed beside the figure computed from data."""

    field: str
    claimed: float
    computed: float


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolView:
    """Hold what counts for decisions about one symbol; None is missing.

    `quote_fault` names why the quotes (or the claimed spread) contradict themselves or the price; then
    `mid` is the price and `spread_pct` is None.
    """

    symbol: str
    sent: SymbolSnapshot
    price: Decimal
    mid: Decimal
    bid: Decimal | None
    ask: Decimal | None
    quote_fault: str | None
    spread_pct: Decimal | None
    atr: Decimal | None
    adv: Decimal | None
    avg_volume: Decimal | None
    rsi: float | None
    ma_20: float | None
    ma_50: float | None
    buckets: tuple[str, ...]
    bars: tuple[Bar, ...]
    claims: tuple[Claim, ...]

    @property
    def average_daily_shares(self) -> Decimal | None:
        """Give average shares a day: the sent average volume, else ADV / price."""
        if self.avg_volume is not None:
            return self.avg_volume
        return None if self.adv is None else self.adv / self.price

    @property
    def liquidity_score(self) -> float | None:
        """Score liquidity 0-100: min(50, 50 x ADV / $10M) + max(0, 50 - 5000 x spread); None when unknown."""
        if self.adv is None or self.spread_pct is None:
            return None
        depth = min(Decimal(50), 50 * self.adv / 10_000_000)
        return float(depth + max(Decimal(0), 50 - 5000 * self.spread_pct))


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class MarketView:
    """Hold the resolved snapshot: symbols in the order sent, usable news, and every issue found."""

    as_of: datetime
    symbols: tuple[SymbolView, ...]
    news: tuple[NewsItem, ...]
    options_flow: tuple[OptionsFlow, ...]
    regime: Regime | None
    issues: tuple[DataIssue, ...]
    bucket_map: BucketMap

    def symbol(self, name: str) -> SymbolView | None:
        """Find one symbol, or None when the snapshot does not hold it."""
        for view in self.symbols:
            if view.symbol == name:
                return view
        return None


def usable_bars(bars: Sequence[Bar], *, as_of: datetime) -> tuple[tuple[Bar, ...], Counter[str]]:
    """Drop dirty, incomplete and outdated bars; return the rest and how many were dropped for what.

    Daily bars (opened a day or more apart) count when dated before `as_of`'s UTC date; intraday bars when
    they closed, one interval after they opened, by `as_of`. The interval is the most frequent one, so that a
    stray bar makes no daily series intraday.
    """
    dropped: Counter[str] = Counter()
    if not bars:
        return (), dropped
    clean: list[Bar] = []
    for bar in bars:
        fault = _bar_fault(bar, last=clean[-1].t if clean else None)
        if fault is None:
            clean.append(bar)
        else:
            dropped[fault] += 1
    interval = bar_interval(clean)
    if interval < ONE_DAY:
        complete = [bar for bar in clean if bar.t + interval <= as_of]
    else:
        today = as_of.astimezone(UTC).date()
        complete = [bar for bar in clean if bar.t.astimezone(UTC).date() < today]
    if len(complete) < len(clean):
        dropped["not complete before as_of"] += len(clean) - len(complete)
    if complete and as_of - complete[-1].t > BARS_MAX_AGE:
        dropped["last bar more than 7 days old"] += len(complete)
        complete = []
    return tuple(complete), dropped


def bar_interval(bars: Sequence[Bar]) -> timedelta:
    """Give the most frequent distance between bars; of equally frequent ones the shortest."""
    gaps = Counter(after.t - before.t for before, after in pairwise(bars))
    return max(gaps, key=lambda gap: (gaps[gap], -gap), default=ONE_DAY)


def _bar_fault(bar: Bar, *, last: datetime | None) -> str | None:
    prices = (bar.open, bar.high, bar.low, bar.close)
    # A NaN or an infinity fails this chained comparison too.
    if not all(0 < price < float("inf") for price in prices):
        return "price not positive and finite"
    if not 0 <= bar.volume < float("inf"):
        return "volume negative or not finite"
    if bar.high < bar.low:
        return "high below low"
    if bar.high < max(bar.open, bar.close):
        return "high below open or close"
    if bar.low > min(bar.open, bar.close):
        return "low above open or close"
    if last is not None and bar.t == last:
        return "time repeated"
    if last is not None and bar.t < last:
        return "time out of order"
    return None


def resolve_market(snapshot: Snapshot, *, buckets: BucketMap) -> MarketView:
    """Resolve a snapshot into what counts for decisions, with every issue named."""
    issues: list[DataIssue] = []
    symbols = tuple(
        [_resolve_symbol(sent, as_of=snapshot.as_of, buckets=buckets, issues=issues) for sent in snapshot.market]
    )
    undated = sum(item.timestamp is None for item in snapshot.news)
    future = sum(item.timestamp is not None and item.timestamp > snapshot.as_of for item in snapshot.news)
    if undated:
        issues.append(DataIssue(symbol=None, field="news", issue=f"{undated} dropped: undated"))
    if future:
        issues.append(DataIssue(symbol=None, field="news", issue=f"{future} dropped: dated after as_of"))
    return MarketView(
        as_of=snapshot.as_of,
        symbols=symbols,
        news=tuple(item for item in snapshot.news if item.timestamp is not None and item.timestamp <= snapshot.as_of),
        options_flow=snapshot.options_flow,
        regime=snapshot.regime,
        issues=tuple(issues),
        bucket_map=buckets,
    )


def _resolve_symbol(
    sent: SymbolSnapshot, *, as_of: datetime, buckets: BucketMap, issues: list[DataIssue]
) -> SymbolView:
    bars: tuple[Bar, ...] = ()
    if sent.bars:
        bars, dropped = usable_bars(sent.bars, as_of=as_of)
        for reason, count in sorted(dropped.items()):
            issues.append(DataIssue(symbol=sent.symbol, field="bars", issue=f"{count} dropped: {reason}"))
    claims: list[Claim] = []
    true_range, dollars = (average_true_range(bars), average_dollar_volume(bars)) if bars else (None, None)
    atr = _settle(sent, "atr", sent.atr, true_range, larger=True, issues=issues, claims=claims)
    adv = _settle(sent, "adv", sent.adv, dollars, larger=False, issues=issues, claims=claims)
    avg_volume = _present(sent, "avg_volume", sent.avg_volume, issues)
    mid, spread_pct, fault = _resolve_quotes(sent, atr=atr)
    if fault is not None:
        issues.append(DataIssue(symbol=sent.symbol, field="quotes", issue=fault))
    elif sent.bid is not None and sent.spread_pct is not None and spread_pct is not None:
        claims.append(Claim(field="spread_pct", claimed=float(sent.spread_pct), computed=float(spread_pct)))
    return SymbolView(
        symbol=sent.symbol,
        sent=sent,
        price=sent.price,
        mid=mid,
        bid=sent.bid if fault is None else None,
        ask=sent.ask if fault is None else None,
        quote_fault=fault,
        spread_pct=spread_pct,
        atr=atr,
        adv=adv,
        avg_volume=avg_volume,
        rsi=relative_strength_index(bars) if bars and sent.rsi is None else sent.rsi,
        ma_20=moving_average(bars, length=20) if bars and sent.ma_20 is None else sent.ma_20,
        ma_50=moving_average(bars, length=50) if bars and sent.ma_50 is None else sent.ma_50,
        buckets=buckets.of(sent.symbol, sent.buckets),
        bars=bars,
        claims=tuple(claims),
    )


def _present(sent: SymbolSnapshot, name: str, value: Decimal | None, issues: list[DataIssue]) -> Decimal | None:
    """Treat a zero as missing, and say so."""
    if value is not None and not value:
        issues.append(DataIssue(symbol=sent.symbol, field=name, issue="0 counts as missing"))
        return None
    return value


def _settle(
    sent: SymbolSnapshot,
    name: str,
    value: Decimal | None,
    recomputed: float | None,
    *,
    larger: bool,
    issues: list[DataIssue],
    claims: list[Claim],
) -> Decimal | None:
    """Choose between a sent figure and the one recomputed from bars."""
    value = _present(sent, name, value, issues)
    if recomputed is None:
        return value
    computed = Decimal(repr(recomputed))
    if value is None:
        return computed or None
    claims.append(Claim(field=name, claimed=float(value), computed=recomputed))
    if abs(value - computed) <= CLAIM_TOLERANCE * computed:
        return value
    chosen = max(value, computed) if larger else min(value, computed)
    issues.append(
        DataIssue(
            symbol=sent.symbol,
            field=name,
            issue=f"sent {value:f} but bars give {recomputed:.6g}; {chosen:.6g} counts",
        )
    )
    return chosen or None


def _resolve_quotes(sent: SymbolSnapshot, *, atr: Decimal | None) -> tuple[Decimal, Decimal | None, str | None]:
    """Return mid, spread as a fraction of mid, and what is wrong with the quotes (or None)."""
    price, bid, ask = sent.price, sent.bid, sent.ask
    if sent.spread_pct is not None and sent.spread_pct < 0:
        return price, None, "spread_pct is negative"
    if bid is None and ask is None:
        return price, sent.spread_pct, None
    if bid is None or ask is None:
        return price, None, "one-sided quotes"
    if bid <= 0 or ask <= 0:
        return price, None, "bid or ask is 0 or less"
    if bid > ask:
        return price, None, "bid above ask"
    mid = (bid + ask) / TWO
    tolerance = mid * MID_TOLERANCE_PCT
    if atr is not None:
        tolerance = max(tolerance, MID_TOLERANCE_ATR * atr)
    if abs(price - mid) > tolerance:
        return price, None, f"price {price:f} too far from mid {mid:f}"
    return mid, (ask - bid) / mid, None
