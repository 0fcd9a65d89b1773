"""Recorded spans reach a collector whole, bounded and without text, and what could be set wrong stops the start."""

from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from app.main import make_recorder
from app.otlp import MAX_ATTRIBUTE_LENGTH, OtlpRecorder
from app.settings import Settings, SettingsError, load_settings
from app.tracing import Tracing, call_span, span
from tests.collector import Collector, noted

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
COLLECTOR = "http://collector:4318"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
HEADERS = "OTEL_EXPORTER_OTLP_HEADERS"


def recording(collector: Collector) -> tuple[Tracing, OtlpRecorder]:
    tracing = Tracing()
    recorder = OtlpRecorder(
        endpoint=f"{collector.base_url}/v1/traces", headers={}, service_name="desk", version="1.2.3"
    )
    tracing.recorder = recorder
    return tracing, recorder


async def test_a_span_holds_what_was_noted_cut_to_a_bound_and_nothing_that_is_not_known() -> None:
    async with Collector() as collector:
        tracing, recorder = recording(collector)
        with tracing.request([], request_id="r", recorded=True) as request, span("part") as part:
            part.note(model="m", detail="x" * 1000, attempts=2, hedged=True, target=None)
        await recorder.close()

    found = collector.named("part")
    assert noted(found) == {
        "gen_ai.request.model": "m",
        "detail": "x" * MAX_ATTRIBUTE_LENGTH,
        "attempts": 2,
        "hedged": True,
    }
    assert found.trace_id.hex() == request.trace_id
    assert collector.named("request").parent_span_id == b""
    assert collector.resources[0].items() >= {"service.name": "desk", "service.version": "1.2.3"}.items()


async def test_of_an_error_only_its_type_is_told() -> None:
    async with Collector() as collector:
        tracing, recorder = recording(collector)
        with (
            pytest.raises(ValueError, match="canary"),
            tracing.request([], request_id="r", recorded=True),
            span("part"),
        ):
            raise ValueError("canary")
        await recorder.close()

    assert {(one.status.code, one.status.message) for one in collector.spans} == {
        (Status.STATUS_CODE_ERROR, "ValueError")
    }
    assert b"canary" not in collector.bodies


@pytest.mark.parametrize(("flags", "names"), [("01", ["call", "request"]), ("00", [])])
async def test_a_trace_is_recorded_if_its_caller_records_it(flags: str, names: list[str]) -> None:
    async with Collector() as collector:
        tracing, recorder = recording(collector)
        with tracing.request([f"00-{TRACE}-{PARENT}-{flags}"], request_id="r", recorded=True):
            call = call_span("call")
            told = call.headers()["traceparent"]
            call.end()
        await recorder.close()

    assert sorted(one.name for one in collector.spans) == names
    assert told.startswith(f"00-{TRACE}-")
    assert told.endswith(f"-{flags}")
    assert PARENT not in told


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({ENDPOINT: COLLECTOR}, f"{COLLECTOR}/v1/traces"),
        ({ENDPOINT: f"{COLLECTOR}/base/"}, f"{COLLECTOR}/base/v1/traces"),
        ({TRACES_ENDPOINT: f"{COLLECTOR}/here"}, f"{COLLECTOR}/here"),
        ({ENDPOINT: COLLECTOR, TRACES_ENDPOINT: "http://other/here"}, "http://other/here"),
        ({ENDPOINT: ""}, None),
        ({ENDPOINT: COLLECTOR, "OTEL_SDK_DISABLED": "true"}, None),
    ],
)
def test_spans_go_where_the_standard_says(environ: dict[str, str], endpoint: str | None, tmp_path: Path) -> None:
    assert load_settings(environ, dotenv=tmp_path / ".env").spans_endpoint == endpoint


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (ENDPOINT, "collector:4318"),
        (ENDPOINT, "grpc://collector:4317"),
        (ENDPOINT, "http://"),
        (ENDPOINT, "http://["),
        (TRACES_ENDPOINT, "/v1/traces"),
        (HEADERS, "canary"),
        (HEADERS, "=canary"),
        (HEADERS, "a b=canary"),
        (HEADERS, "a=canary%0d%0ab: c"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_ENDPOIN", COLLECTOR),
    ],
)
def test_a_wrong_exporter_stops_the_start(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^{name}") as refused:
        load_settings({name: value}, dotenv=tmp_path / ".env")
    assert "canary" not in str(refused.value)


def test_headers_are_read_and_their_values_are_secrets(tmp_path: Path) -> None:
    sent = "authorization=Bearer%20the-key, x-team=trading%2Cdesk,"
    settings = load_settings({HEADERS: sent}, dotenv=tmp_path / ".env")

    assert settings.span_headers == {"authorization": "Bearer the-key", "x-team": "trading,desk"}
    assert {"Bearer the-key", "trading,desk", sent.strip()} <= set(settings.secrets)
    assert "the-key" not in repr(settings)


def test_other_names_of_the_standard_are_no_misspelt_settings(tmp_path: Path) -> None:
    others = ("TRACES_HEADERS", "METRICS_ENDPOINT", "TRACES_PROTOCOL", "LOGS_HEADERS")
    environ = {f"OTEL_EXPORTER_OTLP_{other}": "x" for other in others}

    assert load_settings(environ, dotenv=tmp_path / ".env").spans_endpoint is None


def test_a_queue_that_cannot_work_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    with pytest.raises(SettingsError, match=r"^OTEL_: max_queue_size"):
        make_recorder(Settings(otel_exporter_otlp_endpoint=COLLECTOR))
