"""Halts are set and lifted by people whose key may, who type the word, say why, and give their name."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.vocabulary import Scope
from app.settings import Auth
from tests.api.conftest import execute
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider
from tests.web.conftest import Issue, SiteWith, signed_in, text_of, token_of

HALT = {
    "whose": "one",
    "account": "desk-1",
    "state": "halted",
    "reason": "numbers look odd",
    "operator": "Ana",
    "confirmation": "HALT",
}
RESUME = {"whose": "one", "account": "desk-1", "reason": "checked", "operator": "Ben", "confirmation": "RESUME"}
IN_FORCE = "SELECT account_id, state, reason, operator FROM halts WHERE lifted_at IS NULL ORDER BY halt_id"


@pytest.fixture(autouse=True)
def nothing_is_halted(shared_database_url: str) -> None:
    execute(shared_database_url, "DELETE FROM halts")


@pytest.fixture
def admin(guarded: TestClient, issue: Issue) -> TestClient:
    """Someone who may do everything to every account."""
    return signed_in(guarded, issue(Scope.READ, Scope.ADMIN))


def send(client: TestClient, path: str, fields: dict[str, str], **changes: Any) -> Any:
    csrf_token = token_of(client.get("/ui/halts"))
    return client.post(f"/ui/halts/{path}", data={"csrf_token": csrf_token, **fields, **changes})


class TestHalting:
    def test_one_account_is_in_force_and_on_record(self, admin: TestClient, shared_database_url: str) -> None:
        answer = send(admin, "set", HALT)

        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/halts")
        assert [tuple(row) for row in execute(shared_database_url, IN_FORCE)] == [
            ("desk-1", "halted", "numbers look odd", "Ana")
        ]
        said = text_of(admin.get("/"))
        assert "HALTED desk-1: numbers look odd (Ana, " in said

    def test_every_account_stops_the_next_decision(
        self, site_with: SiteWith, issue: Issue, shared_database_url: str
    ) -> None:
        client = signed_in(site_with(FakeDecider(nvda_trade())), issue(Scope.READ, Scope.ADMIN))
        bot = {"authorization": f"Bearer {issue(Scope.DECIDE).token}"}

        def decide() -> dict[str, Any]:
            document: dict[str, Any] = client.post(
                "/decide", json=a_request(account={"id": "bot-1"}), headers=bot
            ).json()
            return document

        before = decide()["verdict"]
        send(client, "set", HALT, whose="every", account="", state="reduce_only")
        during = decide()["reason_code"]
        send(client, "lift", RESUME, whose="every", account="")
        after = decide()["reason_code"]

        assert (before, during, after) == ("approved", "REDUCE_ONLY", "DUPLICATE_INTENT")

    def test_and_resuming_leave_who_and_why_on_the_page(self, admin: TestClient) -> None:
        send(admin, "set", HALT)
        answer = send(admin, "lift", RESUME)
        said = text_of(admin.get("/ui/halts"))

        assert answer.status_code == 303
        assert "Nothing is halted." in said
        assert "halted desk-1 numbers look odd Ana" in said
        assert "Ben checked" in said

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"confirmation": ""}, "Type HALT in capitals to confirm."),
            ({"confirmation": "halt"}, "Type HALT in capitals to confirm."),
            ({"confirmation": "RESUME"}, "Type HALT in capitals to confirm."),
            ({"reason": " "}, "This is needed."),
            ({"operator": ""}, "This is needed."),
            ({"account": ""}, "This is needed."),
            ({"account": "*"}, "For every account make the other choice."),
            ({"reason": "x" * 501}, "At most 500 characters, on one line."),
            ({"operator": "A\u202eB"}, "At most 100 characters, on one line."),
            ({"state": "asleep"}, "Choose what is to stop."),
            ({"whose": ""}, "Choose every account, or one."),
        ],
    )
    def test_is_refused_with_a_word_where_the_form_is_wrong(
        self, admin: TestClient, shared_database_url: str, changes: dict[str, str], problem: str
    ) -> None:
        answer = send(admin, "set", HALT, **changes)

        assert answer.status_code == 422
        assert problem in answer.text
        assert 'value="numbers look odd"' in answer.text or "reason" in changes, "what was typed stays"
        assert execute(shared_database_url, IN_FORCE) == []

    def test_needs_the_typed_word_to_resume_too(self, admin: TestClient, shared_database_url: str) -> None:
        send(admin, "set", HALT)

        assert send(admin, "lift", RESUME, confirmation="HALT").status_code == 422
        assert len(execute(shared_database_url, IN_FORCE)) == 1

    def test_is_not_resumed_by_another_name_and_says_so(self, admin: TestClient, shared_database_url: str) -> None:
        send(admin, "set", HALT)
        mistyped = send(admin, "lift", RESUME, account="desk-l")
        first, second = send(admin, "lift", RESUME), send(admin, "lift", RESUME)

        assert mistyped.status_code == 422
        assert "No such halt is in force." in mistyped.text
        assert 'value="desk-l"' in mistyped.text, "what was typed stays"
        assert (first.status_code, second.status_code) == (303, 422), "of two tabs one resumes"
        assert "There is nothing to resume." in second.text

    def test_of_every_account_is_listed_before_any_number_of_others(
        self, admin: TestClient, shared_database_url: str
    ) -> None:
        send(admin, "set", HALT, whose="every", account="", reason="flash crash")
        send(admin, "set", HALT)
        execute(
            shared_database_url,
            "INSERT INTO halts (account_id, state, reason, operator) "
            "SELECT 'desk-1', 'halted', 'one by one', 'Ana' FROM generate_series(1, 60)",
        )

        assert "Since ■ halted every account flash crash" in text_of(admin.get("/ui/halts"))


class TestAKeyThat:
    def test_only_reads_sees_halts_and_no_form(
        self, guarded: TestClient, issue: Issue, shared_database_url: str
    ) -> None:
        signed_in(guarded, issue(Scope.READ))
        page = guarded.get("/ui/halts")
        csrf_token = token_of(page)
        answers = [
            guarded.post(f"/ui/halts/{path}", data={"csrf_token": csrf_token, **fields})
            for path, fields in (("set", HALT), ("lift", RESUME))
        ]

        assert "/ui/halts/set" not in page.text
        assert [answer.status_code for answer in answers] == [403, 403]
        assert execute(shared_database_url, IN_FORCE) == []

    def test_is_for_one_account_halts_that_and_no_other(
        self, guarded: TestClient, issue: Issue, shared_database_url: str
    ) -> None:
        signed_in(guarded, issue(Scope.READ, Scope.ADMIN, accounts=("desk-1",)))

        assert send(guarded, "set", HALT, account="desk-2").status_code == 403
        assert send(guarded, "set", HALT, whose="every").status_code == 403
        assert send(guarded, "lift", RESUME, whose="every").status_code == 403
        assert execute(shared_database_url, IN_FORCE) == []
        assert send(guarded, "set", HALT).status_code == 303
        assert len(execute(shared_database_url, IN_FORCE)) == 1

    def test_is_for_one_account_sees_its_halts_and_those_of_all(
        self, site_with: SiteWith, guarded: TestClient, issue: Issue
    ) -> None:
        operator = site_with(auth=Auth.OFF)
        for account in ("desk-1", "desk-2"):
            send(operator, "set", HALT, account=account, reason=f"because of {account}")
        send(operator, "set", HALT, whose="every", account="", reason="flash crash")
        signed_in(guarded, issue(Scope.READ, accounts=("desk-1",)))

        for path in ("/ui/halts", "/"):
            said = text_of(guarded.get(path))
            assert "because of desk-1" in said
            assert "flash crash" in said
            assert "desk-2" not in said


def test_what_a_person_types_is_text(site_with: SiteWith) -> None:
    operator = site_with(auth=Auth.OFF)
    send(operator, "set", HALT, reason="<script>alert(1)</script>", operator="<b>Ana</b>")
    page = operator.get("/ui/halts").text

    assert "<script>alert" not in page
    assert "<b>Ana" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
