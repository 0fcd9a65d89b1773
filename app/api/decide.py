"""POST /decide: one snapshot in, one recorded verdict out.

The framework knows this endpoint as it knows all others, documents it and refuses other methods on its path.
Requests to it reach it without the framework (`answer`): on the way through its layers a decision spent as much CPU
time as on being judged, and none of them does anything for it.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ApiError, ErrorCode, FieldError, invalid, invalid_body, refusal
from app.api.idempotency import KEY_HEADER, REPLAYED_HEADER, decide_once, fingerprint, idempotency_key
from app.api.middleware import DECIDED
from app.api.openapi import BEARER, answers, json_body, ticket_links
from app.api.responses import DecisionResponse
from app.api.runtime import Runtime, runtime_of
from app.api.schemas import DecideRequest
from app.begun import Begun
from app.db.account_state import KnownAccount
from app.db.api_keys import NO_API_KEY
from app.db.engine import StoreUnavailable
from app.db.idempotency import Claim, KeyedRequest
from app.db.vocabulary import Scope
from app.domain.account import Account
from app.domain.making import made_quickly
from app.domain.policy import PolicyError
from app.service import Situation
from app.tracing import span

PATH: Final = "/decide"
OVERTIME_S: Final = 2.0
"""Past the deadline only the store can still be waited for, and for no longer than this."""

router = APIRouter(tags=["decisions"])


@router.post(
    PATH,
    response_class=Response,
    responses=answers(
        {
            "model": DecisionResponse,
            "headers": REPLAYED_HEADER,
            "links": ticket_links("$response.body#/decision_id"),
        },
        ErrorCode.MALFORMED_JSON,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.BODY_TOO_SLOW,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.IDEMPOTENCY_KEY_REQUIRED,
        ErrorCode.IDEMPOTENCY_KEY_REUSED,
        ErrorCode.IDEMPOTENCY_KEY_SPENT,
        ErrorCode.IDEMPOTENCY_IN_FLIGHT,
        ErrorCode.STORE_UNAVAILABLE,
        ErrorCode.SHUTTING_DOWN,
    ),
    openapi_extra=BEARER | json_body("DecideRequest") | KEY_HEADER,
)
async def decide(request: Request) -> Response:
    """Judge what the decider proposes for a snapshot; the verdict is committed before it is answered."""
    runtime = runtime_of(request)
    authenticator = runtime.authenticator
    credentials = authenticator.recognize(request)
    if credentials is None:
        identity = await authenticator.authorize(request, Scope.DECIDE)
        question = await _read(request, limit=runtime.settings.max_body_bytes)
        identity.require_account(question.account.id)
        return await _decide(runtime, request, question, identity=identity, situation=question.situation(runtime))
    try:
        question = await _read(request, limit=runtime.settings.max_body_bytes)
    except ApiError:
        # Whose key is no longer good learns that and nothing else.
        await authenticator.authorize(request, Scope.DECIDE)
        raise
    asking = time.monotonic()
    with span("read state"):
        admitting = authenticator.admit(
            request,
            credentials,
            Scope.DECIDE,
            account_id=question.account.id,
            mode=question.account.mode,
            as_of=question.as_of,
            held=[position.symbol for position in question.account.positions],
        )
        # While the store answers, what needs no answer of it is done; what goes wrong in that is said after the key was
        # checked, and cuts no connection.
        with Begun(admitting) as admitted:
            began = time.monotonic()
            try:
                situation = question.situation(runtime)
            finally:
                meanwhile_s = time.monotonic() - began
                identity, known = await admitted
    return await _decide(
        runtime,
        request,
        question,
        identity=identity,
        situation=situation,
        known=known,
        store_s=time.monotonic() - asking - meanwhile_s,
    )


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """Hold what a request asks; its deadline counts from `started`, a monotonic time in seconds."""

    body: bytes
    sent: DecideRequest
    account: Account
    as_of: datetime
    started: float

    def situation(self, runtime: Runtime) -> Situation:
        return runtime.service.situation(account=self.account, snapshot=self.sent.to_snapshot())


async def _read(request: Request, *, limit: int) -> _Question:
    """Read the body of a request.

    Raises:
        ApiError: it is none, or it does not fit its schema.
    """
    body = await read_json_body(request, limit=limit)
    started = time.monotonic()
    try:
        sent = DecideRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    return _Question(
        body=body, sent=sent, account=sent.account.to_domain(), as_of=sent.as_of.astimezone(UTC), started=started
    )


async def _decide(
    runtime: Runtime,
    request: Request,
    question: _Question,
    *,
    identity: Identity,
    situation: Situation,
    known: KnownAccount | None = None,
    store_s: float = 0.0,
) -> Response:
    """Decide for a caller who may act for the account; `known` was read of it in `store_s` seconds on the way."""
    account, state = question.account, request.scope["state"]
    key = idempotency_key(request, mode=account.mode)
    try:
        policy = runtime.service.policy_at(question.sent.aggressiveness_level)
    except PolicyError as error:
        raise invalid([FieldError(field=error.setting, message=error.reason)]) from error

    async def judge(claim: Claim | None = None) -> bytes:
        body = await runtime.service.decide(
            situation,
            policy=policy,
            request_body=question.body,
            request_id=state["request_id"],
            api_key_id=identity.key_id,
            started=question.started,
            known=known,
            store_s=store_s,
            claim=claim,
        )
        state[DECIDED] = True
        return body

    until_s = question.started + policy.decision_deadline_ms / 1000
    try:
        async with asyncio.timeout(until_s + OVERTIME_S - time.monotonic()):
            if key is None:
                return Response(await judge(), media_type="application/json")
            return await decide_once(
                runtime.pool,
                KeyedRequest(
                    api_key_id=identity.key_id or NO_API_KEY,
                    account_id=account.id,
                    key=key,
                    fingerprint=fingerprint(question.body),
                ),
                lease=runtime.settings.idempotency_lease,
                wait_until=until_s,
                decide=judge,
            )
    except TimeoutError as error:
        raise StoreUnavailable(error) from error


def is_decision(scope: AsgiScope) -> bool:
    """Tell whether a request is for this endpoint."""
    return bool(scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST")


async def answer(scope: AsgiScope, receive: Receive, send: Send) -> None:
    """Answer one request for a decision."""
    scope["route"] = _ROUTE
    request = Request(scope, receive)
    try:
        response = await decide(request)
    except (ApiError, StoreUnavailable) as error:
        response = refusal(request.state.request_id, error)
    await response(scope, receive, send)


[_ROUTE] = router.routes
