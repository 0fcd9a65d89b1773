"""Measure whether the service's memory grows with the decisions it has made.

    .venv/bin/python bench/memory.py [--first 5000] [--last 50000]

One worker of this service, with keys, gates, audit and reservations on, is asked by 16 clients on 16 accounts over a
model that answers at once (see bench/overhead.py). Its resident memory is read after the first decisions and, as it
goes on, up to the last; at the end stands the ratio of the last to the first.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.db.embedded import EmbeddedPostgres
from bench.overhead import CLIENTS, load, this_service, upstream

TURN_S = 5.0
MEBIBYTE = 2**20


def resident_mib(pid: int) -> float:
    """Read the resident memory of a process in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / MEBIBYTE


async def measure(*, first: int, last: int, server: EmbeddedPostgres, folder: Path, llm_url: str) -> None:
    """Ask until the last decision, and print the memory on the way."""
    readings: list[tuple[int, float]] = []
    async with this_service(folder, llm_url=llm_url, database_url=server.create_database("memory")) as peer:
        made, wanted = 0, first
        while made < last:
            measured = await load(peer, clients=CLIENTS, seconds=TURN_S)
            made += round(measured.rate * TURN_S)
            if made >= wanted:
                readings.append((made, resident_mib(peer.pid)))
                print(f"after {made:6} decisions: {readings[-1][1]:6.1f} MiB", flush=True)
                wanted = min(wanted + first, last)
    (early, before), (late, after) = readings[0], readings[-1]
    print(f"memory after {late} decisions / after {early}: {after / before:.3f} (to be 1.20 or less)")


def main() -> None:
    """Run everything on a PostgreSQL of its own, which is removed at the end."""
    parser = argparse.ArgumentParser(prog="bench/memory.py", description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=5_000)
    parser.add_argument("--last", type=int, default=50_000)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgres(Path(folder) / "pg") as server,
        upstream() as llm_url,
    ):
        asyncio.run(
            measure(first=options.first, last=options.last, server=server, folder=Path(folder), llm_url=llm_url)
        )


if __name__ == "__main__":
    main()
