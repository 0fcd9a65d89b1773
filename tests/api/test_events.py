"""What bots report of their tickets counts once, is kept for ever, and moves what the ticket reserves."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.events import EventResponse
from app.db.vocabulary import Scope
from app.domain.lifecycle import EventKind
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer, execute
from tests.api.desk import Desk, now
from tests.api.problems import fields_of, problem_of
from tests.builders import a_request
from tests.fakes import FakeDecider

UNKNOWN = "01930000-0000-7000-8000-00000000dead"


@pytest.fixture
def desk(client_with: ClientWith, account_id: str) -> Desk:
    decider = FakeDecider()
    return Desk(client_with(decider), decider, account_id)


def reserved(decision: dict[str, Any]) -> dict[str, Any]:
    """What the account's live reservations were when a decision was made, by symbol: shares, dollars, risk."""
    held = {one["symbol"]: one for one in decision["state"]["reservations"]}
    return {
        symbol: (one["quantity"], float(one["notional_usd"]), float(one["risk_usd"])) for symbol, one in held.items()
    }


def holds(desk: Desk, **changes: Any) -> dict[str, Any]:
    """What is reserved at a later request."""
    decision = desk.ask(symbol="MSFT", **changes)
    record: dict[str, Any] = desk.client.get(f"/decisions/{decision['decision_id']}", headers=desk.headers).json()
    return {symbol: held for symbol, held in reserved(record).items() if symbol != "MSFT"}


class TestTheAnswer:
    def test_shows_the_event_and_how_far_its_ticket_has_come(self, desk: Desk) -> None:
        decision = desk.approved()

        answer = desk.tell(decision, "partially_filled", event_id="fill-1", quantity=20, price=125.5, fees="0.53")

        assert answer.status_code == 201
        document = EventResponse.model_validate_json(answer.content).model_dump(mode="json")
        assert document["decision_id"] == decision["decision_id"]
        told = {name: document["event"][name] for name in ("event_id", "event", "quantity", "price", "fees")}
        assert told == {
            "event_id": "fill-1",
            "event": "partially_filled",
            "quantity": 20,
            "price": "125.5",
            "fees": "0.53",
        }
        assert document["ticket"] == {
            "phase": "partly_filled",
            "quantity": decision["order"]["quantity"],
            "filled_quantity": 20,
            "open_quantity": decision["order"]["quantity"] - 20,
            "average_fill_price": "125.5",
            "stop_placed": False,
        }

    def test_to_a_whole_life_follows_it(self, desk: Desk) -> None:
        decision = desk.approved()
        rest = decision["order"]["quantity"] - 20
        life = [
            desk.told(decision, "claimed"),
            desk.told(decision, "acknowledged", stop_placed=True),
            desk.told(decision, "partially_filled", quantity=20),
            desk.told(decision, "filled", quantity=rest),
            desk.told(decision, "closed", exit_reason="target", realized_pnl="610.00"),
        ]

        assert [ticket["phase"] for ticket in life] == ["working", "working", "partly_filled", "filled", "closed"]


class TestAnEventToldAgain:
    def test_counts_once_and_has_the_same_answer(self, desk: Desk) -> None:
        decision = desk.approved()
        fill = {"event_id": "fill-1", "at": now(), "quantity": 20}
        first = desk.tell(decision, "partially_filled", **fill)
        desk.told(decision, "partially_filled", quantity=5)

        again = desk.tell(decision, "partially_filled", **fill)

        assert (first.status_code, again.status_code) == (201, 200)
        assert again.content == first.content
        assert desk.told(decision, "acknowledged")["filled_quantity"] == 25

    def test_may_be_spelt_differently(self, desk: Desk) -> None:
        decision = desk.approved()
        at = datetime.now(UTC)
        desk.told(decision, "partially_filled", event_id="fill-1", at=at.isoformat(), price="125.40", fees=None)

        elsewhere = at.astimezone(datetime.now().astimezone().tzinfo).isoformat()
        again = desk.tell(decision, "partially_filled", event_id="fill-1", at=elsewhere, price=125.4)

        assert again.status_code == 200

    @pytest.mark.parametrize("other", [{"quantity": 21}, {"price": "125.41"}, {"stop_placed": True}, {"at": now()}])
    def test_with_another_content_is_refused(self, desk: Desk, other: dict[str, Any]) -> None:
        decision = desk.approved()
        fill = {"event_id": "fill-1", "at": now(), "quantity": 20}
        desk.told(decision, "partially_filled", **fill)

        problem = problem_of(desk.tell(decision, "partially_filled", **fill | other), ErrorCode.EVENT_CONFLICT)

        assert fields_of(problem) == ["event_id"]
        assert desk.told(decision, "acknowledged")["filled_quantity"] == 20

    def test_by_twenty_at_once_counts_once(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        at = now()

        with ThreadPoolExecutor(20) as callers:
            answers = list(
                callers.map(lambda _: desk.tell(decision, "filled", event_id="fill-1", at=at, quantity=20), range(20))
            )

        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.content for answer in answers}) == 1
        stored = execute(
            shared_database_url,
            "SELECT count(*) FROM decision_events WHERE decision_id = $1",
            UUID(decision["decision_id"]),
        )
        assert stored[0]["count"] == 1

    def test_belongs_to_its_decision(self, desk: Desk) -> None:
        first = desk.approved()
        desk.told(first, "rejected", event_id="1")
        second = desk.approved()

        desk.told(second, "rejected", event_id="1")


class TestAClaim:
    def test_of_a_ticket_goes_to_one_of_many_callers(self, desk: Desk) -> None:
        decision = desk.approved()

        with ThreadPoolExecutor(10) as callers:
            answers = list(callers.map(lambda _: desk.tell(decision, "claimed"), range(10)))

        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 9
        lost = next(answer for answer in answers if answer.status_code == 409)
        assert fields_of(problem_of(lost, ErrorCode.EVENT_OUT_OF_ORDER)) == ["event"]

    def test_comes_too_late_when_the_ticket_has_lapsed(self, desk: Desk, client_with: ClientWith) -> None:
        decider = FakeDecider()
        hasty = Desk(client_with(decider, limits={"ticket_ttl_s": 1}), decider, desk.account_id)
        decision = hasty.approved()
        time.sleep(1.01)

        for event in ("claimed", "acknowledged"):
            problem_of(hasty.tell(decision, event), ErrorCode.TICKET_EXPIRED)
        # What happened all the same is not hidden.
        assert hasty.told(decision, "filled", quantity=3)["filled_quantity"] == 3

    def test_keeps_the_reservation_beyond_its_time(self, desk: Desk, shared_database_url: str) -> None:
        claimed, idle = desk.approved(), desk.approved(symbol="AMZN")
        desk.told(claimed, "claimed")
        ids = [UUID(decision["decision_id"]) for decision in (claimed, idle)]
        execute(shared_database_url, "SELECT pg_sleep(0.01)")
        lapsed = "UPDATE reservations SET expires_at = clock_timestamp() WHERE decision_id = ANY ($1)"
        execute(shared_database_url, lapsed, ids)

        assert list(holds(desk)) == ["NVDA"]

    @pytest.mark.parametrize(("state", "code"), [("halted", ErrorCode.HALTED), ("reduce_only", ErrorCode.REDUCE_ONLY)])
    def test_is_refused_once_the_account_is_halted(self, desk: Desk, state: str, code: ErrorCode) -> None:
        decision = desk.approved()
        halt = {"account_id": desk.account_id, "state": state, "reason": "drill", "operator": "ana"}
        assert desk.client.post("/halt", json=halt).status_code == 200

        problem_of(desk.tell(decision, "claimed"), code)
        # The bot that had claimed before may still say what happened.
        assert desk.told(decision, "filled")["phase"] in ("filled", "partly_filled")


class TestTheReservation:
    """NVDA at 125.40 with 53 shares or so; MSFT is asked about to see what NVDA still holds."""

    def test_is_released_by_a_cancellation_or_a_rejection(self, desk: Desk) -> None:
        for event in ("cancelled", "rejected"):
            decision = desk.approved()
            assert list(holds(desk)) == ["NVDA"]

            desk.told(decision, event)

            assert holds(desk) == {}

    def test_of_a_fill_lasts_until_a_snapshot_is_later_than_the_fill(self, desk: Desk) -> None:
        decision = desk.approved()
        quantity = decision["order"]["quantity"]
        desk.told(decision, "filled", at="2026-11-20T15:30:05Z", quantity=quantity, stop_placed=True)

        assert list(holds(desk, as_of="2026-11-20T15:30:04Z")) == ["NVDA"]
        assert list(holds(desk, as_of="2026-11-20T15:30:05Z")) == ["NVDA"]
        assert holds(desk, as_of="2026-11-20T15:30:06Z") == {}

    def test_of_a_part_counts_each_share_once(self, desk: Desk) -> None:
        decision = desk.approved()
        quantity = decision["order"]["quantity"]
        whole = holds(desk)["NVDA"]
        desk.told(decision, "partially_filled", at="2026-11-20T15:30:05Z", quantity=20, stop_placed=True)

        # To a snapshot older than the fill the shares are not yet a position.
        assert holds(desk, as_of="2026-11-20T15:30:05Z")["NVDA"] == whole
        left = holds(desk, as_of="2026-11-20T15:30:06Z")["NVDA"]
        assert left[0] == str(quantity - 20)
        share = (quantity - 20) / quantity
        assert left[1:] == pytest.approx((whole[1] * share, whole[2] * share))

    def test_of_what_did_not_fill_ends_with_its_cancellation(self, desk: Desk) -> None:
        decision = desk.approved()
        desk.told(decision, "partially_filled", at="2026-11-20T15:30:05Z", quantity=20, stop_placed=True)
        desk.told(decision, "cancelled", at="2026-11-20T15:30:07Z")

        assert holds(desk, as_of="2026-11-20T15:30:05Z")["NVDA"][0] == "20"
        assert holds(desk, as_of="2026-11-20T15:30:06Z") == {}

    def test_follows_corrections(self, desk: Desk) -> None:
        decision = desk.approved()
        quantity = decision["order"]["quantity"]
        fill = {"event_id": "fill-1", "at": "2026-11-20T15:30:05Z", "stop_placed": True}
        desk.told(decision, "filled", **fill, quantity=quantity)
        assert holds(desk, as_of="2026-11-20T15:30:06Z") == {}

        ticket = desk.told(decision, "corrected", corrects="fill-1", quantity=quantity - 5)

        assert (ticket["phase"], ticket["open_quantity"]) == ("partly_filled", 5)
        assert holds(desk, as_of="2026-11-20T15:30:06Z")["NVDA"][0] == "5"

    def test_returns_for_a_fill_that_is_told_after_its_cancellation(self, desk: Desk) -> None:
        decision = desk.approved()
        desk.told(decision, "cancelled", at="2026-11-20T15:30:07Z")
        desk.told(decision, "filled", at="2026-11-20T15:30:05Z", quantity=3, stop_placed=True)

        assert holds(desk, as_of="2026-11-20T15:30:05Z")["NVDA"][0] == "3"
        assert holds(desk, as_of="2026-11-20T15:30:06Z") == {}

    def test_is_released_when_the_position_is_closed(self, desk: Desk) -> None:
        decision = desk.approved()
        desk.told(decision, "filled", quantity=decision["order"]["quantity"])
        assert list(holds(desk)) == ["NVDA"]

        desk.told(decision, "closed")

        assert holds(desk) == {}

    def test_of_a_part_makes_a_same_entry_a_duplicate_until_it_is_cancelled(self, desk: Desk) -> None:
        decision = desk.approved()
        desk.told(decision, "partially_filled", at="2026-11-20T15:30:05Z", quantity=20, stop_placed=True)
        later = "2026-11-20T15:31:00Z"

        assert desk.sees("duplicate_intent", as_of=later) == "DUPLICATE_INTENT"
        desk.told(decision, "cancelled", at="2026-11-20T15:30:07Z")
        assert desk.sees("duplicate_intent", as_of=later) is None

    def test_adds_to_what_was_executed_in_the_day(self, desk: Desk, client_with: ClientWith) -> None:
        decider = FakeDecider()
        tight = Desk(client_with(decider, limits={"max_daily_notional": 8_000}), decider, desk.account_id)
        decision = tight.approved()
        desk.told(decision, "partially_filled", at="2026-11-20T15:30:05Z", quantity=50, price="150.00")
        desk.told(decision, "cancelled", at="2026-11-20T15:30:06Z")

        # 8,000 less 50 x 150 = 500 dollars of room are 3 shares at 125.40.
        resized = tight.ask(symbol="MSFT", as_of="2026-11-20T15:31:00Z")

        assert resized["order"]["quantity"] == 3
        assert resized["sizing"]["binding_cap"] == "daily_notional"


class TestAnExit:
    """50 AAPL are held."""

    def test_reserves_its_shares_so_that_two_never_cross_zero(self, desk: Desk) -> None:
        first = desk.ask_to_close()
        second = desk.ask_to_close()

        assert (first["order"]["quantity"], first["order"]["reduce_only"]) == (50, True)
        assert (second["verdict"], second["reason_code"]) == ("blocked", "PROPOSAL_INVALID")

    def test_frees_them_when_it_is_cancelled(self, desk: Desk) -> None:
        desk.told(desk.ask_to_close(), "cancelled")

        assert desk.ask_to_close()["order"]["quantity"] == 50

    def test_reserves_less_with_each_fill_that_the_snapshot_knows(self, desk: Desk) -> None:
        first = desk.ask_to_close()
        desk.told(first, "partially_filled", at="2026-11-20T15:30:05Z", quantity=30)

        # A snapshot from before the fill still shows 50, all of them leaving.
        before = desk.ask_to_close(as_of="2026-11-20T15:30:05Z")
        assert before["reason_code"] == "PROPOSAL_INVALID"
        # Afterwards 100 more were bought: 120 are held, of which 20 are leaving.
        held = {"symbol": "AAPL", "quantity": 120, "mark_price": 201.2, "stop_loss": 185.0}
        after = desk.ask_to_close(as_of="2026-11-20T15:30:06Z", positions=[held])
        assert after["order"]["quantity"] == 100

    def test_needs_no_stop(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.ask_to_close()
        desk.told(decision, "filled", quantity=50)

        due = "SELECT stop_due_at FROM reservations WHERE decision_id = $1"
        assert execute(shared_database_url, due, UUID(decision["decision_id"]))[0]["stop_due_at"] is None

    def test_or_adjust_that_moves_no_share_is_done_when_it_is_acknowledged(self, desk: Desk) -> None:
        decision = desk.ask_to_move_the_stop()
        assert (decision["verdict"], decision["order"]["quantity"]) == ("approved", 0)

        assert desk.told(decision, "claimed")["phase"] == "working"
        assert desk.told(decision, "acknowledged")["open_quantity"] == 0
        problem_of(desk.tell(decision, "filled", quantity=1), ErrorCode.EVENT_IMPOSSIBLE)

    def test_has_no_outcome_of_its_own(self, desk: Desk) -> None:
        decision = desk.ask_to_close()
        desk.told(decision, "filled", quantity=50)

        problem_of(desk.tell(decision, "closed"), ErrorCode.EVENT_OUT_OF_ORDER)

    def test_by_twenty_callers_at_once_closes_what_is_held_and_no_more(self, desk: Desk) -> None:
        with ThreadPoolExecutor(20) as callers:
            decisions = list(callers.map(lambda _: desk.ask_to_close(), range(20)))

        assert sum(decision["order"]["quantity"] for decision in decisions if decision["order"]) == 50


class TestWhatIsRefused:
    def test_an_unknown_decision(self, desk: Desk) -> None:
        problem_of(desk.tell(UNKNOWN, "claimed"), ErrorCode.NOT_FOUND)
        problem_of(desk.tell("7", "claimed"), ErrorCode.VALIDATION_ERROR)

    @pytest.mark.parametrize("event", [kind for kind in EventKind if kind is not EventKind.CORRECTED])
    def test_any_event_of_a_decision_without_an_order(self, desk: Desk, event: str) -> None:
        blocked = desk.ask(daily_pnl=-5_000)
        assert blocked["order"] is None

        problem_of(desk.tell(blocked, event), ErrorCode.DECISION_NOT_EXECUTABLE)

    @pytest.mark.parametrize(
        ("event", "fields", "named"),
        [
            ("filled", {"quantity": ...}, ["quantity"]),
            ("filled", {"quantity": None, "price": None}, ["quantity", "price"]),
            ("partially_filled", {"quantity": 0}, ["quantity"]),
            ("filled", {"quantity": -1}, ["quantity"]),
            ("filled", {"quantity": 1.5}, ["quantity"]),
            ("filled", {"quantity": "53"}, ["quantity"]),
            ("filled", {"quantity": True}, ["quantity"]),
            ("filled", {"price": 0}, ["price"]),
            ("filled", {"price": "-1.00"}, ["price"]),
            ("filled", {"price": "NaN"}, ["price"]),
            ("filled", {"price": "1e3"}, ["price"]),
            ("filled", {"price": "1_000"}, ["price"]),
            ("filled", {"price": 1e13}, ["price"]),
            ("filled", {"fees": "Infinity"}, ["fees"]),
            ("filled", {"stop_placed": "yes"}, ["stop_placed"]),
            ("closed", {"price": None}, ["price"]),
            ("closed", {"exit_reason": "bored"}, ["exit_reason"]),
            ("corrected", {}, ["corrects"]),
            ("claimed", {"corrects": "fill-1"}, ["corrects"]),
            ("reservation_expired", {}, ["event"]),
            ("claimed", {"at": "2026-11-20T15:30:00"}, ["at"]),
            ("claimed", {"at": 1_763_652_600}, ["at"]),
            ("claimed", {"at": ...}, ["at"]),
            ("claimed", {"event_id": ""}, ["event_id"]),
            ("claimed", {"event_id": "a\x00b"}, ["event_id"]),
            ("claimed", {"event_id": "x" * 256}, ["event_id"]),
            ("claimed", {"note": "hello"}, ["note"]),
        ],
        ids=str,
    )
    def test_a_malformed_event_by_its_fields(
        self, offline: TestClient, event: str, fields: dict[str, Any], named: list[str]
    ) -> None:
        answer = Desk(offline, FakeDecider(), "paper-1").tell(UNKNOWN, event, **fields)

        assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == named

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"quantity": 100_000}, "quantity"),
            ({"at": "2026-11-20T15:29:59Z"}, "at"),
            ({"at": now(days=1)}, "at"),
        ],
        ids=["more than the ticket", "before the snapshot", "in the future"],
    )
    def test_an_impossible_event_by_its_field(self, desk: Desk, fields: dict[str, Any], named: str) -> None:
        decision = desk.approved()

        problem = problem_of(desk.tell(decision, "filled", **fields), ErrorCode.EVENT_IMPOSSIBLE)

        assert fields_of(problem) == [named]
        assert desk.told(decision, "claimed")["filled_quantity"] == 0

    def test_a_correction_of_what_was_never_told(self, desk: Desk) -> None:
        problem = problem_of(desk.tell(desk.approved(), "corrected", corrects="x"), ErrorCode.EVENT_IMPOSSIBLE)

        assert fields_of(problem) == ["corrects"]

    def test_an_event_that_its_ticket_is_past(self, desk: Desk) -> None:
        decision = desk.approved()
        desk.told(decision, "rejected")

        for event in ("claimed", "acknowledged", "filled", "cancelled", "rejected", "closed"):
            problem_of(desk.tell(decision, event, quantity=1), ErrorCode.EVENT_OUT_OF_ORDER)

    def test_anything_while_the_store_is_away(self, offline: TestClient) -> None:
        problem_of(Desk(offline, FakeDecider(), "paper-1").tell(UNKNOWN, "claimed"), ErrorCode.STORE_UNAVAILABLE)

    def test_a_body_that_is_too_large(self, desk: Desk, client_with: ClientWith) -> None:
        small = Desk(client_with(max_body_bytes=1024), FakeDecider(), desk.account_id)

        problem_of(small.tell(UNKNOWN, "claimed", event_id="x" * 1024), ErrorCode.BODY_TOO_LARGE)


class TestKeys:
    @pytest.fixture
    def guarded(self, client_with: ClientWith) -> tuple[TestClient, FakeDecider]:
        decider = FakeDecider()
        return client_with(decider, auth=Auth.ON), decider

    def test_need_the_scope_report(self, guarded: Any, issue: Issue, account_id: str) -> None:
        client, decider = guarded
        decides = Desk(client, decider, account_id, headers=bearer(issue(Scope.DECIDE, Scope.READ, Scope.ADMIN)))
        reports = Desk(client, decider, account_id, headers=bearer(issue(Scope.REPORT)))
        decision = decides.approved()

        problem_of(decides.tell(decision, "claimed"), ErrorCode.FORBIDDEN)
        assert reports.told(decision, "claimed")["phase"] == "working"
        problem_of(client.post("/decide", json=a_request(), headers=reports.headers), ErrorCode.FORBIDDEN)
        problem_of(Desk(client, decider, account_id).tell(decision, "claimed"), ErrorCode.UNAUTHENTICATED)

    def test_report_on_their_own_accounts_alone(self, guarded: Any, issue: Issue, account_id: str) -> None:
        client, decider = guarded
        everything = (Scope.DECIDE, Scope.REPORT)
        mine = Desk(client, decider, account_id, headers=bearer(issue(*everything, accounts=[account_id])))
        theirs = Desk(client, decider, account_id, headers=bearer(issue(*everything, accounts=["someone-else"])))
        decision = mine.approved()

        foreign, unknown = theirs.tell(decision, "claimed"), theirs.tell(UNKNOWN, "claimed")

        # A foreign decision is told from an unknown one by nothing.
        problem_of(foreign, ErrorCode.NOT_FOUND)
        same = {"type", "title", "status", "code"}
        assert {name: foreign.json()[name] for name in same} == {name: unknown.json()[name] for name in same}
        assert mine.told(decision, "claimed")["phase"] == "working"


def test_events_are_never_changed_or_removed(desk: Desk, shared_database_url: str) -> None:
    decision = desk.approved()
    desk.told(decision, "filled", event_id="fill-1", quantity=3, at="2026-11-20T15:30:05Z")
    desk.told(decision, "corrected", corrects="fill-1", quantity=2)

    stored = execute(
        shared_database_url,
        "SELECT event, quantity, body FROM decision_events WHERE decision_id = $1 ORDER BY sequence",
        UUID(decision["decision_id"]),
    )
    assert [(row["event"], row["quantity"]) for row in stored] == [("filled", 3), ("corrected", 2)]
    assert '"event_id":"fill-1"' in stored[0]["body"]
    for statement in ("UPDATE decision_events SET quantity = 1", "DELETE FROM decision_events"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            execute(shared_database_url, statement)


def test_an_event_lies_at_most_five_seconds_ahead_of_the_database(desk: Desk) -> None:
    decision = desk.approved()
    ahead = timedelta(seconds=4).total_seconds()

    assert desk.told(decision, "claimed", at=now(seconds=ahead))["phase"] == "working"
