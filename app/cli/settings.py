"""`tradeverdict settings`: show the settings in force, or write their reference."""

import argparse

import orjson
from rich.table import Table

from app.cli.arguments import Commands
from app.cli.console import console, write_json
from app.cli.reference import env_example, settings_markdown
from app.settings import SETTINGS, Secret, Settings, load_settings, redact_url, setting_text

FORMATS = ("table", "json", "env", "markdown")


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("settings", help="show the settings in force, without secrets")
    parser.add_argument(
        "--format", choices=FORMATS, default="table", help="env and markdown write the reference of all settings"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the settings, or their reference, which needs no environment."""
    if options.format == "env":
        console.out(env_example(), end="", highlight=False)
    elif options.format == "markdown":
        console.out(settings_markdown(), end="", highlight=False)
    elif options.format == "json":
        write_json(orjson.dumps(_in_force(load_settings())))
    else:
        console.print(_table(load_settings()))


def _in_force(settings: Settings) -> dict[str, str | None]:
    policy = settings.policy()
    values = {name: getattr(policy if spec.of_policy else settings, spec.name) for name, spec in SETTINGS.items()}
    return {name: _shown(value) for name, value in values.items()}


def _shown(value: object) -> str | None:
    """Write a value for people: a URL without what it authenticates, a secret masked."""
    if value is None:
        return None
    if isinstance(value, Secret) and "://" in value.reveal():
        return redact_url(value.reveal())
    if isinstance(value, str) and "://" in value:
        return redact_url(value)
    return setting_text(value)


def _table(settings: Settings) -> Table:
    table = Table("Setting", "Value", "Unit", "Meaning", title="Settings in force")
    for name, value in _in_force(settings).items():
        spec = SETTINGS[name]
        changed = value != (spec.default_text or None)
        table.add_row(
            name, "unset" if value is None else value, spec.unit, spec.meaning, style="bold" if changed else ""
        )
    return table
