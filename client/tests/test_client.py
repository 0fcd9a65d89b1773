"""Both clients say the same over HTTP: every test runs with the one that waits and with the one that is awaited."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
import respx
from scenes import HALT, PROGRESS, REPORT, a_live_answer, a_live_ticket, a_problem, a_snapshot, a_ticket, an_answer

import tradeverdict_client as tv
from tradeverdict_client import AsyncTradeVerdict, Bar, Event, Outcome, RetryLimits, TradeVerdict

URL = "http://service.test"
QUICK = RetryLimits(deadline_s=5, attempt_s=2, first_pause_s=0.001, longest_pause_s=0.002)

Ask = Callable[..., Any]


def ask_and_wait(method: str, *arguments: Any, url: str = URL, limits: RetryLimits = QUICK, **named: Any) -> Any:
    with TradeVerdict(url, "tv_key_secret", limits=limits) as client:
        return getattr(client, method)(*arguments, **named)


def ask_and_await(method: str, *arguments: Any, url: str = URL, limits: RetryLimits = QUICK, **named: Any) -> Any:
    async def run() -> Any:
        async with AsyncTradeVerdict(url, "tv_key_secret", limits=limits) as client:
            return await getattr(client, method)(*arguments, **named)

    return asyncio.run(run())


@pytest.fixture(params=[ask_and_wait, ask_and_await], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    chosen: Ask = request.param
    return chosen


@pytest.fixture
def service() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL) as router:
        yield router


def sent(route: respx.Route) -> list[httpx.Request]:
    return [call.request for call in route.calls]


def test_a_decision_comes_with_its_key(ask: Ask, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=an_answer())

    decision = ask("decide", a_snapshot())

    (request,) = sent(route)
    assert request.headers["Idempotency-Key"] == decision.idempotency_key
    assert request.headers["Authorization"] == "Bearer tv_key_secret"
    assert request.headers["Content-Type"] == "application/json"
    assert not decision.replayed
    assert decision.ticket is not None
    assert (decision.ticket.decision_id, decision.ticket.quantity) == (decision.decision_id, 53)


def test_only_what_is_known_is_sent(ask: Ask, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=an_answer())

    ask("decide", a_snapshot())

    assert json.loads(sent(route)[0].content) == {
        "account": {
            "id": "paper-1",
            "equity": 100000,
            "cash": 62000,
            "positions": [{"symbol": "AAPL", "quantity": 50, "mark_price": 201.2, "stop_loss": 185}],
            "daily_pnl": -350,
        },
        "as_of": "2026-11-20T15:30:00Z",
        "market": [{"symbol": "NVDA", "price": 125.4, "bid": 125.38, "ask": 125.42, "atr": 4.1, "adv": 31e9}],
    }


@pytest.mark.parametrize(
    "failures",
    [
        [httpx.ReadError("reset"), httpx.ConnectError("refused")],
        [httpx.Response(503, json=a_problem("STORE_UNAVAILABLE", 503)), httpx.ReadTimeout("late")],
        [httpx.Response(409, json=a_problem("IDEMPOTENCY_IN_FLIGHT", 409), headers={"Retry-After": "0"})] * 3,
        [httpx.Response(429, json=a_problem("RATE_LIMITED", 429), headers={"Retry-After": "0"})],
        [httpx.Response(502, html="<h1>Bad Gateway</h1>"), httpx.Response(504)],
    ],
)
def test_every_attempt_has_the_same_key_and_the_same_bytes(
    failures: list[Any], ask: Ask, service: respx.MockRouter
) -> None:
    replay = httpx.Response(200, json=an_answer(), headers={"Idempotency-Replayed": "true"})
    route = service.post("/decide").mock(side_effect=[*failures, replay])

    decision = ask("decide", a_snapshot())

    requests = sent(route)
    assert len(requests) == len(failures) + 1
    assert {request.headers["Idempotency-Key"] for request in requests} == {decision.idempotency_key}
    assert len({request.content for request in requests}) == 1
    assert decision.replayed


def test_two_decisions_have_two_keys(ask: Ask, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=an_answer())

    ask("decide", a_snapshot())
    ask("decide", a_snapshot())

    assert len({request.headers["Idempotency-Key"] for request in sent(route)}) == 2


def test_after_an_error_the_same_decision_can_be_asked_for(ask: Ask, service: respx.MockRouter) -> None:
    lost = httpx.ReadError("reset")
    route = service.post("/decide").mock(side_effect=lost)
    with pytest.raises(tv.NoAnswer) as failed:
        ask("decide", a_snapshot(), deadline_s=0.05)
    route.mock(return_value=httpx.Response(200, json=an_answer()))

    decision = ask("decide", a_snapshot(), idempotency_key=failed.value.idempotency_key)

    assert decision.idempotency_key == failed.value.idempotency_key
    assert len({(request.headers["Idempotency-Key"], request.content) for request in sent(route)}) == 1
    assert failed.value.__cause__ is lost


@pytest.mark.parametrize("key", ["", " key", "kéy", "a\nb", "k" * 256])
def test_a_key_that_no_header_can_hold_is_not_sent(key: str, ask: Ask, service: respx.MockRouter) -> None:
    with pytest.raises(tv.InvalidInput, match="idempotency key"):
        ask("decide", a_snapshot(), idempotency_key=key)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "UNAUTHENTICATED", tv.Unauthenticated),
        (403, "FORBIDDEN", tv.Forbidden),
        (404, "NOT_FOUND", tv.NotFound),
        (409, "EVENT_CONFLICT", tv.Conflict),
        (409, "DECISION_NOT_EXECUTABLE", tv.Conflict),
        (409, "HALTED", tv.Halted),
        (409, "REDUCE_ONLY", tv.Halted),
        (409, "TICKET_EXPIRED", tv.LateClaim),
        (413, "BODY_TOO_LARGE", tv.BadRequest),
        (422, "VALIDATION_ERROR", tv.BadRequest),
        (422, "IDEMPOTENCY_KEY_REUSED", tv.BadRequest),
        (500, "INTERNAL_ERROR", tv.ServiceError),
    ],
)
def test_errors_are_typed_and_have_the_services_code(
    status: int, code: str, kind: type[tv.ApiError], ask: Ask, service: respx.MockRouter
) -> None:
    faults = [{"field": "market.0.price", "message": "Input should be greater than 0"}]
    route = service.post("/decide").respond(status, json=a_problem(code, status, errors=faults))

    with pytest.raises(kind) as raised:
        ask("decide", a_snapshot())

    error = raised.value
    assert route.call_count == 1
    assert (error.code, error.status, error.request_id, error.attempts) == (code, status, "request-1", 1)
    assert error.errors == (tv.FieldError("market.0.price", "Input should be greater than 0"),)
    assert error.idempotency_key == sent(route)[0].headers["Idempotency-Key"]


def test_a_late_claim_is_an_expired_ticket() -> None:
    assert issubclass(tv.LateClaim, tv.TicketExpired)


def test_a_gateways_page_is_an_error_too(ask: Ask, service: respx.MockRouter) -> None:
    service.post("/decide").respond(502, html="<h1>Bad Gateway</h1>")

    with pytest.raises(tv.ServiceError) as raised:
        ask("decide", a_snapshot(), deadline_s=0.05)

    assert raised.value.code == "HTTP_502"


@pytest.mark.parametrize("content", [b"", b"<h1>Hello</h1>", b"[]", b"NaN", b'{"verdict": "approved"}'])
def test_an_answer_that_is_no_decision_is_refused(content: bytes, ask: Ask, service: respx.MockRouter) -> None:
    service.post("/decide").respond(200, content=content)

    with pytest.raises(tv.UnexpectedAnswer) as raised:
        ask("decide", a_snapshot())

    assert raised.value.idempotency_key


def test_an_answer_for_another_account_or_mode_is_refused(ask: Ask, service: respx.MockRouter) -> None:
    for answer in (an_answer(account_id="paper-2"), an_answer(order={"mode": "live"})):
        service.post("/decide").respond(json=answer)
        with pytest.raises(tv.UnexpectedAnswer, match="asked for"):
            ask("decide", a_snapshot())


def test_nobody_follows_a_redirect(ask: Ask, service: respx.MockRouter) -> None:
    service.post("/decide").respond(307, headers={"Location": "http://elsewhere.test/decide"})

    with pytest.raises(tv.UnexpectedAnswer, match="307"):
        ask("decide", a_snapshot())


def test_a_limit_that_lasts_longer_than_the_deadline_is_told_at_once(ask: Ask, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(429, json=a_problem("RATE_LIMITED", 429), headers={"Retry-After": "60"})

    with pytest.raises(tv.RateLimited) as raised:
        ask("decide", a_snapshot())

    assert raised.value.retry_after_s == 60
    assert route.call_count == 1


def test_an_earlier_decision_can_be_read_again(ask: Ask, service: respx.MockRouter) -> None:
    answer = an_answer()
    service.get(f"/decisions/{answer['decision_id']}").respond(json={"symbol": "NVDA", "response": answer})

    decision = ask("decision", answer["decision_id"])

    assert decision.decision_id == answer["decision_id"]


def test_a_claim_is_one_event_however_often_it_is_sent(ask: Ask, service: respx.MockRouter) -> None:
    ticket = a_live_ticket()
    route = service.post(f"/decisions/{ticket.decision_id}/events").mock(
        side_effect=[httpx.ReadError("reset"), httpx.Response(503), httpx.Response(200, json=REPORT)]
    )

    progress = ask("claim", ticket).ticket

    bodies = [json.loads(request.content) for request in sent(route)]
    assert len(bodies) == 3
    assert len({body["event_id"] for body in bodies}) == 1
    assert bodies[0]["event"] == "claimed"
    assert (progress.phase, progress.open_quantity) == ("working", 53)


def test_an_expired_ticket_is_not_even_claimed(ask: Ask, service: respx.MockRouter) -> None:
    with pytest.raises(tv.TicketExpired):
        ask("claim", a_ticket())


def test_nor_is_one_without_its_stop(ask: Ask, service: respx.MockRouter) -> None:
    ticket = tv.decision.read_decision(a_live_answer(order=dict(an_answer()["order"], stop_loss=None))).ticket

    with pytest.raises(tv.StopMissing):
        ask("claim", ticket)


def test_a_claim_must_be_one(ask: Ask) -> None:
    with pytest.raises(tv.InvalidInput, match="no claim"):
        ask("claim", a_live_ticket(), event=Event.cancelled())


def test_a_report_that_failed_is_told_again_under_its_id(ask: Ask, service: respx.MockRouter) -> None:
    fill = Event.filled(quantity=53, price=Decimal("125.40"), stop_placed=True, fees="0.53")
    route = service.post("/decisions/d-1/events").mock(side_effect=httpx.ReadError("reset"))
    with pytest.raises(tv.NoAnswer) as failed:
        ask("report", "d-1", fill, deadline_s=0.05)
    route.mock(return_value=httpx.Response(201, json=REPORT | {"ticket": PROGRESS | {"average_fill_price": "125.40"}}))

    progress = ask("report", "d-1", fill).ticket

    assert failed.value.event_id == fill.event_id
    assert len({request.content for request in sent(route)}) == 1
    told = json.loads(sent(route)[0].content)
    assert {name: told[name] for name in ("event", "quantity", "price", "stop_placed", "fees")} == {
        "event": "filled",
        "quantity": 53,
        "price": "125.40",
        "stop_placed": True,
        "fees": "0.53",
    }
    assert progress.average_fill_price == Decimal("125.40")


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event.acknowledged(stop_placed=True), {"event": "acknowledged", "stop_placed": True}),
        (
            Event.partially_filled(quantity=3, price=0.1, stop_placed=False),
            {"event": "partially_filled", "quantity": 3, "price": "0.1", "stop_placed": False},
        ),
        (Event.cancelled(), {"event": "cancelled"}),
        (Event.rejected(), {"event": "rejected"}),
        (
            Event.closed(exit_reason="target", price="137.00", fees=1),
            {"event": "closed", "exit_reason": "target", "price": "137.00", "fees": "1"},
        ),
        (Event.corrected(corrects="e-1", price="125.41"), {"event": "corrected", "corrects": "e-1", "price": "125.41"}),
    ],
    ids=lambda given: given.event if isinstance(given, Event) else "",
)
def test_each_event_says_what_it_needs(event: Event, said: dict[str, Any], ask: Ask, service: respx.MockRouter) -> None:
    route = service.post("/decisions/d-1/events").respond(201, json=REPORT)

    ask("report", "d-1", event)

    told = json.loads(sent(route)[0].content)
    assert told == said | {"event_id": event.event_id, "at": event.at.isoformat().replace("+00:00", "Z")}


def test_ids_cannot_lead_elsewhere(ask: Ask, service: respx.MockRouter) -> None:
    route = service.post(url__regex=".*").respond(201, json=REPORT)

    ask("report", "../halt?x=", Event.cancelled())

    assert sent(route)[0].url.raw_path == b"/decisions/..%2Fhalt%3Fx%3D/events"


def test_a_closing_has_a_result(ask: Ask, service: respx.MockRouter) -> None:
    result = {"outcome": "win", "r_multiple": "2.05", "predicted_ev_r": "0.648297", "holding_s": 3600}
    service.post("/decisions/d-1/events").respond(201, json=REPORT | {"result": result})

    report = ask("report", "d-1", Event.closed(exit_reason="target", price="137.00"))

    assert (report.result.outcome, report.result.r_multiple) == ("win", Decimal("2.05"))


def outcome_result(line: int, **changes: Any) -> dict[str, Any]:
    recorded = {"status": "recorded", "code": None, "detail": None, "outcome": "win", "r_multiple": "2.05"}
    return {"line": line, "decision_id": f"d-{line}", "event_id": f"closed:d-{line}"} | recorded | changes


def test_outcomes_have_a_result_each(ask: Ask, service: respx.MockRouter) -> None:
    ended = datetime(2026, 11, 21, tzinfo=UTC)
    outcomes = [Outcome(decision_id=f"d-{number}", exit_at=ended, exit_price="137.00") for number in (1, 2)]
    refused = outcome_result(2, status="refused", code="NOT_FOUND", detail="no", outcome=None, r_multiple=None)
    route = service.post("/outcomes").mock(
        side_effect=[httpx.Response(503), httpx.Response(200, json={"results": [outcome_result(1), refused]})]
    )

    first, second = ask("post_outcomes", iter(outcomes))

    assert (first.refused, first.outcome, first.r_multiple) == (False, "win", Decimal("2.05"))
    assert (second.refused, second.code) == (True, "NOT_FOUND")
    assert json.loads(sent(route)[1].content) == [
        {"decision_id": f"d-{number}", "exit_at": "2026-11-21T00:00:00Z", "exit_price": "137.00"} for number in (1, 2)
    ]


def test_an_answer_with_too_few_results_is_refused(ask: Ask, service: respx.MockRouter) -> None:
    service.post("/outcomes").respond(json={"results": []})

    with pytest.raises(tv.UnexpectedAnswer):
        ask("post_outcomes", [Outcome(decision_id="d-1", exit_at=datetime.now(UTC))])


def test_bars_are_sent_by_symbol(ask: Ask, service: respx.MockRouter) -> None:
    day = datetime(2026, 11, 20, tzinfo=UTC)
    dropped = {"symbol": "NVDA", "index": 0, "t": "2026-11-20T00:00:00Z", "reason": "high_below_low"}
    route = service.post("/bars").respond(json={"resolved": 3, "unfilled": 1, "dropped": [dropped]})

    result = ask("post_bars", {"NVDA": [Bar(t=day, o=1, h=2, l=0.5, c=1.5, v=100)]})

    assert (result.resolved, result.unfilled, result.dropped[0].reason) == (3, 1, "high_below_low")
    assert json.loads(sent(route)[0].content) == {
        "interval": "1d",
        "bars": {"NVDA": [{"t": "2026-11-20T00:00:00Z", "o": 1, "h": 2, "l": 0.5, "c": 1.5, "v": 100}]},
    }


def test_calibration_can_be_read(ask: Ask, service: respx.MockRouter) -> None:
    counts = {"resolved": 3, "pending": 2, "win": 1, "loss": 2, "scratch": 0, "timeout": 0}
    told = {"verdict": "insufficient", "counts": counts, "brier": None, "murphy": None, "slope": 1}
    route = service.get("/calibration").respond(json=told)

    calibration = ask("calibration", days=30, from_="2026-11-01T00:00:00Z", account=None)

    assert dict(sent(route)[0].url.params) == {"days": "30", "from": "2026-11-01T00:00:00Z"}
    assert (calibration.verdict, calibration.counts.pending, calibration.brier) == ("insufficient", 2, None)
    assert calibration.slope == 1.0
    assert calibration.extra == {"murphy": None}


def test_halts_are_set_listed_and_lifted(ask: Ask, service: respx.MockRouter) -> None:
    posted = service.post("/halt").mock(side_effect=[httpx.ReadError("reset"), httpx.Response(200, json=HALT)])
    service.get("/halt").respond(json={"halts": [HALT]})
    deleted = service.delete("/halt").respond(json={"lifted": [HALT], "in_force": []})

    halt = ask("halt", None, reason="flash crash", operator="ana")
    listed = ask("halts")
    resumed = ask("resume", None, reason="calm again", operator="ben")

    assert (halt.state, listed, resumed.lifted) == ("halted", (halt,), (halt,))
    assert json.loads(sent(posted)[1].content) == {
        "account_id": None,
        "state": "halted",
        "reason": "flash crash",
        "operator": "ana",
    }
    assert json.loads(sent(deleted)[0].content)["operator"] == "ben"


@pytest.mark.parametrize("lost", [httpx.ReadError("reset"), httpx.Response(503)])
def test_resuming_is_never_blindly_repeated(lost: Any, ask: Ask, service: respx.MockRouter) -> None:
    route = service.delete("/halt").mock(side_effect=[lost])

    with pytest.raises((tv.NoAnswer, tv.ServiceError)):
        ask("resume", None, reason="calm again", operator="ben")

    assert route.call_count == 1


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), object()])
def test_what_is_no_number_is_not_sent(figure: Any, ask: Ask, service: respx.MockRouter) -> None:
    snapshot = tv.Snapshot(
        account=a_snapshot().account, as_of=a_snapshot().as_of, market=[tv.SymbolData(symbol="NVDA", price=figure)]
    )

    with pytest.raises(tv.InvalidInput):
        ask("decide", snapshot)


def test_a_time_without_a_zone_is_not_sent(ask: Ask, service: respx.MockRouter) -> None:
    naive = tv.Snapshot(
        account=a_snapshot().account,
        as_of=datetime(2026, 11, 20, 15, 30),  # noqa: DTZ001 (that is the point)
        market=a_snapshot().market,
    )

    with pytest.raises(tv.InvalidInput, match="time zone"):
        ask("decide", naive)


def test_a_wrong_address_is_no_reason_to_try_again(ask: Ask) -> None:
    with pytest.raises(tv.InvalidInput):
        ask("halts", url="gopher://service.test")


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, service: respx.MockRouter) -> None:
    monkeypatch.setenv("TRADEVERDICT_URL", f"{URL}/")
    monkeypatch.setenv("TRADEVERDICT_API_KEY", "tv_other_key")
    route = service.get("/halt").respond(json={"halts": []})

    with TradeVerdict() as client:
        assert client.halts() == ()

    assert sent(route)[0].headers["Authorization"] == "Bearer tv_other_key"


def test_the_key_is_shown_nowhere(ask: Ask, service: respx.MockRouter) -> None:
    service.post("/decide").mock(side_effect=httpx.ReadError("reset"))

    with pytest.raises(tv.NoAnswer) as raised:
        ask("decide", a_snapshot(), deadline_s=0.02)

    with TradeVerdict(URL, "tv_key_secret") as client:
        assert "secret" not in repr(client) + repr(raised.value) + str(raised.value)


def test_a_key_that_no_header_can_hold_is_refused_without_showing_it() -> None:
    with pytest.raises(tv.InvalidInput) as raised:
        TradeVerdict(URL, "tv_secret\n")

    assert "tv_secret" not in str(raised.value)


def test_an_http_client_of_ones_own_stays_open() -> None:
    with httpx.Client() as http:
        with TradeVerdict(URL, http_client=http):
            pass
        assert not http.is_closed


async def test_an_async_http_client_of_ones_own_stays_open() -> None:
    async with httpx.AsyncClient() as http:
        async with AsyncTradeVerdict(URL, http_client=http):
            pass
        assert not http.is_closed


def test_a_bug_is_no_lost_connection(service: respx.MockRouter) -> None:
    service.post("/decide").mock(side_effect=ZeroDivisionError)

    for ask in (ask_and_wait, ask_and_await):
        with pytest.raises(ZeroDivisionError):
            ask("decide", a_snapshot())


@contextmanager
def a_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A local server that does this to each connection, and the address of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for connection in connections:
            connection.close()


def says_nothing(connection: socket.socket) -> None:
    connection.recv(65_536)


def drips(connection: socket.socket) -> None:
    """Send headers without end, a byte at a time: each read succeeds, and none is the last."""
    try:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)
    except OSError:
        return


@pytest.mark.parametrize("serve", [says_nothing, drips])
def test_the_deadline_holds_against_a_server_that_takes_its_time(
    serve: Callable[[socket.socket], None], ask: Ask
) -> None:
    limits = RetryLimits(deadline_s=0.6, attempt_s=0.25, first_pause_s=0.001)

    with a_server(serve) as url, pytest.raises(tv.NoAnswer) as raised:
        ask("decide", a_snapshot(), url=url, limits=limits)

    assert raised.value.attempts >= 2
    assert raised.value.idempotency_key


async def test_cancelling_is_not_mistaken_for_a_timeout() -> None:
    with a_server(says_nothing) as url:
        async with AsyncTradeVerdict(url, limits=RetryLimits()) as client:
            asking = asyncio.create_task(client.decide(a_snapshot()))
            await asyncio.sleep(0.05)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
