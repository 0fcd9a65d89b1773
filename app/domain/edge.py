"""Compute what an entry is worth: risk-reward after costs, expected value, Kelly fraction.

L = |entry - stop|, W = |target - entry|, C = cost of the round trip, all dollars per share.
b = (W - C) / (L + C); EV_R = p x b - (1 - p), in units of L + C; Kelly = p - (1 - p) / b (Kelly 1956).
When the position is closed in thirds, each slice has its own probability of being reached before the stop,
that of a diffusion whose constant drift gives p at the target.
"""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from app.domain.costs import BPS
from app.domain.making import made_quickly
from app.domain.policy import ScaleOut

ONE: Final = Decimal(1)
THIRD: Final = ONE / 3
BISECTIONS: Final = 200


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Hold one part of a position: the fraction it closes and its gross reward, dollars per share."""

    fraction: Decimal
    distance: Decimal


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Hold the worth of an entry.

    `ev_r` in units of L + C, `ev_pct` a fraction of entry, `kelly_fraction` a fraction of equity,
    `cost_bps_round_trip` of entry, `cost_usd` dollars per share.
    """

    p_win_raw: Decimal
    p_win: Decimal
    risk_reward: Decimal
    ev_r: Decimal
    ev_pct: Decimal
    kelly_fraction: Decimal
    cost_usd: Decimal
    cost_bps_round_trip: Decimal


def slices(*, loss: Decimal, reward: Decimal, scale_out: ScaleOut) -> tuple[Slice, ...]:
    """Split a position by its exits: whole at the target, or thirds at 1 L, 2 L and the target."""
    if scale_out is ScaleOut.OFF:
        return (Slice(fraction=ONE, distance=reward),)
    return (
        Slice(fraction=THIRD, distance=min(loss, reward)),
        Slice(fraction=THIRD, distance=min(2 * loss, reward)),
        Slice(fraction=ONE - 2 * THIRD, distance=reward),
    )


def assess_edge(
    *,
    entry: Decimal,
    stop: Decimal,
    target: Decimal,
    cost: Decimal,
    p_win_raw: Decimal,
    p_win: Decimal,
    scale_out: ScaleOut,
) -> Edge:
    """Compute the edge of an entry whose stop differs from its entry; `cost` in dollars per share."""
    loss, reward = abs(entry - stop), abs(target - entry)
    unit = loss + cost
    risk_reward = (reward - cost) / unit
    if scale_out is ScaleOut.OFF:
        ev_r = p_win * risk_reward - (ONE - p_win)
    else:
        ev_r = _scaled_ev(loss=loss, reward=reward, cost=cost, p_win=p_win, scale_out=scale_out)
    return Edge(
        p_win_raw=p_win_raw,
        p_win=p_win,
        risk_reward=risk_reward,
        ev_r=ev_r,
        ev_pct=ev_r * unit / entry,
        kelly_fraction=_kelly(p_win=p_win, risk_reward=risk_reward),
        cost_usd=cost,
        cost_bps_round_trip=cost / entry * BPS,
    )


def kelly_fraction(*, entry: Decimal, stop: Decimal, target: Decimal, cost: Decimal, p_win: Decimal) -> Decimal:
    """Compute the Kelly fraction of such an entry alone; `cost` in dollars per share."""
    return _kelly(p_win=p_win, risk_reward=(abs(target - entry) - cost) / (abs(entry - stop) + cost))


def _kelly(*, p_win: Decimal, risk_reward: Decimal) -> Decimal:
    return p_win - (ONE - p_win) / risk_reward if risk_reward > 0 else Decimal(0)


def _scaled_ev(*, loss: Decimal, reward: Decimal, cost: Decimal, p_win: Decimal, scale_out: ScaleOut) -> Decimal:
    theta = _drift(p=float(p_win), ratio=float(reward / loss))
    total = Decimal(0)
    for part in slices(loss=loss, reward=reward, scale_out=scale_out):
        # The slice at the target wins with p itself, exactly.
        p = (
            p_win
            if part.distance == reward
            else Decimal(repr(reach_probability(theta=theta, ratio=float(part.distance / loss))))
        )
        gain = (part.distance - cost) / (loss + cost)
        total += part.fraction * (p * gain - (ONE - p))
    return total


def reach_probability(*, theta: float, ratio: float) -> float:
    """Give the chance that a diffusion of drift `theta` reaches +ratio before -1 (both in units of L).

    (e^t - 1) / (e^t - e^(-t r)), limit 1 / (1 + r) as t -> 0; written so that no exponential overflows.
    """
    if abs(theta) * (1 + ratio) < 1e-9:
        return 1 / (1 + ratio)
    if theta > 0:
        return math.expm1(-theta) / math.expm1(-theta * (1 + ratio))
    return math.exp(theta * ratio) * math.expm1(theta) / math.expm1(theta * (1 + ratio))


def _drift(*, p: float, ratio: float) -> float:
    """Solve reach_probability(theta, ratio) = p for theta by bisection; it increases in theta."""
    low, high = -1.0, 1.0
    while reach_probability(theta=low, ratio=ratio) > p:
        low *= 2
    while reach_probability(theta=high, ratio=ratio) < p:
        high *= 2
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if reach_probability(theta=middle, ratio=ratio) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2
