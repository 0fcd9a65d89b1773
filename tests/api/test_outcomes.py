"""Decisions foretell, closings label them, one by one or in batches, and the counts follow."""

import csv
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.events import EventResponse
from app.api.outcomes import MAX_LINES, OutcomesResponse
from app.db.vocabulary import Scope
from app.domain.proposal import EntryType, ModelFailure, Proposal, Setup
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import NOWHERE, ClientWith, Issue, Serve, bearer, execute, settings_for
from tests.api.desk import Desk, now
from tests.api.labels import counts_of, forecast_of
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import SHORT, nvda, nvda_trade
from tests.builders import a_request, a_trade
from tests.fakes import NEUTRAL, FakeDecider

UNKNOWN = "01930000-0000-7000-8000-00000000dead"
WIN, LOSS, SCRATCH, TIMEOUT = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)
SAID = {("executed", "p_win", 54), ("executed", "conviction", 72)}
"""What the example's candidate said: 54 % and conviction 72."""


@pytest.fixture
def desk(client_with: ClientWith, account_id: str) -> Desk:
    decider = FakeDecider()
    return Desk(client_with(decider), decider, account_id)


def asked(desk: Desk, outcome: Proposal | ModelFailure, **changes: Any) -> dict[str, Any]:
    """Ask for a decision on the rulebook's example while the decider says this."""
    desk.decider.will(outcome)
    account = {"id": desk.account_id} | changes.pop("account", {})
    answer = desk.client.post("/decide", json=a_request(account=account, **changes), headers=desk.headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


class TestADecision:
    def test_that_approves_foretells_what_its_candidate_said(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()

        forecast = forecast_of(shared_database_url, decision)

        expected = {
            "account_id": desk.account_id,
            "mode": "paper",
            "day": date(2026, 11, 20),
            "as_of": datetime(2026, 11, 20, 15, 30, tzinfo=UTC),
            "decider": "fake/fake-1",
            "prompt_hash": decision["decider"]["prompt_hash"],
            "setup": "momentum",
            "symbol": "NVDA",
            "direction": "long",
            "verdict": "approved",
            "blocked_by": [],
            "p_win": 0.54,
            "p_win_percent": 54,
            "p_win_calibrated": None,
            "p_win_calibrated_percent": None,
            "conviction": 72,
            "entry_type": "limit",
            "entry": Decimal("125.40"),
            "stop": Decimal("119.80"),
            "target": Decimal("137.00"),
            "time_stop_at": datetime(2026, 11, 22, 15, 30, tzinfo=UTC),
            "paper_state": "pending",
            "executed_outcome": None,
        }
        assert expected == {name: forecast[name] for name in expected}
        # EV_R and the round trip's cost are the edge's, to 6 decimals and exactly.
        assert float(forecast["ev_r"]) == pytest.approx(decision["edge"]["ev_r"], abs=1e-6)
        cost_bps = decision["edge"]["cost_bps_round_trip"]
        assert float(forecast["cost_usd"] / Decimal("125.40")) * 10_000 == pytest.approx(cost_bps, rel=1e-3)
        assert counts_of(shared_database_url, desk.account_id) == {}

    @pytest.mark.parametrize(
        ("plan", "entry"),
        [
            ({"entry_type": EntryType.MARKET, "entry_price": None}, "125.42"),  # the ask, which a buyer pays
            ({"entry_type": EntryType.MARKET, "entry_price": None, **SHORT}, "125.38"),  # the bid
            ({"entry_type": EntryType.LIMIT, "entry_price": "124.90"}, "124.90"),
            ({"entry_type": EntryType.STOP, "entry_price": "126.10"}, "126.10"),
            ({"entry_type": EntryType.STOP_LIMIT, "entry_price": "126.10"}, "126.10"),
            ({"entry_type": EntryType.LIMIT, **SHORT}, "125.40"),
        ],
        ids=["market", "short market", "limit", "stop", "stop limit", "short limit"],
    )
    def test_is_held_to_the_entry_it_was_judged_at(
        self, desk: Desk, shared_database_url: str, plan: dict[str, Any], entry: str
    ) -> None:
        decision = asked(desk, nvda_trade(**plan))

        forecast = forecast_of(shared_database_url, decision)

        assert (forecast["entry_type"], forecast["entry"]) == (plan["entry_type"].value, Decimal(entry))
        assert forecast["direction"] == plan.get("direction", "long")

    def test_that_resizes_foretells_as_well(self, client_with: ClientWith, shared_database_url: str) -> None:
        decider = FakeDecider()
        small = Desk(client_with(decider, limits={"max_order_notional": Decimal(1_000)}), decider, "resized-1")

        decision = small.approved()

        assert decision["verdict"] == forecast_of(shared_database_url, decision)["verdict"] == "resized"

    def test_that_blocks_foretells_as_well_and_counts_for_each_code(self, desk: Desk, shared_database_url: str) -> None:
        # 5,000 of 100,000 lost in the day is beyond 2 %; conviction 40 is below every threshold.
        decision = asked(desk, nvda_trade(conviction=40), account={"daily_pnl": -5_000})
        desk.ask(daily_pnl=-5_000)

        blocked_by = forecast_of(shared_database_url, decision)["blocked_by"]

        codes = {gate["code"] for gate in decision["gates"] if gate["code"]}
        assert codes == set(blocked_by) >= {"DAILY_LOSS_LIMIT", "LOW_CONVICTION"}
        counts_of(shared_database_url, desk.account_id)
        gates = execute(
            shared_database_url, "SELECT code, blocked FROM gate_sums WHERE account_id = $1", desk.account_id
        )
        blocked = {row["code"]: row["blocked"] for row in gates}
        assert (blocked["DAILY_LOSS_LIMIT"], blocked["LOW_CONVICTION"]) == (2, 1)

    def test_foretells_one_candidate_the_reported_one(self, desk: Desk, shared_database_url: str) -> None:
        likelier = nvda(p_win_pct=61)
        decision = asked(desk, a_trade(nvda(), likelier, nvda(symbol="TSLA", p_win_pct=80)))

        assert decision["proposal"]["p_win_pct"] == 61
        assert forecast_of(shared_database_url, decision)["p_win_percent"] == 61

    @pytest.mark.parametrize(
        "outcome",
        [
            NEUTRAL,
            ModelFailure.TIMEOUT,
            nvda_trade(symbol="TSLA"),
            nvda_trade(stop_loss=None),
            nvda_trade(stop_loss="125.40"),
            nvda_trade(stop_loss="130.00"),
            nvda_trade(target_price="125.40"),
            nvda_trade(p_win_pct=100),
            nvda_trade(entry_price=None),
        ],
        ids=["neutral", "failed", "unknown symbol", "no stop", "stop at entry", "stop beyond", "target", "p", "entry"],
    )
    def test_foretells_nothing_where_nothing_could_be_labelled(
        self, desk: Desk, shared_database_url: str, outcome: Proposal | ModelFailure
    ) -> None:
        decision = asked(desk, outcome)

        assert forecast_of(shared_database_url, decision) == {}
        assert counts_of(shared_database_url, desk.account_id) == {}

    def test_about_a_held_position_foretells_nothing(self, desk: Desk, shared_database_url: str) -> None:
        assert forecast_of(shared_database_url, desk.ask_to_close()) == {}

    def test_is_counted_by_what_it_came_to(self, desk: Desk, shared_database_url: str) -> None:
        desk.approved()
        desk.ask()  # a duplicate of it
        asked(desk, NEUTRAL)
        asked(desk, NEUTRAL)
        asked(desk, NEUTRAL, as_of="2026-11-21T00:00:00Z")

        rows = execute(
            shared_database_url,
            "SELECT day, action, verdict, reason_code, decisions FROM decision_counts WHERE account_id = $1",
            desk.account_id,
        )
        friday, saturday = date(2026, 11, 20), date(2026, 11, 21)
        assert {(row["day"], row["action"], row["verdict"], row["reason_code"]): row["decisions"] for row in rows} == {
            (friday, "trade", "approved", ""): 1,
            (friday, "trade", "blocked", "DUPLICATE_INTENT"): 1,
            (friday, "neutral", "no_trade", "MODEL_NEUTRAL"): 2,
            (saturday, "neutral", "no_trade", "MODEL_NEUTRAL"): 1,
        }
        counts_of(shared_database_url, desk.account_id)


def result_of(answer: httpx2.Response) -> dict[str, Any]:
    """What a closing brought, from an answer that must be a complete one."""
    assert answer.status_code in (200, 201), answer.text
    EventResponse.model_validate_json(answer.content)
    result: dict[str, Any] = answer.json()["result"]
    return result


def unit_usd(url: str, decision: dict[str, Any]) -> Decimal:
    """One R of a decision, dollars per share: L + C."""
    forecast = forecast_of(url, decision)
    unit: Decimal = abs(forecast["entry"] - forecast["stop"]) + forecast["cost_usd"]
    return unit


class TestAClosing:
    def test_gives_the_forecast_its_label_and_the_answer_its_result(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        filled_at, closed_at = "2026-11-20T15:31:00Z", "2026-11-20T18:31:00Z"
        desk.told(decision, "filled", at=filled_at, quantity=40, price="125.50", fees="0.40", stop_placed=True)

        result = result_of(
            desk.tell(decision, "closed", at=closed_at, price="137.00", fees="0.60", exit_reason="target")
        )

        # 40 x (137.00 - 125.50) = 460 less 1.00 of fees; R = 459 / (40 x (L + C)).
        r = Decimal("459.00") / (40 * unit_usd(shared_database_url, decision))
        assert Decimal(result["r_multiple"]) == r.quantize(Decimal("0.000001"))
        assert result == {
            "outcome": "win",
            "r_multiple": result["r_multiple"],
            "predicted_ev_r": f"{forecast_of(shared_database_url, decision)['ev_r']:f}",
            "holding_s": 3 * 3600,
            "exit_at": closed_at,
            "realized_usd": "459.00",
            "fees_usd": "1.00",
        }
        forecast = forecast_of(shared_database_url, decision)
        assert (forecast["executed_outcome"], forecast["executed_r"]) == ("win", Decimal(result["r_multiple"]))
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, WIN)

    @pytest.mark.parametrize(
        ("closing", "outcome"),
        [
            ({"price": "137.00", "exit_reason": "target"}, "win"),
            ({"price": "119.80", "exit_reason": "stop"}, "loss"),
            ({"price": "127.00", "exit_reason": "time"}, "timeout"),
            ({"price": "125.45", "exit_reason": "manual"}, "scratch"),
            ({"price": ..., "realized_pnl": "-200.00"}, "loss"),
        ],
        ids=lambda case: case if isinstance(case, str) else "",
    )
    def test_is_counted_in_its_class(
        self, desk: Desk, shared_database_url: str, closing: dict[str, Any], outcome: str
    ) -> None:
        result = result_of(desk.tell(desk.approved(), "closed", **closing))

        assert result["outcome"] == outcome
        counted = {"win": WIN, "loss": LOSS, "scratch": SCRATCH, "timeout": TIMEOUT}[outcome]
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, counted)

    def test_told_again_has_the_same_answer_and_counts_once(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        closing = {"event_id": "exit", "at": now(), "price": "119.80", "exit_reason": "stop"}
        first = desk.tell(decision, "closed", **closing)
        desk.told(decision, "corrected", corrects="exit", price="119.70")

        again = desk.tell(decision, "closed", **closing)

        assert (first.status_code, again.status_code) == (201, 200)
        assert first.content == again.content
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, LOSS)

    def test_that_is_corrected_takes_its_counts_along(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        result_of(desk.tell(decision, "closed", event_id="exit", price="119.80", exit_reason="stop"))

        corrected = result_of(desk.tell(decision, "corrected", corrects="exit", price="137.00", exit_reason="target"))

        assert corrected["outcome"] == "win"
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, WIN)
        labels = execute(
            shared_database_url,
            "SELECT body FROM decision_events WHERE decision_id = $1 AND event = 'outcome' ORDER BY sequence",
            UUID(decision["decision_id"]),
        )
        outcomes = [json.loads(label["body"])["executed"]["outcome"] for label in labels]
        assert outcomes == ["loss", "win"]

    def test_follows_a_correction_of_its_fill(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        desk.told(decision, "filled", event_id="fill", quantity=40, price="125.40")
        result_of(desk.tell(decision, "closed", price="125.50", exit_reason="manual"))
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, SCRATCH)

        # Bought at 127.00 and sold at 125.50: -1.50 of 5.6 or so is a loss.
        corrected = result_of(desk.tell(decision, "corrected", corrects="fill", price="127.00"))

        assert corrected["outcome"] == "loss"
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, LOSS)

    def test_has_no_result_before_it_is_told(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()

        for event in ("claimed", "filled"):
            answer = desk.tell(decision, event, quantity=decision["order"]["quantity"])
            assert answer.json()["result"] is None
        assert counts_of(shared_database_url, desk.account_id) == {}

    def test_of_a_trade_by_another_decider_or_setup_is_kept_apart(self, desk: Desk, shared_database_url: str) -> None:
        for setup in (Setup.BREAKOUT, Setup.MOMENTUM):
            decision = asked(desk, nvda_trade(setup=setup))
            desk.told(decision, "closed", exit_reason="target")

        counts_of(shared_database_url, desk.account_id)
        rows = execute(
            shared_database_url,
            "SELECT setup, direction, win, r_win, ev_n FROM outcome_sums WHERE account_id = $1",
            desk.account_id,
        )
        assert {(row["setup"], row["direction"], row["win"], row["ev_n"]) for row in rows} == {
            ("breakout", "long", 1, 1),
            ("momentum", "long", 1, 1),
        }


def a_line(decision: dict[str, Any] | str, **changes: Any) -> dict[str, Any]:
    """A closing at the target as a line of a batch; a value of `...` leaves the field out."""
    decision_id = decision if isinstance(decision, str) else decision["decision_id"]
    line = {
        "decision_id": decision_id,
        "exit_at": "2026-11-21T15:30:04Z",
        "exit_price": "137.00",
        "quantity": 10,
        "fees": "0.53",
        "exit_reason": "target",
    }
    return {name: value for name, value in {**line, **changes}.items() if value is not ...}


def as_json(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": json.dumps(lines), "headers": {"content-type": "application/json"}}


def as_csv(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The same lines as a CSV; what a line lacks is an empty cell."""
    header = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(lines)
    return {"content": text.getvalue().encode(), "headers": {"content-type": "text/csv; charset=utf-8"}}


FORMS = pytest.mark.parametrize("form", [as_json, as_csv], ids=["json", "csv"])


def sent(desk: Desk, form: Any, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Report a batch and give the result of each line; the totals must be theirs."""
    request = form(lines)
    answer = desk.client.post("/outcomes", content=request["content"], headers={**request["headers"], **desk.headers})
    assert answer.status_code == 200, answer.text
    OutcomesResponse.model_validate_json(answer.content)
    document = answer.json()
    results: list[dict[str, Any]] = document["results"]
    assert [result["line"] for result in results] == list(range(1, len(lines) + 1))
    statuses = Counter(result["status"] for result in results)
    assert {name: statuses[name] for name in ("recorded", "repeated", "refused")} == {
        name: document[name] for name in ("recorded", "repeated", "refused")
    }
    return results


class TestABatch:
    @FORMS
    def test_is_answered_line_by_line(self, desk: Desk, shared_database_url: str, form: Any) -> None:
        decisions = [desk.approved(symbol=symbol) for symbol in ("NVDA", "MSFT", "AMZN")]
        lines = [
            a_line(decisions[0]),
            a_line(decisions[1], exit_price="119.80", exit_reason="stop", event_id="my-exit"),
            a_line(decisions[2], exit_price=..., exit_reason="time", realized_pnl="-1.25", fees=..., quantity=...),
        ]

        results = sent(desk, form, lines)

        assert [(result["status"], result["outcome"], result["code"]) for result in results] == [
            ("recorded", "win", None),
            ("recorded", "loss", None),
            ("recorded", "timeout", None),
        ]
        ids = [decision["decision_id"] for decision in decisions]
        assert [result["decision_id"] for result in results] == ids
        assert [result["event_id"] for result in results] == [f"closed:{ids[0]}", "my-exit", f"closed:{ids[2]}"]
        # -1.25 on all of the ticket's shares.
        r = Decimal("-1.25") / (decisions[2]["order"]["quantity"] * unit_usd(shared_database_url, decisions[2]))
        assert Decimal(results[2]["r_multiple"]) == r.quantize(Decimal("0.000001"))
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, (1, 1, 0, 1))

    @FORMS
    def test_told_again_counts_once(self, desk: Desk, shared_database_url: str, form: Any) -> None:
        decision = desk.approved()
        first = sent(desk, form, [a_line(decision), a_line(decision)])

        again = sent(desk, form, [a_line(decision, exit_price="137.0")])

        assert [result["status"] for result in first + again] == ["recorded", "repeated", "repeated"]
        assert {(result["outcome"], result["r_multiple"]) for result in first + again} == {
            ("win", first[0]["r_multiple"])
        }
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, WIN)

    def test_is_the_same_in_both_forms(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()

        results = sent(desk, as_json, [a_line(decision)]) + sent(desk, as_csv, [a_line(decision)])

        assert [result["status"] for result in results] == ["recorded", "repeated"]

    def test_and_an_event_tell_of_one_closing(self, desk: Desk, shared_database_url: str) -> None:
        decision = desk.approved()
        event_id = f"closed:{decision['decision_id']}"
        closing = {"at": "2026-11-21T15:30:04Z", "quantity": 10, "fees": "0.53", "exit_reason": "target"}
        desk.told(decision, "closed", event_id=event_id, **closing)

        assert sent(desk, as_json, [a_line(decision)])[0]["status"] == "repeated"

    @FORMS
    @pytest.mark.parametrize(
        ("wrong", "code", "named"),
        [
            ({"decision_id": UNKNOWN}, "NOT_FOUND", UNKNOWN),
            ({"decision_id": "7"}, "VALIDATION_ERROR", "decision_id"),
            ({"decision_id": ...}, "VALIDATION_ERROR", "decision_id"),
            ({"exit_at": ...}, "VALIDATION_ERROR", "exit_at"),
            ({"exit_at": "yesterday"}, "VALIDATION_ERROR", "exit_at"),
            ({"exit_at": "2026-11-21T15:30:04"}, "VALIDATION_ERROR", "exit_at"),
            ({"exit_at": "2026-11-20T15:29:59Z"}, "EVENT_IMPOSSIBLE", "at"),
            ({"exit_at": "2126-11-20T15:30:00Z"}, "EVENT_IMPOSSIBLE", "at"),
            ({"exit_price": ...}, "VALIDATION_ERROR", "exit_price"),
            ({"exit_price": "0"}, "VALIDATION_ERROR", "exit_price"),
            ({"exit_price": "-137.00"}, "VALIDATION_ERROR", "exit_price"),
            ({"exit_price": "1e3"}, "VALIDATION_ERROR", "exit_price"),
            ({"exit_price": "NaN"}, "VALIDATION_ERROR", "exit_price"),
            ({"exit_price": "137,00"}, "VALIDATION_ERROR", "exit_price"),
            ({"quantity": -10}, "VALIDATION_ERROR", "quantity"),
            ({"quantity": 1.5}, "VALIDATION_ERROR", "quantity"),
            ({"quantity": 10**13}, "VALIDATION_ERROR", "quantity"),
            ({"quantity": 10_000}, "EVENT_IMPOSSIBLE", "quantity"),
            ({"fees": "free"}, "VALIDATION_ERROR", "fees"),
            ({"exit_reason": "bored"}, "VALIDATION_ERROR", "exit_reason"),
            ({"realized_pnl": "Infinity"}, "VALIDATION_ERROR", "realized_pnl"),
            ({"event_id": "x" * 256}, "VALIDATION_ERROR", "event_id"),
            ({"event_id": "a\tb"}, "VALIDATION_ERROR", "event_id"),
        ],
        ids=str,
    )
    def test_refuses_a_line_by_its_code_and_counts_the_others(
        self,
        desk: Desk,
        shared_database_url: str,
        form: Any,
        wrong: dict[str, Any],
        code: str,
        named: str,
    ) -> None:
        before, refused, after = (desk.approved(symbol=symbol) for symbol in ("NVDA", "MSFT", "AMZN"))

        results = sent(desk, form, [a_line(before), a_line(refused, **wrong), a_line(after)])

        assert [result["status"] for result in results] == ["recorded", "refused", "recorded"]
        assert results[1]["code"] == code
        assert named in results[1]["detail"]
        assert (results[1]["outcome"], results[1]["r_multiple"]) == (None, None)
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, (2, 0, 0, 0))
        assert forecast_of(shared_database_url, refused)["executed_outcome"] is None
        told = "SELECT count(*) FROM decision_events WHERE decision_id = $1"
        assert execute(shared_database_url, told, UUID(refused["decision_id"]))[0]["count"] == 0

    @FORMS
    def test_refuses_what_contradicts_what_was_told(self, desk: Desk, shared_database_url: str, form: Any) -> None:
        closed, rejected = desk.approved(), desk.approved(symbol="MSFT")
        blocked = desk.ask(symbol="AMZN", daily_pnl=-5_000)
        desk.told(rejected, "rejected")

        results = sent(
            desk,
            form,
            [
                a_line(closed),
                a_line(closed, exit_price="119.80", exit_reason="stop"),
                a_line(closed, event_id="another"),
                a_line(rejected),
                a_line(blocked),
            ],
        )

        assert [(result["status"], result["code"]) for result in results] == [
            ("recorded", None),
            ("refused", "EVENT_CONFLICT"),
            ("refused", "EVENT_OUT_OF_ORDER"),
            ("refused", "EVENT_OUT_OF_ORDER"),
            ("refused", "DECISION_NOT_EXECUTABLE"),
        ]
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, WIN)

    @FORMS
    def test_refuses_unknown_fields(self, desk: Desk, form: Any) -> None:
        request = form([a_line(desk.approved(), note="hello")])

        answer = desk.client.post("/outcomes", **request)

        # In a CSV the header says so for all lines.
        if form is as_csv:
            assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == ["note"]
        else:
            assert [result["code"] for result in answer.json()["results"]] == ["VALIDATION_ERROR"]

    @pytest.mark.parametrize("line", [None, 7, "x", [], True, {}], ids=repr)
    def test_refuses_lines_that_are_no_outcomes(self, desk: Desk, line: object) -> None:
        answer = desk.client.post("/outcomes", json=[line])

        assert [result["code"] for result in answer.json()["results"]] == ["VALIDATION_ERROR"]

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (b"", ErrorCode.MALFORMED_JSON),
            (b"[{]", ErrorCode.MALFORMED_JSON),
            (b'[{"quantity": NaN}]', ErrorCode.MALFORMED_JSON),
            (b'["\xff"]', ErrorCode.MALFORMED_JSON),
            (b'["\\ud800"]', ErrorCode.MALFORMED_JSON),
            (b"{}", ErrorCode.VALIDATION_ERROR),
            (b"null", ErrorCode.VALIDATION_ERROR),
            (b"[]", ErrorCode.VALIDATION_ERROR),
            (b"[" + b"1," * MAX_LINES + b"1]", ErrorCode.VALIDATION_ERROR),
        ],
        ids=["empty", "no json", "nan", "no utf-8", "half a pair", "object", "null", "no lines", "too many lines"],
    )
    def test_refuses_a_json_body_as_a_whole(self, offline: TestClient, body: bytes, code: ErrorCode) -> None:
        problem_of(offline.post("/outcomes", content=body), code)

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"", "lacks this column"),
            (b"decision_id,exit_at\n", "1 to 10000 lines"),
            (b"decision_id,exit_price\nx,1\n", "exit_at"),
            (b"exit_at,exit_price\nx,1\n", "decision_id"),
            (b"decision_id,exit_at,exit_at\nx,1,2\n", "named twice"),
            (b"decision_id,exit_at,profit\nx,1,2\n", "profit"),
            (b"decision_id;exit_at\nx;1\n", "no column"),
            (b"decision_id,exit_at\n\xff,1\n", "UTF-8"),
            ("decision_id,exit_at\nx,1\n".encode("utf-16"), "UTF-8"),
            (b'decision_id,exit_at\n"x,1\n', "not a CSV"),
            (b'decision_id,exit_at\n"x"y,1\n', "not a CSV"),
            (b"decision_id,exit_at\n" + b"x" * 200_000 + b",1\n", "not a CSV"),
            (b"decision_id,exit_at\n" + b"x,1\n" * (MAX_LINES + 1), "1 to 10000 lines"),
        ],
        ids=[
            *("empty", "no lines", "no exit_at", "no id", "twice", "unknown column", "semicolons"),
            *("bytes", "utf-16", "open quote", "torn quote", "huge cell", "too many lines"),
        ],
    )
    def test_refuses_a_csv_as_a_whole(self, offline: TestClient, body: bytes, said: str) -> None:
        answer = offline.post("/outcomes", content=body, headers={"content-type": "text/csv"})

        assert said in problem_of(answer, ErrorCode.VALIDATION_ERROR).detail

    def test_refuses_lines_longer_or_shorter_than_the_header(self, desk: Desk, shared_database_url: str) -> None:
        first, second, third = (desk.approved(symbol=symbol) for symbol in ("NVDA", "MSFT", "AMZN"))
        text = (
            "\ufeffdecision_id,exit_at,exit_price\n"
            f"{first['decision_id']},2026-11-21T15:30:04Z,137.00,7\n"
            f"{second['decision_id']},2026-11-21T15:30:04Z\n"
            "\n"
            f"{third['decision_id']},2026-11-21T15:30:04Z,137.00\n"
        )

        answer = desk.client.post("/outcomes", content=text.encode(), headers={"content-type": "text/csv"})

        results = answer.json()["results"]
        assert [result["status"] for result in results] == ["refused", "refused", "recorded"]
        assert "beyond the header" in results[0]["detail"]
        assert "exit_price" in results[1]["detail"]
        assert counts_of(shared_database_url, desk.account_id) == dict.fromkeys(SAID, WIN)

    def test_of_another_media_type_is_refused(self, offline: TestClient) -> None:
        answer = offline.post("/outcomes", content=b"[]", headers={"content-type": "application/xml"})

        assert "json" not in problem_of(answer, ErrorCode.UNSUPPORTED_MEDIA_TYPE).title

    def test_of_no_shares_are_refused(self, desk: Desk, shared_database_url: str) -> None:
        line = a_line(desk.approved()["decision_id"])

        results = desk.client.post("/outcomes", json=[line | {"quantity": 0}, line | {"quantity": 1}]).json()["results"]

        assert [(result["status"], result["code"]) for result in results] == [
            ("refused", ErrorCode.VALIDATION_ERROR),
            ("recorded", None),
        ]
        assert results[0]["detail"].startswith("quantity: ")

    def test_is_refused_while_the_store_is_away(self, offline: TestClient) -> None:
        problem_of(offline.post("/outcomes", json=[a_line(UNKNOWN)]), ErrorCode.STORE_UNAVAILABLE)


class TestAHugeCsv:
    HUGE = 100 * 1024 * 1024

    @pytest.fixture
    def running(self, serve: Serve) -> Iterator[httpx2.Client]:
        with serve(create_app(settings_for(NOWHERE), decider=FakeDecider())) as client:
            yield client

    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
    def test_is_refused_and_never_held(self, running: httpx2.Client, declared: bool) -> None:
        lines = b"0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10,2026-11-21T15:30:04Z\n" * 1_024
        headers = {"content-type": "text/csv"}
        if declared:
            headers["content-length"] = str(self.HUGE // len(lines) * len(lines))

        def chunks() -> Iterator[bytes]:
            for _ in range(self.HUGE // len(lines)):
                yield lines

        tracemalloc.start()
        try:
            answer = running.post("/outcomes", content=chunks(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        problem_of(answer, ErrorCode.BODY_TOO_LARGE)
        # The limit is 1 MiB; client and server are both in this process.
        assert peak < 8 * 1024 * 1024
        assert running.get("/healthz").status_code == 200


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

        problem_of(client.post("/outcomes", json=[a_line(decision)], headers=decides.headers), ErrorCode.FORBIDDEN)
        problem_of(client.post("/outcomes", json=[a_line(decision)]), ErrorCode.UNAUTHENTICATED)
        assert sent(reports, as_json, [a_line(decision)])[0]["status"] == "recorded"

    def test_report_on_their_own_accounts_alone(
        self, guarded: Any, issue: Issue, account_id: str, shared_database_url: str
    ) -> None:
        client, decider = guarded
        everything = (Scope.DECIDE, Scope.REPORT)
        mine = Desk(client, decider, account_id, headers=bearer(issue(*everything, accounts=[account_id])))
        theirs = Desk(client, decider, f"{account_id}-b", headers=bearer(issue(*everything, accounts=["b"])))
        decision = mine.approved()

        foreign, unknown = sent(theirs, as_json, [a_line(decision), a_line(UNKNOWN)])

        # A foreign decision is told from an unknown one by nothing but its id.
        assert (foreign["code"], unknown["code"]) == ("NOT_FOUND", "NOT_FOUND")
        assert foreign["detail"].replace(decision["decision_id"], UNKNOWN) == unknown["detail"]
        assert counts_of(shared_database_url, account_id) == {}
        assert sent(mine, as_json, [a_line(decision)])[0]["status"] == "recorded"
