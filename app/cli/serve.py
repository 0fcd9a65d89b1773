"""`tradeverdict serve`: answer HTTP until told to stop."""

import argparse
import gc
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn

from app.cli.arguments import Commands
from app.cli.connection import PromptProtocol
from app.cli.database import provided_database
from app.cli.errors import CommandError, ExitCode
from app.cli.huge_pages import collapse_heap
from app.llm.targets import load_targets
from app.main import create_app, warnings
from app.settings import Settings, load_settings, redact_url
from app.telemetry import configure_logging

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 75
SHUTDOWN_MARGIN_S: Final = 4
"""Beyond its deadline a decision may still wait for the store, and its answer has to leave."""

COLLECT_EVERY: Final = 10_000
"""New objects before the collector looks for cycles among them; Python's own 700 are a few decisions'."""


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("serve", help="serve HTTP; without DATABASE_URL on an embedded database")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve one process; more of them go behind a load balancer, each scraped by itself.

    Raises:
        SettingsError: a setting is wrong, or AUTH=off would be reachable from elsewhere.
        CommandError: the address cannot be listened on.
    """
    settings = load_settings()
    settings.require_safe_host(options.host)
    configure_logging(level=settings.log_level, log_format=settings.log_format, secrets=settings.secrets)
    with _listen(options.host, options.port) as listener, _ended_by_sigterm(), provided_database(settings) as provided:
        configure_logging(level=provided.log_level, log_format=provided.log_format, secrets=provided.secrets)
        config = uvicorn.Config(
            create_app(provided),
            http=PromptProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=provided.policy().decision_deadline_ms // 1000 + SHUTDOWN_MARGIN_S,
        )
        _Server(config, announcement=_announcement(provided, listener)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Say where it listens once it does."""

    def __init__(self, config: uvicorn.Config, *, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        _collect_seldom()
        collapse_heap()
        if self.started:
            sys.stdout.write(self._announcement + "\n")
            sys.stdout.flush()


def _collect_seldom() -> None:
    """Have the collector of cycles leave alone what is there for good, and look at the rest less often.

    A decision makes thousands of objects and leaves about ten of them in cycles. With Python's own thresholds the
    collector took 5 % of a decision's CPU time (230 us; 1.4 us so), and every seven hundred decisions held all of them
    up for 0.08 s to look through modules and models. Between two collections lies at most `COLLECT_EVERY` garbage.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError(text)
    return port


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise CommandError(f"cannot listen on {host}:{port}: {error}", ExitCode.UNAVAILABLE) from error


def _announcement(settings: Settings, listener: socket.socket) -> str:
    address: tuple[Any, ...] = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    said = [f"tradeverdict serves http://{host}:{address[1]}", describe_decider(settings), f"auth {settings.auth}"]
    return "; ".join(said) + "".join(f"\nwarning: {warning}" for warning in warnings(settings))


def describe_decider(settings: Settings) -> str:
    """Say who proposes, and over which address or which targets."""
    if not settings.uses_anthropic:
        return "decider rules"
    if settings.model_targets_file is not None:
        return "decider anthropic: " + ", then ".join(f"{item.name} ({item.model})" for item in load_targets(settings))
    where = redact_url(settings.anthropic_base_url) if settings.anthropic_base_url else "the SDK's own address"
    return f"decider anthropic ({settings.anthropic_model}) over {where}"


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End in good order on SIGTERM: uvicorn finishes and raises it again, and then the database is stopped too."""

    def exit_in_order(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, exit_in_order)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
