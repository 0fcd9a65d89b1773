"""What every test may use: Hypothesis profiles, a migrated database of its own, and no network.

`PROVE=1` runs property tests with full example counts. `NO_SKIPS=1` makes a skipped test fail, unless it
says of itself that it is optional.
Tests that wait more than they compute have the mark `xdist_group("waits")`: `make test` gives them to one process.
Connections to anything but this machine fail (pytest-socket, set in pyproject.toml).
"""

import itertools
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from app.db.embedded import EmbeddedPostgres

settings.register_profile("quick", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("prove", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("prove" if os.environ.get("PROVE") == "1" else "quick")

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)
_database_numbers = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _refuse_skip((yield))


OPTIONAL = "optional: "
"""How the reason of a skip begins that NO_SKIPS=1 allows."""


def _refuse_skip(report: _Report) -> _Report:
    optional = OPTIONAL in str(report.longrepr)
    if os.environ.get("NO_SKIPS") == "1" and report.skipped and not hasattr(report, "wasxfail") and not optional:
        report.outcome = "failed"
        report.longrepr = f"skipped, which NO_SKIPS=1 does not allow: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what property and fault tests counted (`record_property("counts", line)`), also without -rA."""
    lines = [
        value
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == "counts"
    ]
    if lines:
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """An embedded server of this test process."""
    with (
        tempfile.TemporaryDirectory(prefix="tradeverdict-") as data_dir,
        EmbeddedPostgres(Path(data_dir), durable=False) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that tests copy; it must have no connections."""
    from app.db.migrate import upgrade  # noqa: PLC0415 (tests without a database need no Alembic)

    upgrade(postgres.create_database("migrated"))
    return "migrated"


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The address, as the owner, of a migrated database that only this test uses."""
    name = f"test_{next(_database_numbers)}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)
