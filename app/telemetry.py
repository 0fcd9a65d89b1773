"""Count what happens and write it down: Prometheus metrics with bounded labels, and one log line per event.

Labels hold only words of fixed vocabularies (verdicts, gate names and codes, route templates, deciders and their
models), never a symbol, account or key. Log lines pass one redactor before they are written, whoever wrote them.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from contextvars import ContextVar
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, Protocol, TextIO, TypeVar

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from structlog.typing import EventDict, Processor, WrappedLogger

from app.domain.account import HaltState
from app.domain.gates import GateStatus
from app.domain.model_call import ModelCall
from app.domain.proposal import ModelFailure
from app.domain.verdict import Judgement
from app.settings import SHORTEST_SECRET, LogFormat, LogLevel

DECISION_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 5.0)
NO_REASON: Final = "none"
BREAKER_STATES: Final = ("closed", "open", "half_open")
METRICS_MEDIA_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
MASK: Final = "***"

_CHATTY: Final = ("anthropic", "httpcore2", "httpx2", "alembic", "asyncio")
"""Libraries that log each of their steps; only their warnings are ours."""

_SECRET_SHAPES: Final = re.compile(
    r"(?<=\btv_)[A-Za-z0-9]+_[A-Za-z0-9_-]{16,}"  # our own keys
    r"|(?<=\bsk-ant-)[A-Za-z0-9_-]+"  # keys of the Messages API
    r"|(?<=://)[^/@\s\"]+(?=@)"  # user and password in a URL
)
_SECRET_BEGINNINGS: Final = ("tv_", "sk-ant-", "://")
"""No line without one of these holds a secret's shape."""

_request: ContextVar[Mapping[str, str | None]] = ContextVar("request", default=MappingProxyType({}))

_Metric = TypeVar("_Metric", Counter, Histogram)


class DeciderUse(Protocol):
    """What is counted of one use of a decider."""

    @property
    def name(self) -> str: ...

    @property
    def latency_ms(self) -> int: ...

    @property
    def cost_usd(self) -> Decimal: ...


class CalibrationFigures(Protocol):
    """What is shown of a decider's calibration over a window of days; a figure that is None is not shown."""

    @property
    def decider(self) -> str: ...

    @property
    def window_days(self) -> int: ...

    @property
    def resolved(self) -> int: ...

    @property
    def pending(self) -> int: ...

    @property
    def brier(self) -> float | None: ...

    @property
    def slope(self) -> float | None: ...

    @property
    def calibration_error(self) -> float | None: ...

    @property
    def e_value(self) -> float | None: ...

    @property
    def rejected(self) -> bool: ...

    @property
    def derated(self) -> bool: ...


class _Children(dict[tuple[str, ...], _Metric]):
    """Keep what a metric counts for each combination of its labels: the library finds it more slowly than it counts."""

    def __init__(self, metric: _Metric) -> None:
        super().__init__()
        self._metric: _Metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> _Metric:
        child: _Metric = self._metric.labels(*labels)
        self[labels] = child
        return child


class _Sums(dict[tuple[str, ...], float]):
    """Add up what a counter is to be raised by, for each combination of its labels, until somebody looks at it.

    A decision raises ten counters, and each call of the library's takes five times as long as adding to a sum.
    """

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counters = _Children(counter)

    def add(self, *labels: str, amount: float = 1) -> None:
        self[labels] = self.get(labels, 0) + amount

    def hand_over(self) -> None:
        while self:
            labels, amount = self.popitem()
            self._counters[labels].inc(amount)


class Metrics:
    """Hold one process's metrics in a registry of their own."""

    def __init__(self) -> None:
        self._sums: list[_Sums] = []
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._decisions = self._sum("decisions", "Decisions recorded", "verdict", "reason")
        self._gate_blocks = self._sum("gate_blocks", "Blocks by gate, of the reported candidate", "gate", "code")
        self._model_failures = self._sum("model_failures", "Deciders' failures", "code")
        self._model_cost = self._sum("model_cost_usd", "Dollars spent on model calls", "decider")
        self._unprotected_fills = self._counter("unprotected_fills", "Fills that put their account in reduce_only")
        self._model_calls = self._sum("model_calls", "Calls of model targets that have ended", "target", "outcome")
        self._model_call_seconds = _Children(
            self._histogram("model_call_seconds", "Time of one call of a target", "target")
        )
        self._target_cost = self._sum("target_cost_usd", "Dollars spent on calls of a target", "target")
        self._tokens = self._sum("model_tokens", "Tokens of calls of a target", "target", "kind")
        self._breakers = self._gauge("target_breaker", "1 at the state of the target's breaker", "target", "state")
        self._requests = self._sum("http_requests", "HTTP requests answered", "method", "route", "status")
        self._decision_seconds = self._histogram("decision_seconds", "Time of one whole decision")
        self._model_seconds = _Children(self._histogram("model_seconds", "Time of one use of the decider", "decider"))
        series = ("decider", "window")
        self._brier = self._gauge("brier_score", "Brier score of p_win", *series)
        self._slope = self._gauge("calibration_slope", "Cov(p, y) / Var(p) of p_win: 1 is calibrated", *series)
        self._error = self._gauge("calibration_error", "Mean p_win less win rate", *series)
        self._e_value = self._gauge("calibration_e_value", "Evidence against calibration, 20 or more rejects", *series)
        self._resolved = self._gauge("resolved_decisions", "Decisions with a known outcome", *series)
        self._pending = self._gauge("pending_decisions", "Decisions whose outcome is not known yet", *series)
        self._rejected = self._gauge("calibration_rejected", "1 where the longest window rejects p_win", "decider")
        self._derated = self._gauge("calibration_derated", "1 where sizes are kept to the lowest", "decider")
        self._store_up = self._gauge("store_up", "1 while the store answers this process")
        self._halts = self._gauge("halts", "Halts in force, of one account or of all", "state")
        self._budget = self._gauge("model_budget_usd", "Most dollars of one key's model calls in a UTC day; 0: any")
        self._cost_today = self._gauge("cost_today_usd", "Dollars of all model calls since midnight UTC")
        self._dearest_key = self._gauge("dearest_key_cost_today_usd", "Dollars of the key that spent most since then")
        for code in ModelFailure:
            self._model_failures.add(code, amount=0)  # so that the first failure is seen as an increase

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"tradeverdict_{name}", meaning, labels, registry=self._registry)

    def _sum(self, name: str, meaning: str, *labels: str) -> _Sums:
        sums = _Sums(self._counter(name, meaning, *labels))
        self._sums.append(sums)
        return sums

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(f"tradeverdict_{name}", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(f"tradeverdict_{name}", meaning, labels, registry=self._registry, buckets=DECISION_BUCKETS_S)

    def record_decision(self, *, judgement: Judgement, call: DeciderUse, elapsed_s: float) -> None:
        """Count one committed decision: verdict, blocking gates, time, and how its decider did."""
        self._decisions.add(str(judgement.verdict), judgement.reason_code or NO_REASON)
        self._decision_seconds.observe(elapsed_s)
        for gate in judgement.gates:
            if gate.status is GateStatus.BLOCK:
                self._gate_blocks.add(gate.gate, gate.code or NO_REASON)
        self._model_seconds[(call.name,)].observe(call.latency_ms / 1000)
        self._model_cost.add(call.name, amount=float(call.cost_usd))
        if judgement.degraded:
            self._model_failures.add(judgement.reason_code or NO_REASON)

    def record_model_call(self, call: ModelCall) -> None:
        """Count one ended call of one target: how it ended, how long it took, its tokens and cost."""
        outcome = "hedged_" + call.outcome if call.hedged else call.outcome
        self._model_calls.add(call.target, outcome)
        self._model_call_seconds[(call.target,)].observe(call.latency_ms / 1000)
        self._target_cost.add(call.target, amount=float(call.cost_usd))
        self._tokens.add(call.target, "input", amount=call.input_tokens)
        self._tokens.add(call.target, "output", amount=call.output_tokens)
        self._tokens.add(call.target, "cache_read", amount=call.cache_read_tokens)
        self._tokens.add(call.target, "cache_write", amount=call.cache_write_tokens)

    def show_targets(self, states: Mapping[str, str]) -> None:
        """Show how each target stands: 1 at its breaker's state, 0 at the others."""
        for target, state in states.items():
            for known in BREAKER_STATES:
                self._breakers.labels(target, known).set(state == known)

    def record_request(self, *, method: str, route: str, status: int) -> None:
        """Count one answered HTTP request by route template."""
        self._requests.add(method, route, str(status))

    def record_unprotected_fill(self) -> None:
        """Count one fill whose stop was not reported in time."""
        self._unprotected_fills.inc()

    def show_store(self, *, up: bool, halts: Mapping[HaltState, int] | None = None) -> None:
        """Show whether the store answers, and how many halts are in force; without it the last known ones stay."""
        self._store_up.set(up)
        for state in () if halts is None else HaltState:
            self._halts.labels(state).set((halts or {}).get(state, 0))

    def show_budget(self, budget_usd: Decimal) -> None:
        """Show the most that the model calls of one key may cost in a UTC day; 0 stands for any amount."""
        self._budget.set(float(budget_usd))

    def show_spending(self, *, total_usd: Decimal, dearest_key_usd: Decimal) -> None:
        """Show what model calls have cost since midnight UTC: of all keys, and of the one that spent most."""
        self._cost_today.set(float(total_usd))
        self._dearest_key.set(float(dearest_key_usd))

    def show_calibration(self, figures: Collection[CalibrationFigures]) -> None:
        """Show these figures of calibration, and none that was shown before and is not among them."""
        of_series = (self._brier, self._slope, self._error, self._e_value, self._resolved, self._pending)
        for gauge in (*of_series, self._rejected, self._derated):
            gauge.clear()
        longest = max((of.window_days for of in figures), default=0)
        for of in figures:
            values = (of.brier, of.slope, of.calibration_error, of.e_value, of.resolved, of.pending)
            for gauge, value in zip(of_series, values, strict=True):
                if value is not None:
                    gauge.labels(of.decider, f"{of.window_days}d").set(value)
            if of.window_days == longest:
                self._rejected.labels(of.decider).set(of.rejected)
                self._derated.labels(of.decider).set(of.derated)

    def exposition(self) -> bytes:
        """Write all metrics in Prometheus's text format."""
        for sums in self._sums:
            sums.hand_over()
        return generate_latest(self._registry)


class Redactor:
    """Mask known secrets, and whatever has the shape of one, in a finished log line."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Where a line quotes a secret, some of its letters are escaped, and who writes the line says which.
        forms: set[str] = set()
        for secret in secrets:
            if len(secret) >= SHORTEST_SECRET:
                quoted = json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret)
                forms |= {secret, *(text[1:-1] for text in quoted)}
        self._forms = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, self._forms)))

    def __call__(self, line: str) -> str:
        # Plain searches first: hardly a line holds anything to mask, and an expression tries at each of its letters.
        for form in self._forms:
            if form in line:
                line = self._known.sub(MASK, line)
                break
        for beginning in _SECRET_BEGINNINGS:
            if beginning in line:
                return _SECRET_SHAPES.sub(MASK, line)
        return line


class _Lines:
    """Write the lines of one of our own loggers where those of the libraries go, by the shortest way.

    Records, formatters and the search for the caller, which the standard library sees to for every line, would take
    most of the time that a line takes. What goes wrong with a line is reported, and never the writer's concern: what
    it tells of has happened.
    """

    __slots__ = ("_finish", "_handler", "name")

    def __init__(
        self, name: str, *, finish: Callable[[EventDict], str], handler: "logging.StreamHandler[TextIO]"
    ) -> None:
        self.name = name
        self._finish = finish
        self._handler = handler

    def write(self, /, **event: Any) -> None:
        """Write one event as one line."""
        try:
            line = self._finish(event) + "\n"
            self._handler.acquire()
            try:
                self._handler.stream.write(line)
                self._handler.stream.flush()
            finally:
                self._handler.release()
        except Exception:
            logging.getLogger(self.name).exception("a line could not be written")

    debug = info = warning = error = critical = write


def name_request(*, request_id: str, trace_id: str | None) -> None:
    """Have every line from here on, until the next request, say to which request and trace it belongs."""
    _request.set({"request_id": request_id, "trace_id": trace_id})


def _add_request(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:  # noqa: ARG001
    for key, value in _request.get().items():
        event.setdefault(key, value)
    return event


def configure_logging(*, level: LogLevel, log_format: LogFormat, secrets: Iterable[str] = ()) -> None:
    """Send every log line of the process, uvicorn's too, to standard error in one form."""
    ours: list[Processor] = [
        _add_request,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
    ]
    redact = Redactor(secrets)
    # Plain tracebacks in either form: structlog's richer ones show the values of local variables.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)

    def finish(event: EventDict) -> str:
        if log_format is LogFormat.CONSOLE:
            return redact(console(None, "", event))
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(None, "", event)
        return redact(_json_line(event))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *ours],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                lambda _logger, _name, event: finish(event),
            ],
        )
    )
    structlog.configure(
        processors=ours,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda name: _Lines(name, finish=finish, handler=handler),
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def _json_line(event: EventDict) -> str:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
