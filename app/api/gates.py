"""GET /gates: how decisions ended, and what each gate kept from happening."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.api.auth import Identity
from app.api.calibration import READ_ERRORS, Figure
from app.api.openapi import BEARER, answers
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.window import RecordFilter, WindowOut, window_document
from app.db.funnel import decision_funnel
from app.db.statistics import read_gates
from app.db.vocabulary import Scope
from app.domain.gate_effects import BlockedForecasts, Effect, effects_by_gate, gate_of
from app.domain.verdict import Verdict

router = APIRouter(tags=["calibration"])


class FunnelOut(AnswerModel):
    """Where decisions went: decisions = proposals + no_trade + exits + adjusts; proposals = the three verdicts."""

    decisions: int
    proposals: Annotated[int, Field(description="decisions in which an entry was proposed and judged")]
    approved: int
    resized: int
    blocked: int
    blocked_by_reason: Annotated[dict[str, int], Field(description="by the code of the first gate that blocked")]
    no_trade: int
    no_trade_by_reason: dict[str, int]
    exits: Annotated[dict[Verdict, int], Field(description="by verdict")]
    adjusts: Annotated[dict[Verdict, int], Field(description="by verdict")]


class BlockedOut(AnswerModel):
    """What became, on paper, of the forecasts that were blocked: R that they would have made or lost."""

    blocked: int
    resolved: int
    won: int
    win_rate: Figure
    blocked_r: Annotated[
        Figure, Field(description="sum of R of the resolved: above 0 the gate cost that, below 0 it saved that")
    ]
    mean_r: Figure
    effect: Effect | None


class GateEffectOut(BlockedOut):
    """One gate, whatever the code."""

    gate: str


class CodeEffectOut(BlockedOut):
    """One code; `gate` is null for codes of earlier versions."""

    code: str
    gate: str | None


class GatesResponse(AnswerModel):
    """The funnel, and what gates and codes blocked. A forecast that several blocked counts with each of them."""

    window: WindowOut
    funnel: FunnelOut
    gates: list[GateEffectOut]
    codes: list[CodeEffectOut]


@router.get(
    "/gates",
    response_class=Response,
    responses=answers({"model": GatesResponse}, *READ_ERRORS),
    openapi_extra=BEARER,
)
async def gates(
    request: Request, identity: Annotated[Identity, caller(Scope.READ)], wanted: Annotated[RecordFilter, Query()]
) -> Response:
    """Show what each gate has saved or cost, in R."""
    statistics = await read_gates(runtime_of(request).pool, wanted.scope(identity))
    document = {
        "window": window_document(statistics.period),
        "funnel": decision_funnel(statistics.decisions),
        "gates": [{"gate": gate, **_blocked(of)} for gate, of in effects_by_gate(statistics.codes.items()).items()],
        "codes": [{"code": code, "gate": gate_of(code), **_blocked(of)} for code, of in statistics.codes.items()],
    }
    return Response(orjson.dumps(document), media_type="application/json")


def _blocked(of: BlockedForecasts) -> dict[str, Any]:
    return {
        "blocked": of.blocked,
        "resolved": of.resolved,
        "won": of.won,
        "win_rate": of.won / of.resolved if of.resolved else None,
        "blocked_r": float(of.r) if of.resolved else None,
        "mean_r": float(of.r / of.resolved) if of.resolved else None,
        "effect": of.effect,
    }
