"""The two clients: `TradeVerdict` waits, `AsyncTradeVerdict` is awaited; otherwise they are alike.

Each method sends one request, again if need be (see `retrying`), and gives a typed answer or raises a
`TradeVerdictError`. Both are to be closed, best by `with`. One client serves many threads, or one event loop.
"""

import os
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from tradeverdict_client import calls
from tradeverdict_client.decision import Decision, Ticket
from tradeverdict_client.errors import InvalidInput
from tradeverdict_client.reports import (
    BarsResult,
    Calibration,
    Event,
    Halt,
    HaltState,
    Outcome,
    OutcomeResult,
    Report,
    Resumed,
)
from tradeverdict_client.retrying import AttemptTimeout, Call, Came, Pause, RetryLimits, conversation
from tradeverdict_client.snapshot import Bar, Snapshot

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8000"


class _Settings:
    """Where the service is, and how long to try; the key is never shown."""

    def __init__(self, url: str | None, api_key: str | None, limits: RetryLimits | None) -> None:
        self.url = (url or os.environ.get("TRADEVERDICT_URL") or DEFAULT_URL).rstrip("/")
        self.limits = limits or RetryLimits()
        key = api_key or os.environ.get("TRADEVERDICT_API_KEY")
        if key and not (key.isascii() and key.isprintable()):
            raise InvalidInput("the API key must be printable ASCII")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def within(self, deadline_s: float | None) -> RetryLimits:
        """Give the limits of one call."""
        if deadline_s is None:
            return self.limits
        limits = self.limits
        return RetryLimits(
            deadline_s=deadline_s,
            attempt_s=limits.attempt_s,
            first_pause_s=limits.first_pause_s,
            longest_pause_s=limits.longest_pause_s,
        )

    def request(self, http: "httpx.Client | httpx.AsyncClient", call: Call[Any], within_s: float) -> httpx.Request:
        return http.build_request(
            call.method,
            self.url + call.path,
            content=call.body,
            params=call.params or None,
            headers=self.headers | call.headers,
            timeout=within_s,
        )


class TradeVerdict:
    """Ask TradeVerdict and wait.

    `url` and `api_key` default to TRADEVERDICT_URL (else 127.0.0.1:8000) and TRADEVERDICT_API_KEY. An `http_client`
    of one's own (proxies, certificates) is used as it is and not closed. `deadline_s` of a call bounds that call,
    name resolution and slow answers included: each attempt runs in a thread that is left behind when it is over.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        limits: RetryLimits | None = None,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._settings = _Settings(url, api_key, limits)
        self._owned = http_client is None
        self._http = http_client or httpx.Client()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owned:
            self._http.close()

    def decide(
        self, snapshot: Snapshot, *, idempotency_key: str | None = None, deadline_s: float | None = None
    ) -> Decision:
        """Ask for one decision, and get it once, however often it must be sent.

        The key is made here unless it is given. An error carries it: `decide` with the same snapshot and that key
        gives the decision that was made, if it was.
        """
        return self._run(calls.decide(snapshot, idempotency_key), deadline_s)

    def decision(self, decision_id: str, *, deadline_s: float | None = None) -> Decision:
        """Read an earlier decision as it was answered (scope: read)."""
        return self._run(calls.decision(decision_id), deadline_s)

    def claim(self, ticket: Ticket, *, event: Event | None = None, deadline_s: float | None = None) -> Report:
        """Claim a ticket, before its order is sent; without this claim do not send it.

        Raises:
            TicketExpired, StopMissing: the ticket must not be used; nothing was sent, or the service says so.
            Halted: trading is halted.
            Conflict: somebody else has claimed it.
        """
        return self._run(calls.claim(ticket, event), deadline_s)

    def report(self, ticket: Ticket | str, event: Event, *, deadline_s: float | None = None) -> Report:
        """Tell what happened to a ticket (or to a decision, by its id). Told twice, the same event counts once."""
        return self._run(calls.report(ticket, event), deadline_s)

    def post_outcomes(
        self, outcomes: Iterable[Outcome], *, deadline_s: float | None = None
    ) -> tuple[OutcomeResult, ...]:
        """Tell how positions ended, many at once; each line has a result of its own."""
        return self._run(calls.post_outcomes(outcomes), deadline_s)

    def post_bars(
        self, bars: Mapping[str, Sequence[Bar]], *, interval: str = "1d", deadline_s: float | None = None
    ) -> BarsResult:
        """Send later prices, by which proposals are scored that nobody traded."""
        return self._run(calls.post_bars(bars, interval), deadline_s)

    def calibration(self, *, deadline_s: float | None = None, **filters: str | float | None) -> Calibration:
        """Read how good the forecasts were: `days=30`, `source="all"`, `account="paper-1"`, and so on."""
        return self._run(calls.calibration(filters), deadline_s)

    def halt(
        self,
        account_id: str | None,
        *,
        reason: str,
        operator: str,
        state: HaltState = "halted",
        deadline_s: float | None = None,
    ) -> Halt:
        """Stop an account, or with None every account (scope: admin)."""
        return self._run(calls.halt(account_id, reason=reason, operator=operator, state=state), deadline_s)

    def resume(self, account_id: str | None, *, reason: str, operator: str, deadline_s: float | None = None) -> Resumed:
        """Lift the halts of an account, or with None the global ones (scope: admin).

        It is not sent twice when its answer is lost: it could lift a halt that was set in between.
        """
        return self._run(calls.resume(account_id, reason=reason, operator=operator), deadline_s)

    def halts(self, *, deadline_s: float | None = None) -> tuple[Halt, ...]:
        """List the halts in force (scope: read or admin)."""
        return self._run(calls.halts(), deadline_s)

    def _run(self, call: Call[T], deadline_s: float | None) -> T:
        steps = conversation(
            call, limits=self._settings.within(deadline_s), monotonic=time.monotonic, draw=random.random
        )
        came: Came = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                answer: T = end.value
                return answer
            if isinstance(step, Pause):
                time.sleep(step.for_s)
                came = None
            else:
                came = self._attempt(call, step.within_s)

    def _attempt(self, call: Call[Any], within_s: float) -> Came:
        """Send once. httpx bounds each read, not their sum, nor name resolution: so wait from outside."""
        box: SimpleQueue[Came] = SimpleQueue()
        request = self._settings.request(self._http, call, within_s)

        def send() -> None:
            try:
                box.put(self._http.send(request))
            except Exception as error:  # noqa: BLE001 (handed to the caller, who knows which he expects)
                box.put(error)

        threading.Thread(target=copy_context().run, args=(send,), name="tradeverdict", daemon=True).start()
        try:
            return _expected(box.get(timeout=within_s))
        except Empty:
            return AttemptTimeout()


class AsyncTradeVerdict:
    """Ask TradeVerdict from an asyncio event loop; everything is said at `TradeVerdict`."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        limits: RetryLimits | None = None,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._settings = _Settings(url, api_key, limits)
        self._owned = http_client is None
        self._http = http_client or httpx.AsyncClient()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        if self._owned:
            await self._http.aclose()

    async def decide(
        self, snapshot: Snapshot, *, idempotency_key: str | None = None, deadline_s: float | None = None
    ) -> Decision:
        """Ask for one decision; see `TradeVerdict.decide`."""
        return await self._run(calls.decide(snapshot, idempotency_key), deadline_s)

    async def decision(self, decision_id: str, *, deadline_s: float | None = None) -> Decision:
        """Read an earlier decision; see `TradeVerdict.decision`."""
        return await self._run(calls.decision(decision_id), deadline_s)

    async def claim(self, ticket: Ticket, *, event: Event | None = None, deadline_s: float | None = None) -> Report:
        """Claim a ticket; see `TradeVerdict.claim`."""
        return await self._run(calls.claim(ticket, event), deadline_s)

    async def report(self, ticket: Ticket | str, event: Event, *, deadline_s: float | None = None) -> Report:
        """Tell what happened to a ticket; see `TradeVerdict.report`."""
        return await self._run(calls.report(ticket, event), deadline_s)

    async def post_outcomes(
        self, outcomes: Iterable[Outcome], *, deadline_s: float | None = None
    ) -> tuple[OutcomeResult, ...]:
        """Tell how positions ended; see `TradeVerdict.post_outcomes`."""
        return await self._run(calls.post_outcomes(outcomes), deadline_s)

    async def post_bars(
        self, bars: Mapping[str, Sequence[Bar]], *, interval: str = "1d", deadline_s: float | None = None
    ) -> BarsResult:
        """Send later prices; see `TradeVerdict.post_bars`."""
        return await self._run(calls.post_bars(bars, interval), deadline_s)

    async def calibration(self, *, deadline_s: float | None = None, **filters: str | float | None) -> Calibration:
        """Read how good the forecasts were; see `TradeVerdict.calibration`."""
        return await self._run(calls.calibration(filters), deadline_s)

    async def halt(
        self,
        account_id: str | None,
        *,
        reason: str,
        operator: str,
        state: HaltState = "halted",
        deadline_s: float | None = None,
    ) -> Halt:
        """Stop an account, or every account; see `TradeVerdict.halt`."""
        return await self._run(calls.halt(account_id, reason=reason, operator=operator, state=state), deadline_s)

    async def resume(
        self, account_id: str | None, *, reason: str, operator: str, deadline_s: float | None = None
    ) -> Resumed:
        """Lift halts; see `TradeVerdict.resume`."""
        return await self._run(calls.resume(account_id, reason=reason, operator=operator), deadline_s)

    async def halts(self, *, deadline_s: float | None = None) -> tuple[Halt, ...]:
        """List the halts in force; see `TradeVerdict.halts`."""
        return await self._run(calls.halts(), deadline_s)

    async def _run(self, call: Call[T], deadline_s: float | None) -> T:
        import asyncio  # noqa: PLC0415 (a bot that waits need not load it)

        steps = conversation(
            call, limits=self._settings.within(deadline_s), monotonic=time.monotonic, draw=random.random
        )
        came: Came = None
        while True:
            try:
                step = steps.send(came)
            except StopIteration as end:
                answer: T = end.value
                return answer
            if isinstance(step, Pause):
                await asyncio.sleep(step.for_s)
                came = None
            else:
                came = await self._attempt(call, step.within_s)

    async def _attempt(self, call: Call[Any], within_s: float) -> Came:
        """Send once; httpx bounds each read, not their sum."""
        import asyncio  # noqa: PLC0415 (a bot that waits need not load it)

        request = self._settings.request(self._http, call, within_s)
        try:
            async with asyncio.timeout(within_s):
                return await self._http.send(request)
        except TimeoutError:
            return AttemptTimeout()
        except httpx.HTTPError as error:
            return error


def _expected(came: Came) -> Came:
    """Let a bug be a bug: what is neither an answer nor a failure of the connection is raised."""
    if isinstance(came, Exception) and not isinstance(came, httpx.HTTPError):
        raise came
    return came
