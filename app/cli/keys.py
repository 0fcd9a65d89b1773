"""`tradeverdict keys`: make, list and revoke the keys that callers send."""

import argparse
from datetime import UTC, datetime

from rich.table import Table

from app.cli.arguments import Commands, duration, one_line
from app.cli.console import console
from app.cli.database import with_pool
from app.cli.errors import CommandError, ExitCode
from app.db.api_keys import EVERY_ACCOUNT, ApiKey, create_key, list_keys, revoke_key
from app.db.vocabulary import Scope


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("keys", help="make, list and revoke API keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--name", type=one_line, default="unnamed", help="what people call it")
    create.add_argument("--scope", action="append", required=True, choices=[scope.value for scope in Scope])
    accounts = create.add_mutually_exclusive_group(required=True)
    accounts.add_argument(
        "--account", type=one_line, action="append", help="an account it may act for; may be repeated"
    )
    accounts.add_argument("--all-accounts", action="store_true", help="every account")
    create.add_argument(
        "--expires", type=duration, metavar="TIME", help="90d, 8h, 15m; without it the key does not expire"
    )
    create.set_defaults(run=run_create)
    actions.add_parser("list", help="list all keys").set_defaults(run=run_list)
    revoke = actions.add_parser("revoke", help="end a key for good")
    revoke.add_argument("public_id", help="the middle part of tv_<public>_<secret>")
    revoke.set_defaults(run=run_revoke)


def run_create(options: argparse.Namespace) -> None:
    """Make a key; its token goes to standard output alone, everything else around it to people."""
    lasting = options.expires
    issued = with_pool(
        lambda pool: create_key(
            pool,
            name=options.name,
            scopes=[Scope(scope) for scope in options.scope],
            accounts=[EVERY_ACCOUNT] if options.all_accounts else options.account,
            expires_at=None if lasting is None else datetime.now(UTC) + lasting,
        )
    )
    console.print(issued.token, soft_wrap=True)


def run_list(options: argparse.Namespace) -> None:  # noqa: ARG001
    """List all keys, without their secrets."""
    table = Table("Public id", "Name", "Scopes", "Accounts", "Made", "Expires", "Revoked", "Last used", "Usable")
    for key in with_pool(list_keys):
        table.add_row(*_row(key))
    console.print(table)


def run_revoke(options: argparse.Namespace) -> None:
    """Revoke a key.

    Raises:
        CommandError: there is no such key, or it was revoked before.
    """
    if not with_pool(lambda pool: revoke_key(pool, options.public_id)):
        raise CommandError(f"there is no unrevoked key {options.public_id}", ExitCode.BAD_INPUT)
    console.print(f"key {options.public_id} is revoked")


def _row(key: ApiKey) -> tuple[str, ...]:
    times = (key.created_at, key.expires_at, key.revoked_at, key.last_used_at)
    return (
        key.public_id,
        key.name,
        " ".join(sorted(key.scopes)),
        " ".join(sorted(key.accounts)),
        *("" if time is None else f"{time:%Y-%m-%d %H:%M}" for time in times),
        "yes" if key.usable else "no",
    )
