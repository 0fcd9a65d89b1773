"""Tests of what a round trip costs: C = entry x (h x spread/2 + 2 x commission + 2 x impact + borrowing)."""

from decimal import Decimal
from typing import Any

import pytest

from app.domain.costs import daily_volatility, market_impact, round_trip_cost
from app.domain.proposal import EntryType
from app.domain.verdict import Judgement
from tests.builders import COSTLESS, SHORT, judged

NOTHING: dict[str, Any] = {
    "entry": Decimal(100),
    "entry_type": EntryType.LIMIT,
    "spread_pct": Decimal(0),
    "commission_bps": Decimal(0),
    "impact": Decimal(0),
    "borrow_rate": None,
    "hours": 48,
}


def cost(**changes: Any) -> Decimal:
    return round_trip_cost(**{**NOTHING, **changes})


def cost_of(judgement: Judgement) -> Decimal:
    if judgement.edge is None:
        raise AssertionError("the case was not priced")
    return judgement.edge.cost_usd


def test_a_trade_without_spread_commission_impact_and_borrowing_costs_nothing() -> None:
    assert cost() == 0


@pytest.mark.parametrize(
    ("entry_type", "expected"),
    [
        # The entry price of these holds one half of the spread already: 100 x 0.002 / 2
        (EntryType.MARKET, "0.1"),
        (EntryType.LIMIT, "0.1"),
        # These pay it on the way in and on the way out: 100 x 2 x 0.002 / 2
        (EntryType.STOP, "0.2"),
        (EntryType.STOP_LIMIT, "0.2"),
    ],
)
def test_stop_entries_pay_the_spread_twice(entry_type: EntryType, expected: str) -> None:
    assert cost(spread_pct=Decimal("0.002"), entry_type=entry_type) == Decimal(expected)


def test_commission_is_paid_on_both_sides() -> None:
    # 100 x 2 x 0.5 / 10,000
    assert cost(commission_bps=Decimal("0.5")) == Decimal("0.01")


def test_impact_is_paid_on_both_sides() -> None:
    # 100 x 2 x 0.0003
    assert cost(impact=Decimal("0.0003")) == Decimal("0.06")


def test_a_borrow_rate_accrues_by_the_hour_of_a_year_of_8760() -> None:
    # 100 x 0.0876 x 48 / 8760
    assert cost(borrow_rate=Decimal("0.0876")) == Decimal("0.048")
    assert cost(borrow_rate=Decimal("0.0876"), hours=8760) == Decimal("8.76")


def test_the_parts_add_up_and_grow_with_the_entry() -> None:
    # 250 x (2 x 0.001 / 2 + 2 x 0.0002 + 2 x 0.0005 + 0.365 x 24 / 8760) = 250 x 0.0034
    total = cost(
        entry=Decimal(250),
        entry_type=EntryType.STOP,
        spread_pct=Decimal("0.001"),
        commission_bps=Decimal(2),
        impact=Decimal("0.0005"),
        borrow_rate=Decimal("0.365"),
        hours=24,
    )

    assert total == Decimal("0.85")


def test_daily_volatility_is_the_range_over_that_of_a_diffusion() -> None:
    # 3.192 / (1.596 x 100)
    assert daily_volatility(atr=Decimal("3.192"), price=Decimal(100)) == Decimal("0.02")


@pytest.mark.parametrize(
    ("quantity", "impact"),
    [
        (0, "0"),
        # 0.02 x sqrt(100 / 1,000,000) = 0.02 x 0.01
        (100, "0.0002"),
        # Four times the shares, twice the impact.
        (400, "0.0004"),
        (1_000_000, "0.02"),
    ],
)
def test_impact_grows_with_the_square_root_of_the_share_of_volume(quantity: int, impact: str) -> None:
    found = market_impact(quantity=quantity, average_daily_shares=Decimal(1_000_000), volatility=Decimal("0.02"))

    assert found == Decimal(impact)


# --- which of it an entry pays -------------------------------------------------------------------------

# A costless case whose budget buys 100 shares: sigma = 3.192 / (1.596 x 100) = 0.02; a million shares a day;
# impact = 0.02 x sqrt(100 / 1,000,000) = 0.0002 a side; C = 100 x 2 x 0.0002 = 0.04.
IMPACT_ONLY: dict[str, Any] = {"symbol": {"atr": "3.192", "avg_volume": 1_000_000}, "policy": COSTLESS}


def test_the_reported_cost_holds_the_impact_of_the_final_quantity() -> None:
    assert cost_of(judged(**IMPACT_ONLY)) == Decimal("0.04")


def test_fewer_shares_have_less_impact() -> None:
    # An order of 25 shares: half the impact of 100.
    assert cost_of(judged(**IMPACT_ONLY, account={"buying_power": 2_500})) == Decimal("0.02")


def test_daily_shares_are_dollar_volume_over_price_where_no_volume_was_sent() -> None:
    # 100,000,000 dollars a day at 100 are a million shares.
    symbol = {"atr": "3.192", "avg_volume": None, "adv": 100_000_000}

    assert cost_of(judged(symbol=symbol, policy=COSTLESS)) == Decimal("0.04")


def test_a_sent_volume_of_0_is_missing() -> None:
    symbol = {"atr": "3.192", "avg_volume": 0, "adv": 100_000_000}

    assert cost_of(judged(symbol=symbol, policy=COSTLESS)) == Decimal("0.04")


def test_a_sent_volume_goes_before_dollar_volume() -> None:
    # 4,000,000 shares a day: half the impact.
    symbol = {"atr": "3.192", "avg_volume": 4_000_000, "adv": 100_000_000}

    assert cost_of(judged(symbol=symbol, policy=COSTLESS)) == Decimal("0.02")


def test_volatility_is_measured_against_the_price_and_not_the_entry() -> None:
    # Entry 97, stop 92: 100 shares still; sigma stays 0.02 and C = 97 x 2 x 0.0002.
    candidate = {"entry_price": "97", "stop_loss": "92"}

    assert cost_of(judged(**IMPACT_ONLY, candidate=candidate)) == Decimal("0.0388")


NO_SHARES: dict[str, Any] = {"buying_power": 0}
"""Nothing is bought, so there is no impact and the rest of the cost is round."""


@pytest.mark.parametrize(
    ("says", "changes", "expected"),
    [
        # 100 x 2 x 0.5 / 10,000
        ("commission by default", {}, "0.01"),
        ("no commission", {"policy": COSTLESS}, "0"),
        ("twice the commission", {"policy": {"commission_bps": 1}}, "0.02"),
        # 100 x (0.002 / 2 + 0.0001)
        ("quotes", {"symbol": {"bid": "99.90", "ask": "100.10"}}, "0.11"),
        ("quotes, not a claim", {"symbol": {"bid": "99.90", "ask": "100.10", "spread_pct": "0"}}, "0.11"),
        ("a claim", {"symbol": {"bid": None, "ask": None, "spread_pct": "0.002"}}, "0.11"),
        # 100 x (0.002 + 0.0001)
        (
            "a stop order",
            {"symbol": {"bid": "99.90", "ask": "100.10"}, "candidate": {"entry_type": EntryType.STOP}},
            "0.21",
        ),
        # 100.10 x (0.002 / 2 + 0.0001), bought at the ask
        (
            "a market order",
            {"symbol": {"bid": "99.90", "ask": "100.10"}, "candidate": {"entry_type": EntryType.MARKET}},
            "0.110110",
        ),
        # 99.90 x (0.002 / 2 + 0.0001), sold at the bid
        (
            "a short market order",
            {"symbol": {"bid": "99.90", "ask": "100.10"}, "candidate": {**SHORT, "entry_type": EntryType.MARKET}},
            "0.109890",
        ),
        # 100 x (0.0001 + 0.0876 x 48 / 8760)
        ("a borrowed share", {"symbol": {"borrow_rate": "0.0876"}, "candidate": SHORT}, "0.058"),
        (
            "a share borrowed for a day",
            {"symbol": {"borrow_rate": "0.0876"}, "candidate": {**SHORT, "time_stop_hours": 24}},
            "0.034",
        ),
        ("a share of which no rate is known", {"candidate": SHORT}, "0.01"),
        ("a long entry borrows nothing", {"symbol": {"borrow_rate": "0.0876"}}, "0.01"),
    ],
)
def test_an_entry_pays_for_what_it_uses(says: str, changes: dict[str, Any], expected: str) -> None:
    assert cost_of(judged(**changes, account=NO_SHARES)) == Decimal(expected)


def test_a_market_order_without_quotes_is_judged_at_the_price() -> None:
    judgement = judged(
        symbol={"bid": None, "ask": None, "spread_pct": "0.002"},
        candidate={"entry_type": EntryType.MARKET, "entry_price": "103"},
    )

    assert judgement.ticket is not None
    assert judgement.ticket.entry_price == 100


def test_the_cost_in_basis_points_is_that_of_the_entry() -> None:
    # 0.04 / 100 x 10,000
    edge = judged(**IMPACT_ONLY).edge

    assert edge is not None
    assert edge.cost_bps_round_trip == 4
