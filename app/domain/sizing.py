"""Size an entry: the smallest of all caps, in whole shares, and what each cap would allow.

D = max(|entry - stop| + C without impact, ATR multiple x ATR), dollars per share: the wider of the technical
stop with its costs and the volatility stop, so that neither a tight stop nor a wide spread inflates the size.
risk_bps = min(PER_TRADE_RISK_BPS x band multiplier x regime, 10000 x KELLY_FRACTION x Kelly); for a derated decider
the band multiplier is at most the lowest of the level.
Notional caps divide by N = max(entry, mid). Room that cannot be known is no room.
"""

from dataclasses import dataclass
from decimal import Decimal
from operator import attrgetter
from typing import Final, NamedTuple

from app.domain.account import ZERO, Account, whole_shares
from app.domain.costs import BPS
from app.domain.exposure import Exposure
from app.domain.making import made_quickly
from app.domain.market import SymbolView
from app.domain.policy import Policy, Regime, regime_multiplier
from app.domain.proposal import Candidate, Setup

RISK_BUDGET: Final = "risk_budget"
BUCKET_PREFIX: Final = "bucket:"


class Cap(NamedTuple):
    """Hold one cap and the largest whole number of shares it allows; a named tuple, for a candidate takes ten."""

    cap: str
    max_quantity: int

    @property
    def code(self) -> str:
        """Give the stable code of an entry that this cap leaves too small."""
        return "SIZE_" + self.cap.partition(":")[0].upper()


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """Hold the size of an entry: whole shares, D (dollars per share), and every cap in order."""

    quantity: int
    risk_per_share: Decimal
    atr_multiple: Decimal
    risk_bps: Decimal
    caps: tuple[Cap, ...]
    binding: Cap

    @property
    def binding_cap(self) -> str:
        """Name the smallest cap; of equal ones, the first."""
        return self.binding.cap

    @property
    def resized(self) -> bool:
        """Tell whether a cap other than the risk budget binds below it."""
        return self.quantity < self.caps[0].max_quantity


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class EntryBounds:
    """State, before asking, what an entry may be at most; None is unknown.

    `blocked_by` holds the codes of the gates that will block any entry, whatever is proposed.
    """

    entries_allowed: bool
    blocked_by: tuple[str, ...]
    max_notional_usd: Decimal
    daily_loss_room_usd: Decimal | None
    weekly_loss_room_usd: Decimal | None
    risk_budget_usd: Decimal
    full_buckets: tuple[str, ...]


def atr_multiple(*, setup: Setup, policy: Policy) -> Decimal:
    """Choose the volatility stop's multiple by setup."""
    return policy.atr_mult_reversion if setup is Setup.MEAN_REVERSION else policy.atr_mult_trend


def risk_budget_bps(
    *, candidate: Candidate, policy: Policy, regime: Regime | None, kelly_fraction: Decimal, derated: bool
) -> Decimal:
    """Give the risk budget of one entry in basis points of equity; the Kelly cap uses costs without impact."""
    multiplier = policy.size_multiplier(conviction=candidate.conviction)
    if derated:
        multiplier = min(multiplier, policy.level.multipliers[0])
    budget = policy.per_trade_risk_bps * multiplier * regime_multiplier(regime=regime, long=candidate.is_long)
    return min(budget, BPS * policy.kelly_fraction * max(ZERO, kelly_fraction))


def notional_rooms(*, account: Account, exposure: Exposure, policy: Policy) -> dict[str, Decimal]:
    """Give the account-wide notional room of each cap that depends on no symbol, dollars."""
    funds = account.buying_power if account.buying_power is not None else account.cash
    leverage = ZERO if exposure.unmarked else policy.max_leverage * account.equity - exposure.gross_usd
    return {
        "leverage": leverage,
        "buying_power": funds - exposure.reserved_notional_usd,
        "order_notional": policy.max_order_notional,
        "daily_notional": policy.max_daily_notional - exposure.executed_notional_usd - exposure.reserved_notional_usd,
    }


def size_entry(
    *,
    candidate: Candidate,
    entry: Decimal,
    stop: Decimal,
    cost_without_impact: Decimal,
    kelly_fraction: Decimal,
    view: SymbolView,
    atr: Decimal,
    adv: Decimal,
    account: Account,
    exposure: Exposure,
    policy: Policy,
    regime: Regime | None,
    derated: bool,
) -> Sizing:
    """Size an entry whose inputs are all known; caps come in the rulebook's order."""
    multiple = atr_multiple(setup=candidate.setup, policy=policy)
    per_share = max(abs(entry - stop) + cost_without_impact, multiple * atr)
    risk_bps = risk_budget_bps(
        candidate=candidate, policy=policy, regime=regime, kelly_fraction=kelly_fraction, derated=derated
    )
    unit = max(entry, view.mid)
    known = not exposure.unmarked
    wide = notional_rooms(account=account, exposure=exposure, policy=policy)

    def exposure_room(limit: Decimal, used: Decimal) -> Decimal:
        return limit * account.equity - used if known else ZERO

    rooms: list[tuple[str, Decimal, Decimal]] = [
        (RISK_BUDGET, account.equity * risk_bps / BPS, per_share),
        ("daily_loss_room", exposure.daily_loss_room_usd(policy) or ZERO, per_share),
        ("weekly_loss_room", exposure.weekly_loss_room_usd(policy) or ZERO, per_share),
        (
            "symbol_exposure",
            exposure_room(policy.max_symbol_exposure_pct, exposure.by_symbol.get(view.symbol, ZERO)),
            unit,
        ),
        ("leverage", wide["leverage"], unit),
        *[
            (
                BUCKET_PREFIX + bucket,
                exposure_room(policy.max_bucket_exposure_pct, exposure.by_bucket.get(bucket, ZERO)),
                unit,
            )
            for bucket in view.buckets
        ],
        ("buying_power", wide["buying_power"], unit),
        ("order_notional", wide["order_notional"], unit),
        ("daily_notional", wide["daily_notional"], unit),
        ("adv_participation", policy.max_adv_participation * adv, unit),
    ]
    caps = tuple([Cap(name, whole_shares(room, divisor)) for name, room, divisor in rooms])
    binding = min(caps, key=attrgetter("max_quantity"))
    return Sizing(
        quantity=binding.max_quantity,
        risk_per_share=per_share,
        atr_multiple=multiple,
        risk_bps=risk_bps,
        caps=caps,
        binding=binding,
    )
