"""Read a snapshot from HTTP: exact types, no unknown field, no default for any number (rulebook, section 2).

The raw body is parsed once, by `DecideRequest.model_validate_json`. Numbers are floats here, as JSON has them, and
become `Decimal` by their shortest text in `to_domain`, so that 0.1 stays 0.1.
"""

import json
from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Final, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
)

from app.api.examples import DECIDE_REQUEST
from app.domain.account import Account, AccountMode, Position
from app.domain.buckets import normalize_bucket
from app.domain.indicators import Bar
from app.domain.market import NewsItem, OptionsFlow, Snapshot, SymbolSnapshot
from app.domain.policy import Regime
from app.domain.symbols import normalize_symbol
from app.domain.text import clean_text

TOO_LARGE: Final = 1e13
TOO_SMALL: Final = 1e-9
"""Prices and equity below this are no prices and no equity."""
MAX_SYMBOLS: Final = 50
MAX_BARS: Final = 1_000
MAX_POSITIONS: Final = 500
MAX_BUCKETS: Final = 20
MAX_NEWS: Final = 200
MAX_ACTIVITIES: Final = 50
MAX_HEADLINE: Final = 1_000
MAX_SUMMARY: Final = 10_000
MAX_ACTIVITY: Final = 1_000
MAX_LABEL: Final = 200
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)
EMPTY: Final[dict[str, JsonValue]] = {"default": []}
"""What the schema says of a list that may be left out. As a default, each would be copied deeply for each request."""


def printable(text: str) -> str:
    """Give back text that can be shown on one line as it is; raises ValueError on any other."""
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without spaces at its ends")
    return text


def _time_text(value: object) -> object:
    """Refuse a Unix time, in quotes or not: it names neither its unit nor its zone."""
    if not isinstance(value, str) or "-" not in value[1:]:
        raise ValueError("must be an RFC 3339 time such as 2026-11-20T15:30:00Z")
    return value


def _as_text(activity: object) -> object:
    """Write an object as compact JSON; raises ValueError when it holds NaN or Infinity."""
    if not isinstance(activity, dict):
        return activity
    return json.dumps(activity, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


Number = Annotated[float, Field(gt=-TOO_LARGE, lt=TOO_LARGE)]
NonNegative = Annotated[float, Field(ge=0, lt=TOO_LARGE)]
Positive = Annotated[float, Field(ge=TOO_SMALL, lt=TOO_LARGE)]
Percent = Annotated[float, Field(ge=0, le=100)]
BarTime = Annotated[AwareDatetime, Field(ge=EARLIEST, le=LATEST)]
Time = Annotated[BarTime, Field(strict=False), BeforeValidator(_time_text)]
Symbol = Annotated[str, Field(max_length=32), AfterValidator(normalize_symbol)]
AccountId = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(printable)]
Bucket = Annotated[str, Field(max_length=MAX_LABEL), AfterValidator(normalize_bucket)]
Label = Annotated[str, Field(max_length=MAX_LABEL)]
Activity = Annotated[
    str,
    BeforeValidator(_as_text),
    Field(max_length=MAX_ACTIVITY),
    WithJsonSchema({"anyOf": [{"type": "string", "maxLength": MAX_ACTIVITY}, {"type": "object"}]}),
]


class RequestModel(BaseModel):
    """Refuse unknown fields, numbers in quotes, booleans as numbers, NaN and Infinity."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class PositionIn(RequestModel):
    """A held position: signed shares (negative = short), dollars per share. A mark or stop of 0 is missing."""

    symbol: Symbol
    quantity: Number
    avg_price: NonNegative | None = None
    mark_price: NonNegative | None = None
    stop_loss: NonNegative | None = None

    def to_domain(self) -> Position:
        return Position(
            symbol=self.symbol,
            quantity=_exact(self.quantity),
            avg_price=_decimal(self.avg_price),
            mark_price=_decimal(self.mark_price) or None,
            stop_loss=_decimal(self.stop_loss) or None,
        )


class BarIn(RequestModel):
    """A bar: opening time, prices in dollars per share, volume in shares."""

    t: BarTime
    o: NonNegative
    h: NonNegative
    l: NonNegative  # noqa: E741 (bots send this name)
    c: NonNegative
    v: NonNegative

    def to_domain(self) -> Bar:
        # By position and with the time as parsed: a request may hold 50,000 bars, and this is most of its cost.
        return Bar(self.t, self.o, self.h, self.l, self.c, self.v)


class SymbolIn(RequestModel):
    """What is known of one symbol: dollars per share; `adv` and `market_cap` in dollars; `spread_pct` of mid."""

    symbol: Symbol
    price: Positive
    bid: Number | None = None
    ask: Number | None = None
    volume: NonNegative | None = None
    avg_volume: NonNegative | None = None
    atr: NonNegative | None = None
    adv: NonNegative | None = None
    spread_pct: Number | None = None
    shortable: bool | None = None
    borrow_rate: NonNegative | None = None
    rsi: Percent | None = None
    ma_20: NonNegative | None = None
    ma_50: NonNegative | None = None
    support: NonNegative | None = None
    resistance: NonNegative | None = None
    iv_rank: Percent | None = None
    market_cap: NonNegative | None = None
    pe_ratio: Number | None = None
    earnings_date: date | None = None
    buckets: Annotated[list[Bucket], Field(max_length=MAX_BUCKETS, default_factory=list, json_schema_extra=EMPTY)]
    bars: Annotated[list[BarIn], Field(max_length=MAX_BARS, default_factory=list, json_schema_extra=EMPTY)]

    def to_domain(self) -> SymbolSnapshot:
        return SymbolSnapshot(
            symbol=self.symbol,
            price=_exact(self.price),
            bid=_decimal(self.bid),
            ask=_decimal(self.ask),
            volume=_decimal(self.volume),
            avg_volume=_decimal(self.avg_volume),
            atr=_decimal(self.atr),
            adv=_decimal(self.adv),
            spread_pct=_decimal(self.spread_pct),
            shortable=self.shortable,
            borrow_rate=_decimal(self.borrow_rate),
            rsi=self.rsi,
            ma_20=self.ma_20,
            ma_50=self.ma_50,
            support=_decimal(self.support),
            resistance=_decimal(self.resistance),
            iv_rank=self.iv_rank,
            market_cap=_decimal(self.market_cap),
            pe_ratio=self.pe_ratio,
            earnings_date=self.earnings_date,
            buckets=tuple(self.buckets),
            bars=tuple(bar.to_domain() for bar in self.bars),
        )


class NewsIn(RequestModel):
    """A piece of news; its text is data from strangers. Undated or later than `as_of`, it is dropped."""

    headline: Annotated[str, Field(max_length=MAX_HEADLINE)]
    summary: Annotated[str, Field(max_length=MAX_SUMMARY)] = ""
    source: Label = ""
    timestamp: Time | None = None
    relevance_score: Number | None = None
    sentiment_score: Number | None = None
    symbols: Annotated[list[Label], Field(max_length=MAX_SYMBOLS, default_factory=list, json_schema_extra=EMPTY)]
    event_type: Label = ""

    def to_domain(self) -> NewsItem:
        return NewsItem(
            headline=clean_text(self.headline, limit=MAX_HEADLINE),
            summary=clean_text(self.summary, limit=MAX_SUMMARY),
            source=clean_text(self.source, limit=MAX_LABEL),
            timestamp=None if self.timestamp is None else self.timestamp.astimezone(UTC),
            relevance_score=self.relevance_score,
            sentiment_score=self.sentiment_score,
            symbols=_known_symbols(self.symbols),
            event_type=clean_text(self.event_type, limit=MAX_LABEL),
        )


class OptionsFlowIn(RequestModel):
    """A summary of one symbol's options trading; premium in dollars."""

    symbol: Symbol
    total_volume: NonNegative | None = None
    put_call_ratio: NonNegative | None = None
    net_premium: Number | None = None
    smart_money_sentiment: Label = ""
    unusual_activity: Annotated[
        list[Activity], Field(max_length=MAX_ACTIVITIES, default_factory=list, json_schema_extra=EMPTY)
    ]

    def to_domain(self) -> OptionsFlow:
        return OptionsFlow(
            symbol=self.symbol,
            total_volume=self.total_volume,
            put_call_ratio=self.put_call_ratio,
            net_premium=self.net_premium,
            smart_money_sentiment=clean_text(self.smart_money_sentiment, limit=MAX_LABEL),
            unusual_activity=tuple(clean_text(text, limit=MAX_ACTIVITY) for text in self.unusual_activity),
        )


_Item = TypeVar("_Item", PositionIn, SymbolIn)


def _unique_symbols(items: list[_Item]) -> list[_Item]:
    seen: set[str] = set()
    for item in items:
        if item.symbol in seen:
            raise ValueError(f"{item.symbol} appears twice")
        seen.add(item.symbol)
    return items


class AccountIn(RequestModel):
    """The account, in dollars; `cash` excludes short proceeds. An absent mode means paper."""

    id: AccountId
    mode: AccountMode = AccountMode.PAPER
    equity: Positive
    cash: Number
    buying_power: Number | None = None
    daily_pnl: Number | None = None
    weekly_pnl: Number | None = None
    daily_executed_notional: NonNegative | None = None
    positions: Annotated[list[PositionIn], Field(max_length=MAX_POSITIONS), AfterValidator(_unique_symbols)]

    def to_domain(self) -> Account:
        return Account(
            id=self.id,
            mode=self.mode,
            equity=_exact(self.equity),
            cash=_exact(self.cash),
            positions=tuple(position.to_domain() for position in self.positions if position.quantity != 0),
            buying_power=_decimal(self.buying_power),
            daily_pnl=_decimal(self.daily_pnl),
            weekly_pnl=_decimal(self.weekly_pnl),
            daily_executed_notional=_decimal(self.daily_executed_notional),
        )


class DecideRequest(RequestModel):
    """One account and the market at `as_of`, for one decision."""

    model_config = ConfigDict(json_schema_extra={"examples": [DECIDE_REQUEST]})

    account: AccountIn
    as_of: Time
    market: Annotated[list[SymbolIn], Field(min_length=1, max_length=MAX_SYMBOLS), AfterValidator(_unique_symbols)]
    news: Annotated[list[NewsIn], Field(max_length=MAX_NEWS, default_factory=list, json_schema_extra=EMPTY)]
    options_flow: Annotated[
        list[OptionsFlowIn], Field(max_length=MAX_SYMBOLS, default_factory=list, json_schema_extra=EMPTY)
    ]
    regime: Regime | None = None
    aggressiveness_level: Annotated[int, Field(ge=0, le=3)] | None = None

    def to_domain(self) -> tuple[Account, Snapshot, int | None]:
        """Give the account, the snapshot and the aggressiveness level asked for."""
        return self.account.to_domain(), self.to_snapshot(), self.aggressiveness_level

    def to_snapshot(self) -> Snapshot:
        """Give the snapshot."""
        return Snapshot(
            as_of=self.as_of.astimezone(UTC),
            market=tuple(symbol.to_domain() for symbol in self.market),
            news=tuple(item.to_domain() for item in self.news),
            options_flow=tuple(flow.to_domain() for flow in self.options_flow),
            regime=self.regime,
        )


def _exact(number: float) -> Decimal:
    return Decimal(repr(number))


def _decimal(number: float | None) -> Decimal | None:
    return None if number is None else Decimal(repr(number))


def _known_symbols(names: Iterable[str]) -> tuple[str, ...]:
    """Normalize the symbols a news item names; what is none is left out, for news names all sorts of things."""
    symbols: dict[str, None] = {}
    for name in names:
        try:
            symbols[normalize_symbol(name)] = None
        except ValueError:
            continue
    return tuple(symbols)
