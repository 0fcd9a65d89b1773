"""Decide: gather what is known, let the decider propose, judge it, record it, and only then answer."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson
import structlog
from uuid_utils import uuid7

from app.db.account_state import KnownAccount
from app.db.engine import StoreUnavailable
from app.db.idempotency import Claim, finish_key
from app.db.model_calls import Asker
from app.db.operations import Store
from app.db.records import (
    AccountMark,
    DecisionRecord,
    NewForecast,
    NewReservation,
    PolicyText,
    PromptTexts,
    decider_key,
)
from app.db.standings import Standings
from app.domain.account import Account, AccountState
from app.domain.buckets import BucketMap
from app.domain.document import decision_document
from app.domain.exposure import Exposure, measure_exposure
from app.domain.gates import GateStatus
from app.domain.making import made_quickly
from app.domain.market import MarketView, Snapshot, resolve_market
from app.domain.model_call import PROPOSED, ModelCall
from app.domain.outcome import plan_of
from app.domain.policy import FUTURE_TOLERANCE_S, POLICY_VERSION, Policy
from app.domain.proposal import Direction, ModelFailure, Proposal
from app.domain.scoring import whole_percent
from app.domain.standing import SizingStanding, standing_to_json
from app.domain.verdict import PERCENT, Judgement, Side, entry_bounds, judge
from app.llm.decider import Decider, DeciderCall, DeciderFailure, Prompt, Reply
from app.llm.prompt import Description, build_prompt, describe
from app.telemetry import Metrics
from app.tracing import Span, current, span

RECORDING_RESERVE_S: Final = 0.15
"""Time kept back from the model for judging and the commit."""

RESTS_END_S: Final = 5.0
"""So long a stopping service waits for the ends of replies."""

KEEPING_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before each further try to keep what the store did not take."""

PARTS: Final = ("gates", "sizing", "order")
"""Parts of the answer that the record keeps in columns of their own."""

READ_BEFORE_S: Final = 1.0
"""Beyond the deadline, what was read of an account may be so old when a decision is recorded by it."""

KEEPING_ENDS_S: Final = 2.0
"""So long a stopping service waits for the store, once no reply is under way any more."""

log = structlog.get_logger(__name__)


class DecisionService:
    """Turn one snapshot into one recorded verdict.

    The decider is asked at most `max_model_calls` times at once, and for one API key only while its calls of the
    UTC day have cost less than `model_budget_usd` dollars (0: any amount). `follow` is told of the account and
    market of each recorded decision: what its bars say of earlier forecasts is not the answer's concern.
    """

    def __init__(
        self,
        *,
        store: Store,
        standings: Standings,
        decider: Decider,
        policy: Policy,
        buckets: BucketMap,
        metrics: Metrics,
        max_model_calls: int,
        model_budget_usd: Decimal,
        follow: Callable[[str, MarketView], None] = lambda _account_id, _market: None,
    ) -> None:
        self._store = store
        self._standings = standings
        self._decider = decider
        self._policy = policy
        self._buckets = buckets
        self._metrics = metrics
        self._model_calls = asyncio.Semaphore(max_model_calls)
        self._model_budget_usd = model_budget_usd
        self._follow = follow
        self._ending: set[asyncio.Task[None]] = set()
        # As logging is configured now: to look that up for each line takes a third of what the line takes.
        self._log = log.bind()

    @property
    def decider(self) -> Decider:
        """Give the decider in use."""
        return self._decider

    def policy_at(self, level: int | None) -> Policy:
        """Give the policy at the aggressiveness level that a request names, or at the configured one.

        Raises:
            PolicyError: the level is above the highest one a request may name.
        """
        return self._policy if level is None else self._policy.at_level(level)

    def situation(self, *, account: Account, snapshot: Snapshot) -> "Situation":
        """Make of a request what needs to know no more than the request."""
        market = resolve_market(snapshot, buckets=self._buckets)
        return Situation(account=account, market=market, description=describe(market=market, account=account))

    async def decide(
        self,
        situation: "Situation",
        *,
        policy: Policy,
        request_body: bytes,
        request_id: str,
        api_key_id: str | None,
        started: float,
        known: KnownAccount | None = None,
        store_s: float = 0.0,
        claim: Claim | None = None,
    ) -> bytes:
        """Return the response body of one decision, committed before it is returned.

        `started` is the monotonic time, in seconds, at which the request arrived; the deadline counts from it.
        `known` is what the store said of the account for this very request, where that was asked already, which took
        `store_s` seconds. `claim` is the request's hold on its idempotency key, if it has one; it is finished with the
        decision.

        Raises:
            LeaseLost: another request holds the key now; nothing was recorded.
            StoreUnavailable: the decision could not be recorded; nothing was approved.
        """
        account, market = situation.account, situation.market
        if known is None:
            reading = time.monotonic()
            with span("read state"):
                known = await self._store.read_known(
                    account_id=account.id, mode=account.mode, as_of=market.as_of, held=_held(account)
                )
            store_s = time.monotonic() - reading
        exposure = measure_exposure(account=account, market=market, state=known.state)
        prompt = build_prompt(
            policy=policy,
            market=market,
            account=account,
            bounds=entry_bounds(
                market=market,
                account=account,
                state=known.state,
                policy=policy,
                decider_serves_live=self._decider.serves_live,
                exposure=exposure,
            ),
            description=situation.description,
        )
        with span("propose") as proposing:
            reply = await self._propose(
                prompt=prompt, market=market, account=account, policy=policy, api_key_id=api_key_id, started=started
            )
            if proposing.recording:
                _note_proposing(proposing, reply)
        case = _Case(
            decision_id=UUID(bytes=uuid7().bytes),
            account=account,
            market=market,
            policy=policy,
            prompt=prompt,
            reply=reply,
            request_body=request_body,
            request_id=request_id,
            api_key_id=api_key_id,
            started=started,
            decider_serves_live=self._decider.serves_live,
        )
        answer: _Answer | None = None
        recording = time.monotonic()
        try:
            standing = await self._standings.of(
                decider=decider_key(name=reply.call.name, model=reply.call.model), prompt_hash=prompt.template_hash
            )
            if claim is None:
                answer = await self._record_unchanged(case, known=known, exposure=exposure, standing=standing)
            if answer is None:
                answer = await self._record_under_lock(case, standing=standing, claim=claim)
        finally:
            self._keep_account(case, recorded=answer is not None)
        store_s += time.monotonic() - recording - answer.judging_s
        self._follow(account.id, market)
        if (deciding := current()).recording:
            deciding.note(**_told_of(answer))
        # It is counted and written down when the answer is on its way.
        asyncio.get_running_loop().call_soon(
            self._report, answer, time.monotonic() - started, store_s, current().trace_id
        )
        return answer.body

    async def _record_unchanged(
        self, case: "_Case", *, known: KnownAccount, exposure: Exposure, standing: SizingStanding
    ) -> "_Answer | None":
        """Judge by what is known of the account, and commit the verdict if that still holds; None where it does not."""
        with span("judge"):
            answer = case.judge(state=known.state_at(time.monotonic()), standing=standing, exposure=exposure)
        with span("record"):
            recorded = await self._store.record_unchanged(
                known,
                answer.record(),
                mark=answer.mark(),
                prompt=case.prompt_texts(),
                policy=case.policy_text(),
                reservation=answer.reservation(),
                forecast=answer.forecast(),
                calls=ended_calls(case.reply),
                read_within_s=case.policy.decision_deadline_ms / 1000 + READ_BEFORE_S,
            )
        return answer if recorded else None

    async def _record_under_lock(self, case: "_Case", *, standing: SizingStanding, claim: Claim | None) -> "_Answer":
        """Judge while the account holds still, and commit the verdict with all that follows from it."""
        account = case.account
        with span("gating"):
            async with self._store.gating(
                account_id=account.id, mode=account.mode, as_of=case.market.as_of, held=_held(account)
            ) as transaction:
                with span("judge"):
                    answer = case.judge(state=transaction.state, standing=standing)
                with span("record"):
                    await transaction.record(
                        answer.record(),
                        mark=answer.mark(),
                        prompt=case.prompt_texts(),
                        policy=case.policy_text(),
                        reservation=answer.reservation(),
                        forecast=answer.forecast(),
                        calls=ended_calls(case.reply),
                    )
                    if claim is not None:
                        await finish_key(transaction.connection, claim, decision_id=case.decision_id)
        return answer

    async def close(self) -> None:
        """Wait for replies whose end is still to come, then cut them off; keep how they ended either way."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=RESTS_END_S)
        await self._decider.close()
        if self._ending:
            await asyncio.wait(self._ending, timeout=KEEPING_ENDS_S)
        for task in tuple(self._ending):
            task.cancel()

    def _keep_account(self, case: "_Case", *, recorded: bool) -> None:
        """Count the calls of a reply, and keep what the decision's own transaction did not."""
        reply = case.reply
        for call in ended_calls(reply):
            self._metrics.record_model_call(call)
        if reply.rest is None and (recorded or not reply.call.calls):
            return
        asker = Asker(
            decision_id=case.decision_id,
            account_id=case.account.id,
            mode=case.account.mode,
            api_key_id=case.api_key_id,
        )
        task = asyncio.create_task(self._keep_rest(reply, asker=asker))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _keep_rest(self, reply: Reply, *, asker: Asker) -> None:
        """Keep how a reply ended that was judged by its numbers, and calls that no recorded decision accounts for."""
        ended = ended_calls(reply)
        whole = reply if reply.rest is None else await asyncio.shield(reply.rest)
        late = [call for place, call in enumerate(whole.call.calls) if reply.call.calls[place] not in ended]
        for call in late:
            self._metrics.record_model_call(call)
        if reply.rest is not None and isinstance(whole.outcome, DeciderFailure):
            log.warning(
                "a reply went wrong after its numbers", decision_id=str(asker.decision_id), code=whole.outcome.code
            )
        for pause_s in (*KEEPING_PAUSES_S, None):
            try:
                await self._store.keep_rest(
                    asker=asker,
                    ended=ended,
                    late=late,
                    reply=_rest_document(whole),
                    usage=call_document(whole.call),
                )
                return
            except StoreUnavailable as error:
                if pause_s is None:
                    log.error("the end of a reply is not kept", decision_id=str(asker.decision_id), reason=str(error))
                    return
            await asyncio.sleep(pause_s)

    async def _propose(
        self,
        *,
        prompt: Prompt,
        market: MarketView,
        account: Account,
        policy: Policy,
        api_key_id: str | None,
        started: float,
    ) -> Reply:
        """Ask the decider, if it may be asked, within what the deadline leaves after the reserve for recording."""
        until = started + policy.decision_deadline_ms / 1000 - RECORDING_RESERVE_S
        if await self._budget_is_spent(api_key_id):
            return self._unasked(prompt, ModelFailure.UNAVAILABLE, "the key's model budget of the day is spent")
        left_s = until - time.monotonic()
        if left_s <= 0:
            return self._unasked(prompt, ModelFailure.TIMEOUT, "the deadline passed before the decider was asked")
        if self._model_calls.locked():
            try:
                async with asyncio.timeout(left_s):
                    await self._model_calls.acquire()
            except TimeoutError:
                return self._unasked(prompt, ModelFailure.UNAVAILABLE, "all model calls allowed at once are under way")
        else:
            await self._model_calls.acquire()  # there is one, so this waits for nothing
        try:
            return await self._decider.propose(
                prompt=prompt, market=market, account=account, policy=policy, budget_s=until - time.monotonic()
            )
        finally:
            self._model_calls.release()

    async def _budget_is_spent(self, api_key_id: str | None) -> bool:
        """Tell whether the day's budget is used up; calls under way may still pass it by what they cost."""
        if not self._model_budget_usd:
            return False
        return await self._store.model_cost_today_usd(api_key_id=api_key_id) >= self._model_budget_usd

    def _unasked(self, prompt: Prompt, code: ModelFailure, detail: str) -> Reply:
        return Reply(
            outcome=DeciderFailure(code=code, detail=detail),
            call=DeciderCall(
                name=self._decider.name,
                model=None,
                prompt_version=prompt.version,
                prompt_hash=prompt.template_hash,
                latency_ms=0,
                attempts=0,
            ),
        )

    def _report(self, answer: "_Answer", elapsed_s: float, store_s: float, trace_id: str | None) -> None:
        """Count a decision, and write the one log line about it."""
        case = answer.case
        call, outcome = case.reply.call, case.reply.outcome
        self._metrics.record_decision(judgement=answer.judgement, call=call, elapsed_s=elapsed_s)
        self._log.info(
            "decision",
            **_told_of(answer),
            request_id=case.request_id,
            trace_id=trace_id,
            api_key_id=case.api_key_id,
            detail=outcome.detail if isinstance(outcome, DeciderFailure) else None,
            decider=call.name,
            model=call.model,
            target=call.target,
            attempts=call.attempts,
            hedged=call.hedged,
            latency_ms=round(elapsed_s * 1000),
            model_ms=call.latency_ms,
            store_ms=round(store_s * 1000),
            cost_usd=float(call.cost_usd) if call.priced else None,
        )


def _told_of(answer: "_Answer") -> dict[str, str | float | None]:
    """Write what a log line and a span say of a decision."""
    account, judgement = answer.case.account, answer.judgement
    return {
        "decision_id": str(answer.case.decision_id),
        "account_id": account.id,
        "mode": str(account.mode),
        "action": str(judgement.action),
        "verdict": str(judgement.verdict),
        "reason_code": judgement.reason_code,
        "gate": _blocking_gate(judgement),
        "degraded": judgement.degraded,
    }


def _held(account: Account) -> list[str]:
    return [position.symbol for position in account.positions]


def _note_proposing(proposing: Span, reply: Reply) -> None:
    """Note on a span how the decider did."""
    proposing.note(
        decider=reply.call.name,
        model=reply.call.model,
        target=reply.call.target,
        attempts=reply.call.attempts,
        hedged=reply.call.hedged,
        outcome=reply.outcome.code if isinstance(reply.outcome, DeciderFailure) else PROPOSED,
    )


def _blocking_gate(judgement: Judgement) -> str | None:
    """Name the gate whose code is the reason of the verdict; None where none blocked."""
    if judgement.reason_code is None:
        return None
    blocks = [gate for gate in judgement.gates if gate.status is GateStatus.BLOCK]
    named = [gate.gate for gate in blocks if gate.code == judgement.reason_code] or [gate.gate for gate in blocks]
    return named[0] if named else None


def ended_calls(reply: Reply) -> tuple[ModelCall, ...]:
    """Give the calls whose account is final: all but the one of which the rest is still to come."""
    if reply.rest is None:
        return reply.call.calls
    return tuple(call for call in reply.call.calls if not (call.estimated and call.outcome == PROPOSED))


def _rest_document(reply: Reply) -> dict[str, Any]:
    """Write how a reply ended: the whole proposal, or why it is none after all."""
    failed = reply.outcome if isinstance(reply.outcome, DeciderFailure) else None
    return {
        "outcome": PROPOSED if failed is None else failed.code,
        "detail": None if failed is None else failed.detail,
        "stop_reason": reply.call.stop_reason,
        "proposal": None if failed is not None else reply.outcome,
    }


def _outcome(reply: Reply) -> Proposal | ModelFailure:
    return reply.outcome.code if isinstance(reply.outcome, DeciderFailure) else reply.outcome


def call_document(call: DeciderCall) -> dict[str, Any]:
    """Write the account of a decider call as the response shows it."""
    return {
        "name": call.name,
        "model": call.model,
        "prompt_version": call.prompt_version,
        "prompt_hash": call.prompt_hash,
        "latency_ms": call.latency_ms,
        "attempts": call.attempts,
        "hedged": call.hedged,
        "input_tokens": call.input_tokens,
        "output_tokens": call.output_tokens,
        "cache_read_tokens": call.cache_read_tokens,
        "cost_usd": float(call.cost_usd) if call.priced else None,
    }


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Hold what a request shows: an account and the market, and what a prompt tells of them."""

    account: Account
    market: MarketView
    description: Description


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Hold what one decision is made of, but for the state of its account."""

    decision_id: UUID
    account: Account
    market: MarketView
    policy: Policy
    prompt: Prompt
    reply: Reply
    request_body: bytes
    request_id: str
    api_key_id: str | None
    started: float
    decider_serves_live: bool

    def judge(self, *, state: AccountState, standing: SizingStanding, exposure: Exposure | None = None) -> "_Answer":
        """Judge the reply, the account being as `state` says, and write the answer."""
        judging = time.monotonic()
        judgement = judge(
            decision_id=str(self.decision_id),
            outcome=_outcome(self.reply),
            market=self.market,
            account=self.account,
            state=state,
            policy=self.policy,
            decider_serves_live=self.decider_serves_live,
            calibration=standing,
            exposure=exposure,
        )
        if self.reply.degraded:
            judgement = replace(judgement, degraded=True)
        latency_ms = round((time.monotonic() - self.started) * 1000)
        document = decision_document(
            decision_id=str(self.decision_id),
            account_id=self.account.id,
            judgement=judgement,
            market=self.market,
            policy=self.policy,
            decider=call_document(self.reply.call),
            latency_ms=latency_ms,
        )
        # What the record holds in columns of their own too is written once.
        parts = {name: None if document[name] is None else orjson.dumps(document[name]) for name in PARTS}
        fragments = {name: orjson.Fragment(part) for name, part in parts.items() if part is not None}
        return _Answer(
            case=self,
            state=state,
            judgement=judgement,
            latency_ms=latency_ms,
            body=orjson.dumps(document | fragments),
            parts={name: None if part is None else part.decode() for name, part in parts.items()},
            judging_s=time.monotonic() - judging,
        )

    def prompt_texts(self) -> PromptTexts:
        prompt = self.prompt
        return _texts_of_prompt(prompt.version, prompt.template_hash, prompt.template, prompt.system)

    def policy_text(self) -> PolicyText:
        return _text_of_policy(self.policy)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Hold one judged decision on its way into the store, and write its rows.

    `parts` are the parts of the body that have columns of their own; `judging_s` is what it took, in seconds.
    """

    case: _Case
    state: AccountState
    judgement: Judgement
    latency_ms: int
    body: bytes
    parts: Mapping[str, str | None]
    judging_s: float

    def record(self) -> DecisionRecord:
        case = self.case
        judgement, call = self.judgement, case.reply.call
        candidate, edge, ticket = judgement.candidate, judgement.edge, judgement.ticket
        judged = candidate or judgement.manage
        return DecisionRecord(
            decision_id=case.decision_id,
            account_id=case.account.id,
            mode=case.account.mode,
            as_of=case.market.as_of,
            decided_at=judgement.decided_at,
            valid_until=judgement.valid_until,
            action=judgement.action,
            verdict=judgement.verdict,
            reason_code=judgement.reason_code,
            blocked_by=tuple(gate.code for gate in judgement.gates if gate.code is not None),
            degraded=judgement.degraded,
            symbol=None if judged is None else judged.symbol,
            direction=None if candidate is None else candidate.direction,
            setup=None if candidate is None else candidate.setup,
            conviction=None if candidate is None else candidate.conviction,
            p_win_raw=None if edge is None else float(edge.p_win_raw),
            p_win=None if edge is None else float(edge.p_win),
            ev_r=None if edge is None else float(edge.ev_r),
            quantity=None if ticket is None else ticket.quantity,
            notional_usd=None if ticket is None else ticket.notional_usd,
            risk_usd=None if ticket is None else ticket.risk_usd,
            request=case.request_body.decode(),
            state=self.state,
            proposal=_proposal_text(case.reply),
            raw_reply=call.raw_reply,
            response=self.body.decode(),
            gates=self.parts["gates"] or "[]",
            sizing=self.parts["sizing"],
            ticket=self.parts["order"],
            decider_name=call.name,
            model=call.model,
            prompt_hash=case.prompt.template_hash,
            system_hash=case.prompt_texts().system_hash,
            prompt_user=case.prompt.user,
            policy_hash=case.policy.hash(),
            calibration=_text(standing_to_json(judgement.calibration)),
            judged_with=self.judged_with(),
            attempts=call.attempts,
            hedged=call.hedged,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            cache_read_tokens=call.cache_read_tokens,
            cache_write_tokens=call.cache_write_tokens,
            cost_usd=call.cost_usd,
            stop_reason=call.stop_reason,
            model_request_id=call.request_id,
            model_latency_ms=call.latency_ms,
            latency_ms=self.latency_ms,
            request_id=case.request_id,
            api_key_id=case.api_key_id,
        )

    def judged_with(self) -> str:
        """Write what may be otherwise when the decision is judged again: the bucket map, and what the decider was."""
        case = self.case
        known, call = case.market.bucket_map.entries, case.reply.call
        symbols = {view.symbol for view in case.market.symbols} | {held.symbol for held in case.account.positions}
        return orjson.dumps(
            {
                "buckets": {symbol: known[symbol] for symbol in sorted(symbols) if symbol in known},
                "decider_serves_live": case.decider_serves_live,
                "last_resort": case.reply.degraded,
                "prompt_version": call.prompt_version,
                "priced": call.priced,
            }
        ).decode()

    def mark(self) -> AccountMark | None:
        """Give the equity mark; none from the future, which would become the baseline of a day to come."""
        # Told by the times: no gate is asked where nothing was proposed.
        if self.case.market.as_of > self.state.now + timedelta(seconds=FUTURE_TOLERANCE_S):
            return None
        return AccountMark(
            equity_usd=self.case.account.equity,
            day_loss_usd=self.judgement.day_loss_usd,
            week_loss_usd=self.judgement.week_loss_usd,
        )

    def reservation(self) -> NewReservation | None:
        """Give what an executable ticket holds until it is released; nothing where no share moves."""
        judgement, ticket = self.judgement, self.judgement.ticket
        if ticket is None or ticket.quantity == 0:
            return None
        sells = ticket.side in (Side.SELL, Side.SELL_SHORT)
        return NewReservation(
            symbol=ticket.symbol,
            direction=Direction.LONG if sells is ticket.reduce_only else Direction.SHORT,
            quantity=Decimal(ticket.quantity),
            notional_usd=judgement.reserved_notional_usd,
            risk_usd=judgement.reserved_risk_usd,
            buckets=judgement.buckets,
            reduce_only=ticket.reduce_only,
            expires_at=judgement.decided_at + timedelta(seconds=self.case.policy.reservation_ttl_s),
        )

    def forecast(self) -> NewForecast | None:
        """Give what the decision foretold, executable or not; None where bars could never tell what became of it."""
        candidate, edge = self.judgement.candidate, self.judgement.edge
        plan = None if candidate is None else plan_of(candidate=candidate, edge=edge, market=self.case.market)
        if candidate is None or plan is None:
            return None
        p_win, p_calibrated = candidate.p_win_pct / PERCENT, self.judgement.p_win_calibrated
        return NewForecast(
            p_win=float(p_win),
            p_win_calibrated=None if p_calibrated is None else float(p_calibrated),
            p_win_percent=whole_percent(p_win),
            p_win_calibrated_percent=None if p_calibrated is None else whole_percent(p_calibrated),
            ev_r=plan.ev_r,
            entry_type=plan.entry_type,
            entry=plan.entry,
            stop=plan.stop,
            target=plan.target,
            cost_usd=plan.cost_usd,
            time_stop_at=plan.time_stop_at,
        )


@lru_cache(maxsize=64)
def _texts_of_prompt(version: str, template_hash: str, template: str, system: str) -> PromptTexts:
    return PromptTexts(version=version, template_hash=template_hash, template=template, system=system)


@lru_cache(maxsize=64)
def _text_of_policy(policy: Policy) -> PolicyText:
    return PolicyText(version=POLICY_VERSION, hash=policy.hash(), body=policy.canonical_json())


def _text(part: object) -> str | None:
    """Write one part of the document for a column of its own; what is absent stays NULL."""
    return None if part is None else orjson.dumps(part).decode()


def _proposal_text(reply: Reply) -> str | None:
    """Write the whole reply, judged or not, as JSON with decimals as strings."""
    if isinstance(reply.outcome, DeciderFailure):
        return None
    return orjson.dumps(reply.outcome, default=str).decode()
