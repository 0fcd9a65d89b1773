"""Read AccountState, everything the store knows of an account, in one statement.

The rules (rulebook, sections 2 and 6), each answered by a few index probes however long the history is. What marks
tell is in one row for each day of `as_of` (`account_days`), kept by the statement that records a decision:

* A day is the UTC day of `as_of`, a week its ISO week, whatever the clock says. Marks, reservations, fills
  and sessions belong to one account in one mode, confirmations and halts to the account, some halts to all.
* Baseline: equity of the last mark before the period, if at most 7 days before its start; else of the first
  mark in it that is not later than `as_of`. The request that asks has no mark yet.
* Deepest loss: the largest that any mark of the day (or week) showed, also one dated after `as_of`.
* A reservation is live until released; until it lapses, if neither claimed nor filled; until `as_of` is later
  than its last fill, if filled. Nothing has to sweep: time alone ends those that nobody ends.
* Shares that filled before `as_of` are in the position and leave the reservation, with their part of its notional
  and risk; so do those that can no longer fill.
* Executed notional: fills of the day of `as_of`, each as last corrected.
* A session is a weekday with a mark. Only the last two before the day of `as_of` are looked for, because
  nothing asks about more: `Sessions.earlier` stops at 2. Days of weekends after them are passed over one by one.
* A held symbol keeps the buckets of its latest reservation that was no exit.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final

import asyncpg
import orjson

from app.db.engine import Connection
from app.domain.account import (
    MARK_MAX_AGE,
    ZERO,
    AccountMode,
    AccountState,
    Halt,
    HaltState,
    Reservation,
    Sessions,
    day_start,
)
from app.domain.making import made_quickly
from app.domain.proposal import Direction

_FILLS: Final = """decision_events AS fill
    LEFT JOIN LATERAL (
        SELECT quantity, price FROM decision_events
        WHERE decision_id = fill.decision_id AND event = 'corrected' AND corrects = fill.event_id
        ORDER BY sequence DESC LIMIT 1
    ) AS correction ON true
    WHERE fill.event IN ('filled', 'partially_filled')"""

# Most reservations have no fill: their events are not looked at. Those of one that has are asked by a function, which
# costs nothing where it is not called; in its place a query would be set up by every statement (docs/adr/0017).
_RESERVATION_AND_LEFT: Final = """
created_at, decision_id, symbol, direction, quantity, notional_usd, risk_usd, buckets, reduce_only,
CASE WHEN filled_quantity = 0 THEN quantity ELSE
    CASE WHEN filled_at IS NULL THEN quantity ELSE filled_quantity END
    - coalesce(shares_filled(decision_id, $3), 0)
END AS "left"
"""

# `now` is when the statement arrived, so after the locks were had, and the same throughout.
# $1 account, $2 mode, $3 as_of, $4 when its day began, $5 its day, $6 the Monday of its week, $7 the greatest age of a
# baseline in days, $8 held symbols
_COLUMNS_BUT_BUCKETS: Final = f"""
    (SELECT version FROM accounts WHERE account_id = $1) AS version,
    statement_timestamp() AS now,
    (
        SELECT json_agg(
            json_build_object('account_id', account_id, 'state', state, 'reason', reason, 'operator', operator)
            ORDER BY halt_id
        )
        FROM halts
        WHERE lifted_at IS NULL AND (account_id = $1 OR account_id IS NULL)
    ) AS halts,
    EXISTS (
        SELECT FROM live_confirmations
        WHERE account_id = $1 AND revoked_at IS NULL AND expires_at > statement_timestamp()
    ) AS live_confirmed,
    (
        SELECT array_agg(
            json_build_array(
                decision_id, symbol, direction, quantity::text, notional_usd::text, risk_usd::text, buckets,
                reduce_only, "left"::text
            )::text
            ORDER BY created_at, decision_id
        )
        FROM (
            SELECT {_RESERVATION_AND_LEFT} FROM reservations AS live
            WHERE account_id = $1 AND mode = $2 AND released_at IS NULL AND filled_at IS NULL
                AND held_until > statement_timestamp()
            UNION ALL
            SELECT {_RESERVATION_AND_LEFT} FROM reservations AS live
            WHERE account_id = $1 AND mode = $2 AND released_at IS NULL AND filled_at >= $3
            OFFSET 0
        ) AS live
        WHERE "left" > 0
    ) AS reservations,
    day_baseline_usd, week_baseline_usd, day_deepest_loss_usd, week_deepest_loss_usd,
    (
        SELECT sum(coalesce(correction.quantity, fill.quantity) * coalesce(correction.price, fill.price))
        FROM {_FILLS} AND fill.account_id = $1 AND fill.mode = $2
            AND fill.at >= $4 AND fill.at < $4 + interval '24 hours'
    ) AS executed_notional_usd,
    earlier_sessions, approved_in_last_two,
"""  # noqa: S608 (a constant)
STATE_COLUMNS: Final = f"""
    {_COLUMNS_BUT_BUCKETS}
    (
        SELECT json_object_agg(held.symbol, latest.buckets)
        FROM unnest($8::text[]) AS held (symbol)
        CROSS JOIN LATERAL (
            SELECT buckets FROM reservations
            WHERE account_id = $1 AND mode = $2 AND symbol = held.symbol AND NOT reduce_only
            ORDER BY created_at DESC LIMIT 1
        ) AS latest
    ) AS position_buckets
"""  # noqa: S608 (a constant)
STATE_COLUMNS_HOLDING_NOTHING: Final = f"""
    {_COLUMNS_BUT_BUCKETS} CASE WHEN $8::text[] IS NULL THEN '{{}}'::json END AS position_buckets
"""
"""The same where $8 is empty: what has nothing to answer takes time to be set up all the same."""
# Days count from the week's Monday. Of arrays, the least is that of the first day and the greatest that of the last.
STATE_SOURCE: Final = """
(
    SELECT
        coalesce(
            (max(ARRAY[day - $6::date, last_equity_usd]) FILTER (WHERE day >= $5::date - $7::integer AND day < $5))[2],
            max(first_equity_usd) FILTER (WHERE day = $5 AND first_as_of <= $3)
        ) AS day_baseline_usd,
        coalesce(
            (max(ARRAY[day - $6::date, last_equity_usd]) FILTER (WHERE day < $6))[2],
            (min(ARRAY[day - $6::date, first_equity_usd]) FILTER (WHERE day >= $6 AND first_as_of <= $3))[2]
        ) AS week_baseline_usd,
        max(day_loss_usd) FILTER (WHERE day = $5) AS day_deepest_loss_usd,
        max(week_loss_usd) FILTER (WHERE day >= $6) AS week_deepest_loss_usd
    FROM account_days
    WHERE account_id = $1 AND mode = $2 AND day >= $6::date - $7::integer AND day < $6::date + 7
) AS around
CROSS JOIN (
    SELECT count(*) AS earlier_sessions, coalesce(bool_or(approved_entry), false) AS approved_in_last_two
    FROM (
        SELECT approved_entry FROM account_days
        WHERE account_id = $1 AND mode = $2 AND day < $5::date AND EXTRACT(isodow FROM day) < 6
        ORDER BY day DESC LIMIT 2
    ) AS last_two
) AS sessions
"""
_READ: Final = f"SELECT {STATE_COLUMNS} FROM {STATE_SOURCE}"  # noqa: S608 (constants)
_READ_HOLDING_NOTHING: Final = f"SELECT {STATE_COLUMNS_HOLDING_NOTHING} FROM {STATE_SOURCE}"  # noqa: S608 (constants)


_BUT_NOW: Final = tuple(field.name for field in fields(AccountState) if field.name != "now")
_values_but_now: Final = attrgetter(*_BUT_NOW)


class _Reservations(tuple[Reservation, ...]):  # noqa: SLOT001 (a tuple of any length can have no slots of its own)
    """Hold reservations together with the JSON that `state_to_json` writes of them."""

    written: str

    @classmethod
    def as_told(cls, told: Collection[str]) -> "_Reservations":
        """Read each as the store told it."""
        read = list(map(_read_reservation, told))
        reservations = cls([reservation for reservation, _ in read])
        reservations.written = f"[{','.join([written for _, written in read])}]"
        return reservations


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAccount:
    """Hold an account's state as it was read, and by what to tell later whether it still is so.

    `version` is that of the account's row, which every transaction raises that changes anything of the state; None
    where there is no row yet. `received_at_s` is the monotonic time, in seconds, at which the answer was looked at.
    """

    state: AccountState
    version: int | None
    received_at_s: float

    def state_at(self, monotonic_s: float) -> AccountState:
        """Give the state with the database clock as it must be by now: as read, and what has passed here since.

        Reading began before its answer was looked at, so this is never ahead of that clock.
        """
        now = self.state.now + timedelta(seconds=monotonic_s - self.received_at_s)
        return AccountState(now=now, **dict(zip(_BUT_NOW, _values_but_now(self.state), strict=True)))


def state_arguments(
    *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str]
) -> tuple[object, ...]:
    """Give the values of $1 to $8 in `STATE_COLUMNS` and `STATE_SOURCE`."""
    start = day_start(as_of)
    day = start.date()
    return account_id, mode, as_of, start, day, day - timedelta(days=day.weekday()), MARK_MAX_AGE.days, list(held)


async def read_account_state(
    connection: Connection, *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str]
) -> AccountState:
    """Read what the store knows of an account for a request dated `as_of` that holds these symbols."""
    return (await read_known_account(connection, account_id=account_id, mode=mode, as_of=as_of, held=held)).state


async def read_known_account(
    connection: Connection, *, account_id: str, mode: AccountMode, as_of: datetime, held: Collection[str]
) -> KnownAccount:
    """Read an account's state for such a request, and its version."""
    row = await connection.fetchrow(
        _READ if held else _READ_HOLDING_NOTHING,
        *state_arguments(account_id=account_id, mode=mode, as_of=as_of, held=held),
    )
    assert row is not None  # noqa: S101 (a SELECT from one row)
    return known_account_of_row(row)


def known_account_of_row(row: asyncpg.Record) -> KnownAccount:
    """Read an account off a row that has `STATE_COLUMNS` and was received just now."""
    return KnownAccount(state=_state(row), version=row["version"], received_at_s=time.monotonic())


def state_to_json(state: AccountState) -> str:
    """Write a state as JSON, decimals as strings."""
    return orjson.dumps(state, default=_plain).decode()


def state_from_json(text: str) -> AccountState:
    """Read back what `state_to_json` wrote; what an older program did not write gets its default."""
    sent: dict[str, Any] = orjson.loads(text)
    for name in _DECIMALS & sent.keys():
        sent[name] = None if sent[name] is None else Decimal(sent[name])
    sent["now"] = datetime.fromisoformat(sent["now"])
    sent["halts"] = tuple(_halt(**halt) for halt in sent.get("halts", ()))
    sent["reservations"] = tuple(_reservation(**held) for held in sent.get("reservations", ()))
    sent["sessions"] = Sessions(**sent.get("sessions", {}))
    sent["position_buckets"] = _buckets(sent.get("position_buckets", {}))
    return AccountState(**sent)


_NO_BUCKETS: Final[MappingProxyType[str, tuple[str, ...]]] = MappingProxyType({})
_DECIMALS: Final = {
    "day_baseline_usd",
    "week_baseline_usd",
    "day_deepest_loss_usd",
    "week_deepest_loss_usd",
    "executed_notional_usd",
}


def _state(row: asyncpg.Record) -> AccountState:
    halts, reservations, buckets = row["halts"], row["reservations"], row["position_buckets"]
    return AccountState(
        now=row["now"],
        halts=tuple(_halt(**halt) for halt in orjson.loads(halts)) if halts else (),
        live_confirmed=row["live_confirmed"],
        reservations=_Reservations.as_told(reservations) if reservations else (),
        day_baseline_usd=row["day_baseline_usd"],
        week_baseline_usd=row["week_baseline_usd"],
        day_deepest_loss_usd=row["day_deepest_loss_usd"] or ZERO,
        week_deepest_loss_usd=row["week_deepest_loss_usd"] or ZERO,
        executed_notional_usd=row["executed_notional_usd"] or ZERO,
        sessions=Sessions(earlier=row["earlier_sessions"], approved_in_last_two=row["approved_in_last_two"]),
        position_buckets=_buckets(orjson.loads(buckets)) if buckets else _NO_BUCKETS,
    )


def _halt(*, account_id: str | None, state: str, reason: str, operator: str) -> Halt:
    return Halt(account_id=account_id, state=HaltState(state), reason=reason, operator=operator)


def _reservation(
    *,
    decision_id: str,
    symbol: str,
    direction: str,
    quantity: str,
    notional_usd: str,
    risk_usd: str,
    buckets: list[str],
    reduce_only: bool,
) -> Reservation:
    return Reservation(
        decision_id=decision_id,
        symbol=symbol,
        direction=Direction(direction),
        quantity=Decimal(quantity),
        notional_usd=Decimal(notional_usd),
        risk_usd=Decimal(risk_usd),
        buckets=tuple(buckets),
        reduce_only=reduce_only,
    )


# A reservation stays as it is for as long as its ticket may be filled, and every request of its account reads it.
@lru_cache(maxsize=4096)
def _read_reservation(told: str) -> tuple[Reservation, str]:
    """Read what the store told of a reservation, and write it as it stands in a state."""
    reservation = _left_of(orjson.loads(told))
    return reservation, orjson.dumps(reservation, default=_plain).decode()


def _left_of(held: list[Any]) -> Reservation:
    """Give the part of a reservation that the shares left of it still hold."""
    decision_id, symbol, direction, quantity, notional_usd, risk_usd, buckets, reduce_only, left = held
    reservation = _reservation(
        decision_id=decision_id,
        symbol=symbol,
        direction=direction,
        quantity=quantity,
        notional_usd=notional_usd,
        risk_usd=risk_usd,
        buckets=buckets,
        reduce_only=reduce_only,
    )
    if left == quantity:
        return reservation
    part = Decimal(left) / reservation.quantity
    return replace(
        reservation,
        quantity=Decimal(left),
        notional_usd=reservation.notional_usd * part,
        risk_usd=reservation.risk_usd * part,
    )


def _buckets(sent: dict[str, list[str]]) -> MappingProxyType[str, tuple[str, ...]]:
    return MappingProxyType({symbol: tuple(buckets) for symbol, buckets in sent.items()})


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, _Reservations):
        return orjson.Fragment(value.written)
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError(f"a state cannot hold {type(value).__name__}")
