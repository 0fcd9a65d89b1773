"""What may follow what in the life of a ticket, and how much of it is filled."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.account import HaltState
from app.domain.lifecycle import (
    CORRECTABLE,
    FILLS,
    MAX_EVENTS,
    NEXT,
    Event,
    EventKind,
    ExitReason,
    IssuedTicket,
    Phase,
    Progress,
    Refusal,
    RefusalReason,
    as_corrected,
    follow,
    missing_fields,
    refusal,
)
from tests.builders import AS_OF

NOW = AS_OF + timedelta(seconds=10)
INSTANT = timedelta(microseconds=1)


def a_ticket(**changes: Any) -> IssuedTicket:
    """An entry of 53 shares that may be claimed for 50 seconds yet."""
    defaults: dict[str, Any] = {
        "quantity": 53,
        "as_of": AS_OF,
        "claim_before": AS_OF + timedelta(seconds=60),
        "reduce_only": False,
        "stop_required": True,
    }
    return IssuedTicket(**{**defaults, **changes})


def an_exit(**changes: Any) -> IssuedTicket:
    return a_ticket(reduce_only=True, stop_required=False, **changes)


def told(kind: EventKind, event_id: str = "", **changes: Any) -> Event:
    """An event with what its kind needs, at the present moment."""
    needed: dict[str, Any] = {}
    if kind in FILLS:
        needed = {"quantity": 53, "price": Decimal("125.40")}
    if kind is EventKind.CLOSED:
        needed = {"price": Decimal("137.00")}
    return Event(**{"event_id": event_id or kind.value, "kind": kind, "at": NOW, **needed, **changes})


CLAIMED = told(EventKind.CLAIMED)
ACKNOWLEDGED = told(EventKind.ACKNOWLEDGED)
PART = told(EventKind.PARTIALLY_FILLED, quantity=20)
FILLED = told(EventKind.FILLED)
CANCELLED = told(EventKind.CANCELLED)
REJECTED = told(EventKind.REJECTED)
CLOSED = told(EventKind.CLOSED)

HISTORIES: dict[Phase, list[tuple[Event, ...]]] = {
    Phase.ISSUED: [()],
    Phase.WORKING: [(CLAIMED,), (ACKNOWLEDGED,), (CLAIMED, ACKNOWLEDGED)],
    Phase.PARTLY_FILLED: [(PART,), (CLAIMED, PART), (CLAIMED, told(EventKind.FILLED, quantity=52))],
    Phase.FILLED: [(FILLED,), (PART, told(EventKind.FILLED, quantity=33)), (PART, CANCELLED)],
    Phase.CANCELLED: [(CANCELLED,), (CLAIMED, CANCELLED)],
    Phase.REJECTED: [(REJECTED,), (CLAIMED, REJECTED)],
    Phase.CLOSED: [(FILLED, CLOSED), (CLOSED,), (PART, CLOSED)],
}
"""Ways into each phase."""


def judged(
    event: Event,
    *history: Event,
    ticket: IssuedTicket | None = None,
    now: datetime = NOW,
    halt: HaltState | None = None,
) -> Refusal | None:
    return refusal(ticket=ticket or a_ticket(), history=history, event=event, now=now, halt=halt)


def reason(refused: Refusal | None) -> tuple[RefusalReason, str] | None:
    return None if refused is None else (refused.reason, refused.field)


class TestPhases:
    @pytest.mark.parametrize(
        ("phase", "history"), [(phase, history) for phase, histories in HISTORIES.items() for history in histories]
    )
    def test_follow_from_the_history(self, phase: Phase, history: tuple[Event, ...]) -> None:
        assert follow(a_ticket(), history).phase is phase

    @pytest.mark.parametrize("phase", Phase)
    @pytest.mark.parametrize("kind", sorted(set(EventKind) - {EventKind.CORRECTED}))
    def test_take_exactly_the_events_of_the_table(self, phase: Phase, kind: EventKind) -> None:
        # One share fits into whatever is left; a fill after the cancellation is about late fills, below.
        later = NOW + timedelta(seconds=1)
        event = told(kind, "next", at=later, **({"quantity": 1} if kind in FILLS else {}))

        for history in HISTORIES[phase]:
            refused = judged(event, *history, now=later)

            assert (refused is None) is (kind in NEXT[phase])
            if refused is not None:
                assert reason(refused) == (RefusalReason.OUT_OF_ORDER, "event")

    def test_all_stand_in_the_table(self) -> None:
        assert set(NEXT) == set(Phase)


class TestAClaim:
    def test_is_taken_until_the_ticket_lapses(self) -> None:
        ends = a_ticket().claim_before

        assert judged(CLAIMED, now=ends - INSTANT) is None
        assert reason(judged(CLAIMED, now=ends)) == (RefusalReason.EXPIRED, "event")

    def test_is_what_the_first_acknowledgement_makes_too(self) -> None:
        ends = a_ticket().claim_before

        assert reason(judged(ACKNOWLEDGED, now=ends)) == (RefusalReason.EXPIRED, "event")
        assert judged(ACKNOWLEDGED, CLAIMED, now=ends) is None

    def test_can_be_made_once(self) -> None:
        second = told(EventKind.CLAIMED, "another bot's")

        assert reason(judged(second, CLAIMED)) == (RefusalReason.OUT_OF_ORDER, "event")

    def test_is_refused_while_the_account_is_halted(self) -> None:
        assert reason(judged(CLAIMED, halt=HaltState.HALTED)) == (RefusalReason.HALTED, "event")
        assert reason(judged(CLAIMED, halt=HaltState.REDUCE_ONLY)) == (RefusalReason.REDUCE_ONLY, "event")

    def test_of_an_exit_is_taken_in_reduce_only(self) -> None:
        assert judged(CLAIMED, ticket=an_exit(), halt=HaltState.REDUCE_ONLY) is None
        assert reason(judged(CLAIMED, ticket=an_exit(), halt=HaltState.HALTED)) == (RefusalReason.HALTED, "event")


class TestAFact:
    @pytest.mark.parametrize("event", [PART, FILLED, CANCELLED, REJECTED, CLOSED], ids=lambda event: event.kind)
    def test_is_taken_although_the_ticket_has_lapsed_and_the_account_is_halted(self, event: Event) -> None:
        late = a_ticket().claim_before + timedelta(hours=1)

        assert judged(event, now=late, halt=HaltState.HALTED) is None

    @pytest.mark.parametrize("history", [(CANCELLED,), (PART, CANCELLED)])
    def test_of_a_fill_before_its_cancellation_may_be_told_after_it(self, history: tuple[Event, ...]) -> None:
        before, after = CANCELLED.at, CANCELLED.at + INSTANT

        assert judged(told(EventKind.PARTIALLY_FILLED, "late", quantity=3, at=before), *history) is None
        refused = judged(told(EventKind.PARTIALLY_FILLED, "late", quantity=3, at=after), *history)
        assert reason(refused) == (RefusalReason.OUT_OF_ORDER, "event")

    def test_of_a_fill_is_refused_once_the_position_is_closed(self) -> None:
        late = told(EventKind.PARTIALLY_FILLED, "late", quantity=3)

        assert reason(judged(late, PART, CANCELLED, CLOSED)) == (RefusalReason.OUT_OF_ORDER, "event")


class TestTimes:
    def test_lie_between_the_snapshot_and_five_seconds_from_now(self) -> None:
        assert judged(told(EventKind.CLAIMED, at=AS_OF)) is None
        assert judged(told(EventKind.CLAIMED, at=NOW + timedelta(seconds=5))) is None
        for impossible in (AS_OF - INSTANT, NOW + timedelta(seconds=5) + INSTANT):
            refused = judged(told(EventKind.CLAIMED, at=impossible))
            assert reason(refused) == (RefusalReason.IMPOSSIBLE, "at")

    def test_of_a_closing_are_not_before_the_last_fill(self) -> None:
        assert judged(told(EventKind.CLOSED, at=FILLED.at), FILLED) is None
        refused = judged(told(EventKind.CLOSED, at=FILLED.at - INSTANT), FILLED)
        assert reason(refused) == (RefusalReason.IMPOSSIBLE, "at")


class TestFills:
    def test_add_up_to_the_ticket_at_most(self) -> None:
        assert judged(told(EventKind.FILLED, quantity=33), PART) is None
        refused = judged(told(EventKind.FILLED, quantity=34), PART)
        assert refused == Refusal(
            reason=RefusalReason.IMPOSSIBLE,
            field="quantity",
            detail="fills of 54 shares exceed the ticket's 53",
        )

    def test_tell_one_execution_each(self) -> None:
        progress = follow(a_ticket(), (PART, told(EventKind.FILLED, quantity=33, price=Decimal("126.00"))))

        # (20 x 125.40 + 33 x 126.00) / 53 = 6666 / 53
        assert (progress.filled_quantity, progress.open_quantity) == (53, 0)
        assert progress.average_fill_price == Decimal(6666) / 53

    @pytest.mark.parametrize("kind", sorted(FILLS))
    def test_leave_open_what_they_do_not_fill_whatever_they_are_called(self, kind: EventKind) -> None:
        progress = follow(a_ticket(), (told(kind, quantity=50),))

        assert (progress.phase, progress.open_quantity) == (Phase.PARTLY_FILLED, 3)

    def test_of_a_ticket_that_moves_no_share_are_impossible(self) -> None:
        refused = judged(told(EventKind.FILLED, quantity=1), ticket=an_exit(quantity=0))

        assert reason(refused) == (RefusalReason.IMPOSSIBLE, "quantity")

    def test_that_nobody_told_leave_the_ticket_open(self) -> None:
        progress = follow(a_ticket(), (CLAIMED,))

        assert (progress.open_quantity, progress.average_fill_price, progress.last_fill_at) == (53, None, None)

    def test_date_the_ticket_by_the_latest_of_them(self) -> None:
        early, late = NOW - timedelta(seconds=2), NOW - timedelta(seconds=1)
        parts = [told(EventKind.PARTIALLY_FILLED, str(at), quantity=1, at=at) for at in (late, early)]

        assert follow(a_ticket(), parts).last_fill_at == late


class TestAClosing:
    def test_covers_what_was_filled_at_most(self) -> None:
        assert judged(told(EventKind.CLOSED, quantity=20), PART) is None
        assert reason(judged(told(EventKind.CLOSED, quantity=21), PART)) == (RefusalReason.IMPOSSIBLE, "quantity")

    def test_covers_the_ticket_at_most_when_no_fill_was_told(self) -> None:
        assert judged(told(EventKind.CLOSED, quantity=53)) is None
        assert reason(judged(told(EventKind.CLOSED, quantity=54))) == (RefusalReason.IMPOSSIBLE, "quantity")

    def test_of_an_exit_belongs_to_the_entry(self) -> None:
        refused = judged(CLOSED, told(EventKind.FILLED), ticket=an_exit())

        assert reason(refused) == (RefusalReason.OUT_OF_ORDER, "event")


class TestACorrection:
    def of(self, corrects: str, **changes: Any) -> Event:
        return told(EventKind.CORRECTED, **{"event_id": f"fix {corrects}", "corrects": corrects, **changes})

    def test_replaces_the_fields_it_names(self) -> None:
        corrected = as_corrected((FILLED, self.of("filled", quantity=50)))

        assert [(event.quantity, event.price) for event in corrected] == [(50, Decimal("125.40"))]

    def test_counts_alone_when_it_is_the_last_of_its_event(self) -> None:
        history = (FILLED, self.of("filled", quantity=50), self.of("filled", event_id="again", price=Decimal(126)))
        [corrected] = as_corrected(history)

        assert (corrected.quantity, corrected.price) == (53, Decimal(126))

    def test_can_take_a_fill_back(self) -> None:
        progress = follow(a_ticket(), (CLAIMED, FILLED, self.of("filled", quantity=0)))

        assert (progress.phase, progress.open_quantity, progress.last_fill_at) == (Phase.WORKING, 53, None)

    def test_cannot_make_fills_exceed_the_ticket(self) -> None:
        assert reason(judged(self.of("filled", quantity=54), FILLED)) == (RefusalReason.IMPOSSIBLE, "quantity")

    def test_cannot_make_a_closing_exceed_the_fills(self) -> None:
        closed = told(EventKind.CLOSED, quantity=20)

        assert reason(judged(self.of("closed", quantity=21), PART, closed)) == (RefusalReason.IMPOSSIBLE, "quantity")

    def test_of_what_never_happened_is_refused(self) -> None:
        assert reason(judged(self.of("nothing"), CLAIMED)) == (RefusalReason.IMPOSSIBLE, "corrects")

    @pytest.mark.parametrize("kind", EventKind)
    def test_is_for_events_that_hold_something(self, kind: EventKind) -> None:
        corrects = "other" if kind is EventKind.CORRECTED else None
        refused = judged(self.of("first"), told(kind, "first", corrects=corrects))

        assert reason(refused) == (None if kind in CORRECTABLE else (RefusalReason.IMPOSSIBLE, "corrects"))


class TestTheStop:
    @pytest.mark.parametrize(
        ("history", "lacking"),
        [
            ((), False),
            ((CLAIMED,), False),
            ((FILLED,), True),
            ((PART,), True),
            ((told(EventKind.FILLED, stop_placed=True),), False),
            ((told(EventKind.FILLED, stop_placed=False),), True),
            ((told(EventKind.ACKNOWLEDGED, stop_placed=True), FILLED), False),
            ((FILLED, told(EventKind.ACKNOWLEDGED, stop_placed=True)), False),
            ((told(EventKind.FILLED, stop_placed=True), told(EventKind.ACKNOWLEDGED, stop_placed=False)), True),
            ((PART, CANCELLED), True),
            ((FILLED, CLOSED), False),
        ],
    )
    def test_is_lacking_while_shares_are_held_and_it_is_not_known_to_be_placed(
        self, history: tuple[Event, ...], lacking: bool
    ) -> None:
        assert follow(a_ticket(), history).lacks_stop(a_ticket()) is lacking

    def test_is_not_asked_of_exits(self) -> None:
        assert not follow(an_exit(), (FILLED,)).lacks_stop(an_exit())


class TestMissingFields:
    @pytest.mark.parametrize("kind", sorted(set(EventKind) - {EventKind.CORRECTED}))
    def test_are_none_of_an_event_with_what_its_kind_needs(self, kind: EventKind) -> None:
        assert missing_fields(told(kind)) == ()

    @pytest.mark.parametrize("kind", sorted(FILLS))
    @pytest.mark.parametrize("nothing", [None, 0])
    def test_of_a_fill_are_its_shares_and_price(self, kind: EventKind, nothing: int | None) -> None:
        faults = missing_fields(told(kind, quantity=nothing, price=nothing))

        assert [field for field, _ in faults] == ["quantity", "price"]

    def test_of_a_closing_are_its_price_or_result(self) -> None:
        assert missing_fields(told(EventKind.CLOSED, price=None, realized_pnl=Decimal("-3"))) == ()
        assert [field for field, _ in missing_fields(told(EventKind.CLOSED, price=None))] == ["price"]

    def test_of_a_closing_of_no_shares_are_its_shares(self) -> None:
        assert missing_fields(told(EventKind.CLOSED, quantity=None)) == ()
        assert missing_fields(told(EventKind.CLOSED, quantity=1)) == ()
        assert [field for field, _ in missing_fields(told(EventKind.CLOSED, quantity=0))] == ["quantity"]

    def test_of_a_correction_are_what_it_corrects(self) -> None:
        assert missing_fields(told(EventKind.CORRECTED, corrects="filled")) == ()
        assert [field for field, _ in missing_fields(told(EventKind.CORRECTED))] == ["corrects"]
        assert [field for field, _ in missing_fields(told(EventKind.CLAIMED, corrects="filled"))] == ["corrects"]


def test_a_decision_holds_only_so_many_events() -> None:
    history = [told(EventKind.ACKNOWLEDGED, str(number)) for number in range(MAX_EVENTS)]

    assert judged(told(EventKind.ACKNOWLEDGED, "one more"), *history[:-1]) is None
    refused = judged(told(EventKind.ACKNOWLEDGED, "one more"), *history)
    assert reason(refused) == (RefusalReason.IMPOSSIBLE, "event_id")


events = st.builds(
    told,
    st.sampled_from(EventKind),
    event_id=st.integers(0, 9).map(str),
    quantity=st.integers(0, 60),
    at=st.integers(-1, 16).map(lambda seconds: AS_OF + timedelta(seconds=seconds)),
    stop_placed=st.none() | st.booleans(),
    exit_reason=st.none() | st.sampled_from(ExitReason),
    corrects=st.integers(0, 9).map(str),
)


@given(st.lists(events, max_size=30))
def test_whatever_is_reported_fills_never_exceed_the_ticket(reported: list[Event]) -> None:
    history: list[Event] = []
    seen: set[str] = set()
    progress = Progress(quantity=53)
    for event in reported:
        if event.event_id not in seen and judged(event, *history) is None:
            history.append(event)
            seen.add(event.event_id)
            progress = follow(a_ticket(), history)

        assert 0 <= progress.filled_quantity <= 53
        assert 0 <= progress.open_quantity <= 53 - progress.filled_quantity
        assert progress.closed_quantity <= (progress.filled_quantity or 53)
