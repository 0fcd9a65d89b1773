"""POST, DELETE and GET /halt: stop trading of an account or of all, let it go on, and see what stands."""

from typing import Annotated, Any, Final

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, AwareDatetime, Field, ValidationError

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ApiError, ErrorCode, invalid_body
from app.api.openapi import BEARER, answers, json_body
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.schemas import AccountId, RequestModel, printable
from app.db.halts import StoredHalt, lift_halt, list_halts, set_halt
from app.db.vocabulary import Scope
from app.domain.account import HaltState

ERRORS: Final = (
    ErrorCode.MALFORMED_JSON,
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.BODY_TOO_SLOW,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.STORE_UNAVAILABLE,
)

Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(printable)]
Operator = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(printable)]
Whose = Annotated[AccountId | None, Field(description="null: every account")]

router = APIRouter(tags=["kill switch"])
log = structlog.stdlib.get_logger(__name__)


class HaltRequest(RequestModel):
    """Stop an account, or all, in the name of a person."""

    account_id: Whose
    state: HaltState
    reason: Reason
    operator: Operator


class ResumeRequest(RequestModel):
    """Lift every halt of an account, or every global one, in the name of a person."""

    account_id: Whose
    reason: Reason
    operator: Operator


class HaltOut(AnswerModel):
    """A halt, and who lifted it when and why; `account_id` null stands for every account."""

    halt_id: int
    account_id: str | None
    state: HaltState
    reason: str
    operator: str
    set_at: AwareDatetime
    lifted_at: AwareDatetime | None
    lifted_by: str | None
    lift_reason: str | None


class ResumeResponse(AnswerModel):
    """What was lifted, and what still holds the account (or, of a global lift, any that the key may see)."""

    lifted: list[HaltOut]
    in_force: list[HaltOut]


class HaltListResponse(AnswerModel):
    """The halts in force that concern the key's accounts, newest first."""

    halts: list[HaltOut]


@router.post(
    "/halt",
    response_class=Response,
    responses=answers({"model": HaltOut}, *ERRORS),
    openapi_extra=BEARER | json_body("HaltRequest"),
)
async def halt(request: Request, identity: Annotated[Identity, caller(Scope.ADMIN)]) -> Response:
    """Stop trading: no replica approves anything after this is answered."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        wanted = HaltRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    _require(identity, wanted.account_id)
    stored = await set_halt(
        runtime.pool,
        account_id=wanted.account_id,
        state=wanted.state,
        reason=wanted.reason,
        operator=wanted.operator,
    )
    log.warning("halted", account_id=stored.account_id, state=stored.state, operator=stored.operator)
    return _json(stored)


@router.delete(
    "/halt",
    response_class=Response,
    responses=answers({"model": ResumeResponse}, *ERRORS),
    openapi_extra=BEARER | json_body("ResumeRequest"),
)
async def resume(request: Request, identity: Annotated[Identity, caller(Scope.ADMIN)]) -> Response:
    """Let trading go on; who did and why is recorded. An account stays halted while a global halt stands."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        wanted = ResumeRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    _require(identity, wanted.account_id)
    lifted = await lift_halt(runtime.pool, account_id=wanted.account_id, reason=wanted.reason, operator=wanted.operator)
    log.warning("resumed", account_id=wanted.account_id, halts=len(lifted), operator=wanted.operator)
    left = await list_halts(runtime.pool)
    return _json(
        {
            "lifted": lifted,
            "in_force": [
                halt
                for halt in left
                if _concerns(identity, halt)
                and (wanted.account_id is None or halt.account_id in (None, wanted.account_id))
            ],
        }
    )


@router.get(
    "/halt",
    response_class=Response,
    responses=answers(
        {"model": HaltListResponse},
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def halts(request: Request, identity: Annotated[Identity, caller(Scope.READ, Scope.ADMIN)]) -> Response:
    """List the halts in force."""
    runtime = runtime_of(request)
    return _json({"halts": [halt for halt in await list_halts(runtime.pool) if _concerns(identity, halt)]})


def _require(identity: Identity, account_id: str | None) -> None:
    if account_id is not None:
        identity.require_account(account_id)
    elif not identity.sees_every_account:
        raise ApiError(ErrorCode.FORBIDDEN, "The key is not for every account.")


def _concerns(identity: Identity, halt: StoredHalt) -> bool:
    return halt.account_id is None or identity.may_see(halt.account_id)


def _json(document: StoredHalt | dict[str, Any]) -> Response:
    return Response(orjson.dumps(document, option=orjson.OPT_UTC_Z), media_type="application/json")
