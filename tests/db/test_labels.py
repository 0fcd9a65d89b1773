"""A label and the counts it moves are one transaction, and labels can be read back as they were given."""

import asyncio
import dataclasses
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.db.engine import Connection, ConnectionPool
from app.db.labels import READ_FORECASTS, StoredForecast, executed_result, relabel, stored_forecast
from app.db.locks import lock_account
from app.db.operations import Store
from app.domain.lifecycle import Event, EventKind, ExitReason
from app.domain.outcome import ForecastKind, Outcome, OutcomeClass
from app.domain.proposal import Direction, EntryType
from app.domain.scoring import UNLABELLED, Labels
from app.domain.triple_barrier import PaperLabel, PaperState
from tests.db.builders import AS_OF, decision, forecast, new_decision_id, no_trade, stored
from tests.recount import checked_statistics

WON = Outcome(
    outcome=OutcomeClass.WIN,
    r_multiple=Decimal("2.000000"),
    exit_at=AS_OF + timedelta(hours=3),
    exit_price=Decimal("110.00"),
    entered_at=AS_OF,
    holding_s=3 * 3600,
)
LOST = dataclasses.replace(WON, outcome=OutcomeClass.LOSS, r_multiple=Decimal("-1.000000"), exit_price=Decimal("95.00"))
TOLD = dataclasses.replace(LOST, realized_usd=Decimal("-265.53"), fees_usd=Decimal("0.53"))
WON_ON_PAPER = PaperLabel(state=PaperState.RESOLVED, outcome=WON)


async def foretold(store: Store, *, foretelling: dict[str, Any] | None = None, **changes: Any) -> UUID:
    """Record a decision that foretells something, and give its id."""
    record = await stored(store, decision(**changes), foretelling=forecast(**(foretelling or {})))
    return record.decision_id


async def read(connection: Connection, decision_id: UUID) -> StoredForecast:
    row = await connection.fetchrow(READ_FORECASTS + "decision_id = $1", decision_id)
    assert row is not None
    return stored_forecast(row)


async def label(pool: ConnectionPool, decision_id: UUID, labels: Labels) -> bool:
    """Give these labels as a report does."""
    async with pool.transaction() as connection:
        await lock_account(connection, account_id="paper-1")
        return await relabel(connection, await read(connection, decision_id), labels)


async def outcomes(owner: Connection) -> list[tuple[Any, ...]]:
    rows = await owner.fetch("SELECT decision_id, at, body FROM decision_events WHERE event = 'outcome' ORDER BY 1")
    return [tuple(row) for row in rows]


async def test_a_forecast_is_read_back_as_it_was_made(store: Store, owner: Connection, pool: ConnectionPool) -> None:
    decision_id = await foretold(store, blocked_by=("LOW_CONVICTION", "NEGATIVE_EV"))

    async with pool.connection() as connection:
        found = await read(connection, decision_id)

    assert (found.account_id, found.mode, found.day) == ("paper-1", "paper", date(2026, 11, 20))
    assert (found.decider, found.setup, found.symbol) == ("anthropic/claude-haiku-5-5", "momentum", "NVDA")
    assert found.blocked_by == ("LOW_CONVICTION", "NEGATIVE_EV")
    assert found.percents == {
        ForecastKind.P_WIN: 54,
        ForecastKind.P_WIN_CALIBRATED: 51,
        ForecastKind.CONVICTION: 72,
    }
    assert (found.plan.direction, found.plan.entry_type) == (Direction.LONG, EntryType.MARKET)
    assert [found.plan.entry, found.plan.stop, found.plan.target] == [100, 95, 110]
    assert (found.plan.as_of, found.plan.time_stop_at) == (AS_OF, AS_OF + timedelta(hours=48))
    assert found.labels == UNLABELLED


@pytest.mark.parametrize(
    "labels",
    [
        Labels(executed=TOLD, paper=UNLABELLED.paper),
        Labels(
            executed=dataclasses.replace(TOLD, entered_at=None, holding_s=None, exit_price=None), paper=WON_ON_PAPER
        ),
        Labels(executed=None, paper=WON_ON_PAPER),
        Labels(executed=dataclasses.replace(TOLD, fees_usd=None), paper=PaperLabel(state=PaperState.UNFILLED)),
    ],
    ids=["executed", "both", "paper", "unfilled"],
)
async def test_labels_are_read_back_as_they_were_given(
    store: Store, owner: Connection, pool: ConnectionPool, labels: Labels
) -> None:
    decision_id = await foretold(store)

    assert await label(pool, decision_id, labels) is True
    async with pool.connection() as connection:
        assert (await read(connection, decision_id)).labels == labels
    # The same again is no change: nothing is moved, and nothing is written down.
    assert await label(pool, decision_id, labels) is False
    assert len(await outcomes(owner)) == 1
    await checked_statistics(owner)


async def test_each_change_of_a_label_is_written_down(store: Store, owner: Connection, pool: ConnectionPool) -> None:
    decision_id = await foretold(store)
    for labels in (
        Labels(executed=None, paper=WON_ON_PAPER),
        Labels(executed=TOLD, paper=WON_ON_PAPER),
        Labels(executed=WON, paper=WON_ON_PAPER),
    ):
        await label(pool, decision_id, labels)

    told = [
        (at, (orjson.loads(body)["executed"] or {}).get("outcome"), orjson.loads(body)["paper"]["outcome"]["outcome"])
        for _, at, body in await outcomes(owner)
    ]
    assert sorted(told, key=str) == sorted(
        [(WON.exit_at, None, "win"), (LOST.exit_at, "loss", "win"), (WON.exit_at, "win", "win")], key=str
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await owner.execute("DELETE FROM decision_events")


async def test_a_forecast_outlives_its_decision_and_is_labelled_all_the_same(
    store: Store, owner: Connection, pool: ConnectionPool
) -> None:
    decision_id = await foretold(store)
    async with owner.transaction():
        await owner.execute("SET LOCAL tradeverdict.retention = 'on'")
        for table in ("reservations", "decision_events", "llm_decisions"):
            await owner.execute(f"DELETE FROM {table} WHERE decision_id = $1", decision_id)

    assert await label(pool, decision_id, Labels(executed=None, paper=WON_ON_PAPER))

    assert (await read(owner, decision_id)).labels.paper == WON_ON_PAPER
    assert await outcomes(owner) == []


async def test_counts_follow_each_change(store: Store, owner: Connection, pool: ConnectionPool) -> None:
    first, second = await foretold(store), await foretold(store, setup="breakout", blocked_by=("SPREAD_TOO_WIDE",))
    for decision_id, labels in (
        (first, Labels(executed=None, paper=WON_ON_PAPER)),
        (second, Labels(executed=None, paper=PaperLabel(state=PaperState.RESOLVED, outcome=LOST))),
        (first, Labels(executed=TOLD, paper=WON_ON_PAPER)),
        (second, Labels(executed=None, paper=PaperLabel(state=PaperState.UNFILLED))),
        (second, Labels(executed=None, paper=WON_ON_PAPER)),
        (first, Labels(executed=WON, paper=WON_ON_PAPER)),
    ):
        await label(pool, decision_id, labels)
        await checked_statistics(owner)

    kept = await checked_statistics(owner)
    daily = {
        tuple(value for name, value in key if name in ("source", "forecast", "percent")): tuple(map(int, amounts))
        for key, amounts in kept["calibration_daily"].items()
    }
    assert daily == {
        (said, percent, source): (1, 0, 0, 0)
        for said, percent in (("p_win", 54), ("p_win_calibrated", 51), ("conviction", 72))
        for source in ("executed", "paper_of_executed", "paper")
    }
    [gate] = kept["gate_sums"].values()
    assert gate == (1, 1, 1, 2)


async def test_a_label_that_is_not_committed_leaves_the_counts_alone(
    store: Store, owner: Connection, pool: ConnectionPool
) -> None:
    decision_id = await foretold(store)

    async def label_and_fail() -> None:
        async with pool.transaction() as connection:
            found = await read(connection, decision_id)
            await relabel(connection, found, Labels(executed=TOLD, paper=UNLABELLED.paper))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await label_and_fail()

    kept = await checked_statistics(owner)
    assert kept["calibration_counts"] == kept["calibration_daily"] == kept["outcome_sums"] == {}
    assert await outcomes(owner) == []


async def test_accounts_that_are_labelled_at_once_do_not_lock_each_other_out(
    store: Store, owner: Connection, pool: ConnectionPool
) -> None:
    accounts = [f"paper-{number}" for number in range(4)]
    mine = {account: [await foretold(store, account_id=account) for _ in range(8)] for account in accounts}

    async def label_all(account: str) -> None:
        for number, decision_id in enumerate(mine[account]):
            async with pool.transaction() as connection:
                await lock_account(connection, account_id=account)
                executed = TOLD if number % 2 else WON
                await relabel(
                    connection, await read(connection, decision_id), Labels(executed=executed, paper=WON_ON_PAPER)
                )

    await asyncio.gather(*(label_all(account) for account in accounts))

    kept = await checked_statistics(owner)
    assert sum(sum(amounts) for amounts in kept["calibration_daily"].values()) == 4 * 8 * 2 * 3
    assert await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def test_what_was_foretold_cannot_be_rewritten(store: Store, pool: ConnectionPool) -> None:
    await foretold(store)

    for column in ("p_win", "p_win_percent", "conviction", "day", "entry", "stop", "target", "decider"):
        with pytest.raises(Exception, match=r"permission denied|can only be updated to DEFAULT"):
            async with pool.connection() as connection:
                await connection.execute(f"UPDATE forecasts SET {column} = {column}")
    with pytest.raises(Exception, match="permission denied"):
        async with pool.connection() as connection:
            await connection.execute("DELETE FROM forecasts")


def closing(**changes: Any) -> Event:
    return Event(
        **{
            "event_id": "exit",
            "kind": EventKind.CLOSED,
            "at": AS_OF + timedelta(hours=1),
            "price": Decimal("95.00"),
            "exit_reason": ExitReason.STOP,
            **changes,
        }
    )


class TestAnExecutedResult:
    async def test_is_the_forecasts_label(self, store: Store, owner: Connection, pool: ConnectionPool) -> None:
        decision_id = await foretold(store)

        async with pool.transaction() as connection:
            result = await executed_result(connection, decision_id=decision_id, quantity=53, events=[closing()])

        assert result is not None
        # 53 x (95 - 100) = -265; R = -265 / (53 x 5).
        assert [result.outcome.realized_usd, result.outcome.r_multiple] == [-265, -1]
        assert result.predicted_r == Decimal("0.62")
        async with pool.connection() as connection:
            assert (await read(connection, decision_id)).labels.executed == result.outcome
        await checked_statistics(owner)

    async def test_may_be_computed_without_labelling(
        self, store: Store, owner: Connection, pool: ConnectionPool
    ) -> None:
        decision_id = await foretold(store)

        async with pool.transaction() as connection:
            result = await executed_result(
                connection, decision_id=decision_id, quantity=53, events=[closing()], label=False
            )
            assert result is not None
            assert (await read(connection, decision_id)).labels == UNLABELLED

    async def test_is_none_while_the_ticket_is_open(self, store: Store, pool: ConnectionPool) -> None:
        decision_id = await foretold(store)

        async with pool.transaction() as connection:
            assert await executed_result(connection, decision_id=decision_id, quantity=53, events=[]) is None

    async def test_is_none_for_a_decision_that_foretold_nothing(self, store: Store, pool: ConnectionPool) -> None:
        record = await stored(store, no_trade())

        for decision_id in (record.decision_id, new_decision_id()):
            async with pool.transaction() as connection:
                told = await executed_result(connection, decision_id=decision_id, quantity=1, events=[closing()])
            assert told is None


async def test_the_day_of_a_forecast_is_the_utc_date_of_its_snapshot(store: Store, owner: Connection) -> None:
    for as_of in ("2026-11-20T23:59:59.999999+00:00", "2026-11-20T20:00:00-05:00", "2026-11-21T01:00:00+02:00"):
        await foretold(store, as_of=datetime.fromisoformat(as_of))

    days = await owner.fetch("SELECT day FROM forecasts ORDER BY decision_id")
    counted = await owner.fetch("SELECT day, sum(decisions)::int AS decisions FROM decision_counts GROUP BY day")
    assert [row["day"] for row in days] == [date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 20)]
    assert {row["day"]: row["decisions"] for row in counted} == {date(2026, 11, 20): 2, date(2026, 11, 21): 1}
    await checked_statistics(owner)


async def test_codes_that_block_are_counted_once_each(store: Store, owner: Connection) -> None:
    await foretold(store, blocked_by=("NEGATIVE_EV", "LOW_CONVICTION", "NEGATIVE_EV"))
    await foretold(store, blocked_by=("NEGATIVE_EV",))
    await stored(store, decision(blocked_by=("NEGATIVE_EV",)))  # foretells nothing that could be labelled

    blocked = {row["code"]: row["blocked"] for row in await owner.fetch("SELECT code, blocked FROM gate_sums")}
    assert blocked == {"NEGATIVE_EV": 2, "LOW_CONVICTION": 1}
    await checked_statistics(owner)
