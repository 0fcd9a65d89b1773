"""Say what each gate kept from happening: what the forecasts that it blocked would have made.

A forecast that several gates blocked counts with each of them, so their results do not add up to one. Within one gate
they do: a gate blocks with one code.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from app.domain.gates import GATES, Code

_SIZE: Final = "SIZE_"

GATE_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        Code.HALTED: "kill_switch",
        Code.REDUCE_ONLY: "kill_switch",
        Code.LIVE_NOT_ALLOWED: "live_interlock",
        Code.LIVE_NOT_CONFIRMED: "live_interlock",
        Code.PROPOSAL_INVALID: "proposal_valid",
        Code.UNKNOWN_SYMBOL: "proposal_valid",
        Code.STALE_SNAPSHOT: "snapshot_fresh",
        Code.FUTURE_SNAPSHOT: "snapshot_fresh",
        Code.QUOTES_INCONSISTENT: "quotes",
        Code.DUPLICATE_INTENT: "duplicate_intent",
        Code.OPPOSITE_POSITION: "duplicate_intent",
        Code.PRICE_COLLAR: "price_collar",
        # Stop and target block with this code, too, but never without the price collar.
        Code.MISSING_ATR: "price_collar",
        Code.STOP_MISSING: "stop",
        Code.STOP_WRONG_SIDE: "stop",
        Code.STOP_TOO_TIGHT: "stop",
        Code.STOP_TOO_WIDE: "stop",
        Code.TARGET_WRONG_SIDE: "target",
        Code.TARGET_TOO_FAR: "target",
        Code.ILLIQUID: "min_adv",
        Code.MISSING_ADV: "min_adv",
        Code.SPREAD_TOO_WIDE: "spread",
        Code.MISSING_SPREAD: "spread",
        Code.PRICE_TOO_LOW: "min_price",
        Code.MICROCAP: "market_cap",
        Code.NOT_SHORTABLE: "borrow",
        Code.MISSING_SHORTABLE: "borrow",
        Code.DAILY_LOSS_LIMIT: "daily_loss",
        Code.MISSING_DAILY_PNL: "daily_loss",
        Code.WEEKLY_LOSS_LIMIT: "weekly_loss",
        Code.MISSING_WEEKLY_PNL: "weekly_loss",
        Code.LOW_CONVICTION: "conviction",
        Code.LOW_P_WIN: "p_win",
        Code.LOW_RISK_REWARD: "risk_reward",
        Code.NEGATIVE_EV: "expected_value",
        Code.MISSING_MARK: "size",
        Code.MISSING_POSITION_STOP: "size",
    }
)
"""The gate that blocks with each code; SIZE_ codes, which name a cap, are the size gate's."""


class Effect(StrEnum):
    """Say what blocking did: kept gains from being made, or losses."""

    COST = "cost"
    SAVED = "saved"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedForecasts:
    """Count blocked forecasts, those that bars have resolved since and the wins among them, and sum their R."""

    blocked: int = 0
    resolved: int = 0
    won: int = 0
    r: Decimal = Decimal(0)

    def __add__(self, other: "BlockedForecasts") -> "BlockedForecasts":
        return BlockedForecasts(
            blocked=self.blocked + other.blocked,
            resolved=self.resolved + other.resolved,
            won=self.won + other.won,
            r=self.r + other.r,
        )

    @property
    def effect(self) -> Effect | None:
        """Say what blocking did; None while nothing is resolved."""
        if not self.resolved:
            return None
        if self.r == 0:
            return Effect.NEITHER
        return Effect.COST if self.r > 0 else Effect.SAVED


def gate_of(code: str) -> str | None:
    """Name the gate that blocks with a code; None when no gate of today does."""
    return "size" if code.startswith(_SIZE) else GATE_OF.get(code)


def effects_by_gate(codes: Iterable[tuple[str, BlockedForecasts]]) -> Mapping[str, BlockedForecasts]:
    """Sum what was blocked by the gates, in the order of their report; those that blocked nothing are in it, too."""
    sums = {gate.name: BlockedForecasts() for gate in GATES}
    for code, blocked in codes:
        gate = gate_of(code)
        if gate is not None:
            sums[gate] += blocked
    return sums
