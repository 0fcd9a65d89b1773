"""The migration that added sums of percents made them of the counts that were there."""

import asyncio
from datetime import date, timedelta
from random import Random

import asyncpg
from alembic.config import Config

from alembic import command
from app.db.embedded import EmbeddedPostgres
from app.db.migrate import migrations_ini
from tests.ledger import CLASSES, Foretold, keep

BEFORE = "0009"
BORDERS = (0, 30, 31, 50, 51, 70, 71, 100)


def a_record() -> list[Foretold]:
    """Forecasts of every bucket, among them those on either side of each border."""
    draw = Random(10)
    return [
        Foretold(
            day=date(2026, 3, 6) + timedelta(draw.randint(0, 2)),
            decider=draw.choice(["rules", "anthropic/claude-haiku-5-5"]),
            percent=draw.randint(1, 99),
            conviction=draw.choice(BORDERS),
            calibrated=draw.choice([None, 50]),
            paper=(draw.choice(CLASSES), "0.5"),
            executed=draw.choice([None, (draw.choice(CLASSES), "1")]),
        )
        for _ in range(300)
    ]


async def test_counts_from_before_are_in_the_sums(postgres: EmbeddedPostgres) -> None:
    url = postgres.create_database("counted_before")
    try:
        config = Config(migrations_ini())
        config.attributes["url"] = url
        await asyncio.to_thread(command.upgrade, config, BEFORE)
        connection = await asyncpg.connect(url)
        try:
            await keep(connection, a_record(), sums_of_percents=False)
            await asyncio.to_thread(command.upgrade, config, "head")
            converted = await connection.fetch("SELECT * FROM calibration_sums ORDER BY 1, 2, 3, 4, 5")

            for table in ("calibration_sums", "calibration_daily", "calibration_counts", "outcome_sums"):
                await connection.execute(f"DELETE FROM {table}")
            await keep(connection, a_record())

            assert len(converted) > 50
            assert converted == await connection.fetch("SELECT * FROM calibration_sums ORDER BY 1, 2, 3, 4, 5")
        finally:
            await connection.close()
    finally:
        postgres.drop_database("counted_before")
