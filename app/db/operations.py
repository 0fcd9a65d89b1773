"""Write a decision: lock its account, read its state, record what was judged, commit, and only then return.

A gating transaction takes five round trips: BEGIN, the locks, the state, the record, COMMIT. The locks and the
state are two statements because a statement sees what was committed when it began: one that waited for a
lock and read in the same breath would miss the reservation of the decision it waited for.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Final

from app.db.account_state import read_account_state, state_to_json
from app.db.engine import Connection, ConnectionPool
from app.db.locks import lock_for_gating
from app.db.model_calls import Asker, cost_today_usd, keep_calls_in, keep_rest
from app.db.records import AccountMark, DecisionRecord, NewForecast, NewReservation, PolicyText, PromptTexts
from app.db.vocabulary import StoredTextKind
from app.domain.account import AccountMode, AccountState
from app.domain.model_call import ModelCall

_DECISION: Final = tuple(field.name for field in fields(DecisionRecord))
_OF_DECISION: Final = ("decision_id", "account_id", "mode")
_MARK: Final = (*_OF_DECISION, "as_of", "approved_entry", *(field.name for field in fields(AccountMark)))
_RESERVATION: Final = (*_OF_DECISION, "created_at", *(field.name for field in fields(NewReservation)))
_OF_FORECAST: Final = (
    *_OF_DECISION,
    *("as_of", "decider", "prompt_hash", "setup", "symbol", "direction", "verdict", "blocked_by", "conviction"),
)
_FORECAST: Final = (*_OF_FORECAST, *(field.name for field in fields(NewForecast)))
_COUNT: Final = ("day", "account_id", "decider", "action", "verdict", "reason_code", "decisions")
_COUNT_DECISION: Final = """
ON CONFLICT (day, account_id, decider, action, verdict, reason_code)
DO UPDATE SET decisions = decision_counts.decisions + 1
"""
_COUNT_BLOCKS: Final = """
INSERT INTO gate_sums (day, account_id, decider, code, blocked)
SELECT $1, $2, $3, code, 1 FROM (SELECT DISTINCT unnest($4::text[])) AS block (code)
ON CONFLICT (day, account_id, decider, code) DO UPDATE SET blocked = gate_sums.blocked + 1
"""

# Text, in columns that are no JSON, which strangers wrote or had a hand in.
_FOREIGN_TEXT: Final = ("raw_reply", "prompt_user", "model", "stop_reason", "model_request_id", "request_id")


def _insert(table: str, columns: tuple[str, ...], *, after: int) -> str:
    placeholders = ", ".join(f"${after + number}" for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({placeholders})"  # noqa: S608 (constants only)


# What one decision writes, in this order; each row is there or not, and all of it is one statement.
_ROWS: Final = {
    "llm_decisions": _DECISION,
    "account_marks": _MARK,
    "reservations": _RESERVATION,
    "forecasts": _FORECAST,
    "decision_counts": _COUNT,
}


@cache
def _record_statement(tables: tuple[str, ...]) -> str:
    """Insert a row into each of these tables, the last one in the main statement."""
    inserts: list[str] = []
    after = 0
    for table in tables:
        inserts.append(_insert(table, _ROWS[table], after=after))
        after += len(_ROWS[table])
    parts = ", ".join(f"{table}_row AS ({insert})" for table, insert in zip(tables, inserts[:-1], strict=False))
    return f"WITH {parts} {inserts[-1]} {_COUNT_DECISION}"


_INSERT_PROMPT: Final = """
INSERT INTO prompts (hash, version, kind, body) VALUES ($1, $5, $2, $3), ($4, $5, $6, $7) ON CONFLICT DO NOTHING
"""
_INSERT_POLICY: Final = "INSERT INTO policies (hash, version, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


def asker_of(decision: DecisionRecord) -> Asker:
    """Name on whose behalf a decision's models were called."""
    return Asker(
        decision_id=decision.decision_id,
        account_id=decision.account_id,
        mode=decision.mode,
        api_key_id=decision.api_key_id,
    )


class GatingTransaction:
    """Hold one account still while it is judged. What it writes is committed when its block ends.

    `state` is the account as no other decision or halt can change it now; `connection` is there for writes
    that must commit together with the decision, or not at all.
    """

    def __init__(self, connection: Connection, *, state: AccountState, stored: frozenset[str]) -> None:
        self.connection = connection
        self.state = state
        self.stored = stored

    async def record(
        self,
        decision: DecisionRecord,
        *,
        mark: AccountMark | None,
        prompt: PromptTexts,
        policy: PolicyText,
        reservation: NewReservation | None = None,
        forecast: NewForecast | None = None,
        calls: Sequence[ModelCall] = (),
    ) -> None:
        """Write a decision, its account mark, what it reserves and foretells, and its prompt and policy when new.

        `calls` are those of its model calls that have ended.

        What reserves something leaves a mark; a decision without a mark reserves nothing.

        Raises:
            StoreUnavailable: it could not be written; nothing of the transaction will be.
        """
        await self._store_texts(prompt, policy)
        values = [getattr(decision, column) for column in _DECISION]
        values[_DECISION.index("state")] = state_to_json(decision.state)
        for column in _FOREIGN_TEXT:
            values[_DECISION.index(column)] = _storable(getattr(decision, column))
        tables = ["llm_decisions"]
        shared = (decision.decision_id, decision.account_id, decision.mode)
        if mark is not None:
            tables.append("account_marks")
            values += (*shared, decision.as_of, decision.approved_entry)
            values += (mark.equity_usd, mark.day_loss_usd, mark.week_loss_usd)
        if mark is not None and reservation is not None:
            tables.append("reservations")
            values += (*shared, decision.decided_at)
            values += (getattr(reservation, field.name) for field in fields(NewReservation))
        if forecast is not None:
            tables.append("forecasts")
            values += (getattr(decision, column) for column in _OF_FORECAST)
            values += (getattr(forecast, field.name) for field in fields(NewForecast))
        day = decision.as_of.astimezone(UTC).date()
        tables.append("decision_counts")
        values += (day, decision.account_id, decision.decider)
        values += (decision.action, decision.verdict, decision.reason_code or "", 1)
        await self.connection.execute(_record_statement(tuple(tables)), *values)
        if forecast is not None and decision.blocked_by:
            codes = list(decision.blocked_by)
            await self.connection.execute(_COUNT_BLOCKS, day, decision.account_id, decision.decider, codes)
        await keep_calls_in(self.connection, calls, asker=asker_of(decision))

    async def _store_texts(self, prompt: PromptTexts, policy: PolicyText) -> None:
        system_hash = prompt.system_hash
        if not self.stored.issuperset((prompt.template_hash, system_hash)):
            await self.connection.execute(
                _INSERT_PROMPT,
                prompt.template_hash,
                StoredTextKind.TEMPLATE,
                prompt.template,
                system_hash,
                prompt.version,
                StoredTextKind.SYSTEM,
                prompt.system,
            )
        if policy.hash not in self.stored:
            await self.connection.execute(_INSERT_POLICY, policy.hash, policy.version, policy.body)
        self.stored |= {prompt.template_hash, system_hash, policy.hash}


class Store:
    """Read an account's state and write decisions."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        # Hashes of texts known to be committed, so that they are sent once per process.
        self._stored: frozenset[str] = frozenset()

    async def read_state(
        self, *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str] = ()
    ) -> AccountState:
        """Read the account's state without locks, in one round trip: good for a prompt, not for judging.

        `held` names the symbols whose buckets are wanted.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        async with self._pool.connection() as connection:
            return await read_account_state(connection, account_id=account_id, mode=mode, as_of=as_of, held=held)

    async def model_cost_today_usd(self, *, api_key_id: str | None) -> Decimal:
        """Sum what the model calls of a key (None: those without one) have cost since midnight UTC.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        return await cost_today_usd(self._pool, api_key_id=api_key_id)

    async def keep_rest(
        self, *, asker: Asker, ended: Sequence[ModelCall], late: Sequence[ModelCall], reply: object, usage: object
    ) -> None:
        """Note how a reply ended whose numbers were judged before it had; see `model_calls.keep_rest`.

        Raises:
            StoreUnavailable: it is not noted; the decision stands as it is.
        """
        await keep_rest(self._pool, asker=asker, ended=ended, late=late, reply=reply, usage=usage)

    @asynccontextmanager
    async def gating(
        self, *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str] = ()
    ) -> AsyncIterator[GatingTransaction]:
        """Hold the account still, give its state, and commit what is recorded when the block ends.

        An exception or cancellation that leaves the block undoes everything. Keep nothing slow inside: every
        other decision on the account waits.

        Raises:
            StoreUnavailable: the account could not be locked or read, or the commit failed. After a failed
                commit the decision may be stored all the same, so no order may be sent, and none repeated.
        """
        async with self._pool.transaction() as connection:
            await lock_for_gating(connection, account_id=account_id)
            state = await read_account_state(connection, account_id=account_id, mode=mode, as_of=as_of, held=held)
            transaction = GatingTransaction(connection, state=state, stored=self._stored)
            yield transaction
        # A text whose transaction did not commit is not stored.
        self._stored |= transaction.stored


def _storable(text: str | None) -> str | None:
    """Replace what no PostgreSQL text can hold: NUL, and halves of surrogate pairs."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
