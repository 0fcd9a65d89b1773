"""GET /costs: what model calls cost, by day, target, model and key."""

from dataclasses import asdict
from datetime import date
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response

from app.api.auth import Identity
from app.api.calibration import READ_ERRORS
from app.api.events import plain
from app.api.openapi import BEARER, answers
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.window import RecordFilter, WindowOut, window_document
from app.db.model_calls import read_costs
from app.db.vocabulary import Scope
from app.domain.account import ZERO

router = APIRouter(tags=["costs"])


class CostsOut(AnswerModel):
    """The calls of one UTC day, target, model and key.

    `failed` includes refused, truncated and invalid replies; `cancelled` calls lost to another that answered first.
    Tokens of `estimated` calls are an estimate, for a call that was cut off never says; the cost of `unpriced` ones is
    not known and not in `cost_usd`. `warming` calls belong to no decision.
    """

    day: date
    target: str
    model: str
    api_key_id: str | None
    decisions: int
    calls: int
    hedged: int
    cancelled: int
    failed: int
    warming: int
    estimated: int
    unpriced: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: str


class CostsResponse(AnswerModel):
    """The ledger of the window, the latest day first, and its sum."""

    window: WindowOut
    cost_usd: str
    costs: list[CostsOut]


@router.get(
    "/costs",
    response_class=Response,
    responses=answers({"model": CostsResponse}, *READ_ERRORS),
    openapi_extra=BEARER,
)
async def costs(
    request: Request,
    identity: Annotated[Identity, caller(Scope.READ)],
    wanted: Annotated[RecordFilter, Query()],
) -> Response:
    """Add up what every call cost, the failed and cancelled ones too; days are those of the calls."""
    scope = wanted.scope(identity)
    period, rows = await read_costs(runtime_of(request).pool, window=scope.window, accounts=scope.accounts)
    document = {
        "window": window_document(period),
        "cost_usd": sum((row.cost_usd for row in rows), start=ZERO),
        "costs": [asdict(row) for row in rows],
    }
    return Response(orjson.dumps(document, default=plain), media_type="application/json")
