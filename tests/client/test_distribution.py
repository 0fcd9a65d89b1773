"""The client stands on its own: its tests pass by themselves, and it loads nothing but httpx."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

CLIENT = Path(__file__).parents[2] / "client"
LOADED = "import {modules}, json, sys; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"


def loaded_by(modules: str) -> set[str]:
    """Top-level modules that a fresh process has after an import."""
    code = LOADED.format(modules=modules)
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(json.loads(printed))


def test_its_own_tests_pass(record_property: Callable[[str, object], None]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pyproject.toml", "tests"]

    ran = subprocess.run(command, cwd=CLIENT, env=environment, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout
    (passed,) = re.findall(r"^(\d+ passed)", ran.stdout, flags=re.MULTILINE)
    assert "skipped" not in ran.stdout
    record_property("counts", f"tests of the client: {passed}")


def test_it_loads_nothing_but_httpx_and_the_standard_library() -> None:
    extra = loaded_by("tradeverdict_client, tradeverdict_client.prototype") - loaded_by("httpx")

    assert extra - sys.stdlib_module_names == {"tradeverdict_client"}


def test_one_who_waits_does_not_load_an_event_loop() -> None:
    assert "asyncio" not in loaded_by("tradeverdict_client")


def test_it_depends_on_httpx_alone_and_says_that_it_is_typed() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]

    assert [re.split(r"[<>=]", wanted)[0] for wanted in project["dependencies"]] == ["httpx"]
    assert project["requires-python"] == ">=3.11"
    assert (CLIENT / "src/tradeverdict_client/py.typed").exists()
