"""The rulebook's numbers that stand in no table of the policy, written down by hand."""

from datetime import timedelta
from decimal import Decimal

import pytest

from app.domain import account, costs, indicators, lifecycle, market, policy, proposal, verdict
from app.domain.lifecycle import Event, EventKind, IssuedTicket, refusal
from tests.builders import AS_OF


@pytest.mark.parametrize(
    ("constant", "number"),
    [
        (account.MARK_MAX_AGE, timedelta(days=7)),
        (account.MOST_SHARES, 1_000_000_000_000_000),
        (costs.RANGE_TO_SIGMA, Decimal("1.596")),
        (costs.HOURS_PER_YEAR, Decimal(365 * 24)),
        (indicators.WILDER_PERIOD, 14),
        (indicators.MIN_WILDER_BARS, 15),
        (indicators.ADV_BARS, 20),
        (lifecycle.STOP_GRACE, timedelta(seconds=30)),
        (lifecycle.MAX_EVENTS, 1000),
        (market.BARS_MAX_AGE, timedelta(days=7)),
        (market.CLAIM_TOLERANCE, Decimal("0.1")),
        (market.MID_TOLERANCE_PCT, Decimal("0.01")),
        (market.MID_TOLERANCE_ATR, Decimal("0.5")),
        (policy.CONVICTION_BANDS, (65, 75, 85)),
        (policy.PROBE_CASH_PCT, Decimal("0.7")),
        (policy.PROBE_MULTIPLIER, Decimal("0.5")),
        (policy.PROBE_MAX_STOP_ATR, Decimal(1)),
        (policy.PARALYSIS_MIN_CONVICTION, 50),
        (policy.PARALYSIS_MIN_CANDIDATES, 2),
        (policy.PARALYSIS_SESSIONS, 2),
        (policy.FUTURE_TOLERANCE_S, 5),
        (proposal.MAX_CANDIDATES, 3),
        (proposal.MAX_WATCHLIST, 3),
        (proposal.MAX_THESIS_WORDS, 40),
        (proposal.P_WIN_PCT_RANGE, (1, 99)),
        (proposal.CONVICTION_RANGE, (0, 100)),
        (proposal.TIME_STOP_HOURS_RANGE, (1, 90 * 24)),
        (verdict.CENT, Decimal("0.01")),
        (verdict.SUB_CENT, Decimal("0.0001")),
    ],
)
def test_a_number_of_the_rulebook_is_what_the_rulebook_says(constant: object, number: object) -> None:
    assert constant == number


def test_a_ticket_without_shares_can_be_claimed() -> None:
    # An adjust that only moves a stop: nothing is filled and nothing closed.
    ticket = IssuedTicket(
        quantity=0, as_of=AS_OF, claim_before=AS_OF + timedelta(seconds=60), reduce_only=True, stop_required=False
    )
    claim = Event(event_id="1", kind=EventKind.CLAIMED, at=AS_OF)

    assert refusal(ticket=ticket, history=(), event=claim, now=AS_OF, halt=None) is None
