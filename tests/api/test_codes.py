"""Every code with which a decision is refused can be reached over HTTP, and none comes with an order."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.domain.gates import Code
from app.domain.proposal import Mode, ModelFailure, Proposal
from tests.api.conftest import ClientWith, execute
from tests.api.scenes import SHORT, nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider

ELSEWHERE = {
    Code.HALTED: "tests/test_cli.py",
    Code.REDUCE_ONLY: "tests/test_cli.py",
    Code.LIVE_NOT_CONFIRMED: "tests/test_cli.py",
}
"""Codes whose cause does not come with a request."""

NO_QUOTES = {"bid": ..., "ask": ..., "spread_pct": ...}
FLAT: dict[str, Any] = {"positions": [], "cash": 100_000}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What to change of the example, and the limits to judge it by."""

    account: dict[str, Any] = field(default_factory=dict)
    symbol: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    candidate: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)


def holding(**position: Any) -> dict[str, Any]:
    """An account with one position, in AAPL unless said otherwise."""
    default = {"symbol": "AAPL", "quantity": 50, "mark_price": 201.2, "stop_loss": 185.0}
    return {"positions": [{**default, **position}]}


ROWS = {
    "LIVE_NOT_ALLOWED": Row(account={"mode": "live"}),
    "PROPOSAL_INVALID": Row(candidate={"entry_price": None}),
    "UNKNOWN_SYMBOL": Row(candidate={"symbol": "TSLA"}),
    "STALE_SNAPSHOT": Row(request={"as_of": "2020-11-20T15:30:00Z"}, limits={"max_snapshot_age_s": 60}),
    "FUTURE_SNAPSHOT": Row(request={"as_of": "2199-11-20T15:30:00Z"}),
    "QUOTES_INCONSISTENT": Row(symbol={"bid": 125.42, "ask": 125.38}),
    "DUPLICATE_INTENT": Row(account=holding(symbol="NVDA", mark_price=125.4, stop_loss=120)),
    "OPPOSITE_POSITION": Row(account=holding(symbol="NVDA", quantity=-50, mark_price=125.4, stop_loss=130)),
    "PRICE_COLLAR": Row(candidate={"entry_price": "132.00", "target_price": "160.00"}),
    "STOP_MISSING": Row(candidate={"stop_loss": None}),
    "STOP_WRONG_SIDE": Row(candidate={"stop_loss": "126.00"}),
    "STOP_TOO_TIGHT": Row(candidate={"stop_loss": "125.30"}),
    "STOP_TOO_WIDE": Row(candidate={"stop_loss": "100.00"}),
    "TARGET_WRONG_SIDE": Row(candidate={"target_price": "120.00"}),
    "TARGET_TOO_FAR": Row(candidate={"target_price": "200.00"}),
    "ILLIQUID": Row(symbol={"adv": 2_999_999}),
    "SPREAD_TOO_WIDE": Row(symbol={"bid": 120.0, "ask": 130.8}),
    "PRICE_TOO_LOW": Row(limits={"min_price": 126}),
    "MICROCAP": Row(symbol={"market_cap": 299_999_999}),
    "NOT_SHORTABLE": Row(symbol={"shortable": False}, candidate=SHORT),
    "DAILY_LOSS_LIMIT": Row(account={"daily_pnl": -3_000}),
    "WEEKLY_LOSS_LIMIT": Row(account={"weekly_pnl": -6_000}),
    "LOW_CONVICTION": Row(candidate={"conviction": 30}),
    "LOW_P_WIN": Row(candidate={"p_win_pct": 44, "target_price": "135.00"}),
    "LOW_RISK_REWARD": Row(candidate={"p_win_pct": 60, "target_price": "135.00"}),
    "NEGATIVE_EV": Row(candidate={"p_win_pct": 20}),
    "MISSING_ATR": Row(symbol={"atr": 0}),
    "MISSING_ADV": Row(symbol={"adv": ...}),
    "MISSING_SPREAD": Row(symbol=NO_QUOTES),
    "MISSING_SHORTABLE": Row(symbol={"shortable": ...}, candidate=SHORT),
    "MISSING_DAILY_PNL": Row(account={"daily_pnl": ...}),
    "MISSING_WEEKLY_PNL": Row(account={"weekly_pnl": ...}),
    "MISSING_MARK": Row(account=holding(mark_price=...)),
    "MISSING_POSITION_STOP": Row(account=holding(stop_loss=...)),
    # 100 dollars x 30 bps = 0.30 at risk, and a share risks more than 5
    "SIZE_RISK_BUDGET": Row(account=FLAT | {"equity": 100, "daily_pnl": 0, "weekly_pnl": 0}),
    # 2 % of 102,036 = 2,040.72, of which 2,036 are lost: 4.72 of room
    "SIZE_DAILY_LOSS_ROOM": Row(account=FLAT | {"daily_pnl": -2_036}),
    # 5 % of 105,258 = 5,262.90, of which 5,258 are lost: 4.90 of room
    "SIZE_WEEKLY_LOSS_ROOM": Row(account=FLAT | {"weekly_pnl": -5_258}),
    "SIZE_SYMBOL_EXPOSURE": Row(limits={"max_symbol_exposure_pct": "0.001"}),
    # Shares worth 201,100 of another bucket; a stop so near that they risk 100
    "SIZE_LEVERAGE": Row(account=holding(symbol="XOM", quantity=1_000, mark_price=201.1, stop_loss=201)),
    "SIZE_BUCKET": Row(account=holding(quantity=180, mark_price=201.1, stop_loss=201)),
    "SIZE_BUYING_POWER": Row(account={"buying_power": 125}),
    "SIZE_ORDER_NOTIONAL": Row(limits={"max_order_notional": 120}),
    "SIZE_DAILY_NOTIONAL": Row(account={"daily_executed_notional": 499_900}),
    "SIZE_ADV_PARTICIPATION": Row(symbol={"adv": 31_000_000}, limits={"max_adv_participation": "0.000001"}),
}


def post(client_with: ClientWith, row: Row, decider: FakeDecider, account_id: str) -> dict[str, Any]:
    limits = {name: value if name.endswith("_s") else Decimal(value) for name, value in row.limits.items()}
    answer = client_with(decider, limits=limits).post(
        "/decide",
        json=a_request(account={"id": account_id} | row.account, symbol=row.symbol, **row.request),
        headers={"idempotency-key": account_id},  # live needs one
    )
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize("code", ROWS)
def test_the_example_is_blocked_by_one_change(client_with: ClientWith, account_id: str, code: str) -> None:
    row = ROWS[code]

    answer = post(client_with, row, FakeDecider(nvda_trade(**row.candidate)), account_id)

    assert (answer["verdict"], answer["reason_code"]) == ("blocked", code)
    assert (answer["should_execute"], answer["order"]) == (False, None)
    blocked = [gate["code"] for gate in answer["gates"] if gate["status"] == "block"]
    assert blocked[0] == code
    assert all(code is not None for code in blocked)


def test_the_unchanged_example_is_approved(client_with: ClientWith, account_id: str) -> None:
    answer = post(client_with, Row(), FakeDecider(nvda_trade()), account_id)

    assert (answer["verdict"], answer["reason_code"], answer["should_execute"]) == ("approved", None, True)


@pytest.mark.parametrize("failure", ModelFailure)
def test_a_failed_model_gives_no_trade_and_is_no_opinion(
    client_with: ClientWith, account_id: str, failure: ModelFailure
) -> None:
    answer = post(client_with, Row(), FakeDecider(failure), account_id)

    assert (answer["verdict"], answer["reason_code"], answer["degraded"]) == ("no_trade", failure.value, True)
    assert (answer["should_execute"], answer["order"], answer["proposal"]) == (False, None, None)


@pytest.mark.parametrize("mode", [Mode.NEUTRAL, Mode.WATCHLIST])
def test_a_neutral_model_has_an_opinion(client_with: ClientWith, account_id: str, mode: Mode) -> None:
    answer = post(client_with, Row(), FakeDecider(Proposal(mode=mode)), account_id)

    assert (answer["verdict"], answer["reason_code"], answer["degraded"]) == ("no_trade", "MODEL_NEUTRAL", False)


@pytest.mark.parametrize("scripted", [Proposal(mode=Mode.NEUTRAL), ModelFailure.TIMEOUT, nvda_trade()])
@pytest.mark.parametrize(("ahead_s", "marks"), [(4, 1), (7, 0)])
def test_a_snapshot_from_the_future_leaves_no_mark_whatever_is_proposed(
    client_with: ClientWith,
    shared_database_url: str,
    account_id: str,
    scripted: Proposal | ModelFailure,
    ahead_s: int,
    marks: int,
) -> None:
    # It would be the baseline of a day to come, and what is lost until then would not count.
    as_of = datetime.now(UTC) + timedelta(seconds=ahead_s)
    post(client_with, Row(request={"as_of": as_of.isoformat()}), FakeDecider(scripted), account_id)

    for table in ("account_marks", "account_days"):
        assert len(execute(shared_database_url, f"SELECT FROM {table} WHERE account_id = $1", account_id)) == marks


def test_no_code_of_the_rulebook_is_left_out() -> None:
    caps = {
        "SIZE_" + cap
        for cap in [
            "RISK_BUDGET",
            "DAILY_LOSS_ROOM",
            "WEEKLY_LOSS_ROOM",
            "SYMBOL_EXPOSURE",
            "LEVERAGE",
            "BUCKET",
            "BUYING_POWER",
            "ORDER_NOTIONAL",
            "DAILY_NOTIONAL",
            "ADV_PARTICIPATION",
        ]
    }

    assert set(ROWS) == ({code.value for code in Code} - set(ELSEWHERE)) | caps
