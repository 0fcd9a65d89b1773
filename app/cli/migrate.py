"""`tradeverdict migrate`: bring the database up to date."""

import argparse

from app.cli.arguments import Commands
from app.cli.console import console
from app.cli.database import migrate_database, provided_database
from app.db.migrate import head_revision
from app.main import database_url
from app.settings import load_settings, redact_url


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("migrate", help="bring the database (DATABASE_URL, or the embedded one) up to date")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:  # noqa: ARG001
    """Migrate; an embedded database was migrated when it was started."""
    configured = load_settings()
    with provided_database(configured) as settings:
        url = database_url(settings)
        if configured.database_url is not None:
            migrate_database(url)
        console.print(f"{redact_url(url)} is at revision {head_revision()}")
