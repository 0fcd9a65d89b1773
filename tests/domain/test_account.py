"""Tests of baselines and losses, of the calendar of a day and a week, and of what an account holds."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from app.domain.account import (
    MARK_MAX_AGE,
    HaltState,
    PeriodLoss,
    Sessions,
    day_start,
    period_loss,
    week_start,
)
from app.domain.proposal import Direction
from tests.builders import a_halt, a_position, a_state, an_account


def loss(
    *, equity: str = "100000", baseline: str | None = None, pnl: str | None = None, deepest: str = "0"
) -> PeriodLoss | None:
    return period_loss(
        equity=Decimal(equity),
        stored_baseline=None if baseline is None else Decimal(baseline),
        sent_pnl=None if pnl is None else Decimal(pnl),
        deepest_loss=Decimal(deepest),
    )


def test_with_neither_mark_nor_pnl_the_loss_is_unknown() -> None:
    assert loss() is None
    assert loss(deepest="500") is None


@pytest.mark.parametrize(
    ("says", "equity", "baseline", "pnl", "deepest", "expected"),
    [
        # Without a stored mark the period began at equity less P&L.
        ("a sent loss", "98000", None, "-2000", "0", ("100000", "2000")),
        ("a sent gain", "103000", None, "3000", "0", ("100000", "0")),
        ("neither", "100000", None, "0", "0", ("100000", "0")),
        # With one, equity tells the loss whether or not a P&L was sent.
        ("a derived loss", "99000", "100000", None, "0", ("100000", "1000")),
        ("a derived gain", "101000", "100000", None, "0", ("100000", "0")),
        # Of the two the worse counts, and the baseline stays the stored mark.
        ("the derived one is worse", "98500", "100000", "-700", "0", ("100000", "1500")),
        ("the sent one is worse", "99300", "100000", "-1500", "0", ("100000", "1500")),
        ("a sent gain hides no derived loss", "98500", "100000", "2000", "0", ("100000", "1500")),
        ("a derived gain hides no sent loss", "101000", "100000", "-1500", "0", ("100000", "1500")),
        # The deepest loss of the period counts, however much has come back.
        ("a recovery", "100000", "100000", "0", "1800", ("100000", "1800")),
        ("a new low", "97000", "100000", None, "1800", ("100000", "3000")),
        ("a gain after a loss", "105000", None, "5000", "1800", ("100000", "1800")),
    ],
)
def test_the_worst_that_is_known_of_a_period_is_its_loss(
    says: str, equity: str, baseline: str | None, pnl: str | None, deepest: str, expected: tuple[str, str]
) -> None:
    found = loss(equity=equity, baseline=baseline, pnl=pnl, deepest=deepest)

    assert found == PeriodLoss(baseline_usd=Decimal(expected[0]), loss_usd=Decimal(expected[1]))


@pytest.mark.parametrize(
    ("equity", "baseline", "pnl"),
    [
        # A gain of all the equity or more would mean that the period began with nothing or with debt.
        ("100000", None, "100000"),
        ("100000", None, "100000.01"),
        ("100000", "0", None),
        ("100000", "-1", "-50"),
    ],
)
def test_a_baseline_of_nothing_is_a_contradiction_and_tells_nothing(
    equity: str, baseline: str | None, pnl: str | None
) -> None:
    assert loss(equity=equity, baseline=baseline, pnl=pnl) is None


def test_a_gain_just_below_all_the_equity_leaves_a_baseline() -> None:
    assert loss(pnl="99999.99") == PeriodLoss(baseline_usd=Decimal("0.01"), loss_usd=Decimal(0))


def test_a_loss_is_a_fraction_of_the_baseline_and_not_of_equity() -> None:
    # 2,000 of 100,000, although only 98,000 are left.
    found = loss(equity="98000", pnl="-2000")

    assert found is not None
    assert found.fraction == Decimal("0.02")


# --- the calendar --------------------------------------------------------------------------------------

NEW_YORK = timezone(timedelta(hours=-5))
TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("as_of", "day"),
    [
        (datetime(2026, 11, 20, 15, 30, 59, 999, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)),
        (datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)),
        (datetime(2026, 11, 20, 23, 59, 59, 999_999, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC)),
        # 20:00 in New York is past midnight UTC; 08:00 in Tokyo is the day before.
        (datetime(2026, 11, 20, 20, 0, tzinfo=NEW_YORK), datetime(2026, 11, 21, tzinfo=UTC)),
        (datetime(2026, 11, 20, 8, 0, tzinfo=TOKYO), datetime(2026, 11, 19, tzinfo=UTC)),
    ],
)
def test_a_day_begins_at_midnight_utc(as_of: datetime, day: datetime) -> None:
    assert day_start(as_of) == day
    assert day_start(as_of).tzinfo is UTC


@pytest.mark.parametrize(
    ("as_of", "monday"),
    [
        (datetime(2026, 11, 16, tzinfo=UTC), datetime(2026, 11, 16, tzinfo=UTC)),  # a Monday, at midnight
        (datetime(2026, 11, 20, 15, 30, tzinfo=UTC), datetime(2026, 11, 16, tzinfo=UTC)),  # a Friday
        (datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 16, tzinfo=UTC)),  # a Sunday
        (datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)),
        # Sunday evening in New York is Monday UTC.
        (datetime(2026, 11, 22, 19, 0, tzinfo=NEW_YORK), datetime(2026, 11, 23, tzinfo=UTC)),
        # The ISO week of New Year's Day 2027, a Friday, began in 2026.
        (datetime(2027, 1, 1, 12, 0, tzinfo=UTC), datetime(2026, 12, 28, tzinfo=UTC)),
    ],
)
def test_a_week_begins_on_monday_at_midnight_utc(as_of: datetime, monday: datetime) -> None:
    assert week_start(as_of) == monday


def test_a_mark_may_be_a_week_old_to_be_a_baseline() -> None:
    assert timedelta(days=7) == MARK_MAX_AGE


# --- positions, halts and sessions ---------------------------------------------------------------------


@pytest.mark.parametrize(("quantity", "direction"), [("0.5", Direction.LONG), ("-0.5", Direction.SHORT)])
def test_the_sign_of_a_position_is_its_direction(quantity: str, direction: Direction) -> None:
    assert a_position(quantity=quantity).direction is direction


def test_a_held_position_is_found_by_its_symbol() -> None:
    bolt, cogs = a_position(), a_position(symbol="COGS")
    account = an_account(positions=(bolt, cogs))

    assert account.position("COGS") is cogs
    assert account.position("ACME") is None


def test_a_position_of_no_shares_is_not_held() -> None:
    assert an_account(positions=(a_position(quantity=0),)).position("BOLT") is None


def test_the_strictest_halt_is_in_force() -> None:
    reduce_only, halted = a_halt(state=HaltState.REDUCE_ONLY), a_halt()

    assert a_state().halt is None
    assert a_state(halts=(reduce_only,)).halt is reduce_only
    assert a_state(halts=(reduce_only, halted)).halt is halted
    assert a_state(halts=(halted, reduce_only)).halt is halted


def test_an_account_that_never_asked_has_no_sessions() -> None:
    assert a_state().sessions == Sessions(earlier=0, approved_in_last_two=False)
