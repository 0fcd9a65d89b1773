"""What is read off an account's days is what its marks say, in whatever order they came."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from alembic.config import Config

from alembic import command
from app.db.engine import Connection
from app.db.migrate import migrations_ini
from app.db.operations import Store
from app.db.records import DecisionRecord
from app.domain.account import AccountMode, day_start, week_start
from tests.db.builders import decision, mark, no_trade, stored

BEFORE = "0010"
BEGIN = datetime(2026, 10, 28, tzinfo=UTC)
DAYS = 26
# Each question asked of the marks themselves, one by one. $1 account, $2 mode, $3 as_of, $4 its day, $5 its week
FROM_MARKS = """
WITH mark AS (
    SELECT *, (as_of AT TIME ZONE 'UTC')::date AS day FROM account_marks WHERE account_id = $1 AND mode = $2
), session AS (
    SELECT day, bool_or(approved_entry) AS approved FROM mark
    WHERE as_of < $4 AND EXTRACT(isodow FROM day) < 6
    GROUP BY day ORDER BY day DESC LIMIT 2
)
SELECT
    coalesce(
        (SELECT equity_usd FROM mark WHERE as_of < $4 AND as_of >= $4 - interval '168 hours'
            ORDER BY as_of DESC, decision_id DESC LIMIT 1),
        (SELECT equity_usd FROM mark WHERE as_of >= $4 AND as_of <= $3 ORDER BY as_of, decision_id LIMIT 1)
    ) AS day_baseline_usd,
    coalesce(
        (SELECT equity_usd FROM mark WHERE as_of < $5 AND as_of >= $5 - interval '168 hours'
            ORDER BY as_of DESC, decision_id DESC LIMIT 1),
        (SELECT equity_usd FROM mark WHERE as_of >= $5 AND as_of <= $3 ORDER BY as_of, decision_id LIMIT 1)
    ) AS week_baseline_usd,
    coalesce((SELECT max(day_loss_usd) FROM mark WHERE as_of >= $4 AND as_of < $4 + interval '24 hours'), 0)
        AS day_deepest_loss_usd,
    coalesce((SELECT max(week_loss_usd) FROM mark WHERE as_of >= $5 AND as_of < $5 + interval '168 hours'), 0)
        AS week_deepest_loss_usd,
    (SELECT count(*) FROM session) AS earlier,
    (SELECT coalesce(bool_or(approved), false) FROM session) AS approved_in_last_two
"""
EVERY_DAY = "SELECT * FROM account_days ORDER BY account_id, mode, day"


def a_moment(draw: Random) -> datetime:
    """A time of few, so that several marks share it, and often the first or last instant of a day."""
    edge = draw.choice([timedelta(0), timedelta(hours=9), timedelta(hours=24, microseconds=-1)])
    return BEGIN + timedelta(days=draw.randrange(DAYS)) + edge


def some_marks(draw: Random, *, number: int) -> Iterator[tuple[DecisionRecord, int, int | None, int | None]]:
    """Decisions with the equity and losses that they show, in no order of their times or their ids."""
    for _ in range(number):
        kind = decision if draw.random() < 0.3 else no_trade
        record = kind(
            account_id=draw.choice(["paper-1", "paper-2"]),
            mode=draw.choice([AccountMode.PAPER, AccountMode.PAPER, AccountMode.LIVE]),
            as_of=a_moment(draw),
        )
        losses = [draw.choice([None, draw.randrange(5_000)]) for _ in range(2)]
        yield record, draw.randrange(90_000, 110_000), losses[0], losses[1]


async def record_all(store: Store, draw: Random, *, number: int) -> None:
    marks = list(some_marks(draw, number=number))
    draw.shuffle(marks)
    for record, equity, day_loss, week_loss in marks:
        await stored(store, record, showing=mark(equity, day_loss=day_loss, week_loss=week_loss))


async def assert_days_say_what_marks_say(store: Store, owner: Connection, *, as_of: datetime) -> None:
    for account_id in ("paper-1", "paper-2", "paper-3"):
        for mode in AccountMode:
            state = await store.read_state(account_id=account_id, mode=mode, as_of=as_of)
            expected = await owner.fetchrow(FROM_MARKS, account_id, mode, as_of, day_start(as_of), week_start(as_of))
            assert (
                state.day_baseline_usd,
                state.week_baseline_usd,
                state.day_deepest_loss_usd,
                state.week_deepest_loss_usd,
                state.sessions.earlier,
                state.sessions.approved_in_last_two,
            ) == tuple(expected or ()), (account_id, mode, as_of)


@pytest.mark.parametrize(("seed", "number"), [(1, 6), (2, 6), (3, 20), (4, 20), (5, 60), (6, 200)])
async def test_days_say_what_marks_say(store: Store, owner: Connection, seed: int, number: int) -> None:
    draw = Random(seed)
    await record_all(store, draw, number=number)

    for day in range(-1, DAYS + 9):
        for hour in (timedelta(0), timedelta(hours=9, microseconds=draw.randrange(2)), timedelta(hours=20)):
            await assert_days_say_what_marks_say(store, owner, as_of=BEGIN + timedelta(days=day) + hour)


async def test_several_decisions_at_once_leave_one_row_that_knows_all(store: Store, owner: Connection) -> None:
    draw = Random(7)
    await asyncio.gather(*(record_all(store, draw, number=6) for _ in range(6)))

    for day in range(DAYS):
        await assert_days_say_what_marks_say(store, owner, as_of=BEGIN + timedelta(days=day, hours=12))


async def test_the_migration_makes_the_days_of_the_marks_that_are_there(
    store: Store, owner: Connection, database_url: str
) -> None:
    await record_all(store, Random(8), number=150)
    recorded = await owner.fetch(EVERY_DAY)
    versions = await owner.fetch("SELECT account_id, version FROM accounts ORDER BY 1")
    config = Config(migrations_ini())
    config.attributes["url"] = database_url

    await asyncio.to_thread(command.downgrade, config, BEFORE)
    before = await owner.fetchval("SELECT count(*) FROM account_marks WHERE session IS NOT NULL")
    await asyncio.to_thread(command.upgrade, config, "head")

    assert len(recorded) > 50
    assert before > 50
    assert await owner.fetch(EVERY_DAY) == recorded
    # What was judged before is void: a program of that time made no rows of days.
    after = await owner.fetch("SELECT account_id, version FROM accounts ORDER BY 1")
    assert [row["version"] for row in after] == [row["version"] + 1 for row in versions]
