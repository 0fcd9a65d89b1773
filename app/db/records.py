"""Hold what is stored of one decision. `DecisionRecord` is a row of `llm_decisions`, column by column."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final
from uuid import UUID

from app.domain.account import AccountMode, AccountState
from app.domain.making import made_quickly
from app.domain.proposal import Direction, EntryType, Mode, Setup
from app.domain.verdict import Verdict

RULES: Final = "rules"
"""The decider whose versions are scored as one."""


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """Hold one decision. Text that is JSON is kept to the byte.

    `request` is the body as received, `state` what the judge saw of the account, `response` the body as sent;
    `prompt_hash` and `system_hash` name stored texts, `prompt_user` is the part made for this decision.
    `decided_at` is the database clock at judging. `model_request_id` is the provider's, `request_id` ours.
    `judged_with` is what else the judge and the answer were made of; None in decisions from before it was kept.
    """

    decision_id: UUID
    account_id: str
    mode: AccountMode
    as_of: datetime
    decided_at: datetime
    valid_until: datetime
    action: Mode
    verdict: Verdict
    reason_code: str | None
    blocked_by: tuple[str, ...]
    degraded: bool
    symbol: str | None
    direction: Direction | None
    setup: Setup | None
    conviction: int | None
    p_win_raw: float | None
    p_win: float | None
    ev_r: float | None
    quantity: int | None
    notional_usd: Decimal | None
    risk_usd: Decimal | None
    request: str
    state: AccountState
    proposal: str | None
    raw_reply: str | None
    response: str
    gates: str
    sizing: str | None
    ticket: str | None
    decider_name: str
    model: str | None
    prompt_hash: str
    system_hash: str
    prompt_user: str
    policy_hash: str
    calibration: str | None
    judged_with: str | None = None
    attempts: int
    hedged: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost_usd: Decimal
    stop_reason: str | None
    model_request_id: str | None
    model_latency_ms: int
    latency_ms: int
    request_id: str | None
    api_key_id: str | None

    @property
    def decider(self) -> str:
        """Name whose forecasts are scored together: `rules`, or a decider and its model."""
        return decider_key(name=self.decider_name, model=self.model)

    @property
    def approved_entry(self) -> bool:
        """Tell whether the decision lets its account enter a trade."""
        return self.action is Mode.TRADE and self.verdict in (Verdict.APPROVED, Verdict.RESIZED)


def decider_key(*, name: str, model: str | None) -> str:
    """Name whose forecasts are scored together: `rules`, or a decider and its model."""
    return name if model is None or name == RULES else f"{name}/{model}"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class NewForecast:
    """Hold what a decision foretold, beside what its record says: exact, and in whole percent.

    The plan's prices and `cost_usd` are dollars per share; `ev_r` is in R, None where the edge was unknown.
    """

    p_win: float
    p_win_calibrated: float | None
    p_win_percent: int
    p_win_calibrated_percent: int | None
    ev_r: Decimal | None
    entry_type: EntryType
    entry: Decimal
    stop: Decimal
    target: Decimal
    cost_usd: Decimal
    time_stop_at: datetime


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMark:
    """Hold what a request showed of its account: equity and losses so far, dollars; None where unknown."""

    equity_usd: Decimal
    day_loss_usd: Decimal | None
    week_loss_usd: Decimal | None


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class NewReservation:
    """Hold what an approval reserves, and until when if nobody claims it (database clock)."""

    symbol: str
    direction: Direction
    quantity: Decimal
    notional_usd: Decimal
    risk_usd: Decimal
    buckets: tuple[str, ...]
    reduce_only: bool
    expires_at: datetime


@lru_cache(maxsize=64)
def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTexts:
    """Hold the two texts of a prompt that many decisions share: its template, and its static part as rendered."""

    version: str
    template_hash: str
    template: str
    system: str

    @property
    def system_hash(self) -> str:
        """Give the SHA-256 by which the static part is stored once, as 64 hexadecimal digits."""
        return _sha256(self.system)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyText:
    """Hold a policy's canonical JSON and its SHA-256."""

    version: str
    hash: str
    body: str
