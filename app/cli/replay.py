"""`tradeverdict replay`: judge stored decisions again, and say where an answer would be another one."""

import argparse
import asyncio
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Final

import orjson
from rich.markup import escape

from app.api.stored import read_stored_request
from app.buckets import BucketFileError, load_buckets
from app.cli.arguments import Commands
from app.cli.console import console, write_json
from app.cli.database import with_pool
from app.cli.errors import CommandError, ExitCode
from app.db.engine import ConnectionPool
from app.replay import Replay, replay_stored
from app.settings import SettingsError, load_settings

SHOWN: Final = 20
"""Differences of one decision that are printed; there may be hundreds of one cause."""
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d))?")


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "replay", help="judge stored decisions again; exit code 1 when an answer would be another one"
    )
    parser.add_argument(
        "--since", type=_time, metavar="TIME", help="decided at or after: 2026-11-20 (UTC) or 2026-11-20T15:30:00Z"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="at most so many, the newest (all)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Replay, and print what came of it.

    Raises:
        SettingsError: the bucket file cannot be used.
        CommandError: an answer would be another one, or a decision cannot be judged again.
    """
    try:
        buckets = load_buckets(load_settings().buckets_file)
    except BucketFileError as error:
        raise SettingsError(f"BUCKETS_FILE: {error}") from error

    async def replay(pool: ConnectionPool) -> Tally:
        tally = Tally()
        replays = replay_stored(
            pool, read_request=read_stored_request, buckets=buckets, since=options.since, limit=options.limit
        )
        async for replayed in replays:
            tally.add(replayed)
            if not (options.json or replayed.identical):
                _print(replayed)
            await asyncio.sleep(0)
        return tally

    tally = with_pool(replay)
    if options.json:
        write_json(orjson.dumps(tally.document()))
    else:
        console.print(tally.line())
    if tally.failed:
        raise CommandError(f"{len(tally.failed)} of {tally.total} answers did not come out again", ExitCode.DIFFERENT)


class Tally:
    """Count replays, and keep those that failed."""

    def __init__(self) -> None:
        self.failed: list[Replay] = []
        self._counts: Counter[str] = Counter()

    def add(self, replayed: Replay) -> None:
        """Count one."""
        refused = replayed.refusal is not None
        self._counts["refused" if refused else "identical" if replayed.identical else "different"] += 1
        self._counts["assumed"] += bool(replayed.assumed)
        if not replayed.identical:
            self.failed.append(replayed)

    @property
    def total(self) -> int:
        """Give how many were replayed or refused."""
        return self._counts["identical"] + len(self.failed)

    def line(self) -> str:
        """Say it in one line."""
        counts = self._counts
        decisions = "decision" if self.total == 1 else "decisions"
        said = f"{self.total} {decisions} replayed: {counts['identical']} identical to the byte"
        for name, words in (
            ("different", "different"),
            ("refused", "not judged again"),
            ("assumed", "from before buckets and decider were kept, judged with those of today"),
        ):
            said += f", {counts[name]} {words}" if counts[name] or name == "different" else ""
        return said

    def document(self) -> dict[str, object]:
        """Write it for programs."""
        return {
            "decisions": self.total,
            **{name: self._counts[name] for name in ("identical", "different", "refused", "assumed")},
            "failed": [
                {
                    "decision_id": str(replayed.decision_id),
                    "decided_at": replayed.decided_at,
                    "refusal": replayed.refusal,
                    "differences": [
                        {"field": field, "stored": stored, "replayed": now}
                        for field, stored, now in replayed.differences[:SHOWN]
                    ],
                }
                for replayed in self.failed
            ],
        }


def _print(replayed: Replay) -> None:
    console.print(f"{replayed.decision_id} of {replayed.decided_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC:")
    if replayed.refusal is not None:
        console.print(f"  not judged again: {escape(replayed.refusal)}")
    for field, stored, now in replayed.differences[:SHOWN]:
        console.print(f"  {escape(field)}: stored {escape(_short(stored))}, replayed {escape(_short(now))}")
    if len(replayed.differences) > SHOWN:
        console.print(f"  and {len(replayed.differences) - SHOWN} more")


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 120 else text[:117] + "..."


def _count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,8}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a count: write a whole number from 1")
    return int(text)


def _time(text: str) -> datetime:
    try:
        if _TIME.fullmatch(text) is None:
            raise ValueError(text)
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 2026-11-20 or 2026-11-20T15:30:00Z") from error
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
