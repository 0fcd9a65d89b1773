"""The bot that the docs show is the bot in the repository: it decides, fills and reports, and people see it."""

import os
import subprocess
import sys

import httpx2
import pytest

from tests.docs.pages import DOCS, ROOT, blocks_of
from tests.faults.processes import Service

BOT = ROOT / "client" / "examples" / "bot.py"


def test_the_page_shows_the_whole_bot_as_it_is() -> None:
    shown = [block.text for block in blocks_of(DOCS / "connect-a-bot.md") if block.language == "python"]

    assert shown[0] == BOT.read_text()


def test_the_bot_is_no_longer_than_promised() -> None:
    assert len(BOT.read_text().splitlines()) <= 60


@pytest.fixture
def traded(empty_store: str, local: Service) -> httpx2.Client:
    """A client of the service at which the bot has traded once."""
    environment = {"PATH": os.environ["PATH"], "TRADEVERDICT_URL": local.base_url}
    ran = subprocess.run(
        [sys.executable, "-W", "error", BOT], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert [line.split(":")[0] for line in ran.stdout.splitlines()] == [
        "buy 62 AMD at 140.00, stop 135.20",
        "filled",
        "closed",
        "calibration",
    ]
    return httpx2.Client(base_url=local.base_url, timeout=20, trust_env=False)


def test_the_bot_decides_fills_and_reports_and_the_dashboard_shows_it(traded: httpx2.Client) -> None:
    with traded as client:
        (listed,) = client.get("/decisions", params={"account": "paper-1"}).json()["decisions"]
        decision = client.get(f"/decisions/{listed['decision_id']}").json()
        told = client.get(f"/decisions/{listed['decision_id']}/events").json()["events"]
        calibration = client.get("/calibration", params={"days": 1}).json()
        home = client.get("/")
        page = client.get(f"/ui/decisions/{listed['decision_id']}")

    assert (listed["verdict"], listed["symbol"], listed["quantity"]) == ("approved", "AMD", 62)
    assert decision["verdict"] == "approved"
    assert [event["event"] for event in told if event["event"] in {"claimed", "filled", "closed"}] == [
        "claimed",
        "filled",
        "closed",
    ]
    assert (calibration["counts"]["resolved"], calibration["counts"]["win"]) == (1, 1)
    assert home.status_code == page.status_code == 200
    for shown in (home.text, page.text):
        assert "AMD" in shown
        assert "approved" in shown.lower()
    assert listed["decision_id"] in home.text
    for shown in ("filled", "closed", "+2.00 R", "$600.78", "$135.20"):
        assert shown in page.text
