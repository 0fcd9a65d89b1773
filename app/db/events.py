"""Record what bots report of their tickets, and keep each reservation in step with it.

A report holds the account still as a decision does, reads the ticket's whole history, lets the domain judge the
event, appends it, and writes down what all events together mean for the reservation. The history is the truth;
the reservation's columns can be computed from it at any time.

A deadline for a stop that has passed is left to `halt_unprotected`: a report that comes too late does not undo it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from app.db.engine import Connection, ConnectionPool
from app.db.halts import set_halt_in
from app.db.labels import Result, executed_result
from app.db.locks import lock_account
from app.db.vocabulary import ReleaseReason
from app.domain.account import AccountMode, HaltState
from app.domain.lifecycle import (
    FILLS,
    STOP_GRACE,
    Event,
    EventKind,
    ExitReason,
    IssuedTicket,
    Phase,
    Progress,
    Refusal,
    RefusalReason,
    follow,
    refusal,
)

SERVICE: Final = "tradeverdict"
"""The operator of halts that the service sets by itself."""
UNPROTECTED_AT_ONCE: Final = 100

_FIND_TICKET: Final = """
SELECT
    decision.decision_id, decision.account_id, decision.mode, decision.as_of,
    least(decision.valid_until, reservation.expires_at) AS claim_before,
    (decision.ticket ->> 'quantity')::bigint AS quantity,
    (decision.ticket ->> 'reduce_only')::boolean AS reduce_only,
    (decision.ticket ->> 'stop_required')::boolean AS stop_required
FROM llm_decisions AS decision LEFT JOIN reservations AS reservation USING (decision_id)
WHERE decision_id = $1
"""
_READ_HISTORY: Final = """
SELECT event_id, event, at, quantity, price, stop_placed, fees, exit_reason, realized_pnl, corrects, recorded_at
FROM decision_events WHERE decision_id = $1 AND event = ANY ($2) ORDER BY sequence
"""
_READ_MOMENT: Final = """
SELECT
    statement_timestamp() AS now,
    (
        SELECT state FROM halts WHERE lifted_at IS NULL AND (account_id = $1 OR account_id IS NULL)
        ORDER BY state = 'halted' DESC LIMIT 1
    ) AS halt
"""
_APPEND: Final = """
WITH reservation AS (
    UPDATE reservations SET
        claimed_at = CASE WHEN $15 THEN coalesce(claimed_at, statement_timestamp()) END,
        filled_quantity = $16::numeric,
        filled_at = $17,
        stop_placed_at = CASE WHEN $18 THEN coalesce(stop_placed_at, statement_timestamp()) END,
        released_at = CASE WHEN $19::text IS NOT NULL THEN coalesce(released_at, statement_timestamp()) END,
        release_reason = $19::text,
        stop_due_at = CASE
            WHEN stop_due_at <= statement_timestamp() THEN stop_due_at
            WHEN NOT $20 THEN NULL
            WHEN $21 THEN coalesce(stop_due_at, statement_timestamp() + $22::interval)
            ELSE stop_due_at
        END
    WHERE decision_id = $1
)
INSERT INTO decision_events (
    decision_id, account_id, mode, body, event_id, event, at, quantity, price, stop_placed, fees, exit_reason,
    realized_pnl, corrects
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING recorded_at
"""
_FIND_OVERDUE: Final = f"""
SELECT decision_id, account_id FROM reservations WHERE stop_due_at <= clock_timestamp()
ORDER BY stop_due_at LIMIT {UNPROTECTED_AT_ONCE}
"""  # noqa: S608 (a constant)
_NOTE_UNPROTECTED: Final = """
UPDATE reservations SET stop_due_at = NULL, unprotected_at = clock_timestamp()
WHERE decision_id = $1 AND stop_due_at <= clock_timestamp()
"""
_RELEASES: Final = {
    Phase.CANCELLED: ReleaseReason.CANCELLED,
    Phase.REJECTED: ReleaseReason.REJECTED,
    Phase.CLOSED: ReleaseReason.CLOSED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTicket:
    """Hold whose decision it is and what it approved; None when it approved nothing."""

    decision_id: UUID
    account_id: str
    mode: AccountMode
    issued: IssuedTicket | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """Hold an event that counts, and how far its ticket had come with it; `repeated` when it was known.

    `result` is what the trade had brought with it, None while it was open.
    """

    event: Event
    recorded_at: datetime
    progress: Progress
    repeated: bool
    result: Result | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnprotectedFill:
    """Name a decision whose fill was left without a stop for too long."""

    decision_id: UUID
    account_id: str


async def find_ticket(pool: ConnectionPool, decision_id: UUID) -> StoredTicket | None:
    """Find what a decision approved; None when there is no such decision.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_FIND_TICKET, decision_id)
    if row is None:
        return None
    issued = None
    if row["quantity"] is not None:
        issued = IssuedTicket(
            quantity=row["quantity"],
            as_of=row["as_of"],
            claim_before=row["claim_before"],
            reduce_only=row["reduce_only"],
            stop_required=row["stop_required"],
        )
    return StoredTicket(
        decision_id=decision_id, account_id=row["account_id"], mode=AccountMode(row["mode"]), issued=issued
    )


async def record_event(
    pool: ConnectionPool, *, ticket: StoredTicket, event: Event, body: str
) -> RecordedEvent | Refusal:
    """Record an event with the JSON text that told it, once, or say why it is refused.

    Raises:
        StoreUnavailable: it may not be recorded; telling it again counts once all the same.
    """
    async with pool.transaction() as connection:
        await lock_account(connection, account_id=ticket.account_id)
        return await record_event_in(connection, ticket=ticket, event=event, body=body)


async def record_event_in(
    connection: Connection, *, ticket: StoredTicket, event: Event, body: str
) -> RecordedEvent | Refusal:
    """Record an event as part of a transaction that holds the account."""
    issued = ticket.issued
    if issued is None:
        return Refusal(
            reason=RefusalReason.NOT_EXECUTABLE, field="decision_id", detail="the decision approved no order"
        )
    rows = await connection.fetch(_READ_HISTORY, ticket.decision_id, list(EventKind))
    history = tuple(_event(row) for row in rows)
    known = next((place for place, earlier in enumerate(history) if earlier.event_id == event.event_id), None)
    if known is not None and history[known] != event:
        return Refusal(reason=RefusalReason.CONFLICT, field="event_id", detail="was used before, for another event")
    if known is not None:
        then = history[: known + 1]
        progress, result = follow(issued, then), None
        if progress.closed:
            result = await executed_result(
                connection, decision_id=ticket.decision_id, quantity=issued.quantity, events=then, label=False
            )
        return RecordedEvent(
            event=event, recorded_at=rows[known]["recorded_at"], progress=progress, repeated=True, result=result
        )
    moment = await connection.fetchrow(_READ_MOMENT, ticket.account_id)
    assert moment is not None  # noqa: S101 (a SELECT without FROM)
    halt = None if moment["halt"] is None else HaltState(moment["halt"])
    refused = refusal(ticket=issued, history=history, event=event, now=moment["now"], halt=halt)
    if refused is not None:
        return refused
    before, after = follow(issued, history), follow(issued, (*history, event))
    recorded_at: datetime = await connection.fetchval(
        _APPEND,
        *(ticket.decision_id, ticket.account_id, ticket.mode, body),
        *(event.event_id, event.kind, event.at, event.quantity, event.price, event.stop_placed),
        *(event.fees, event.exit_reason, event.realized_pnl, event.corrects),
        *_reservation(issued, event=event, before=before, after=after),
    )
    result = None
    if after.closed:  # by this event, or it corrects what came before
        result = await executed_result(
            connection, decision_id=ticket.decision_id, quantity=issued.quantity, events=(*history, event)
        )
    return RecordedEvent(event=event, recorded_at=recorded_at, progress=after, repeated=False, result=result)


async def halt_unprotected(pool: ConnectionPool) -> list[UnprotectedFill]:
    """Put accounts with a fill whose stop is overdue in reduce_only, once for each fill; say which.

    Any number of processes may do so at once: who locks the account first does it, the others find it done.

    Raises:
        StoreUnavailable: some may be left; they stay overdue.
    """
    async with pool.connection() as connection:
        overdue = [UnprotectedFill(**row) for row in await connection.fetch(_FIND_OVERDUE)]
    return [fill for fill in overdue if await _halt_account_of(pool, fill)]


async def _halt_account_of(pool: ConnectionPool, fill: UnprotectedFill) -> bool:
    async with pool.transaction() as connection:
        await lock_account(connection, account_id=fill.account_id)
        if await connection.execute(_NOTE_UNPROTECTED, fill.decision_id) != "UPDATE 1":
            return False
        await set_halt_in(
            connection,
            account_id=fill.account_id,
            state=HaltState.REDUCE_ONLY,
            reason=f"decision {fill.decision_id} filled, and no stop was reported in {STOP_GRACE.seconds} s",
            operator=SERVICE,
        )
    return True


def _reservation(issued: IssuedTicket, *, event: Event, before: Progress, after: Progress) -> tuple[object, ...]:
    """Give the values of the reservation's columns; it is filled once nothing more can fill."""
    lacks_stop = after.lacks_stop(issued)
    newly_lacks_stop = lacks_stop and (event.kind in FILLS or not before.lacks_stop(issued))
    return (
        after.claimed,
        after.filled_quantity,
        after.last_fill_at if after.filled_quantity and not after.open_quantity else None,
        after.stop_placed,
        _RELEASES.get(after.phase),
        lacks_stop,
        newly_lacks_stop,
        STOP_GRACE,
    )


def _event(row: asyncpg.Record) -> Event:
    return Event(
        event_id=row["event_id"],
        kind=EventKind(row["event"]),
        at=row["at"],
        quantity=None if row["quantity"] is None else int(row["quantity"]),
        price=row["price"],
        stop_placed=row["stop_placed"],
        fees=row["fees"],
        exit_reason=None if row["exit_reason"] is None else ExitReason(row["exit_reason"]),
        realized_pnl=row["realized_pnl"],
        corrects=row["corrects"],
    )
