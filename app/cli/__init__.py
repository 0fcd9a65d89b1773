"""The `tradeverdict` command: parse, dispatch, and turn every anticipated failure into one line and an exit code."""

import argparse
import sys
from collections.abc import Sequence

from app import __version__
from app.cli import calibration, decide, demo, halt, keys, live, migrate, replay, serve, settings, targets
from app.cli.errors import CommandError, ExitCode
from app.db.embedded import EmbeddedPostgresError
from app.db.engine import StoreUnavailable
from app.settings import SettingsError

EPILOG = """\
exit codes: 0 done (a blocked or absent trade is an answer, not a failure); 1 a replay came out otherwise;
2 usage, settings or input are wrong; 3 the database or the service cannot be reached; 4 the service refused;
5 something is broken on our side"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="tradeverdict",
        description="A gate between a trading model and the market.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tradeverdict {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (demo, serve, migrate, decide, calibration, replay, settings, targets, keys, halt, live):
        command.add_to(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except SettingsError as error:
        return _fail(str(error), ExitCode.BAD_INPUT)
    except CommandError as error:
        return _fail(str(error), error.exit_code)
    except (StoreUnavailable, EmbeddedPostgresError) as error:
        return _fail(str(error), ExitCode.UNAVAILABLE)
    except KeyboardInterrupt:
        return _fail("interrupted", ExitCode.INTERRUPTED)
    return ExitCode.DONE


def _fail(message: str, exit_code: ExitCode) -> int:
    print(f"tradeverdict: {message}", file=sys.stderr)  # noqa: T201
    return exit_code
