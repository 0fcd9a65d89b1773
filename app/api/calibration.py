"""GET /calibration: how honest the decider has been."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from app.api.auth import Identity
from app.api.errors import ErrorCode
from app.api.openapi import BEARER, answers
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.window import LabelledRecordFilter, WindowOut, window_document
from app.db.engine import ConnectionPool
from app.db.statistics import CalibrationRecord, CalibrationStatistics, GroupBy, Scope, Source, read_calibration
from app.db.vocabulary import Scope as KeyScope
from app.domain.calibration import (
    CalibrationVerdict,
    ScratchRule,
    calibration_report,
    conviction_buckets,
)
from app.domain.outcome import ForecastKind

READ_ERRORS: Final = (
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.STORE_UNAVAILABLE,
)
COPIED: Final = (
    "scored",
    "brier",
    "brier_ci95",
    "brier_ci95_iid",
    "brier_se",
    "brier_se_iid",
    "skill",
    "murphy",
    "corp",
    "reliability_debiased",
    "slope",
    "slope_binned",
    "slope_t",
    "calibration_error",
    "calibration_error_ci_anytime",
    "calibration_error_t",
    "ece",
    "ece_binned",
    "smooth_ece",
    "log_loss",
    "log_loss_clipped",
    "clipped",
    "cox",
    "citl",
    "spiegelhalter_z",
    "auc",
    "sharpness",
    "e_value",
    "log_e_value",
    "effective_n",
    "bins",
    "isotonic",
    "outcome_distribution",
    "win_rate",
    "predicted_win_rate",
    "meets_seed_targets",
    "rejected",
    "verdict",
    "reasons",
    "recommendations",
)
"""The figures of a report that are sent under their own names."""

router = APIRouter(tags=["calibration"])

Figure = float | None
Interval = Annotated[list[float] | None, Field(min_length=2, max_length=2)]


class CalibrationFilter(LabelledRecordFilter):
    """Hold what the report is of; an unknown parameter is refused rather than ignored."""

    forecast: Annotated[ForecastKind, Field(description="which of the forecasts of each decision is scored")] = (
        ForecastKind.P_WIN
    )
    scratch: Annotated[ScratchRule, Field(description="what a scratch counts as; exclude: it is not counted")] = (
        ScratchRule.ZERO
    )
    group_by: Annotated[GroupBy | None, Field(description="report on each group, too")] = None


class CountsOut(AnswerModel):
    """Resolved forecasts, by class; `pending` ones wait for their first label and are counted nowhere else."""

    resolved: int
    pending: int
    win: int
    loss: int
    scratch: int
    timeout: int


class MurphyOut(AnswerModel):
    """Brier = reliability - resolution + uncertainty (Murphy 1973)."""

    reliability: float
    resolution: float
    uncertainty: float


class CorpOut(AnswerModel):
    """Brier = miscalibration - discrimination + uncertainty (Dimitriadis, Gneiting and Jordan 2021)."""

    miscalibration: float
    discrimination: float
    uncertainty: float


class CoxOut(AnswerModel):
    """logit P(win) = intercept + slope x logit p (Cox 1958)."""

    intercept: float
    slope: float


class BinOut(AnswerModel):
    """One bar of the reliability diagram; 95 % of calibrated records lie from `consistency_low` to `_high`."""

    lower: float
    upper: float
    n: int
    mean_forecast: Figure
    observed: Figure
    consistency_low: Figure
    consistency_high: Figure


class IsotonicPointOut(AnswerModel):
    """The rising curve that fits best, at one forecast."""

    p: float
    observed: float


class ConvictionBucketOut(AnswerModel):
    """Stated conviction from `lower` to `upper`, both included, in percent."""

    lower: int
    upper: int
    n: int
    win_rate: Figure
    mean_forecast: Figure


class OutcomeDistributionOut(AnswerModel):
    """The share of each class."""

    win: float
    loss: float
    scratch: float
    timeout: float


class EvAccuracyOut(AnswerModel):
    """Mean EV_R of the resolved forecasts that had one, what these brought, and the difference, in R."""

    n: int
    predicted_r: Figure
    realized_r: Figure
    error_r: Figure


class CalibrationFigures(AnswerModel):
    """Every figure of one record; null is what cannot be computed. Above all: a slope below 1 is overconfidence."""

    counts: CountsOut
    scored: Annotated[int, Field(description="resolved forecasts that the figures come from")]
    brier: Figure
    brier_ci95: Annotated[Interval, Field(description="clustered by day")]
    brier_ci95_iid: Interval
    brier_se: Figure
    brier_se_iid: Figure
    skill: Figure
    murphy: MurphyOut | None
    corp: CorpOut | None
    reliability_debiased: Figure
    slope: Annotated[Figure, Field(description="Cov(p, y) / Var(p)")]
    slope_binned: Figure
    slope_t: Annotated[Figure, Field(description="day-clustered t of slope - 1")]
    calibration_error: Annotated[Figure, Field(description="mean forecast less mean outcome")]
    calibration_error_ci_anytime: Annotated[Interval, Field(description="holds for independent outcomes only")]
    calibration_error_t: Annotated[Figure, Field(description="clustered by day")]
    ece: Figure
    ece_binned: Figure
    smooth_ece: Figure
    log_loss: Annotated[Figure, Field(description="null where it is infinite")]
    log_loss_clipped: Figure
    clipped: Annotated[int, Field(description="forecasts nearer than 0.5 % to 0 or 1")]
    cox: CoxOut | None
    citl: Figure
    spiegelhalter_z: Figure
    auc: Figure
    sharpness: Annotated[Figure, Field(description="standard deviation of the forecasts")]
    e_value: Annotated[
        Figure, Field(description="20 or more speaks against the forecasts; may be looked at at any time")
    ]
    log_e_value: Annotated[Figure, Field(description="null where a forecast of 0 or 100 % was wrong")]
    effective_n: Figure
    bins: list[BinOut]
    isotonic: list[IsotonicPointOut]
    conviction_buckets: list[ConvictionBucketOut]
    outcome_distribution: OutcomeDistributionOut | None
    win_rate: Figure
    predicted_win_rate: Figure
    ev_accuracy: EvAccuracyOut | None
    trade_rate_sessions: Annotated[Figure, Field(description="sessions with an approved trade, of all sessions")]
    parse_rate: Annotated[Figure, Field(description="readable replies, of all that came")]
    liquidity_violations: int
    correlation_breaches: int
    meets_seed_targets: bool | None
    rejected: bool
    verdict: CalibrationVerdict
    reasons: list[str]
    recommendations: list[str]


class CalibrationGroup(CalibrationFigures):
    """The same figures of one group."""

    key: str


class CalibrationResponse(CalibrationFigures):
    """How honest the forecasts have been; `groups` is null unless asked for, and holds at most the 100 largest."""

    forecast: ForecastKind
    source: Source
    scratch: ScratchRule
    window: WindowOut
    group_by: GroupBy | None
    groups: list[CalibrationGroup] | None
    groups_left_out: int


@router.get(
    "/calibration",
    response_class=Response,
    responses=answers({"model": CalibrationResponse}, *READ_ERRORS),
    openapi_extra=BEARER,
)
async def calibration(
    request: Request,
    identity: Annotated[Identity, caller(KeyScope.READ)],
    wanted: Annotated[CalibrationFilter, Query()],
) -> Response:
    """Report on the calibration of the forecasts of a window, from counts alone."""
    runtime = runtime_of(request)
    document = await calibration_document(
        runtime.pool,
        wanted.scope(identity, source=wanted.source),
        forecast=wanted.forecast,
        scratch=wanted.scratch,
        group_by=wanted.group_by,
        min_decisions=runtime.settings.calibration_min_decisions,
    )
    return Response(document, media_type="application/json")


async def calibration_document(
    pool: ConnectionPool,
    scope: Scope,
    *,
    forecast: ForecastKind,
    scratch: ScratchRule,
    group_by: GroupBy | None,
    min_decisions: int,
) -> bytes:
    """Write the report as it is sent.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    statistics = await read_calibration(pool, scope, forecast=forecast, group_by=group_by)
    asked = {"forecast": forecast, "source": scope.source, "scratch": scratch, "group_by": group_by}
    # In a thread: a report takes milliseconds, and there may be one for each of many groups.
    return await asyncio.to_thread(_write, statistics, asked, scratch=scratch, min_decisions=min_decisions)


def _write(
    statistics: CalibrationStatistics, asked: Mapping[str, object], *, scratch: ScratchRule, min_decisions: int
) -> bytes:
    groups = statistics.groups
    return orjson.dumps(
        {
            **asked,
            "window": window_document(statistics.period),
            **_figures(statistics.overall, scratch=scratch, min_decisions=min_decisions),
            "groups": (
                None
                if groups is None
                else [
                    {"key": key, **_figures(record, scratch=scratch, min_decisions=min_decisions)}
                    for key, record in groups.items()
                ]
            ),
            "groups_left_out": statistics.groups_left_out,
        }
    )


def _figures(record: CalibrationRecord, *, scratch: ScratchRule, min_decisions: int) -> dict[str, Any]:
    report = calibration_report(record.tally, scratch=scratch, min_decisions=min_decisions)
    counts, activity, ev = report.counts, record.activity, record.ev
    return {
        "counts": {
            "resolved": counts.resolved,
            "pending": record.pending,
            "win": counts.win,
            "loss": counts.loss,
            "scratch": counts.scratch,
            "timeout": counts.timeout,
        },
        **{name: getattr(report, name) for name in COPIED},
        "conviction_buckets": conviction_buckets(record.convictions, scratch=scratch),
        "ev_accuracy": (
            None
            if ev is None
            else {
                "n": ev.n,
                "predicted_r": _share(ev.predicted_r, ev.n),
                "realized_r": _share(ev.realized_r, ev.n),
                "error_r": _share(ev.predicted_r - ev.realized_r, ev.n),
            }
        ),
        "trade_rate_sessions": None if activity is None else _share(activity.sessions_traded, activity.sessions),
        "parse_rate": None if activity is None else _share(activity.replies_parsed, activity.replies),
        "liquidity_violations": record.liquidity_violations,
        "correlation_breaches": record.correlation_breaches,
    }


def _share(part: Decimal | int, of: int) -> float | None:
    return float(part / of) if of else None
