"""Serve the whole app on a real socket in the test's own event loop, over stand-ins for the Messages API."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import uvicorn

from app.llm.models import MODELS
from app.main import create_app
from app.settings import DeciderChoice
from tests.api.conftest import settings_for
from tests.model_server import ModelServer

HAIKU = "claude-haiku-5-5"
NAMES = ("first", "second", "third")


def targets_file(folder: Path, *addresses: str, streamed: bool = True) -> Path:
    """Write targets named first, second and third."""
    path = folder / "targets.toml"
    path.write_text(
        "".join(
            f'[[target]]\nname = "{name}"\nkind = "gateway"\nmodel = "{HAIKU}"\nbase_url = "{address}"\n'
            f"stream = {str(streamed).lower()}\n"
            for name, address in zip(NAMES, addresses, strict=False)
        )
    )
    return path


@asynccontextmanager
async def served(
    database_url: str, folder: Path, *servers: ModelServer, streamed: bool = True, **settings: Any
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of a service that asks these stand-ins in turn."""
    path = targets_file(folder, *(server.base_url for server in servers), streamed=streamed)
    app = create_app(settings_for(database_url, decider=DeciderChoice.ANTHROPIC, model_targets_file=path, **settings))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=200)
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=20, limits=limits, trust_env=False
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await running


async def rows(database_url: str, statement: str, *values: object) -> list[asyncpg.Record]:
    """Run a statement as the owner of the database."""
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(statement, *values)
    finally:
        await connection.close()


async def ledger(database_url: str, *, calls: int) -> list[asyncpg.Record]:
    """The ledger, once it holds so many calls, in the order in which they were kept."""
    async with asyncio.timeout(20):
        while len(kept := await rows(database_url, "SELECT * FROM model_calls ORDER BY call_id")) < calls:
            await asyncio.sleep(0.05)
    return kept


def cost_usd(**tokens: int) -> Decimal:
    """What tokens of the model cost."""
    price = MODELS[HAIKU].price
    assert price is not None
    return sum((getattr(price, kind) * count for kind, count in tokens.items()), start=Decimal(0)) / 1_000_000
