"""GET /prompts/{hash} and GET /decisions/{id}/prompt: what the decider was told, to the byte."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request

from app.api.auth import Identity
from app.api.errors import ApiError, ErrorCode
from app.api.openapi import BEARER, answers
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.db.queries import get_decision_prompt, get_prompt
from app.db.vocabulary import Scope, StoredTextKind

router = APIRouter(tags=["prompts"])


class PromptResponse(AnswerModel):
    """A text that prompts are made of, stored once: a template with its tool, or the static part as rendered."""

    hash: str
    version: str
    kind: StoredTextKind
    body: str
    created_at: datetime


class DecisionPromptResponse(AnswerModel):
    """The prompt of one decision as it was sent: the static part, then the data.

    `prompt_hash` names the template and tool it was rendered from, `system_hash` the static part.
    """

    decision_id: UUID
    prompt_version: str
    prompt_hash: str
    system_hash: str
    system: str
    user: str


@router.get(
    "/prompts/{prompt_hash}",
    response_model=PromptResponse,
    responses=answers(
        {"description": "The stored text"},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def prompt(
    request: Request,
    identity: Annotated[Identity, caller(Scope.READ)],  # noqa: ARG001 (texts are not of one account)
    prompt_hash: Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256, as decisions name it")],
) -> PromptResponse:
    """Give a template or a rendered static part by its hash; they hold no account's data."""
    stored = await get_prompt(runtime_of(request).pool, prompt_hash)
    if stored is None:
        raise ApiError(ErrorCode.NOT_FOUND, f"No prompt {prompt_hash}.")
    return PromptResponse(
        hash=stored.hash, version=stored.version, kind=stored.kind, body=stored.body, created_at=stored.created_at
    )


@router.get(
    "/decisions/{decision_id}/prompt",
    response_model=DecisionPromptResponse,
    responses=answers(
        {"description": "The prompt as the decider got it"},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def decision_prompt(
    request: Request, identity: Annotated[Identity, caller(Scope.READ)], decision_id: UUID
) -> DecisionPromptResponse:
    """Rebuild the prompt of a stored decision from the texts that many share and the one made for it."""
    stored = await get_decision_prompt(runtime_of(request).pool, decision_id)
    if stored is None or not identity.may_see(stored.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {decision_id}.")
    return DecisionPromptResponse(
        decision_id=decision_id,
        prompt_version=stored.version,
        prompt_hash=stored.prompt_hash,
        system_hash=stored.system_hash,
        system=stored.system,
        user=stored.user,
    )
