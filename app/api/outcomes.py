"""POST /outcomes: how trades ended, many at once, as JSON or CSV; each line is answered for itself."""

import csv
import io
from collections.abc import Iterator, Mapping
from datetime import UTC
from enum import StrEnum
from itertools import islice
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, ValidationError

from app.api.auth import Identity
from app.api.body import JSON, read_body
from app.api.errors import ApiError, ErrorCode, FieldError, invalid, invalid_body
from app.api.events import MAX_AMOUNT, Dollars, EventId, Price, plain, result_document
from app.api.openapi import BEARER, REF, answers
from app.api.responses import AnswerModel
from app.api.runtime import Runtime, caller, runtime_of
from app.api.schemas import RequestModel, Time
from app.db.events import RecordedEvent, find_ticket, record_event
from app.db.vocabulary import Scope
from app.domain.lifecycle import Event, EventKind, ExitReason, Refusal, missing_fields
from app.domain.outcome import OutcomeClass

CSV: Final = "text/csv"
MAX_LINES: Final = 10_000
_WHOLE: Final = "quantity"
_TOO_MANY: Final = "cells beyond the header"

router = APIRouter(tags=["outcomes"])
log = structlog.stdlib.get_logger(__name__)


class OutcomeLine(RequestModel):
    """How one trade ended. Without `event_id` one is made of the decision's id: told again, a line counts once."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "decision_id": "0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10",
                    "exit_at": "2026-11-21T15:30:04Z",
                    "exit_price": "137.00",
                    "quantity": 53,
                    "fees": "0.53",
                    "exit_reason": "target",
                }
            ]
        }
    )

    decision_id: UUID
    exit_at: Time
    exit_price: Price | None = None
    quantity: Annotated[int, Field(ge=1, lt=MAX_AMOUNT)] | None = None
    fees: Dollars | None = None
    exit_reason: ExitReason | None = None
    realized_pnl: Dollars | None = None
    event_id: EventId | None = None

    def to_domain(self) -> Event:
        """Give the closing that the line tells of."""
        return Event(
            event_id=self.event_id or f"closed:{self.decision_id}",
            kind=EventKind.CLOSED,
            at=self.exit_at.astimezone(UTC),
            quantity=self.quantity,
            price=self.exit_price,
            fees=self.fees,
            exit_reason=self.exit_reason,
            realized_pnl=self.realized_pnl,
        )


class LineStatus(StrEnum):
    """Say what became of a line: it counts, it counted before, or it does not count."""

    RECORDED = "recorded"
    REPEATED = "repeated"
    REFUSED = "refused"


class OutcomeOut(AnswerModel):
    """What became of one line, numbered from 1; a refused one has a code, as if it had been sent alone."""

    line: int
    decision_id: str | None
    event_id: str | None
    status: LineStatus
    code: ErrorCode | None
    detail: str | None
    outcome: OutcomeClass | None
    r_multiple: str | None


class OutcomesResponse(AnswerModel):
    """One result per line, in the order of the lines, and how many of each there are."""

    recorded: int
    repeated: int
    refused: int
    results: list[OutcomeOut]


_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": MAX_LINES,
                    "items": {
                        "anyOf": [
                            {"$ref": REF.format(model="OutcomeLine")},
                            {"description": "anything else is answered, too: as a refused line"},
                        ]
                    },
                }
            },
            CSV: {"schema": {"type": "string"}},
        },
    }
}


@router.post(
    "/outcomes",
    name="report_outcomes",
    response_class=Response,
    responses=answers(
        {"model": OutcomesResponse, "description": "Every line is answered; each counts, or not, by itself"},
        ErrorCode.MALFORMED_JSON,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.BODY_TOO_SLOW,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER | _BODY,
)
async def report_outcomes(request: Request, identity: Annotated[Identity, caller(Scope.REPORT)]) -> Response:
    """Record closings line by line: each is committed by itself, so a batch that broke off can be sent again."""
    runtime = runtime_of(request)
    body, media_type = await read_body(request, limit=runtime.settings.max_body_bytes, accepted=(JSON, CSV))
    lines = list(islice(_csv_lines(body), MAX_LINES + 1)) if media_type == CSV else _json_lines(body)
    if not 1 <= len(lines) <= MAX_LINES:
        raise invalid([FieldError(field="", message=f"must hold 1 to {MAX_LINES} lines")])
    results = [
        await _report_line(runtime, identity, number=number, line=line) for number, line in enumerate(lines, start=1)
    ]
    counts = {status.value: sum(result["status"] is status for result in results) for status in LineStatus}
    log.info("outcomes", **counts)
    return Response(orjson.dumps({**counts, "results": results}, default=plain), media_type=JSON)


def _json_lines(body: bytes) -> list[object]:
    try:
        lines = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(ErrorCode.MALFORMED_JSON, str(error)) from error
    if not isinstance(lines, list):
        raise invalid([FieldError(field="", message="must be an array of outcomes")])
    return lines


def _csv_lines(body: bytes) -> Iterator[Mapping[str, object]]:
    """Read the lines of a CSV with a header; an empty cell is a field that was not sent."""
    try:
        text = io.StringIO(body.decode("utf-8-sig"), newline="")
        rows = csv.DictReader(text, restkey=_TOO_MANY, restval="", strict=True)
        known = set(OutcomeLine.model_fields)
        header = rows.fieldnames or ()
        if unknown := [name for name in header if name not in known]:
            raise invalid([FieldError(field=unknown[0][:100], message="is no column of an outcome")])
        for name in ("decision_id", "exit_at"):
            if name not in header:
                raise invalid([FieldError(field=name, message="the header lacks this column")])
        if len(set(header)) < len(header):
            raise invalid([FieldError(field="", message="a column is named twice")])
        for row in rows:
            yield {name: _cell(name, value) for name, value in row.items() if value != ""}
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid([FieldError(field="", message=f"not a CSV in UTF-8: {error}")]) from error


def _cell(name: str, value: object) -> object:
    """Give a cell its type; whole shares are the one number that JSON may not quote."""
    if name == _WHOLE and isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 13:
        return int(value)
    return value


async def _report_line(runtime: Runtime, identity: Identity, *, number: int, line: object) -> dict[str, Any]:
    sent = line if isinstance(line, dict) else {}
    named = {name: _text(sent.get(name)) for name in ("decision_id", "event_id")}
    try:
        event, recorded = await _record_line(runtime, identity, line)
    except ApiError as error:
        nothing = {"outcome": None, "r_multiple": None}
        return {
            "line": number,
            **named,
            "status": LineStatus.REFUSED,
            "code": error.code,
            "detail": error.detail,
            **nothing,
        }
    result = None if recorded.result is None else result_document(recorded.result)
    return {
        "line": number,
        **named,
        "event_id": event.event_id,
        "status": LineStatus.REPEATED if recorded.repeated else LineStatus.RECORDED,
        "code": None,
        "detail": None,
        "outcome": None if result is None else result["outcome"],
        "r_multiple": None if result is None else result["r_multiple"],
    }


async def _record_line(runtime: Runtime, identity: Identity, line: object) -> tuple[Event, RecordedEvent]:
    text = orjson.dumps(line)
    try:
        sent = OutcomeLine.model_validate_json(text)
    except ValidationError as error:
        raise invalid_body(error) from error
    event = sent.to_domain()
    if faults := missing_fields(event):
        names = {"price": "exit_price"}
        raise invalid([FieldError(field=names.get(field, field), message=message) for field, message in faults])
    ticket = await find_ticket(runtime.pool, sent.decision_id)
    if ticket is None or not identity.may_see(ticket.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {sent.decision_id}.")
    outcome = await record_event(runtime.pool, ticket=ticket, event=event, body=text.decode())
    if isinstance(outcome, Refusal):
        raise ApiError(ErrorCode(outcome.reason.value), f"{outcome.field}: {outcome.detail}")
    return event, outcome


def _text(value: object) -> str | None:
    return value[:255] if isinstance(value, str) else None
