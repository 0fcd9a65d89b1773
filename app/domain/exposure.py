"""Measure what an account already risks and holds: positions at mark, and every live reservation."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Context, Decimal, localcontext
from enum import StrEnum
from typing import Final

from app.domain.account import ZERO, Account, AccountState, PeriodLoss, Position, period_loss
from app.domain.making import made_quickly
from app.domain.market import MarketView
from app.domain.policy import Policy
from app.domain.proposal import Direction


@made_quickly
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
        notional = reservation.notional_usd
        by_symbol[reservation.symbol] += notional
        for bucket in reservation.buckets:
            by_bucket[bucket] += notional
    return Exposure(
        gross_usd=sum(by_symbol.values(), ZERO),
        by_symbol=dict(by_symbol),
        by_bucket=dict(by_bucket),
        open_risk_usd=open_risk,
        reserved_risk_usd=sum([reservation.risk_usd for reservation in entries], ZERO),
        reserved_notional_usd=sum([reservation.notional_usd for reservation in entries], ZERO),
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


class ExposureStatus(StrEnum):
    """Say whether an exposure is inside its limit; exactly at the limit is."""

    WITHIN = "within"
    OVER = "over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Hold one marked position, and what it counts in: signed shares and dollars per share, both not 0."""

    symbol: str
    quantity: Decimal
    mark: Decimal
    buckets: tuple[str, ...]

    @property
    def value_usd(self) -> Decimal:
        """Give its gross value."""
        return self.mark * abs(self.quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitUse:
    """Hold a gross exposure beside its limit, dollars, and what the suggestions would leave of it."""

    name: str
    exposure_usd: Decimal
    limit_usd: Decimal
    after_usd: Decimal

    @property
    def reduce_by_usd(self) -> Decimal:
        """Give by how much the exposure is above its limit."""
        return max(ZERO, self.exposure_usd - self.limit_usd)

    @property
    def status(self) -> ExposureStatus:
        """Say whether the exposure is inside its limit now."""
        return ExposureStatus.OVER if self.exposure_usd > self.limit_usd else ExposureStatus.WITHIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """Suggest to close shares of one position: whole ones, or all of it with its fraction of a share.

    `limits` names the exceeded limits that the position counts in: `symbol_exposure`, `bucket:<name>` and
    `leverage`, as the caps of a size are named. `left` is signed, as positions are.
    """

    symbol: str
    direction: Direction
    quantity: Decimal
    value_usd: Decimal
    left: Decimal
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalancing:
    """Hold what a portfolio is exposed to, and the fewest reductions found that bring it inside every limit."""

    gross: LimitUse
    by_symbol: tuple[LimitUse, ...]
    by_bucket: tuple[LimitUse, ...]
    reductions: tuple[Reduction, ...]


SYMBOL_LIMIT: Final = "symbol_exposure"
LEVERAGE_LIMIT: Final = "leverage"
BUCKET_LIMIT: Final = "bucket:"
_EXACT: Final = Context(prec=100)
"""Any sum of products of two numbers that a request may hold is exact in this, or beyond what a share is worth."""


def rebalance(*, holdings: Sequence[Holding], equity: Decimal, policy: Policy) -> Rebalancing:
    """Set a portfolio beside its limits and suggest what to reduce; the same portfolio gets the same answer.

    First each symbol that is above its own limit comes down to it: nothing else can. Then, while a bucket or the
    leverage is exceeded, the position that counts in the most exceeded limits gives (of equals the one of which most
    is left, then by symbol) as much as the least exceeded of them needs, so that a dollar sold counts more than
    once where it can. Last, every reduction is cut to the fewest shares that the others leave it. What results
    exceeds no limit, and none of it is too much by a share.

    Symbols and buckets of the answer are in alphabetical order. At most one holding has each symbol.
    """
    with localcontext(_EXACT):
        return _Portfolio(holdings=holdings, equity=equity, policy=policy).rebalanced()


class _Portfolio:
    """Work out reductions on what is left of each position."""

    def __init__(self, *, holdings: Sequence[Holding], equity: Decimal, policy: Policy) -> None:
        self._holdings = sorted(holdings, key=lambda holding: holding.symbol)
        self._left = {holding.symbol: abs(holding.quantity) for holding in self._holdings}
        self._limits = {LEVERAGE_LIMIT: policy.max_leverage * equity}
        self._exposure = {LEVERAGE_LIMIT: ZERO}
        self._members = {
            holding.symbol: (
                _symbol_limit(holding.symbol),
                *(BUCKET_LIMIT + bucket for bucket in holding.buckets),
                LEVERAGE_LIMIT,
            )
            for holding in self._holdings
        }
        for holding in self._holdings:
            for limit in self._members[holding.symbol]:
                self._exposure[limit] = self._exposure.get(limit, ZERO) + holding.value_usd
            self._limits[_symbol_limit(holding.symbol)] = policy.max_symbol_exposure_pct * equity
            self._limits |= {
                BUCKET_LIMIT + bucket: policy.max_bucket_exposure_pct * equity for bucket in holding.buckets
            }

    def rebalanced(self) -> Rebalancing:
        before = dict(self._exposure)
        for holding in self._holdings:
            self._give(holding, self._excess(_symbol_limit(holding.symbol)))
        while exceeded := {limit for limit in self._limits if self._excess(limit) > 0}:
            giver = min(
                (holding for holding in self._holdings if self._left[holding.symbol]),
                key=lambda holding: (
                    -len(exceeded.intersection(self._members[holding.symbol])),
                    -self._left[holding.symbol] * holding.mark,
                    holding.symbol,
                ),
            )
            self._give(giver, min(self._excess(limit) for limit in exceeded.intersection(self._members[giver.symbol])))
        for holding in self._holdings:
            self._take_back(holding)
        uses = [
            LimitUse(name=name, exposure_usd=before[name], limit_usd=limit, after_usd=self._exposure[name])
            for name, limit in sorted(self._limits.items())
        ]
        return Rebalancing(
            gross=next(use for use in uses if use.name == LEVERAGE_LIMIT),
            by_symbol=_named(uses, prefix=_symbol_limit("")),
            by_bucket=_named(uses, prefix=BUCKET_LIMIT),
            reductions=tuple(
                self._reduction(holding, over={use.name for use in uses if use.status is ExposureStatus.OVER})
                for holding in self._holdings
                if self._left[holding.symbol] < abs(holding.quantity)
            ),
        )

    def _excess(self, limit: str) -> Decimal:
        return self._exposure[limit] - self._limits[limit]

    def _give(self, holding: Holding, excess: Decimal) -> None:
        """Reduce a position by the fewest shares that are worth the excess."""
        left = self._left[holding.symbol]
        self._leave(holding, left - _shares_worth(excess, mark=holding.mark, held=left))

    def _take_back(self, holding: Holding) -> None:
        """Keep as many shares of a position as every limit allows, given what is left of the others."""
        held = abs(holding.quantity)
        own = self._left[holding.symbol] * holding.mark
        excess = max(self._excess(limit) for limit in self._members[holding.symbol]) - own + holding.value_usd
        self._leave(holding, held - _shares_worth(excess, mark=holding.mark, held=held))

    def _leave(self, holding: Holding, quantity: Decimal) -> None:
        change = (quantity - self._left[holding.symbol]) * holding.mark
        self._left[holding.symbol] = quantity
        for limit in self._members[holding.symbol]:
            self._exposure[limit] += change

    def _reduction(self, holding: Holding, *, over: Collection[str]) -> Reduction:
        left = self._left[holding.symbol]
        closed = abs(holding.quantity) - left
        return Reduction(
            symbol=holding.symbol,
            direction=Direction.LONG if holding.quantity > 0 else Direction.SHORT,
            quantity=closed,
            value_usd=closed * holding.mark,
            left=left.copy_sign(holding.quantity),
            limits=tuple(limit.partition("/")[0] for limit in self._members[holding.symbol] if limit in over),
        )


def _symbol_limit(symbol: str) -> str:
    return f"{SYMBOL_LIMIT}/{symbol}"


def _named(uses: Iterable[LimitUse], *, prefix: str) -> tuple[LimitUse, ...]:
    return tuple(replace(use, name=use.name.removeprefix(prefix)) for use in uses if use.name.startswith(prefix))


def _shares_worth(excess: Decimal, *, mark: Decimal, held: Decimal) -> Decimal:
    """Give the fewest whole shares worth at least the excess, or all that are held where that takes a fraction."""
    if excess <= 0:
        return ZERO
    if excess >= held * mark:
        return held
    whole, rest = divmod(excess, mark)
    return min(held, whole + 1 if rest else whole)
