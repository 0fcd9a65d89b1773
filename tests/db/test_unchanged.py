"""A decision that was judged without locks is recorded exactly if nothing that it was judged by has changed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery

from app.db.account_state import KnownAccount
from app.db.engine import APP_ROLE, Connection, ConnectionPool, StoreUnavailable, create_pool
from app.db.events import RecordedEvent, find_ticket, halt_unprotected, record_event
from app.db.halts import lift_halt, set_halt, set_halt_in
from app.db.live_confirmations import confirm_live, revoke_live
from app.db.locks import hold_account, lock_account
from app.db.model_calls import Asker
from app.db.operations import Store
from app.db.queries import get_decision
from app.db.records import DecisionRecord
from app.domain.account import AccountMode, HaltState
from app.domain.lifecycle import Event, EventKind
from app.domain.model_call import ModelCall
from tests.db.builders import (
    AS_OF,
    POLICY,
    PROMPT,
    decision,
    forecast,
    mark,
    new_decision_id,
    no_trade,
    reservation,
    stored,
)
from tests.db.test_gating import FAIL_AT_COMMIT, rows, sleeping_in_commit, waiting_for_a_lock

READ_WITHIN_S = 2.0
EVERY_TABLE = (
    *("llm_decisions", "account_marks", "account_days", "reservations", "forecasts", "model_calls"),
    *("decision_counts", "gate_sums"),
)
SLOW_S = 0.3
SLOWLY = f"""
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep({SLOW_S}); RETURN NULL; END $$;
CREATE TRIGGER be_slow AFTER INSERT ON llm_decisions FOR EACH ROW EXECUTE FUNCTION be_slow();
"""
_LOCK_OF_0_8 = """
INSERT INTO accounts (account_id) VALUES ('paper-1')
ON CONFLICT (account_id) DO UPDATE SET created_at = accounts.created_at WHERE false
"""


@pytest.fixture
async def ticket(store: Store) -> DecisionRecord:
    """An approval of paper-1: from then on the account and the texts are known."""
    known = await known_of(store)
    return await stored(store, judged(known), reserving=reservation())


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Store]:
    """Another process."""
    pool = await create_pool(database_url, min_size=0, max_size=4)
    yield Store(pool)
    await pool.close()


async def known_of(store: Store, account_id: str = "paper-1", mode: AccountMode = AccountMode.PAPER) -> KnownAccount:
    return await store.read_known(account_id=account_id, mode=mode, as_of=AS_OF)


def judged(known: KnownAccount, **changes: Any) -> DecisionRecord:
    """An approval that was judged just now by what is known."""
    state = known.state_at(time.monotonic())
    valid_until = state.now + timedelta(seconds=60)
    return decision(**{"state": state, "decided_at": state.now, "valid_until": valid_until, **changes})


async def record(store: Store, known: KnownAccount, record: DecisionRecord, **more: Any) -> bool:
    return await store.record_unchanged(
        known, record, **{"mark": mark(), "prompt": PROMPT, "policy": POLICY, "read_within_s": READ_WITHIN_S, **more}
    )


async def counted(owner: Connection) -> dict[str, int]:
    return {table: await owner.fetchval(f"SELECT count(*) FROM {table}") for table in EVERY_TABLE}


async def test_what_nothing_has_changed_for_is_stored_whole(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    known = await known_of(store)
    calls = [
        ModelCall(target="first", model="m", started_ms=0, latency_ms=900, outcome="MODEL_TIMEOUT", estimated=True),
        ModelCall(target="second", model="m", started_ms=400, latency_ms=300, outcome="proposal", hedged=True),
    ]
    blocked = judged(known, verdict="blocked", ticket=None, blocked_by=("SPREAD_TOO_WIDE", "ILLIQUID", "ILLIQUID"))
    before = await counted(owner)

    assert await record(store, known, blocked, forecast=forecast(), reservation=reservation(), calls=calls)

    added = {table: count - before[table] for table, count in (await counted(owner)).items()}
    # The day has its row already.
    assert added == dict.fromkeys(EVERY_TABLE, 1) | {"account_days": 0, "model_calls": 2, "gate_sums": 2}
    assert await get_decision(pool, blocked.decision_id) == blocked
    assert [tuple(row) for row in await owner.fetch("SELECT code, blocked FROM gate_sums ORDER BY code")] == [
        ("ILLIQUID", 1),
        ("SPREAD_TOO_WIDE", 1),
    ]
    assert [tuple(row) for row in await owner.fetch("SELECT target, hedged FROM model_calls ORDER BY target")] == [
        ("first", False),
        ("second", True),
    ]


async def test_both_ways_of_recording_store_the_same(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    call = ModelCall(target="t", model="m", started_ms=0, latency_ms=1, outcome="proposal", cost_usd=Decimal("0.01"))
    with_all: dict[str, Any] = {
        "mark": mark(99_000, day_loss=10),
        "prompt": PROMPT,
        "policy": POLICY,
        "reservation": reservation(),
        "forecast": forecast(),
        "calls": [call],
    }
    async with pool.transaction() as connection:
        await lock_account(connection, account_id="paper-2")
    known = await known_of(store, "paper-2")
    one = judged(known, account_id="paper-2", blocked_by=("ILLIQUID",))
    other = replace(one, decision_id=new_decision_id(), account_id="paper-3")

    assert await record(store, known, one, **with_all)
    async with store.gating(account_id="paper-3", mode=AccountMode.PAPER, as_of=AS_OF) as transaction:
        await transaction.record(other, **with_all)

    for table in EVERY_TABLE:
        kept = (
            "SELECT to_jsonb(kept) - ARRAY['account_id', 'decision_id', 'first_decision_id', 'last_decision_id',"
            f" 'call_id', 'recorded_at'] FROM {table} AS kept WHERE account_id = $1"
        )
        [without_locks] = await owner.fetch(kept, "paper-2")
        [with_locks] = await owner.fetch(kept, "paper-3")
        assert without_locks == with_locks, table


async def test_what_leaves_no_mark_is_stored_too(ticket: DecisionRecord, store: Store, owner: Connection) -> None:
    known = await known_of(store)
    before = await counted(owner)
    nothing = no_trade(decided_at=judged(known).decided_at)

    assert await record(store, known, nothing, mark=None)
    assert {table for table, count in (await counted(owner)).items() if count > before[table]} == {
        "llm_decisions",
        "decision_counts",
    }


async def test_it_takes_one_round_trip(database_url: str) -> None:
    pool = await create_pool(database_url, max_size=1)
    queries: list[LoggedQuery] = []
    try:
        store = Store(pool)
        await stored(store, no_trade())
        known = await known_of(store)
        async with pool.connection() as connection:
            connection.add_query_logger(queries.append)
        assert await record(store, known, judged(known), reservation=reservation())
    finally:
        await pool.close()

    assert [query.query.split()[0] for query in queries] == ["WITH"]


async def _halt(store: Store, pool: ConnectionPool, account_id: str | None) -> None:
    await set_halt(pool, account_id=account_id, state=HaltState.HALTED, reason="x", operator="ann")


async def _tell(pool: ConnectionPool, ticket: DecisionRecord, kind: EventKind, **changes: Any) -> None:
    found = await find_ticket(pool, ticket.decision_id)
    assert found is not None
    told = await record_event(
        pool, ticket=found, event=Event(event_id=f"e-{kind}", kind=kind, at=AS_OF, **changes), body="{}"
    )
    assert isinstance(told, RecordedEvent)


class Meanwhile:
    """What may happen between reading and recording; each makes the decision's judgement void."""

    def __init__(self, store: Store, pool: ConnectionPool, owner: Connection, ticket: DecisionRecord) -> None:
        self.store, self.pool, self.owner, self.ticket = store, pool, owner, ticket

    async def halt_of_the_account(self) -> None:
        await _halt(self.store, self.pool, "paper-1")

    async def halt_of_all(self) -> None:
        await _halt(self.store, self.pool, None)

    async def halt_of_the_account_by_hand(self) -> None:
        await self.owner.execute(
            "INSERT INTO halts (account_id, state, reason, operator) VALUES ('paper-1', 'halted', 'x', 'a')"
        )

    async def halt_of_all_by_hand(self) -> None:
        await self.owner.execute("INSERT INTO halts (state, reason, operator) VALUES ('halted', 'x', 'a')")

    async def lift_of_the_account(self) -> None:
        await lift_halt(self.pool, account_id="paper-1", reason="x", operator="ann")

    async def lift_of_all(self) -> None:
        await lift_halt(self.pool, account_id=None, reason="x", operator="ann")

    async def confirmation(self) -> None:
        await confirm_live(self.pool, account_id="paper-1", operator="ann", lasting=timedelta(hours=1))

    async def revocation(self) -> None:
        await revoke_live(self.pool, account_id="paper-1", operator="ann")

    async def claim(self) -> None:
        await _tell(self.pool, self.ticket, EventKind.CLAIMED)

    async def fill(self) -> None:
        await _tell(self.pool, self.ticket, EventKind.FILLED, quantity=53, price=Decimal(125))

    async def cancellation(self) -> None:
        await _tell(self.pool, self.ticket, EventKind.CANCELLED)

    async def unprotected_fill(self) -> None:
        await self.owner.execute("UPDATE reservations SET stop_due_at = clock_timestamp()")
        assert len(await halt_unprotected(self.pool)) == 1

    async def decision_under_locks(self) -> None:
        await stored(self.store, no_trade())

    async def decision_without_locks(self) -> None:
        known = await known_of(self.store)
        assert await record(self.store, known, judged(known))


@pytest.mark.parametrize("change", [name for name in vars(Meanwhile) if not name.startswith("_")])
async def test_what_changed_meanwhile_makes_it_be_judged_again(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection, change: str
) -> None:
    known = await known_of(store)
    happen: Callable[[], Awaitable[None]] = getattr(Meanwhile(store, pool, owner, ticket), change)
    await happen()
    before = await counted(owner)

    assert not await record(store, known, judged(known), reservation=reservation(), forecast=forecast())
    assert await counted(owner) == before

    again = await known_of(store)
    assert await record(store, again, judged(again), reservation=reservation())


async def test_what_changed_of_another_account_does_not(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool
) -> None:
    known = await known_of(store)
    await _halt(store, pool, "paper-2")
    await stored(store, no_trade(account_id="paper-3"))

    assert await record(store, known, judged(known))


async def test_labels_do_not_make_it_be_judged_again(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool
) -> None:
    known = await known_of(store)
    async with pool.transaction() as connection:
        await hold_account(connection, account_id="paper-1")

    assert await record(store, known, judged(known))


async def test_of_two_processes_one_records(
    ticket: DecisionRecord, store: Store, other: Store, owner: Connection
) -> None:
    await stored(other, no_trade(account_id="paper-2"))  # it knows the texts
    for _ in range(20):
        known = await known_of(store), await known_of(other)
        won = await asyncio.gather(record(store, known[0], judged(known[0])), record(other, known[1], judged(known[1])))
        assert sorted(won) == [False, True]


async def test_room_for_three_orders_gives_three_approvals_to_forty_callers(store: Store, owner: Connection) -> None:
    await stored(store, no_trade())

    async def decide() -> bool:
        known = await known_of(store)
        approved = len(known.state.reservations) < 3
        verdict = judged(known) if approved else no_trade(decided_at=judged(known).decided_at)
        if await record(store, known, verdict, reservation=reservation() if approved else None):
            return approved
        async with store.gating(account_id="paper-1", mode=AccountMode.PAPER, as_of=AS_OF) as transaction:
            approved = len(transaction.state.reservations) < 3
            await transaction.record(
                decision() if approved else no_trade(),
                mark=mark(),
                prompt=PROMPT,
                policy=POLICY,
                reservation=reservation() if approved else None,
            )
            return approved

    assert sum(await asyncio.gather(*(decide() for _ in range(40)))) == 3
    assert (await rows(owner))["reservations"] == 3
    assert (await rows(owner))["llm_decisions"] == 41


@pytest.mark.parametrize("account_id", ["paper-1", None], ids=["the account", "every account"])
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "undone"])
async def test_a_halt_that_is_being_set_is_waited_for(
    ticket: DecisionRecord,
    store: Store,
    pool: ConnectionPool,
    owner: Connection,
    account_id: str | None,
    committed: bool,
) -> None:
    known = await known_of(store)

    async def halt() -> asyncio.Task[bool]:
        async with pool.transaction() as connection:
            await set_halt_in(connection, account_id=account_id, state=HaltState.HALTED, reason="x", operator="ann")
            recording = asyncio.create_task(record(store, known, judged(known)))
            await waiting_for_a_lock(owner)
            if not committed:
                raise StoreUnavailable(OSError())
            return recording

    if committed:
        assert not await (await halt())
    else:
        with pytest.raises(StoreUnavailable):
            await halt()
        async with asyncio.timeout(2):
            while (await rows(owner))["llm_decisions"] < 2:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("account_id", ["paper-1", None], ids=["the account", "every account"])
async def test_a_halt_waits_for_what_is_being_recorded(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection, account_id: str | None
) -> None:
    await owner.execute(SLOWLY)
    known = await known_of(store)
    verdict = judged(known)
    recording = asyncio.create_task(record(store, known, verdict, reservation=reservation()))
    async with asyncio.timeout(5):
        await sleeping_in_commit(owner)
    halt = await set_halt(pool, account_id=account_id, state=HaltState.HALTED, reason="x", operator="ann")

    # Stored by then. Its own time is that after the wait: nothing that was judged later is committed before it.
    assert (await rows(owner))["reservations"] == 2
    assert await recording
    assert halt.set_at - verdict.decided_at >= timedelta(seconds=SLOW_S)


async def test_no_account_is_made_while_all_are_being_halted(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    # The halt raises the version of each account that it sees: one that it does not see must not be there yet.
    async def make() -> None:
        async with pool.transaction() as connection:
            await lock_account(connection, account_id="paper-new")

    async with pool.transaction() as connection:
        await set_halt_in(connection, account_id=None, state=HaltState.HALTED, reason="x", operator="ann")
        making = asyncio.create_task(make())
        await waiting_for_a_lock(owner)
        assert (await known_of(store, "paper-new")).version is None
    await making

    known = await known_of(store, "paper-new")
    assert (known.version, len(known.state.halts)) == (0, 1)


async def test_an_account_that_was_made_before_a_halt_of_all_is_halted_too(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    async with pool.transaction() as connection:
        await lock_account(connection, account_id="paper-new")
        halting = asyncio.create_task(_halt(store, pool, None))
        await waiting_for_a_lock(owner)
        # The halt must not be done before the new account is read.
        holding = owner.transaction()
        await holding.start()
        await hold_account(owner, account_id="paper-1")
    known = await known_of(store, "paper-new")
    await holding.commit()
    await halting

    assert (known.version, known.state.halts) == (0, ())
    assert not await record(store, known, judged(known, account_id="paper-new"))


class TestIsNotTried:
    async def test_for_an_account_that_is_new(self, ticket: DecisionRecord, store: Store, owner: Connection) -> None:
        known = await known_of(store, "paper-new")

        assert known.version is None
        assert not await record(store, known, judged(known, account_id="paper-new"))
        assert (await rows(owner))["llm_decisions"] == 1

    async def test_for_live_trading(self, store: Store, owner: Connection) -> None:
        await stored(store, no_trade(mode=AccountMode.LIVE))
        known = await known_of(store, mode=AccountMode.LIVE)

        assert known.version is not None
        assert not await record(store, known, judged(known, mode=AccountMode.LIVE))
        assert (await rows(owner))["llm_decisions"] == 1

    async def test_with_texts_that_may_be_new(
        self, ticket: DecisionRecord, store: Store, owner: Connection, subtests: pytest.Subtests
    ) -> None:
        known = await known_of(store)
        for new in (
            {"prompt": replace(PROMPT, template_hash="cd" * 32)},
            {"prompt": replace(PROMPT, system="Decide otherwise.")},
            {"policy": replace(POLICY, hash="ef" * 32)},
        ):
            with subtests.test(new=new):
                assert not await record(store, known, judged(known), **new)
        assert (await rows(owner))["llm_decisions"] == 1


class TestTime:
    async def test_a_worker_that_froze_after_judging_records_nothing(
        self, ticket: DecisionRecord, store: Store
    ) -> None:
        known = await known_of(store)
        just_in_time = known.state_at(time.monotonic() - 1.5).now
        too_late = known.state_at(time.monotonic() - 2.0).now

        assert not await record(store, known, judged(known, decided_at=too_late))
        assert await record(store, known, judged(known, decided_at=just_in_time))

    async def test_a_worker_that_froze_before_judging_records_nothing(
        self, ticket: DecisionRecord, store: Store
    ) -> None:
        known = await known_of(store)
        long_ago = replace(known, state=replace(known.state, now=known.state.now - timedelta(seconds=READ_WITHIN_S)))

        assert not await record(store, long_ago, judged(known))
        assert await record(store, long_ago, judged(known), read_within_s=READ_WITHIN_S + 1)

    async def test_nothing_is_decided_in_the_future(self, ticket: DecisionRecord, store: Store) -> None:
        known = await known_of(store)
        future = known.state.now + timedelta(seconds=0.5)

        assert not await record(store, known, judged(known, decided_at=future))

    async def test_the_clock_of_what_is_known_goes_on_and_is_never_ahead(self, store: Store, owner: Connection) -> None:
        known = await known_of(store)
        await asyncio.sleep(0.1)
        by_now = known.state_at(time.monotonic())
        clock = await owner.fetchval("SELECT clock_timestamp()")

        assert timedelta(seconds=0.1) <= by_now.now - known.state.now
        assert timedelta(0) <= clock - by_now.now < timedelta(seconds=0.5)
        assert replace(by_now, now=known.state.now) == known.state

    async def test_a_reservation_that_lapses_meanwhile_changes_nothing(
        self, ticket: DecisionRecord, store: Store
    ) -> None:
        # It was counted, so the verdict is the stricter one.
        known = await known_of(store)
        lapsing = known.state_at(time.monotonic()).now + timedelta(seconds=0.2)
        assert await record(store, known, judged(known), reservation=reservation(expires_at=lapsing))

        known = await known_of(store)
        await asyncio.sleep(0.25)

        assert len(known.state.reservations) == 2
        assert len((await known_of(store)).state.reservations) == 1
        assert await record(store, known, judged(known))


async def test_a_failing_commit_is_unavailable_and_leaves_nothing(
    ticket: DecisionRecord, store: Store, owner: Connection
) -> None:
    known = await known_of(store)
    await owner.execute(FAIL_AT_COMMIT)
    before = await counted(owner)

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await record(store, known, judged(known), reservation=reservation())
    assert await counted(owner) == before


@pytest.mark.parametrize("arrived", ["first", "last"])
async def test_calls_of_a_recording_that_was_given_up_on_are_kept_once(
    ticket: DecisionRecord, store: Store, pool: ConnectionPool, owner: Connection, arrived: str
) -> None:
    # Nobody waits for the statement any more, but the server goes on with it.
    known = await known_of(store)
    verdict = judged(known)
    call = ModelCall(target="t", model="m", started_ms=0, latency_ms=1, outcome="proposal", cost_usd=Decimal("0.01"))
    asker = Asker(decision_id=verdict.decision_id, account_id="paper-1", mode=AccountMode.PAPER, api_key_id=None)
    keep: dict[str, Any] = {"asker": asker, "ended": [call], "late": [], "reply": {}, "usage": {}}
    if arrived == "first":
        await owner.execute(SLOWLY)
        recording = asyncio.create_task(record(store, known, verdict, calls=[call]))
        async with asyncio.timeout(5):
            await sleeping_in_commit(owner)
        recording.cancel()
        await store.keep_rest(**keep)
        assert (await rows(owner))["llm_decisions"] == 2
    else:
        await store.keep_rest(**keep)
        assert not await record(store, known, verdict, calls=[call])

    assert await owner.fetchval("SELECT count(*) FROM model_calls") == 1


async def test_a_program_that_raises_no_version_can_lock_no_account(ticket: DecisionRecord, owner: Connection) -> None:
    # One of a release before this may still run for a while after the migration.
    await owner.execute(f"SET ROLE {APP_ROLE}")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute(_LOCK_OF_0_8)
