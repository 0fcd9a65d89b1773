"""Compute what a round trip costs per share: spread, commission, market impact, borrowing.

C = entry x (h x spread/2 + 2 x commission + 2 x impact + borrow_rate x hours/8760 for shorts). h is 1 for
limit and market entries, whose entry price already holds their side of the spread, and 2 for stop entries.
"""

from decimal import Decimal
from typing import Final

from app.domain.proposal import EntryType

RANGE_TO_SIGMA: Final = Decimal("1.596")
"""Mean range of a driftless diffusion in units of its daily standard deviation (Feller 1951)."""
HOURS_PER_YEAR: Final = Decimal(8760)
BPS: Final = Decimal(10_000)
SPREAD_HALVES: Final = {
    EntryType.MARKET: 1,
    EntryType.LIMIT: 1,
    EntryType.STOP: 2,
    EntryType.STOP_LIMIT: 2,
}


def daily_volatility(*, atr: Decimal, price: Decimal) -> Decimal:
    """Estimate the daily standard deviation of returns: ATR / (1.596 x price), a fraction."""
    return atr / (RANGE_TO_SIGMA * price)


def market_impact(*, quantity: int, average_daily_shares: Decimal, volatility: Decimal) -> Decimal:
    """Estimate the impact of one side as a fraction of price: sigma x sqrt(quantity / daily shares).

    Square-root law (Toth et al. 2011; Almgren et al. 2005 fit an exponent near 3/5).
    """
    return volatility * (Decimal(quantity) / average_daily_shares).sqrt()


def round_trip_cost(
    *,
    entry: Decimal,
    entry_type: EntryType,
    spread_pct: Decimal,
    commission_bps: Decimal,
    impact: Decimal,
    borrow_rate: Decimal | None,
    hours: int,
) -> Decimal:
    """Compute the cost C of a round trip in dollars per share.

    `impact` is a fraction of price per side; `borrow_rate` a fraction a year, None for longs.
    """
    fraction = (
        SPREAD_HALVES[entry_type] * spread_pct / 2
        + 2 * commission_bps / BPS
        + 2 * impact
        + (borrow_rate or Decimal(0)) * hours / HOURS_PER_YEAR
    )
    return entry * fraction
