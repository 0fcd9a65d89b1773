"""GET /setups: what each setup has won, lost and brought."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.api.auth import Identity
from app.api.calibration import READ_ERRORS, Figure
from app.api.openapi import BEARER, answers
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.window import LabelledRecordFilter, WindowOut, window_document
from app.db.statistics import Source, read_setups
from app.db.vocabulary import Scope
from app.domain.proposal import Setup
from app.domain.setups import SetupFigures, compare_setups

router = APIRouter(tags=["calibration"])


class SetupOut(AnswerModel):
    """One setup's resolved forecasts and their results, R; null is what cannot be computed."""

    setup: Setup
    n: int
    win: int
    loss: int
    scratch: int
    timeout: int
    win_rate: Figure
    shrunk_win_rate: Annotated[
        Figure,
        Field(description="drawn to the rate of all setups, the more the fewer trades it has (empirical Bayes)"),
    ]
    predicted_win_rate: Annotated[Figure, Field(description="mean stated p_win of the same forecasts")]
    average_win_r: Figure
    average_loss_r: Figure
    expectancy_r: Annotated[Figure, Field(description="mean of all results, time stops and scratches too")]
    sharpe_r: Annotated[Figure, Field(description="that mean over the standard deviation of results; per trade")]


class ShrinkageOut(AnswerModel):
    """What win rates are drawn to, and how many trades it weighs; null: setups differ by no more than chance."""

    win_rate: float
    prior_trades: Figure
    formula: str


class SetupsResponse(AnswerModel):
    """Every setup of which a forecast is resolved."""

    source: Source
    window: WindowOut
    shrinkage: ShrinkageOut | None
    setups: list[SetupOut]


FORMULA = (
    "(wins + prior_trades x overall win rate) / (n + prior_trades): beta-binomial, "
    "prior_trades by the moment estimator of Kleinman (1973)"
)


@router.get(
    "/setups",
    response_class=Response,
    responses=answers({"model": SetupsResponse}, *READ_ERRORS),
    openapi_extra=BEARER,
)
async def setups(
    request: Request,
    identity: Annotated[Identity, caller(Scope.READ)],
    wanted: Annotated[LabelledRecordFilter, Query()],
) -> Response:
    """Compare setups by their results in R."""
    statistics = await read_setups(runtime_of(request).pool, wanted.scope(identity, source=wanted.source))
    comparison = compare_setups(statistics.setups)
    shrinkage = comparison.shrinkage
    document = {
        "source": wanted.source,
        "window": window_document(statistics.period),
        "shrinkage": (
            None
            if shrinkage is None
            else {"win_rate": shrinkage.win_rate, "prior_trades": shrinkage.prior_trades, "formula": FORMULA}
        ),
        "setups": [_setup(figures) for figures in comparison.setups],
    }
    return Response(orjson.dumps(document), media_type="application/json")


def _setup(figures: SetupFigures) -> dict[str, Any]:
    counts = figures.counts
    return {
        "setup": figures.setup,
        "n": counts.resolved,
        "win": counts.win,
        "loss": counts.loss,
        "scratch": counts.scratch,
        "timeout": counts.timeout,
        "win_rate": figures.win_rate,
        "shrunk_win_rate": figures.shrunk_win_rate,
        "predicted_win_rate": figures.predicted_win_rate,
        "average_win_r": figures.average_win_r,
        "average_loss_r": figures.average_loss_r,
        "expectancy_r": figures.expectancy_r,
        "sharpe_r": figures.sharpe_r,
    }
