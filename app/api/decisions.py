"""GET /decisions and GET /decisions/{id}: what was decided, as it was stored."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import fields
from decimal import Decimal
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.api.auth import Identity
from app.api.errors import ApiError, ErrorCode
from app.api.openapi import BEARER, answers, ticket_links
from app.api.responses import DecisionListResponse, DecisionRecordResponse
from app.api.runtime import caller, runtime_of
from app.api.schemas import AccountId, Symbol, Time
from app.db.account_state import state_to_json
from app.db.queries import get_decision, list_decisions
from app.db.records import DecisionRecord
from app.db.vocabulary import Scope
from app.domain.verdict import Verdict

MAX_PAGE: Final = 200
JSON_COLUMNS: Final = ("request", "proposal", "response", "gates", "sizing", "ticket", "calibration", "judged_with")

router = APIRouter(tags=["decisions"])


def _cursor(decision_id: UUID) -> str:
    return urlsafe_b64encode(decision_id.bytes).rstrip(b"=").decode()


def _read_cursor(text: str) -> str:
    try:
        UUID(bytes=urlsafe_b64decode(text + "=="))
    except (Base64Error, ValueError) as error:
        raise ValueError("is not a cursor that this service gave") from error
    return text


class DecisionFilter(BaseModel):
    """Hold the filters of a list; an unknown one is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")

    account: AccountId | None = None
    symbol: Symbol | None = None
    verdict: Verdict | None = None
    from_: Annotated[Time | None, Field(alias="from", description="decided at or after")] = None
    to: Annotated[Time | None, Field(description="decided before")] = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    cursor: Annotated[str, Field(max_length=64), AfterValidator(_read_cursor)] | None = None


@router.get(
    "/decisions",
    response_class=Response,
    responses=answers(
        {"model": DecisionListResponse, "links": ticket_links("$response.body#/decisions/0/decision_id")},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def decisions(
    request: Request, identity: Annotated[Identity, caller(Scope.READ)], wanted: Annotated[DecisionFilter, Query()]
) -> Response:
    """List decisions, newest first; `next_cursor` leads to the next page."""
    runtime = runtime_of(request)
    rows = await list_decisions(
        runtime.pool,
        accounts=identity.visible_accounts(wanted.account),
        symbol=wanted.symbol,
        verdict=wanted.verdict,
        decided_from=wanted.from_,
        decided_to=wanted.to,
        after=None if wanted.cursor is None else UUID(bytes=urlsafe_b64decode(wanted.cursor + "==")),
        limit=wanted.limit + 1,
    )
    page = rows[: wanted.limit]
    return _json(
        {
            "decisions": page,
            "next_cursor": _cursor(page[-1].decision_id) if len(rows) > wanted.limit else None,
        }
    )


@router.get(
    "/decisions/{decision_id}",
    response_class=Response,
    responses=answers(
        {"model": DecisionRecordResponse},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def decision(request: Request, identity: Annotated[Identity, caller(Scope.READ)], decision_id: UUID) -> Response:
    """Give the full record of one decision: what was sent, proposed, judged and answered."""
    runtime = runtime_of(request)
    record = await get_decision(runtime.pool, decision_id)
    if record is None or not identity.may_see(record.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {decision_id}.")
    return _json(_document(record))


def _document(record: DecisionRecord) -> dict[str, Any]:
    """Write a record with the JSON it holds as it was stored, to the byte."""
    document = {field.name: getattr(record, field.name) for field in fields(record)}
    for column in JSON_COLUMNS:
        text = document[column]
        document[column] = None if text is None else orjson.Fragment(text)
    document["state"] = orjson.Fragment(state_to_json(record.state))
    return document


def _json(document: dict[str, Any]) -> Response:
    body = orjson.dumps(document, default=_plain, option=orjson.OPT_UTC_Z)
    return Response(body, media_type="application/json")


def _plain(value: object) -> str:
    """Write money as text, so that no float rounds it; and ids, of which the driver has a type of its own."""
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
