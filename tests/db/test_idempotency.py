"""A key is held by one request at a time, is finished once, and is never free again."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from app.db.api_keys import NO_API_KEY
from app.db.engine import Connection, ConnectionPool, create_pool
from app.db.idempotency import (
    Claim,
    Finished,
    KeyedRequest,
    LeaseLost,
    OtherBody,
    Running,
    claim_key,
    finish_key,
    read_key,
    release_key,
)
from app.db.operations import Store
from tests.db.builders import POLICY, PROMPT, decision, mark

MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(0)
REQUEST = KeyedRequest(api_key_id=NO_API_KEY, account_id="paper-1", key="k-1", fingerprint=b"a" * 32)


async def claimed(pool: ConnectionPool, request: KeyedRequest = REQUEST, *, lease: timedelta = MINUTE) -> Claim:
    use = await claim_key(pool, request, lease=lease)
    assert isinstance(use, Claim)
    return use


async def decided(store: Store, claim: Claim, *, response: str = '{"verdict":"approved"}') -> UUID:
    """Record a decision and finish the claim in one transaction, as the service does."""
    record = decision(response=response)
    async with store.gating(account_id=record.account_id, mode=record.mode, as_of=record.as_of) as transaction:
        await transaction.record(record, mark=mark(), prompt=PROMPT, policy=POLICY)
        await finish_key(transaction.connection, claim, decision_id=record.decision_id)
    return record.decision_id


async def decisions(owner: Connection) -> int:
    count: int = await owner.fetchval("SELECT count(*) FROM llm_decisions")
    return count


async def test_a_new_key_is_claimed_and_holds_off_others(pool: ConnectionPool) -> None:
    assert await read_key(pool, REQUEST) is None
    assert (await claimed(pool)).fence == 1

    for use in (await claim_key(pool, REQUEST, lease=MINUTE), await read_key(pool, REQUEST)):
        assert isinstance(use, Running)
        assert 50 < use.lease_left_s <= 60


async def test_a_finished_key_gives_the_stored_answer_to_the_byte(pool: ConnectionPool, store: Store) -> None:
    answer = '{"verdict":"approved",  "notes":"é\\u00e9", "p":0.50}'
    await decided(store, await claimed(pool), response=answer)

    assert await claim_key(pool, REQUEST, lease=MINUTE) == Finished(answer=answer.encode())
    assert await read_key(pool, REQUEST) == Finished(answer=answer.encode())


async def test_another_body_is_refused_whether_the_first_runs_lapsed_or_finished(
    pool: ConnectionPool, store: Store
) -> None:
    other = replace(REQUEST, fingerprint=b"b" * 32)

    first = await claimed(pool)
    assert await claim_key(pool, other, lease=MINUTE) == OtherBody()
    await release_key(pool, first)
    assert await claim_key(pool, other, lease=MINUTE) == OtherBody()
    await decided(store, first)
    assert await claim_key(pool, other, lease=MINUTE) == OtherBody()


@pytest.mark.parametrize(
    "other",
    [replace(REQUEST, api_key_id="0123"), replace(REQUEST, account_id="paper-2"), replace(REQUEST, key="K-1")],
)
async def test_a_key_means_nothing_to_another_caller_or_account(pool: ConnectionPool, other: KeyedRequest) -> None:
    await claimed(pool)

    assert (await claimed(pool, other)).fence == 1


async def test_a_lapsed_lease_is_taken_over_with_a_higher_fence(pool: ConnectionPool) -> None:
    first = await claimed(pool, lease=NO_TIME)
    second = await claimed(pool)

    assert (first.fence, second.fence) == (1, 2)
    assert isinstance(await claim_key(pool, REQUEST, lease=MINUTE), Running)


async def test_a_released_key_is_taken_over_at_once(pool: ConnectionPool) -> None:
    await release_key(pool, await claimed(pool))

    assert await read_key(pool, REQUEST) == Running(lease_left_s=0)
    assert (await claimed(pool)).fence == 2


async def test_whoever_lost_the_lease_stores_nothing(pool: ConnectionPool, store: Store, owner: Connection) -> None:
    late = await claimed(pool, lease=NO_TIME)
    await claimed(pool)

    with pytest.raises(LeaseLost):
        await decided(store, late)

    assert await decisions(owner) == 0
    assert isinstance(await read_key(pool, REQUEST), Running)


async def test_a_late_holder_changes_nothing_of_what_its_successor_finished(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    late = await claimed(pool, lease=NO_TIME)
    await decided(store, await claimed(pool), response='{"by":"successor"}')
    before = await owner.fetch("SELECT * FROM idempotency_keys")

    with pytest.raises(LeaseLost):
        await decided(store, late)
    await release_key(pool, late)

    assert await decisions(owner) == 1
    assert await owner.fetch("SELECT * FROM idempotency_keys") == before


async def test_a_lapsed_lease_that_nobody_took_still_finishes(pool: ConnectionPool, store: Store) -> None:
    late = await claimed(pool, lease=NO_TIME)

    await decided(store, late)

    assert isinstance(await read_key(pool, REQUEST), Finished)


async def test_a_decision_finishes_its_key_once(pool: ConnectionPool, store: Store, owner: Connection) -> None:
    claim = await claimed(pool)
    await decided(store, claim)

    with pytest.raises(LeaseLost):
        await decided(store, claim)

    assert await decisions(owner) == 1


async def test_a_claim_that_the_database_forgot_finishes_nothing(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    forgotten = await claimed(pool)
    await owner.execute("DELETE FROM idempotency_keys")

    with pytest.raises(LeaseLost):
        await decided(store, forgotten)

    assert await decisions(owner) == 0


async def test_a_forgotten_claim_does_not_finish_for_another_body(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    forgotten = await claimed(pool)
    await owner.execute("DELETE FROM idempotency_keys")
    other = await claimed(pool, replace(REQUEST, fingerprint=b"b" * 32))

    assert other.fence == forgotten.fence
    with pytest.raises(LeaseLost):
        await decided(store, forgotten)


async def test_a_key_is_spent_for_good_when_its_decision_is_no_longer_stored(
    pool: ConnectionPool, store: Store, owner: Connection
) -> None:
    await decided(store, await claimed(pool))
    async with owner.transaction():
        await owner.execute("SET LOCAL tradeverdict.retention = 'on'")
        await owner.execute("DELETE FROM llm_decisions")

    assert await claim_key(pool, REQUEST, lease=MINUTE) == Finished(answer=None)
    assert await claim_key(pool, replace(REQUEST, fingerprint=b"b" * 32), lease=MINUTE) == OtherBody()


async def test_the_service_cannot_delete_a_key(pool: ConnectionPool, owner: Connection) -> None:
    await claimed(pool)
    granted = await owner.fetchval(
        "SELECT has_table_privilege('tradeverdict_app', 'idempotency_keys', 'DELETE, TRUNCATE')"
    )

    assert granted is False


async def test_nobody_takes_over_between_finish_and_commit(pool: ConnectionPool, store: Store) -> None:
    claim = await claimed(pool, lease=NO_TIME)
    record = decision(response='{"by":"first"}')
    async with store.gating(account_id=record.account_id, mode=record.mode, as_of=record.as_of) as transaction:
        await transaction.record(record, mark=mark(), prompt=PROMPT, policy=POLICY)
        await finish_key(transaction.connection, claim, decision_id=record.decision_id)
        rival = asyncio.create_task(claim_key(pool, REQUEST, lease=MINUTE))
        await asyncio.sleep(0.1)
        assert not rival.done()

    assert await rival == Finished(answer=b'{"by":"first"}')


async def test_of_many_at_once_one_claims(database_url: str) -> None:
    pool = await create_pool(database_url, max_size=20)
    try:
        uses = await asyncio.gather(*(claim_key(pool, REQUEST, lease=MINUTE) for _ in range(200)))
    finally:
        await pool.close()

    assert sum(isinstance(use, Claim) for use in uses) == 1
    assert sum(isinstance(use, Running) for use in uses) == 199


async def test_of_many_at_once_one_takes_over(database_url: str) -> None:
    pool = await create_pool(database_url, max_size=20)
    try:
        await claimed(pool, lease=NO_TIME)
        uses = await asyncio.gather(*(claim_key(pool, REQUEST, lease=MINUTE) for _ in range(200)))
    finally:
        await pool.close()

    assert [use.fence for use in uses if isinstance(use, Claim)] == [2]


async def test_a_claim_leaves_the_connection_flushing_what_follows(pool: ConnectionPool) -> None:
    async with pool.connection() as connection:
        await connection.execute("SET synchronous_commit = 'local'")
    await claimed(pool)

    async with pool.connection() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "local"
