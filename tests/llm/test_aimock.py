"""Ask a server that nobody here wrote: `@copilotkit/aimock` from npm, over a real socket, as any target is asked."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.proposal import ModelFailure, Proposal
from app.llm.decider import DeciderFailure
from app.llm.wire import TOOL_NAME
from tests.llm.builders import wire_decision
from tests.llm.routes import ask, code_of, routed, streamed_decision, target, timed
from tests.model_server import ModelServer

VERSION = "1.43.0"
CLI = Path("node_modules") / "@copilotkit" / "aimock" / "dist" / "cli.js"
INSTALL_S, START_S = 30.0, 20.0

PROPOSAL: dict[str, Any] = {"toolCalls": [{"name": TOOL_NAME, "arguments": json.dumps(wire_decision())}]}


class Aimock:
    """A running server: what it answers and how it behaves is told it over its own control paths."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def answers(self, **response: Any) -> None:
        """Answer every request that carries the tool in this way, from now on."""
        fixture = {"match": {"toolName": TOOL_NAME}, "response": response}
        self.control("POST", "fixtures", {"fixtures": [fixture]})

    def control(self, method: str, what: str, body: dict[str, Any] | None = None) -> Any:
        """Tell or ask it something."""
        request = urllib.request.Request(
            f"{self.base_url}/__aimock/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=START_S) as answer:
            return json.load(answer)

    def is_up(self) -> bool:
        """Tell whether it answers."""
        try:
            return bool(self.control("GET", "health"))
        except OSError:
            return False


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("optional: aimock needs node and npm")
    folder = tmp_path_factory.mktemp("aimock")
    command = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--ignore-scripts",
        f"@copilotkit/aimock@{VERSION}",
    ]
    try:
        npm = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"optional: npm did not install @copilotkit/aimock@{VERSION} within {INSTALL_S:.0f} s")
    if npm.returncode != 0:
        pytest.skip(f"optional: npm cannot install @copilotkit/aimock@{VERSION}: {npm.stderr.strip()[-300:]}")
    return folder


@pytest.fixture(scope="session")
def running(installed: Path) -> Iterator[Aimock]:
    """The server, on a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    unasked = {"match": {"userMessage": "what no test says"}, "response": {"content": "nothing"}}
    (installed / "first.json").write_text(json.dumps({"fixtures": [unasked]}))  # it does not start without any
    command = ["node", str(CLI), "-p", str(port), "-h", "127.0.0.1", "-f", "first.json", "--strict"]
    server = Aimock(f"http://127.0.0.1:{port}")
    with (installed / "aimock.log").open("w") as log:
        process = subprocess.Popen(command, cwd=installed, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_S
        while not server.is_up():
            assert process.poll() is None, (installed / "aimock.log").read_text()
            assert time.monotonic() < until, f"aimock does not answer: {(installed / 'aimock.log').read_text()}"
            time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(START_S)


@pytest.fixture
def aimock(running: Aimock) -> Iterator[Aimock]:
    """The server as it is at its start."""
    running.control("POST", "reset", {})
    yield running
    running.control("POST", "reset", {})


async def test_a_forced_tool_call_becomes_a_proposal(aimock: Aimock) -> None:
    aimock.answers(**PROPOSAL)

    async with routed(target(aimock.base_url)) as decider:
        reply = await ask(decider)

    assert isinstance(reply.outcome, Proposal)
    assert [item.symbol for item in reply.outcome.candidates] == ["NVDA"]
    assert (reply.call.attempts, reply.call.stop_reason) == (1, "tool_use")


async def test_a_streamed_tool_call_becomes_a_proposal(aimock: Aimock) -> None:
    aimock.answers(toolCalls=[{"name": TOOL_NAME, "arguments": json.dumps(streamed_decision())}])

    async with routed(target(aimock.base_url, streamed=True)) as decider:
        reply = await ask(decider)

    assert isinstance(reply.outcome, Proposal)
    assert [item.symbol for item in reply.outcome.candidates] == ["NVDA"]


@pytest.mark.parametrize(("status", "kind"), [(529, "overloaded_error"), (429, "rate_limit_error")])
async def test_a_target_that_cannot_serve_is_unavailable(aimock: Aimock, status: int, kind: str) -> None:
    aimock.answers(error={"message": "not now", "type": kind}, status=status)

    async with routed(target(aimock.base_url)) as decider:
        reply = await ask(decider, budget_s=0.8)

    assert code_of(reply) is ModelFailure.UNAVAILABLE
    assert isinstance(reply.outcome, DeciderFailure)
    assert f"HTTP {status}" in reply.outcome.detail
    assert reply.call.calls[0].status == status


@pytest.mark.parametrize("status", [529, 429])
async def test_the_next_target_serves_where_the_first_cannot(aimock: Aimock, status: int) -> None:
    aimock.answers(error={"message": "not now", "type": "overloaded_error"}, status=status)

    async with ModelServer() as second, routed(target(aimock.base_url), second) as decider:
        reply = await ask(decider)

    assert isinstance(reply.outcome, Proposal)
    assert [call.status for call in reply.call.calls] == [status, 200]


async def test_a_refusal_is_told_as_one(aimock: Aimock) -> None:
    aimock.answers(content="I cannot help with that.", finishReason="refusal")

    async with routed(target(aimock.base_url)) as decider:
        assert code_of(await ask(decider)) is ModelFailure.REFUSED


async def test_a_reply_that_was_cut_off_is_no_proposal_even_if_it_looks_whole(aimock: Aimock) -> None:
    aimock.answers(**PROPOSAL, finishReason="length")

    async with routed(target(aimock.base_url)) as decider:
        assert code_of(await ask(decider)) is ModelFailure.TRUNCATED


async def test_prose_instead_of_the_forced_tool_is_invalid(aimock: Aimock) -> None:
    aimock.answers(content="Buy NVDA.")

    async with routed(target(aimock.base_url)) as decider:
        assert code_of(await ask(decider)) is ModelFailure.INVALID


async def test_a_slow_target_costs_the_budget_and_no_more(aimock: Aimock) -> None:
    aimock.answers(**PROPOSAL)
    aimock.control("POST", "chaos", {"latencyMs": 800})

    async with routed(target(aimock.base_url)) as decider:
        reply, took_s = await timed(decider, budget_s=0.4)

    assert code_of(reply) is ModelFailure.TIMEOUT
    assert 0.39 < took_s < 0.5


async def test_a_target_that_is_late_but_within_the_budget_is_waited_for(aimock: Aimock) -> None:
    aimock.answers(**PROPOSAL)
    aimock.control("POST", "chaos", {"latencyMs": 800})

    async with routed(target(aimock.base_url), hedge_max_share=0.0) as decider:
        reply, took_s = await timed(decider, budget_s=5.0)

    assert isinstance(reply.outcome, Proposal)
    assert took_s > 0.79
