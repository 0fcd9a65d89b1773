"""The import contracts of pyproject.toml hold, and a rogue import breaks the one that forbids it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", lint, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__", "data"))
    return tmp_path


def test_the_contracts_hold(tree: Path) -> None:
    linted = lint_imports(tree)

    assert linted.returncode == 0, linted.stdout
    assert "2 kept, 0 broken" in linted.stdout


@pytest.mark.parametrize("module", ["fastapi", "pydantic", "asyncpg", "anthropic", "time", "random", "os"])
def test_the_domain_may_not_import(module: str, tree: Path) -> None:
    with (tree / "app/domain/market.py").open("a") as source:
        source.write(f"import {module}\n")
    linted = lint_imports(tree)

    assert linted.returncode == 1
    assert f"app.domain.market -> {module}" in linted.stdout
    assert "1 kept, 1 broken" in linted.stdout


@pytest.mark.parametrize(
    ("lower", "upper"),
    [("app.domain.market", "app.settings"), ("app.db.embedded", "app.api"), ("app.settings", "app.db")],
)
def test_a_lower_layer_may_not_import_a_higher_one(lower: str, upper: str, tree: Path) -> None:
    with (tree / lower.replace(".", "/")).with_suffix(".py").open("a") as source:
        source.write(f"import {upper}\n")
    linted = lint_imports(tree)

    assert linted.returncode == 1
    assert f"{lower} -> {upper}" in linted.stdout


def test_every_new_module_must_be_given_a_layer(tree: Path) -> None:
    (tree / "app/helpers.py").write_text("")
    linted = lint_imports(tree)

    assert linted.returncode == 1
    assert "- app.helpers" in linted.stdout


@pytest.mark.parametrize("banned", ["datetime.datetime.now", "uuid.uuid4", "os.environ"])
def test_the_domain_may_not_read_clock_chance_or_environment(banned: str) -> None:
    """Ruff sees what import contracts cannot: a forbidden attribute of an allowed module."""
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "app/domain/rogue.py", "--select", "TID251"]
    source = f"import datetime\nimport os\nimport uuid\n\nSEEN = {banned}\n"
    checked = subprocess.run([*command, "-"], cwd=ROOT, input=source, capture_output=True, text=True, check=False)

    assert checked.returncode == 1
    assert f"`{banned}` is banned" in checked.stdout
