"""What one key may do says nothing about another's: keys made on the command line, against a real service."""

import os
import re
import subprocess
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.faults.conftest import Figures
from tests.faults.processes import PROGRAM, Service, request, service

pytestmark = pytest.mark.xdist_group("waits")

MINE, THEIRS = "account-a", "account-b"
SCOPES = ("decide", "read", "report", "admin")
WHO = {"reason": "drill", "operator": "ana"}


def command(database_url: str, folder: Path, *arguments: str) -> str:
    """Run the command on the service's database and return what it printed."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url}
    ran = subprocess.run([PROGRAM, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def make_key(database_url: str, folder: Path, *scopes: str, account: str, expires: str | None = None) -> dict[str, str]:
    """The header of a new key."""
    named = [part for scope in scopes for part in ("--scope", scope)]
    lasting = [] if expires is None else ["--expires", expires]
    token = command(database_url, folder, "keys", "create", *named, "--account", account, *lasting)
    assert re.fullmatch(r"tv_[0-9a-f]{16}_[0-9a-f]{64}", token), "a key of 256 secret bits, and nothing else"
    return {"Authorization": f"Bearer {token}"}


Calls = dict[str, tuple[str, str, Any]]


def calls_on(account: str, decision_id: str) -> Calls:
    """Everything that can be asked of one account, by the scope it needs: method, path and body."""
    return {
        "decide": ("POST", "/decide", request(account)),
        "read": ("GET", f"/decisions/{decision_id}", None),
        "report": (
            "POST",
            f"/decisions/{decision_id}/events",
            {"event_id": "e-1", "event": "rejected", "at": "2026-11-20T15:31:00Z"},
        ),
        "admin": ("POST", "/halt", {"account_id": account, "state": "halted"} | WHO),
        "admin, resuming": ("DELETE", "/halt", {"account_id": account} | WHO),
    }


async def call(
    client: httpx2.AsyncClient, running: Service, what: tuple[str, str, Any], headers: dict[str, str]
) -> httpx2.Response:
    method, path, body = what
    return await client.request(method, running.base_url + path, json=body, headers=headers)


async def test_no_key_reaches_into_anothers_account_or_beyond_its_scope(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    met: Counter[str] = Counter()
    all_scopes = {account: make_key(database_url, tmp_path, *SCOPES, account=account) for account in (MINE, THEIRS)}
    one_scope = {scope: make_key(database_url, tmp_path, scope, account=THEIRS) for scope in SCOPES}
    async with service(database_url, tmp_path, AUTH="on") as running:
        decision = await call(client, running, ("POST", "/decide", request(THEIRS)), all_scopes[THEIRS])
        theirs = calls_on(THEIRS, decision.json()["decision_id"])
        for scope, what in theirs.items():
            foreign = await call(client, running, what, all_scopes[MINE])
            assert foreign.status_code == (404 if scope in ("read", "report") else 403), (scope, foreign.text)
            met["foreign"] += 1
        for everyone in (("POST", "/halt", {"account_id": None, "state": "halted"} | WHO), ("DELETE", "/halt", WHO)):
            body = {"account_id": None} | everyone[2]
            assert (await call(client, running, (*everyone[:2], body), all_scopes[MINE])).status_code == 403
            met["global halts by a key of one account"] += 1
        listed = await call(client, running, ("GET", "/decisions", None), all_scopes[MINE])
        narrowed = await call(client, running, ("GET", f"/decisions?account={THEIRS}", None), all_scopes[MINE])
        assert [answer.json()["decisions"] for answer in (listed, narrowed)] == [[], []]
        for held, (needed, what) in product(SCOPES, theirs.items()):
            if needed.partition(",")[0] != held:
                assert (await call(client, running, what, one_scope[held])).status_code == 403
                met["without the scope"] += 1
        assert await standing(client, running, all_scopes[THEIRS]) == ("approved", [])
        for needed, what in theirs.items():
            allowed = await call(client, running, what, one_scope[needed.partition(",")[0]])
            assert allowed.status_code in (200, 201), (needed, allowed.text)
            met["allowed"] += 1
            assert (await call(client, running, what, {})).status_code == 401
            met["without a key"] += 1

    figures("keys on accounts and scopes that are not theirs", **met, got_in=0)


async def standing(client: httpx2.AsyncClient, running: Service, headers: dict[str, str]) -> tuple[str, list[Any]]:
    """What their next decision would be, and their halts: nothing that was refused left a trace."""
    body = request(THEIRS) | {"market": [request(THEIRS)["market"][0] | {"symbol": "MSFT"}]}
    decided = (await call(client, running, ("POST", "/decide", body), headers)).json()
    halts = (await call(client, running, ("GET", "/halt", None), headers)).json()["halts"]
    return "approved" if decided["should_execute"] else decided["reason_code"], halts


async def test_a_revoked_key_ends_at_once(client: httpx2.AsyncClient, database_url: str, tmp_path: Path) -> None:
    headers = make_key(database_url, tmp_path, "read", account=MINE, expires="90d")
    public_id = headers["Authorization"].split("_")[1]
    async with service(database_url, tmp_path, AUTH="on") as running:
        before = await call(client, running, ("GET", "/decisions", None), headers)
        command(database_url, tmp_path, "keys", "revoke", public_id)
        after = await call(client, running, ("GET", "/decisions", None), headers)

    assert (before.status_code, after.status_code) == (200, 401)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7"])
def test_without_keys_only_a_loopback_host_is_served(host: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "AUTH": "off"}
    ran = subprocess.run(
        [PROGRAM, "serve", "--host", host], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert ran.returncode == 2
    assert ran.stderr.startswith("tradeverdict: AUTH=off: refused")


async def test_a_service_without_keys_says_so_at_the_start_and_when_asked(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async with service(database_url, tmp_path, AUTH="off") as running:
        assert running.process.stdout is not None
        said = running.process.stdout.readline()
        ready = (await client.get(f"{running.base_url}/readyz")).json()

    assert said.startswith("warning: AUTH=off")
    assert ready["auth"] == "off"
    assert any(warning.startswith("AUTH=off") for warning in ready["warnings"])
