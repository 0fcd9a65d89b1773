"""Schemathesis holds a running service to its own OpenAPI document: in every corner, and along the links."""

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.engine import ConnectionPool
from app.db.vocabulary import Scope
from tests.faults.conftest import Figures
from tests.faults.processes import PROGRAM, Service, full_or_quick, service

ROOT = Path(__file__).parents[2]
CASES_AN_OPERATION = full_or_quick(100, 8)
WALKS = full_or_quick(100, 30)
LEAST_CASES = full_or_quick(1_500, 1_000)
LEAST_STATEFUL = full_or_quick(300, 30)
SETTINGS: dict[str, object] = {"AUTH": "on", "RATE_LIMIT_PER_MINUTE": 1_000_000}
LINKED = "^/(decide|decisions|halt)"
"""Only what has links: where everything may come next, few walks get as far as a ticket."""
OPEN_TO_ALL = {"/healthz", "/readyz", "/metrics"}


@dataclass(frozen=True)
class Run:
    """What schemathesis did: its words, its verdict, and every exchange as (phase, method, path, status, type)."""

    said: str
    failures: list[Any]
    cases: int
    exchanges: list[tuple[str, str, str, int, str]]

    def statuses(self, method: str, path: str) -> Counter[int]:
        return Counter(exchange[3] for exchange in self.exchanges if exchange[1:3] == (method, path))

    def stateful(self) -> int:
        return sum(exchange[0] == "stateful" for exchange in self.exchanges)


def walk(running: Service, token: str, folder: Path, *arguments: str, hooks: str | None = None) -> Run:
    """Run the `schemathesis` command against a service."""
    reports = folder / "reports"
    command: list[str | Path] = [
        PROGRAM.with_name("schemathesis"),
        *("--config-file", ROOT / "tests/faults/schemathesis.toml", "run", f"{running.base_url}/openapi.json"),
        *("--header", f"Authorization: Bearer {token}", "--checks", "all", "--continue-on-failure", "--no-color"),
        *("--report", "json,ndjson", "--report-dir", reports, "--seed", "1", "--generation-database", "none"),
        *("--max-examples", str(CASES_AN_OPERATION), *arguments),
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    if hooks is not None:
        environment["SCHEMATHESIS_HOOKS"] = hooks
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = list(reports.glob("json-*.json"))
    assert found, done.stdout + done.stderr
    report = json.loads(found[0].read_text())
    events = [json.loads(line) for line in next(reports.glob("ndjson-*")).read_text().splitlines()]
    return Run(
        said=done.stdout,
        failures=report["failures"] + report["errors"],
        cases=report["test_cases"]["generated"],
        exchanges=[exchange for event in events for exchange in _exchanges(event.get("ScenarioFinished"))],
    )


def _exchanges(scenario: dict[str, Any] | None) -> Iterator[tuple[str, str, str, int, str]]:
    recorder = (scenario or {}).get("recorder") or {}
    for name, interaction in recorder.get("interactions", {}).items():
        case, response = recorder["cases"][name]["value"], interaction["response"]
        if response is not None:
            content_type = response["headers"].get("content-type", [""])[0]
            yield scenario["phase"], case["method"], case["path"], response["status_code"], content_type  # type: ignore[index]


@pytest.fixture
async def token(pool: ConnectionPool) -> str:
    """A key that may do everything."""
    return (await create_key(pool, name="walker", scopes=list(Scope), accounts=[EVERY_ACCOUNT])).token


async def test_no_corner_of_the_document_is_otherwise(
    database_url: str, token: str, tmp_path: Path, figures: Figures
) -> None:
    async with service(database_url, tmp_path, **SETTINGS) as running:
        run = walk(running, token, tmp_path, "--phases", "examples,coverage,fuzzing,stateful", "--mode", "all")

    assert run.failures == [], run.said
    assert run.cases >= LEAST_CASES
    assert all(status < 500 for *_, status, _ in run.exchanges)
    kinds = {content_type for *_, status, content_type in run.exchanges if status >= 400}
    assert kinds == {"application/problem+json"}
    unguarded = {path for _, _, path, *_ in run.exchanges} - OPEN_TO_ALL
    asked_without_a_key = {path for _, _, path, status, _ in run.exchanges if status == 401}
    assert asked_without_a_key == unguarded
    figures(
        "schemathesis, every corner",
        cases=run.cases,
        exchanges=len(run.exchanges),
        stateful=run.stateful(),
        paths_refused_without_a_key=len(asked_without_a_key),
        failures=0,
    )


async def test_along_the_links_decisions_become_tickets_and_tickets_have_events(
    database_url: str, token: str, tmp_path: Path, figures: Figures
) -> None:
    async with service(database_url, tmp_path, **SETTINGS) as running:
        run = walk(
            running,
            token,
            tmp_path,
            *("--phases", "stateful", "--mode", "positive"),
            *("--include-path-regex", LINKED, "--max-examples", str(WALKS)),
            hooks="tests.faults.openapi_hooks",
        )

    assert run.failures == [], run.said
    assert run.stateful() >= LEAST_STATEFUL
    events = run.statuses("POST", "/decisions/{decision_id}/events")
    assert events[201] > 0
    assert run.statuses("GET", "/decisions/{decision_id}")[200] > 0
    assert set(events) <= {200, 201, 401, 404, 409, 422}  # 401: schemathesis tries without the key, too
    figures(
        "schemathesis along the links decide, decision, events",
        stateful_cases=run.stateful(),
        decisions=run.statuses("POST", "/decide")[200],
        events_recorded=events[201],
        events_refused=events[409] + events[422],
        failures=0,
    )
