"""Make the requests: what each one sends, and how its answer is read. Nothing here sends anything."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from tradeverdict_client.decision import Decision, Ticket, read_decision
from tradeverdict_client.errors import InvalidInput, UnexpectedAnswer
from tradeverdict_client.reports import (
    BarsResult,
    Calibration,
    Event,
    Halt,
    HaltState,
    Outcome,
    OutcomeResult,
    Report,
    Resumed,
    new_id,
)
from tradeverdict_client.retrying import Call
from tradeverdict_client.snapshot import Bar, Snapshot
from tradeverdict_client.wire import amount, decode, encode, read

T = TypeVar("T")

MAX_KEY = 255
AMOUNTS = ("price", "fees", "realized_pnl", "exit_price")


def decide(snapshot: Snapshot, idempotency_key: str | None) -> Call[Decision]:
    """POST /decide, under one key."""
    key = new_id() if idempotency_key is None else _printable(idempotency_key, "the idempotency key")

    def answer(response: httpx.Response) -> Decision:
        replayed = response.headers.get("Idempotency-Replayed") == "true"
        decision = read_decision(decode(response.content), idempotency_key=key, replayed=replayed)
        wanted = snapshot.account
        if decision.account_id != wanted.id:
            raise UnexpectedAnswer(f"asked for account {wanted.id!r}, answered for {decision.account_id!r}")
        if decision.ticket is not None and decision.ticket.mode != (wanted.mode or "paper"):
            raise UnexpectedAnswer(f"asked for mode {wanted.mode or 'paper'}, answered for {decision.ticket.mode}")
        return decision

    return Call(method="POST", path="/decide", body=encode(snapshot), idempotency_key=key, read=answer)


def decision(decision_id: str) -> Call[Decision]:
    """GET /decisions/{id}: the answer in its record."""

    def answer(response: httpx.Response) -> Decision:
        record = decode(response.content)
        if not isinstance(record, Mapping):
            raise UnexpectedAnswer("the record is no object")
        return read_decision(record.get("response"))

    return Call(method="GET", path=f"/decisions/{quote(decision_id, safe='')}", read=answer)


def claim(ticket: Ticket, event: Event | None) -> Call[Report]:
    """Report a claim, of a ticket that may be used."""
    claimed = event or Event.claimed()
    if claimed.event != "claimed":
        raise InvalidInput(f"{claimed.event} is no claim")
    return report(ticket.use(), claimed)


def report(ticket: Ticket | str, event: Event) -> Call[Report]:
    """POST /decisions/{id}/events."""
    decision_id = ticket if isinstance(ticket, str) else ticket.decision_id
    _printable(event.event_id, "the event id")
    return Call(
        method="POST",
        path=f"/decisions/{quote(decision_id, safe='')}/events",
        body=encode(_exact(event)),
        event_id=event.event_id,
        read=_answer(Report),
    )


def post_outcomes(outcomes: Iterable[Outcome]) -> Call[tuple[OutcomeResult, ...]]:
    """POST /outcomes, as JSON."""
    lines = [_exact(outcome) for outcome in outcomes]

    def answer(response: httpx.Response) -> tuple[OutcomeResult, ...]:
        told = decode(response.content)
        results = told.get("results") if isinstance(told, Mapping) else None
        if not isinstance(results, list) or len(results) != len(lines):
            raise UnexpectedAnswer(f"{len(lines)} outcomes were sent, and the answer is {response.content[:80]!r}")
        return tuple(read(OutcomeResult, result, path=str(line)) for line, result in enumerate(results))

    return Call(method="POST", path="/outcomes", body=encode(lines), read=answer)


def post_bars(bars: Mapping[str, Sequence[Bar]], interval: str) -> Call[BarsResult]:
    """POST /bars."""
    return Call(
        method="POST", path="/bars", body=encode({"interval": interval, "bars": bars}), read=_answer(BarsResult)
    )


def calibration(filters: Mapping[str, str | float | None]) -> Call[Calibration]:
    """GET /calibration; a filter `from_` is sent as `from`."""
    params = {name.rstrip("_"): str(value) for name, value in filters.items() if value is not None}
    return Call(method="GET", path="/calibration", params=params, read=_answer(Calibration))


def halt(account_id: str | None, *, reason: str, operator: str, state: HaltState) -> Call[Halt]:
    """POST /halt: twice is as good as once."""
    document = {"account_id": account_id, "state": state, "reason": reason, "operator": operator}
    return Call(method="POST", path="/halt", body=encode(document), read=_answer(Halt))


def resume(account_id: str | None, *, reason: str, operator: str) -> Call[Resumed]:
    """DELETE /halt: never blindly twice."""
    document = {"account_id": account_id, "reason": reason, "operator": operator}
    return Call(method="DELETE", path="/halt", body=encode(document), read=_answer(Resumed), repeatable=False)


def halts() -> Call[tuple[Halt, ...]]:
    """GET /halt."""

    def answer(response: httpx.Response) -> tuple[Halt, ...]:
        told = decode(response.content)
        listed = told.get("halts") if isinstance(told, Mapping) else None
        if not isinstance(listed, list):
            raise UnexpectedAnswer("halts are missing")
        return tuple(read(Halt, halt, path=f"halts.{index}") for index, halt in enumerate(listed))

    return Call(method="GET", path="/halt", read=answer)


def _answer(kind: type[T]) -> Callable[[httpx.Response], T]:
    """Read the whole answer."""
    return lambda response: read(kind, decode(response.content))


def _exact(report: Event | Outcome) -> dict[str, Any]:
    """Write amounts as text, so that no float rounds them; leave out what is None."""
    told = {name: getattr(report, name) for name in report.__dataclass_fields__}
    return {name: amount(value) if name in AMOUNTS else value for name, value in told.items() if value is not None}


def _printable(text: str, what: str) -> str:
    if not (0 < len(text) <= MAX_KEY and text.isascii() and text.isprintable() and text == text.strip()):
        raise InvalidInput(f"{what} must be 1 to {MAX_KEY} printable ASCII characters, without spaces at its ends")
    return text
