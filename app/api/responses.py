"""Describe the answers for the OpenAPI document; the bytes themselves are written once, by the service.

Money and prices are strings, so that no float rounds them; statistics are numbers.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from app.api.examples import DECIDE_RESPONSE
from app.domain.account import AccountMode
from app.domain.gates import GateStatus
from app.domain.proposal import Direction, EntryType, Mode, Setup
from app.domain.recalibration import CalibratorState
from app.domain.verdict import Side, Verdict

Money = Annotated[str, Field(pattern=r"^-?\d+\.\d{2}$")]
Price = Annotated[str, Field(pattern=r"^-?\d+\.\d{2,6}$")]


class AnswerModel(BaseModel):
    """Say exactly what is sent: no field more, none less."""

    model_config = ConfigDict(extra="forbid")


class TargetOut(AnswerModel):
    """A take-profit price and the fraction of the quantity it closes."""

    price: Price
    fraction: float


class PriceCollarOut(AnswerModel):
    """The fill prices that keep the order inside its limits."""

    low: Price
    high: Price


class OrderOut(AnswerModel):
    """A ticket: valid until `valid_until`, worthless without its stop, retried safely by `client_order_id`."""

    client_order_id: str
    symbol: str
    side: Side
    quantity: Annotated[int, Field(ge=0)]
    entry_type: str
    entry_price: Price | None
    stop_loss: Price | None
    targets: list[TargetOut]
    time_stop_at: datetime | None
    notional_usd: Money | None
    risk_usd: Money
    risk_bps: float
    price_collar: PriceCollarOut | None
    stop_required: bool
    reduce_only: bool
    mode: AccountMode


class EntryProposalOut(AnswerModel):
    """The judged candidate, as the decider said it."""

    symbol: str
    direction: Direction
    setup: Setup
    entry_type: EntryType
    entry_price: Price | None
    stop_loss: Price | None
    target_price: Price | None
    time_stop_hours: int
    p_win_pct: int
    conviction: int
    thesis: str


class ManageProposalOut(AnswerModel):
    """The judged exit or adjust, as the decider said it."""

    symbol: str
    reduce_pct: float | None
    new_stop: Price | None
    new_target: Price | None
    reason: str


class EdgeOut(AnswerModel):
    """What the trade is worth after costs: EV in units of risk and as a fraction of entry."""

    p_win_raw: float
    p_win: float
    risk_reward: float
    ev_r: float
    ev_pct: float
    kelly_fraction: float
    cost_bps_round_trip: float


class CapOut(AnswerModel):
    """One cap and the whole shares it allows."""

    cap: str
    max_quantity: int


class SizingOut(AnswerModel):
    """How the quantity came about: every cap, and the one that binds."""

    risk_per_share: Price
    atr_multiple: float
    caps: list[CapOut]
    binding_cap: str


class CalibrationOut(AnswerModel):
    """What the decider's record did: `on` uses `p_win_calibrated`, `shadow` reports it; derated, size stays small."""

    state: CalibratorState
    calibrator_id: int | None
    p_win_calibrated: float | None
    derated: bool
    reason: str | None


class GateOut(AnswerModel):
    """One gate: what it saw, what it allows, and the code with which it blocks."""

    gate: str
    status: GateStatus
    observed: float | str | None
    limit: float | str | None
    unit: str
    code: str | None
    detail: str


class CandidateOut(AnswerModel):
    """One judged candidate's place among the others."""

    symbol: str
    rank: int
    verdict: Verdict
    ev_r: float | None
    blocked_by: list[str]


class BucketOut(AnswerModel):
    """The gross exposure of one bucket, of equity."""

    bucket: str
    exposure_pct: float
    limit_pct: float
    reduce_by_usd: float


class RiskStateOut(AnswerModel):
    """The account's risk before this decision; null where it cannot be known."""

    day_dd_bps: int | None
    week_dd_bps: int | None
    cash_pct: float
    gross_leverage: float | None
    open_positions: int
    buckets: list[BucketOut]


class ClaimOut(AnswerModel):
    """A figure that somebody claimed, beside the computed one."""

    field: str
    claimed: float
    computed: float


class WatchItemOut(AnswerModel):
    """A symbol the decider would act on later."""

    symbol: str
    trigger: str
    target_conviction: int


class DataIssueOut(AnswerModel):
    """Something that was wrong with the data, and what was done about it."""

    symbol: str | None
    field: str
    issue: str


class LiquidityOut(AnswerModel):
    """Liquidity of one symbol, 0-100; null when unknown."""

    symbol: str
    score: float | None


class DeciderOut(AnswerModel):
    """Who decided, how long it took, and what it cost."""

    name: str
    model: str | None
    prompt_version: str
    prompt_hash: str
    latency_ms: int
    attempts: int
    hedged: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost_usd: Annotated[float | None, Field(description="null where the model's price is not known")]


class PolicyOut(AnswerModel):
    """Which limits were in force."""

    version: str
    hash: str
    aggressiveness_level: int


class DecisionResponse(AnswerModel):
    """A verdict, committed to the store before it was sent."""

    model_config = ConfigDict(json_schema_extra={"examples": [DECIDE_RESPONSE]})

    decision_id: UUID
    account_id: str
    as_of: datetime
    decided_at: datetime
    valid_until: datetime
    action: Mode
    verdict: Verdict
    should_execute: bool
    reason_code: str | None
    degraded: bool
    order: OrderOut | None
    proposal: EntryProposalOut | ManageProposalOut | None
    edge: EdgeOut | None
    sizing: SizingOut | None
    calibration: CalibrationOut
    gates: list[GateOut]
    candidates: list[CandidateOut]
    risk_state: RiskStateOut
    claims: list[ClaimOut]
    watchlist: list[WatchItemOut]
    notes: str
    data_quality: list[DataIssueOut]
    liquidity: list[LiquidityOut]
    decider: DeciderOut
    policy: PolicyOut
    latency_ms: int


class HealthResponse(AnswerModel):
    """The process is alive."""

    status: Literal["alive"] = "alive"


class ReadyResponse(AnswerModel):
    """The service can decide."""

    status: Literal["ready"] = "ready"
    version: str
    decider: str
    model: str | None
    auth: Literal["on", "off"]
    policy_hash: str
    warnings: list[str]


class DecisionSummaryOut(AnswerModel):
    """One decision in a list; `decided_at` is the time of the database."""

    decision_id: UUID
    account_id: str
    mode: AccountMode
    as_of: datetime
    decided_at: datetime
    valid_until: datetime
    action: Mode
    verdict: Verdict
    reason_code: str | None
    blocked_by: list[str]
    degraded: bool
    symbol: str | None
    direction: Direction | None
    setup: Setup | None
    conviction: int | None
    p_win_raw: float | None
    p_win: float | None
    ev_r: float | None
    quantity: int | None
    notional_usd: str | None
    risk_usd: str | None
    decider_name: str
    model: str | None
    cost_usd: str
    model_latency_ms: int
    latency_ms: int


class DecisionListResponse(AnswerModel):
    """One page of decisions, newest first."""

    decisions: list[DecisionSummaryOut]
    next_cursor: str | None


class DecisionRecordResponse(DecisionSummaryOut):
    """Everything stored of one decision; `request` and `response` are as received and as sent."""

    request: dict[str, Any]
    state: dict[str, Any]
    proposal: dict[str, Any] | None
    raw_reply: str | None
    response: DecisionResponse
    gates: list[GateOut]
    sizing: SizingOut | None
    ticket: OrderOut | None
    prompt_hash: str
    system_hash: str
    prompt_user: str
    policy_hash: str
    calibration: dict[str, Any] | None
    judged_with: dict[str, Any] | None
    attempts: int
    hedged: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    stop_reason: str | None
    model_request_id: str | None
    request_id: str | None
    api_key_id: str | None
