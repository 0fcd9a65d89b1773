"""Say what a decider may propose, and nothing more: the model's part of a decision."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from app.domain.making import made_quickly

MAX_CANDIDATES: Final = 3
MAX_WATCHLIST: Final = 3
MAX_THESIS_WORDS: Final = 40
P_WIN_PCT_RANGE: Final = (1, 99)
CONVICTION_RANGE: Final = (0, 100)
TIME_STOP_HOURS_RANGE: Final = (1, 2160)
"""A time stop lies between one hour and 90 days."""


class Mode(StrEnum):
    """Name what the decider wants to do."""

    TRADE = "trade"
    ADJUST = "adjust"
    EXIT = "exit"
    NEUTRAL = "neutral"
    WATCHLIST = "watchlist"


class Direction(StrEnum):
    """Name the side of an entry."""

    LONG = "long"
    SHORT = "short"


class Setup(StrEnum):
    """Name the reason for an entry."""

    BREAKOUT = "breakout"
    MEAN_REVERSION = "mean_reversion"
    MOMENTUM = "momentum"
    EARNINGS_BEAT = "earnings_beat"
    EARNINGS_MISS = "earnings_miss"
    FED_DOVISH = "fed_dovish"
    FED_HAWKISH = "fed_hawkish"
    OPTIONS_FLOW = "options_flow"
    INSIDER_BUYING = "insider_buying"
    SHORT_SQUEEZE = "short_squeeze"
    SECTOR_ROTATION = "sector_rotation"
    OTHER = "other"


class EntryType(StrEnum):
    """Name the order type of an entry."""

    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"


class ModelFailure(StrEnum):
    """Name how a model call failed; a failure is never an opinion."""

    TIMEOUT = "MODEL_TIMEOUT"
    UNAVAILABLE = "MODEL_UNAVAILABLE"
    REFUSED = "MODEL_REFUSED"
    TRUNCATED = "MODEL_TRUNCATED"
    INVALID = "MODEL_INVALID"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Hold one entry idea as the decider said it.

    Prices are dollars per share and None where the decider gave none (null or 0). `p_win_pct` is the
    probability, in whole percent, that the target trades before the stop and before the time stop.
    """

    symbol: str
    direction: Direction
    setup: Setup
    entry_type: EntryType
    entry_price: Decimal | None
    stop_loss: Decimal | None
    target_price: Decimal | None
    time_stop_hours: int
    p_win_pct: int
    conviction: int
    thesis: str

    @property
    def is_long(self) -> bool:
        """Tell whether the idea buys."""
        return self.direction is Direction.LONG


@dataclass(frozen=True, slots=True, kw_only=True)
class Manage:
    """Hold a wish to reduce or adjust one held position."""

    symbol: str
    reduce_pct: Decimal | None
    new_stop: Decimal | None
    new_target: Decimal | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchItem:
    """Hold one symbol the decider would act on later."""

    symbol: str
    trigger: str
    target_conviction: int


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Hold one whole, schema-valid reply of a decider."""

    mode: Mode
    candidates: tuple[Candidate, ...] = ()
    manage: Manage | None = None
    watchlist: tuple[WatchItem, ...] = ()
    notes: str = ""


PRICE_LIMIT: Final = Decimal(10**13)
PRICE_FAULT: Final = "a price is not a positive finite number below 1e13"


def _is_price(price: Decimal | None) -> bool:
    return price is None or (price.is_finite() and 0 < price < PRICE_LIMIT)


def manage_fault(manage: Manage) -> str | None:
    """Name the first range fault of an exit or adjust, or None."""
    if not (_is_price(manage.new_stop) and _is_price(manage.new_target)):
        return PRICE_FAULT
    percent = manage.reduce_pct
    if percent is not None and not (percent.is_finite() and 0 <= percent <= 100):
        return "reduce_pct lies outside 0-100"
    return None


def candidate_fault(candidate: Candidate) -> str | None:
    """Name the first range or cross-field fault of a candidate, or None.

    The wire model has checked ranges already; a decider that does not come over the wire has not.
    """
    if not (_is_price(candidate.entry_price) and _is_price(candidate.stop_loss) and _is_price(candidate.target_price)):
        return PRICE_FAULT
    if not P_WIN_PCT_RANGE[0] <= candidate.p_win_pct <= P_WIN_PCT_RANGE[1]:
        return "p_win_pct lies outside 1-99"
    if not CONVICTION_RANGE[0] <= candidate.conviction <= CONVICTION_RANGE[1]:
        return "conviction lies outside 0-100"
    if not TIME_STOP_HOURS_RANGE[0] <= candidate.time_stop_hours <= TIME_STOP_HOURS_RANGE[1]:
        return "time_stop_hours lies outside 1-2160"
    if candidate.entry_type is not EntryType.MARKET and candidate.entry_price is None:
        return f"a {candidate.entry_type.value} entry needs an entry_price"
    return None
