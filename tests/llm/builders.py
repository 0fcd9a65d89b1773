"""Build what the deciders look at: the rulebook's own example, with single fields changed."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from app.domain.account import Account, AccountMode, Position
from app.domain.buckets import BucketMap
from app.domain.indicators import Bar
from app.domain.market import MarketView, NewsItem, OptionsFlow, Snapshot, SymbolSnapshot, resolve_market
from app.domain.sizing import EntryBounds

AS_OF = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
BUCKETS = BucketMap({"NVDA": ("technology", "ai"), "AAPL": ("technology",)})


def nvda(**changes: Any) -> SymbolSnapshot:
    """The market entry of the rulebook's example request."""
    example = SymbolSnapshot(
        symbol="NVDA",
        price=Decimal("125.4"),
        bid=Decimal("125.38"),
        ask=Decimal("125.42"),
        volume=Decimal(210_000_000),
        avg_volume=Decimal(250_000_000),
        atr=Decimal("4.1"),
        adv=Decimal(31_000_000_000),
        spread_pct=Decimal("0.0003"),
        shortable=True,
        borrow_rate=Decimal(0),
        rsi=61.0,
        ma_20=121.0,
        ma_50=117.5,
        support=Decimal(119),
        resistance=Decimal(131),
        iv_rank=40.0,
        market_cap=Decimal(3_000_000_000_000),
        pe_ratio=48.0,
        earnings_date=date(2026, 11, 25),
        buckets=("technology", "ai"),
        bars=(Bar(datetime(2026, 11, 19, tzinfo=UTC), 123.0, 126.1, 122.4, 125.0, 240_000_000.0),),
    )
    return replace(example, **changes)


def news(**changes: Any) -> NewsItem:
    """The news of the rulebook's example request."""
    example = NewsItem(
        headline="Chip orders rise",
        summary="Suppliers report full books.",
        source="wire",
        timestamp=datetime(2026, 11, 20, 14, tzinfo=UTC),
        relevance_score=0.8,
        sentiment_score=0.3,
        symbols=("NVDA",),
        event_type="news",
    )
    return replace(example, **changes)


def flow(**changes: Any) -> OptionsFlow:
    """The options flow of the rulebook's example request."""
    example = OptionsFlow(
        symbol="NVDA",
        total_volume=100_000.0,
        put_call_ratio=0.7,
        net_premium=5_000_000.0,
        smart_money_sentiment="bullish",
    )
    return replace(example, **changes)


def view(*symbols: SymbolSnapshot, **changes: Any) -> MarketView:
    """The resolved market of some symbols (default: NVDA)."""
    snapshot = replace(Snapshot(as_of=AS_OF, market=symbols or (nvda(),)), **changes)
    return resolve_market(snapshot, buckets=BUCKETS)


def aapl_position(**changes: Any) -> Position:
    """The position of the rulebook's example request."""
    example = Position(
        symbol="AAPL",
        quantity=Decimal(50),
        avg_price=Decimal("190.0"),
        mark_price=Decimal("201.2"),
        stop_loss=Decimal("185.0"),
    )
    return replace(example, **changes)


def account(**changes: Any) -> Account:
    """The account of the rulebook's example request."""
    example = Account(
        id="paper-1",
        mode=AccountMode.PAPER,
        equity=Decimal(100_000),
        cash=Decimal(62_000),
        buying_power=Decimal(124_000),
        daily_pnl=Decimal(-350),
        weekly_pnl=Decimal(-900),
        daily_executed_notional=Decimal(0),
        positions=(aapl_position(),),
    )
    return replace(example, **changes)


def bounds(**changes: Any) -> EntryBounds:
    """Bounds under which entries are allowed."""
    example = EntryBounds(
        entries_allowed=True,
        blocked_by=(),
        max_notional_usd=Decimal(50_000),
        daily_loss_room_usd=Decimal("847.00"),
        weekly_loss_room_usd=Decimal("3335.00"),
        risk_budget_usd=Decimal(500),
        full_buckets=(),
    )
    return replace(example, **changes)


def wire_candidate(**changes: Any) -> dict[str, Any]:
    """A candidate as the model writes it."""
    example = {
        "symbol": "NVDA",
        "direction": "long",
        "setup": "momentum",
        "entry_type": "limit",
        "entry_price": 125.4,
        "stop_loss": 119.8,
        "target_price": 137.0,
        "time_stop_hours": 120,
        "p_win_pct": 54,
        "conviction": 72,
        "thesis": "Trend intact above rising averages.",
    }
    return example | changes


def wire_decision(**changes: Any) -> dict[str, Any]:
    """A whole tool input that proposes one trade."""
    example: dict[str, Any] = {
        "mode": "trade",
        "candidates": [wire_candidate()],
        "manage": None,
        "watchlist": [],
        "notes": "",
    }
    return example | changes


def wire_manage(**changes: Any) -> dict[str, Any]:
    """A wish to close the rulebook's position."""
    example = {"symbol": "AAPL", "reduce_pct": None, "new_stop": None, "new_target": None, "reason": "Trend broke."}
    return example | changes
