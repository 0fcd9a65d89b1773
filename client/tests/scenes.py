"""The passing case that tests start from: a snapshot, and the service's answer to it."""

import json
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tradeverdict_client import Account, Position, Snapshot, SymbolData, Ticket
from tradeverdict_client.decision import read_decision

NOW = datetime(2026, 11, 20, 15, 30, 5, tzinfo=UTC)
"""Within the life of the answer's ticket, which ends at 15:31:00.834."""
ANSWER: dict[str, Any] = json.loads(Path(__file__).with_name("answer.json").read_text())
PROGRESS: dict[str, Any] = {
    "phase": "working",
    "quantity": 53,
    "filled_quantity": 0,
    "open_quantity": 53,
    "average_fill_price": None,
    "stop_placed": False,
}
REPORT: dict[str, Any] = {
    "decision_id": "d-1",
    "recorded_at": "2026-11-20T15:30:05Z",
    "ticket": PROGRESS,
    "result": None,
}
HALT: dict[str, Any] = {
    "halt_id": 7,
    "account_id": None,
    "state": "halted",
    "reason": "flash crash",
    "operator": "ana",
    "set_at": "2026-11-20T15:30:00Z",
    "lifted_at": None,
    "lifted_by": None,
    "lift_reason": None,
}


def a_snapshot() -> Snapshot:
    return Snapshot(
        account=Account(
            id="paper-1",
            equity=100_000,
            cash=62_000,
            positions=[Position(symbol="AAPL", quantity=50, mark_price=201.2, stop_loss=185)],
            daily_pnl=-350,
        ),
        as_of=datetime(2026, 11, 20, 15, 30, tzinfo=UTC),
        market=[SymbolData(symbol="NVDA", price=125.4, bid=125.38, ask=125.42, atr=4.1, adv=31e9)],
    )


def an_answer(*, order: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An approved long; `order` is laid over its order."""
    answer = deepcopy({**ANSWER, **changes})
    if order is not None:
        answer["order"] |= order
    return answer


def a_live_answer(**changes: Any) -> dict[str, Any]:
    """An approved long whose ticket is good for another minute by the real clock."""
    return an_answer(**{"valid_until": (datetime.now(UTC) + timedelta(minutes=1)).isoformat(), **changes})


def a_blocked_answer(**changes: Any) -> dict[str, Any]:
    """The same proposal, blocked for its spread."""
    gates = [
        gate | ({"status": "block", "code": "SPREAD_TOO_WIDE"} if gate["gate"] == "spread" else {})
        for gate in ANSWER["gates"]
    ]
    blocked = {"verdict": "blocked", "should_execute": False, "reason_code": "SPREAD_TOO_WIDE", "order": None}
    return an_answer(**{**blocked, "gates": gates, **changes})


def a_neutral_answer(code: str = "MODEL_NEUTRAL", **changes: Any) -> dict[str, Any]:
    """No proposal; with another code than MODEL_NEUTRAL the model failed."""
    neutral = {
        "action": "neutral",
        "verdict": "no_trade",
        "should_execute": False,
        "reason_code": code,
        "degraded": code != "MODEL_NEUTRAL",
        "order": None,
        "proposal": None,
        "edge": None,
        "sizing": None,
        "candidates": [],
        "notes": "Nothing stands out.",
    }
    return an_answer(**{**neutral, **changes})


def a_ticket(*, order: dict[str, Any] | None = None, **changes: Any) -> Ticket:
    ticket = read_decision(an_answer(order=order, **changes)).ticket
    assert ticket is not None
    return ticket


def a_live_ticket() -> Ticket:
    ticket = read_decision(a_live_answer()).ticket
    assert ticket is not None
    return ticket


def a_problem(code: str, status: int, **changes: Any) -> dict[str, Any]:
    return {
        "type": f"urn:tradeverdict:error:{code}",
        "title": "A title",
        "status": status,
        "code": code,
        "detail": "what is wrong",
        "instance": "request-1",
        **changes,
    }
