"""Passing records for the store: a test changes what it is about and nothing else."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from app.db.operations import Store
from app.db.records import AccountMark, DecisionRecord, NewForecast, NewReservation, PolicyText, PromptTexts
from app.domain.account import AccountMode, AccountState
from app.domain.policy import POLICY_VERSION, Policy
from app.domain.proposal import Direction, EntryType, Mode, Setup
from app.domain.verdict import Verdict

PROMPT = PromptTexts(version="1", template_hash="ab" * 32, template="Decide.", system="Decide by these limits.")
POLICY = PolicyText(version=POLICY_VERSION, hash=Policy().hash(), body=Policy().canonical_json())
AS_OF = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)  # a Friday

_numbers = itertools.count(1)

_DECISION = DecisionRecord(
    decision_id=UUID(int=0),
    account_id="paper-1",
    mode=AccountMode.PAPER,
    as_of=AS_OF,
    decided_at=AS_OF + timedelta(seconds=1),
    valid_until=AS_OF + timedelta(seconds=61),
    action=Mode.TRADE,
    verdict=Verdict.APPROVED,
    reason_code=None,
    blocked_by=(),
    degraded=False,
    symbol="NVDA",
    direction=Direction.LONG,
    setup=Setup.MOMENTUM,
    conviction=72,
    p_win_raw=0.54,
    p_win=0.51,
    ev_r=0.56,
    quantity=53,
    notional_usd=Decimal("6646.20"),
    risk_usd=Decimal("298.52"),
    request='{"account": {"id":"paper-1"},  "as_of":"2026-11-20T15:30:00Z"}',
    state=AccountState(now=AS_OF + timedelta(seconds=1)),
    proposal='{"mode":"trade"}',
    raw_reply='{"type":"tool_use"}',
    response='{"decision_id":"…","verdict":"approved"}',
    gates="[]",
    sizing="{}",
    ticket='{"symbol":"NVDA","quantity":53}',
    decider_name="anthropic",
    model="claude-haiku-5-5",
    prompt_hash=PROMPT.template_hash,
    system_hash=PROMPT.system_hash,
    prompt_user="The data.",
    policy_hash=POLICY.hash,
    calibration=None,
    attempts=1,
    hedged=False,
    input_tokens=900,
    output_tokens=110,
    cache_read_tokens=4000,
    cache_write_tokens=0,
    cost_usd=Decimal("0.00012"),
    stop_reason="tool_use",
    model_request_id="req_1",
    model_latency_ms=812,
    latency_ms=820,
    request_id="r-1",
    api_key_id=None,
)


def new_decision_id() -> UUID:
    """An id that sorts after all earlier ones of this process, in the form of a UUIDv7."""
    return UUID(int=(0x0193 << 112) | (0x7 << 76) | (0x2 << 62) | next(_numbers))


def decision(**changes: Any) -> DecisionRecord:
    return replace(_DECISION, **{"decision_id": new_decision_id(), **changes})


def no_trade(**changes: Any) -> DecisionRecord:
    nothing = dict.fromkeys(("symbol", "direction", "setup", "quantity", "notional_usd", "risk_usd", "ticket"))
    return decision(
        **{"action": Mode.NEUTRAL, "verdict": Verdict.NO_TRADE, "reason_code": "MODEL_NEUTRAL", **nothing, **changes}
    )


def mark(equity: int | Decimal = 100_000, *, day_loss: int | None = None, week_loss: int | None = None) -> AccountMark:
    return AccountMark(
        equity_usd=Decimal(equity),
        day_loss_usd=None if day_loss is None else Decimal(day_loss),
        week_loss_usd=None if week_loss is None else Decimal(week_loss),
    )


def reservation(**changes: Any) -> NewReservation:
    return replace(
        NewReservation(
            symbol="NVDA",
            direction=Direction.LONG,
            quantity=Decimal(53),
            notional_usd=Decimal("6646.20"),
            risk_usd=Decimal("298.52"),
            buckets=("technology", "ai"),
            reduce_only=False,
            expires_at=datetime(2100, 1, 1, tzinfo=UTC),
        ),
        **changes,
    )


def forecast(**changes: Any) -> NewForecast:
    """A long from 100.00 to 110.00 with the stop at 95.00, no costs and two days' time: R is a fifth of the dollars."""
    return replace(
        NewForecast(
            p_win=0.54,
            p_win_calibrated=0.51,
            p_win_percent=54,
            p_win_calibrated_percent=51,
            ev_r=Decimal("0.620000"),
            entry_type=EntryType.MARKET,
            entry=Decimal("100.00"),
            stop=Decimal("95.00"),
            target=Decimal("110.00"),
            cost_usd=Decimal(0),
            time_stop_at=AS_OF + timedelta(hours=48),
        ),
        **changes,
    )


async def stored(
    store: Store,
    record: DecisionRecord,
    *,
    showing: AccountMark | None = None,
    reserving: NewReservation | None = None,
    foretelling: NewForecast | None = None,
) -> DecisionRecord:
    """Record a decision as the service does, and return it."""
    async with store.gating(account_id=record.account_id, mode=record.mode, as_of=record.as_of) as transaction:
        await transaction.record(
            record,
            mark=showing or mark(),
            prompt=PROMPT,
            policy=POLICY,
            reservation=reserving,
            forecast=foretelling,
        )
    return record
