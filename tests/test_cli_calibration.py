"""`tradeverdict calibration` shows the report that GET /calibration answers: as text, as JSON and as a page."""

import json
import re
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.cli import main
from app.cli.calibration_page import calibration_page
from app.cli.calibration_view import figure_text
from app.cli.errors import ExitCode
from app.main import create_app
from app.settings import Auth, Secret, Settings
from tests.fakes import FakeDecider
from tests.ledger import Foretold, kept
from tests.log_state import restored_logging
from tests.test_cli import failure, output

FRIDAY = date(2026, 3, 6)
MARCH = ("--from", "2026-03-01", "--to", "2026-03-31")
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_url: str) -> Any:
    """An empty folder, and a database with a record of forty forecasts of 55 %, half of which won."""
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "AUTH", "DECIDER", "TRADEVERDICT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("LOG_LEVEL", "error")
    kept(
        database_url,
        [
            Foretold(
                day=FRIDAY + timedelta(number % 8),
                account_id="mine" if number % 4 else "other",
                decider=HOSTILE if number % 4 else "rules",
                percent=50 + number % 11,
                paper=("win", "1.8") if number % 2 else ("loss", "-1"),
            )
            for number in range(40)
        ],
    )
    with restored_logging():
        yield


def test_the_report_is_shown_with_a_diagram(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "calibration", *MARCH)

    assert "40 resolved (20 win, 20 loss, 0 scratch, 0 timeout); 0 pending" in shown
    assert re.search(r"50% to 60% +│ +3[0-9] │ +5[0-9]\.[0-9]% │ +[0-9.]+% │.*[─│●]", shown)
    for part in ("Brier score", "Slope (below 1: overconfident)", "71 to 100", "Verdict: calibrated", "→ "):
        assert part in shown


def test_a_report_of_nothing_is_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "calibration", "--days", "7")

    assert "0 resolved" in shown
    assert "Verdict: insufficient" in shown


def test_as_json_it_is_what_the_service_answers(capsys: pytest.CaptureFixture[str], database_url: str) -> None:
    asked = {
        "account": "mine",
        "group_by": "decider",
        "scratch": "exclude",
        "source": "paper",
        "forecast": "conviction",
    }
    options = [part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", value)]

    told = json.loads(output(capsys, "calibration", *MARCH, *options, "--json"))

    settings = Settings(database_url=Secret(database_url), auth=Auth.OFF)
    with TestClient(create_app(settings, decider=FakeDecider())) as client:
        answer = client.get("/calibration", params=asked | {"from": "2026-03-01", "to": "2026-03-31"})
    assert answer.json() == told
    assert told["counts"]["resolved"] == 30


def test_groups_are_shown_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    shown = output(capsys, "calibration", *MARCH, "--group-by", "account")

    assert re.search(r"│ mine +│ 30 ", shown)
    assert re.search(r"│ other +│ 10 +│.*insufficient", shown)


class Page(HTMLParser):
    """The tags and attributes of a page, which must close what it opens."""

    VOID = ("meta", "rect", "line", "circle", "polyline", "text")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = output(capsys, "calibration", *MARCH, "--group-by", "decider", "--html", "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)

    assert said == "wrote page.html\n"
    assert page.open == []
    assert {"svg", "circle", "polyline", "table", "style"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    named = {name for name, _ in page.attributes}
    assert not {"src", "href", "srcset", "action"} & named
    assert not any(name.startswith("on") for name in named)
    assert "://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert" in text


def test_the_page_may_go_to_standard_output(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = output(capsys, "calibration", *MARCH, "--html", "-")

    assert shown.startswith("<!doctype html>")
    assert shown.endswith("</html>\n")
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_nothing_has_an_empty_diagram(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(calibration_page(json.loads(output(capsys, "calibration", "--days", "7", "--json"))))

    assert page.open == []
    assert not {"circle", "polyline"} & set(page.tags)


def test_a_page_that_cannot_be_written_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code, said = failure(capsys, "calibration", "--html", "no/such/folder.html")

    assert (exit_code, said) == (ExitCode.BAD_INPUT, "no/such/folder.html: No such file or directory")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--days", "0"), "--days: Input should be greater than or equal to 1"),
        (("--days", "3", *MARCH), "give either days, or both from and to"),
        (("--from", "2026-03-01"), "give either days, or both from and to"),
        (("--from", "yesterday", "--to", "2026-03-31"), "--from: must be a date such as 2026-11-20"),
        (("--from", "2026-03-31", "--to", "2026-03-01"), "from and to must span 1 to 3650 days"),
    ],
    ids=str,
)
def test_a_window_that_makes_no_sense_is_bad_input(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    assert failure(capsys, "calibration", *options) == (ExitCode.BAD_INPUT, said)


@pytest.mark.parametrize(
    "options",
    [("--source", "live"), ("--group-by", "symbol"), ("--days", "ten"), ("--json", "--html", "-"), ("--account", "")],
    ids=str,
)
def test_an_option_that_does_not_exist_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibration", *options])

    assert ended.value.code == ExitCode.BAD_INPUT
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (0.0, "0"),
        (0.24486, "0.2449"),
        (-1.5, "-1.5"),
        (1e300, "1e+300"),
        (8886.4, "8,886"),
        ([0.1, 0.2], "0.1 to 0.2"),
        ("calibrated", "calibrated"),
    ],
)
def test_a_figure_is_written_for_people(value: object, text: str) -> None:
    assert figure_text(value) == text
