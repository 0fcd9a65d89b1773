"""Add up how decisions ended: the funnel that GET /gates and the pages show."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from app.db.statistics import DecisionCount
from app.domain.proposal import Mode
from app.domain.verdict import Verdict


def decision_funnel(decisions: Iterable[DecisionCount]) -> dict[str, Any]:
    """Count decisions by how they ended: decisions = proposals + no_trade + exits + adjusts."""
    verdicts: Counter[Verdict] = Counter()
    managed: dict[Mode, Counter[Verdict]] = {Mode.EXIT: Counter(), Mode.ADJUST: Counter()}
    reasons: dict[Verdict, Counter[str]] = {Verdict.BLOCKED: Counter(), Verdict.NO_TRADE: Counter()}
    for count in decisions:
        if count.action in managed and count.verdict is not Verdict.NO_TRADE:
            managed[count.action][count.verdict] += count.decisions
            continue
        verdicts[count.verdict] += count.decisions
        if count.verdict in reasons and count.reason_code is not None:
            reasons[count.verdict][count.reason_code] += count.decisions
    proposals = sum(verdicts[verdict] for verdict in (Verdict.APPROVED, Verdict.RESIZED, Verdict.BLOCKED))
    return {
        "decisions": verdicts.total() + sum(of_mode.total() for of_mode in managed.values()),
        "proposals": proposals,
        "approved": verdicts[Verdict.APPROVED],
        "resized": verdicts[Verdict.RESIZED],
        "blocked": verdicts[Verdict.BLOCKED],
        "blocked_by_reason": reasons[Verdict.BLOCKED],
        "no_trade": verdicts[Verdict.NO_TRADE],
        "no_trade_by_reason": reasons[Verdict.NO_TRADE],
        "exits": {verdict.value: decisions for verdict, decisions in managed[Mode.EXIT].items()},
        "adjusts": {verdict.value: decisions for verdict, decisions in managed[Mode.ADJUST].items()},
    }
