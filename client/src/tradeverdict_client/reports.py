"""What a bot tells the service, and what it can read back: events, outcomes, bars, halts, calibration."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, Self
from uuid import uuid4

from tradeverdict_client.wire import Amount, Answer

ExitReason = Literal["target", "stop", "time", "manual", "other"]
HaltState = Literal["reduce_only", "halted"]


def new_id() -> str:
    """Make an id that nobody else has."""
    return str(uuid4())


def utc_now() -> datetime:
    """Read the clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One report about a ticket. Made once, it may be told as often as it takes: by its `event_id` it counts once.

    Shares, price and fees are of this event alone; `at` is when it happened.
    """

    event: str
    event_id: str = field(default_factory=new_id)
    at: datetime = field(default_factory=utc_now)
    quantity: int | None = None
    price: Amount | None = None
    stop_placed: bool | None = None
    fees: Amount | None = None
    exit_reason: ExitReason | None = None
    realized_pnl: Amount | None = None
    corrects: str | None = None

    @classmethod
    def claimed(cls, **others: Any) -> Self:
        """Say that the order is about to be sent: nobody else may send it, and its room no longer lapses."""
        return cls(event="claimed", **others)

    @classmethod
    def acknowledged(cls, *, stop_placed: bool, **others: Any) -> Self:
        """Say that the broker has the order, and whether it has the stop."""
        return cls(event="acknowledged", stop_placed=stop_placed, **others)

    @classmethod
    def filled(cls, *, quantity: int, price: Amount, stop_placed: bool, **others: Any) -> Self:
        """Tell an execution, the last of the order, and whether the stop stands."""
        return cls(event="filled", quantity=quantity, price=price, stop_placed=stop_placed, **others)

    @classmethod
    def partially_filled(cls, *, quantity: int, price: Amount, stop_placed: bool, **others: Any) -> Self:
        """Tell an execution that leaves some of the order open."""
        return cls(event="partially_filled", quantity=quantity, price=price, stop_placed=stop_placed, **others)

    @classmethod
    def cancelled(cls, **others: Any) -> Self:
        """Say that what is open will not fill: its room is released."""
        return cls(event="cancelled", **others)

    @classmethod
    def rejected(cls, **others: Any) -> Self:
        """Say that the broker refused the order: its room is released."""
        return cls(event="rejected", **others)

    @classmethod
    def closed(
        cls,
        *,
        exit_reason: ExitReason,
        price: Amount | None = None,
        realized_pnl: Amount | None = None,
        **others: Any,
    ) -> Self:
        """Say that the position is closed, at a price or with a result: the outcome is known."""
        return cls(event="closed", exit_reason=exit_reason, price=price, realized_pnl=realized_pnl, **others)

    @classmethod
    def corrected(cls, *, corrects: str, **others: Any) -> Self:
        """Say that an earlier event was told wrongly: these fields replace its own."""
        return cls(event="corrected", corrects=corrects, **others)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Answer):
    """How far a ticket has come."""

    phase: str
    quantity: int
    filled_quantity: int
    open_quantity: int
    average_fill_price: Decimal | None
    stop_placed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeResult(Answer):
    """What a closed trade brought: in R (units of planned loss and costs, net) and in dollars."""

    outcome: str
    r_multiple: Decimal
    predicted_ev_r: Decimal | None = None
    holding_s: int | None = None
    exit_at: datetime | None = None
    realized_usd: Decimal | None = None
    fees_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Answer):
    """A report that counts, and how far it brought the ticket; `result` is None until the trade is closed."""

    decision_id: str
    recorded_at: datetime
    ticket: Progress
    result: TradeResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How the position of a decision ended, for those who tell it at the end of the day rather than by events.

    Without an `event_id` the service makes one of the decision's id: told again, even by a bot that was restarted
    in between, it counts once.
    """

    decision_id: str
    exit_at: datetime
    exit_price: Amount | None = None
    quantity: int | None = None
    fees: Amount | None = None
    exit_reason: ExitReason | None = None
    realized_pnl: Amount | None = None
    event_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeResult(Answer):
    """What became of one line, numbered from 1: recorded, repeated (it counted before) or refused, and why."""

    line: int
    status: str
    decision_id: str | None
    event_id: str | None
    code: str | None
    detail: str | None
    outcome: str | None
    r_multiple: Decimal | None

    @property
    def refused(self) -> bool:
        return self.status == "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedBar(Answer):
    """A bar that was not used, by its place in the list of its symbol."""

    symbol: str
    index: int
    t: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsResult(Answer):
    """How many proposals the bars resolved, how many were never entered, and which bars were not used."""

    resolved: int
    unfilled: int
    dropped: tuple[DroppedBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationCounts(Answer):
    """How many forecasts have an outcome, which, and how many wait for one."""

    resolved: int
    pending: int
    win: int
    loss: int
    scratch: int
    timeout: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Answer):
    """How good the forecasts were; every figure that `GET /calibration` gives beyond these is in `extra`."""

    verdict: str
    counts: CalibrationCounts
    forecast: str | None = None
    source: str | None = None
    brier: float | None = None
    skill: float | None = None
    slope: float | None = None
    calibration_error: float | None = None
    e_value: float | None = None
    win_rate: float | None = None
    predicted_win_rate: float | None = None
    reasons: tuple[str, ...] = ()
    recommendations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Answer):
    """A halt, and who lifted it when and why; `account_id` None stands for every account."""

    halt_id: int
    account_id: str | None
    state: str
    reason: str
    operator: str
    set_at: datetime
    lifted_at: datetime | None
    lifted_by: str | None
    lift_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Answer):
    """What was lifted, and what still stands."""

    lifted: tuple[Halt, ...]
    in_force: tuple[Halt, ...]
