"""Tests of what an account already holds and risks: positions at mark, and every live reservation."""

from decimal import Decimal
from typing import Any

import pytest

from app.domain.account import PeriodLoss
from app.domain.exposure import Exposure, mark_of, measure_exposure
from app.domain.market import SymbolSnapshot
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
