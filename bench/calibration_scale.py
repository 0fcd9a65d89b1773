"""Measure GET /calibration as the store grows, beside what the prototype did: load every row and compute.

    .venv/bin/python bench/calibration_scale.py [10000 1000000 10000000]

Each size gets a database of its own on one embedded PostgreSQL and a service of its own; the services are asked turn
and turn about, a few times each, so that whatever else the machine does falls on all of them alike. What is loaded is
the row that each resolved decision has in `forecasts`, and the counts that the service would have kept of them,
computed from these rows. Prints p50 and p95 of the default report, the ratio of the largest store's to the smallest's,
and the prototype's way beside it.
"""

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median, quantiles

import aiohttp
import asyncpg

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from tests.faults.processes import service

DAYS = 90
WARMING, ROUNDS, ASKED = 10, 80, 5
CLASSES = ("win", "loss", "scratch", "timeout")

FORECASTS = f"""
INSERT INTO forecasts (
    decision_id, account_id, mode, as_of, decider, prompt_hash, setup, symbol, direction, verdict, blocked_by, p_win,
    p_win_percent, conviction, ev_r, entry_type, entry, stop, target, cost_usd, time_stop_at,
    paper_state, paper_outcome, paper_r, executed_outcome, executed_r
)
SELECT
    uuidv7(), 'account-' || n % 4, 'paper', at, 'anthropic/claude-haiku-5-5', repeat('ab', 32),
    (ARRAY['momentum', 'breakout', 'mean_reversion', 'other'])[1 + n % 4], 'SYM' || n % 50,
    (ARRAY['long', 'short'])[1 + n % 2], 'approved', '{{}}', percent / 100.0, percent,
    least(100, greatest(0, percent + (n % 30)::int)), 0.2, 'limit', 100, 98, 104, 0.02, at + interval '120 hours',
    'resolved', outcome, r, CASE WHEN n % 3 = 0 THEN outcome END, CASE WHEN n % 3 = 0 THEN r END
FROM (
    SELECT n, at, percent, outcome,
        CASE outcome WHEN 'win' THEN 2.0 WHEN 'loss' THEN -1.0 ELSE 0.1 END AS r
    FROM (
        SELECT n, at, percent,
            CASE WHEN luck < 0.5 + 0.8 * (percent / 100.0 - 0.5) THEN 'win'
                WHEN luck > 0.97 THEN 'timeout' WHEN luck > 0.95 THEN 'scratch' ELSE 'loss' END AS outcome
        FROM (
            SELECT n, random() AS luck,
                least(80, greatest(30, round(54 + 6 * random_normal())))::smallint AS percent,
                now() - (n % {DAYS}) * interval '1 day' AS at
            FROM generate_series(1, $1::bigint) AS n
        ) AS drawn
    ) AS scored
) AS labelled
"""
LABEL = """
SELECT day, account_id, decider, prompt_hash, setup, direction, p_win_percent, conviction, ev_r,
    'executed' AS source, executed_outcome AS outcome, executed_r AS r FROM forecasts WHERE executed_r IS NOT NULL
UNION ALL
SELECT day, account_id, decider, prompt_hash, setup, direction, p_win_percent, conviction, ev_r,
    CASE WHEN executed_r IS NULL THEN 'paper' ELSE 'paper_of_executed' END, paper_outcome, paper_r FROM forecasts
"""
PER_CLASS = ", ".join(f"count(*) FILTER (WHERE outcome = '{name}')" for name in CLASSES)
COUNTS = f"""
INSERT INTO calibration_counts
SELECT day, account_id, decider, prompt_hash, setup, direction, source, forecast, percent, {PER_CLASS}
FROM ({LABEL}) AS label
CROSS JOIN LATERAL (VALUES ('p_win', p_win_percent), ('conviction', conviction)) AS stated (forecast, percent)
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""
DAILY = """
INSERT INTO calibration_daily
SELECT day, source, forecast, decider, percent, sum(win), sum(loss), sum(scratch), sum(timeout)
FROM calibration_counts GROUP BY 1, 2, 3, 4, 5
"""
PERCENT_SUMS = f"""
INSERT INTO calibration_sums
SELECT day, source, forecast, decider,
    CASE WHEN percent <= 30 THEN 0 WHEN percent <= 50 THEN 31 WHEN percent <= 70 THEN 51 ELSE 71 END,
    {", ".join(f"sum({name}), sum({name} * percent), sum({name} * percent * percent)" for name in CLASSES)}
FROM calibration_daily GROUP BY 1, 2, 3, 4, 5
"""
SUMS = f"""
INSERT INTO outcome_sums
SELECT day, account_id, decider, setup, direction, source, {PER_CLASS},
    {", ".join(f"coalesce(sum(r) FILTER (WHERE outcome = '{name}'), 0)" for name in CLASSES)},
    sum(r * r), count(*), sum(ev_r), sum(r)
FROM ({LABEL}) AS label GROUP BY 1, 2, 3, 4, 5, 6
"""
DECISIONS = """
INSERT INTO decision_counts
SELECT day, account_id, decider, 'trade', verdict, '', count(*) FROM forecasts GROUP BY 1, 2, 3, 5
"""
PROTOTYPE = """
SELECT p_win, coalesce(executed_outcome, paper_outcome) = 'win' AS won FROM forecasts
WHERE day > (now() AT TIME ZONE 'UTC')::date - 30
"""


async def load(url: str, decisions: int) -> None:
    """Fill a migrated database with resolved decisions and what the service counts of them."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET session_replication_role = 'replica'")  # the decisions' bodies are left out
        await connection.execute(FORECASTS, decisions, timeout=3600)
        for statement in (COUNTS, DAILY, PERCENT_SUMS, SUMS, DECISIONS):
            await connection.execute(statement, timeout=3600)
        await connection.execute("VACUUM ANALYZE", timeout=3600)
    finally:
        await connection.close()


async def ask(session: aiohttp.ClientSession, base_url: str) -> float:
    """Ask for the default report; give milliseconds."""
    began = time.perf_counter()
    async with session.get(f"{base_url}/calibration") as answer:
        report = await answer.json()
    assert answer.status == 200, report
    return (time.perf_counter() - began) * 1000


async def as_the_prototype(url: str) -> tuple[float, int]:
    """Load all rows of the window and compute the Brier score in Python; give milliseconds and the rows."""
    connection = await asyncpg.connect(url)
    try:
        began = time.perf_counter()
        rows = await connection.fetch(PROTOTYPE, timeout=3600)
        brier = sum((row["p_win"] - row["won"]) ** 2 for row in rows) / len(rows)
        assert 0 < brier < 1
        return (time.perf_counter() - began) * 1000, len(rows)
    finally:
        await connection.close()


async def measure(sizes: list[int], server: EmbeddedPostgres, folder: Path) -> None:
    """Load, ask and print."""
    urls: list[str] = []
    for size in sizes:
        began = time.perf_counter()
        urls.append(server.create_database(f"of_{size}"))
        await asyncio.to_thread(upgrade, urls[-1])
        await load(urls[-1], size)
        print(f"{size:>10,} resolved decisions loaded in {time.perf_counter() - began:.0f} s", flush=True)
    times: dict[int, list[float]] = {size: [] for size in sizes}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        running = [await stack.enter_async_context(service(url, folder)) for url in urls]
        for turn in range(-WARMING, ROUNDS):
            for size, asked in zip(sizes, running, strict=True):
                for _ in range(ASKED):
                    took_ms = await ask(session, asked.base_url)
                    if turn >= 0:
                        times[size].append(took_ms)
    print(f"\nGET /calibration, the default report of 30 days; {ROUNDS} rounds of {ASKED}, turn and turn about")
    p95 = {size: quantiles(taken, n=20)[-1] for size, taken in times.items()}
    for size, taken in times.items():
        print(f"{size:>10,}  p50 {median(taken):6.1f} ms  p95 {p95[size]:6.1f} ms")
    print(f"p95 at {sizes[-1]:,} / p95 at {sizes[0]:,}: {p95[sizes[-1]] / p95[sizes[0]]:.2f}")
    print("\nThe prototype's way: load every row of the window, compute the Brier score alone")
    for size, url in zip(sizes, urls, strict=True):
        took_ms, rows = await as_the_prototype(url)
        print(f"{size:>10,}  {rows:>9,} rows  {took_ms:9.0f} ms  {took_ms / median(times[size]):7.1f} x the service")


def main() -> None:
    """Run on a PostgreSQL of its own, which is removed at the end."""
    sizes = [int(size) for size in sys.argv[1:]] or [10_000, 1_000_000, 10_000_000]
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder) / "pg", durable=False) as server:
        asyncio.run(measure(sizes, server, Path(folder)))


if __name__ == "__main__":
    main()
