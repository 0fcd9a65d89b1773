"""A trace context is taken where it is sound, told to models, and recorded by nobody unless somebody collects."""

import asyncio
import os
import subprocess
import sys

import pytest

from app.tracing import NOTHING, TracedSpan, TraceParent, Tracing, call_span, current, read_traceparent, span

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SOUND = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("sent", "flags"),
    [
        (SOUND, "01"),
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-03", "03"),
        (f"00-{TRACE}-{PARENT}-ff", "03"),  # bits that nobody has given a meaning are not passed on
        (f"cc-{TRACE}-{PARENT}-01", "01"),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", "01"),
    ],
)
def test_a_sound_traceparent_is_taken(sent: str, flags: str) -> None:
    assert read_traceparent(sent) == TraceParent(trace_id=TRACE, span_id=PARENT, flags=flags)


MALFORMED = [
    "",
    "00",
    f"ff-{TRACE}-{PARENT}-01",
    f"00-{'0' * 32}-{PARENT}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-01-more",
    f"cc-{TRACE}-{PARENT}-01more",
    f"00-{TRACE[1:]}-{PARENT}-01",
    f"00-{TRACE}-{PARENT}-1",
    f"00-{TRACE}-{PARENT}-0g",
    f"00-{TRACE}-{PARENT}",
    f" {SOUND}",
    f"{SOUND}\n",
]


@pytest.mark.parametrize("sent", MALFORMED)
def test_a_malformed_traceparent_is_replaced(sent: str) -> None:
    assert read_traceparent(sent) is None

    made = Tracing().request([sent], request_id="r", recorded=True)
    again = read_traceparent(made.headers()["traceparent"])
    assert again is not None
    assert again.trace_id != TRACE
    assert again.flags == "00"


def test_two_traceparents_are_none() -> None:
    assert Tracing().request([SOUND, SOUND], request_id="r", recorded=True).trace_id != TRACE


def test_each_call_of_a_model_has_a_span_id_of_its_own() -> None:
    with Tracing().request([SOUND], request_id="bot-7", recorded=True):
        told = [call_span("model call").headers() for _ in range(3)]

    places = [read_traceparent(headers["traceparent"]) for headers in told]
    assert [place is not None and (place.trace_id, place.flags) for place in places] == [(TRACE, "01")] * 3
    assert len({PARENT, *(place.span_id for place in places if place is not None)}) == 4
    assert [headers["x-request-id"] for headers in told] == ["bot-7"] * 3


def test_outside_of_a_request_nobody_is_told_anything() -> None:
    assert current() is NOTHING
    assert span("anything") is NOTHING
    assert call_span("anything").headers() == {}


def test_what_nobody_records_costs_no_object() -> None:
    with Tracing().request([SOUND], request_id="r", recorded=True) as request, span("part") as part:
        part.note(verdict="approved")
        assert (part, part.recording) == (NOTHING, False)
        assert current() is request


async def test_requests_at_the_same_time_keep_their_own_traces() -> None:
    async def handled(number: int) -> bool:
        sent = f"00-{number:032x}-{PARENT}-01"
        with Tracing().request([sent], request_id=str(number), recorded=True):
            await asyncio.sleep(0)
            return current().trace_id == f"{number:032x}"

    assert all(await asyncio.gather(*(asyncio.create_task(handled(number)) for number in range(1, 50))))
    assert current() is NOTHING


def test_a_span_that_ends_with_an_error_still_leaves() -> None:
    request = TracedSpan(TraceParent(trace_id=TRACE, span_id=PARENT, flags="01"), request_id="r")
    with pytest.raises(ValueError, match="broken"), request:
        raise ValueError("broken")
    assert current() is NOTHING


RECORDING = '"opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "google.protobuf"'
LOADED = f"""
import sys
from fastapi.testclient import TestClient
from app.main import create_app
from app.settings import Auth, Secret, Settings

def loaded_by_serving(**settings):
    nowhere = Secret("postgresql://nobody@127.0.0.1:9/nothing")
    with TestClient(create_app(Settings(database_url=nowhere, auth=Auth.OFF, **settings))) as client:
        client.get("/decisions")
    return sorted(name for name in sys.modules if name.startswith(({RECORDING})))

print("loaded", loaded_by_serving())
print("loaded", loaded_by_serving(anthropic_api_key=Secret("sk-ant-none"), model_warm_every_s=0))
print("loaded", "opentelemetry.sdk.trace" in loaded_by_serving(otel_exporter_otlp_endpoint="http://127.0.0.1:9"))
"""


def test_opentelemetry_is_loaded_only_where_an_exporter_is_configured() -> None:
    """FastAPI and the Messages API's SDK load OpenTelemetry's interface; what would record and send stays away.

    FastAPI's own spans, which would tell what was sent, stay off even where the environment asks for them.
    """
    asking = {"FASTAPI_OTEL_AUTO_CONFIGURE": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-c", LOADED], env=os.environ | asking, capture_output=True, text=True, check=True
    )

    told = [line for line in run.stdout.splitlines() if line.startswith("loaded")]
    assert told == ["loaded []", "loaded []", "loaded True"]
