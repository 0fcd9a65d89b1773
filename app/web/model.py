"""GET /ui/model: how fast decisions are, what model calls cost, and how each target does."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response

from app.db.engine import StoreUnavailable
from app.db.model_calls import CallCosts, read_costs
from app.db.pages import LATEST_TIMINGS, CallSummary, Timing, latest_calls, latest_timings
from app.db.statistics import Window
from app.db.vocabulary import Scope
from app.domain.model_call import CANCELLED, PROPOSED, WARMED
from app.web.bars import Bar, share_bar
from app.web.page import render_page
from app.web.periods import Days
from app.web.site import PageRoute, Site, site_of
from app.web.visitor import Visitor, visitor

COST_DAYS: Final = (7, 1, 30)
MOST_POINTS: Final = 40
"""Points of the curves of latency: each is of as many decisions in a row as it takes."""

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Hold the usual quantiles of some durations, ms."""

    n: int
    p50_ms: int
    p95_ms: int
    p99_ms: int
    most_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetHealth:
    """Hold how the latest calls of one target ended; `breaker` is how this process treats it, None: not asked here."""

    target: str
    model: str
    breaker: str | None
    calls: int
    answered: int
    failed: int
    failures: Mapping[str, int]
    cancelled: int
    hedged: int
    warming: int
    latency: Quantiles | None
    latest_at: datetime
    share: Bar | None

    @property
    def answered_share(self) -> float | None:
        """Give the share of answers among the calls that were let end."""
        return self.answered / (self.answered + self.failed) if self.answered + self.failed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayCosts:
    """Hold what the calls of one UTC day cost, dollars."""

    day: date
    calls: int
    decisions: int
    failed: int
    unpriced: int
    cost_usd: Decimal
    share: Bar | None


@router.get("/ui/model")
async def model(
    request: Request, visitor: Annotated[Visitor, visitor(Scope.READ)], days: Days = COST_DAYS[0]
) -> Response:
    """Show latency over the latest decisions, the ledger by day, and the targets."""
    site = site_of(request)
    accounts = visitor.accounts()
    timings = await latest_timings(site.pool, accounts=accounts)
    costs, cost_problem = await _costs(site, visitor, days=days)
    return await render_page(
        request,
        visitor,
        "model.html",
        section="model",
        days=days,
        choices=COST_DAYS,
        deadline_ms=site.policy.decision_deadline_ms,
        most=LATEST_TIMINGS,
        whole=quantiles([timing.latency_ms for timing in timings]),
        deciders=_deciders(timings),
        timings=timings,
        late=sum(timing.latency_ms > site.policy.decision_deadline_ms for timing in timings),
        degraded=sum(timing.degraded for timing in timings),
        chart=_chart(timings, deadline_ms=site.policy.decision_deadline_ms),
        targets=_targets(await latest_calls(site.pool, accounts=accounts), site.targets()),
        costs=costs,
        cost_problem=cost_problem,
        total_usd=sum((of.cost_usd for of in costs), start=Decimal(0)),
        budget_usd=site.settings.model_budget_usd_per_day,
    )


def quantiles(durations_ms: Sequence[int]) -> Quantiles | None:
    """Give the quantiles that are reached by durations themselves (nearest rank); None of nothing."""
    if not durations_ms:
        return None
    ranked = sorted(durations_ms)

    def rank(share: float) -> int:
        return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]

    return Quantiles(n=len(ranked), p50_ms=rank(0.5), p95_ms=rank(0.95), p99_ms=rank(0.99), most_ms=ranked[-1])


def _deciders(timings: Sequence[Timing]) -> list[tuple[str, Quantiles]]:
    by_decider: defaultdict[str, list[int]] = defaultdict(list)
    for timing in timings:
        by_decider[timing.decider_name].append(timing.model_latency_ms)
    found = [(decider, quantiles(durations)) for decider, durations in sorted(by_decider.items())]
    return [(decider, of) for decider, of in found if of is not None]


def _chart(timings: Sequence[Timing], *, deadline_ms: int) -> dict[str, Any]:
    """Give P50 and P95 of runs of decisions, the earliest run first."""
    ordered = list(reversed(timings))
    length = max(1, -(-len(ordered) // MOST_POINTS))
    runs = [ordered[first : first + length] for first in range(0, len(ordered), length)]
    told = [(run[-1].decided_at, quantiles([timing.latency_ms for timing in run])) for run in runs]
    return {
        "at": [at.isoformat() for at, _ in told],
        "n": [of.n for _, of in told if of],
        "p50": [of.p50_ms for _, of in told if of],
        "p95": [of.p95_ms for _, of in told if of],
        "deadline": deadline_ms,
    }


async def _costs(site: Site, visitor: Visitor, *, days: int) -> tuple[list[DayCosts], str | None]:
    """Add up the ledger by day; a window with too much in it leaves the rest of the page as it is."""
    try:
        _, rows = await read_costs(site.pool, window=Window(days=days), accounts=visitor.accounts())
    except StoreUnavailable:
        return [], "Adding up this window takes too long. Choose a shorter one."
    return _by_day(rows), None


def _by_day(rows: Sequence[CallCosts]) -> list[DayCosts]:
    by_day: defaultdict[date, list[CallCosts]] = defaultdict(list)
    for row in rows:
        by_day[row.day].append(row)
    costs = {day: sum((row.cost_usd for row in of), start=Decimal(0)) for day, of in by_day.items()}
    most = float(max(costs.values(), default=Decimal(0)))
    return [
        DayCosts(
            day=day,
            calls=sum(row.calls for row in of),
            decisions=sum(row.decisions for row in of),
            failed=sum(row.failed for row in of),
            unpriced=sum(row.unpriced for row in of),
            cost_usd=costs[day],
            share=share_bar(float(costs[day]), of=most),
        )
        for day, of in sorted(by_day.items(), reverse=True)
    ]


def _targets(calls: Sequence[CallSummary], breakers: Mapping[str, str]) -> list[TargetHealth]:
    by_target: defaultdict[str, list[CallSummary]] = defaultdict(list)
    for call in calls:
        by_target[call.target].append(call)
    return [_health(target, of, breaker=breakers.get(target)) for target, of in sorted(by_target.items())]


def _health(target: str, calls: Sequence[CallSummary], *, breaker: str | None) -> TargetHealth:
    asked = [call for call in calls if not call.warming]
    answered = [call for call in asked if call.outcome == PROPOSED]
    failures = Counter(call.outcome for call in asked if call.outcome not in (PROPOSED, CANCELLED, WARMED))
    ended = len(answered) + failures.total()
    return TargetHealth(
        target=target,
        model=calls[0].model,
        breaker=breaker,
        calls=len(asked),
        answered=len(answered),
        failed=failures.total(),
        failures=dict(failures.most_common()),
        cancelled=sum(call.outcome == CANCELLED for call in asked),
        hedged=sum(call.hedged for call in asked),
        warming=len(calls) - len(asked),
        latency=quantiles([call.latency_ms for call in answered]),
        latest_at=calls[0].recorded_at,
        share=share_bar(len(answered), of=ended) if ended else None,
    )
