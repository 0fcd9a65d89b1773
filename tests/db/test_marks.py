"""What a decision showed of its account stands in its row, and what it reserves is never stored without it."""

import asyncio
import re
from itertools import product
from pathlib import Path

import asyncpg
import pytest
from alembic.config import Config

import app
from alembic import command
from app.db.engine import Connection, ConnectionPool, StoreUnavailable
from app.db.migrate import migrations_ini
from app.db.operations import Store, _record_statement, _Shape
from app.db.records import DecisionRecord
from app.domain.account import AccountMode
from tests.db.builders import AS_OF, POLICY, PROMPT, decision, forecast, mark, no_trade, reservation, stored
from tests.db.test_domains import FILES
from tests.deploy.test_scaling import block

BEFORE = "0012"
MARKS = "SELECT * FROM account_marks ORDER BY decision_id"
STORED = "SELECT count(*) FROM llm_decisions FULL JOIN reservations USING (decision_id)"


async def two_marks(store: Store) -> tuple[DecisionRecord, DecisionRecord]:
    """Record an approved entry and a decision for nothing, each with its mark."""
    return (
        await stored(store, decision(), showing=mark(99_000, day_loss=1_000), reserving=reservation()),
        await stored(store, no_trade(), showing=mark(98_500, week_loss=1_500)),
    )


@pytest.fixture
def migrations(database_url: str) -> Config:
    config = Config(migrations_ini())
    config.attributes["url"] = database_url
    return config


async def test_a_mark_is_what_its_decision_showed(store: Store, owner: Connection) -> None:
    entry, nothing = await two_marks(store)
    async with store.gating(account_id="paper-1", mode=AccountMode.PAPER, as_of=AS_OF) as transaction:
        await transaction.record(no_trade(), mark=None, prompt=PROMPT, policy=POLICY)

    assert [tuple(row) for row in await owner.fetch(MARKS)] == [
        (entry.decision_id, "paper-1", "paper", AS_OF, 99_000, 1_000, None, True),
        (nothing.decision_id, "paper-1", "paper", AS_OF, 98_500, None, 1_500, False),
    ]


@pytest.mark.parametrize("partitioned", [False, True], ids=["whole", "partitioned"])
async def test_the_migration_keeps_each_mark_and_writes_no_decision_anew(
    store: Store, owner: Connection, migrations: Config, partitioned: bool
) -> None:
    await two_marks(store)
    if partitioned:
        await owner.execute(block("partition, once"))
    marks = await owner.fetch(MARKS)

    await asyncio.to_thread(command.downgrade, migrations, BEFORE)

    assert await owner.fetch(MARKS) == marks
    files: dict[str, int] = dict(map(tuple, await owner.fetch(FILES)))

    await asyncio.to_thread(command.upgrade, migrations, "head")

    assert await owner.fetch(MARKS) == marks
    assert await owner.fetchval("SELECT count(*) FROM account_marks_before") == 2
    after: dict[str, int] = dict(map(tuple, await owner.fetch(FILES)))
    assert after.pop("account_marks_before") == files.pop("account_marks")
    # One row for each day of an account: these are few.
    assert after.pop("account_days") != files.pop("account_days")
    assert after == files

    later = await stored(store, no_trade(), showing=mark(97_000))
    assert [row["decision_id"] for row in await owner.fetch(MARKS)][2:] == [later.decision_id]


async def test_a_program_from_before_stores_nothing(pool: ConnectionPool, owner: Connection) -> None:
    # What it wrote of a mark, which every decision has but those that nothing is judged by.
    with pytest.raises(StoreUnavailable, match="cannot insert into view"):
        async with pool.connection() as connection:
            await connection.execute(
                "WITH mark_row AS (INSERT INTO account_marks (decision_id) VALUES (gen_random_uuid()))"
                " INSERT INTO decision_counts VALUES ('2026-11-20', 'paper-1', 'rules', 'trade', 'approved', '', 1)"
            )

    assert await owner.fetchval("SELECT count(*) FROM decision_counts") == 0


class TestAReservationWithoutItsDecision:
    """No foreign key refuses it: nothing makes it."""

    def test_is_in_no_statement(self) -> None:
        for marks, reserves, foretells, blocks, guarded in product([False, True], repeat=5):
            for calls in range(3):
                shape = _Shape(
                    marks=marks, reserves=reserves, foretells=foretells, blocks=blocks, calls=calls, guarded=guarded
                )
                statement = _record_statement(shape)
                sources = [
                    re.findall(
                        rf"INSERT INTO {table} \(decision_id, .*?\) SELECT \$1, [^)]*?( FROM held)?\)", statement
                    )
                    for table in ("llm_decisions", "reservations")
                ]

                # Of the same id, and on the same condition.
                assert [len(source) for source in sources] == [1, int(reserves)]
                assert not reserves or sources[0] == sources[1] == ([" FROM held"] if guarded else [""])

    def test_is_written_by_no_other_code(self) -> None:
        package = Path(app.__file__).parent
        writers = {
            path.name
            for path in package.rglob("*.py")
            if re.search(
                r"INTO reservations|COPY reservations|insert\('reservations'|reservations SET decision_id",
                path.read_text(),
            )
        }

        assert writers == {"operations.py"}

    async def test_is_not_left_by_a_decision_that_is_refused(self, store: Store, owner: Connection) -> None:
        with pytest.raises(StoreUnavailable, match="ticket_check"):
            await stored(store, decision(ticket=None), reserving=reservation(), foretelling=forecast())

        assert await owner.fetchval(STORED) == 0

    async def test_is_not_made_of_one_by_renaming_or_removing_its_decision(
        self, store: Store, pool: ConnectionPool, owner: Connection
    ) -> None:
        await stored(store, decision(), reserving=reservation())
        for statement in (
            "UPDATE reservations SET decision_id = gen_random_uuid()",
            "UPDATE llm_decisions SET decision_id = gen_random_uuid()",
            "DELETE FROM llm_decisions",
        ):
            with pytest.raises(StoreUnavailable, match="permission denied"):
                async with pool.connection() as connection:
                    await connection.execute(statement)
            if "reservations" not in statement:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                    await owner.execute(statement)

        assert await owner.fetchval(STORED) == 1
