"""Follow a ticket from its approval to its end, by what its bot reports.

The rules of the rules:
  * what may follow what is a table (`NEXT`); a correction may follow anything it can correct;
  * a fact is never refused for coming late: fills and closings count although nobody claimed the ticket or its
    time is over, because what is left out would be exposure that nobody sees. A claim is a wish: it is refused
    once the ticket has lapsed, for its room may be given away, and while the account is halted;
  * a fill tells one execution, not a running total, and all fills together never exceed the ticket. Whether an
    order is complete follows from the sum, not from the word: what a smaller `filled` leaves stays open;
  * a fill that happened before its order was cancelled may be told after it;
  * a correction replaces the fields it names of one earlier event; of several, the last one counts;
  * an exit or adjust has no outcome of its own: `closed` belongs to the entry that opened the position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from app.domain.account import ZERO, HaltState
from app.domain.policy import FUTURE_TOLERANCE_S

STOP_GRACE: Final = timedelta(seconds=30)
"""A fill whose stop is not reported within this time puts the account in reduce_only."""
MAX_EVENTS: Final = 1_000
"""Most events of one decision: all of them are read whenever another arrives."""


class EventKind(StrEnum):
    """Name what a bot can report of its ticket."""

    CLAIMED = "claimed"
    ACKNOWLEDGED = "acknowledged"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    CLOSED = "closed"
    CORRECTED = "corrected"


class ExitReason(StrEnum):
    """Say how a position was closed."""

    TARGET = "target"
    STOP = "stop"
    TIME = "time"
    MANUAL = "manual"
    OTHER = "other"


class Phase(StrEnum):
    """Say how far a ticket has come. Once `filled`, nothing more will fill, be it that the rest was cancelled."""

    ISSUED = "issued"
    WORKING = "working"
    PARTLY_FILLED = "partly_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    CLOSED = "closed"


FILLS: Final = frozenset({EventKind.PARTIALLY_FILLED, EventKind.FILLED})
CORRECTABLE: Final = FILLS | {EventKind.ACKNOWLEDGED, EventKind.CLOSED}

NEXT: Final[Mapping[Phase, frozenset[EventKind]]] = MappingProxyType(
    {
        Phase.ISSUED: frozenset(EventKind) - {EventKind.CORRECTED},
        Phase.WORKING: frozenset(EventKind) - {EventKind.CORRECTED, EventKind.CLAIMED},
        Phase.PARTLY_FILLED: FILLS | {EventKind.ACKNOWLEDGED, EventKind.CANCELLED, EventKind.CLOSED},
        Phase.FILLED: frozenset({EventKind.ACKNOWLEDGED, EventKind.CLOSED}),
        Phase.CANCELLED: frozenset(),
        Phase.REJECTED: frozenset(),
        Phase.CLOSED: frozenset(),
    }
)
"""Which event may come in which phase."""


class RefusalReason(StrEnum):
    """Name why an event is refused; the names are part of the contract."""

    NOT_EXECUTABLE = "DECISION_NOT_EXECUTABLE"
    CONFLICT = "EVENT_CONFLICT"
    OUT_OF_ORDER = "EVENT_OUT_OF_ORDER"
    IMPOSSIBLE = "EVENT_IMPOSSIBLE"
    EXPIRED = "TICKET_EXPIRED"
    HALTED = "HALTED"
    REDUCE_ONLY = "REDUCE_ONLY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Say why an event is refused, and which field is at fault."""

    reason: RefusalReason
    field: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Hold one report: shares and price of this event alone, dollars; `at` is the reporter's clock."""

    event_id: str
    kind: EventKind
    at: datetime
    quantity: int | None = None
    price: Decimal | None = None
    stop_placed: bool | None = None
    fees: Decimal | None = None
    exit_reason: ExitReason | None = None
    realized_pnl: Decimal | None = None
    corrects: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedTicket:
    """Hold what was approved: whole shares, the snapshot's time, and until when it may be claimed."""

    quantity: int
    as_of: datetime
    claim_before: datetime
    reduce_only: bool
    stop_required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Hold what all events of a ticket say together."""

    quantity: int
    claimed: bool = False
    filled_quantity: int = 0
    filled_notional_usd: Decimal = ZERO
    last_fill_at: datetime | None = None
    stop_placed: bool = False
    cancelled_at: datetime | None = None
    rejected: bool = False
    closed: bool = False
    closed_quantity: int = 0

    @property
    def phase(self) -> Phase:
        """Tell how far the ticket has come."""
        if self.closed:
            return Phase.CLOSED
        if self.rejected:
            return Phase.REJECTED
        if self.cancelled_at is not None:
            return Phase.FILLED if self.filled_quantity else Phase.CANCELLED
        if self.filled_quantity:
            return Phase.FILLED if self.filled_quantity == self.quantity else Phase.PARTLY_FILLED
        return Phase.WORKING if self.claimed else Phase.ISSUED

    @property
    def open_quantity(self) -> int:
        """Give the shares that may still fill."""
        return self.quantity - self.filled_quantity if self.phase in _OPEN else 0

    @property
    def average_fill_price(self) -> Decimal | None:
        """Give the mean price of all fills, dollars per share."""
        return self.filled_notional_usd / self.filled_quantity if self.filled_quantity else None

    def lacks_stop(self, ticket: IssuedTicket) -> bool:
        """Tell whether shares are held for which no stop is known to be placed."""
        return ticket.stop_required and self.filled_quantity > 0 and not self.stop_placed and not self.closed


_OPEN: Final = (Phase.ISSUED, Phase.WORKING, Phase.PARTLY_FILLED)
_CORRECTED_FIELDS: Final = ("quantity", "price", "stop_placed", "fees", "exit_reason", "realized_pnl")


def as_corrected(events: Sequence[Event]) -> tuple[Event, ...]:
    """Lay the last correction of each event over it; the corrections themselves drop out."""
    corrections = {event.corrects: event for event in events if event.kind is EventKind.CORRECTED}
    return tuple(
        _overlaid(event, corrections.get(event.event_id)) for event in events if event.kind is not EventKind.CORRECTED
    )


def _overlaid(event: Event, correction: Event | None) -> Event:
    if correction is None:
        return event
    values = {name: getattr(correction, name) for name in _CORRECTED_FIELDS}
    return replace(event, **{name: value for name, value in values.items() if value is not None})


def follow(ticket: IssuedTicket, events: Sequence[Event]) -> Progress:
    """Say how far a ticket has come, from all its events in the order of their arrival."""
    progress = Progress(quantity=ticket.quantity)
    for event in as_corrected(events):
        progress = _advanced(progress, event)
    return progress


def _advanced(progress: Progress, event: Event) -> Progress:
    if event.stop_placed is not None:
        progress = replace(progress, stop_placed=event.stop_placed)
    match event.kind:
        case EventKind.CANCELLED:
            return replace(progress, cancelled_at=event.at)
        case EventKind.REJECTED:
            return replace(progress, rejected=True)
        case EventKind.CLOSED:
            return replace(progress, closed=True, closed_quantity=event.quantity or 0)
    progress = replace(progress, claimed=True)
    if event.kind not in FILLS or not event.quantity:
        return progress
    return replace(
        progress,
        filled_quantity=progress.filled_quantity + event.quantity,
        filled_notional_usd=progress.filled_notional_usd + event.quantity * (event.price or ZERO),
        last_fill_at=event.at if progress.last_fill_at is None else max(progress.last_fill_at, event.at),
    )


def missing_fields(event: Event) -> tuple[tuple[str, str], ...]:
    """Name the fields that an event needs and does not bring, or brings and must not, each with why."""
    faults: list[tuple[str, str]] = []
    if event.kind in FILLS:
        if not event.quantity:
            faults.append(("quantity", "a fill needs its shares, 1 or more"))
        if not event.price:
            faults.append(("price", "a fill needs its price, above 0"))
    if event.kind is EventKind.CLOSED and event.quantity == 0:
        faults.append(("quantity", "a closing needs its shares, 1 or more; left out, it closes all"))
    if event.kind is EventKind.CLOSED and event.price is None and event.realized_pnl is None:
        faults.append(("price", "a closing needs its price or its realized_pnl"))
    if (event.kind is EventKind.CORRECTED) is (event.corrects is None):
        faults.append(("corrects", "names the event that is corrected, and stands with corrected alone"))
    return tuple(faults)


def refusal(
    *, ticket: IssuedTicket, history: Sequence[Event], event: Event, now: datetime, halt: HaltState | None
) -> Refusal | None:
    """Say why an event may not be added to a ticket's history; None when it may.

    `now` is the database clock, `halt` the strictest halt in force. The event lacks no field.
    """
    progress = follow(ticket, history)
    if len(history) >= MAX_EVENTS:
        return _refused(RefusalReason.IMPOSSIBLE, "event_id", f"a decision holds at most {MAX_EVENTS} events")
    return (
        _mistimed(ticket=ticket, event=event, now=now)
        or _misplaced(ticket=ticket, history=history, progress=progress, event=event)
        or _unclaimable(ticket=ticket, progress=progress, event=event, now=now, halt=halt)
        or _impossible(progress=progress, after=follow(ticket, (*history, event)), event=event)
    )


def _refused(reason: RefusalReason, field: str, detail: str) -> Refusal:
    return Refusal(reason=reason, field=field, detail=detail)


def _mistimed(*, ticket: IssuedTicket, event: Event, now: datetime) -> Refusal | None:
    """Hold the reporter's clock to the snapshot's, which is its own too, and to ours."""
    if event.at < ticket.as_of:
        return _refused(RefusalReason.IMPOSSIBLE, "at", "lies before the snapshot that was decided on")
    if event.at > now + timedelta(seconds=FUTURE_TOLERANCE_S):
        return _refused(RefusalReason.IMPOSSIBLE, "at", f"lies more than {FUTURE_TOLERANCE_S} s in the future")
    return None


def _misplaced(*, ticket: IssuedTicket, history: Sequence[Event], progress: Progress, event: Event) -> Refusal | None:
    if event.kind is EventKind.CORRECTED:
        return _uncorrectable(history=history, event=event)
    if event.kind is EventKind.CLOSED and ticket.reduce_only:
        return _refused(RefusalReason.OUT_OF_ORDER, "event", "report closed on the entry that opened the position")
    if event.kind in NEXT[progress.phase]:
        return None
    cancelled = progress.cancelled_at
    if event.kind in FILLS and cancelled is not None and event.at <= cancelled and not progress.closed:
        return None
    return _refused(RefusalReason.OUT_OF_ORDER, "event", f"{event.kind} cannot follow: the ticket is {progress.phase}")


def _uncorrectable(*, history: Sequence[Event], event: Event) -> Refusal | None:
    corrected = next((earlier for earlier in history if earlier.event_id == event.corrects), None)
    if corrected is None:
        return _refused(RefusalReason.IMPOSSIBLE, "corrects", "names no earlier event of this decision")
    if corrected.kind not in CORRECTABLE:
        return _refused(RefusalReason.IMPOSSIBLE, "corrects", f"{corrected.kind} holds nothing to correct")
    return None


def _unclaimable(
    *, ticket: IssuedTicket, progress: Progress, event: Event, now: datetime, halt: HaltState | None
) -> Refusal | None:
    claims = event.kind in (EventKind.CLAIMED, EventKind.ACKNOWLEDGED)
    if not claims or progress.phase is not Phase.ISSUED:
        return None
    if now >= ticket.claim_before:
        return _refused(RefusalReason.EXPIRED, "event", f"the ticket was valid until {ticket.claim_before.isoformat()}")
    if halt is HaltState.HALTED:
        return _refused(RefusalReason.HALTED, "event", "the account is halted")
    if halt is HaltState.REDUCE_ONLY and not ticket.reduce_only:
        return _refused(RefusalReason.REDUCE_ONLY, "event", "the account is in reduce_only")
    return None


def _impossible(*, progress: Progress, after: Progress, event: Event) -> Refusal | None:
    if after.filled_quantity > after.quantity:
        detail = f"fills of {after.filled_quantity} shares exceed the ticket's {after.quantity}"
        return _refused(RefusalReason.IMPOSSIBLE, "quantity", detail)
    held = after.filled_quantity or after.quantity
    if after.closed_quantity > held:
        return _refused(RefusalReason.IMPOSSIBLE, "quantity", f"closes {after.closed_quantity} shares of {held}")
    if event.kind is EventKind.CLOSED and progress.last_fill_at is not None and event.at < progress.last_fill_at:
        return _refused(RefusalReason.IMPOSSIBLE, "at", "lies before the last fill")
    return None
