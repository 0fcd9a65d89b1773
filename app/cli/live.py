"""`tradeverdict live`: a person confirms, for a while, that an account may trade real money."""

import argparse
from datetime import datetime

from rich.table import Table

from app.cli.arguments import Commands, duration, one_line
from app.cli.console import console
from app.cli.database import with_pool
from app.cli.errors import CommandError, ExitCode
from app.db.live_confirmations import confirm_live, list_live_confirmations, revoke_live


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("live", help="confirm, revoke or list live trading of accounts")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    confirm = actions.add_parser("confirm", help="allow live entries for a while")
    confirm.add_argument("--for", type=duration, required=True, dest="lasting", help="8h, 15m, 1d")
    confirm.set_defaults(run=run_confirm)
    revoke = actions.add_parser("revoke", help="end what was confirmed")
    revoke.set_defaults(run=run_revoke)
    for action in (confirm, revoke):
        action.add_argument("--account", type=one_line, required=True)
        action.add_argument("--operator", type=one_line, required=True, help="the person who answers for it")
    actions.add_parser("list", help="list the latest confirmations").set_defaults(run=run_list)


def run_confirm(options: argparse.Namespace) -> None:
    """Confirm live trading once the account's name was typed.

    Raises:
        CommandError: something else was typed.
    """
    try:
        typed = input(f"Live entries of {options.account} will be allowed. Type the account's name to confirm: ")
    except EOFError:
        typed = ""
    if typed != options.account:
        raise CommandError("that is not the account's name; nothing was confirmed", ExitCode.BAD_INPUT)
    confirmed = with_pool(
        lambda pool: confirm_live(pool, account_id=options.account, operator=options.operator, lasting=options.lasting)
    )
    console.print(f"account {confirmed.account_id} may trade live until {confirmed.expires_at:%Y-%m-%d %H:%M:%S} UTC")


def run_revoke(options: argparse.Namespace) -> None:
    """Revoke what stands.

    Raises:
        CommandError: nothing stands.
    """
    revoked = with_pool(lambda pool: revoke_live(pool, account_id=options.account, operator=options.operator))
    if not revoked:
        raise CommandError(f"no confirmation of {options.account} stands", ExitCode.BAD_INPUT)
    console.print(f"account {options.account} may no longer trade live")


def run_list(options: argparse.Namespace) -> None:  # noqa: ARG001
    """List the latest confirmations, newest first, and what became of them."""
    table = Table("Account", "Operator", "Confirmed", "Expires", "Revoked", "Revoked by")
    for one in with_pool(list_live_confirmations):
        times = (one.confirmed_at, one.expires_at, one.revoked_at)
        table.add_row(one.account_id, one.operator, *map(_shown, times), one.revoked_by or "")
    console.print(table)


def _shown(time: datetime | None) -> str:
    return "" if time is None else f"{time:%Y-%m-%d %H:%M:%S}"
