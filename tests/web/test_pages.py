"""Pages show what was recorded, to whom it concerns, and whatever came from outside is text and nothing else."""

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from html import unescape
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.db.embedded import EmbeddedPostgres
from app.db.engine import ConnectionPool
from app.db.pages import DecisionPage, page_of_decisions
from app.db.vocabulary import Scope
from app.domain.verdict import Verdict
from app.main import create_app
from app.web.decisions import PAGE
from tests.api.conftest import client_of, execute, on_database, serving, settings_for
from tests.builders import a_request
from tests.fakes import FakeDecider
from tests.web.conftest import Issue, signed_in, text_of
from tests.web.trading import HOSTILE, HOSTILE_ACCOUNT, Trading, history, today

PAGES = ("/", "/ui/calibration", "/ui/gates", "/ui/model", "/ui/exposure", "/ui/halts")


@pytest.fixture(scope="module")
def open_client(shared_database_url: str) -> Iterator[TestClient]:
    """A service without keys, on the database of the module."""
    decider = FakeDecider()
    with client_of(create_app(settings_for(shared_database_url), decider=decider)) as client:
        client.follow_redirects = False
        client.decider = decider  # type: ignore[attr-defined]
        yield client


@pytest.fixture(scope="module")
def empty(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[httpx2.Client]:
    """A client of a service with an empty store, on a real socket."""
    url = postgres.create_database("web_empty", template=migrated_template)
    with serving(create_app(settings_for(url), decider=FakeDecider())) as client:
        yield client
    postgres.drop_database("web_empty")


@pytest.fixture(scope="module")
def told(open_client: TestClient) -> dict[str, dict[str, Any]]:
    """A decision of each kind, after some days of trading."""
    trading = Trading(open_client, open_client.decider)  # type: ignore[attr-defined]
    history(trading, days=14)
    return today(trading)


def ids_of(page: str) -> list[str]:
    return re.findall(r'data-id="([0-9a-f-]{36})"', page)


class TestTheListOfDecisions:
    def test_shows_each_with_its_verdict_and_what_blocked_it(
        self, open_client: TestClient, told: dict[str, dict[str, Any]]
    ) -> None:
        page = open_client.get("/")
        said = text_of(page)

        assert set(ids_of(page.text)) >= {decision["decision_id"] for decision in told.values()}
        for words in (
            "approved",
            "resized",
            "blocked",
            "no trade",
            "STOP_WRONG_SIDE stop, and 2 more",
            "MODEL_TIMEOUT",
        ):
            assert words in said
        assert "$49,909.20" in said
        assert "+0.65 R" in said

    def test_is_newest_first_and_its_pages_hold_every_decision_once(
        self, open_client: TestClient, told: dict[str, dict[str, Any]], shared_database_url: str
    ) -> None:
        rows = execute(
            shared_database_url, "SELECT decision_id FROM llm_decisions ORDER BY decided_at DESC, decision_id DESC"
        )
        seen: list[str] = []
        path: str | None = "/?verdict=approved"
        unfiltered: list[str] = []
        assert len(rows) > PAGE, "there is more than one page"
        older: str | None = "/"
        while older is not None:
            page = open_client.get(older).text
            unfiltered += ids_of(page)
            older = _older(page)
        while path is not None:
            page = open_client.get(path).text
            seen += ids_of(page)
            path = _older(page)

        assert unfiltered == [str(row["decision_id"]) for row in rows]
        assert len(seen) == len(set(seen)) == len(execute(shared_database_url, APPROVED))

    @pytest.mark.parametrize("verdict", list(Verdict))
    def test_holds_to_its_filters(
        self, open_client: TestClient, told: dict[str, dict[str, Any]], shared_database_url: str, verdict: Verdict
    ) -> None:
        shown = ids_of(open_client.get(f"/?account=desk-3&verdict={verdict}").text)
        rows = execute(
            shared_database_url,
            "SELECT decision_id FROM llm_decisions WHERE account_id = 'desk-3' AND verdict = $1 "
            "ORDER BY decided_at DESC, decision_id DESC",
            verdict,
        )

        assert shown == [str(row["decision_id"]) for row in rows]

    def test_says_so_when_nothing_fits(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        assert "No decision fits these filters." in text_of(open_client.get("/?account=nobody"))

    @pytest.mark.parametrize("query", ["verdict=maybe", "before=x", "before=" + "9" * 16 + "-", "account=" + "x" * 65])
    def test_has_no_page_for_nonsense(self, open_client: TestClient, query: str) -> None:
        assert open_client.get(f"/?{query}").status_code == 404

    @pytest.mark.parametrize("path", ["/", "/ui/latest", "/ui/calibration", "/ui/gates", "/ui/exposure"])
    def test_has_no_account_whose_name_cannot_be_written(self, open_client: TestClient, path: str) -> None:
        assert open_client.get(f"{path}?account=a%00b").status_code == 404, "not a database that does not answer"

    def test_has_nothing_before_the_beginning(self, open_client: TestClient) -> None:
        assert ids_of(open_client.get("/?before=0-" + "0" * 32).text) == []

    def test_is_given_anew_as_a_fragment(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        document = open_client.get("/ui/latest?account=desk-1").json()

        assert ids_of(document["rows"])[0] == told["approved"]["decision_id"]
        assert document["older"] is None
        assert open_client.get("/ui/latest").json()["older"] == _older(open_client.get("/").text) is not None
        assert document["halts"].strip() == ""

    def test_looks_for_a_rare_verdict_in_bounded_steps_and_misses_none(
        self, told: dict[str, dict[str, Any]], shared_database_url: str
    ) -> None:
        accounts = ("desk-1", "desk-2", "fund-7")

        async def walk(pool: ConnectionPool, *, verdict: Verdict) -> list[DecisionPage]:
            pages = [await page_of_decisions(pool, accounts=accounts, verdict=verdict, limit=1, look_back=3)]
            while (following := pages[-1].following) is not None:
                pages.append(
                    await page_of_decisions(
                        pool, accounts=accounts, verdict=verdict, limit=1, look_back=3, before=following
                    )
                )
            return pages

        for verdict in (Verdict.BLOCKED, Verdict.RESIZED):
            pages = on_database(shared_database_url, partial(walk, verdict=verdict))
            rows = execute(
                shared_database_url,
                "SELECT decision_id FROM llm_decisions WHERE account_id = ANY ($1) AND verdict = $2 "
                "ORDER BY decided_at DESC",
                list(accounts),
                verdict,
            )

            assert [found.decision_id for page in pages for found in page.decisions] == [
                row["decision_id"] for row in rows
            ]
            assert sum(page.looked_to is not None for page in pages) > 2, "three decisions of each account at a time"


APPROVED = "SELECT FROM llm_decisions WHERE verdict = 'approved'"


def _older(page: str) -> str | None:
    match = re.search(r'<a id="older" href="([^"]*)" rel="next">', page)
    return None if match is None else unescape(match[1])


class TestOneDecision:
    @pytest.mark.parametrize(
        "kind", ["approved", "resized", "blocked", "neutral", "watchlist", "timeout", "exit", "crowded", "hostile"]
    )
    def test_is_shown_from_what_was_sent_to_what_came_of_it(
        self, open_client: TestClient, told: dict[str, dict[str, Any]], kind: str
    ) -> None:
        answer = told[kind]
        said = text_of(open_client.get(f"/ui/decisions/{answer['decision_id']}"))

        assert answer["decision_id"] in said
        for gate in answer["gates"]:
            assert gate["gate"].replace("_", " ") in said
            if gate["code"]:
                assert gate["code"] in said
        for cap in answer["sizing"]["caps"] if answer["sizing"] else []:
            assert cap["cap"].replace("_", " ").replace(":", ": ") in said
        for heading in ("1. What was sent", "5. Ticket", "6. What came of it", "7. Prompt and policy"):
            assert heading in said
        if answer["order"]:
            assert answer["order"]["client_order_id"] in said
        else:
            assert "no order may be sent on this decision" in said

    def test_tells_events_claims_caps_and_the_plan(
        self, open_client: TestClient, told: dict[str, dict[str, Any]]
    ) -> None:
        page = open_client.get(f"/ui/decisions/{told['approved']['decision_id']}")
        said = text_of(page)

        assert "claimed" in said
        assert "stop placed: True; fees: 0.53" in said
        assert "risk budget binds" in said
        assert "Chip orders rise" in said
        assert "UNKNOWN_SYMBOL" in said, "the second candidate's reason"
        charts = charts_of(page.text)
        assert [line["name"] for line in charts["price"]["plan"]] == ["Entry", "Stop", "Target"]
        assert len(charts["price"]["bars"]["close"]) == 60

    def test_shows_its_prompt_as_it_was(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        decision_id = told["approved"]["decision_id"]
        prompt = open_client.get(f"/decisions/{decision_id}/prompt").json()
        page = unescape(open_client.get(f"/ui/decisions/{decision_id}").text)

        assert prompt["system"] in page
        assert prompt["user"] in page

    @pytest.mark.parametrize("decision_id", ["01930000-0000-7000-8000-00000000dead", "7", "x'--"])
    def test_that_is_none_is_not_found(self, open_client: TestClient, decision_id: str) -> None:
        answer = open_client.get(f"/ui/decisions/{decision_id}")

        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")


class TestTheOtherPages:
    def test_calibration_says_what_the_api_says(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        report = open_client.get("/calibration?group_by=decider").json()
        page = open_client.get("/ui/calibration")
        said, charts = text_of(page), charts_of(page.text)

        assert re.search(rf"Verdict: [✓✕…] {report['verdict']} ", said)
        for reason in report["reasons"]:
            assert reason in said
        assert f"Brier score {report['brier']:.4f}" in said
        assert f"Always the win rate {report['murphy']['uncertainty']:.4f}" in said
        assert report["groups"][0]["key"] in said
        told_bins = [(found["n"], found["observed"]) for found in report["bins"] if found["n"]]
        assert [(found["n"], found["observed"]) for found in charts["reliability"]["bins"]] == told_bins
        assert [point["observed"] for point in charts["reliability"]["isotonic"]] == [
            point["observed"] for point in report["isotonic"]
        ]

    def test_calibration_of_one_decider_is_its_own(
        self, open_client: TestClient, told: dict[str, dict[str, Any]]
    ) -> None:
        assert "Calibration of fake/fake-1" in text_of(open_client.get("/ui/calibration?decider=fake/fake-1"))
        assert open_client.get("/ui/calibration?decider=nobody").status_code == 404

    def test_gates_say_what_the_api_says(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        report = open_client.get("/gates").json()
        page = open_client.get("/ui/gates")
        said, charts = text_of(page), charts_of(page.text)

        for code, count in report["funnel"]["blocked_by_reason"].items():
            assert f"{code} " in said
            assert str(count) in said
        resolved = [gate for gate in report["gates"] if gate["resolved"]]
        assert charts["effects"]["gate"] == [gate["gate"].replace("_", " ") for gate in resolved]
        assert charts["effects"]["saved"] == pytest.approx([-gate["blocked_r"] for gate in resolved])

    def test_the_model_page_adds_up_the_ledger(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        costs = open_client.get("/costs?days=7").json()
        said = text_of(open_client.get("/ui/model"))

        assert f"${float(costs['cost_usd']):,.4f}" in said
        assert "MODEL_TIMEOUT 1" in said
        assert "fake fake-1" in said
        assert "Deadline 1,500 ms" in said

    def test_exposure_is_shown_whatever_the_news_holds(
        self, open_client: TestClient, told: dict[str, dict[str, Any]]
    ) -> None:
        news = [{"headline": headline} for headline in ("a\0b", r"a\u0000b", r"a\\u0000b")]
        answer = open_client.post("/decide", json=a_request(account={"id": "odd", "equity": 81_234}, news=news))
        page = open_client.get("/ui/exposure?account=odd")

        assert answer.status_code == 200
        assert "Equity $81,234.00" in text_of(page)

    def test_exposure_names_what_is_over_its_limit(
        self, open_client: TestClient, told: dict[str, dict[str, Any]]
    ) -> None:
        [technology] = [
            bucket for bucket in told["crowded"]["risk_state"]["buckets"] if bucket["bucket"] == "technology"
        ]
        said = text_of(open_client.get("/ui/exposure?account=fund-7"))

        assert technology["reduce_by_usd"] > 0
        assert f"✕ ${technology['reduce_by_usd']:,.2f}" in said
        assert "desk-1" not in said


class TestText:
    """Of strangers: theses, news, names of accounts."""

    def test_from_outside_is_never_markup(self, open_client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        paths = ["/", "/ui/exposure", f"/ui/decisions/{told['hostile']['decision_id']}", "/ui/latest"]
        for path in [*paths, f"/?account={HOSTILE_ACCOUNT}"]:
            answer = open_client.get(path)
            text = answer.json()["rows"] if path == "/ui/latest" else answer.text
            tags = Tags()
            tags.feed(text)
            assert "alert(" in unescape(text), "the page shows what was sent"
            assert tags.handlers == []
            assert tags.inline_scripts == []
            assert not {"img", "svg"} & tags.hostile
        shown = unescape(open_client.get(paths[2]).text)
        assert shown.count(HOSTILE) >= 4, "thesis, headline, summary and source, each as it was sent"

    def test_from_outside_is_no_markup_in_the_errors_either(self, open_client: TestClient) -> None:
        answer = open_client.get("/ui/calibration?decider=<script>alert(1)</script>")

        assert answer.status_code == 404
        assert "<script>alert" not in answer.text


class Tags(HTMLParser):
    """What of a page a browser would run."""

    def __init__(self) -> None:
        super().__init__()
        self.handlers: list[str] = []
        self.inline_scripts: list[dict[str, str | None]] = []
        self.hostile: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "script" and "src" not in given and given.get("type") != "application/json":
            self.inline_scripts.append(given)
        if "alert" in str(given) and tag in ("img", "svg"):
            self.hostile.add(tag)


class TestAKeyForOneAccount:
    """Sees that account, and of others not even that they are there."""

    @pytest.fixture
    def client(self, guarded: TestClient, issue: Issue, told: dict[str, dict[str, Any]]) -> TestClient:
        return signed_in(guarded, issue(Scope.READ, accounts=("desk-1",)))

    def test_sees_only_its_decisions(self, client: TestClient, shared_database_url: str) -> None:
        ours = execute(
            shared_database_url,
            "SELECT decision_id FROM llm_decisions WHERE account_id = 'desk-1' ORDER BY decided_at DESC LIMIT 50",
        )

        assert ids_of(client.get("/").text) == [str(row["decision_id"]) for row in ours]
        assert ids_of(client.get("/?account=desk-2").text) == []
        assert ids_of(client.get("/ui/latest").json()["rows"]) == [str(row["decision_id"]) for row in ours]

    def test_opens_no_decision_of_others(self, client: TestClient, told: dict[str, dict[str, Any]]) -> None:
        assert client.get(f"/ui/decisions/{told['approved']['decision_id']}").status_code == 200
        assert client.get(f"/ui/decisions/{told['resized']['decision_id']}").status_code == 404

    @pytest.mark.parametrize("path", PAGES)
    def test_finds_no_other_account_on_any_page(self, client: TestClient, path: str) -> None:
        said = text_of(client.get(path))

        for other in ("desk-2", "desk-3", "fund-7", "blocked-41"):
            assert other not in said

    def test_counts_only_its_own(self, client: TestClient, shared_database_url: str) -> None:
        [row] = execute(shared_database_url, "SELECT count(*) AS n FROM llm_decisions WHERE account_id = 'desk-1'")

        assert f"every answer that was recorded {row['n']}" in text_of(client.get("/ui/gates"))
        assert f"Decisions {row['n']} P50" in text_of(client.get("/ui/model"))
        assert "MODEL_TIMEOUT" not in text_of(client.get("/ui/model"))


def charts_of(page: str) -> dict[str, Any]:
    """The figures that the charts of a page are drawn from."""
    found = re.findall(r'data-chart="(\w+)"[^>]*><script type="application/json">(.*?)</script>', page, flags=re.DOTALL)
    return {kind: json.loads(figures) for kind, figures in found}


class TestAnEmptyStore:
    @pytest.mark.parametrize(
        ("path", "words"),
        [
            ("/", "No decision yet"),
            ("/ui/calibration", "No forecast is resolved yet"),
            ("/ui/gates", "No decision in this window"),
            ("/ui/model", "Nothing was asked yet"),
            ("/ui/exposure", "No account asked yet"),
            ("/ui/halts", "Nothing is halted."),
        ],
    )
    def test_is_explained_on_every_page(self, empty: httpx2.Client, path: str, words: str) -> None:
        page = empty.get(path)

        assert words in text_of(page)
        if path != "/ui/halts":
            assert f"curl -sS {str(empty.base_url).rstrip('/')}/deci" in text_of(page)

    def test_with_keys_the_command_sends_one(self, guarded: TestClient, issue: Issue) -> None:
        signed_in(guarded, issue(Scope.READ, accounts=("nobody",)))

        assert 'Authorization: Bearer $TRADEVERDICT_API_KEY"' in text_of(guarded.get("/"))

    def test_is_filled_by_the_very_command_that_it_shows(self, empty: httpx2.Client) -> None:
        command = re.search(r"<code>(curl .*?)</code>", empty.get("/").text, flags=re.DOTALL)
        assert command is not None
        ran = subprocess.run(["sh", "-c", unescape(command[1])], capture_output=True, text=True, timeout=20, check=True)
        answer = json.loads(ran.stdout)

        assert answer["verdict"] == "no_trade", answer
        assert ids_of(empty.get("/").text) == [answer["decision_id"]]
