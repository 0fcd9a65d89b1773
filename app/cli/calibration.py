"""`tradeverdict calibration`: how honest the decider has been, for people, programs or a page."""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from app.api.auth import Identity
from app.api.calibration import CalibrationFilter, calibration_document
from app.cli.arguments import Commands, one_line
from app.cli.calibration_page import calibration_page
from app.cli.calibration_view import calibration_view
from app.cli.console import console, write_json
from app.cli.database import with_pool
from app.cli.errors import CommandError, ExitCode
from app.db.statistics import GroupBy, Source
from app.domain.calibration import ScratchRule
from app.domain.outcome import ForecastKind
from app.settings import load_settings

STANDARD_OUTPUT: Final = "-"
OPERATOR: Final = Identity(key=None)
"""Whoever has the database's address may see every account."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("calibration", help="show how honest the decider's probabilities have been")
    parser.add_argument("--days", type=int, help="the last UTC days, today included (30 unless told otherwise)")
    parser.add_argument("--from", dest="from_", metavar="DATE", help="first UTC day; with --to, instead of --days")
    parser.add_argument("--to", metavar="DATE", help="last UTC day, included")
    parser.add_argument("--account", type=one_line, help="of one account (every account)")
    for option, choices, meaning in (
        ("--source", Source, "the labels that count (all: executed where there is one, else paper)"),
        ("--forecast", ForecastKind, "what is scored (p_win)"),
        ("--scratch", ScratchRule, "what a scratch counts as (0)"),
        ("--group-by", GroupBy, "tell of each group, too"),
    ):
        parser.add_argument(option, choices=[choice.value for choice in choices], help=meaning)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print what GET /calibration answers")
    form.add_argument("--html", metavar="FILE", help="write a page that needs no network; - writes standard output")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the record and show it.

    Raises:
        CommandError: the options make no sense together, or the page cannot be written.
    """
    wanted = _wanted(options)
    settings = load_settings()
    document = with_pool(
        lambda pool: calibration_document(
            pool,
            wanted.scope(OPERATOR, source=wanted.source),
            forecast=wanted.forecast,
            scratch=wanted.scratch,
            group_by=wanted.group_by,
            min_decisions=settings.calibration_min_decisions,
        )
    )
    if options.json:
        write_json(document)
    elif options.html is None:
        console.print(calibration_view(orjson.loads(document)))
    else:
        _write_page(options.html, calibration_page(orjson.loads(document)))


def _wanted(options: argparse.Namespace) -> CalibrationFilter:
    given: dict[str, Any] = {
        "days": options.days,
        "from": options.from_,
        "to": options.to,
        "account": options.account,
        "source": options.source,
        "forecast": options.forecast,
        "scratch": options.scratch,
        "group_by": options.group_by,
    }
    try:
        return CalibrationFilter.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"--{part}: " for part in fault["loc"])
        message = str(fault["msg"]).removeprefix("Value error, ")
        raise CommandError(f"{where}{message}", ExitCode.BAD_INPUT) from error


def _write_page(file: str, page: str) -> None:
    if file == STANDARD_OUTPUT:
        sys.stdout.write(page)
        return
    try:
        Path(file).write_text(page, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", ExitCode.BAD_INPUT) from error
    console.print(f"wrote {file}", soft_wrap=True)
