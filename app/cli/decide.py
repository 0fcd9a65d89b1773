"""`tradeverdict decide FILE`: one decision on a snapshot file, here or at a running service."""

import argparse
import asyncio
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import orjson

from app.cli.arguments import Commands
from app.cli.console import console, write_json
from app.cli.database import provided_database
from app.cli.errors import CommandError, ExitCode
from app.cli.local import decide_locally
from app.cli.tables import decision_view
from app.main import compose
from app.settings import LogLevel, Secret, Settings, load_settings, redact_url
from app.telemetry import configure_logging

STANDARD_INPUT: Final = "-"
TIMEOUT_S: Final = 30.0


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("decide", help="decide on a snapshot file")
    parser.add_argument("file", help="the body of POST /decide; - reads standard input")
    parser.add_argument("--url", help="ask a running service (with TRADEVERDICT_API_KEY) instead of deciding here")
    parser.add_argument("--json", action="store_true", help="print the answer as it is")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Decide and print the verdict."""
    settings = load_settings()
    quiet = max(settings.log_level, LogLevel.WARNING, key=list(LogLevel).index)
    configure_logging(level=quiet, log_format=settings.log_format, secrets=settings.secrets)
    body = _read(options.file)
    if options.url is None:
        with provided_database(settings) as provided:
            answer = asyncio.run(_decide_here(provided, body))
    else:
        answer = _ask(options.url, body, key=settings.tradeverdict_api_key)
    if options.json:
        write_json(answer)
    else:
        console.print(decision_view(orjson.loads(answer)))


def _read(file: str) -> bytes:
    if file == STANDARD_INPUT:
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", ExitCode.BAD_INPUT) from error


async def _decide_here(settings: Settings, body: bytes) -> bytes:
    async with compose(settings).open() as runtime:
        return await decide_locally(runtime, body)


def _ask(url: str, body: bytes, *, key: Secret | None) -> bytes:
    """Post the body to a running service.

    Raises:
        CommandError: it cannot be reached, or it answered with an error.
    """
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    if not url.startswith(("http://", "https://")):
        raise CommandError(f"--url {url}: must start with http:// or https://", ExitCode.BAD_INPUT)
    request = urllib.request.Request(f"{url.rstrip('/')}/decide", data=body, headers=headers)  # noqa: S310 (checked)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 (checked)
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        raise _refusal(error.code, error.read()) from error
    except OSError as error:
        raise CommandError(f"{redact_url(url)} cannot be reached: {error}", ExitCode.UNAVAILABLE) from error


def _refusal(status: int, body: bytes) -> CommandError:
    try:
        problem = orjson.loads(body)
        said = f"{problem['code']}: {problem['detail']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        said = "an answer that is no problem document; is it TradeVerdict?"
    codes = {422: ExitCode.BAD_INPUT, 413: ExitCode.BAD_INPUT, 503: ExitCode.UNAVAILABLE, 500: ExitCode.BROKEN}
    return CommandError(f"HTTP {status}: {said}", codes.get(status, ExitCode.REFUSED))
