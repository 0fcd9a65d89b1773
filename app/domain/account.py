"""Describe an account: what its caller sent, what the store knows of it, and how much it has lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from app.domain.making import made_quickly
from app.domain.proposal import Direction

MARK_MAX_AGE: Final = timedelta(days=7)
"""An equity mark older than this before its period's start is no baseline."""
ZERO: Final = Decimal(0)
MOST_SHARES: Final = Decimal(10**15)
"""No cap is reported above this: more shares than there are, and still exact in JSON."""


class AccountMode(StrEnum):
    """Say whether orders of the account move real money."""

    PAPER = "paper"
    LIVE = "live"


class HaltState(StrEnum):
    """Say how far trading is stopped."""

    REDUCE_ONLY = "reduce_only"
    HALTED = "halted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Hold one held position: signed shares (negative = short), dollars per share."""

    symbol: str
    quantity: Decimal
    avg_price: Decimal | None = None
    mark_price: Decimal | None = None
    stop_loss: Decimal | None = None

    @property
    def direction(self) -> Direction:
        """Give the side the position is on."""
        return Direction.LONG if self.quantity > 0 else Direction.SHORT


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Hold the account as its caller sent it, dollars."""

    id: str
    mode: AccountMode
    equity: Decimal
    cash: Decimal
    positions: tuple[Position, ...]
    buying_power: Decimal | None = None
    daily_pnl: Decimal | None = None
    weekly_pnl: Decimal | None = None
    daily_executed_notional: Decimal | None = None

    def position(self, symbol: str) -> Position | None:
        """Find the held position in a symbol."""
        for held in self.positions:
            if held.symbol == symbol and held.quantity:
                return held
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """Hold a stop that a person or the service put on an account (or, with no account, on all)."""

    account_id: str | None
    state: HaltState
    reason: str
    operator: str


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Hold what one approved and not yet released ticket may still use.

    `notional_usd` is quantity x max(entry, mid), `risk_usd` quantity x D; a reduce-only reservation holds
    shares of a position and no notional or risk.
    """

    decision_id: str
    symbol: str
    direction: Direction
    quantity: Decimal
    notional_usd: Decimal
    risk_usd: Decimal
    buckets: tuple[str, ...]
    reduce_only: bool = False


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Count the weekdays (UTC, before today) on which the account asked.

    `approved_in_last_two` tells whether one of the last two of them held an approved entry.
    """

    earlier: int = 0
    approved_in_last_two: bool = False


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """Hold what the store knows of an account at the moment of judging, read under its row lock.

    `now` is the database clock, UTC. Baselines are stored equity marks (dollars) or None; deepest losses
    are the largest losses (dollars, >= 0) that earlier requests of the same day or week showed.
    `position_buckets` holds the buckets with which held symbols were approved.
    """

    now: datetime
    halts: tuple[Halt, ...] = ()
    live_confirmed: bool = False
    reservations: tuple[Reservation, ...] = ()
    day_baseline_usd: Decimal | None = None
    week_baseline_usd: Decimal | None = None
    day_deepest_loss_usd: Decimal = ZERO
    week_deepest_loss_usd: Decimal = ZERO
    executed_notional_usd: Decimal = ZERO
    sessions: Sessions = Sessions()
    position_buckets: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def halt(self) -> Halt | None:
        """Give the strictest halt in force."""
        if not self.halts:
            return None
        return min(self.halts, key=lambda halt: halt.state is not HaltState.HALTED)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodLoss:
    """Hold the loss of a day or week: dollars and the equity it is measured against."""

    baseline_usd: Decimal
    loss_usd: Decimal

    @property
    def fraction(self) -> Decimal:
        """Give the loss as a fraction of baseline equity."""
        return self.loss_usd / self.baseline_usd


def day_start(as_of: datetime) -> datetime:
    """Give midnight UTC of the day of `as_of`."""
    return as_of.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def week_start(as_of: datetime) -> datetime:
    """Give midnight UTC of the Monday of the ISO week of `as_of`."""
    start = day_start(as_of)
    return start - timedelta(days=start.weekday())


def period_loss(
    *, equity: Decimal, stored_baseline: Decimal | None, sent_pnl: Decimal | None, deepest_loss: Decimal
) -> PeriodLoss | None:
    """Measure the loss so far of a day or week, in dollars.

    The baseline is the stored mark, else equity less the sent P&L. Of the sent and the derived P&L the worse
    counts, and of that and the deepest loss already seen the larger, so gains add no room. None when neither
    is known, or when the sent P&L would leave a baseline of 0 or less (it contradicts the equity).
    """
    if stored_baseline is None and sent_pnl is None:
        return None
    baseline = stored_baseline if stored_baseline is not None else equity - (sent_pnl or ZERO)
    if baseline <= 0:
        return None
    loss = max(ZERO, deepest_loss, baseline - equity)
    if sent_pnl is not None:
        loss = max(loss, -sent_pnl)
    return PeriodLoss(baseline_usd=baseline, loss_usd=loss)


def whole_shares(room: Decimal, per_share: Decimal) -> int:
    """Divide room by a positive amount per share and truncate once; negative room is none."""
    if room <= ZERO:
        return 0
    if room >= per_share * MOST_SHARES:
        return int(MOST_SHARES)
    return int(room // per_share)
