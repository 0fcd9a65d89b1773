"""One decision leaves one line, one trace and its counts: through HTTP, over stand-ins for models and a collector."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.parser import text_string_to_metric_families

from app.otlp import FLUSH_S
from app.settings import LogFormat, LogLevel, Secret
from app.telemetry import configure_logging
from app.tracing import read_traceparent
from tests.api.served import HAIKU, served
from tests.builders import a_request
from tests.collector import Collector, noted
from tests.llm.routes import streamed_decision
from tests.log_state import restored_logging
from tests.model_server import Answer, ModelServer, Request, decide, error, message, stream, tool_call

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "bot-7"}
EQUITY = 98765.43
CANARIES = ("canary", str(EQUITY))
BODY = a_request(
    account={"equity": EQUITY},
    news=[{"headline": "a canary sings", "timestamp": "2026-11-20T14:00:00Z", "symbols": ["NVDA"]}],
)
OVERLOADED = Answer(status=529, body=error("overloaded_error", "canary"))
STREAMED = stream(message(tool_call(streamed_decision())), end_s=0.1)
SLOW = stream(message(tool_call(streamed_decision())), first_s=5, last_number_s=6, end_s=7)


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    with restored_logging():
        yield


def log_to_stderr() -> None:
    """Log as the service does; within the test, where standard error is what capsys reads."""
    configure_logging(level=LogLevel.INFO, log_format=LogFormat.JSON)


def lines(written: str, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, written.splitlines()) if line["event"] == event]


async def ask(client: httpx2.AsyncClient, body: Any = BODY, **headers: str) -> Any:
    answer = await client.post("/decide", json=body, headers=TRACED | headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == headers.get("x-request-id", "bot-7")
    return answer.json()


def tree(spans: list[Span]) -> dict[str, str]:
    """The name of each span's parent."""
    names = {span.span_id: span.name for span in spans}
    return {span.name: names.get(span.parent_span_id, "the caller") for span in spans}


def parents_of(requests: list[Request]) -> list[tuple[str, str]]:
    """The span ids that models were told, with the request id."""
    places = [read_traceparent(request.headers["traceparent"]) for request in requests]
    assert {place.trace_id for place in places if place is not None} == {TRACE}
    return [
        (place.span_id, request.headers["x-request-id"])
        for place, request in zip(places, requests, strict=True)
        if place is not None
    ]


async def test_a_decision_is_one_trace_from_the_caller_to_the_models(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    settings = {"otel_exporter_otlp_headers": Secret("authorization=Bearer%20canary-of-the-collector,x-team=desk")}
    async with (
        Collector() as collector,
        ModelServer(OVERLOADED) as first,
        ModelServer(decide) as second,
        served(
            database_url,
            tmp_path,
            first,
            second,
            streamed=False,
            otel_exporter_otlp_endpoint=collector.base_url + "/",
            model_hedge_max_share=0,
            **settings,
        ) as client,
    ):
        decision = await ask(client)
        assert (await client.get("/healthz")).status_code == 200
    written = capsys.readouterr().err

    assert tree(collector.spans) == {
        "POST /decide": "the caller",
        "read state": "POST /decide",
        "propose": "POST /decide",
        "model call": "propose",
        "gating": "POST /decide",
        "judge": "gating",
        "record": "gating",
    }
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    request = collector.named("POST /decide")
    assert (request.parent_span_id.hex(), request.kind) == (PARENT, Span.SPAN_KIND_SERVER)
    assert noted(request) == {
        "http.request.method": "POST",
        "http.route": "/decide",
        "http.response.status_code": 200,
        "request_id": "bot-7",
        "decision_id": decision["decision_id"],
        "account_id": BODY["account"]["id"],
        "mode": "paper",
        "action": decision["action"],
        "verdict": "approved",
        "degraded": False,
    }
    failed, proposed = collector.calls()
    assert parents_of(first.requests) == [(failed.span_id.hex(), "bot-7")]
    assert parents_of(second.requests) == [(proposed.span_id.hex(), "bot-7")]
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "MODEL_UNAVAILABLE")
    assert noted(failed).items() >= {"target": "first", "outcome": "MODEL_UNAVAILABLE"}.items()
    assert noted(failed)["http.response.status_code"] == 529
    assert (
        noted(proposed).items()
        >= {
            "target": "second",
            "gen_ai.request.model": HAIKU,
            "outcome": "proposal",
            "hedged": False,
            "gen_ai.usage.input_tokens": 1920,
            "gen_ai.usage.output_tokens": 92,
        }.items()
    )
    assert noted(collector.named("propose")).items() >= {"target": "second", "attempts": 2}.items()
    assert collector.resources[0].items() >= {"service.name": "tradeverdict"}.items()
    assert (collector.headers["authorization"], collector.headers["x-team"]) == (
        "Bearer canary-of-the-collector",
        "desk",
    )
    for canary in CANARIES:
        assert canary.encode() not in collector.bodies
        assert canary not in written


async def test_each_call_of_a_hedge_is_a_span_and_the_end_of_a_reply_too(database_url: str, tmp_path: Path) -> None:
    async with (
        Collector() as collector,
        ModelServer(SLOW) as first,
        ModelServer(STREAMED) as second,
        served(
            database_url,
            tmp_path,
            first,
            second,
            otel_exporter_otlp_traces_endpoint=f"{collector.base_url}/v1/traces",
            otel_service_name="desk",
            model_hedge_max_share=1,
            limits={"max_snapshot_age_s": 0, "decision_deadline_ms": 2500},
        ) as client,
    ):
        assert (await ask(client))["decider"]["hedged"]
        metrics = samples(await client.get("/metrics"))

    slow, quick = collector.calls()
    assert parents_of([*first.requests, *second.requests]) == [
        (slow.span_id.hex(), "bot-7"),
        (quick.span_id.hex(), "bot-7"),
    ]
    assert {slow.parent_span_id, quick.parent_span_id} == {collector.named("propose").span_id}
    assert [(noted(call)["outcome"], noted(call)["hedged"]) for call in (slow, quick)] == [
        ("cancelled", False),
        ("proposal", True),
    ]
    assert noted(quick)["estimated"] is False  # the span ends when the reply has
    assert collector.resources[0]["service.name"] == "desk"
    assert metrics["model_calls_total", "first", "cancelled"] == 1


async def test_models_are_told_the_trace_where_nobody_collects(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    async with (
        ModelServer(OVERLOADED) as first,
        ModelServer(STREAMED) as second,
        served(database_url, tmp_path, first, second, model_breaker_failures=1000) as client,
    ):
        for sent in (TRACED["traceparent"], f"00-{'0' * 32}-{PARENT}-01"):
            await ask(client, traceparent=sent)
    requests = [*first.requests, *second.requests]

    places = [read_traceparent(request.headers["traceparent"]) for request in requests]
    traces = [place.trace_id for place in places if place is not None]
    assert len({place.span_id for place in places if place is not None} | {PARENT}) == 5
    # Each server was asked once for each of the two decisions; the second one's trace was made here.
    assert traces[0] == traces[2] == TRACE
    assert traces[1] == traces[3] != TRACE
    assert [line["trace_id"] for line in lines(capsys.readouterr().err, "decision")] == traces[:2]


async def test_a_decision_has_one_line_with_everything_and_other_requests_theirs(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr()
    async with (
        ModelServer(OVERLOADED) as first,
        ModelServer(decide) as second,
        served(database_url, tmp_path, first, second, streamed=False) as client,
    ):
        decision = await ask(client)
        told = capsys.readouterr().err
        keyed = {"idempotency-key": "k-1"}
        await ask(client, **keyed)
        capsys.readouterr()
        replayed = await client.post("/decide", json=BODY, headers=TRACED | keyed)
        refused = await client.post("/decide", json={}, headers=TRACED)
        others = capsys.readouterr().err

    [line] = lines(told, "decision")
    assert lines(told, "request") == []
    timing = {name: line.pop(name) for name in ("latency_ms", "model_ms", "store_ms")}
    blocking = [gate["gate"] for gate in decision["gates"] if gate["status"] == "block"]
    assert line.pop("at").endswith("Z")
    assert line == {
        "event": "decision",
        "level": "info",
        "logger": "app.service",
        "decision_id": decision["decision_id"],
        "account_id": BODY["account"]["id"],
        "api_key_id": None,
        "request_id": "bot-7",
        "trace_id": TRACE,
        "mode": "paper",
        "action": decision["action"],
        "verdict": decision["verdict"],
        "reason_code": decision["reason_code"],
        "gate": blocking[0] if blocking else None,
        "degraded": False,
        "detail": None,
        "decider": "anthropic",
        "model": HAIKU,
        "target": "second",
        "attempts": 2,
        "hedged": False,
        "cost_usd": decision["decider"]["cost_usd"],
    }
    assert line["cost_usd"] > 0
    assert timing["latency_ms"] >= timing["model_ms"] + timing["store_ms"] - 2  # each is rounded
    assert min(timing.values()) > 0
    assert (replayed.status_code, replayed.headers["idempotency-replayed"], refused.status_code) == (200, "true", 422)
    assert lines(others, "decision") == []
    assert [(line["status"], line["request_id"], line["trace_id"]) for line in lines(others, "request")] == [
        (200, "bot-7", TRACE),
        (422, "bot-7", TRACE),
    ]


@pytest.mark.parametrize("trouble", ["dead", "hanging"])
async def test_a_collector_in_trouble_disturbs_neither_decisions_nor_the_stop(
    trouble: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_to_stderr()
    # A queue that is full at once, and a thread that is always sending.
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    async with Collector(hanging=True) as collector, ModelServer(decide) as model:
        address = collector.base_url if trouble == "hanging" else "http://127.0.0.1:9"
        async with served(database_url, tmp_path, model, streamed=False, otel_exporter_otlp_endpoint=address) as client:
            took_s = []
            for number in range(8):
                began = time.monotonic()
                await ask(client, **{"x-request-id": f"bot-{number}"})
                took_s.append(time.monotonic() - began)
            stopping = time.monotonic()
        stopped_s = time.monotonic() - stopping
        written = capsys.readouterr().err
        assert len(lines(written, "decision")) == 8
        assert sorted(took_s)[4] < 1
        assert stopped_s < FLUSH_S + 3
        [lost] = lines(written, "the last spans are lost")
        assert lost["level"] == "warning"
        # What goes wrong with each batch is told once.
        assert len([line for line in written.splitlines() if "proto.http.trace_exporter" in line]) <= 1


Samples = dict[tuple[str, ...], float]


def samples(answer: httpx2.Response) -> Samples:
    """What /metrics shows by target, under the name without its prefix, the target and the other label."""
    return {
        (sample.name.removeprefix("tradeverdict_"), sample.labels["target"], *rest): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if "target" in sample.labels and "le" not in sample.labels
        for rest in [[value for name, value in sample.labels.items() if name != "target"]]
    }


async def test_metrics_tell_how_each_target_does(database_url: str, tmp_path: Path) -> None:
    async with (
        ModelServer(OVERLOADED) as first,
        ModelServer(decide) as second,
        served(
            database_url, tmp_path, first, second, streamed=False, model_breaker_failures=1, model_hedge_max_share=0
        ) as client,
    ):
        decisions = [await ask(client), await ask(client)]
        async with asyncio.timeout(5):
            while (shown := samples(await client.get("/metrics"))).get(("target_breaker", "first", "open")) != 1:
                await asyncio.sleep(0.1)

    # The first target failed once and was then left alone; the second proposed twice.
    calls = {labels[1:]: value for labels, value in shown.items() if labels[0] == "model_calls_total"}
    assert calls == {("first", "MODEL_UNAVAILABLE"): 1, ("second", "proposal"): 2}
    assert (len(first.requests), len(second.requests)) == (1, 2)
    assert shown["model_call_seconds_count", "first"] == 1
    assert shown["model_call_seconds_count", "second"] == 2
    assert 0 < shown["model_call_seconds_sum", "second"] < 2
    tokens = {labels[2]: value for labels, value in shown.items() if labels[:2] == ("model_tokens_total", "second")}
    assert tokens == {"input": 240, "output": 184, "cache_read": 3600, "cache_write": 0}
    assert shown["target_cost_usd_total", "second"] == pytest.approx(sum(d["decider"]["cost_usd"] for d in decisions))
    states = {labels[1:]: value for labels, value in shown.items() if labels[0] == "target_breaker"}
    assert states == {
        ("first", "closed"): 0,
        ("first", "open"): 1,
        ("first", "half_open"): 0,
        ("second", "closed"): 1,
        ("second", "open"): 0,
        ("second", "half_open"): 0,
    }
