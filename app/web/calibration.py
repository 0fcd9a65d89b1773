"""GET /ui/calibration: how honest each decider has been, drawn and in words."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from app.db.statistics import (
    CalibrationRecord,
    CalibrationStatistics,
    GroupBy,
    Scope,
    Source,
    Window,
    read_calibration,
)
from app.db.vocabulary import Scope as KeyScope
from app.domain.brier_history import BrierPoint, brier_history
from app.domain.calibration import Report, calibration_report
from app.domain.outcome import ForecastKind
from app.web.page import render_page
from app.web.periods import DAYS, Account, Days, choose
from app.web.site import PageError, PageRoute, site_of
from app.web.visitor import Visitor, visitor

TRAILING: Final = 7
TRAILING_LONG: Final = 30
"""Days that each point of the Brier score looks back: more where the window is longer than a quarter."""
LONG_WINDOW: Final = 90

FORECASTS: Final = {
    ForecastKind.P_WIN: "p win, as stated",
    ForecastKind.P_WIN_CALIBRATED: "p win, recalibrated",
    ForecastKind.CONVICTION: "conviction",
}
SOURCES: Final = {Source.ALL: "executed, else paper", Source.EXECUTED: "executed only", Source.PAPER: "paper only"}

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Hold what one record came to; `key` names its decider, None all of them together."""

    key: str | None
    record: CalibrationRecord
    report: Report


@router.get("/ui/calibration")
async def calibration(  # noqa: PLR0917 (called by name)
    request: Request,
    visitor: Annotated[Visitor, visitor(KeyScope.READ)],
    days: Days = DAYS[0],
    account: Account = "",
    decider: Annotated[str, Query(max_length=200)] = "",
    forecast: str = ForecastKind.P_WIN,
    source: str = Source.ALL,
) -> Response:
    """Show one report, of all deciders or of one, and all deciders beside each other."""
    site = site_of(request)
    kind, labels = choose(ForecastKind, forecast), choose(Source, source)
    statistics = await read_calibration(
        site.pool,
        Scope(accounts=visitor.accounts(account.strip() or None), window=Window(days=days), source=labels),
        forecast=kind,
        group_by=GroupBy.DECIDER,
    )
    scored = await asyncio.to_thread(_score, statistics, site.settings.calibration_min_decisions)
    shown = next((of for of in scored if of.key == (decider or None)), None)
    if shown is None:
        raise PageError(404, "Not found", f"No forecast of {decider} is resolved in this window.")
    trailing = TRAILING_LONG if days > LONG_WINDOW else TRAILING
    history = brier_history(shown.record.tally, trailing=trailing)
    return await render_page(
        request,
        visitor,
        "calibration.html",
        section="calibration",
        period=statistics.period,
        days=days,
        choices=DAYS,
        account=account.strip(),
        decider=decider,
        forecast=kind,
        forecasts=FORECASTS,
        source=labels,
        sources=SOURCES,
        shown=shown,
        report=shown.report,
        deciders=scored[1:],
        trailing=trailing,
        history=history,
        reliability_chart=_reliability_chart(shown.report),
        brier_chart=_brier_chart(history),
    )


def _score(statistics: CalibrationStatistics, min_decisions: int) -> list[Scored]:
    records: list[tuple[str | None, CalibrationRecord]] = [(None, statistics.overall)]
    records += (statistics.groups or {}).items()
    return [
        Scored(key=key, record=record, report=calibration_report(record.tally, min_decisions=min_decisions))
        for key, record in records
    ]


def _reliability_chart(report: Report) -> dict[str, Any]:
    told = [found for found in report.bins if found.n]
    return {
        "bins": [
            {
                "name": f"{found.lower:.0%} to {found.upper:.0%}",
                "n": found.n,
                "forecast": found.mean_forecast,
                "observed": found.observed,
                "low": found.consistency_low,
                "high": found.consistency_high,
                "within": is_within(found.observed, found.consistency_low, found.consistency_high),
            }
            for found in told
        ],
        "isotonic": [{"forecast": point.p, "observed": point.observed} for point in report.isotonic],
    }


def is_within(observed: float | None, low: float | None, high: float | None) -> bool:
    """Tell whether what came lies where calibrated forecasts would put it 95 times in 100."""
    return observed is not None and low is not None and high is not None and low <= observed <= high


def _brier_chart(history: tuple[BrierPoint, ...]) -> dict[str, Any]:
    return {
        "day": [point.day.isoformat() for point in history],
        "n": [point.n for point in history],
        "brier": [point.brier for point in history],
        "base_rate": [point.base_rate for point in history],
        "if_calibrated": [point.if_calibrated for point in history],
    }
