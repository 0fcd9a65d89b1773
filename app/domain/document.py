"""Write a judgement as the JSON document that is stored and sent (rulebook, section 3).

Money and prices are strings, rounded once: amounts to the cent, prices to as many digits as they have but
at least two. Statistics are numbers in full precision.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final

from app.domain.edge import Edge
from app.domain.gates import GateResult, Reading
from app.domain.market import MarketView
from app.domain.policy import POLICY_VERSION, Policy
from app.domain.proposal import Candidate, Manage
from app.domain.sizing import Sizing
from app.domain.verdict import Judgement, RiskState, Ticket

CENT: Final = Decimal("0.01")
PRICE_DIGITS: Final = 6
EXACT_IN_JSON: Final = 2**53
LARGEST: Final = 1e300
WIDE: Final = Context(prec=100, rounding=ROUND_HALF_EVEN)
"""Precise enough to write any sum of what a request may hold."""
Json = dict[str, Any]


def utc_text(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def money_text(amount: Decimal) -> str:
    """Write dollars to the cent."""
    return str(_cents(amount))


def _cents(amount: Decimal) -> Decimal:
    return WIDE.quantize(amount, CENT)


def price_text(price: Decimal) -> str:
    """Write a price with at least two and at most six decimals."""
    cents = _cents(price)
    if cents == price:
        return str(cents)
    digits = max(2, min(PRICE_DIGITS, -_exponent(price.normalize())))
    return format(WIDE.quantize(price, Decimal(1).scaleb(-digits)), "f")


def _exponent(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _number(reading: Reading) -> int | float | str | None:
    if not isinstance(reading, Decimal):
        return reading
    number = float(reading)
    if not number.is_integer():
        return number if -LARGEST <= number <= LARGEST else finite(number)
    return int(number) if abs(number) <= EXACT_IN_JSON and reading == int(number) else finite(number)


def finite(value: Decimal | float) -> float:
    """Write a statistic as a float that JSON can hold; what is beyond is cut to the largest.

    Raises:
        ValueError: it is no number at all.
    """
    number = float(value)
    if -LARGEST <= number <= LARGEST:
        return number
    if number != number:  # noqa: PLR0124 (what no comparison holds for)
        raise ValueError("a statistic is not a number")
    return -LARGEST if number < 0 else LARGEST


def decision_document(
    *,
    decision_id: str,
    account_id: str,
    judgement: Judgement,
    market: MarketView,
    policy: Policy,
    decider: Mapping[str, Any],
    latency_ms: int,
) -> Json:
    """Build the whole answer; `decider` is the account of the call, ready for JSON."""
    return {
        "decision_id": decision_id,
        "account_id": account_id,
        "as_of": utc_text(market.as_of),
        "decided_at": utc_text(judgement.decided_at),
        "valid_until": utc_text(judgement.valid_until),
        "action": str(judgement.action),
        "verdict": str(judgement.verdict),
        "should_execute": judgement.should_execute,
        "reason_code": judgement.reason_code,
        "degraded": judgement.degraded,
        "order": None if judgement.ticket is None else ticket_document(judgement.ticket),
        "proposal": proposal_document(judgement.candidate or judgement.manage),
        "edge": None if judgement.edge is None else edge_document(judgement.edge),
        "sizing": None if judgement.sizing is None else sizing_document(judgement.sizing),
        "calibration": calibration_document(judgement),
        "gates": [gate_document(gate) for gate in judgement.gates],
        "candidates": [
            {
                "symbol": summary.symbol,
                "rank": summary.rank,
                "verdict": str(summary.verdict),
                "ev_r": None if summary.ev_r is None else finite(summary.ev_r),
                "blocked_by": list(summary.blocked_by),
            }
            for summary in judgement.candidates
        ],
        "risk_state": risk_state_document(judgement.risk_state),
        "claims": [
            {"field": claim.field, "claimed": finite(claim.claimed), "computed": finite(claim.computed)}
            for claim in judgement.claims
        ],
        "watchlist": [
            {"symbol": item.symbol, "trigger": item.trigger, "target_conviction": item.target_conviction}
            for item in judgement.watchlist
        ],
        "notes": judgement.notes,
        "data_quality": [
            {"symbol": issue.symbol, "field": issue.field, "issue": issue.issue} for issue in judgement.issues
        ],
        "liquidity": [{"symbol": view.symbol, "score": view.liquidity_score} for view in market.symbols],
        "decider": dict(decider),
        "policy": {
            "version": POLICY_VERSION,
            "hash": policy.hash(),
            "aggressiveness_level": policy.aggressiveness_level,
        },
        "latency_ms": latency_ms,
    }


def ticket_document(ticket: Ticket) -> Json:
    """Write an order ticket."""
    collar = ticket.price_collar
    return {
        "client_order_id": ticket.client_order_id,
        "symbol": ticket.symbol,
        "side": str(ticket.side),
        "quantity": ticket.quantity,
        "entry_type": ticket.entry_type,
        "entry_price": _price_or_none(ticket.entry_price),
        "stop_loss": _price_or_none(ticket.stop_loss),
        "targets": [{"price": price_text(target.price), "fraction": target.fraction} for target in ticket.targets],
        "time_stop_at": None if ticket.time_stop_at is None else utc_text(ticket.time_stop_at),
        "notional_usd": None if ticket.notional_usd is None else money_text(ticket.notional_usd),
        "risk_usd": money_text(ticket.risk_usd),
        "risk_bps": finite(ticket.risk_bps),
        "price_collar": (None if collar is None else {"low": price_text(collar.low), "high": price_text(collar.high)}),
        "stop_required": ticket.stop_required,
        "reduce_only": ticket.reduce_only,
        "mode": str(ticket.mode),
    }


def _price_or_none(price: Decimal | None) -> str | None:
    return None if price is None else price_text(price)


def proposal_document(proposed: Candidate | Manage | None) -> Json | None:
    """Write the judged part of the reply as the decider said it."""
    if proposed is None:
        return None
    if isinstance(proposed, Manage):
        return {
            "symbol": proposed.symbol,
            "reduce_pct": None if proposed.reduce_pct is None else float(proposed.reduce_pct),
            "new_stop": _price_or_none(proposed.new_stop),
            "new_target": _price_or_none(proposed.new_target),
            "reason": proposed.reason,
        }
    return {
        "symbol": proposed.symbol,
        "direction": str(proposed.direction),
        "setup": str(proposed.setup),
        "entry_type": str(proposed.entry_type),
        "entry_price": _price_or_none(proposed.entry_price),
        "stop_loss": _price_or_none(proposed.stop_loss),
        "target_price": _price_or_none(proposed.target_price),
        "time_stop_hours": proposed.time_stop_hours,
        "p_win_pct": proposed.p_win_pct,
        "conviction": proposed.conviction,
        "thesis": proposed.thesis,
    }


def edge_document(edge: Edge) -> Json:
    """Write the edge as numbers."""
    return {
        "p_win_raw": finite(edge.p_win_raw),
        "p_win": finite(edge.p_win),
        "risk_reward": finite(edge.risk_reward),
        "ev_r": finite(edge.ev_r),
        "ev_pct": finite(edge.ev_pct),
        "kelly_fraction": finite(edge.kelly_fraction),
        "cost_bps_round_trip": finite(edge.cost_bps_round_trip),
    }


def sizing_document(sizing: Sizing) -> Json:
    """Write the size and all its caps."""
    return {
        "risk_per_share": price_text(
            _cents(sizing.risk_per_share) if sizing.risk_per_share >= 1 else sizing.risk_per_share
        ),
        "atr_multiple": finite(sizing.atr_multiple),
        "caps": [{"cap": cap.cap, "max_quantity": cap.max_quantity} for cap in sizing.caps],
        "binding_cap": sizing.binding_cap,
    }


def calibration_document(judgement: Judgement) -> Json:
    """Write what the decider's record did: the calibrator's state, the p_win it gives, and any derating."""
    standing, p_win = judgement.calibration, judgement.p_win_calibrated
    return {
        "state": str(standing.state),
        "calibrator_id": standing.calibrator_id,
        "p_win_calibrated": None if p_win is None else finite(p_win),
        "derated": standing.derated,
        "reason": standing.reason,
    }


def gate_document(gate: GateResult) -> Json:
    """Write one line of the gates' report."""
    name, status, observed, limit, unit, code, detail = gate
    return {
        "gate": name,
        "status": str(status),
        "observed": None if observed is None else _number(observed),
        "limit": None if limit is None else _number(limit),
        "unit": unit,
        "code": code,
        "detail": detail,
    }


def risk_state_document(risk: RiskState) -> Json:
    """Write the account's risk; drawdowns in whole basis points."""
    return {
        "day_dd_bps": None if risk.day_dd_bps is None else round(finite(risk.day_dd_bps)),
        "week_dd_bps": None if risk.week_dd_bps is None else round(finite(risk.week_dd_bps)),
        "cash_pct": finite(risk.cash_pct),
        "gross_leverage": None if risk.gross_leverage is None else finite(risk.gross_leverage),
        "open_positions": risk.open_positions,
        "buckets": [
            {
                "bucket": item.bucket,
                "exposure_pct": finite(item.exposure_pct),
                "limit_pct": item.limit_pct,
                "reduce_by_usd": finite(_cents(item.reduce_by_usd)),
            }
            for item in risk.buckets
        ],
    }
