"""GET /calibration tells how honest the forecasts were, of the accounts that its caller may see."""

import math
from datetime import date, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.calibration import CalibrationGroup, CalibrationResponse
from app.api.errors import ErrorCode
from app.db.vocabulary import Scope
from app.domain.calibration import calibration_report
from app.domain.outcome import OutcomeClass
from app.domain.proposal import ModelFailure
from app.domain.tally import Tally
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer
from tests.api.desk import Desk
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider
from tests.ledger import Decided, Foretold, kept, today

RULEBOOK = set(
    """
forecast source window counts brier brier_ci95 brier_ci95_iid skill murphy corp reliability_debiased slope slope_binned
calibration_error calibration_error_ci_anytime ece smooth_ece log_loss log_loss_clipped cox citl spiegelhalter_z auc
sharpness e_value effective_n bins isotonic conviction_buckets outcome_distribution win_rate predicted_win_rate
ev_accuracy trade_rate_sessions parse_rate liquidity_violations correlation_breaches meets_seed_targets verdict reasons
recommendations groups
""".split()  # noqa: SIM905 (as it is written there)
)
"""What section 12 of the rulebook promises."""
PARTS = {
    "counts": ["resolved", "pending", "win", "loss", "scratch", "timeout"],
    "murphy": ["reliability", "resolution", "uncertainty"],
    "corp": ["miscalibration", "discrimination", "uncertainty"],
    "cox": ["intercept", "slope"],
}
FRIDAY = date(2026, 3, 6)
NOVEMBER: dict[str, Any] = {"from": "2026-11-20", "to": "2026-11-21"}
MARCH: dict[str, Any] = {"from": "2026-03-01", "to": "2026-03-31"}


@pytest.fixture
def client(client_with: ClientWith) -> TestClient:
    return client_with()


def report(client: TestClient, *, headers: dict[str, str] | None = None, **asked: Any) -> dict[str, Any]:
    answer = client.get("/calibration", params=asked, headers=headers or {})
    assert answer.status_code == 200, answer.text
    CalibrationResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def record(account_id: str, *, days: int = 10, **changes: Any) -> list[Foretold]:
    """Ten days of ten forecasts each, from 41 to 68 %, of which six win."""
    labels = [("win", "1.8")] * 6 + [("loss", "-1")] * 2 + [("scratch", "0.05"), ("timeout", "0.3")]
    return [
        Foretold(
            day=FRIDAY + timedelta(day),
            account_id=account_id,
            percent=41 + 3 * ((7 * number + day) % 10),
            conviction=30 + 5 * number,
            paper=label,
            **changes,
        )
        for day in range(days)
        for number, label in enumerate(labels)
    ]


def figures_of(record: list[Foretold], **asked: Any) -> Any:
    """The figures that the domain computes of a record."""
    cells = [(said, said.executed or said.paper) for said in record]
    tally = Tally.of((said.day, said.percent, OutcomeClass(label[0]), 1) for said, label in cells if label is not None)
    return calibration_report(tally, **asked)


class TestTheReport:
    def test_holds_all_that_the_rulebook_promises(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        told = record(account_id)
        kept(shared_database_url, told)

        found = report(client, account=account_id, **MARCH)

        assert RULEBOOK - set(found) == set()
        for part, names in PARTS.items():
            assert list(found[part]) == names
        assert found["counts"] == {
            "resolved": 100, "pending": 0, "win": 60, "loss": 20, "scratch": 10, "timeout": 10
        }  # fmt: skip
        assert found["window"] == {"from": "2026-03-01", "to": "2026-03-31", "days": 31}
        assert (found["forecast"], found["source"], found["scratch"]) == ("p_win", "all", "0")
        assert (found["group_by"], found["groups"], found["groups_left_out"]) == (None, None, 0)

    def test_is_what_the_domain_computes(self, client: TestClient, account_id: str, shared_database_url: str) -> None:
        told = record(account_id)
        kept(shared_database_url, told)

        found, expected = report(client, account=account_id, **MARCH), figures_of(told)

        for name in ("brier", "slope", "calibration_error", "calibration_error_t", "e_value", "auc", "smooth_ece"):
            assert found[name] == getattr(expected, name)
        assert found["murphy"]["reliability"] == expected.murphy.reliability
        assert found["brier_ci95"] == list(expected.brier_ci95)
        assert [of["n"] for of in found["bins"]] == [of.n for of in expected.bins]
        assert [(of["p"], of["observed"]) for of in found["isotonic"]] == [
            (of.p, of.observed) for of in expected.isotonic
        ]
        assert (found["verdict"], found["reasons"]) == (expected.verdict, list(expected.reasons))
        assert found["brier"] == pytest.approx(
            sum((said.percent / 100 - (said.paper is not None and said.paper[0] == "win")) ** 2 for said in told) / 100
        )

    def test_of_ev_sets_what_was_expected_beside_what_came(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        unknown = Foretold(day=FRIDAY, account_id=account_id, ev_r=None, paper=("win", "9"))
        kept(shared_database_url, [*record(account_id, days=1), unknown])

        found = report(client, account=account_id, **MARCH)["ev_accuracy"]

        # 6 x 1.8 - 2 + 0.05 + 0.3 = 9.15 of ten, each worth 0.20
        assert found == {
            "n": 10,
            "predicted_r": 0.2,
            "realized_r": pytest.approx(0.915),
            "error_r": pytest.approx(-0.715),
        }

    def test_of_convictions_has_the_first_systems_buckets(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        kept(shared_database_url, record(account_id, days=1))

        buckets = report(client, account=account_id, **MARCH)["conviction_buckets"]

        # Convictions 30, 35, ... 75; the first six win, the ninth (70) is a scratch, the tenth (75) a timeout.
        assert [(of["lower"], of["upper"], of["n"], of["win_rate"]) for of in buckets] == [
            (0, 30, 1, 1.0),
            (31, 50, 4, 1.0),
            (51, 70, 4, 0.25),
            (71, 100, 1, 0.0),
        ]

    def test_counts_scratches_as_it_is_told(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        kept(shared_database_url, record(account_id, days=1))

        found = {
            rule: report(client, account=account_id, scratch=rule, **MARCH) for rule in ("0", "0.5", "1", "exclude")
        }

        assert {rule: (of["win_rate"], of["scored"]) for rule, of in found.items()} == {
            "0": (0.6, 10),
            "0.5": (0.65, 10),
            "1": (0.7, 10),
            "exclude": (6 / 9, 9),
        }
        assert all(of["counts"]["scratch"] == 1 for of in found.values())

    @pytest.mark.parametrize(
        ("source", "wins", "losses"), [("all", 1, 1), ("executed", 1, 0), ("paper", 0, 2)], ids=str
    )
    def test_counts_the_labels_it_is_asked_for(
        self, client: TestClient, account_id: str, shared_database_url: str, source: str, wins: int, losses: int
    ) -> None:
        both = Foretold(day=FRIDAY, account_id=account_id, executed=("win", "1.8"), paper=("loss", "-1"))
        kept(shared_database_url, [both, Foretold(day=FRIDAY, account_id=account_id, paper=("loss", "-1"))])

        counts = report(client, account=account_id, source=source, **MARCH)["counts"]

        assert (counts["win"], counts["loss"], counts["resolved"]) == (wins, losses, wins + losses)

    def test_scores_the_forecast_it_is_asked_for(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        said = Foretold(day=FRIDAY, account_id=account_id, percent=54, calibrated=48, conviction=72, paper=("win", "1"))
        bare = Foretold(day=FRIDAY, account_id=account_id, percent=60, conviction=80, paper=("win", "1"))
        kept(shared_database_url, [said, bare])

        predicted = {
            kind: report(client, account=account_id, forecast=kind, **MARCH)["predicted_win_rate"]
            for kind in ("p_win", "p_win_calibrated", "conviction")
        }

        assert predicted == {"p_win": 0.57, "p_win_calibrated": 0.48, "conviction": 0.76}

    def test_leaves_null_what_cannot_be_computed(self, client: TestClient, account_id: str) -> None:
        found = report(client, account=account_id)

        zeros = {name for name in RULEBOOK if found[name] == 0}
        assert zeros == {"liquidity_violations", "correlation_breaches"}
        for name in ("brier", "slope", "murphy", "corp", "auc", "win_rate", "trade_rate_sessions", "parse_rate"):
            assert found[name] is None
        assert found["ev_accuracy"] == {"n": 0, "predicted_r": None, "realized_r": None, "error_r": None}
        assert found["meets_seed_targets"] is None
        assert (found["verdict"], found["bins"][5]["observed"]) == ("insufficient", None)

    def test_judges_nothing_below_twenty(self, client: TestClient, account_id: str, shared_database_url: str) -> None:
        kept(shared_database_url, record(account_id, days=1))

        found = report(client, account=account_id, **MARCH)

        assert found["verdict"] == "insufficient"
        assert found["brier"] is not None
        assert found["reasons"][0] == "10 resolved decisions: below 20 nothing is judged."

    def test_judges_from_the_number_that_is_set(
        self, client_with: ClientWith, account_id: str, shared_database_url: str
    ) -> None:
        kept(shared_database_url, record(account_id, days=1))

        found = report(client_with(calibration_min_decisions=10), account=account_id, **MARCH)

        assert found["verdict"] == "calibrated"

    def test_tells_of_a_decider_that_is_wrong(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        wrong = [
            Foretold(day=FRIDAY + timedelta(day), account_id=account_id, percent=70 + number, paper=paper)
            for day in range(20)
            for number, paper in enumerate([("win", "1.8"), ("loss", "-1"), ("loss", "-1"), ("loss", "-1")])
        ]
        kept(shared_database_url, wrong)

        found = report(client, account=account_id, **MARCH)

        assert (found["verdict"], found["rejected"], found["meets_seed_targets"]) == ("miscalibrated", True, False)
        assert found["e_value"] > 20
        assert math.log(found["e_value"]) == pytest.approx(found["log_e_value"])
        assert any("Lower stated probabilities" in advice for advice in found["recommendations"])


class TestGroups:
    @pytest.mark.parametrize(
        ("group_by", "field", "keys"),
        [
            ("decider", "decider", ["rules", "anthropic/claude-haiku-5-5"]),
            ("prompt", "prompt_hash", ["ab" * 32, "cd" * 32]),
            ("setup", "setup", ["breakout", "momentum"]),
            ("direction", "direction", ["short", "long"]),
        ],
    )
    def test_have_the_same_figures_each(
        self,
        client: TestClient,
        account_id: str,
        shared_database_url: str,
        group_by: str,
        field: str,
        keys: list[str],
    ) -> None:
        many, few = record(account_id, days=2, **{field: keys[0]}), record(account_id, days=1, **{field: keys[1]})
        kept(shared_database_url, [*many, *few])

        found = report(client, account=account_id, group_by=group_by, **MARCH)

        assert [group["key"] for group in found["groups"]] == keys
        for group, of in zip(found["groups"], (many, few), strict=True):
            assert set(group) == set(CalibrationGroup.model_fields)
            assert group["counts"]["resolved"] == len(of)
            assert group["brier"] == figures_of(of).brier
            assert (group["ev_accuracy"] is None) == (group_by == "prompt")
            assert (group["conviction_buckets"][0]["n"]) == len(of) // 10
        assert found["counts"]["resolved"] == 30

    def test_are_accounts_for_whoever_may_see_several(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        kept(
            shared_database_url,
            [*record(account_id, days=1), *record(f"{account_id}-b", days=2)],
            [Decided(day=FRIDAY, account_id=account_id)],
        )

        groups = {group["key"]: group for group in report(client, group_by="account", **MARCH)["groups"]}

        assert groups[account_id]["counts"]["resolved"] == 10
        assert (groups[account_id]["trade_rate_sessions"], groups[account_id]["parse_rate"]) == (1.0, 1.0)
        assert groups[f"{account_id}-b"]["counts"]["resolved"] == 20


class TestWindows:
    def test_are_thirty_days_up_to_today_unless_told(
        self, client: TestClient, account_id: str, shared_database_url: str
    ) -> None:
        last = today(shared_database_url)
        days = [last - timedelta(30), last - timedelta(29), last]
        kept(shared_database_url, [Foretold(day=day, account_id=account_id, paper=("win", "1")) for day in days])

        usual, longer = report(client, account=account_id), report(client, account=account_id, days=31)

        assert usual["window"] == {"from": days[1].isoformat(), "to": last.isoformat(), "days": 30}
        assert (usual["counts"]["resolved"], longer["counts"]["resolved"]) == (2, 3)

    @pytest.mark.parametrize(
        ("query", "field", "said"),
        [
            ("days=0", "days", "greater than or equal to 1"),
            ("days=3651", "days", "less than or equal to 3650"),
            ("days=ten", "days", "valid integer"),
            ("days=30&from=2026-03-01", "", "either days, or both from and to"),
            ("from=2026-03-01", "", "either days, or both from and to"),
            ("to=2026-03-01", "", "either days, or both from and to"),
            ("from=2026-03-02&to=2026-03-01", "", "must span 1 to 3650 days"),
            ("from=2016-01-01&to=2025-12-31", "", "must span 1 to 3650 days"),
            ("from=1772323200&to=2026-03-01", "from", "a date such as 2026-11-20"),
            ("from=2026-02-30&to=2026-03-01", "from", "valid date"),
            ("from=1492-01-01&to=2026-03-01", "from", "greater than or equal to 1900"),
            ("source=live", "source", "'executed', 'paper' or 'all'"),
            ("forecast=luck", "forecast", "'p_win'"),
            ("scratch=2", "scratch", "'exclude'"),
            ("group_by=symbol", "group_by", "'decider'"),
            ("account=", "account", "at least 1"),
            ("day=30", "day", "not permitted"),
        ],
    )
    def test_and_other_questions_that_make_no_sense_are_refused(
        self, offline: TestClient, query: str, field: str, said: str
    ) -> None:
        problem = problem_of(offline.get(f"/calibration?{query}"), ErrorCode.VALIDATION_ERROR)

        assert fields_of(problem) == [field]
        assert said in problem.detail

    def test_may_be_ten_years_long(self, client: TestClient) -> None:
        assert report(client, days=3650)["window"]["days"] == 3650
        longest: dict[str, Any] = {"from": "2016-01-01", "to": "2025-12-28"}
        assert report(client, **longest)["window"]["days"] == 3650


class TestAKey:
    def test_tells_of_its_own_accounts_alone(
        self, client_with: ClientWith, issue: Issue, account_id: str, shared_database_url: str
    ) -> None:
        client, other = client_with(auth=Auth.ON), f"{account_id}-b"
        kept(shared_database_url, [*record(account_id, days=1), *record(other, days=2)])
        mine = bearer(issue(Scope.READ, accounts=[account_id]))
        both = bearer(issue(Scope.READ, accounts=[account_id, other]))

        found = report(client, headers=mine, group_by="account", **MARCH)

        assert [group["key"] for group in found["groups"]] == [account_id]
        assert found["counts"]["resolved"] == 10
        assert report(client, headers=mine, account=other, **MARCH)["counts"]["resolved"] == 0
        assert report(client, headers=both, **MARCH)["counts"]["resolved"] == 30
        assert report(client, headers=both, account=other, **MARCH)["counts"]["resolved"] == 20

    @pytest.mark.parametrize("path", ["/calibration", "/setups", "/gates"])
    def test_must_be_one_that_may_read(self, client_with: ClientWith, issue: Issue, path: str) -> None:
        client = client_with(auth=Auth.ON)

        problem_of(client.get(path), ErrorCode.UNAUTHENTICATED)
        for scope in (Scope.DECIDE, Scope.REPORT, Scope.ADMIN):
            problem_of(client.get(path, headers=bearer(issue(scope))), ErrorCode.FORBIDDEN)
        assert client.get(path, headers=bearer(issue(Scope.READ))).status_code == 200


@pytest.mark.parametrize("path", ["/calibration", "/calibration?group_by=setup", "/setups", "/gates"])
def test_nothing_is_told_without_the_store(offline: TestClient, path: str) -> None:
    problem_of(offline.get(path), ErrorCode.STORE_UNAVAILABLE)


class TestDecisions:
    def test_that_close_are_told_of(self, client_with: ClientWith, account_id: str) -> None:
        decider = FakeDecider()
        desk = Desk(client_with(decider), decider, account_id)
        decision = desk.approved()

        waiting = report(desk.client, account=account_id, **NOVEMBER)
        desk.told(decision, "filled", stop_placed=True)
        desk.told(decision, "closed", exit_reason="target")
        closed = report(desk.client, account=account_id, **NOVEMBER)

        assert (waiting["counts"]["pending"], waiting["counts"]["resolved"]) == (1, 0)
        assert (closed["counts"]["pending"], closed["counts"]["win"]) == (0, 1)
        assert closed["predicted_win_rate"] == 0.54
        assert closed["conviction_buckets"][3]["n"] == 1
        # 53 shares from 125.40 to 137.00
        assert closed["ev_accuracy"]["n"] == 1
        assert closed["ev_accuracy"]["realized_r"] == pytest.approx(11.6 / 5.6, rel=0.01)
        assert closed["ev_accuracy"]["predicted_r"] == pytest.approx(decision["edge"]["ev_r"], abs=1e-6)
        assert (closed["trade_rate_sessions"], closed["parse_rate"]) == (1.0, 1.0)

    def test_that_a_model_failed_at_count_as_no_reply_or_as_one_that_could_not_be_read(
        self, client_with: ClientWith, account_id: str
    ) -> None:
        decider = FakeDecider()
        client = client_with(decider)
        for outcome in (nvda_trade(conviction=10), *ModelFailure):
            decider.will(outcome)
            answer = client.post("/decide", json=a_request(account={"id": account_id}))
            assert answer.status_code == 200

        found = report(client, account=account_id, **NOVEMBER)

        # One reply in four could be read; two more never came. Friday was a session without a trade.
        assert (found["parse_rate"], found["trade_rate_sessions"]) == (0.25, 0.0)
        assert found["counts"]["pending"] == 1
