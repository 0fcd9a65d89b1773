"""Halts, live confirmations and API keys are stored for good, and AccountState and the key's reader see them."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.db.api_keys import Credentials, create_key, find_key, list_keys, parse_token, revoke_key, touch_key
from app.db.engine import Connection, ConnectionPool, StoreUnavailable
from app.db.halts import lift_halt, list_halts, set_halt
from app.db.live_confirmations import confirm_live, list_live_confirmations, revoke_live
from app.db.locks import EVERY_ACCOUNT_LOCK
from app.db.operations import Store
from app.db.vocabulary import Scope
from app.domain.account import AccountMode, AccountState, Halt, HaltState
from tests.db.builders import AS_OF

EIGHT_HOURS = timedelta(hours=8)


async def state_of(store: Store, account_id: str = "live-1") -> AccountState:
    return await store.read_state(account_id=account_id, mode=AccountMode.LIVE, as_of=AS_OF)


class TestHalt:
    async def test_of_an_account_is_its_own(self, store: Store, pool: ConnectionPool) -> None:
        await set_halt(pool, account_id="live-1", state=HaltState.REDUCE_ONLY, reason="no stop", operator="ann")

        assert (await state_of(store)).halts == (
            Halt(account_id="live-1", state=HaltState.REDUCE_ONLY, reason="no stop", operator="ann"),
        )
        assert (await state_of(store, "live-2")).halts == ()

    async def test_of_all_accounts_reaches_each_and_the_strictest_counts(
        self, store: Store, pool: ConnectionPool
    ) -> None:
        await set_halt(pool, account_id="live-1", state=HaltState.REDUCE_ONLY, reason="no stop", operator="ann")
        await set_halt(pool, account_id=None, state=HaltState.HALTED, reason="news", operator="bob")

        state = await state_of(store)

        assert [halt.state for halt in state.halts] == ["reduce_only", "halted"]
        assert state.halt == Halt(account_id=None, state=HaltState.HALTED, reason="news", operator="bob")
        assert [halt.state for halt in (await state_of(store, "live-2")).halts] == ["halted"]

    async def test_is_lifted_by_a_named_person_and_remembered(self, store: Store, pool: ConnectionPool) -> None:
        for reason in ("first", "second"):
            await set_halt(pool, account_id="live-1", state=HaltState.HALTED, reason=reason, operator="ann")
        await set_halt(pool, account_id=None, state=HaltState.REDUCE_ONLY, reason="stays", operator="ann")

        lifted = await lift_halt(pool, account_id="live-1", reason="looked into", operator="bob")

        assert [(halt.reason, halt.lifted_by, halt.lift_reason) for halt in lifted] == [
            ("first", "bob", "looked into"),
            ("second", "bob", "looked into"),
        ]
        assert [halt.reason for halt in (await state_of(store)).halts] == ["stays"]
        assert [halt.reason for halt in await list_halts(pool)] == ["stays"]
        assert [halt.reason for halt in await list_halts(pool, lifted_too=True)] == ["stays", "second", "first"]

    async def test_that_nobody_set_is_lifted_by_nobody(self, pool: ConnectionPool) -> None:
        assert await lift_halt(pool, account_id=None, reason="x", operator="bob") == []

    async def test_needs_someone_who_answers_for_it(self, pool: ConnectionPool) -> None:
        with pytest.raises(StoreUnavailable, match="halts_operator_check"):
            await set_halt(pool, account_id=None, state=HaltState.HALTED, reason="x", operator="")
        await set_halt(pool, account_id=None, state=HaltState.HALTED, reason="x", operator="ann")
        with pytest.raises(StoreUnavailable, match="halts_lifted_by_check"):
            await lift_halt(pool, account_id=None, reason="x", operator="")

        assert len(await list_halts(pool)) == 1

    async def test_is_set_although_a_process_is_stuck_while_it_judges(
        self, pool: ConnectionPool, owner: Connection
    ) -> None:
        # Longer than other statements wait for a lock (1 s), shorter than a stuck transaction may last (2 s).
        async def be_stuck() -> None:
            await asyncio.sleep(1.5)
            await owner.execute("ROLLBACK")

        await owner.execute(f"BEGIN; SELECT pg_advisory_xact_lock_shared({EVERY_ACCOUNT_LOCK})")
        stuck = asyncio.create_task(be_stuck())
        await set_halt(pool, account_id=None, state=HaltState.HALTED, reason="stop", operator="ann")
        await stuck

        assert [halt.state for halt in await list_halts(pool)] == [HaltState.HALTED]


class TestLiveConfirmation:
    async def test_stands_for_its_account_until_it_expires(
        self, store: Store, pool: ConnectionPool, owner: Connection
    ) -> None:
        confirmation = await confirm_live(pool, account_id="live-1", operator="ann", lasting=EIGHT_HOURS)
        confirmed = (await state_of(store)).live_confirmed, (await state_of(store, "live-2")).live_confirmed
        await owner.execute(
            "UPDATE live_confirmations SET confirmed_at = confirmed_at - interval '1 d', expires_at = clock_timestamp()"
        )

        assert confirmed == (True, False)
        assert not (await state_of(store)).live_confirmed
        lasts = confirmation.expires_at - confirmation.confirmed_at
        assert EIGHT_HOURS - timedelta(seconds=1) < lasts <= EIGHT_HOURS

    async def test_can_be_revoked_and_is_remembered(self, store: Store, pool: ConnectionPool) -> None:
        for operator in ("ann", "bob"):
            await confirm_live(pool, account_id="live-1", operator=operator, lasting=EIGHT_HOURS)

        revoked = await revoke_live(pool, account_id="live-1", operator="cyd")

        assert not (await state_of(store)).live_confirmed
        assert [confirmation.revoked_by for confirmation in revoked] == ["cyd", "cyd"]
        assert [confirmation.operator for confirmation in await list_live_confirmations(pool)] == ["bob", "ann"]

    async def test_cannot_be_over_before_it_begins(self, pool: ConnectionPool) -> None:
        with pytest.raises(StoreUnavailable, match="live_confirmations_expires_at_check"):
            await confirm_live(pool, account_id="live-1", operator="ann", lasting=timedelta(0))


class TestApiKey:
    async def test_is_found_by_its_token_and_no_secret_is_stored(self, pool: ConnectionPool, owner: Connection) -> None:
        issued = await create_key(pool, name="bot", scopes={Scope.DECIDE, Scope.REPORT}, accounts=["paper-1"])
        credentials = parse_token(issued.token)
        assert credentials is not None
        secret = issued.token.rpartition("_")[2]
        key, refused_for_s = await find_key(pool, credentials, requests_per_minute=600)

        assert key == issued.key
        assert refused_for_s is None
        assert key.usable
        assert key.matches(credentials)
        assert not key.matches(Credentials.of(public_id=credentials.public_id, secret=secret[:-1]))
        assert key.scopes == {"decide", "report"}
        assert (key.covers("paper-1"), key.covers("paper-2")) == (True, False)
        assert len(secret) * 4 >= 128  # hexadecimal digits, four bits each
        assert secret not in str(await owner.fetch("SELECT api_keys::text FROM api_keys"))
        assert secret not in repr(issued)

    async def test_may_cover_every_account(self, pool: ConnectionPool) -> None:
        assert (await create_key(pool, name="ops", scopes={Scope.ADMIN}, accounts=["*"])).key.covers("any")

    async def test_is_useless_once_expired_or_revoked(self, pool: ConnectionPool) -> None:
        expired = await create_key(
            pool, name="old", scopes={Scope.READ}, accounts=["*"], expires_at=datetime(2000, 1, 1, tzinfo=UTC)
        )
        revoked = await create_key(pool, name="bad", scopes={Scope.READ}, accounts=["*"])

        assert await revoke_key(pool, revoked.key.public_id)
        assert not await revoke_key(pool, revoked.key.public_id)
        assert not await revoke_key(pool, "unknown")
        assert not expired.key.usable
        assert [(key.name, key.usable) for key in await list_keys(pool)] == [("old", False), ("bad", False)]

    async def test_notes_its_use_at_most_once_a_minute(self, pool: ConnectionPool, owner: Connection) -> None:
        public_id = (await create_key(pool, name="bot", scopes={Scope.READ}, accounts=["*"])).key.public_id

        async def last_used() -> datetime | None:
            await touch_key(pool, public_id)
            [key] = await list_keys(pool)
            return key.last_used_at

        first = await last_used()
        again = await last_used()
        await owner.execute("UPDATE api_keys SET last_used_at = last_used_at - interval '61 seconds'")
        later = await last_used()

        assert first is not None
        assert first == again
        assert later is not None
        assert later > first

    async def test_that_is_unknown_is_none(self, pool: ConnectionPool) -> None:
        unknown = Credentials.of(public_id="unknown", secret="secret")

        assert await find_key(pool, unknown, requests_per_minute=600) == (None, None)

    @pytest.mark.parametrize("token", ["", "tv", "tv_a", "tv__b", "tv_a_", "xx_a_b", "tv_a_b_c", "tv-a-b"])
    def test_in_another_form_is_none(self, token: str) -> None:
        assert parse_token(token) is None
