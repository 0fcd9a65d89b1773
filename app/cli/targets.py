"""`tradeverdict targets check`: ask every target once for a decision on shipped data, and say what works."""

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import orjson
from rich.table import Table

from app.api.schemas import DecideRequest
from app.buckets import load_buckets
from app.cli.arguments import Commands
from app.cli.console import console, write_json
from app.cli.errors import CommandError, ExitCode
from app.domain.account import AccountState
from app.domain.market import resolve_market
from app.domain.verdict import entry_bounds
from app.llm.decider import DeciderCall, DeciderFailure, Reply
from app.llm.messages import MessagesDecider
from app.llm.prompt import build_prompt
from app.llm.targets import Target, load_targets
from app.sample import trade_scene
from app.settings import Settings, load_settings

CHECK_S: Final = 60.0
"""Time for one call: the first use of a schema compiles it."""
CALLS: Final = 2
"""Calls of one target: the second shows what the first one warmed."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("targets", help="the endpoints that are asked to propose")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="ask each twice for a decision, which costs money, and say what works")
    check.add_argument("--json", action="store_true", help="print one JSON document")
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Ask every target and print how it did.

    Raises:
        SettingsError: a target is described wrongly.
        CommandError: a target does not work.
    """
    settings = load_settings()
    if not settings.uses_anthropic:
        raise CommandError("no target: set MODEL_TARGETS_FILE or ANTHROPIC_API_KEY", ExitCode.BAD_INPUT)
    checks = asyncio.run(_check_all(load_targets(settings), settings))
    if options.json:
        write_json(orjson.dumps([check.document() for check in checks]))
    else:
        console.print(_table(checks))
    broken = [check.target.name for check in checks if isinstance(check.last.outcome, DeciderFailure)]
    if broken:
        raise CommandError(f"not working: {', '.join(broken)}", ExitCode.UNAVAILABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Hold what one target answered, in turn; early_ms: when its numbers had arrived, ms: when its reply had ended."""

    target: Target
    replies: tuple[Reply, ...]
    early_ms: tuple[int, ...]
    ms: tuple[int, ...]

    @property
    def last(self) -> Reply:
        """Give the last answer."""
        return self.replies[-1]

    def document(self) -> dict[str, Any]:
        """Write the check for programs."""
        call = self.last.call
        return {
            "target": self.target.name,
            "kind": self.target.kind.value,
            "model": self.target.model,
            "reply": self.target.reply.value,
            "streamed": self.target.stream,
            "works": not isinstance(self.last.outcome, DeciderFailure),
            "problem": _problem(self.last),
            "early_ms": self.early_ms,
            "ms": self.ms,
            "input_tokens": call.input_tokens,
            "output_tokens": call.output_tokens,
            "cache_read_tokens": call.cache_read_tokens,
            "cache_write_tokens": call.cache_write_tokens,
            "cost_usd": _cost(call),
            "request_id": call.request_id,
        }


async def _check_all(targets: tuple[Target, ...], settings: Settings) -> list[Check]:
    return [await _check(target, settings) for target in targets]


async def _check(target: Target, settings: Settings) -> Check:
    policy = settings.policy()
    request = orjson.dumps(trade_scene(account_id="targets-check"))
    account, snapshot, _ = DecideRequest.model_validate_json(request).to_domain()
    market = resolve_market(snapshot, buckets=load_buckets(settings.buckets_file))
    bounds = entry_bounds(market=market, account=account, state=AccountState(now=snapshot.as_of), policy=policy)
    prompt = build_prompt(policy=policy, market=market, account=account, bounds=bounds)
    decider = MessagesDecider(target)
    replies, early_ms, ms = [], [], []
    try:
        for _ in range(CALLS):
            started = time.monotonic()
            reply = await decider.propose(
                prompt=prompt, market=market, account=account, policy=policy, budget_s=CHECK_S
            )
            early_ms.append(_milliseconds(started))
            replies.append(reply if reply.rest is None else await reply.rest)
            ms.append(_milliseconds(started))
    finally:
        await decider.close()
    return Check(target=target, replies=tuple(replies), early_ms=tuple(early_ms), ms=tuple(ms))


def _milliseconds(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _problem(reply: Reply) -> str | None:
    failed = reply.outcome if isinstance(reply.outcome, DeciderFailure) else None
    return None if failed is None else f"{failed.code.value}: {failed.detail}"


def _cost(call: DeciderCall) -> str | None:
    return str(call.cost_usd) if call.priced else None


def _table(checks: list[Check]) -> Table:
    table = Table("Target", "Model", "Works", "Numbers, ms", "Whole, ms", "Tokens in", "of cache", "out", "Cost, $")
    for check in checks:
        call = check.last.call
        table.add_row(
            f"{check.target.name} ({check.target.kind})",
            check.target.model,
            _problem(check.last) or "yes",
            ", ".join(map(str, check.early_ms)),
            ", ".join(map(str, check.ms)),
            str(call.input_tokens + call.cache_read_tokens + call.cache_write_tokens),
            str(call.cache_read_tokens),
            str(call.output_tokens),
            _cost(call) or "unknown",
        )
    return table
