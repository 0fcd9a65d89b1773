"""Record spans with OpenTelemetry, and send them to a collector over OTLP (HTTP, protobuf).

Imported only where an exporter is configured. Spans wait in a bounded queue for a thread that sends them in
batches; when the queue is full the oldest are dropped. No decision waits for a collector, and a stopping service no
longer than FLUSH_S. What else can be set OpenTelemetry itself reads from the environment (docs/logs-and-traces.md).
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from app.tracing import Span, TracedSpan, TraceParent

FLUSH_S: Final = 2.0
"""So long a stopping service waits for its last spans to leave."""
MAX_ATTRIBUTE_LENGTH: Final = 256
SENDER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
"""The logger of what goes wrong with each batch."""

_STANDARD_NAMES: Final = {
    "method": "http.request.method",
    "route": "http.route",
    "status": "http.response.status_code",
    "model": "gen_ai.request.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
"""What OpenTelemetry's semantic conventions call these; all else is ours."""

log = structlog.stdlib.get_logger(__name__)


class OtlpRecorder:
    """Record the spans of one process.

    Raises:
        ValueError: the environment sizes the queue so that it cannot work.
    """

    def __init__(self, *, endpoint: str, headers: Mapping[str, str], service_name: str, version: str) -> None:
        self._troubles = _Troubles()
        self._exporter = _Exporter(OTLPSpanExporter(endpoint=endpoint, headers=dict(headers)), self._troubles)
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_NAME: service_name, SERVICE_VERSION: version}),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=MAX_ATTRIBUTE_LENGTH),
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("tradeverdict", version)
        logging.getLogger(SENDER).addFilter(self._troubles)

    def request(self, parent: TraceParent | None, *, request_id: str) -> Span:
        """Begin the span of a request; without a parent it begins a trace."""
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)), Context())
        return self._begin("request", context, SpanKind.SERVER, request_id=request_id)

    def within(self, parent: "RecordedSpan", name: str, kind: SpanKind) -> Span:
        """Begin a span within another."""
        context = set_span_in_context(parent.recorded, Context())
        return self._begin(name, context, kind, request_id=parent.request_id)

    def _begin(self, name: str, context: Context, kind: SpanKind, *, request_id: str) -> Span:
        recorded = self._tracer.start_span(name, context, kind)
        return RecordedSpan(recorded, recorder=self, request_id=request_id)

    async def close(self) -> None:
        """Send what waits, for FLUSH_S seconds at most."""
        # The SDK would wait 30 s, and a thread that hangs in a socket is left to end by itself.
        stopping = Thread(target=self._send_last, name="last-spans", daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, FLUSH_S)
        if stopping.is_alive():
            log.warning("the last spans are lost", waited_s=FLUSH_S)
            self._exporter.shutdown()

    def _send_last(self) -> None:
        self._provider.shutdown()
        logging.getLogger(SENDER).removeFilter(self._troubles)


class RecordedSpan(TracedSpan):
    """Hold a span that is recorded, unless its trace is not sampled."""

    __slots__ = ("_recorder", "recorded")

    def __init__(self, recorded: OtelSpan, *, recorder: OtlpRecorder, request_id: str) -> None:
        at = recorded.get_span_context()
        place = TraceParent(
            trace_id=f"{at.trace_id:032x}", span_id=f"{at.span_id:016x}", flags=f"{int(at.trace_flags):02x}"
        )
        super().__init__(place, request_id=request_id)
        self.recorded = recorded
        self._recorder = recorder

    @property
    def recording(self) -> bool:
        """Tell whether anything noted is kept."""
        return self.recorded.is_recording()

    def child(self, name: str) -> Span:
        """Begin a recorded part."""
        return self._recorder.within(self, name, SpanKind.INTERNAL)

    def call(self, name: str) -> Span:
        """Begin a recorded call."""
        return self._recorder.within(self, name, SpanKind.CLIENT)

    def rename(self, name: str) -> None:
        """Rename the recorded span."""
        self.recorded.update_name(name)

    def note(self, **attributes: str | float | None) -> None:
        """Note attributes under their standard names, or under ours."""
        for name, value in attributes.items():
            if value is not None:
                self.recorded.set_attribute(_STANDARD_NAMES.get(name) or f"tradeverdict.{name}", value)

    def fail(self, word: str) -> None:
        """Set the status; of an exception its type alone, for its text may hold anything."""
        self.recorded.set_status(Status(StatusCode.ERROR, word))

    def end(self) -> None:
        """End the span, and queue it."""
        self.recorded.end()


def _remote(parent: TraceParent) -> SpanContext:
    return SpanContext(
        int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=TraceFlags(int(parent.flags, 16))
    )


class _Troubles(logging.Filter):
    """Let the first line about a collector in trouble through, and no other until it took spans again."""

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002
        first, self.told = not self.told, True
        return first


class _Exporter(SpanExporter):
    """Pass spans on, and say when a collector takes them again."""

    def __init__(self, sender: SpanExporter, troubles: _Troubles) -> None:
        self._sender = sender
        self._troubles = troubles
        self._stopped = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._sender.export(spans)
        if result is SpanExportResult.SUCCESS and self._troubles.told:
            self._troubles.told = False
            log.info("the collector takes spans again")
        return result

    def shutdown(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._sender.shutdown()
