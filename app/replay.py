"""Judge stored decisions again: the same inputs through the same judge(), and the answer written anew.

A decision is stored with all that its judgement rests on: the request and the reply, the account as it was held still,
the policy, the decider's record, the buckets. What only tells of the call (tokens, latency) is taken over from its
columns. So a replay must give the stored answer to the byte, and a what-if differs from it by its policy alone.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import orjson

from app.db.engine import ConnectionPool
from app.db.queries import get_policy, list_records
from app.db.records import RULES, DecisionRecord
from app.domain.account import Account, AccountState
from app.domain.buckets import BucketMap
from app.domain.document import Json, decision_document
from app.domain.market import MarketView, Snapshot, resolve_market
from app.domain.policy import Policy, PolicyError, ScaleOut
from app.domain.proposal import (
    Candidate,
    Direction,
    EntryType,
    Manage,
    Mode,
    ModelFailure,
    Proposal,
    Setup,
    WatchItem,
)
from app.domain.standing import SizingStanding, standing_from_json
from app.domain.verdict import Judgement, judge
from app.llm.decider import DeciderCall
from app.service import call_document

ReadRequest = Callable[[bytes], tuple[Account, Snapshot]]
"""Reads the body of a stored request; raises ValueError when it can no longer be read."""

Replayed = tuple[str, object, object]
"""A place in an answer, what is stored there, and what the replay gives."""

ABSENT: Final = "(absent)"
PAGE: Final = 50
"""Records read at once: each may hold a request of a megabyte."""


class NotReplayable(Exception):  # noqa: N818 (what is stored cannot be judged by this program)
    """Say in one line why a stored decision cannot be judged again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Hold all that one stored decision was made of.

    `assumed` names what was not stored then and is taken from today.
    """

    decision_id: str
    outcome: Proposal | ModelFailure
    market: MarketView
    account: Account
    state: AccountState
    policy: Policy
    calibration: SizingStanding
    decider_serves_live: bool
    last_resort: bool
    call: DeciderCall
    latency_ms: int
    assumed: tuple[str, ...]

    def judgement(self, *, policy: Policy | None = None) -> Judgement:
        """Judge it by its own policy, or by another one."""
        judgement = judge(
            decision_id=self.decision_id,
            outcome=self.outcome,
            market=self.market,
            account=self.account,
            state=self.state,
            policy=policy or self.policy,
            decider_serves_live=self.decider_serves_live,
            calibration=self.calibration,
        )
        return replace(judgement, degraded=True) if self.last_resort else judgement

    def document(self, *, policy: Policy | None = None) -> Json:
        """Write the answer by its own policy, or by another one."""
        return decision_document(
            decision_id=self.decision_id,
            account_id=self.account.id,
            judgement=self.judgement(policy=policy),
            market=self.market,
            policy=policy or self.policy,
            decider=call_document(self.call),
            latency_ms=self.latency_ms,
        )


def inputs_of(record: DecisionRecord, *, policy: str, read_request: ReadRequest, buckets: BucketMap) -> Inputs:
    """Read what a decision was made of; `policy` is the stored text, `buckets` the map of today.

    The map of today serves only decisions from before theirs was kept.

    Raises:
        NotReplayable: it was made of what this program does not know.
    """
    kept = None if record.judged_with is None else orjson.loads(record.judged_with)
    try:
        account, snapshot = read_request(record.request.encode())
        known = buckets if kept is None else BucketMap({name: tuple(of) for name, of in kept["buckets"].items()})
        return Inputs(
            decision_id=str(record.decision_id),
            outcome=_outcome(record),
            market=resolve_market(snapshot, buckets=known),
            account=account,
            state=record.state,
            policy=policy_from_json(policy),
            calibration=standing_from_json(None if record.calibration is None else orjson.loads(record.calibration)),
            decider_serves_live=_served_live(record) if kept is None else kept["decider_serves_live"],
            last_resort=_was_last_resort(record) if kept is None else kept["last_resort"],
            call=_call(record, kept or orjson.loads(record.response)["decider"]),
            latency_ms=record.latency_ms,
            assumed=() if kept is not None else ("buckets", "decider"),
        )
    except (KeyError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else ""
        raise NotReplayable(f"{type(error).__name__}: {said}") from error


def differences(record: DecisionRecord, inputs: Inputs) -> tuple[Replayed, ...]:
    """Compare the stored answer with that of a replay; nothing is found exactly when every byte is the same."""
    replayed = orjson.dumps(inputs.document())
    if replayed == record.response.encode():
        return ()
    found = tuple(_differences("", orjson.loads(record.response), orjson.loads(replayed)))
    return found or (("", "other bytes", "the same values"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Hold what became of replaying one stored decision.

    `refusal` says why it could not be judged again; `assumed` names what was taken from today.
    """

    decision_id: UUID
    decided_at: datetime
    differences: tuple[Replayed, ...] = ()
    refusal: str | None = None
    assumed: tuple[str, ...] = ()

    @property
    def identical(self) -> bool:
        """Tell whether every byte of the answer came out again."""
        return self.refusal is None and not self.differences


async def replay_stored(
    pool: ConnectionPool,
    *,
    read_request: ReadRequest,
    buckets: BucketMap,
    since: datetime | None = None,
    limit: int | None = None,
) -> AsyncIterator[Replay]:
    """Replay decisions made since a time (database clock), newest first, at most `limit`; nothing is written.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    policies: dict[str, str | None] = {}
    last: DecisionRecord | None = None
    left = limit
    while left is None or left > 0:
        page = await list_records(pool, since=since, after=last, limit=PAGE if left is None else min(PAGE, left))
        for record in page:
            if record.policy_hash not in policies:
                policies[record.policy_hash] = await get_policy(pool, record.policy_hash)
            yield _replay(record, policy=policies[record.policy_hash], read_request=read_request, buckets=buckets)
        if len(page) < PAGE:
            return
        last, left = page[-1], None if left is None else left - len(page)


def _replay(record: DecisionRecord, *, policy: str | None, read_request: ReadRequest, buckets: BucketMap) -> Replay:
    replay = Replay(decision_id=record.decision_id, decided_at=record.decided_at)
    try:
        inputs = inputs_of(record, policy=policy or "", read_request=read_request, buckets=buckets)
    except NotReplayable as error:
        return replace(replay, refusal=str(error))
    return replace(replay, differences=differences(record, inputs), assumed=inputs.assumed)


def policy_from_json(text: str) -> Policy:
    """Read what `Policy.canonical_json` wrote.

    Raises:
        ValueError: it has a limit that is no more, or one that is not allowed any more.
    """
    limits: dict[str, object] = orjson.loads(text)["limits"]
    known = {spec.name: spec for spec in fields(Policy)}
    if unknown := limits.keys() - known.keys():
        raise ValueError(f"no limit is named {min(unknown).upper()} any more")
    return Policy(**{name: _limit(known[name].default, value) for name, value in limits.items()})  # type: ignore[arg-type]


def _limit(default: object, written: object) -> object:
    if isinstance(default, Decimal):
        return Decimal(str(written))
    return ScaleOut(str(written)) if isinstance(default, ScaleOut) else written


def with_limits(policy: Policy, limits: Mapping[str, object]) -> Policy:
    """Return a policy with some limits replaced, by their field names.

    A level above the highest one raises that too: it is asked what would be, not for permission.

    Raises:
        PolicyError: a limit is out of bounds, contradicts another, or would loosen a live interlock.
    """
    for name, closed in (("live_allowed", False), ("require_live_confirm", True)):
        if limits.get(name, closed) is not closed and limits[name] != getattr(policy, name):
            raise PolicyError(
                setting=name.upper(), value=limits[name], reason="a what-if never loosens a live interlock"
            )
    changed = dict(limits)
    level, highest = changed.get("aggressiveness_level"), policy.max_aggressiveness_level
    if isinstance(level, int) and highest is not None and "max_aggressiveness_level" not in changed:
        changed["max_aggressiveness_level"] = max(level, highest)
    return replace(policy, **changed)  # type: ignore[arg-type]


def _outcome(record: DecisionRecord) -> Proposal | ModelFailure:
    if record.proposal is None:
        return ModelFailure(record.reason_code or "")
    said = orjson.loads(record.proposal)
    return Proposal(
        mode=Mode(said["mode"]),
        candidates=tuple(_candidate(one) for one in said["candidates"]),
        manage=None if said["manage"] is None else _manage(said["manage"]),
        watchlist=tuple(WatchItem(**item) for item in said["watchlist"]),
        notes=said["notes"],
    )


def _candidate(said: dict[str, Any]) -> Candidate:
    prices = {name: _decimal(said[name]) for name in ("entry_price", "stop_loss", "target_price")}
    kinds = {
        "direction": Direction(said["direction"]),
        "setup": Setup(said["setup"]),
        "entry_type": EntryType(said["entry_type"]),
    }
    return Candidate(**{**said, **prices, **kinds})


def _manage(said: dict[str, Any]) -> Manage:
    return Manage(**{**said, **{name: _decimal(said[name]) for name in ("reduce_pct", "new_stop", "new_target")}})


def _decimal(written: str | None) -> Decimal | None:
    return None if written is None else Decimal(written)


def _call(record: DecisionRecord, kept: Mapping[str, Any]) -> DeciderCall:
    """Give the account of the call; an answer from before it was kept tells an unknown price by null."""
    return DeciderCall(
        name=record.decider_name,
        model=record.model,
        prompt_version=kept["prompt_version"],
        prompt_hash=record.prompt_hash,
        latency_ms=record.model_latency_ms,
        attempts=record.attempts,
        hedged=record.hedged,
        input_tokens=record.input_tokens,
        output_tokens=record.output_tokens,
        cache_read_tokens=record.cache_read_tokens,
        cache_write_tokens=record.cache_write_tokens,
        cost_usd=record.cost_usd,
        priced=kept["priced"] if "priced" in kept else kept["cost_usd"] is not None,
    )


def _served_live(record: DecisionRecord) -> bool:
    """Tell whether the decider served live accounts: all but the rules did, which may stand in for one that does."""
    return record.decider_name != RULES or _was_last_resort(record)


def _was_last_resort(record: DecisionRecord) -> bool:
    """Tell whether a decider stood in for a failed one: degraded, and yet with a proposal that is a whole one."""
    return record.degraded and record.decider_name == RULES and record.proposal is not None


def _differences(place: str, stored: object, replayed: object) -> Iterator[Replayed]:
    if isinstance(stored, dict) and isinstance(replayed, dict):
        for name in dict.fromkeys((*stored, *replayed)):
            inner = f"{place}.{name}" if place else name
            yield from _differences(inner, stored.get(name, ABSENT), replayed.get(name, ABSENT))
    elif isinstance(stored, list) and isinstance(replayed, list) and len(stored) == len(replayed):
        for number, (one, other) in enumerate(zip(stored, replayed, strict=True)):
            yield from _differences(f"{place}.{number}", one, other)
    elif stored != replayed or type(stored) is not type(replayed):
        yield place, stored, replayed
