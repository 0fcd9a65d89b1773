"""Live accounts stay locked until the settings, the decider and a person, lately, have allowed them."""

from datetime import timedelta
from typing import Any

import pytest

from app.db.live_confirmations import confirm_live, revoke_live
from app.llm.rules import RulesDecider
from app.main import create_app
from tests.api.conftest import ClientWith, client_of, execute, on_database, settings_for
from tests.api.desk import now
from tests.api.scenes import nvda_trade
from tests.builders import a_request, an_exit
from tests.fakes import FakeDecider

ALLOWED = {"live_allowed": True, "max_snapshot_age_s": 60}


class LiveBot:
    """Ask for decisions on one live account, each under a key of its own."""

    def __init__(self, client_with: ClientWith, account_id: str, **settings: Any) -> None:
        self.decider = FakeDecider()
        self.client = client_with(self.decider, **{"limits": ALLOWED} | settings)
        self.account_id = account_id
        self.asked = 0

    def ask(self, *, closing: bool = False, mode: str = "live") -> dict[str, Any]:
        self.asked += 1
        self.decider.will(an_exit(symbol="AAPL") if closing else nvda_trade())
        body = a_request(account={"id": self.account_id, "mode": mode}, as_of=now())
        answer = self.client.post("/decide", json=body, headers={"Idempotency-Key": f"{self.account_id}-{self.asked}"})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


@pytest.fixture
def bot(client_with: ClientWith, account_id: str) -> LiveBot:
    return LiveBot(client_with, account_id)


def confirm(url: str, account_id: str, lasting: timedelta = timedelta(hours=8)) -> None:
    on_database(url, lambda pool: confirm_live(pool, account_id=account_id, operator="ana", lasting=lasting))


def test_an_entry_needs_a_persons_confirmation(bot: LiveBot, shared_database_url: str) -> None:
    unconfirmed = bot.ask()
    confirm(shared_database_url, bot.account_id)
    confirmed = bot.ask()

    assert (unconfirmed["verdict"], unconfirmed["reason_code"]) == ("blocked", "LIVE_NOT_CONFIRMED")
    assert (confirmed["verdict"], confirmed["order"]["mode"]) == ("approved", "live")


def test_the_confirmation_is_for_one_account(bot: LiveBot, shared_database_url: str) -> None:
    confirm(shared_database_url, f"{bot.account_id}-other")

    assert bot.ask()["reason_code"] == "LIVE_NOT_CONFIRMED"


def test_the_confirmation_expires(bot: LiveBot, shared_database_url: str) -> None:
    confirm(shared_database_url, bot.account_id, timedelta(milliseconds=20))
    execute(shared_database_url, "SELECT pg_sleep(0.03)")

    assert bot.ask()["reason_code"] == "LIVE_NOT_CONFIRMED"


def test_the_confirmation_can_be_revoked(bot: LiveBot, shared_database_url: str) -> None:
    confirm(shared_database_url, bot.account_id)
    on_database(shared_database_url, lambda pool: revoke_live(pool, account_id=bot.account_id, operator="ben"))

    assert bot.ask()["reason_code"] == "LIVE_NOT_CONFIRMED"


def test_an_exit_needs_no_confirmation(bot: LiveBot) -> None:
    assert bot.ask(closing=True)["verdict"] == "approved"


def test_paper_needs_none(bot: LiveBot) -> None:
    assert bot.ask(mode="paper")["verdict"] == "approved"


def test_no_confirmation_is_needed_where_the_settings_ask_for_none(client_with: ClientWith, account_id: str) -> None:
    bot = LiveBot(client_with, account_id, limits=ALLOWED | {"require_live_confirm": False})

    assert bot.ask()["verdict"] == "approved"


@pytest.mark.parametrize("closing", [False, True])
def test_nothing_is_live_where_the_settings_do_not_allow_it(
    client_with: ClientWith, account_id: str, shared_database_url: str, closing: bool
) -> None:
    confirm(shared_database_url, account_id)

    assert LiveBot(client_with, account_id, limits={}).ask(closing=closing)["reason_code"] == "LIVE_NOT_ALLOWED"


def test_the_rules_never_serve_live(account_id: str, shared_database_url: str) -> None:
    confirm(shared_database_url, account_id)
    settings = settings_for(shared_database_url, limits=ALLOWED)
    # A dip that the rules buy for a paper account.
    dip = {"rsi": 25, "ma_20": 140.0, "ma_50": 120.0}

    with client_of(create_app(settings, decider=RulesDecider())) as client:
        for mode, verdict in (("paper", "approved"), ("live", "blocked")):
            body = a_request(account={"id": account_id, "mode": mode, "positions": []}, symbol=dip, as_of=now())
            answer = client.post("/decide", json=body, headers={"Idempotency-Key": mode}).json()
            gates = {gate["gate"]: gate["code"] for gate in answer["gates"]}

            assert (answer["action"], answer["verdict"] in (verdict, "resized")) == ("trade", True)
            assert gates["live_interlock"] == ("LIVE_NOT_ALLOWED" if mode == "live" else None)
