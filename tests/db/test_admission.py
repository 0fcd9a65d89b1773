"""One round trip finds the key, counts its request and reads the account, each as it would be read alone."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from asyncpg.connection import LoggedQuery

from app.db.admission import Admission, admit
from app.db.api_keys import Credentials, create_key, find_key, parse_token, revoke_key
from app.db.engine import Connection, ConnectionPool
from app.db.halts import set_halt
from app.db.operations import Store
from app.db.vocabulary import Scope
from app.domain.account import AccountMode, HaltState
from tests.db.builders import AS_OF, decision, mark, reservation, stored


async def credentials_of(pool: ConnectionPool, *, expires_at: datetime | None = None) -> Credentials:
    issued = await create_key(pool, name="bot", scopes={Scope.DECIDE}, accounts=["paper-1"], expires_at=expires_at)
    credentials = parse_token(issued.token)
    assert credentials is not None
    return credentials


async def admitted(pool: ConnectionPool, credentials: Credentials, *, requests_per_minute: int = 600) -> Admission:
    return await admit(
        pool,
        credentials,
        requests_per_minute=requests_per_minute,
        account_id="paper-1",
        mode=AccountMode.PAPER,
        as_of=AS_OF,
        held=["NVDA"],
    )


async def test_the_key_and_the_account_are_read_as_they_are_alone(pool: ConnectionPool, store: Store) -> None:
    credentials = await credentials_of(pool)
    await stored(store, decision(), showing=mark(99_000, day_loss=500, week_loss=700), reserving=reservation())
    await set_halt(pool, account_id="paper-1", state=HaltState.REDUCE_ONLY, reason="x", operator="ann")

    admission = await admitted(pool, credentials)
    key, _ = await find_key(pool, credentials, requests_per_minute=600)
    alone = await store.read_known(account_id="paper-1", mode=AccountMode.PAPER, as_of=AS_OF, held=["NVDA"])

    assert admission.key == key
    assert admission.refused_for_s is None
    assert admission.known.version == alone.version
    assert replace(admission.known.state, now=alone.state.now) == alone.state
    assert len(alone.state.reservations) == len(alone.state.halts) == len(alone.state.position_buckets) == 1


async def test_an_account_that_nobody_asked_about_has_no_version(pool: ConnectionPool) -> None:
    assert (await admitted(pool, await credentials_of(pool))).known.version is None


async def test_it_takes_one_round_trip(pool: ConnectionPool) -> None:
    credentials = await credentials_of(pool)
    queries: list[LoggedQuery] = []
    async with pool.connection() as connection:
        connection.add_query_logger(queries.append)
    await admitted(pool, credentials)
    await asyncio.sleep(0)  # the logger is told

    assert len(queries) == 1


async def test_a_request_too_many_is_told_when_to_ask_again(pool: ConnectionPool) -> None:
    credentials = await credentials_of(pool)
    told = [(await admitted(pool, credentials, requests_per_minute=2)).refused_for_s for _ in range(3)]

    assert told[:2] == [None, None]
    assert told[2] is not None
    assert 1 <= told[2] <= 60


async def test_both_ways_of_asking_count_together(pool: ConnectionPool) -> None:
    credentials = await credentials_of(pool)
    await find_key(pool, credentials, requests_per_minute=2)
    await admitted(pool, credentials, requests_per_minute=2)

    assert (await admitted(pool, credentials, requests_per_minute=2)).refused_for_s is not None
    assert (await find_key(pool, credentials, requests_per_minute=2))[1] is not None


async def test_a_key_that_is_no_good_is_told_apart_and_not_counted(pool: ConnectionPool, owner: Connection) -> None:
    expired = await credentials_of(pool, expires_at=datetime(2000, 1, 1, tzinfo=UTC))
    revoked = await credentials_of(pool)
    await revoke_key(pool, revoked.public_id)
    guessed = (await credentials_of(pool))._replace(secret_sha256=b"guessed")

    for credentials in (expired, revoked):
        key = (await admitted(pool, credentials)).key
        assert key is not None
        assert not key.usable
    key = (await admitted(pool, guessed)).key
    assert key is not None
    assert not key.matches(guessed)
    assert (await admitted(pool, Credentials.of(public_id="unknown", secret="secret"))).key is None
    assert await owner.fetchval("SELECT count(*) FROM rate_windows") == 0
