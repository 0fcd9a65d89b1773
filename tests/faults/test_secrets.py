"""Canary secrets turn up nowhere: not in logs, metrics, answers, prompts, tracebacks or the database."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.engine import ConnectionPool
from app.db.vocabulary import Scope
from tests.faults.conftest import Figures
from tests.faults.processes import PROGRAM, PROVE, Service, asking, owner_of, request, service
from tests.model_server import Answer as Reply
from tests.model_server import ModelServer, Request, decide, error

pytestmark = pytest.mark.xdist_group("waits")

MODEL_KEY = "sk-ant-canary-0123456789-abcdefghij"
DEBUG: dict[str, object] = {"LOG_LEVEL": "debug", "DECISION_DEADLINE_MS": 5_000}
COMMANDS = (["keys", "list"], ["decide", "-"], *([["settings"], ["migrate"], ["halts"]] if PROVE else []))
ROOT = Path(__file__).parents[2]

BUG = """
import sys
from app.main import create_app
from app.settings import load_settings
from app.telemetry import configure_logging
from fastapi.testclient import TestClient
from tests.fakes import FakeDecider

settings = load_settings()
configure_logging(level=settings.log_level, log_format=settings.log_format, secrets=settings.secrets)
body, token = sys.stdin.read(), sys.argv[1]
told = f"key {settings.anthropic_api_key.reveal()}, store {settings.database_url.reveal()}, caller {token}"
app = create_app(settings, decider=FakeDecider(RuntimeError(told)))
with TestClient(app, raise_server_exceptions=False) as client:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    print(client.post("/decide", content=body, headers=headers).text)
"""
"""A program in which a bug raises an exception that holds every secret."""


def echo(asked: Request) -> Reply:
    """Refuse as a careless gateway does: by repeating the key."""
    return Reply(status=401, body=error("authentication_error", f"no such key: {asked.headers['authorization']}"))


async def every_row(owner: "asyncpg.Connection[asyncpg.Record]") -> str:
    """All that the database holds."""
    tables = await owner.fetch("SELECT quote_ident(tablename) AS name FROM pg_tables WHERE schemaname = 'public'")
    rows = [await owner.fetch(f"SELECT one::text AS text FROM {table['name']} AS one") for table in tables]
    return "\n".join(row["text"] for found in rows for row in found)


async def everything_asked(client: httpx2.AsyncClient, running: Service, token: str) -> str:
    """What a service answers to right and wrong requests."""
    url, headers = running.base_url, {"Authorization": f"Bearer {token}"}
    answers = [
        *[await client.get(f"{url}/{path}") for path in ("healthz", "readyz", "metrics", "openapi.json", "nothing")],
        *[await client.get(f"{url}/{path}", headers=headers) for path in ("decisions", "halt", "decisions/7")],
        await client.post(f"{url}/decide", json=request("paper-1"), headers=headers),
        await client.post(f"{url}/decide", json=request("paper-2"), headers=headers),
        await client.post(f"{url}/decide", content=b"{", headers=headers),
        await client.post(f"{url}/decide", json=request("paper-3"), headers={"Authorization": f"Basic {token}"}),
        await client.post(f"{url}/decide", json=request("paper-3"), headers={"Authorization": f"Bearer {token}0"}),
    ]
    return "\n".join(answer.text + str(answer.headers) for answer in answers)


def leaks(where: dict[str, str], canaries: Iterable[str]) -> dict[str, int]:
    """How many canaries each place holds."""
    return {place: sum(canary in text for canary in canaries) for place, text in where.items()}


async def test_canary_secrets_appear_nowhere(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    key = await create_key(pool, name="bot", scopes=list(Scope), accounts=[EVERY_ACCOUNT])
    password = urlsplit(database_url).password
    assert password
    canaries = (MODEL_KEY, password, key.token, key.token.rpartition("_")[2])
    wrong = database_url.replace(password, "canary-of-a-wrong-password")
    away = database_url.replace(str(urlsplit(database_url).port), "9")
    where: dict[str, str] = {}
    logs: list[Path] = []

    async with ModelServer(decide, echo) as model:
        settings = {**DEBUG, **asking(model), "ANTHROPIC_API_KEY": MODEL_KEY, "AUTH": "on"}

        async def serve_from(name: str, url: str) -> None:
            async with service(url, tmp_path, **settings) as running:
                where[f"answers{name}"] = await everything_asked(client, running, key.token)
            logs.append(running.log)

        await asyncio.gather(
            serve_from("", database_url),
            serve_from(", store away", away),
            serve_from(", wrong password", wrong),
        )
        where["prompts"] = "\n".join(json.dumps(asked.body) for asked in model.requests)
        assert [asked.headers["authorization"] for asked in model.requests] == [f"Bearer {MODEL_KEY}"] * 2
    where["logs"] = "\n".join(log.read_text() for log in logs)
    async with owner_of(database_url) as owner:
        where["database"] = await every_row(owner)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "ANTHROPIC_API_KEY": MODEL_KEY,
        "TRADEVERDICT_API_KEY": key.token,
        "LOG_LEVEL": "debug",
        "MAX_SNAPSHOT_AGE_S": "0",
        "PYTHONPATH": str(ROOT),
    }
    where["a bug's traceback"] = ran(environment, tmp_path, sys.executable, "-c", BUG, key.token)
    where["commands"] = "\n".join(
        await asyncio.gather(
            *(
                asyncio.to_thread(ran, environment | changes, tmp_path, str(PROGRAM), *command)
                for changes in ({}, {"DATABASE_URL": away}, {"DATABASE_URL": wrong})
                for command in COMMANDS
            )
        )
    )

    assert "Traceback" in where["a bug's traceback"]
    assert "INTERNAL_ERROR" in where["a bug's traceback"]
    assert "MODEL_UNAVAILABLE" in where["database"]
    assert "STORE_UNAVAILABLE" in where["answers, store away"]
    found = leaks(where, (*canaries, "canary-of-a-wrong-password"))
    assert set(found.values()) == {0}, found
    figures("canary secrets", secrets=len(canaries) + 1, characters_searched=sum(map(len, where.values())), found=0)


def ran(environment: dict[str, str], folder: Path, *command: str) -> str:
    """All that a command printed."""
    body = json.dumps(request("paper-9"))
    done = subprocess.run(command, cwd=folder, env=environment, input=body, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr
