"""Measure what an account already risks and holds: positions at mark, and every live reservation."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from app.domain.account import ZERO, Account, AccountState, PeriodLoss, Position, period_loss
from app.domain.market import MarketView
from app.domain.policy import Policy
from app.domain.proposal import Direction


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Hold the account's gross exposure and risk, dollars.

    `unmarked` and `unstopped` name held symbols without any price or without a stop: the sums leave them
    out, so whoever sizes by the sums must refuse while either is not empty.
    """

    gross_usd: Decimal
    by_symbol: Mapping[str, Decimal]
    by_bucket: Mapping[str, Decimal]
    open_risk_usd: Decimal
    reserved_risk_usd: Decimal
    reserved_notional_usd: Decimal
    open_positions: int
    unmarked: tuple[str, ...]
    unstopped: tuple[str, ...]
    day_loss: PeriodLoss | None
    week_loss: PeriodLoss | None
    executed_notional_usd: Decimal

    def daily_loss_room_usd(self, policy: Policy) -> Decimal | None:
        """Give the loss the day still allows after open and reserved risk; None when unknown."""
        return self._loss_room(self.day_loss, policy.max_daily_loss_pct)

    def weekly_loss_room_usd(self, policy: Policy) -> Decimal | None:
        """Give the loss the week still allows after open and reserved risk; None when unknown."""
        return self._loss_room(self.week_loss, policy.max_weekly_loss_pct)

    def _loss_room(self, loss: PeriodLoss | None, limit: Decimal) -> Decimal | None:
        if loss is None or self.unmarked or self.unstopped:
            return None
        return limit * loss.baseline_usd - loss.loss_usd - self.open_risk_usd - self.reserved_risk_usd


def mark_of(position: Position, *, market: MarketView) -> Decimal | None:
    """Value a position at the larger of its own mark and the snapshot's price, dollars per share."""
    return max(_marks(position, market=market), default=None)


def _marks(position: Position, *, market: MarketView) -> list[Decimal]:
    view = market.symbol(position.symbol)
    return [mark for mark in (position.mark_price, view.price if view else None) if mark is not None]


def _stop_distance(position: Position, *, market: MarketView) -> Decimal:
    """Measure how far the stop of a marked position is from the mark that is further from it, dollars per share.

    For a long that is the larger mark, at which it is valued; for a short the smaller, so that a dearer short
    never looks safer.
    """
    marks, stop = _marks(position, market=market), position.stop_loss or ZERO
    return max(marks) - stop if position.direction is Direction.LONG else stop - min(marks)


def measure_exposure(*, account: Account, market: MarketView, state: AccountState) -> Exposure:
    """Sum positions and live reservations by symbol and bucket, and the losses so far."""
    by_symbol: defaultdict[str, Decimal] = defaultdict(Decimal)
    by_bucket: defaultdict[str, Decimal] = defaultdict(Decimal)
    open_risk = ZERO
    unmarked: list[str] = []
    unstopped: list[str] = []
    held = [position for position in account.positions if position.quantity != 0]
    for position in held:
        mark = mark_of(position, market=market)
        if position.stop_loss is None:
            unstopped.append(position.symbol)
        if mark is None:
            unmarked.append(position.symbol)
            continue
        value = mark * abs(position.quantity)
        by_symbol[position.symbol] += value
        for bucket in _buckets_of(position, market=market, state=state):
            by_bucket[bucket] += value
        if position.stop_loss is not None:
            open_risk += max(ZERO, _stop_distance(position, market=market)) * abs(position.quantity)
    entries = [reservation for reservation in state.reservations if not reservation.reduce_only]
    for reservation in entries:
        by_symbol[reservation.symbol] += reservation.notional_usd
        for bucket in reservation.buckets:
            by_bucket[bucket] += reservation.notional_usd
    return Exposure(
        gross_usd=sum(by_symbol.values(), ZERO),
        by_symbol=dict(by_symbol),
        by_bucket=dict(by_bucket),
        open_risk_usd=open_risk,
        reserved_risk_usd=sum((reservation.risk_usd for reservation in entries), ZERO),
        reserved_notional_usd=sum((reservation.notional_usd for reservation in entries), ZERO),
        open_positions=len(held),
        unmarked=tuple(unmarked),
        unstopped=tuple(unstopped),
        day_loss=period_loss(
            equity=account.equity,
            stored_baseline=state.day_baseline_usd,
            sent_pnl=account.daily_pnl,
            deepest_loss=state.day_deepest_loss_usd,
        ),
        week_loss=period_loss(
            equity=account.equity,
            stored_baseline=state.week_baseline_usd,
            sent_pnl=account.weekly_pnl,
            deepest_loss=state.week_deepest_loss_usd,
        ),
        executed_notional_usd=max(state.executed_notional_usd, account.daily_executed_notional or ZERO),
    )


def _buckets_of(position: Position, *, market: MarketView, state: AccountState) -> tuple[str, ...]:
    """Keep the buckets a position was approved with; else the snapshot's; else the shipped ones."""
    approved = state.position_buckets.get(position.symbol)
    if approved:
        return approved
    view = market.symbol(position.symbol)
    return view.buckets if view else market.bucket_map.of(position.symbol)
