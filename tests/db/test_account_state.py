"""What the store knows of an account follows the rulebook, whatever the clock says and however long the history."""

import json
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

import pytest

from app.db.account_state import _READ, state_arguments, state_from_json, state_to_json
from app.db.engine import Connection
from app.db.operations import Store
from app.db.records import AccountMark, DecisionRecord
from app.domain.account import (
    AccountMode,
    AccountState,
    Halt,
    HaltState,
    Reservation,
    Sessions,
)
from app.domain.proposal import Direction, Mode
from app.domain.verdict import Verdict
from tests.db.builders import AS_OF, decision, mark, no_trade, reservation, stored

INSTANT = timedelta(microseconds=1)


def on(day: int, hour: int = 12) -> datetime:
    """A time in November 2026. The 16th is a Monday, the 20th (AS_OF) a Friday."""
    return datetime(2026, 11, day, hour, tzinfo=UTC)


async def ask(store: Store, *, as_of: datetime = AS_OF, mode: AccountMode = AccountMode.PAPER) -> AccountState:
    state = await store.read_state(account_id="paper-1", mode=mode, as_of=as_of, held=("NVDA", "AAPL"))
    # Who holds nothing is answered by another statement.
    holding_nothing = await store.read_state(account_id="paper-1", mode=mode, as_of=as_of)
    assert holding_nothing == replace(state, now=holding_nothing.now, position_buckets=MappingProxyType({}))
    return state


async def marked(store: Store, as_of: datetime, showing: AccountMark, **changes: object) -> DecisionRecord:
    return await stored(store, no_trade(as_of=as_of, **changes), showing=showing)


async def reported(
    owner: Connection,
    record: DecisionRecord,
    event_id: str,
    event: str,
    *,
    at: datetime,
    quantity: int | None = None,
    price: str | None = None,
    corrects: str | None = None,
) -> None:
    await owner.execute(
        "INSERT INTO decision_events (decision_id, event_id, account_id, mode, event, at, quantity, price, corrects,"
        " body) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, '{}')",
        record.decision_id,
        event_id,
        record.account_id,
        record.mode,
        event,
        at,
        quantity,
        None if price is None else Decimal(price),
        corrects,
    )


async def test_an_unknown_account_has_nothing_but_the_database_clock(store: Store, owner: Connection) -> None:
    before = await owner.fetchval("SELECT clock_timestamp()")

    state = await ask(store)

    assert state == AccountState(now=state.now)
    assert before < state.now < await owner.fetchval("SELECT clock_timestamp()")


class TestBaseline:
    async def test_is_the_last_mark_before_the_period(self, store: Store) -> None:
        await marked(store, on(15, 20), mark(90_000))  # Sunday: before the week
        await marked(store, on(19, 20), mark(99_000))  # Thursday: before the day
        await marked(store, on(19, 21), mark(98_000))
        await marked(store, on(20, 10), mark(97_000))

        state = await ask(store)

        assert state.day_baseline_usd == 98_000
        assert state.week_baseline_usd == 90_000

    async def test_at_one_time_is_the_decision_made_last(self, store: Store) -> None:
        await marked(store, on(19), mark(99_000))
        await marked(store, on(19), mark(98_000))

        assert (await ask(store)).day_baseline_usd == 98_000

    @pytest.mark.parametrize(("early", "baseline"), [(timedelta(0), 95_000), (INSTANT, 97_000)])
    async def test_may_be_seven_days_older_than_its_period_and_no_more(
        self, store: Store, early: timedelta, baseline: int
    ) -> None:
        # The day begins on Friday the 20th at 0:00, so a mark of Friday the 13th at 0:00 is the oldest that counts.
        await marked(store, on(13, 0) - early, mark(95_000))
        await marked(store, on(20, 9), mark(97_000))

        assert (await ask(store)).day_baseline_usd == baseline

    async def test_else_is_the_first_mark_of_the_period(self, store: Store) -> None:
        await marked(store, on(20, 12), mark(96_000))
        await marked(store, on(20, 9), mark(97_000))

        state = await ask(store)

        assert state.day_baseline_usd == 97_000
        assert state.week_baseline_usd == 97_000

    async def test_is_never_a_mark_later_than_the_request(self, store: Store) -> None:
        await marked(store, AS_OF + INSTANT, mark(96_000))

        assert (await ask(store)).day_baseline_usd is None
        assert (await ask(store, as_of=AS_OF + INSTANT)).day_baseline_usd == 96_000

    async def test_is_never_the_requests_own_mark(self, store: Store) -> None:
        async with store.gating(account_id="paper-1", mode=AccountMode.PAPER, as_of=AS_OF) as transaction:
            state = transaction.state

        assert state.day_baseline_usd is None

    async def test_of_a_monday_is_the_same_for_day_and_week(self, store: Store) -> None:
        await marked(store, on(15, 20), mark(90_000))
        await marked(store, on(16, 9), mark(91_000))

        state = await ask(store, as_of=on(16))

        assert state.day_baseline_usd == state.week_baseline_usd == 90_000


class TestDeepestLoss:
    async def test_is_the_largest_of_the_day_and_of_the_week(self, store: Store) -> None:
        await marked(store, on(15), mark(day_loss=5_000, week_loss=6_000))  # the week before
        await marked(store, on(19), mark(day_loss=900, week_loss=1_400))
        await marked(store, on(20, 10), mark(day_loss=350, week_loss=1_200))
        await marked(store, on(20, 11), mark(day_loss=100, week_loss=950))

        state = await ask(store)

        assert state.day_deepest_loss_usd == 350
        assert state.week_deepest_loss_usd == 1_400

    async def test_counts_what_was_seen_later_in_the_same_day(self, store: Store) -> None:
        await marked(store, on(20, 23), mark(day_loss=700))

        assert (await ask(store)).day_deepest_loss_usd == 700

    async def test_is_nothing_where_no_loss_was_ever_known(self, store: Store) -> None:
        await marked(store, on(20, 10), mark(day_loss=None))

        assert (await ask(store)).day_deepest_loss_usd == 0


class TestSessions:
    async def test_are_weekdays_before_today_on_which_the_account_asked(self, store: Store) -> None:
        for day in (14, 15, 20):  # Saturday, Sunday, today
            await marked(store, on(day, 9), mark())
        none = (await ask(store)).sessions
        await marked(store, on(18), mark())
        await marked(store, on(18, 13), mark())
        one = (await ask(store)).sessions
        await marked(store, on(13), mark())
        two = (await ask(store)).sessions

        assert [sessions.earlier for sessions in (none, one, two)] == [0, 1, 2]

    async def test_are_counted_no_further_than_two(self, store: Store) -> None:
        for day in (16, 17, 18, 19):
            await marked(store, on(day), mark())

        assert (await ask(store)).sessions == Sessions(earlier=2, approved_in_last_two=False)

    @pytest.mark.parametrize(
        ("day", "approved"),
        [(13, False), (16, True), (18, True), (20, False)],
        ids=["the session before the last two", "the last but one", "the last", "today"],
    )
    async def test_tell_whether_one_of_the_last_two_approved_an_entry(
        self, store: Store, day: int, approved: bool
    ) -> None:
        for session in (13, 16, 18):
            await marked(store, on(session), mark())
        await stored(store, decision(as_of=on(day, 13), verdict=Verdict.RESIZED))

        assert (await ask(store)).sessions == Sessions(earlier=2, approved_in_last_two=approved)

    async def test_an_approval_at_a_weekend_is_in_no_session(self, store: Store) -> None:
        for session in (13, 16):
            await marked(store, on(session), mark())
        await stored(store, decision(as_of=on(14)))

        assert (await ask(store, as_of=on(17))).sessions == Sessions(earlier=2, approved_in_last_two=False)

    async def test_an_approved_exit_is_no_entry(self, store: Store) -> None:
        await stored(store, decision(as_of=on(19), action=Mode.EXIT))

        assert (await ask(store)).sessions == Sessions(earlier=1, approved_in_last_two=False)


class TestReservation:
    async def held(self, store: Store, as_of: datetime = AS_OF) -> int:
        return len((await ask(store, as_of=as_of)).reservations)

    async def test_is_read_back_as_it_was_made(self, store: Store) -> None:
        record = await stored(store, decision(), reserving=reservation())

        assert (await ask(store)).reservations == (
            Reservation(
                decision_id=str(record.decision_id),
                symbol="NVDA",
                direction=Direction.LONG,
                quantity=Decimal(53),
                notional_usd=Decimal("6646.20"),
                risk_usd=Decimal("298.52"),
                buckets=("technology", "ai"),
                reduce_only=False,
            ),
        )

    async def test_lapses_when_nobody_claims_it(self, store: Store) -> None:
        await stored(store, decision(), reserving=reservation(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))

        assert await self.held(store) == 0

    async def test_lapses_by_the_database_clock(self, store: Store, owner: Connection) -> None:
        await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET expires_at = clock_timestamp() + interval '1 minute'")
        before = await self.held(store)
        await owner.execute("UPDATE reservations SET expires_at = clock_timestamp()")

        assert (before, await self.held(store)) == (1, 0)

    async def test_never_lapses_once_claimed(self, store: Store, owner: Connection) -> None:
        await stored(store, decision(), reserving=reservation(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))
        await owner.execute("UPDATE reservations SET claimed_at = expires_at - interval '1 second'")

        assert await self.held(store) == 1

    async def test_ends_when_released(self, store: Store, owner: Connection) -> None:
        await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET released_at = now(), release_reason = 'cancelled'")

        assert await self.held(store) == 0

    async def test_stays_after_a_fill_until_a_snapshot_is_later_than_the_fill(
        self, store: Store, owner: Connection
    ) -> None:
        await stored(store, decision(), reserving=reservation(expires_at=datetime(2000, 1, 1, tzinfo=UTC)))
        await owner.execute("UPDATE reservations SET filled_quantity = quantity, filled_at = $1", AS_OF)

        assert await self.held(store, AS_OF - INSTANT) == 1
        assert await self.held(store, AS_OF) == 1
        assert await self.held(store, AS_OF + INSTANT) == 0

    async def test_of_a_part_holds_the_shares_that_the_snapshot_does_not_know(
        self, store: Store, owner: Connection
    ) -> None:
        record = await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET claimed_at = now(), filled_quantity = 20")
        await reported(owner, record, "a", "partially_filled", at=AS_OF, quantity=15, price="125.00")
        await reported(owner, record, "b", "partially_filled", at=AS_OF + INSTANT, quantity=5, price="125.00")

        held = [(await ask(store, as_of=AS_OF + later * INSTANT)).reservations[0] for later in (0, 1, 2)]

        # Of 53 shares: none known to have filled, then 15, then 20.
        assert [one.quantity for one in held] == [53, 38, 33]
        assert held[1].notional_usd == Decimal("6646.20") * (Decimal(38) / 53)
        assert held[1].risk_usd == Decimal("298.52") * (Decimal(38) / 53)

    async def test_of_a_part_whose_rest_was_cancelled_holds_what_filled(self, store: Store, owner: Connection) -> None:
        record = await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET claimed_at = now(), filled_quantity = 20, filled_at = $1", AS_OF)
        await reported(owner, record, "a", "partially_filled", at=AS_OF, quantity=20, price="125.00")

        assert [held.quantity for held in (await ask(store)).reservations] == [20]
        assert await self.held(store, AS_OF + INSTANT) == 0

    async def test_takes_each_fill_as_last_corrected(self, store: Store, owner: Connection) -> None:
        record = await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET claimed_at = now(), filled_quantity = 18")
        await reported(owner, record, "a", "partially_filled", at=AS_OF, quantity=20, price="125.00")
        await reported(owner, record, "b", "corrected", at=AS_OF, quantity=18, corrects="a")

        assert [held.quantity for held in (await ask(store, as_of=AS_OF + INSTANT)).reservations] == [35]

    async def test_is_its_own_modes_and_accounts(self, store: Store) -> None:
        await stored(store, decision(mode=AccountMode.LIVE), reserving=reservation())
        await stored(store, decision(account_id="paper-2"), reserving=reservation())

        assert await self.held(store) == 0


class TestPositionBuckets:
    async def test_are_those_of_the_latest_entry_in_the_symbol(self, store: Store, owner: Connection) -> None:
        early, late = AS_OF, AS_OF + timedelta(hours=1)
        await stored(store, decision(decided_at=late), reserving=reservation(buckets=("technology", "chips")))
        await stored(store, decision(decided_at=early), reserving=reservation(buckets=("technology",)))
        await stored(store, decision(decided_at=late), reserving=reservation(symbol="MSFT", buckets=("software",)))
        exit_ticket = reservation(reduce_only=True, buckets=())
        await stored(store, decision(decided_at=late + INSTANT, action=Mode.EXIT), reserving=exit_ticket)

        # MSFT was not asked about; AAPL never had a reservation.
        assert (await ask(store)).position_buckets == {"NVDA": ("technology", "chips")}

    async def test_outlive_the_reservation(self, store: Store, owner: Connection) -> None:
        await stored(store, decision(), reserving=reservation())
        await owner.execute("UPDATE reservations SET released_at = now(), release_reason = 'closed'")

        assert (await ask(store)).position_buckets == {"NVDA": ("technology", "ai")}


class TestExecutedNotional:
    async def test_is_what_filled_in_the_day_of_the_request(self, store: Store, owner: Connection) -> None:
        record = await stored(store, decision())
        await reported(owner, record, "a", "partially_filled", at=on(20, 0), quantity=20, price="125.00")
        await reported(owner, record, "b", "filled", at=on(21, 0) - INSTANT, quantity=33, price="126.00")
        await reported(owner, record, "c", "closed", at=on(20, 14), quantity=53, price="137.00")
        await reported(owner, record, "d", "filled", at=on(20, 0) - INSTANT, quantity=1, price="1")
        await reported(owner, record, "e", "filled", at=on(21, 0), quantity=1, price="1")

        # 20 x 125 + 33 x 126 = 2500 + 4158
        assert (await ask(store)).executed_notional_usd == 6658

    async def test_takes_each_fill_as_last_corrected(self, store: Store, owner: Connection) -> None:
        record = await stored(store, decision())
        await reported(owner, record, "a", "filled", at=on(20, 14), quantity=53, price="125.00")
        await reported(owner, record, "b", "corrected", at=on(20, 14), quantity=50, corrects="a")
        await reported(owner, record, "c", "corrected", at=on(20, 14), quantity=51, price="124.00", corrects="a")

        assert (await ask(store)).executed_notional_usd == 51 * 124


async def test_reservations_are_written_as_if_each_had_been_made_here(store: Store, owner: Connection) -> None:
    """The store's own words are kept; what `state_to_json` makes of them is the same to the byte."""
    record = await stored(store, decision(), reserving=reservation())
    await stored(store, decision(), reserving=reservation(symbol="BRK.B", buckets=("“a”\n", "b"), risk_usd=Decimal(0)))
    await owner.execute("UPDATE reservations SET claimed_at = now(), filled_quantity = 20 WHERE symbol = 'NVDA'")
    await reported(owner, record, "a", "partially_filled", at=AS_OF - INSTANT, quantity=20, price="125.00")

    state = await ask(store)

    assert [held.quantity for held in state.reservations] == [33, 53]
    assert state_to_json(state) == state_to_json(replace(state, reservations=tuple(iter(state.reservations))))
    assert state_from_json(state_to_json(state)) == state


async def test_an_account_in_another_mode_shares_nothing_but_halts(store: Store, owner: Connection) -> None:
    record = await stored(
        store,
        decision(as_of=on(19), mode=AccountMode.LIVE),
        showing=mark(day_loss=1, week_loss=2),
        reserving=reservation(),
    )
    await reported(owner, record, "a", "filled", at=AS_OF, quantity=1, price="1")

    state = await ask(store)

    assert state == AccountState(now=state.now)


def test_a_state_survives_being_written_as_json() -> None:
    state = AccountState(
        now=AS_OF,
        halts=(Halt(account_id=None, state=HaltState.HALTED, reason="“why”", operator="ann"),),
        live_confirmed=True,
        reservations=(
            Reservation(
                decision_id="0193",
                symbol="BRK.B",
                direction=Direction.SHORT,
                quantity=Decimal("7"),
                notional_usd=Decimal("0.10"),
                risk_usd=Decimal("1E+3"),
                buckets=("a", "b"),
            ),
        ),
        day_baseline_usd=Decimal("100000.00"),
        week_deepest_loss_usd=Decimal("0.30"),
        executed_notional_usd=Decimal(5),
        sessions=Sessions(earlier=2, approved_in_last_two=True),
        position_buckets={"AAPL": ("technology",), "T": ()},
    )

    assert state_from_json(state_to_json(state)) == state
    # Decimals keep their digits, not only their value.
    assert str(state_from_json(state_to_json(state)).day_baseline_usd) == "100000.00"


def test_a_state_written_before_a_field_existed_gets_its_default() -> None:
    assert state_from_json('{"now":"2026-11-20T15:30:00+00:00"}') == AccountState(now=AS_OF)


@pytest.mark.parametrize("planner_knows", [False, True])
async def test_reading_touches_few_pages_however_long_the_history(
    store: Store, owner: Connection, planner_knows: bool
) -> None:
    # A bot that has asked each day for years, weekend or not, and whose tickets lapsed or became positions.
    record = await stored(store, decision(as_of=on(1)))
    await owner.execute(
        "INSERT INTO account_days SELECT 'paper-1', 'paper', at::date, at, gen_random_uuid(), 100000, at,"
        " gen_random_uuid(), 100000, n % 7, n % 11, false"
        " FROM generate_series(1, 5000) AS n, LATERAL (SELECT $1::timestamptz - n * interval '24 hours' AS at) AS hour"
        " ON CONFLICT DO NOTHING",
        AS_OF,
    )
    columns = ", ".join(field.name for field in fields(record) if field.name != "decision_id")
    await owner.execute(
        f"INSERT INTO llm_decisions (decision_id, {columns}) SELECT gen_random_uuid(), {columns}"
        " FROM llm_decisions, generate_series(1, 5000)"
    )
    await owner.execute(
        "INSERT INTO reservations (decision_id, account_id, mode, symbol, direction, quantity, notional_usd, risk_usd,"
        " buckets, reduce_only, created_at, expires_at, filled_at)"
        " SELECT decision_id, account_id, mode, 'NVDA', 'long', 1, 1, 1, '{}', false, now(), now(),"
        " CASE WHEN row_number() OVER () % 2 = 0 THEN as_of END FROM llm_decisions"
    )
    if planner_knows:
        await owner.execute("ANALYZE")
    await owner.execute("SET plan_cache_mode = force_generic_plan")
    statement = await owner.prepare("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + _READ)

    for as_of in (AS_OF, on(16, 9)):
        explained = await statement.fetchval(
            *state_arguments(account_id="paper-1", mode=record.mode, as_of=as_of, held=["NVDA", "AAPL"])
        )
        plan = json.loads(explained)[0]["Plan"]

        assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 100
