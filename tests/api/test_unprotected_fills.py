"""A fill whose stop nobody reports within 30 s puts its account in reduce_only, until a person resumes it."""

import re
import time
from typing import Any
from uuid import UUID

import pytest

from app.domain.lifecycle import STOP_GRACE
from tests.api.conftest import ClientWith, execute
from tests.api.desk import Desk
from tests.fakes import FakeDecider

pytestmark = pytest.mark.xdist_group("waits")

WATCHED_S = 2.5
"""Within this time a service has looked at least twice."""


@pytest.fixture
def desk(client_with: ClientWith, account_id: str) -> Desk:
    decider = FakeDecider()
    return Desk(client_with(decider), decider, account_id)


class Clock:
    """Let the time for a stop pass."""

    def __init__(self, url: str) -> None:
        self.url = url

    def due(self, decision: dict[str, Any]) -> Any:
        statement = "SELECT stop_due_at, clock_timestamp() AS now FROM reservations WHERE decision_id = $1"
        return execute(self.url, statement, UUID(decision["decision_id"]))[0]

    def runs_out(self, decision: dict[str, Any]) -> None:
        statement = "UPDATE reservations SET stop_due_at = stop_due_at - $2::interval WHERE decision_id = $1"
        execute(self.url, statement, UUID(decision["decision_id"]), STOP_GRACE)


@pytest.fixture
def clock(shared_database_url: str) -> Clock:
    return Clock(shared_database_url)


def halts(desk: Desk) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = desk.client.get("/halt").json()["halts"]
    return [halt for halt in found if halt["account_id"] == desk.account_id]


def halts_at_last(desk: Desk) -> list[dict[str, Any]]:
    """The halts once there is one."""
    for _ in range(100):
        if found := halts(desk):
            return found
        time.sleep(0.05)
    raise AssertionError("the account was not halted")


def counted(desk: Desk) -> float:
    match = re.search(r"^tradeverdict_unprotected_fills_total (\S+)$", desk.client.get("/metrics").text, re.MULTILINE)
    assert match is not None
    return float(match[1])


def resume(desk: Desk) -> None:
    body = {"account_id": desk.account_id, "reason": "the stop is placed", "operator": "ana"}
    assert desk.client.request("DELETE", "/halt", json=body).json()["in_force"] == []


def test_the_account_is_put_in_reduce_only_and_counted(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "filled", quantity=decision["order"]["quantity"])
    before = counted(desk)

    clock.runs_out(decision)
    [halt] = halts_at_last(desk)

    assert (halt["state"], halt["operator"]) == ("reduce_only", "tradeverdict")
    assert decision["decision_id"] in halt["reason"]
    assert counted(desk) == before + 1
    assert desk.sees("kill_switch", symbol="MSFT") == "REDUCE_ONLY"
    assert desk.ask_to_close()["verdict"] == "approved"


def test_the_time_is_thirty_seconds_from_the_report(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "partially_filled", at="2026-11-20T15:30:05Z")

    row = clock.due(decision)

    assert 29 < (row["stop_due_at"] - row["now"]).total_seconds() <= 30


def test_a_part_that_follows_does_not_prolong_it(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "partially_filled")
    first = clock.due(decision)["stop_due_at"]
    desk.told(decision, "partially_filled")
    desk.told(decision, "acknowledged")

    assert clock.due(decision)["stop_due_at"] == first


@pytest.mark.parametrize(
    "life",
    [
        [("acknowledged", {"stop_placed": True}), ("filled", {})],
        [("filled", {"stop_placed": True})],
        [("partially_filled", {}), ("acknowledged", {"stop_placed": True})],
        [("filled", {}), ("closed", {})],
        [("claimed", {}), ("acknowledged", {})],
        [("filled", {"event_id": "f"}), ("corrected", {"corrects": "f", "stop_placed": True})],
        [("filled", {"event_id": "f"}), ("corrected", {"corrects": "f", "quantity": 0})],
    ],
    ids=lambda life: " ".join(event for event, _ in life),
)
def test_nothing_is_due_where_the_stop_is_reported_or_no_share_is_held(
    desk: Desk, clock: Clock, life: list[tuple[str, dict[str, Any]]]
) -> None:
    decision = desk.approved()
    for event, fields in life:
        quantity = {"quantity": decision["order"]["quantity"]} if event == "filled" else {}
        desk.told(decision, event, **quantity | fields)

    assert clock.due(decision)["stop_due_at"] is None


def test_a_stop_that_is_lost_is_due_again(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "filled", quantity=decision["order"]["quantity"], stop_placed=True)
    desk.told(decision, "acknowledged", stop_placed=False)

    assert clock.due(decision)["stop_due_at"] is not None


def test_a_stop_reported_too_late_does_not_undo_it(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "partially_filled")
    clock.runs_out(decision)
    desk.told(decision, "acknowledged", stop_placed=True)

    assert len(halts_at_last(desk)) == 1
    desk.told(decision, "acknowledged", stop_placed=True)
    assert len(halts(desk)) == 1


def test_several_services_that_watch_halt_it_once(desk: Desk, clock: Clock, client_with: ClientWith) -> None:
    others = [client_with() for _ in range(3)]
    decision = desk.approved()
    desk.told(decision, "partially_filled")
    clock.runs_out(decision)
    halts_at_last(desk)
    time.sleep(WATCHED_S)

    assert len(halts(desk)) == 1
    everyone = [desk, *(Desk(other, desk.decider, desk.account_id) for other in others)]
    assert sum(counted(one) for one in everyone) == 1


def test_once_a_person_resumes_only_another_fill_halts_again(desk: Desk, clock: Clock) -> None:
    decision = desk.approved()
    desk.told(decision, "partially_filled")
    clock.runs_out(decision)
    halts_at_last(desk)
    resume(desk)

    desk.told(decision, "acknowledged")
    assert clock.due(decision)["stop_due_at"] is None

    desk.told(decision, "partially_filled")
    clock.runs_out(decision)
    assert len(halts_at_last(desk)) == 1
