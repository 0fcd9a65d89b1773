"""`tradeverdict halt`, `resume` and `halts`: stop trading, let it go on, and see what stands."""

import argparse

from rich.table import Table

from app.cli.arguments import Commands, one_line
from app.cli.console import console
from app.cli.database import with_pool
from app.cli.errors import CommandError, ExitCode
from app.db.halts import StoredHalt, lift_halt, list_halts, set_halt
from app.domain.account import HaltState


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    stop = commands.add_parser("halt", help="stop trading of an account, or of all")
    stop.add_argument(
        "--state",
        choices=[state.value for state in HaltState],
        default=HaltState.HALTED.value,
        help="reduce_only still lets positions be closed",
    )
    _add_who(stop)
    stop.set_defaults(run=run_halt)
    resume = commands.add_parser("resume", help="lift the halts of an account, or the global ones")
    _add_who(resume)
    resume.set_defaults(run=run_resume)
    commands.add_parser("halts", help="list the halts in force").set_defaults(run=run_list)


def _add_who(parser: argparse.ArgumentParser) -> None:
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--account", type=one_line)
    whose.add_argument("--global", action="store_true", dest="everyone", help="every account")
    parser.add_argument("--reason", type=one_line, required=True)
    parser.add_argument("--operator", type=one_line, required=True, help="the person who answers for it")


def run_halt(options: argparse.Namespace) -> None:
    """Halt; in force for every replica when this returns."""
    halt = with_pool(
        lambda pool: set_halt(
            pool,
            account_id=options.account,
            state=HaltState(options.state),
            reason=options.reason,
            operator=options.operator,
        )
    )
    console.print(f"{_whose(halt)} is {halt.state} since {halt.set_at:%Y-%m-%d %H:%M:%S} UTC")


def run_resume(options: argparse.Namespace) -> None:
    """Lift the halts.

    Raises:
        CommandError: there are none.
    """
    lifted = with_pool(
        lambda pool: lift_halt(pool, account_id=options.account, reason=options.reason, operator=options.operator)
    )
    if not lifted:
        raise CommandError("there is no such halt in force", ExitCode.BAD_INPUT)
    console.print(f"{_whose(lifted[0])} resumes: {len(lifted)} halt(s) lifted by {options.operator}")


def run_list(options: argparse.Namespace) -> None:  # noqa: ARG001
    """List the halts in force."""
    table = Table("Account", "State", "Since", "Reason", "Operator")
    for halt in with_pool(list_halts):
        table.add_row(_whose(halt), halt.state, f"{halt.set_at:%Y-%m-%d %H:%M:%S}", halt.reason, halt.operator)
    console.print(table)


def _whose(halt: StoredHalt) -> str:
    return "every account" if halt.account_id is None else f"account {halt.account_id}"
