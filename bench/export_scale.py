"""Measure GET /decisions/export as the store grows: time, size, and how much more memory the service needs for it.

    .venv/bin/python bench/export_scale.py [1000 100000]

Each size gets a database of its own on one embedded PostgreSQL and a `tradeverdict serve` process of its own. The rows
are copies of a decision made over HTTP. While a whole table is read, decisions are asked for: their p50 stands beside
that of an idle service.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import asyncpg
import httpx2
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.embedded import EmbeddedPostgres
from app.db.migrate import upgrade
from tests.api.test_export import COPIES
from tests.faults.processes import request, service


async def measure(size: int, server: EmbeddedPostgres, folder: Path) -> None:
    """Fill a database with so many rows, export it in both forms, and print what that took."""
    url = server.create_database(f"export_{size}", template="migrated")
    async with service(url, folder) as running, httpx2.AsyncClient(timeout=600, trust_env=False) as client:
        await client.post(f"{running.base_url}/decide", json=request("bot"))
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO accounts (account_id) VALUES ('bulk')")
        await connection.execute(COPIES, size)
        await connection.execute("VACUUM ANALYZE llm_decisions")
        await connection.close()
        process = psutil.Process(running.process.pid)
        idle_ms = [await decide_ms(client, running.base_url) for _ in range(20)]
        for form in ("csv", "parquet"):
            before = process.memory_info().rss
            highest, chunks, began = before, 0, time.monotonic()
            first_s = 0.0
            loaded_ms: list[float] = []
            asking = asyncio.create_task(ask(client, running.base_url, loaded_ms))
            address = f"{running.base_url}/decisions/export?format={form}&account=bulk"
            async with client.stream("GET", address) as answer:
                async for chunk in answer.aiter_raw():
                    first_s = first_s or time.monotonic() - began
                    chunks += len(chunk)
                    highest = max(highest, process.memory_info().rss)
            took_s = time.monotonic() - began
            asking.cancel()
            print(
                f"{size:>8,} rows as {form:7}: {took_s:6.2f} s, first byte after {first_s:.2f} s, "
                f"{chunks / 1e6:.2f} MB; "
                f"memory of the service +{(highest - before) / 1e6:.0f} MB on {before / 1e6:.0f} MB; "
                f"decisions meanwhile p50 {median(loaded_ms or [0]):.1f} ms (idle {median(idle_ms):.1f} ms)",
                flush=True,
            )


async def decide_ms(client: httpx2.AsyncClient, base_url: str) -> float:
    """Ask for one decision, and return the milliseconds it took."""
    began = time.monotonic()
    answer = await client.post(f"{base_url}/decide", json=request("bot"))
    assert answer.status_code == 200, answer.text
    return (time.monotonic() - began) * 1000


async def ask(client: httpx2.AsyncClient, base_url: str, took_ms: list[float]) -> None:
    """Go on asking for decisions."""
    while True:
        took_ms.append(await decide_ms(client, base_url))
        await asyncio.sleep(0.05)


async def main(sizes: list[int]) -> None:
    """Measure each size on one server."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder), durable=False) as server:
        await asyncio.to_thread(upgrade, server.create_database("migrated"))
        for size in sizes:
            await measure(size, server, Path(folder))


if __name__ == "__main__":
    asyncio.run(main([int(size) for size in sys.argv[1:]] or [1_000, 100_000]))
