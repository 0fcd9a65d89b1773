"""Say what became of a forecast: the plan it is held to, and the outcome that its bot reported.

What is scored is what is traded (rulebook, section 7): a win is that the target was reached, and nothing else.
A gain that ended short of it is a scratch, however large. One R is L + C, the planned loss and the planned cost
of the round trip, so that a full stop is -1 and the target is risk_reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from enum import StrEnum
from typing import Final

from app.domain.account import ZERO
from app.domain.edge import Edge
from app.domain.lifecycle import FILLS, Event, EventKind, ExitReason, as_corrected
from app.domain.making import made_quickly
from app.domain.market import MarketView
from app.domain.proposal import Candidate, Direction, EntryType, candidate_fault
from app.domain.verdict import entry_price

SCRATCH_R: Final = Decimal("0.1")
"""A result this near to nothing, in R, is a scratch."""
MILLIONTH: Final = Decimal("0.000001")
HALF_CENT: Final = Decimal("0.005")
"""Profits are reported in whole cents."""
_WIDE: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)
"""Holds every quotient of amounts that can be sent, with six decimals."""


class OutcomeClass(StrEnum):
    """Name how an idea ended; only a win counts as one."""

    WIN = "win"
    LOSS = "loss"
    SCRATCH = "scratch"
    TIMEOUT = "timeout"


class LabelSource(StrEnum):
    """Say what a label was taken from; `paper_of_executed` is the paper label beside an executed one."""

    EXECUTED = "executed"
    PAPER = "paper"
    PAPER_OF_EXECUTED = "paper_of_executed"


class ForecastKind(StrEnum):
    """Name the forecasts of one decision that are scored."""

    P_WIN = "p_win"
    P_WIN_CALIBRATED = "p_win_calibrated"
    CONVICTION = "conviction"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Hold what a forecast said: prices and `cost_usd` (C of the round trip) in dollars per share.

    The stop lies on the loss side of the entry, the target on the other. `ev_r` in units of L + C, None where
    the edge is unknown; `cost_usd` is 0 there.
    """

    direction: Direction
    entry_type: EntryType
    entry: Decimal
    stop: Decimal
    target: Decimal
    cost_usd: Decimal
    as_of: datetime
    time_stop_at: datetime
    ev_r: Decimal | None

    @property
    def sign(self) -> int:
        """Give 1 for a long plan and -1 for a short one."""
        return 1 if self.direction is Direction.LONG else -1

    @property
    def unit_usd(self) -> Decimal:
        """Give one R: L + C, dollars per share."""
        return abs(self.entry - self.stop) + self.cost_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Hold how a plan ended; `r_multiple` is its net result in units of L + C, rounded to 6 decimals.

    `realized_usd` (net) and `fees_usd` belong to executed outcomes alone. What was not told is None.
    """

    outcome: OutcomeClass
    r_multiple: Decimal
    exit_at: datetime
    exit_price: Decimal | None
    entered_at: datetime | None
    holding_s: int | None
    realized_usd: Decimal | None = None
    fees_usd: Decimal | None = None


def plan_of(*, candidate: Candidate, edge: Edge | None, market: MarketView) -> Plan | None:
    """Draw up the plan of a judged candidate; None when no label could ever be given to it.

    That is when its symbol, its entry price, its stop or its target is missing, when it contradicts itself, or
    when the stop or the target lies on the wrong side of the entry. The time stop counts from `as_of`.
    """
    view = market.symbol(candidate.symbol)
    if view is None or candidate_fault(candidate) is not None:
        return None
    entry, stop, target = entry_price(candidate=candidate, view=view), candidate.stop_loss, candidate.target_price
    if entry is None or stop is None or target is None:
        return None
    if not (stop < entry < target if candidate.is_long else target < entry < stop):
        return None
    return Plan(
        direction=candidate.direction,
        entry_type=candidate.entry_type,
        entry=entry,
        stop=stop,
        target=target,
        cost_usd=ZERO if edge is None else edge.cost_usd,
        as_of=market.as_of,
        time_stop_at=market.as_of + timedelta(hours=candidate.time_stop_hours),
        ev_r=None if edge is None else rounded_r(edge.ev_r),
    )


def rounded_r(value: Decimal) -> Decimal:
    """Round a figure in R to 6 decimals, half to even, so that sums of it are exact in any order."""
    return value.quantize(MILLIONTH, context=_WIDE)


def executed_outcome(*, plan: Plan, events: Sequence[Event], ticket_quantity: int) -> Outcome | None:
    """Compute the outcome of an executed plan from all events of its ticket; None while it is not closed.

    None, too, where corrections say that nothing traded: every fill is of 0 shares, or without fills the closing is.

    R = net / (quantity x (L + C)). Net is the realized P&L where it is told, else what lies between the average
    fill and the exit, less all fees told. Quantity is the closed, else the filled, else the ticket's; a closing
    without fills is reckoned from the planned entry. Raises ValueError when a closing tells neither its price nor
    its realized P&L.
    """
    told = as_corrected(events)
    closing = next((event for event in told if event.kind is EventKind.CLOSED), None)
    if closing is None:
        return None
    fills = [event for event in told if event.kind in FILLS]
    filled = sum(event.quantity or 0 for event in fills)
    if not filled and (fills or closing.quantity == 0):
        return None
    paid = sum(((event.quantity or 0) * (event.price or ZERO) for event in fills), ZERO)
    quantity = closing.quantity or filled or ticket_quantity
    basis = paid * quantity / filled if filled else plan.entry * quantity
    fees = [event.fees for event in told if event.fees is not None]
    fees_usd = sum(fees, ZERO)
    if closing.realized_pnl is not None:
        net = closing.realized_pnl
    elif closing.price is not None:
        net = plan.sign * (closing.price * quantity - basis) - fees_usd
    else:
        raise ValueError("a closing tells its price or its realized P&L")
    if closing.price is not None:
        reached = plan.sign * (closing.price - plan.target) >= 0
    else:
        reached = net + fees_usd >= plan.sign * (plan.target * quantity - basis) - HALF_CENT
    r_multiple = in_r(net, unit_usd=quantity * plan.unit_usd)
    entered_at = min((event.at for event in fills), default=None)
    return Outcome(
        outcome=_class_of(reason=closing.exit_reason, reached=reached, r_multiple=r_multiple),
        r_multiple=r_multiple,
        exit_at=closing.at,
        exit_price=closing.price,
        entered_at=entered_at,
        holding_s=None if entered_at is None else holding_s(entered_at=entered_at, exit_at=closing.at),
        realized_usd=net,
        fees_usd=fees_usd if fees else None,
    )


def in_r(net_usd: Decimal, *, unit_usd: Decimal) -> Decimal:
    """Express a net result in units of L + C, rounded to 6 decimals."""
    return rounded_r(_WIDE.divide(net_usd, unit_usd))


def holding_s(*, entered_at: datetime, exit_at: datetime) -> int:
    """Give whole seconds between entry and exit."""
    return int((exit_at - entered_at).total_seconds())


def _class_of(*, reason: ExitReason | None, reached: bool, r_multiple: Decimal) -> OutcomeClass:
    """Classify a closing: `reached` says that its exit lies at the target or beyond."""
    if reached or (reason is ExitReason.TARGET and r_multiple > 0):
        return OutcomeClass.WIN
    if reason is ExitReason.TIME:
        return OutcomeClass.TIMEOUT
    return OutcomeClass.LOSS if r_multiple < -SCRATCH_R else OutcomeClass.SCRATCH
