"""Write a decision: by what was known of its account, if that still holds, or with the account locked meanwhile.

Most decisions are recorded by `Store.record_unchanged`, one statement that commits by itself: it stores everything if
the account's version is the one that was judged by, and else nothing (docs/adr/0013).

A gating transaction takes five round trips: BEGIN, the locks, the state, the record, COMMIT. The locks and the
state are two statements because a statement sees what was committed when it began: one that waited for a
lock and read in the same breath would miss the reservation of the decision it waited for.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Final, NamedTuple

from app.db.account_state import KnownAccount, read_account_state, read_known_account, state_to_json
from app.db.engine import IDLE_IN_TRANSACTION_S, Connection, ConnectionPool
from app.db.locks import lock_account
from app.db.model_calls import CALL_COLUMNS, CALL_TYPES, Asker, call_values, cost_today_usd, keep_rest
from app.db.records import AccountMark, DecisionRecord, NewForecast, NewReservation, PolicyText, PromptTexts
from app.db.vocabulary import StoredTextKind
from app.domain.account import AccountMode, AccountState
from app.domain.model_call import ModelCall

JUDGED_WITHIN: Final = timedelta(seconds=IDLE_IN_TRANSACTION_S)
"""So long after it was judged a decision may be recorded without locks: as long as a holder of locks may idle."""

_DECISION: Final = tuple(field.name for field in fields(DecisionRecord))
_OF_DECISION: Final = ("decision_id", "account_id", "mode")
_OF_MARK: Final = tuple(field.name for field in fields(AccountMark))
_OF_RESERVATION: Final = tuple(field.name for field in fields(NewReservation))
_OF_FORECAST: Final = tuple(field.name for field in fields(NewForecast))
_decision_values: Final = attrgetter(*_DECISION)
_mark_values: Final = attrgetter(*_OF_MARK)
_reservation_values: Final = attrgetter(*_OF_RESERVATION)
_forecast_values: Final = attrgetter(*_OF_FORECAST)
# What the rows of a decision say beside its own columns; 'reason' is its code, '' where there is none.
_DERIVED: Final = ("day", "decider", "reason")
_GUARD: Final = ("version", "read_at", "read_within", "judged_within")
# As what values are sent whose columns have types of our own (`tables.py`). A parameter gets its type from the column
# that it is for; of one that is not PostgreSQL's own each new connection would first ask what it is.
_SENT_AS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("mode", "action", "verdict", "direction", "setup"), "text"),
    "conviction": "smallint",
    **dict.fromkeys(("p_win_raw", "p_win"), "double precision"),
    "quantity": "bigint",
    **dict.fromkeys(("notional_usd", "risk_usd", "cost_usd"), "numeric"),
    **dict.fromkeys((f"mark.{name}" for name in _OF_MARK), "numeric"),
    "reservation.direction": "text",
    **dict.fromkeys(("reservation.quantity", "reservation.notional_usd", "reservation.risk_usd"), "numeric"),
    **dict.fromkeys(("forecast.p_win", "forecast.p_win_calibrated"), "double precision"),
    **dict.fromkeys(("forecast.p_win_percent", "forecast.p_win_calibrated_percent"), "smallint"),
    "forecast.entry_type": "text",
    **dict.fromkeys(("forecast.entry", "forecast.cost_usd"), "numeric"),
}

# Text, in columns that are no JSON, which strangers wrote or had a hand in.
_FOREIGN_TEXT: Final = tuple(
    _DECISION.index(column)
    for column in ("raw_reply", "prompt_user", "model", "stop_reason", "model_request_id", "request_id")
)
_STATE: Final = _DECISION.index("state")


class _Shape(NamedTuple):
    """Tell which rows a decision writes beside its own, and whether only on the condition that nothing has changed."""

    marks: bool
    reserves: bool
    foretells: bool
    blocks: bool
    calls: int
    guarded: bool


def _further(end: str, sign: str, furthest: str) -> str:
    """Set one end of a day's marks to the new one, if that lies further out by time and decision."""
    new, old = (f"({row}.{end}_as_of, {row}.{end}_decision_id)" for row in ("excluded", "known"))
    columns = (f"{end}_{column}" for column in ("decision_id", "equity_usd"))
    return f"{end}_as_of = {furthest}(known.{end}_as_of, excluded.{end}_as_of), " + ", ".join(
        f"{column} = CASE WHEN {new} {sign} {old} THEN excluded.{column} ELSE known.{column} END" for column in columns
    )


# Marks may come in any order of their times. `greatest` ignores what is NULL.
_JOIN_DAY: Final = (
    "ON CONFLICT (account_id, mode, day) DO UPDATE SET"
    f" {_further('first', '<', 'least')}, {_further('last', '>', 'greatest')},"
    " day_loss_usd = greatest(known.day_loss_usd, excluded.day_loss_usd),"
    " week_loss_usd = greatest(known.week_loss_usd, excluded.week_loss_usd),"
    " approved_entry = known.approved_entry OR excluded.approved_entry"
)


@cache
def _record_statement(shape: _Shape) -> str:
    """Write everything of a decision in one statement; its arguments are those of `_arguments`, in their order."""
    names = [*_DECISION, *_DERIVED]
    names += ("approved_entry", *(f"mark.{name}" for name in _OF_MARK)) * shape.marks
    names += (f"reservation.{name}" for name in _OF_RESERVATION if shape.reserves)
    names += (f"forecast.{name}" for name in _OF_FORECAST if shape.foretells)
    names += ("codes",) * shape.blocks
    names += (f"call{number}.{name}" for number in range(shape.calls) for name in CALL_COLUMNS)
    names += _GUARD * shape.guarded
    of_calls = {f"call{number}.{name}": type_ for number in range(shape.calls) for name, type_ in CALL_TYPES.items()}
    sent_as = {**_SENT_AS, **of_calls}
    place = {
        name: f"${number}::{sent_as[name]}" if name in sent_as else f"${number}"
        for number, name in enumerate(names, start=1)
    }
    condition = "FROM held" if shape.guarded else ""

    def insert(table: str, values: dict[str, str]) -> str:
        return f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} {condition}"

    def of_decision(*columns: str, **renamed: str) -> dict[str, str]:
        return {column: place[renamed.get(column, column)] for column in (*columns, *renamed)}

    def own(table: str, columns: Sequence[str]) -> dict[str, str]:
        return {column: place[f"{table}.{column}"] for column in columns}

    parts: list[str] = []
    if shape.guarded:
        # Waits for whoever holds the row, and then looks at the row as that one left it.
        parts.append(
            f"held AS (UPDATE accounts SET version = version + 1 WHERE account_id = {place['account_id']}"  # noqa: S608
            f" AND version = {place['version']} AND {place['decided_at']} <= clock_timestamp()"
            f" AND {place['decided_at']} > clock_timestamp() - {place['judged_within']}::interval"
            f" AND {place['read_at']} > clock_timestamp() - {place['read_within']}::interval RETURNING account_id)"
        )
    mark = own("mark", _OF_MARK) if shape.marks else {}
    parts.append(f"decision_row AS ({insert('llm_decisions', of_decision(*_DECISION) | mark)})")
    if shape.marks:
        day = of_decision("account_id", "mode", "day", "approved_entry", first_as_of="as_of", last_as_of="as_of")
        day |= of_decision(first_decision_id="decision_id", last_decision_id="decision_id")
        day |= {f"{end}_equity_usd": place["mark.equity_usd"] for end in ("first", "last")}
        day |= own("mark", ("day_loss_usd", "week_loss_usd"))
        parts.append(f"day_row AS ({insert('account_days AS known', day)} {_JOIN_DAY})")
    if shape.reserves:
        reservation = of_decision(*_OF_DECISION, created_at="decided_at") | own("reservation", _OF_RESERVATION)
        parts.append(f"reservation_row AS ({insert('reservations', reservation)})")
    if shape.foretells:
        forecast = of_decision(
            *(*_OF_DECISION, "as_of", "decider", "prompt_hash", "setup", "symbol", "direction", "verdict"),
            *("blocked_by", "conviction"),
        ) | own("forecast", _OF_FORECAST)
        parts.append(f"forecast_row AS ({insert('forecasts', forecast)})")
    if shape.blocks:
        blocked = insert(
            "gate_sums", of_decision("day", "account_id", "decider") | {"code": "code", "blocked": "1"}
        ) + (", " if shape.guarded else "FROM ")
        parts.append(
            f"block_rows AS ({blocked} (SELECT DISTINCT unnest({place['codes']}::text[])) AS block (code)"
            " ON CONFLICT (day, account_id, decider, code) DO UPDATE SET blocked = gate_sums.blocked + 1)"
        )
    for number in range(shape.calls):
        call = of_decision("decision_id", "account_id", "api_key_id") | own(f"call{number}", CALL_COLUMNS)
        parts.append(f"call_row_{number} AS ({insert('model_calls', call)})")
    count = of_decision("day", "account_id", "decider", "action", "verdict", reason_code="reason") | {"decisions": "1"}
    return (
        f"WITH {', '.join(parts)} {insert('decision_counts', count)}"
        " ON CONFLICT (day, account_id, decider, action, verdict, reason_code)"
        " DO UPDATE SET decisions = decision_counts.decisions + 1"
    )


def _arguments(
    decision: DecisionRecord,
    *,
    mark: AccountMark | None,
    reservation: NewReservation | None,
    forecast: NewForecast | None,
    calls: Sequence[ModelCall],
) -> tuple[_Shape, list[object]]:
    """Give the shape of what a decision writes, without a guard, and the values of its columns."""
    values = list(_decision_values(decision))
    values[_STATE] = state_to_json(decision.state)
    for column in _FOREIGN_TEXT:
        values[column] = _storable(values[column])
    day = decision.as_of.astimezone(UTC).date()
    values += (day, decision.decider, decision.reason_code or "")
    reserves = mark is not None and reservation is not None
    blocks = forecast is not None and bool(decision.blocked_by)
    if mark is not None:
        values += (decision.approved_entry, *_mark_values(mark))
    if reserves:
        values += _reservation_values(reservation)
    if forecast is not None:
        values += _forecast_values(forecast)
    if blocks:
        values.append(decision.blocked_by)
    for call in calls:
        values += call_values(call)
    shape = _Shape(
        marks=mark is not None,
        reserves=reserves,
        foretells=forecast is not None,
        blocks=blocks,
        calls=len(calls),
        guarded=False,
    )
    return shape, values


_INSERT_PROMPT: Final = """
INSERT INTO prompts (hash, version, kind, body) VALUES ($1, $5, $2, $3), ($4, $5, $6, $7) ON CONFLICT DO NOTHING
"""
_INSERT_POLICY: Final = "INSERT INTO policies (hash, version, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"


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
        shape, values = _arguments(decision, mark=mark, reservation=reservation, forecast=forecast, calls=calls)
        await self.connection.execute(_record_statement(shape), *values)

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
        return (await self.read_known(account_id=account_id, mode=mode, as_of=as_of, held=held)).state

    async def read_known(
        self, *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str] = ()
    ) -> KnownAccount:
        """Read the account's state as `read_state` does, and the version by which `record_unchanged` can trust it.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        async with self._pool.connection() as connection:
            return await read_known_account(connection, account_id=account_id, mode=mode, as_of=as_of, held=held)

    async def record_unchanged(
        self,
        known: KnownAccount,
        decision: DecisionRecord,
        *,
        mark: AccountMark | None,
        prompt: PromptTexts,
        policy: PolicyText,
        reservation: NewReservation | None = None,
        forecast: NewForecast | None = None,
        calls: Sequence[ModelCall] = (),
        read_within_s: float,
    ) -> bool:
        """Record a decision judged by what was known, in one round trip, if nothing of that has changed; say whether.

        True: it is committed, as if it had been judged under the account's lock. False: nothing is stored, and the
        decision must be judged again in a gating transaction. That is so when the account's version is another, when
        it was read longer than `read_within_s` seconds ago or judged longer than `JUDGED_WITHIN`, when `decided_at`
        lies ahead of the database clock, and for what is not tried at all: accounts that are new or live, and
        prompts and policies that may be new.

        Raises:
            StoreUnavailable: it could not be recorded, or nobody knows whether it was; as after a failed commit, no
                order may be sent, and none repeated.
        """
        if known.version is None or decision.mode is not AccountMode.PAPER:
            return False
        if not self._stored.issuperset((prompt.template_hash, prompt.system_hash, policy.hash)):
            return False
        shape, values = _arguments(decision, mark=mark, reservation=reservation, forecast=forecast, calls=calls)
        values += (known.version, known.state.now, timedelta(seconds=read_within_s), JUDGED_WITHIN)
        async with self._pool.connection() as connection:
            done = await connection.execute(_record_statement(shape._replace(guarded=True)), *values)
        return done == "INSERT 0 1"

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
            await lock_account(connection, account_id=account_id)
            state = await read_account_state(connection, account_id=account_id, mode=mode, as_of=as_of, held=held)
            transaction = GatingTransaction(connection, state=state, stored=self._stored)
            yield transaction
        # A text whose transaction did not commit is not stored.
        self._stored |= transaction.stored


def _storable(text: str | None) -> str | None:
    """Replace what no PostgreSQL text can hold: NUL, and halves of surrogate pairs."""
    if text is None or (text.isascii() and "\x00" not in text):
        return text
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
