"""POST /decisions/{id}/events: what became of a ticket, told once or as often as it takes."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ApiError, ErrorCode, FieldError, invalid, invalid_body
from app.api.openapi import BEARER, answers, json_body, ticket_links
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.schemas import RequestModel, Time, printable
from app.db.events import RecordedEvent, find_ticket, record_event
from app.db.labels import Result
from app.db.queries import list_events
from app.db.vocabulary import NotedEvent, Scope
from app.domain.document import utc_text
from app.domain.lifecycle import Event, EventKind, ExitReason, Phase, Progress, Refusal, missing_fields
from app.domain.outcome import OutcomeClass

MAX_AMOUNT: Final = 10**13
EXAMPLE: Final[dict[str, Any]] = {
    "event_id": "fill-1",
    "event": "filled",
    "at": "2026-11-20T15:30:04Z",
    "quantity": 53,
    "price": "125.40",
    "stop_placed": True,
    "fees": "0.53",
}

_AMOUNT: Final = re.compile(r"-?[0-9]{1,13}(\.[0-9]{1,12})?")

router = APIRouter(tags=["tickets"])
log = structlog.stdlib.get_logger(__name__)


def _exact(sent: object) -> object:
    """Take an amount as text, which loses nothing, or as a JSON number by its shortest form."""
    if isinstance(sent, str):
        if _AMOUNT.fullmatch(sent) is None:
            raise ValueError("must be a plain decimal number such as 125.40")
        return Decimal(sent)
    return Decimal(repr(sent)) if isinstance(sent, int | float) and not isinstance(sent, bool) else sent


def _amount_schema(low: str, sign: str) -> WithJsonSchema:
    number: dict[str, Any] = {"type": "number", low: 0 if not sign else -MAX_AMOUNT, "exclusiveMaximum": MAX_AMOUNT}
    return WithJsonSchema(
        {"anyOf": [number, {"type": "string", "pattern": f"^{sign}[0-9]{{1,13}}(\\.[0-9]{{1,12}})?$"}]}
    )


Price = Annotated[Decimal, BeforeValidator(_exact), Field(gt=0, lt=MAX_AMOUNT), _amount_schema("exclusiveMinimum", "")]
Dollars = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(gt=-MAX_AMOUNT, lt=MAX_AMOUNT),
    _amount_schema("exclusiveMinimum", "-?"),
]
EventId = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(printable)]


class EventRequest(RequestModel):
    """One report. Shares, price and fees are of this event alone; `at` is when it happened, by the bot's clock.

    Fields that an event does not need are recorded and have no other effect, but for `stop_placed`, which holds
    for the ticket whichever event says it.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    event_id: Annotated[EventId, Field(description="the bot's own: the same event told again counts once")]
    event: EventKind
    at: Time
    quantity: Annotated[int, Field(ge=0, lt=MAX_AMOUNT)] | None = None
    price: Price | None = None
    stop_placed: bool | None = None
    fees: Dollars | None = None
    exit_reason: ExitReason | None = None
    realized_pnl: Dollars | None = None
    corrects: Annotated[EventId | None, Field(description="with `corrected`: the event_id that is corrected")] = None

    def to_domain(self) -> Event:
        """Give the event.

        Raises:
            ApiError: VALIDATION_ERROR; it lacks what events of its kind need.
        """
        event = Event(
            event_id=self.event_id,
            kind=self.event,
            at=self.at.astimezone(UTC),
            quantity=self.quantity,
            price=self.price,
            stop_placed=self.stop_placed,
            fees=self.fees,
            exit_reason=self.exit_reason,
            realized_pnl=self.realized_pnl,
            corrects=self.corrects,
        )
        if faults := missing_fields(event):
            raise invalid([FieldError(field=field, message=message) for field, message in faults])
        return event


class EventOut(AnswerModel):
    """The event as it is recorded."""

    event_id: str
    event: EventKind
    at: datetime
    quantity: int | None
    price: str | None
    stop_placed: bool | None
    fees: str | None
    exit_reason: ExitReason | None
    realized_pnl: str | None
    corrects: str | None


class TicketOut(AnswerModel):
    """How far the ticket had come with this event; `open_quantity` may still fill."""

    phase: Phase
    quantity: int
    filled_quantity: int
    open_quantity: int
    average_fill_price: str | None
    stop_placed: bool


class ResultOut(AnswerModel):
    """What a closed trade brought: in R (units of L + C, net) and in dollars, beside the EV_R that it was given.

    A win is that the target was reached, for that is what `p_win` foretold.
    """

    outcome: OutcomeClass
    r_multiple: str
    predicted_ev_r: str | None
    holding_s: int | None
    exit_at: datetime
    realized_usd: str | None
    fees_usd: str | None


class EventResponse(AnswerModel):
    """An event that counts; `recorded_at` is the time of the database, `result` null until the trade is closed."""

    decision_id: UUID
    recorded_at: datetime
    event: EventOut
    ticket: TicketOut
    result: ResultOut | None


@router.post(
    "/decisions/{decision_id}/events",
    status_code=201,
    response_class=Response,
    responses={
        **answers(
            {
                "model": EventResponse,
                "description": "The event was told before: it counts once, and the answer is the first",
            },
            ErrorCode.MALFORMED_JSON,
            ErrorCode.VALIDATION_ERROR,
            ErrorCode.EVENT_IMPOSSIBLE,
            ErrorCode.UNAUTHENTICATED,
            ErrorCode.FORBIDDEN,
            ErrorCode.NOT_FOUND,
            ErrorCode.DECISION_NOT_EXECUTABLE,
            ErrorCode.EVENT_CONFLICT,
            ErrorCode.EVENT_OUT_OF_ORDER,
            ErrorCode.TICKET_EXPIRED,
            ErrorCode.HALTED,
            ErrorCode.REDUCE_ONLY,
            ErrorCode.BODY_TOO_SLOW,
            ErrorCode.BODY_TOO_LARGE,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            ErrorCode.STORE_UNAVAILABLE,
        ),
        201: {
            "model": EventResponse,
            "description": "The event counts from now on",
            "links": ticket_links("$request.path.decision_id"),
        },
    },
    openapi_extra=BEARER | json_body("EventRequest"),
)
async def report(request: Request, identity: Annotated[Identity, caller(Scope.REPORT)], decision_id: UUID) -> Response:
    """Record what happened to a ticket; what it reserves follows in the same transaction."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        event = EventRequest.model_validate_json(body).to_domain()
    except ValidationError as error:
        raise invalid_body(error) from error
    ticket = await find_ticket(runtime.pool, decision_id)
    if ticket is None or not identity.may_see(ticket.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {decision_id}.")
    outcome = await record_event(runtime.pool, ticket=ticket, event=event, body=body.decode())
    if isinstance(outcome, Refusal):
        fault = FieldError(field=outcome.field, message=outcome.detail)
        raise ApiError(ErrorCode(outcome.reason.value), f"{outcome.field}: {outcome.detail}", errors=[fault])
    phase = outcome.progress.phase
    log.info("event", decision_id=str(decision_id), kind=event.kind, phase=phase, repeated=outcome.repeated)
    return Response(
        orjson.dumps(_document(decision_id, outcome), default=plain),
        status_code=200 if outcome.repeated else 201,
        media_type="application/json",
    )


class NotedEventOut(AnswerModel):
    """An event as it was told or noted: `body` is what told it, `outcome` and `model_*` are the service's own."""

    event_id: str
    event: EventKind | NotedEvent
    at: datetime
    recorded_at: datetime
    body: Any


class EventListResponse(AnswerModel):
    """All events of a decision, in the order of their arrival."""

    decision_id: UUID
    events: list[NotedEventOut]


@router.get(
    "/decisions/{decision_id}/events",
    name="events",
    response_class=Response,
    responses=answers(
        {"model": EventListResponse},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def events(request: Request, identity: Annotated[Identity, caller(Scope.READ)], decision_id: UUID) -> Response:
    """List what was reported of a decision, and what the service noted of it: outcomes, and how a reply ended."""
    runtime = runtime_of(request)
    ticket = await find_ticket(runtime.pool, decision_id)
    if ticket is None or not identity.may_see(ticket.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {decision_id}.")
    listed = [
        {
            "event_id": event.event_id,
            "event": event.event,
            "at": utc_text(event.at),
            "recorded_at": utc_text(event.recorded_at),
            "body": orjson.Fragment(event.body),
        }
        for event in await list_events(runtime.pool, decision_id)
    ]
    return Response(
        orjson.dumps({"decision_id": decision_id, "events": listed}, default=plain), media_type="application/json"
    )


def _document(decision_id: UUID, recorded: RecordedEvent) -> dict[str, Any]:
    event, progress = recorded.event, recorded.progress
    return {
        "decision_id": decision_id,
        "recorded_at": utc_text(recorded.recorded_at),
        "event": {
            "event_id": event.event_id,
            "event": event.kind,
            "at": utc_text(event.at),
            "quantity": event.quantity,
            "price": event.price,
            "stop_placed": event.stop_placed,
            "fees": event.fees,
            "exit_reason": event.exit_reason,
            "realized_pnl": event.realized_pnl,
            "corrects": event.corrects,
        },
        "ticket": ticket_document(progress),
        "result": None if recorded.result is None else result_document(recorded.result),
    }


def result_document(result: Result) -> dict[str, Any]:
    """Write what a closed trade brought."""
    outcome = result.outcome
    return {
        "outcome": outcome.outcome,
        "r_multiple": outcome.r_multiple,
        "predicted_ev_r": result.predicted_r,
        "holding_s": outcome.holding_s,
        "exit_at": utc_text(outcome.exit_at),
        "realized_usd": outcome.realized_usd,
        "fees_usd": outcome.fees_usd,
    }


def ticket_document(progress: Progress) -> dict[str, Any]:
    """Write how far a ticket has come."""
    return {
        "phase": progress.phase,
        "quantity": progress.quantity,
        "filled_quantity": progress.filled_quantity,
        "open_quantity": progress.open_quantity,
        "average_fill_price": progress.average_fill_price,
        "stop_placed": progress.stop_placed,
    }


def plain(value: object) -> str:
    """Write money as text, so that no float rounds it."""
    if isinstance(value, Decimal):
        return format(value, "f")
    raise TypeError(f"{type(value).__name__} has no JSON form")
