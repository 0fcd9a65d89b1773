"""Define what every decider takes and gives back."""

from collections.abc import Awaitable
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from app.domain.account import Account
from app.domain.making import made_quickly
from app.domain.market import MarketView
from app.domain.model_call import ModelCall
from app.domain.policy import Policy
from app.domain.proposal import ModelFailure, Proposal


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Hold the rendered prompt: the static part (cacheable) first, the data last.

    `template_hash` is the SHA-256 of the template and tool schema; `system` is the static part as rendered
    from the policy, `user` the data block and bounds of this decision.
    """

    version: str
    template: str
    template_hash: str
    system: str
    user: str


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class DeciderFailure:
    """Say that no proposal came, with a stable code and what happened in one line (no secrets)."""

    code: ModelFailure
    detail: str


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class DeciderCall:
    """Account for one use of a decider: who answered, how long it took (ms) and what it cost (dollars).

    Tokens and cost add up all of `calls`, the cancelled and failed ones too; `model`, `target`, `request_id`,
    `stop_reason` and `raw_reply` are of the call that counted (of the last one, where none did). Where `priced` is
    false, a price was not known, and `cost_usd` is no figure.
    """

    name: str
    model: str | None
    prompt_version: str
    prompt_hash: str
    latency_ms: int
    attempts: int = 1
    hedged: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    priced: bool = True
    request_id: str | None = None
    stop_reason: str | None = None
    raw_reply: str | None = None
    target: str | None = None
    estimated: bool = False
    calls: tuple[ModelCall, ...] = ()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Hold what a decider said, or how it failed, and the account of the call.

    `degraded`: the decider that was to propose failed, and its last resort stands in. `rest` is there when the
    outcome was given before the reply had ended: all that is judged is in it, but the last texts are not. Awaiting
    it gives the whole reply with the final account; its outcome is a failure where the reply went wrong after all.
    It never raises for upstream faults, ends by itself within seconds, and need not be awaited.
    """

    outcome: Proposal | DeciderFailure
    call: DeciderCall
    degraded: bool = False
    rest: Awaitable["Reply"] | None = None


class Decider(Protocol):
    """Propose one decision for a resolved snapshot within a time budget; never raise for upstream faults."""

    @property
    def name(self) -> str:
        """Name the decider, as it appears in `decider.name`."""

    @property
    def serves_live(self) -> bool:
        """Tell whether live accounts may be served by this decider."""

    async def propose(
        self, *, prompt: Prompt, market: MarketView, account: Account, policy: Policy, budget_s: float
    ) -> Reply:
        """Return a proposal or a typed failure within `budget_s` seconds."""

    async def close(self) -> None:
        """Release connections."""
