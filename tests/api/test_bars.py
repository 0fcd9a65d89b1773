"""Bars label forecasts on paper, executed or not, and each bar counts once, for its own accounts."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.api.bars import BarsResponse
from app.api.errors import ErrorCode
from app.db.vocabulary import Scope
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer, execute
from tests.api.desk import Desk
from tests.api.labels import counts_of, forecast_of
from tests.api.prices import AWAY, FILLS, FIRST, LOSES, MONDAY, QUIET, TIME_STOP, WINS, a_bar, hours
from tests.api.problems import fields_of, problem_of
from tests.fakes import FakeDecider

WIN, LOSS, SCRATCH, TIMEOUT = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)


@pytest.fixture
def desk(client_with: ClientWith, account_id: str) -> Desk:
    decider = FakeDecider()
    return Desk(client_with(decider), decider, account_id)


@pytest.fixture
def symbol(account_id: str) -> str:
    """A symbol that no other test asks about: without keys a report is about every account."""
    number = int(account_id.rpartition("-")[2])
    return "Q" + "".join(chr(ord("A") + number // 26**place % 26) for place in range(3))


def post(desk: Desk, symbol: str, bars: list[dict[str, Any]], *, interval: str = "1h") -> httpx2.Response:
    body = {"interval": interval, "bars": {symbol: bars}}
    return desk.client.post("/bars", json=body, headers=desk.headers)


def told(desk: Desk, symbol: str, bars: list[dict[str, Any]], *, interval: str = "1h") -> dict[str, Any]:
    """Report bars of one symbol, and return the answer, which must be a complete one."""
    answer = post(desk, symbol, bars, interval=interval)
    assert answer.status_code == 200, answer.text
    BarsResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def settled(resolved: int = 0, unfilled: int = 0) -> dict[str, Any]:
    return {"resolved": resolved, "unfilled": unfilled, "dropped": []}


def said(source: str, counted: tuple[int, ...]) -> dict[tuple[str, str, int], tuple[int, ...]]:
    """The counts of a forecast of 54 % with conviction 72."""
    return {(source, "p_win", 54): counted, (source, "conviction", 72): counted}


class TestBars:
    @pytest.mark.parametrize(
        ("prices", "outcome", "exit_price", "hours_later"),
        [
            ((FILLS, WINS), "win", "137.0", 2),
            ((FILLS, LOSES), "loss", "119.8", 2),
            ((AWAY, FILLS, QUIET, WINS), "win", "137.0", 4),
            # Both touched in one bar: the stop came first.
            ((FILLS, (126.0, 138.0, 119.0, 130.0)), "loss", "119.8", 2),
            # A gap is filled at the open.
            ((FILLS, (118.0, 119.0, 117.0, 118.5)), "loss", "118.0", 1),
            ((FILLS, *(QUIET,) * 47), "timeout", "126.0", 48),
        ],
        ids=["target", "stop", "late fill", "both", "gap", "time stop"],
    )
    def test_label_an_entry_on_paper(
        self,
        desk: Desk,
        symbol: str,
        shared_database_url: str,
        prices: tuple[Any, ...],
        outcome: str,
        exit_price: str,
        hours_later: int,
    ) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        assert told(desk, symbol, hours(*prices)) == settled(resolved=1)

        forecast = forecast_of(shared_database_url, decision)
        entry, cost = Decimal("125.40"), forecast["cost_usd"]
        r = (Decimal(exit_price) - entry - cost) / (Decimal("5.60") + cost)
        assert (forecast["paper_state"], forecast["paper_outcome"]) == ("resolved", outcome)
        assert (forecast["paper_exit_price"], forecast["paper_exit_at"]) == (
            Decimal(exit_price),
            FIRST + timedelta(hours=hours_later),
        )
        assert forecast["paper_r"] == r.quantize(Decimal("0.000001"))
        counted = {"win": WIN, "loss": LOSS, "timeout": TIMEOUT}[outcome]
        assert counts_of(shared_database_url, desk.account_id) == said("paper", counted)

    def test_find_an_entry_that_never_traded(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        assert told(desk, symbol, hours(*(AWAY,) * 48)) == settled(unfilled=1)

        assert forecast_of(shared_database_url, decision)["paper_state"] == "unfilled"
        assert counts_of(shared_database_url, desk.account_id) == {}

    def test_wait_for_more_while_nothing_is_settled(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        assert told(desk, symbol, hours(FILLS, QUIET)) == settled()
        assert forecast_of(shared_database_url, decision)["paper_state"] == "pending"
        assert told(desk, symbol, hours(WINS, first=FIRST + timedelta(hours=2))) == settled(resolved=1)
        assert counts_of(shared_database_url, desk.account_id) == said("paper", WIN)

    def test_told_again_change_nothing(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, hours(FILLS, WINS))
        before = counts_of(shared_database_url, desk.account_id)

        assert told(desk, symbol, hours(FILLS, WINS)) == settled()

        assert counts_of(shared_database_url, desk.account_id) == before == said("paper", WIN)

    def test_label_what_was_blocked_and_say_what_its_gates_saved(
        self, desk: Desk, symbol: str, shared_database_url: str
    ) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY, daily_pnl=-5_000)
        codes = {gate["code"] for gate in decision["gates"] if gate["code"]}

        assert told(desk, symbol, hours(FILLS, LOSES)) == settled(resolved=1)

        # A full stop is -1 R with its costs: (119.80 - 125.40 - C) / (5.60 + C).
        assert forecast_of(shared_database_url, decision)["paper_r"] == -1
        gates = execute(
            shared_database_url,
            "SELECT code, blocked, resolved, won, r FROM gate_sums WHERE account_id = $1",
            desk.account_id,
        )
        assert {tuple(row) for row in gates} == {(code, 1, 1, 0, -1) for code in codes}
        assert counts_of(shared_database_url, desk.account_id) == said("paper", LOSS)

    @pytest.mark.parametrize("bars_first", [True, False], ids=["bars first", "closing first"])
    def test_label_an_executed_forecast_beside_its_trade(
        self, desk: Desk, symbol: str, shared_database_url: str, bars_first: bool
    ) -> None:
        decision = desk.approved(symbol=symbol, as_of=MONDAY)
        closing = {"at": "2024-03-04T17:30:00Z", "price": "119.80", "exit_reason": "stop"}
        if bars_first:
            told(desk, symbol, hours(FILLS, WINS))
        desk.told(decision, "closed", **closing)
        if not bars_first:
            assert told(desk, symbol, hours(FILLS, WINS)) == settled(resolved=1)

        assert counts_of(shared_database_url, desk.account_id) == {
            **said("executed", LOSS),
            **said("paper_of_executed", WIN),
        }

    def test_that_fill_a_hole_correct_the_label(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, [*hours(FILLS), *hours(WINS, first=FIRST + timedelta(hours=2))])
        assert counts_of(shared_database_url, desk.account_id) == said("paper", WIN)

        # In the hour between them the stop was touched.
        assert told(desk, symbol, hours(LOSES, first=FIRST + timedelta(hours=1))) == settled()

        assert counts_of(shared_database_url, desk.account_id) == said("paper", LOSS)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "the later first"])
    def test_after_the_time_stop_end_it_at_the_first_of_them(
        self, desk: Desk, symbol: str, shared_database_url: str, order: tuple[int, int]
    ) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, [a_bar(TIME_STOP - timedelta(hours=2), FILLS)])  # in, and no more is known before the end
        later = [
            [a_bar(TIME_STOP + timedelta(hours=1), (130.0, 131.0, 129.0, 130.0))],
            [a_bar(TIME_STOP + timedelta(hours=5), (133.0, 134.0, 132.0, 133.0))],
        ]

        for place in order:
            told(desk, symbol, later[place])

        forecast = forecast_of(shared_database_url, decision)
        # The last close before the time stop.
        assert (forecast["paper_outcome"], forecast["paper_exit_price"]) == ("timeout", Decimal("126.0"))

    @pytest.mark.parametrize("first", ["1h", "1d"])
    def test_of_several_intervals_are_not_mixed(
        self, desk: Desk, symbol: str, shared_database_url: str, first: str
    ) -> None:
        # The hours say loss and settle it. One day alone, after the time stop, only says that the time is over.
        decision = desk.ask(symbol=symbol, as_of=MONDAY)
        after = [a_bar(datetime(2024, 3, 7, tzinfo=UTC), (140.0, 141.0, 139.0, 140.0))]
        reports = {"1h": hours(FILLS, LOSES), "1d": after}

        for interval in sorted(reports, key=lambda interval: interval != first):
            told(desk, symbol, reports[interval], interval=interval)

        assert forecast_of(shared_database_url, decision)["paper_outcome"] == "loss"
        assert counts_of(shared_database_url, desk.account_id) == said("paper", LOSS)

    def test_of_another_symbol_label_nothing(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        assert told(desk, "OTHER", hours(FILLS, WINS)) == settled()

        assert forecast_of(shared_database_url, decision)["paper_state"] == "pending"

    def test_are_known_by_the_normal_form_of_their_symbol(self, desk: Desk, symbol: str) -> None:
        desk.ask(symbol=f"{symbol}.B", as_of=MONDAY)

        assert told(desk, f" {symbol.lower()}-b ", hours(FILLS, WINS)) == settled(resolved=1)


class TestBarsThatAreDropped:
    def test_are_named_and_the_others_count(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        fills, wins = hours(FILLS, WINS)
        times = [FIRST + timedelta(hours=number) for number in range(6)]
        dirty = [
            fills,
            a_bar(times[1], (126.0, 125.0, 127.0, 126.0)),
            a_bar(times[1], (126.0, 126.5, 125.5, 127.0)),
            a_bar(times[1], (0.0, 126.5, 0.0, 126.0)),
            wins,
            wins,
            fills,
        ]

        document = told(desk, symbol, dirty)

        assert document["resolved"] == 1
        assert [(drop["symbol"], drop["index"], drop["reason"]) for drop in document["dropped"]] == [
            (symbol, 1, "high_below_low"),
            (symbol, 2, "outside_range"),
            (symbol, 3, "not_positive"),
            (symbol, 5, "duplicated"),
            (symbol, 6, "duplicated"),
        ]
        assert counts_of(shared_database_url, desk.account_id) == said("paper", WIN)

    def test_are_those_that_go_back_in_time(self, desk: Desk, symbol: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        first, second = hours(FILLS, QUIET)

        document = told(desk, symbol, [second, first])

        assert [(drop["index"], drop["reason"]) for drop in document["dropped"]] == [(1, "out_of_order")]

    def test_are_those_that_are_not_over(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        now = datetime.now(UTC)
        decision = desk.ask(symbol=symbol, as_of=(now - timedelta(hours=3)).isoformat())
        bars = [
            a_bar(now - timedelta(hours=2), FILLS),
            a_bar(now - timedelta(minutes=55), WINS),
            a_bar(now + timedelta(days=1), WINS),
        ]

        document = told(desk, symbol, bars)

        assert document["resolved"] == 0
        assert [(drop["index"], drop["reason"]) for drop in document["dropped"]] == [
            (1, "still_open"),
            (2, "still_open"),
        ]
        assert forecast_of(shared_database_url, decision)["paper_state"] == "pending"

    def test_are_those_that_contradict_what_is_known(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, hours(FILLS, WINS))

        document = told(desk, symbol, hours(FILLS, LOSES, QUIET))

        second = FIRST + timedelta(hours=1)
        assert document["dropped"] == [
            {"symbol": symbol, "index": 1, "t": second.isoformat().replace("+00:00", "Z"), "reason": "conflict"}
        ]
        assert counts_of(shared_database_url, desk.account_id) == said("paper", WIN)

    def test_are_named_once_where_they_are_repeated_and_contradict(self, desk: Desk, symbol: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, hours(FILLS))

        document = told(desk, symbol, [*hours(QUIET), *hours(QUIET)])

        assert [(drop["index"], drop["reason"]) for drop in document["dropped"]] == [
            (0, "conflict"),
            (1, "duplicated"),
        ]

    def test_may_be_thousands(self, desk: Desk, symbol: str) -> None:
        desk.ask(symbol=symbol, as_of=MONDAY)
        minutes = [FIRST + timedelta(minutes=number) for number in range(2_000)]
        told(desk, symbol, [a_bar(t, AWAY) for t in minutes], interval="1m")

        document = told(desk, symbol, [a_bar(t, QUIET) for t in minutes], interval="1m")

        assert {drop["reason"] for drop in document["dropped"]} == {"conflict"}
        assert len(document["dropped"]) == 2_000


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("body", "named"),
        [
            ({"interval": "2h"}, "interval"),
            ({"interval": None}, "interval"),
            ({"bars": {}}, "bars"),
            ({"bars": []}, "bars"),
            ({"bars": {"not a symbol": []}}, "bars"),
            ({"bars": {"BRK.B": [], "brk-b": []}}, "bars"),
            ({"bars": {f"Q{chr(65 + n // 26)}{chr(65 + n % 26)}": [] for n in range(51)}}, "bars"),
            ({"bars": {"NVDA": [a_bar(FIRST, (-1.0, 1.0, -1.0, 1.0))]}}, "bars.NVDA.0.o"),
            ({"bars": {"NVDA": [a_bar(FIRST) | {"v": -1}]}}, "bars.NVDA.0.v"),
            ({"bars": {"NVDA": [a_bar(FIRST) | {"h": "126"}]}}, "bars.NVDA.0.h"),
            ({"bars": {"NVDA": [a_bar(FIRST) | {"t": "2024-03-04T16:00:00"}]}}, "bars.NVDA.0.t"),
            ({"bars": {"NVDA": [a_bar(FIRST) | {"vwap": 126}]}}, "bars.NVDA.0.vwap"),
            ({"account_id": "paper-1"}, "account_id"),
        ],
        ids=str,
    )
    def test_a_malformed_report_by_its_fields(self, offline: TestClient, body: dict[str, Any], named: str) -> None:
        sent = {"interval": "1h", "bars": {"NVDA": hours(QUIET)}} | body

        assert named in fields_of(problem_of(offline.post("/bars", json=sent), ErrorCode.VALIDATION_ERROR))

    @pytest.mark.parametrize("content", [b"", b"{", b'{"interval": "1h", "bars": {"NVDA": [{"o": NaN}]}}'])
    def test_what_is_no_json(self, offline: TestClient, content: bytes) -> None:
        problem = offline.post("/bars", content=content)

        assert problem.status_code == 422

    def test_anything_while_the_store_is_away(self, offline: TestClient) -> None:
        body = {"interval": "1h", "bars": {"NVDA": hours(QUIET)}}

        problem_of(offline.post("/bars", json=body), ErrorCode.STORE_UNAVAILABLE)

    def test_a_body_that_is_too_large(self, client_with: ClientWith) -> None:
        body = {"interval": "1h", "bars": {"NVDA": hours(*(QUIET,) * 100)}}

        problem_of(client_with(max_body_bytes=1024).post("/bars", json=body), ErrorCode.BODY_TOO_LARGE)


class TestKeys:
    @pytest.fixture
    def guarded(self, client_with: ClientWith) -> tuple[TestClient, FakeDecider]:
        decider = FakeDecider()
        return client_with(decider, auth=Auth.ON), decider

    def test_need_the_scope_report(self, guarded: Any, issue: Issue, account_id: str, symbol: str) -> None:
        client, decider = guarded
        decides = Desk(client, decider, account_id, headers=bearer(issue(Scope.DECIDE, Scope.READ, Scope.ADMIN)))
        reports = Desk(client, decider, account_id, headers=bearer(issue(Scope.REPORT)))
        decides.ask(symbol=symbol, as_of=MONDAY)

        problem_of(post(decides, symbol, hours(FILLS, WINS)), ErrorCode.FORBIDDEN)
        problem_of(post(Desk(client, decider, account_id), symbol, hours(FILLS)), ErrorCode.UNAUTHENTICATED)
        assert told(reports, symbol, hours(FILLS, WINS)) == settled(resolved=1)

    def test_label_their_own_accounts_alone(
        self, guarded: Any, issue: Issue, account_id: str, symbol: str, shared_database_url: str
    ) -> None:
        client, decider = guarded
        scopes = (Scope.DECIDE, Scope.REPORT)
        names = [account_id, f"{account_id}-b"]
        mine, theirs = (Desk(client, decider, name, headers=bearer(issue(*scopes, accounts=[name]))) for name in names)
        decisions = [desk.ask(symbol=symbol, as_of=MONDAY) for desk in (mine, theirs)]

        # A hostile report labels nobody else's forecasts, and contradicts nobody else's bars.
        assert told(theirs, symbol, hours(FILLS, LOSES)) == settled(resolved=1)
        assert forecast_of(shared_database_url, decisions[0])["paper_state"] == "pending"
        assert told(mine, symbol, hours(FILLS, WINS)) == settled(resolved=1)

        assert counts_of(shared_database_url, names[0]) == said("paper", WIN)
        assert counts_of(shared_database_url, names[1]) == said("paper", LOSS)

    def test_for_every_account_label_all_of_them(
        self, guarded: Any, issue: Issue, account_id: str, symbol: str
    ) -> None:
        client, decider = guarded
        headers = bearer(issue(Scope.DECIDE, Scope.REPORT))
        desks = [Desk(client, decider, f"{account_id}-{name}", headers=headers) for name in "abc"]
        for desk in desks:
            desk.ask(symbol=symbol, as_of=MONDAY)

        assert told(desks[0], symbol, hours(FILLS, WINS)) == settled(resolved=3)


class TestTheBarsOfLaterSnapshots:
    def test_label_earlier_forecasts_after_the_answer(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        snapshot(desk, symbol, as_of="2024-03-04T18:00:00Z", bars=hours(FILLS, WINS))

        assert state_soon(shared_database_url, decision) == "resolved"
        assert forecast_of(shared_database_url, decision)["paper_outcome"] == "win"
        assert counts_of(shared_database_url, desk.account_id) == said("paper", WIN)

    def test_count_only_as_far_as_they_were_over(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)

        # At 17:30 the hour that began at 17:00, in which the target trades, is not over.
        snapshot(desk, symbol, as_of="2024-03-04T17:30:00Z", bars=hours(QUIET, WINS))
        snapshot(desk, symbol, as_of="2024-03-04T18:30:00Z", bars=hours(QUIET, LOSES))

        assert state_soon(shared_database_url, decision) == "resolved"
        assert forecast_of(shared_database_url, decision)["paper_outcome"] == "loss"

    def test_label_their_own_account_alone(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        other = Desk(desk.client, desk.decider, f"{desk.account_id}-other")
        decision, foreign = desk.ask(symbol=symbol, as_of=MONDAY), other.ask(symbol=symbol, as_of=MONDAY)

        snapshot(desk, symbol, as_of="2024-03-04T18:00:00Z", bars=hours(FILLS, WINS))

        assert state_soon(shared_database_url, decision) == "resolved"
        assert forecast_of(shared_database_url, foreign)["paper_state"] == "pending"

    def test_are_the_same_bars_as_those_reported(self, desk: Desk, symbol: str, shared_database_url: str) -> None:
        decision = desk.ask(symbol=symbol, as_of=MONDAY)
        told(desk, symbol, hours(FILLS, QUIET))

        # The report counted first: this snapshot contradicts it in its second hour, and adds a third.
        snapshot(desk, symbol, as_of="2024-03-04T19:00:00Z", bars=hours(FILLS, LOSES, WINS))

        assert state_soon(shared_database_url, decision) == "resolved"
        assert forecast_of(shared_database_url, decision)["paper_outcome"] == "win"


def snapshot(desk: Desk, symbol: str, *, as_of: str, bars: list[dict[str, Any]]) -> None:
    """Ask about a symbol with these bars, be the entry blocked or not."""
    desk._decide(as_of=as_of, account={}, symbol={"symbol": symbol, "bars": bars})


def state_soon(url: str, decision: dict[str, Any]) -> str:
    """The paper state of a forecast, once it is settled or three seconds are over."""
    until = time.monotonic() + 3
    while (state := forecast_of(url, decision)["paper_state"]) == "pending" and time.monotonic() < until:
        time.sleep(0.02)
    return str(state)
