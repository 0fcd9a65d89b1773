"""What a bot sends to be decided on: its account and the market, at one moment.

Only what is known is sent: nothing has a default, and what is left out is missing, which the gates judge. Prices are
dollars per share, fractions are fractions (0.01 is 1 %), times need a zone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from tradeverdict_client.wire import Number

Mode = Literal["paper", "live"]
Regime = Literal["bull_trend", "bear_trend", "high_volatility", "low_volatility", "risk_on", "risk_off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A held position: signed shares (negative is short). Without `stop_loss` it blocks every entry."""

    symbol: str
    quantity: Number
    avg_price: Number | None = None
    mark_price: Number | None = None
    stop_loss: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The account, in dollars; `cash` excludes short proceeds, losses are negative P&L."""

    id: str
    equity: Number
    cash: Number
    positions: Sequence[Position]
    mode: Mode | None = None
    buying_power: Number | None = None
    daily_pnl: Number | None = None
    weekly_pnl: Number | None = None
    daily_executed_notional: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar: its opening time, dollars per share, shares."""

    t: datetime
    o: Number
    h: Number
    l: Number  # noqa: E741 (the name that is sent)
    c: Number
    v: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolData:
    """What is known of one symbol; `adv` is average daily dollars, `spread_pct` a fraction of mid.

    An entry needs at least `atr`, `adv`, a quote or `spread_pct`, `avg_volume` or `adv`, and for shorts `shortable`;
    20 or more daily `bars` stand in for `atr`, `adv`, `rsi` and the moving averages.
    """

    symbol: str
    price: Number
    bid: Number | None = None
    ask: Number | None = None
    volume: Number | None = None
    avg_volume: Number | None = None
    atr: Number | None = None
    adv: Number | None = None
    spread_pct: Number | None = None
    shortable: bool | None = None
    borrow_rate: Number | None = None
    rsi: Number | None = None
    ma_20: Number | None = None
    ma_50: Number | None = None
    support: Number | None = None
    resistance: Number | None = None
    iv_rank: Number | None = None
    market_cap: Number | None = None
    pe_ratio: Number | None = None
    earnings_date: date | None = None
    buckets: Sequence[str] | None = None
    bars: Sequence[Bar] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A piece of news; undated, or later than the snapshot, it is dropped."""

    headline: str
    summary: str | None = None
    source: str | None = None
    timestamp: datetime | None = None
    relevance_score: Number | None = None
    sentiment_score: Number | None = None
    symbols: Sequence[str] | None = None
    event_type: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionsFlow:
    """A summary of one symbol's options trading; premium in dollars."""

    symbol: str
    total_volume: Number | None = None
    put_call_ratio: Number | None = None
    net_premium: Number | None = None
    smart_money_sentiment: str | None = None
    unusual_activity: Sequence[str | Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One account and the market at `as_of`, for one decision. `as_of` is when the prices were true, not when sent."""

    account: Account
    as_of: datetime
    market: Sequence[SymbolData]
    news: Sequence[News] | None = None
    options_flow: Sequence[OptionsFlow] | None = None
    regime: Regime | None = None
    aggressiveness_level: int | None = None
