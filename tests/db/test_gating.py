"""One account is judged by one decision at a time, and what is acknowledged is stored."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from decimal import Decimal

import pytest
from asyncpg.connection import LoggedQuery

from app.db.engine import Connection, ConnectionPool, StoreUnavailable, create_pool
from app.db.halts import set_halt
from app.db.operations import GatingTransaction, Store
from app.db.queries import get_decision
from app.domain.account import AccountMode, HaltState
from tests.db.builders import AS_OF, POLICY, PROMPT, decision, mark, no_trade, reservation, stored

FAIL_AT_COMMIT = """
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the disk is full'; END $$;
CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON llm_decisions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail();
"""


def gating(store: Store) -> AbstractAsyncContextManager[GatingTransaction]:
    return store.gating(account_id="paper-1", mode=AccountMode.PAPER, as_of=AS_OF)


async def rows(owner: Connection) -> dict[str, int]:
    return {
        table: await owner.fetchval(f"SELECT count(*) FROM {table}")
        for table in ("llm_decisions", "account_marks", "account_days", "reservations", "prompts", "policies")
    }


async def waiting_for_a_lock(owner: Connection) -> None:
    async with asyncio.timeout(5):
        while not await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            await asyncio.sleep(0.005)


async def no_transaction_is_open(owner: Connection) -> bool:
    """Tell whether the server ends the service's transactions, within the time it needs to notice."""
    for _ in range(200):
        if not await owner.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tradeverdict' AND xact_start IS NOT NULL"
            " AND datname = current_database()"
        ):
            return True
        await asyncio.sleep(0.01)
    return False


async def test_an_approval_is_stored_whole(store: Store, pool: ConnectionPool, owner: Connection) -> None:
    record = await stored(store, decision(), showing=mark(99_000, day_loss=1_000), reserving=reservation())

    assert await get_decision(pool, record.decision_id) == record
    assert await rows(owner) == {
        "llm_decisions": 1,
        "account_marks": 1,
        "account_days": 1,
        "reservations": 1,
        "prompts": 2,
        "policies": 1,
    }


async def test_a_decision_without_an_order_reserves_nothing(store: Store, owner: Connection) -> None:
    await stored(store, no_trade())

    assert (await rows(owner))["reservations"] == 0


async def test_the_second_of_two_decisions_sees_what_the_first_reserved(store: Store, owner: Connection) -> None:
    async def second() -> list[Decimal]:
        async with gating(store) as transaction:
            return [held.notional_usd for held in transaction.state.reservations]

    await stored(store, no_trade())
    async with gating(store) as first:
        waiting = asyncio.create_task(second())
        await waiting_for_a_lock(owner)
        await first.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY, reservation=reservation())

    assert await waiting == [Decimal("6646.20")]


async def test_the_first_two_decisions_of_an_account_see_each_other_too(store: Store) -> None:
    # The account's row does not exist yet: both make it, and one of them waits for the other.
    async def decide() -> int:
        async with gating(store) as transaction:
            await asyncio.sleep(0.05)
            await transaction.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY, reservation=reservation())
            return len(transaction.state.reservations)

    assert sorted(await asyncio.gather(decide(), decide())) == [0, 1]


async def test_decisions_of_different_accounts_do_not_wait_for_each_other(store: Store) -> None:
    async with gating(store):
        # Waiting would end in StoreUnavailable.
        await stored(store, decision(account_id="paper-2"))


async def test_an_approval_takes_five_round_trips(database_url: str) -> None:
    pool = await create_pool(database_url, max_size=1)
    queries: list[LoggedQuery] = []
    try:
        store = Store(pool)
        await stored(store, decision())
        async with pool.connection() as connection:
            connection.add_query_logger(queries.append)
        await stored(store, decision(), reserving=reservation())
    finally:
        await pool.close()

    assert [query.query.split()[0] for query in queries] == ["BEGIN", "INSERT", "SELECT", "WITH", "COMMIT"]


async def test_room_for_three_orders_gives_three_approvals_to_forty_callers(store: Store) -> None:
    async def decide() -> bool:
        async with gating(store) as transaction:
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


async def test_a_failing_commit_is_unavailable_and_leaves_nothing(store: Store, owner: Connection) -> None:
    await owner.execute(FAIL_AT_COMMIT)

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await stored(store, decision(), reserving=reservation())
    assert set((await rows(owner)).values()) == {0}


async def test_texts_of_a_failed_commit_are_stored_by_the_next(store: Store, owner: Connection) -> None:
    await owner.execute(FAIL_AT_COMMIT)
    with pytest.raises(StoreUnavailable):
        await stored(store, decision())
    await owner.execute("DROP TRIGGER fail ON llm_decisions")
    await stored(store, decision())
    await stored(store, decision())

    assert [tuple(row) for row in await owner.fetch("SELECT hash, kind, body FROM prompts ORDER BY kind DESC")] == [
        (PROMPT.template_hash, "template", "Decide."),
        (PROMPT.system_hash, "system", "Decide by these limits."),
    ]
    assert [tuple(row) for row in await owner.fetch("SELECT hash, body FROM policies")] == [(POLICY.hash, POLICY.body)]


async def test_texts_that_another_process_stored_are_not_stored_again(
    store: Store, pool: ConnectionPool, owner: Connection
) -> None:
    await stored(store, decision())
    await stored(Store(pool), decision())

    assert (await rows(owner))["prompts"] == 2


async def test_a_bug_while_judging_leaves_nothing_and_keeps_its_own_name(store: Store, owner: Connection) -> None:
    async def decide() -> None:
        async with gating(store) as transaction:
            await transaction.connection.execute(
                "INSERT INTO halts (state, reason, operator) VALUES ('halted', 'written beside the decision', 'ann')"
            )
            await transaction.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await decide()
    assert await no_transaction_is_open(owner)
    assert set((await rows(owner)).values()) == {0}
    assert await owner.fetchval("SELECT count(*) FROM halts") == 0


@pytest.mark.parametrize("moment", ["waiting for the lock", "judging", "recording", "committing"])
async def test_a_cancelled_decision_leaves_no_transaction_behind(store: Store, owner: Connection, moment: str) -> None:
    reached = asyncio.Event()

    async def decide() -> None:
        async with gating(store) as transaction:
            reached.set()
            if moment == "judging":
                await asyncio.sleep(10)
            await transaction.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY, reservation=reservation())

    await stored(store, no_trade())
    if moment == "waiting for the lock":
        async with owner.transaction():
            await owner.execute("SELECT FROM accounts FOR UPDATE")
            await cancelled(asyncio.create_task(decide()), once=lambda: waiting_for_a_lock(owner))
    elif moment == "recording":
        async with owner.transaction():
            await owner.execute("LOCK TABLE reservations IN SHARE MODE")
            await cancelled(asyncio.create_task(decide()), once=lambda: waiting_for_a_lock(owner))
    elif moment == "committing":
        await owner.execute(FAIL_AT_COMMIT.replace("RAISE 'the disk is full'", "PERFORM pg_sleep(0.3); RETURN NULL"))
        await cancelled(asyncio.create_task(decide()), once=lambda: sleeping_in_commit(owner))
    else:
        await cancelled(asyncio.create_task(decide()), once=reached.wait)

    assert await no_transaction_is_open(owner)
    # The account is free, and the pool has its connection back.
    async with asyncio.timeout(10):
        await asyncio.gather(*(stored(store, no_trade(account_id=f"paper-{n}")) for n in range(1, 5)))


async def cancelled(task: asyncio.Task[None], *, once: Callable[[], Awaitable[object]]) -> None:
    await once()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def sleeping_in_commit(owner: Connection) -> None:
    while not await owner.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
        await asyncio.sleep(0.005)


async def test_a_lock_that_is_not_had_in_time_is_unavailable(store: Store, owner: Connection) -> None:
    await stored(store, no_trade())
    async with owner.transaction():
        await owner.execute("SELECT FROM accounts FOR UPDATE")

        with pytest.raises(StoreUnavailable, match="LockNotAvailableError"):
            await stored(store, no_trade())


async def test_a_worker_that_pauses_loses_its_locks_and_cannot_commit(store: Store, owner: Connection) -> None:
    # As SIGSTOP would: it holds the account's lock and does nothing. The server ends its session after 2 s.
    async def pause_while_judging() -> None:
        async with gating(store) as paused:
            await asyncio.sleep(2.2)
            await stored(store, no_trade())
            await paused.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY, reservation=reservation())

    with pytest.raises(StoreUnavailable):
        await pause_while_judging()
    # The other one's decision is there, its own is not.
    assert (await rows(owner))["llm_decisions"] == 1
    assert (await rows(owner))["reservations"] == 0


@pytest.mark.parametrize("account_id", ["paper-1", None], ids=["the account", "every account"])
async def test_no_approval_commits_after_a_halt_has(
    store: Store, pool: ConnectionPool, owner: Connection, account_id: str | None
) -> None:
    order: list[str] = []

    async def halt() -> None:
        await set_halt(pool, account_id=account_id, state=HaltState.HALTED, reason="test", operator="ann")
        order.append("halt committed")

    async def decide() -> None:
        async with gating(store) as transaction:
            order.append(f"decided under {[halt.state.value for halt in transaction.state.halts]}")

    await stored(store, no_trade())
    async with gating(store) as first:
        halting = asyncio.create_task(halt())
        await waiting_for_a_lock(owner)
        deciding = asyncio.create_task(decide())
        await asyncio.sleep(0.05)
        await first.record(decision(), mark=mark(), prompt=PROMPT, policy=POLICY, reservation=reservation())
        order.append("approval recorded")
    await asyncio.gather(halting, deciding)

    assert first.state.halts == ()
    assert order[0] == "approval recorded"
    before_it, after_it = ["decided under []", "halt committed"], ["halt committed", "decided under ['halted']"]
    # Of two that wait for an account's row, either may have it first.
    assert order[1:] == after_it or (account_id is not None and order[1:] == before_it)


@pytest.mark.parametrize("reply", ["\x00", "\ud800", "a\x00b\udfffc"])
async def test_a_reply_that_no_database_can_hold_is_stored_without_what_it_cannot(
    store: Store, pool: ConnectionPool, reply: str
) -> None:
    record = await stored(store, decision(raw_reply=reply, prompt_user=reply, proposal='{"thesis":"\\u0000"}'))
    kept = await get_decision(pool, record.decision_id)

    assert kept is not None
    assert kept.raw_reply == kept.prompt_user == reply.translate({0: "\ufffd", 0xD800: "?", 0xDFFF: "?"})
    assert kept.proposal == '{"thesis":"\\u0000"}'
