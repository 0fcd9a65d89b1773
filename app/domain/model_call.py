"""Account for calls of models: what the ledger keeps of each."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from app.domain.making import made_quickly

PROPOSED: Final = "proposal"
CANCELLED: Final = "cancelled"
WARMED: Final = "warm"
"""How a call can end, besides the codes of ModelFailure; cancelled: another call's reply came first."""


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """Account for one call of one target: when it began (ms after the decider was asked), how it ended, its cost.

    `hedged`: it went out beside a call that was late. `estimated`: the target never said what was used (the call was
    cut off), so tokens and cost are our estimate. Where `priced` is false no price is known, and `cost_usd` is 0.
    """

    target: str
    model: str
    started_ms: int
    latency_ms: int
    outcome: str
    detail: str | None = None
    hedged: bool = False
    cancelled: bool = False
    status: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    priced: bool = True
    estimated: bool = False
    request_id: str | None = None
    stop_reason: str | None = None
