"""A session is found by its token alone, while neither it nor its key has ended, and its requests are counted."""

from datetime import timedelta

import asyncpg
import pytest

from app.db.api_keys import EVERY_ACCOUNT, ApiKey, create_key, revoke_key
from app.db.engine import Connection, ConnectionPool
from app.db.rate_limits import refused_for_s
from app.db.vocabulary import Scope
from app.db.web_sessions import SIGN_INS, begin_session, end_session, find_session, sign_ins_spent

DAY = timedelta(days=1)


@pytest.fixture
async def key(pool: ConnectionPool) -> ApiKey:
    issued = await create_key(pool, name="desk", scopes=(Scope.READ,), accounts=(EVERY_ACCOUNT,))
    return issued.key


async def test_a_session_is_found_by_its_token(pool: ConnectionPool, key: ApiKey) -> None:
    began = await begin_session(pool, key=key, lasting=DAY)
    found = await find_session(pool, began.token, requests_per_minute=10)

    assert found is not None
    assert (found.key.public_id, found.key.scopes, found.expires_at) == (
        key.public_id,
        key.scopes,
        began.expires_at,
    )
    assert found.refused_for_s is None
    assert await find_session(pool, began.token[:-1], requests_per_minute=10) is None
    assert began.token not in repr(began)


async def test_a_session_ends_when_it_is_told_to(pool: ConnectionPool, key: ApiKey) -> None:
    began = await begin_session(pool, key=key, lasting=DAY)
    other = await begin_session(pool, key=key, lasting=DAY)
    await end_session(pool, began.token)

    assert await find_session(pool, began.token, requests_per_minute=10) is None
    assert await find_session(pool, other.token, requests_per_minute=10) is not None


async def test_a_session_ends_with_its_key(pool: ConnectionPool, key: ApiKey) -> None:
    began = await begin_session(pool, key=key, lasting=DAY)
    await revoke_key(pool, key.public_id)

    assert await find_session(pool, began.token, requests_per_minute=10) is None


async def test_a_session_ends_when_its_key_expires(pool: ConnectionPool, key: ApiKey, owner: Connection) -> None:
    began = await begin_session(pool, key=key, lasting=DAY)
    await owner.execute("UPDATE api_keys SET expires_at = clock_timestamp() WHERE public_id = $1", key.public_id)

    assert await find_session(pool, began.token, requests_per_minute=10) is None


async def test_requests_of_all_sessions_of_a_key_count_together(pool: ConnectionPool, key: ApiKey) -> None:
    first = await begin_session(pool, key=key, lasting=DAY)
    second = await begin_session(pool, key=key, lasting=DAY)
    found = [await find_session(pool, of.token, requests_per_minute=2) for of in (first, second, first)]

    assert [of is not None and of.refused_for_s for of in found] == [None, None, 60]


async def test_an_address_is_spent_when_it_failed_too_often(pool: ConnectionPool) -> None:
    spent = []
    for _ in range(3):
        spent.append(await sign_ins_spent(pool, "10.0.0.1", most=2))
        await refused_for_s(pool, f"{SIGN_INS}:10.0.0.1", requests_per_minute=2)

    assert spent == [False, False, True]
    assert not await sign_ins_spent(pool, "10.0.0.2", most=2)


async def test_a_session_of_no_key_or_of_no_time_cannot_be(owner: Connection, key: ApiKey) -> None:
    insert = "INSERT INTO web_sessions (token_sha256, api_key_id, expires_at) VALUES ($1, $2, $3)"
    for error, values in (
        (asyncpg.ForeignKeyViolationError, (b"x" * 32, "nobody", "infinity")),
        (asyncpg.CheckViolationError, (b"x" * 31, key.public_id, "infinity")),
        (asyncpg.CheckViolationError, (b"x" * 32, key.public_id, "epoch")),
    ):
        with pytest.raises(error):
            await owner.execute(insert.replace("$3", f"'{values[2]}'"), *values[:2])
