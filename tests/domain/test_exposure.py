"""Tests of what an account already holds and risks: positions at mark, and every live reservation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.account import PeriodLoss
from app.domain.exposure import Exposure, Holding, LimitUse, Rebalancing, mark_of, measure_exposure, rebalance
from app.domain.market import SymbolSnapshot
from app.domain.proposal import Direction
from tests.builders import (
    a_market,
    a_policy,
    a_position,
    a_reservation,
    a_state,
    a_symbol,
    an_account,
    judged,
)


def measured(*symbols: SymbolSnapshot, account: dict[str, Any] | None = None, **state: Any) -> Exposure:
    return measure_exposure(account=an_account(**(account or {})), market=a_market(*symbols), state=a_state(**state))


def holding(*positions: Any) -> dict[str, Any]:
    return {"positions": positions}


def test_an_empty_account_is_exposed_to_nothing() -> None:
    exposure = measured()

    assert exposure.gross_usd == 0
    assert exposure.by_symbol == {}
    assert exposure.by_bucket == {}
    assert exposure.open_risk_usd == 0
    assert exposure.reserved_risk_usd == 0
    assert exposure.reserved_notional_usd == 0
    assert exposure.open_positions == 0


# --- positions at mark ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mark_price", "price", "expected"),
    [
        ("50.00", "60.00", "60.00"),
        ("50.00", "40.00", "50.00"),
        ("50.00", None, "50.00"),
        (None, "40.00", "40.00"),
    ],
)
def test_a_position_is_valued_at_the_larger_of_its_mark_and_the_price(
    mark_price: str | None, price: str | None, expected: str
) -> None:
    position = a_position(mark_price=mark_price)
    market = a_market() if price is None else a_market(a_symbol(symbol="BOLT", price=price))

    assert mark_of(position, market=market) == Decimal(expected)
    assert measure_exposure(
        account=an_account(positions=(position,)), market=market, state=a_state()
    ).gross_usd == 100 * Decimal(expected)


def test_a_position_with_neither_is_named_and_left_out() -> None:
    exposure = measured(account=holding(a_position(mark_price=None), a_position(symbol="COGS")))

    assert exposure.unmarked == ("BOLT",)
    assert exposure.by_symbol == {"COGS": 5_000}
    assert exposure.open_positions == 2


def test_a_position_without_a_stop_is_named_and_still_counts_as_exposure() -> None:
    exposure = measured(account=holding(a_position(stop_loss=None)))

    assert exposure.unstopped == ("BOLT",)
    assert exposure.gross_usd == 5_000
    assert exposure.open_risk_usd == 0


def test_a_position_with_neither_mark_nor_stop_is_named_for_both() -> None:
    exposure = measured(account=holding(a_position(mark_price=None, stop_loss=None)))

    assert (exposure.unmarked, exposure.unstopped) == (("BOLT",), ("BOLT",))


def test_a_position_of_no_shares_counts_for_nothing() -> None:
    exposure = measured(account=holding(a_position(quantity=0, mark_price=None, stop_loss=None)))

    assert exposure == measured()


def test_a_short_position_adds_to_gross_exposure() -> None:
    exposure = measured(account=holding(a_position(), a_position(symbol="COGS", quantity=-20, stop_loss="55")))

    assert exposure.gross_usd == 6_000  # 100 x 50 + 20 x 50
    assert exposure.by_symbol == {"BOLT": 5_000, "COGS": 1_000}


@pytest.mark.parametrize(
    ("says", "quantity", "stop", "risk"),
    [
        ("a long below its mark", 100, "45.00", "500"),  # (50 - 45) x 100
        ("a long with its stop at the mark", 100, "50.00", "0"),
        ("a long that has locked in a gain", 100, "55.00", "0"),
        ("a short above its mark", -100, "53.00", "300"),  # (53 - 50) x 100
        ("a short with its stop at the mark", -100, "50.00", "0"),
        ("a short that has locked in a gain", -100, "45.00", "0"),
    ],
)
def test_open_risk_is_the_distance_from_mark_to_stop(says: str, quantity: int, stop: str, risk: str) -> None:
    exposure = measured(account=holding(a_position(quantity=quantity, stop_loss=stop)))

    assert exposure.open_risk_usd == Decimal(risk)


def test_open_risk_of_one_position_is_not_offset_by_another() -> None:
    exposure = measured(
        account=holding(a_position(), a_position(symbol="COGS", stop_loss="80"), a_position(symbol="GEAR", quantity=2))
    )

    assert exposure.open_risk_usd == 510  # 500 + 0 + 10


# --- reservations --------------------------------------------------------------------------------------


def test_a_live_reservation_counts_like_a_position() -> None:
    exposure = measured(account=holding(a_position()), reservations=(a_reservation(),))

    assert exposure.gross_usd == 7_000
    assert exposure.by_symbol == {"BOLT": 7_000}
    assert exposure.by_bucket == {"industrials": 7_000}
    assert exposure.reserved_notional_usd == 2_000
    assert exposure.reserved_risk_usd == 100
    assert exposure.open_risk_usd == 500
    assert exposure.open_positions == 1


def test_reservations_add_up() -> None:
    exposure = measured(reservations=(a_reservation(), a_reservation(symbol="COGS", notional_usd=500, risk_usd=7)))

    assert exposure.reserved_notional_usd == 2_500
    assert exposure.reserved_risk_usd == 107
    assert exposure.by_symbol == {"BOLT": 2_000, "COGS": 500}


def test_a_ticket_that_only_reduces_reserves_neither_notional_nor_risk() -> None:
    assert measured(reservations=(a_reservation(reduce_only=True),)) == measured()


def test_an_entry_counts_whether_it_stands_before_or_behind_an_exit() -> None:
    entry, exiting = a_reservation(symbol="COGS"), a_reservation(reduce_only=True)

    assert measured(reservations=(exiting, entry)) == measured(reservations=(entry,))
    assert measured(reservations=(entry, exiting)) == measured(reservations=(entry,))


# --- buckets -------------------------------------------------------------------------------------------


def test_a_position_counts_in_every_bucket_of_its_symbol() -> None:
    exposure = measured(account=holding(a_position(), a_position(symbol="COGS", quantity=20)))

    assert exposure.by_bucket == {"industrials": 6_000, "robots": 1_000}


def test_positions_without_a_bucket_share_one() -> None:
    exposure = measured(account=holding(a_position(symbol="GEAR"), a_position(symbol="NUTS", quantity=20)))

    assert exposure.by_bucket == {"unclassified": 6_000}


def test_a_request_adds_buckets_to_what_is_held() -> None:
    exposure = measured(
        a_symbol(symbol="BOLT", price="50", buckets=("Robots",)), account=holding(a_position(mark_price=None))
    )

    assert exposure.by_bucket == {"industrials": 5_000, "robots": 5_000}


def test_a_position_keeps_the_buckets_it_was_approved_with() -> None:
    exposure = measured(
        a_symbol(symbol="BOLT", price="50", buckets=("robots",)),
        account=holding(a_position()),
        position_buckets={"BOLT": ("space",)},
    )

    assert exposure.by_bucket == {"space": 5_000}


def test_approved_buckets_of_one_symbol_say_nothing_of_another() -> None:
    exposure = measured(account=holding(a_position()), position_buckets={"COGS": ("space",), "BOLT": ()})

    assert exposure.by_bucket == {"industrials": 5_000}


def test_a_reservation_keeps_the_buckets_it_was_approved_with() -> None:
    exposure = measured(reservations=(a_reservation(buckets=("space", "robots")),))

    assert exposure.by_bucket == {"space": 2_000, "robots": 2_000}


# --- losses and their room -----------------------------------------------------------------------------


def test_loss_room_is_the_limit_less_what_is_lost_at_risk_and_reserved() -> None:
    # 2 % x 101,000 - 1,000 - 500 - 100 = 420;  5 % x 102,000 - 2,000 - 500 - 100 = 2,500
    exposure = measured(
        account={"daily_pnl": -1_000, "weekly_pnl": -2_000, "positions": (a_position(),)},
        reservations=(a_reservation(),),
    )

    assert exposure.daily_loss_room_usd(a_policy()) == 420
    assert exposure.weekly_loss_room_usd(a_policy()) == 2_500


def test_loss_room_can_be_overdrawn() -> None:
    exposure = measured(account={"daily_pnl": -1_000, "positions": (a_position(quantity=500),)})

    assert exposure.daily_loss_room_usd(a_policy()) == -1_480  # 2,020 - 1,000 - 2,500


@pytest.mark.parametrize(
    "account",
    [
        {"daily_pnl": None, "weekly_pnl": None},
        {"positions": (a_position(mark_price=None),)},
        {"positions": (a_position(stop_loss=None),)},
    ],
)
def test_loss_room_is_unknown_with_an_unknown_loss_mark_or_stop(account: dict[str, Any]) -> None:
    exposure = measured(account=account)

    assert exposure.daily_loss_room_usd(a_policy()) is None
    assert exposure.weekly_loss_room_usd(a_policy()) is None


def test_the_day_and_the_week_each_have_their_own_marks() -> None:
    exposure = measured(
        account={"daily_pnl": None, "weekly_pnl": None},
        day_baseline_usd=Decimal(100_500),
        week_baseline_usd=Decimal(103_000),
        day_deepest_loss_usd=Decimal(700),
        week_deepest_loss_usd=Decimal(3_500),
    )

    assert exposure.day_loss == PeriodLoss(baseline_usd=Decimal(100_500), loss_usd=Decimal(700))
    assert exposure.week_loss == PeriodLoss(baseline_usd=Decimal(103_000), loss_usd=Decimal(3_500))


@pytest.mark.parametrize(
    ("sent", "stored", "expected"), [(None, 0, 0), (7_000, 0, 7_000), (7_000, 9_000, 9_000), (None, 9_000, 9_000)]
)
def test_executed_notional_is_the_worse_of_sent_and_stored(sent: int | None, stored: int, expected: int) -> None:
    exposure = measured(account={"daily_executed_notional": sent}, executed_notional_usd=Decimal(stored))

    assert exposure.executed_notional_usd == expected


# --- what is said of it --------------------------------------------------------------------------------


def test_the_risk_state_says_what_the_account_holds_before_the_decision() -> None:
    risk = judged(
        account={
            "cash": 62_000,
            "daily_pnl": -350,
            "weekly_pnl": -900,
            "positions": (a_position(quantity=760, stop_loss="50"),),
        },
    ).risk_state

    assert risk.day_dd_bps == pytest.approx(350 / 100_350 * 10_000)
    assert risk.week_dd_bps == pytest.approx(900 / 100_900 * 10_000)
    assert risk.cash_pct == 0.62
    assert risk.gross_leverage == 0.38
    assert risk.open_positions == 1
    (bucket,) = risk.buckets
    assert (bucket.bucket, bucket.exposure_pct, bucket.limit_pct) == ("industrials", 0.38, 0.35)
    assert bucket.reduce_by_usd == 3_000  # 38,000 - 35 % of 100,000


def test_a_bucket_within_its_limit_needs_no_reduction_and_buckets_are_in_order() -> None:
    order = ["industrials", "robots", "unclassified"]

    risk = judged(account={"positions": (a_position(symbol="COGS"), a_position(symbol="GEAR"))}).risk_state

    assert {item.bucket: item.reduce_by_usd for item in risk.buckets} == dict.fromkeys(order, Decimal(0))
    assert [item.bucket for item in risk.buckets] == order


def test_what_cannot_be_known_is_none_in_the_risk_state() -> None:
    risk = judged(
        account={"daily_pnl": None, "weekly_pnl": None, "positions": (a_position(mark_price=None),)}
    ).risk_state

    assert risk.day_dd_bps is None
    assert risk.week_dd_bps is None
    assert risk.gross_leverage is None


@pytest.mark.parametrize(
    ("quantity", "stop", "mark_price", "expected"),
    [
        # Short 100 with a stop at 55, the snapshot at 50: from the smaller price the way to the stop is longest.
        (-100, "55", "50", 500),  # 55 - 50
        (-100, "55", "40", 1_500),  # 55 - 40, whatever the snapshot says
        (-100, "55", "54", 500),  # 55 - 50: a dear mark makes the short look no safer
        # Long 100 with a stop at 45: from the larger.
        (100, "45", "50", 500),  # 50 - 45
        (100, "45", "54", 900),  # 54 - 45
        (100, "45", "40", 500),  # 50 - 45
    ],
)
def test_open_risk_is_measured_from_the_mark_that_is_further_from_the_stop(
    quantity: int, stop: str, mark_price: str, expected: int
) -> None:
    position = a_position(quantity=quantity, stop_loss=stop, mark_price=mark_price)

    exposure = measured(a_symbol(symbol="BOLT", price="50"), account=holding(position))

    assert exposure.open_risk_usd == expected


# --- a portfolio beside its limits ----------------------------------------------------------------------


def a_holding(symbol: str = "ACME", quantity: int | str = 100, mark: str = "50.00", *buckets: str) -> Holding:
    return Holding(symbol=symbol, quantity=Decimal(quantity), mark=Decimal(mark), buckets=buckets or ("technology",))


def rebalanced(*holdings: Holding, equity: int | str = 100_000, **limits: Any) -> Rebalancing:
    return rebalance(holdings=holdings, equity=Decimal(equity), policy=a_policy(**limits))


def suggested(found: Rebalancing) -> dict[str, float]:
    return {reduction.symbol: float(reduction.quantity) for reduction in found.reductions}


def shown(use: LimitUse) -> tuple[str, str, float, float]:
    """Name, status, what to reduce by, and what is left, dollars."""
    return use.name, use.status.value, float(use.reduce_by_usd), float(use.after_usd)


def test_an_empty_portfolio_is_within_every_limit() -> None:
    found = rebalanced()

    assert shown(found.gross) == ("leverage", "within", 0, 0)
    assert found.gross.limit_usd == 200_000
    assert (found.by_symbol, found.by_bucket, found.reductions) == ((), (), ())


@pytest.mark.parametrize(
    ("quantity", "status", "reduce_by", "closed", "after"),
    [
        (399, "within", 0, {}, 19_950),
        (400, "within", 0, {}, 20_000),  # 400 x 50 = 20 % of 100,000: exactly at the limit
        (401, "over", 50, {"ACME": 1}, 20_000),
        ("400.5", "over", 25, {"ACME": 1}, 19_975),
        (-401, "over", 50, {"ACME": 1}, 20_000),
    ],
)
def test_a_symbol_comes_down_to_its_own_limit(
    quantity: int | str, status: str, reduce_by: int, closed: dict[str, int], after: int
) -> None:
    found = rebalanced(a_holding(quantity=quantity))

    assert [shown(use) for use in found.by_symbol] == [("ACME", status, reduce_by, after)]
    assert suggested(found) == closed
    assert found.gross.after_usd == after


def test_a_short_position_is_bought_back() -> None:
    [reduction] = rebalanced(a_holding(quantity=-500)).reductions

    assert reduction.direction is Direction.SHORT
    assert (float(reduction.quantity), float(reduction.value_usd), float(reduction.left)) == (100, 5_000, -400)
    assert reduction.limits == ("symbol_exposure",)


def test_whole_shares_are_closed_though_less_would_do() -> None:
    # 20,001 over 20,000: one share of 3.00 is closed for the one dollar.
    found = rebalanced(a_holding(quantity=6_667, mark="3.00"))

    assert suggested(found) == {"ACME": 1}
    assert found.by_symbol[0].after_usd == 19_998


def test_what_whole_shares_cannot_reach_is_closed_with_its_fraction() -> None:
    # Half a share of 700,000 is 350,000: no whole share can be sold.
    assert suggested(rebalanced(a_holding(quantity="0.5", mark="700000"))) == {"ACME": 0.5}
    # One and a half: selling one leaves 350,000.
    assert suggested(rebalanced(a_holding(quantity="1.5", mark="700000"))) == {"ACME": 1.5}


def test_the_position_in_the_most_exceeded_limits_gives_first() -> None:
    found = rebalanced(
        a_holding("BOTH", 380, "50.00", "technology", "ai"),
        a_holding("ONLY", 380, "50.00", "technology"),
        a_holding("ELSE", 340, "50.00", "ai"),
    )

    # ai 36,000 and technology 38,000 of 35,000 each; neither keeps more than that.
    assert [shown(use) for use in found.by_bucket] == [
        ("ai", "over", 1_000, 35_000),
        ("technology", "over", 3_000, 35_000),
    ]
    # 20 shares of BOTH (1,000) mend ai; then ONLY has most left of what counts in technology.
    assert suggested(found) == {"BOTH": 20, "ONLY": 40}


def test_of_equal_positions_the_larger_gives_and_then_the_first_by_symbol() -> None:
    large = rebalanced(a_holding("AAA", 350), a_holding("BBB", 370))
    equal = rebalanced(a_holding("BBB", 360), a_holding("AAA", 360))

    assert suggested(large) == {"BBB": 20}  # 36,000 of 35,000
    assert suggested(equal) == {"AAA": 20}


def test_leverage_is_brought_down_where_no_bucket_asks_for_it() -> None:
    # Eight buckets of 19,000 are 152,000 of 100,000 x 1.5.
    holdings = [a_holding(f"S{number}", 380, "50.00", f"b{number}") for number in range(8)]

    found = rebalanced(*holdings, max_leverage="1.5")

    assert shown(found.gross) == ("leverage", "over", 2_000, 150_000)
    assert suggested(found) == {"S0": 40}
    assert found.reductions[0].limits == ("leverage",)


def test_limits_are_those_of_the_policy() -> None:
    holding = a_holding(quantity=300)  # 15,000

    assert suggested(rebalanced(holding, max_symbol_exposure_pct="0.10")) == {"ACME": 100}
    assert suggested(rebalanced(holding, max_bucket_exposure_pct="0.05")) == {"ACME": 200}
    assert suggested(rebalanced(holding, max_leverage="0.01")) == {"ACME": 280}
    assert suggested(rebalanced(holding, equity="50000")) == {"ACME": 100}


SYMBOLS = ["AA", "BB", "CC", "DD", "EE", "FF"]
SHARES = st.one_of(st.integers(-5_000, 5_000), st.decimals(-50, 50, places=3)).filter(bool).map(Decimal)
HOLDINGS = st.dictionaries(
    st.sampled_from(SYMBOLS),
    st.tuples(
        SHARES,
        st.decimals("0.01", 2_000, places=2),
        st.sets(st.sampled_from(["one", "two", "three"]), min_size=1).map(lambda names: tuple(sorted(names))),
    ),
).map(
    lambda book: [
        Holding(symbol=symbol, quantity=quantity, mark=mark, buckets=buckets)
        for symbol, (quantity, mark, buckets) in book.items()
    ]
)
LIMITS = st.fixed_dictionaries(
    {
        "max_symbol_exposure_pct": st.sampled_from(["0.0001", "0.05", "0.2", "1", "10"]),
        "max_bucket_exposure_pct": st.sampled_from(["0.0001", "0.1", "0.35", "2", "10"]),
        "max_leverage": st.sampled_from(["0.01", "0.5", "2", "10"]),
    }
)


def exceeded_limits(holdings: Sequence[Holding], *, equity: Decimal, limits: dict[str, str]) -> list[str]:
    """The limits that a portfolio exceeds, computed in fractions."""
    exposure: Counter[str] = Counter()
    for holding in holdings:
        value = abs(Fraction(holding.quantity)) * Fraction(holding.mark)
        for name in (holding.symbol, *holding.buckets, "gross"):
            exposure[name] += value  # type: ignore[assignment]  # a Counter adds fractions, too
    allowed = dict.fromkeys(SYMBOLS, "max_symbol_exposure_pct") | {"gross": "max_leverage"}
    return [
        name
        for name, used in exposure.items()
        if used > Fraction(limits[allowed.get(name, "max_bucket_exposure_pct")]) * Fraction(equity)
    ]


@given(HOLDINGS, st.integers(1_000, 500_000).map(Decimal), LIMITS)
def test_after_the_reductions_no_limit_is_exceeded_and_none_is_too_much_by_a_share(
    holdings: list[Holding], equity: Decimal, limits: dict[str, str]
) -> None:
    found = rebalance(holdings=holdings, equity=equity, policy=a_policy(**limits))
    by_symbol = {reduction.symbol: reduction for reduction in found.reductions}

    def left(spared: str | None = None) -> list[Holding]:
        """What is held after the reductions; one of them may be a share less."""
        kept = []
        for holding in holdings:
            closed = by_symbol[holding.symbol].quantity if holding.symbol in by_symbol else Decimal(0)
            if holding.symbol == spared:
                closed = closed.to_integral_value(rounding=ROUND_CEILING) - 1
            kept.append(replace(holding, quantity=(abs(holding.quantity) - closed).copy_sign(holding.quantity)))
        return kept

    assert exceeded_limits(left(), equity=equity, limits=limits) == []
    for symbol, reduction in by_symbol.items():
        held = next(holding.quantity for holding in holdings if holding.symbol == symbol)
        assert 0 < reduction.quantity <= abs(held)
        assert reduction.quantity % 1 == 0 or reduction.left == 0
        assert (reduction.left < 0) <= (held < 0)
        assert exceeded_limits(left(spared=symbol), equity=equity, limits=limits) != []
    over = {use.name for use in (*found.by_symbol, *found.by_bucket) if use.status == "over"}
    over |= {"gross"} if found.gross.status == "over" else set()
    assert over == set(exceeded_limits(holdings, equity=equity, limits=limits))
    assert rebalance(holdings=holdings[::-1], equity=equity, policy=a_policy(**limits)) == found


@given(HOLDINGS)
def test_exposure_is_what_a_decision_measures(holdings: list[Holding]) -> None:
    account = an_account(
        positions=tuple(
            a_position(symbol=holding.symbol, quantity=holding.quantity, mark_price=holding.mark)
            for holding in holdings
        )
    )
    buckets = {holding.symbol: holding.buckets for holding in holdings}

    measured = measure_exposure(account=account, market=a_market(), state=a_state(position_buckets=buckets))
    found = rebalance(holdings=holdings, equity=account.equity, policy=a_policy())

    assert measured.gross_usd == found.gross.exposure_usd
    assert measured.by_symbol == {use.name: use.exposure_usd for use in found.by_symbol}
    assert measured.by_bucket == {use.name: use.exposure_usd for use in found.by_bucket}
