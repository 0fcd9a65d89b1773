"""`tradeverdict demo`: two decisions on real market data, through the service itself, without any key."""

import argparse
import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import orjson
import uuid_utils

from app.api.runtime import Runtime
from app.api.schemas import DecideRequest
from app.cli.arguments import Commands
from app.cli.console import console, write_json
from app.cli.database import provided_database
from app.cli.errors import CommandError, ExitCode
from app.cli.local import decide_locally
from app.cli.serve import describe_decider
from app.cli.tables import account_line, decision_view, market_table
from app.db.queries import get_decision
from app.domain.market import MarketView, resolve_market
from app.main import Composition, compose
from app.sample import loss_scene, trade_scene
from app.settings import LogLevel, Settings, load_settings
from app.telemetry import configure_logging

HISTORIC: Final = {"max_snapshot_age_s": 0}
"""The bars are from 2013, so the check of a snapshot's age is off."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Hold one scene: what was asked, what of it counted, what was answered, and what the database has of it."""

    title: str
    request: dict[str, Any]
    market: MarketView
    answer: dict[str, Any]
    stored_verdict: str


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="two decisions on real market data, without any key")
    parser.add_argument("--json", action="store_true", help="print requests and answers as one JSON document")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Decide twice and show everything: first a trade, then one that a gate blocks."""
    settings = load_settings()
    settings = replace(settings, limits={**settings.limits, **HISTORIC})
    configure_logging(
        level=max(settings.log_level, LogLevel.WARNING, key=list(LogLevel).index),
        log_format=settings.log_format,
        secrets=settings.secrets,
    )
    if not options.json:
        _introduce(settings)
    with provided_database(settings) as provided:
        scenes = asyncio.run(_play(provided))
    if options.json:
        decisions = [{"request": scene.request, "answer": scene.answer, "stored": True} for scene in scenes]
        write_json(orjson.dumps({"decider": describe_decider(settings), "decisions": decisions}))
        return
    for number, scene in enumerate(scenes, start=1):
        console.rule(f"[bold]{number}. {scene.title}")
        console.print(account_line(scene.request["account"]))
        if number == 1:
            console.print(market_table(scene.market))
        console.print(decision_view(scene.answer))
        console.print(
            f"Stored decision {scene.answer['decision_id']}, read back from PostgreSQL: {scene.stored_verdict}\n"
        )


def _introduce(settings: Settings) -> None:
    console.print(
        f"[bold]TradeVerdict[/bold]: {describe_decider(settings)}"
        + ("" if settings.uses_anthropic else " (no ANTHROPIC_API_KEY: fixed rules propose, not a model)")
    )
    console.print(
        "Daily bars of real companies up to the day before; as_of is fixed in the past, so MAX_SNAPSHOT_AGE_S=0 here.\n"
    )


async def _play(settings: Settings) -> list[Shown]:
    # Names of their own each time: an earlier demo's open ticket would block as DUPLICATE_INTENT.
    run_id = str(uuid_utils.uuid7())[-12:]
    composition = compose(settings)
    scenes = {
        "A morning with something to do": trade_scene(account_id=f"demo-{run_id}"),
        "The same morning after a loss": loss_scene(account_id=f"demo-{run_id}-loss"),
    }
    async with composition.open() as runtime:
        return [await _show(composition, runtime, title, request) for title, request in scenes.items()]


async def _show(composition: Composition, runtime: Runtime, title: str, request: dict[str, Any]) -> Shown:
    body = orjson.dumps(request)
    answer = orjson.loads(await decide_locally(runtime, body))
    stored = await get_decision(runtime.pool, UUID(answer["decision_id"]))
    if stored is None or orjson.loads(stored.response) != answer:
        raise CommandError("the answer is not what the database holds", ExitCode.BROKEN)
    _, snapshot, _ = DecideRequest.model_validate_json(body).to_domain()
    return Shown(
        title=title,
        request=request,
        market=resolve_market(snapshot, buckets=composition.buckets),
        answer=answer,
        stored_verdict=stored.verdict.value,
    )
