"""A ticket refuses to be misused, and an answer is taken for what it says or not at all."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from scenes import NOW, a_blocked_answer, a_neutral_answer, a_ticket, an_answer

from tradeverdict_client import Decision, NotExecutable, StopMissing, TicketExpired, UnexpectedAnswer
from tradeverdict_client.decision import read_decision

VALID_UNTIL = datetime(2026, 11, 20, 15, 31, 0, 834_000, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)


def test_a_ticket_is_good_until_valid_until_and_not_at_it() -> None:
    ticket = a_ticket()

    assert ticket.checked(VALID_UNTIL - MOMENT) is ticket
    with pytest.raises(TicketExpired) as refused:
        ticket.checked(VALID_UNTIL)
    assert refused.value.code == "TICKET_EXPIRED"


def test_a_ticket_of_the_past_cannot_be_used_now() -> None:
    with pytest.raises(TicketExpired):
        a_ticket(valid_until="2020-01-01T00:00:00Z").use()


@pytest.mark.parametrize("stop", [None, "0.00", "-1.00"])
@pytest.mark.parametrize("required", [True, False])
def test_an_entry_without_its_stop_cannot_be_used(stop: str | None, required: bool) -> None:
    ticket = a_ticket(order={"stop_loss": stop, "stop_required": required})

    with pytest.raises(StopMissing) as refused:
        ticket.checked(NOW)
    assert refused.value.code == "STOP_MISSING"


def test_an_exit_needs_no_stop() -> None:
    ticket = a_ticket(order={"stop_loss": None, "stop_required": False, "reduce_only": True})

    assert ticket.checked(NOW) is ticket


def test_an_approved_decision_executes_while_its_ticket_is_good() -> None:
    decision = read_decision(an_answer())

    assert decision.should_execute(now=NOW)
    assert not decision.should_execute(now=VALID_UNTIL)
    assert decision.use(now=NOW) is decision.ticket


def test_without_a_time_the_real_clock_counts() -> None:
    assert not read_decision(an_answer(valid_until="2020-01-01T00:00:00Z")).should_execute()
    assert read_decision(an_answer(valid_until="2199-01-01T00:00:00Z")).should_execute()


def test_an_approved_decision_without_its_stop_does_not_execute() -> None:
    assert not read_decision(an_answer(order={"stop_loss": None})).should_execute(now=NOW)


def test_a_blocked_decision_says_by_what() -> None:
    decision = read_decision(a_blocked_answer())

    assert not decision.should_execute(now=NOW)
    assert decision.blocked_by == ("SPREAD_TOO_WIDE",)
    with pytest.raises(NotExecutable) as refused:
        decision.use(now=NOW)
    assert refused.value.code == "SPREAD_TOO_WIDE"


@pytest.mark.parametrize(
    ("code", "failed"), [("MODEL_NEUTRAL", False), ("MODEL_TIMEOUT", True), ("MODEL_INVALID", True)]
)
def test_a_failure_of_the_model_is_not_an_opinion(code: str, failed: bool) -> None:
    decision = read_decision(a_neutral_answer(code))

    assert decision.model_failed is failed
    assert not decision.should_execute(now=NOW)


@pytest.mark.parametrize("changes", [{"verdict": "blocked"}, {"verdict": "glorious"}, {"order": None}])
def test_an_approval_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    answer = an_answer() | changes

    with pytest.raises(UnexpectedAnswer):
        read_decision(answer)


def test_should_execute_must_be_a_boolean() -> None:
    for truthy in ("false", 1, None):
        with pytest.raises(UnexpectedAnswer, match="should_execute"):
            read_decision(an_answer(should_execute=truthy))


def test_unknown_fields_are_kept() -> None:
    answer = an_answer(order={"venue": "XNAS"}, mood="calm")
    answer["gates"][0]["since"] = "2026"

    decision = read_decision(answer)

    assert decision.extra == {"mood": "calm"}
    assert decision.ticket is not None
    assert decision.ticket.extra == {"venue": "XNAS"}
    assert decision.gates[0].extra == {"since": "2026"}


def test_money_is_exact_and_times_are_in_utc() -> None:
    ticket = a_ticket(order={"entry_price": "125.40", "time_stop_at": "2026-11-22T10:30:00-05:00"})

    assert ticket.entry_price == Decimal("125.40")
    assert ticket.target == Decimal("137.00")
    assert ticket.time_stop_at == datetime(2026, 11, 22, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize("name", ["decision_id", "valid_until", "should_execute", "verdict", "order", "gates"])
def test_a_missing_field_is_named(name: str) -> None:
    answer = an_answer()
    del answer[name]

    with pytest.raises(UnexpectedAnswer, match=name):
        read_decision(answer)


@pytest.mark.parametrize(
    ("order", "place"),
    [
        ({"quantity": "53"}, "order.quantity"),
        ({"quantity": True}, "order.quantity"),
        ({"quantity": 53.5}, "order.quantity"),
        ({"stop_loss": "cheap"}, "order.stop_loss"),
        ({"stop_loss": [1]}, "order.stop_loss"),
        ({"targets": None}, "order.targets"),
        ({"targets": [1]}, "order.targets.0"),
        ({"time_stop_at": "2026-11-22T15:30:00"}, "order.time_stop_at"),
        ({"time_stop_at": "tomorrow"}, "order.time_stop_at"),
    ],
)
def test_a_field_of_another_type_is_named(order: dict[str, object], place: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=place.replace(".", r"\.")):
        read_decision(an_answer(order=order))


@pytest.mark.parametrize("document", [None, [], "yes", {}])
def test_what_is_no_decision_is_refused(document: object) -> None:
    with pytest.raises(UnexpectedAnswer):
        read_decision(document)


def test_a_decision_is_hashable_and_frozen() -> None:
    decision = read_decision(an_answer(mood="calm"))

    assert isinstance(hash(decision), int)
    with pytest.raises(AttributeError):
        decision.approved = True  # type: ignore[misc]
    assert isinstance(decision, Decision)
