"""GET /ui/gates: where decisions ended, and what each gate saved or cost in R."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from app.db.funnel import decision_funnel
from app.db.statistics import Scope, Window, read_gates
from app.db.vocabulary import Scope as KeyScope
from app.domain.gate_effects import BlockedForecasts, effects_by_gate, gate_of
from app.web.bars import share_bar
from app.web.page import render_page
from app.web.periods import DAYS, Account, Days
from app.web.site import PageRoute, site_of
from app.web.visitor import Visitor, visitor

router = APIRouter(route_class=PageRoute)


@router.get("/ui/gates")
async def gates(
    request: Request,
    visitor: Annotated[Visitor, visitor(KeyScope.READ)],
    days: Days = DAYS[0],
    account: Account = "",
) -> Response:
    """Show the funnel, the gates and the codes of a window."""
    scope = Scope(accounts=visitor.accounts(account.strip() or None), window=Window(days=days))
    statistics = await read_gates(site_of(request).pool, scope)
    funnel = decision_funnel(statistics.decisions)
    gates = effects_by_gate(statistics.codes.items())
    return await render_page(
        request,
        visitor,
        "gates.html",
        section="gates",
        period=statistics.period,
        days=days,
        choices=DAYS,
        account=account.strip(),
        funnel=funnel,
        steps=_steps(funnel),
        reasons=_reasons(funnel),
        gates=gates,
        statistics=statistics.codes,
        quiet=[gate.replace("_", " ") for gate, of in gates.items() if not of.blocked],
        chart=_chart(gates.items()),
    )


def _steps(funnel: dict[str, Any]) -> list[tuple[str, str, int, Any]]:
    """List the stages that decisions came to, each with its bar."""
    managed = sum((*funnel["exits"].values(), *funnel["adjusts"].values()))
    stages = (
        ("Decisions", "every answer that was recorded", funnel["decisions"]),
        ("No trade", "nothing was proposed, or the model failed", funnel["no_trade"]),
        ("Exits and adjusts", "positions that were to be closed or changed", managed),
        ("Entries proposed", "judged by every gate", funnel["proposals"]),
        ("Blocked", "by at least one gate", funnel["blocked"]),
        ("Resized", "approved, but smaller than the risk budget", funnel["resized"]),
        ("Approved", "approved at the risk budget", funnel["approved"]),
    )
    return [(name, meaning, count, share_bar(count, of=funnel["decisions"])) for name, meaning, count in stages]


def _reasons(funnel: dict[str, Any]) -> list[tuple[str, str | None, int, Any]]:
    counts = [*funnel["blocked_by_reason"].items(), *funnel["no_trade_by_reason"].items()]
    counts.sort(key=lambda item: (-item[1], item[0]))
    most = counts[0][1] if counts else 0
    return [(code, gate_of(code), count, share_bar(count, of=most)) for code, count in counts]


def _chart(gates: Any) -> dict[str, Any]:
    """Give the gates whose blocks were resolved: what they kept from being lost counts upwards."""
    told: list[tuple[str, BlockedForecasts]] = [(gate, of) for gate, of in gates if of.resolved]
    return {
        "gate": [gate.replace("_", " ") for gate, _ in told],
        "saved": [-float(of.r) for _, of in told],
        "resolved": [of.resolved for _, of in told],
        "won": [of.won for _, of in told],
    }
