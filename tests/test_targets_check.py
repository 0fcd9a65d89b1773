"""`tradeverdict targets check` calls every target and says what works, with one exit code for all."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.cli import main
from app.cli.errors import ExitCode
from tests.model_server import Answer, ModelServer, Script, error


@contextmanager
def serving(*answers: Script) -> Iterator[ModelServer]:
    """A stand-in in a thread of its own, because the command runs the event loop of this one."""
    loop, server = asyncio.new_event_loop(), ModelServer(*answers)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        yield server
        asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "DECIDER", "MODEL_TARGETS_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_target_there_is_nothing_to_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "check"]) == ExitCode.BAD_INPUT
    assert "no target: set MODEL_TARGETS_FILE or ANTHROPIC_API_KEY" in capsys.readouterr().err


def test_each_target_is_called_and_what_works_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        serving() as well,
        serving(Answer(status=401, body=error("authentication_error", "sk-secret-1 is no key"))) as ill,
    ):
        targets = [
            f'[[target]]\nname = "{name}"\nkind = "gateway"\nmodel = "claude-haiku-5-5"\n'
            f'base_url = "{server.base_url}"\nkey_variable = "GATEWAY_KEY"\n'
            for name, server in (("well", well), ("ill", ill))
        ]
        (tmp_path / "targets.toml").write_text("\n".join(targets))
        monkeypatch.setenv("MODEL_TARGETS_FILE", str(tmp_path / "targets.toml"))
        monkeypatch.setenv("GATEWAY_KEY", "sk-secret-1")
        exit_code = main(["targets", "check", "--json"])
    out, err = capsys.readouterr()
    first, second = json.loads(out)

    assert exit_code == ExitCode.UNAVAILABLE
    assert err == "tradeverdict: not working: ill\n"
    assert (first["target"], first["works"], first["problem"]) == ("well", True, None)
    assert (first["input_tokens"], first["cache_read_tokens"], first["cost_usd"]) == (120, 1800, "0.000076")
    assert (second["target"], second["works"]) == ("ill", False)
    assert second["problem"] == "MODEL_UNAVAILABLE: HTTP 401 authentication_error [key] is no key"
    assert (len(well.requests), len(ill.requests)) == (2, 2)


def test_people_get_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret-1")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.base_url)

        assert main(["targets", "check"]) == ExitCode.DONE
    assert "anthropic (anthropic)" in capsys.readouterr().out
