"""The client and the service name the same things: what one of them learns, the other must."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import tradeverdict_client as tv
from app.api import bars, calibration, events, halt, outcomes, responses, schemas
from app.api.errors import CATALOGUE, ErrorCode
from app.api.examples import DECIDE_RESPONSE
from app.api.schemas import DecideRequest
from app.domain.account import AccountMode, HaltState
from app.domain.lifecycle import EventKind, ExitReason
from app.domain.policy import Regime
from app.domain.proposal import Direction, Mode, ModelFailure
from app.domain.verdict import Verdict
from tests.builders import a_request
from tradeverdict_client import decision, prototype, reports, snapshot
from tradeverdict_client.calls import post_outcomes, report
from tradeverdict_client.decision import read_decision
from tradeverdict_client.errors import api_error
from tradeverdict_client.wire import encode

REQUESTS: list[tuple[type[Any], type[BaseModel]]] = [
    (tv.Account, schemas.AccountIn),
    (tv.Position, schemas.PositionIn),
    (tv.Bar, schemas.BarIn),
    (tv.SymbolData, schemas.SymbolIn),
    (tv.News, schemas.NewsIn),
    (tv.OptionsFlow, schemas.OptionsFlowIn),
    (tv.Snapshot, schemas.DecideRequest),
    (tv.Event, events.EventRequest),
    (tv.Outcome, outcomes.OutcomeLine),
]
ANSWERS: list[tuple[type[Any], type[BaseModel]]] = [
    (tv.Decision, responses.DecisionResponse),
    (tv.Ticket, responses.OrderOut),
    (decision.Target, responses.TargetOut),
    (decision.PriceCollar, responses.PriceCollarOut),
    (decision.Edge, responses.EdgeOut),
    (decision.Cap, responses.CapOut),
    (decision.Sizing, responses.SizingOut),
    (decision.CalibrationStanding, responses.CalibrationOut),
    (decision.GateResult, responses.GateOut),
    (decision.Candidate, responses.CandidateOut),
    (decision.BucketExposure, responses.BucketOut),
    (decision.RiskState, responses.RiskStateOut),
    (decision.Claim, responses.ClaimOut),
    (decision.WatchItem, responses.WatchItemOut),
    (decision.DataIssue, responses.DataIssueOut),
    (decision.Liquidity, responses.LiquidityOut),
    (decision.Decider, responses.DeciderOut),
    (decision.PolicyInForce, responses.PolicyOut),
    (reports.Progress, events.TicketOut),
    (reports.TradeResult, events.ResultOut),
    (reports.OutcomeResult, outcomes.OutcomeOut),
    (reports.DroppedBar, bars.DroppedBarOut),
    (reports.BarsResult, bars.BarsResponse),
    (reports.CalibrationCounts, calibration.CountsOut),
    (reports.Halt, halt.HaltOut),
    (reports.Resumed, halt.ResumeResponse),
]
OF_THE_CLIENT = {"extra", "idempotency_key", "replayed"}
OF_THE_DECISION = {"decision_id", "account_id", "as_of", "valid_until"}


def named(kind: type[Any]) -> set[str]:
    """The names under which the fields of one of the client's dataclasses are sent."""
    return {spec.metadata.get("key", spec.name) for spec in fields(kind)} - OF_THE_CLIENT


@pytest.mark.parametrize(("ours", "theirs"), REQUESTS, ids=lambda kind: kind.__name__)
def test_the_client_can_send_exactly_what_the_service_takes(ours: type[Any], theirs: type[BaseModel]) -> None:
    assert named(ours) == set(theirs.model_fields)


@pytest.mark.parametrize(("ours", "theirs"), ANSWERS, ids=lambda kind: kind.__name__)
def test_the_client_reads_exactly_what_the_service_sends(ours: type[Any], theirs: type[BaseModel]) -> None:
    added = OF_THE_DECISION if ours is tv.Ticket else set()

    assert named(ours) - added == set(theirs.model_fields)


def test_a_proposal_holds_an_entry_as_well_as_an_exit() -> None:
    both = set(responses.EntryProposalOut.model_fields) | set(responses.ManageProposalOut.model_fields)

    assert named(tv.Proposal) == both


def test_a_report_keeps_the_event_beside_what_it_reads() -> None:
    assert named(tv.Report) | {"event"} == set(events.EventResponse.model_fields)


def test_a_calibration_names_some_of_the_figures_and_keeps_the_others() -> None:
    assert named(tv.Calibration) < set(calibration.CalibrationResponse.model_fields)


def kept(answer: object) -> Iterator[Any]:
    """What an answer holds beyond the client's knowledge, at any depth."""
    if isinstance(answer, tuple):
        for item in answer:
            yield from kept(item)
    elif is_dataclass(answer):
        for spec in fields(answer):
            value = getattr(answer, spec.name)
            yield from value.items() if spec.name == "extra" else kept(value)


def test_the_documented_answer_is_read_to_the_last_field() -> None:
    read = read_decision(DECIDE_RESPONSE)

    assert list(kept(read)) == []
    assert read.ticket is not None
    assert read.ticket.checked(read.decided_at) is read.ticket


def test_the_documented_request_can_be_sent_from_the_clients_types() -> None:
    body = a_request()
    market = [
        tv.SymbolData(
            **{
                **symbol,
                "earnings_date": datetime.fromisoformat(symbol["earnings_date"]).date(),
                "bars": [tv.Bar(**{**bar, "t": datetime.fromisoformat(bar["t"])}) for bar in symbol["bars"]],
            }
        )
        for symbol in body["market"]
    ]
    news = [tv.News(**{**item, "timestamp": datetime.fromisoformat(item["timestamp"])}) for item in body["news"]]
    account = {**body["account"], "positions": [tv.Position(**held) for held in body["account"]["positions"]]}
    sent = tv.Snapshot(
        **{
            **body,
            "account": tv.Account(**account),
            "as_of": datetime.fromisoformat(body["as_of"]),
            "market": market,
            "news": news,
            "options_flow": [tv.OptionsFlow(**flow) for flow in body["options_flow"]],
        }
    )

    assert DecideRequest.model_validate_json(encode(sent)) == DecideRequest.model_validate_json(json.dumps(body))


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_of_the_service_has_a_type_of_its_own_kind(code: ErrorCode) -> None:
    status, _ = CATALOGUE[code]

    error = api_error(status=status, problem={"code": code, "detail": "why"}, retry_after_s=None)

    assert (error.code, error.status) == (code, status)
    assert type(error) is not tv.ApiError
    assert isinstance(error, tv.ServiceError) is (status >= 500)


def test_both_use_the_same_words() -> None:
    assert set(get_args(snapshot.Mode)) == set(AccountMode)
    assert set(get_args(snapshot.Regime)) == set(Regime)
    assert set(get_args(reports.ExitReason)) == set(ExitReason)
    assert set(get_args(reports.HaltState)) == set(HaltState)
    assert {mode.value for mode in prototype.TradingMode} == {mode.value for mode in Mode}
    assert {side.value for side in prototype.Direction} == {side.value for side in Direction}
    assert set(decision.APPROVING) == {Verdict.APPROVED, Verdict.RESIZED}


@pytest.mark.parametrize("code", ModelFailure)
def test_every_failure_of_a_model_is_seen_as_one(code: ModelFailure) -> None:
    answer = DECIDE_RESPONSE | {
        "verdict": "no_trade",
        "should_execute": False,
        "order": None,
        "reason_code": code.value,
        "degraded": False,
    }

    assert read_decision(answer).model_failed


EVENTS = [
    tv.Event.claimed(),
    tv.Event.acknowledged(stop_placed=True),
    tv.Event.partially_filled(quantity=3, price="125.40", stop_placed=True, fees="0.1"),
    tv.Event.filled(quantity=50, price=125.4, stop_placed=True),
    tv.Event.cancelled(),
    tv.Event.rejected(),
    tv.Event.closed(exit_reason="target", price="137.00"),
    tv.Event.corrected(corrects="fill-1", price="125.41"),
]


def test_every_event_of_the_service_can_be_told() -> None:
    for event in EVENTS:
        body = report("0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10", event).body
        assert body is not None
        read = events.EventRequest.model_validate_json(body).to_domain()
        assert (read.event_id, read.kind, read.at) == (event.event_id, event.event, event.at)

    assert {event.event for event in EVENTS} == set(EventKind)


def test_an_outcome_is_read_as_it_was_meant() -> None:
    ended = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
    told = tv.Outcome(decision_id="0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10", exit_at=ended, exit_price=137, fees=0.1)

    (line,) = json.loads(post_outcomes([told]).body or b"")
    read = outcomes.OutcomeLine.model_validate_json(json.dumps(line)).to_domain()

    assert (read.at, str(read.price), str(read.fees)) == (ended, "137", "0.1")
