"""State every limit once: the Policy that drives prompt, gates, sizing, backtest and docs.

Each field of `Policy` is the lower-case form of its environment name (rulebook, section 4) and carries its
default, sane bounds, unit and meaning as metadata, so that settings, documentation and `.env.example` are
read off this file and cannot disagree with it. Names ending in `_pct` are fractions (0.01 = 1 %).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

POLICY_VERSION: Final = "1"


class PolicyError(ValueError):
    """Report a policy value outside its bounds, naming the setting."""

    def __init__(self, *, setting: str, value: object, reason: str) -> None:
        super().__init__(f"{setting}={value}: {reason}")
        self.setting = setting
        self.value = value
        self.reason = reason


class Regime(StrEnum):
    """Name the market regime a caller may send with its snapshot."""

    BULL_TREND = "bull_trend"
    BEAR_TREND = "bear_trend"
    HIGH_VOLATILITY = "high_volatility"
    LOW_VOLATILITY = "low_volatility"
    RISK_ON = "risk_on"
    RISK_OFF = "risk_off"


class ScaleOut(StrEnum):
    """Say how a position is closed on the way to its target."""

    OFF = "off"
    THIRDS = "thirds"


class RegimeMultiplier(NamedTuple):
    """Multiply the risk budget by direction, dimensionless in (0, 1]."""

    long: Decimal
    short: Decimal


REGIME_MULTIPLIERS: Final[Mapping[Regime, RegimeMultiplier]] = MappingProxyType(
    {
        Regime.BULL_TREND: RegimeMultiplier(Decimal("1"), Decimal("0.85")),
        Regime.BEAR_TREND: RegimeMultiplier(Decimal("0.85"), Decimal("1")),
        Regime.HIGH_VOLATILITY: RegimeMultiplier(Decimal("0.7"), Decimal("0.7")),
        Regime.LOW_VOLATILITY: RegimeMultiplier(Decimal("1"), Decimal("1")),
        Regime.RISK_ON: RegimeMultiplier(Decimal("1"), Decimal("0.9")),
        Regime.RISK_OFF: RegimeMultiplier(Decimal("0.75"), Decimal("1")),
    }
)
NO_REGIME: Final = RegimeMultiplier(Decimal("1"), Decimal("1"))

CONVICTION_BANDS: Final = (65, 75, 85)
"""Conviction at which the second, third and fourth band begin (bands: <= 64, 65-74, 75-84, >= 85)."""


@dataclass(frozen=True, slots=True)
class AggressivenessLevel:
    """Set the conviction thresholds and band multipliers of one level."""

    action_threshold: int
    probe_minimum: int
    multipliers: tuple[Decimal, Decimal, Decimal, Decimal]
    respects_conviction_threshold: bool
    min_risk_reward: Decimal | None


def _multipliers(*values: str) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    first, second, third, fourth = (Decimal(value) for value in values)
    return first, second, third, fourth


AGGRESSIVENESS_LEVELS: Final = (
    AggressivenessLevel(60, 55, _multipliers("0.20", "0.40", "0.60", "0.80"), True, None),
    AggressivenessLevel(55, 50, _multipliers("0.30", "0.60", "0.85", "1.00"), True, None),
    AggressivenessLevel(52, 48, _multipliers("0.35", "0.70", "0.95", "1.00"), False, None),
    AggressivenessLevel(50, 45, _multipliers("0.40", "0.80", "1.00", "1.00"), False, Decimal("2.0")),
)

PROBE_CASH_PCT: Final = Decimal("0.70")
"""A probe needs cash above this fraction of equity."""
PROBE_MULTIPLIER: Final = Decimal("0.5")
"""Below the action threshold the lowest band's multiplier is halved."""
PROBE_MAX_STOP_ATR: Final = Decimal("1")
"""A probe's stop may be no wider than this many ATR."""
PARALYSIS_MIN_CONVICTION: Final = 50
PARALYSIS_MIN_CANDIDATES: Final = 2
PARALYSIS_SESSIONS: Final = 2
"""Sessions without an approved entry after which the probe minimum may be waived."""
FUTURE_TOLERANCE_S: Final = 5
"""A snapshot may be dated this many seconds after the judging clock."""


def _limit(default: object, low: object, high: object, unit: str, meaning: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "unit": unit, "meaning": meaning})


def _dec(default: str, low: str, high: str, unit: str, meaning: str) -> Any:
    return _limit(Decimal(default), Decimal(low), Decimal(high), unit, meaning)


class _Hashed:
    """Give a policy a place for its hash, which is none of its limits."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(_Hashed):
    """Hold every limit of the rulebook, validated.

    Raises:
        PolicyError: a value lies outside its bounds or two values contradict each other.
    """

    per_trade_risk_bps: Decimal = _dec("50", "0.01", "1000", "bps", "risk budget of one trade, of equity")
    max_daily_loss_pct: Decimal = _dec("0.02", "0.0001", "0.5", "fraction", "loss of a UTC day that stops entries")
    max_weekly_loss_pct: Decimal = _dec("0.05", "0.0001", "0.5", "fraction", "loss of an ISO week that stops entries")
    min_adv: Decimal = _dec("3000000", "0", "1000000000000", "usd", "least average daily dollar volume")
    max_spread_pct: Decimal = _dec("0.01", "0", "0.2", "fraction", "widest bid-ask spread, of mid")
    max_option_spread_pct: Decimal = _dec(
        "0.08", "0", "1", "fraction", "widest option spread (no option tickets are issued yet)"
    )
    max_option_spread_usd: Decimal = _dec(
        "0.25", "0", "100", "usd", "widest option spread (no option tickets are issued yet)"
    )
    max_adv_participation: Decimal = _dec(
        "0.10", "0.000001", "1", "fraction", "largest order, of average daily dollar volume"
    )
    min_price: Decimal = _dec("1", "0", "1000000", "usd", "lowest share price")
    min_market_cap: Decimal = _dec(
        "300000000", "0", "1000000000000", "usd", "smallest company, where the caller sends a size"
    )
    max_bucket_exposure_pct: Decimal = _dec(
        "0.35", "0.0001", "10", "fraction", "gross exposure of one bucket, of equity"
    )
    max_symbol_exposure_pct: Decimal = _dec(
        "0.20", "0.0001", "10", "fraction", "gross exposure of one symbol, of equity"
    )
    max_leverage: Decimal = _dec("2.0", "0.01", "10", "multiple", "gross exposure, of equity")
    max_order_notional: Decimal = _dec("50000", "1", "1000000000", "usd", "largest order")
    max_daily_notional: Decimal = _dec(
        "500000", "1", "10000000000", "usd", "notional executed and reserved in a UTC day"
    )
    min_order_notional: Decimal = _dec("100", "0", "1000000", "usd", "smallest order")
    min_ev_pct: Decimal = _dec("0", "0", "1", "fraction", "expected value of entry that must be exceeded")
    min_risk_reward: Decimal = _dec("1.8", "0", "100", "ratio", "least reward to risk, after costs")
    min_p_win: Decimal = _dec("0.45", "0", "1", "probability", "calibrated p_win that waives the risk-reward minimum")
    aggressiveness_level: int = _limit(1, 0, 3, "level", "which row of the aggressiveness table applies")
    max_aggressiveness_level: int | None = _limit(
        None, 0, 3, "level", "highest level a request may name (default: the configured level)"
    )
    conviction_threshold: int = _limit(55, 0, 100, "conviction", "least conviction at levels 0 and 1")
    kelly_fraction: Decimal = _dec("0.25", "0", "1", "fraction", "part of the Kelly bet that caps the risk budget")
    atr_mult_trend: Decimal = _dec("1.2", "0.1", "20", "atr", "volatility stop of every setup but mean reversion")
    atr_mult_reversion: Decimal = _dec("0.8", "0.1", "20", "atr", "volatility stop of mean reversion")
    max_stop_atr: Decimal = _dec("5", "0.1", "50", "atr", "widest stop")
    min_stop_atr: Decimal = _dec("0.2", "0", "10", "atr", "tightest stop")
    price_collar_atr: Decimal = _dec("1.5", "0.01", "20", "atr", "furthest entry from mid")
    max_target_atr: Decimal = _dec("10", "0.1", "100", "atr", "furthest target from entry")
    max_snapshot_age_s: int = _limit(60, 0, 86400, "s", "oldest snapshot; 0 turns the check off (replays, backtests)")
    commission_bps: Decimal = _dec("0.5", "0", "100", "bps", "commission of one side")
    live_allowed: bool = _limit(False, None, None, "switch", "whether live accounts are served at all")
    require_live_confirm: bool = _limit(True, None, None, "switch", "whether live entries need a person's confirmation")
    decision_deadline_ms: int = _limit(1500, 50, 60000, "ms", "time for one whole decision")
    reservation_ttl_s: int = _limit(300, 1, 86400, "s", "life of a reservation that nobody claims")
    ticket_ttl_s: int = _limit(60, 1, 3600, "s", "life of a ticket")
    scale_out: ScaleOut = _limit(  # noqa: RUF009
        ScaleOut.OFF, None, None, "mode", "off: whole position at the target; thirds: in three parts"
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            low, high = spec.metadata["low"], spec.metadata["high"]
            if low is None or value is None:
                continue
            setting = spec.name.upper()
            if isinstance(value, Decimal) and not value.is_finite():
                raise PolicyError(setting=setting, value=value, reason="must be a finite number")
            if not low <= value <= high:
                raise PolicyError(setting=setting, value=value, reason=f"must lie between {low} and {high}")
        if self.min_stop_atr > self.max_stop_atr:
            raise PolicyError(setting="MIN_STOP_ATR", value=self.min_stop_atr, reason="must not exceed MAX_STOP_ATR")
        if self.max_daily_loss_pct > self.max_weekly_loss_pct:
            raise PolicyError(
                setting="MAX_DAILY_LOSS_PCT",
                value=self.max_daily_loss_pct,
                reason="must not exceed MAX_WEEKLY_LOSS_PCT",
            )
        if self.min_order_notional > self.max_order_notional:
            raise PolicyError(
                setting="MIN_ORDER_NOTIONAL",
                value=self.min_order_notional,
                reason="must not exceed MAX_ORDER_NOTIONAL",
            )
        if self.highest_level < self.aggressiveness_level:
            raise PolicyError(
                setting="MAX_AGGRESSIVENESS_LEVEL",
                value=self.max_aggressiveness_level,
                reason="must not lie below AGGRESSIVENESS_LEVEL",
            )
        if self.live_allowed and self.max_snapshot_age_s == 0:
            raise PolicyError(setting="MAX_SNAPSHOT_AGE_S", value=0, reason="cannot be 0 while LIVE_ALLOWED=true")

    def __hash__(self) -> int:
        """Hash the limits once: what is written of a policy is kept by its hash, and asked for in every decision."""
        try:
            return self._hash
        except AttributeError:
            object.__setattr__(self, "_hash", hash(tuple(getattr(self, spec.name) for spec in fields(self))))
            return self._hash

    @property
    def highest_level(self) -> int:
        """Name the highest aggressiveness level a request may ask for."""
        if self.max_aggressiveness_level is None:
            return self.aggressiveness_level
        return self.max_aggressiveness_level

    @property
    def level(self) -> AggressivenessLevel:
        """Look up the row of the aggressiveness table in force."""
        return AGGRESSIVENESS_LEVELS[self.aggressiveness_level]

    @property
    def action_threshold(self) -> int:
        """Give the least conviction of a full entry, 0-100."""
        level = self.level
        if level.respects_conviction_threshold:
            return max(level.action_threshold, self.conviction_threshold)
        return level.action_threshold

    @property
    def required_risk_reward(self) -> Decimal:
        """Give the least risk-reward when nothing waives it: the limit and, at level 3, its own minimum."""
        return max(self.min_risk_reward, self.level.min_risk_reward or Decimal(0))

    def at_level(self, level: int) -> "Policy":
        """Return this policy at another aggressiveness level, keeping the highest level allowed.

        Raises:
            PolicyError: the level lies above the highest level a request may name, or below 0.
        """
        if level == self.aggressiveness_level:
            return self
        if not 0 <= level <= self.highest_level:
            raise PolicyError(
                setting="aggressiveness_level",
                value=level,
                reason=f"must lie between 0 and {self.highest_level}",
            )
        return _at_level(self, level)

    def size_multiplier(self, *, conviction: int) -> Decimal:
        """Give the fraction of the risk budget that a conviction (0-100) earns."""
        lowest, second, third, highest = self.level.multipliers
        if conviction < self.action_threshold:
            return lowest * PROBE_MULTIPLIER
        if conviction < CONVICTION_BANDS[0]:
            return lowest
        if conviction < CONVICTION_BANDS[1]:
            return second
        if conviction < CONVICTION_BANDS[2]:
            return third
        return highest

    def canonical_json(self) -> str:
        """Write the policy and its tables as JSON with sorted keys and no spaces; the text that is hashed."""
        return _written(self)[0]

    def hash(self) -> str:
        """Give the SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return _written(self)[1]

    def _write(self) -> str:
        body = {
            "version": POLICY_VERSION,
            "limits": {spec.name: _plain(getattr(self, spec.name)) for spec in fields(self)},
            "levels": [
                {
                    "action_threshold": level.action_threshold,
                    "probe_minimum": level.probe_minimum,
                    "multipliers": [_plain(value) for value in level.multipliers],
                    "respects_conviction_threshold": level.respects_conviction_threshold,
                    "min_risk_reward": _plain(level.min_risk_reward),
                }
                for level in AGGRESSIVENESS_LEVELS
            ],
            "constants": {
                "conviction_bands": list(CONVICTION_BANDS),
                "probe": [_plain(value) for value in (PROBE_CASH_PCT, PROBE_MULTIPLIER, PROBE_MAX_STOP_ATR)],
                "paralysis": [PARALYSIS_MIN_CONVICTION, PARALYSIS_MIN_CANDIDATES, PARALYSIS_SESSIONS],
                "future_tolerance_s": FUTURE_TOLERANCE_S,
            },
            "regimes": {
                regime.value: [_plain(value) for value in multiplier]
                for regime, multiplier in REGIME_MULTIPLIERS.items()
            },
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=64)
def _at_level(policy: Policy, level: int) -> Policy:
    """Make a policy of another level once: making one checks every limit."""
    return replace(policy, aggressiveness_level=level, max_aggressiveness_level=policy.highest_level)


@lru_cache(maxsize=64)
def _written(policy: Policy) -> tuple[str, str]:
    """Write a policy once: its canonical JSON and the hash of that."""
    text = policy._write()  # noqa: SLF001
    return text, hashlib.sha256(text.encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(value, StrEnum):
        return value.value
    return value


def regime_multiplier(*, regime: Regime | None, long: bool) -> Decimal:
    """Give the risk multiplier of a regime for one direction; 1 when no regime was sent."""
    multiplier = NO_REGIME if regime is None else REGIME_MULTIPLIERS[regime]
    return multiplier.long if long else multiplier.short
