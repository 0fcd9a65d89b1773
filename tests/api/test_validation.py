"""A request that is not exactly what was agreed is refused with 422, naming each field; nothing is guessed."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.schemas import DecideRequest
from tests.api.problems import fields_of, problem_of
from tests.builders import a_request


def post(client: TestClient, body: bytes) -> Any:
    return client.post("/decide", content=body, headers={"content-type": "application/json"})


def refused(client: TestClient, request: Any) -> list[str]:
    """The fields named when a request is refused; NaN and Infinity are written bare."""
    problem = problem_of(post(client, json.dumps(request).encode()), ErrorCode.VALIDATION_ERROR)
    return fields_of(problem)


WRONG_NUMBERS = [
    pytest.param(float("nan"), id="NaN"),
    pytest.param(float("inf"), id="Infinity"),
    pytest.param(float("-inf"), id="-Infinity"),
    pytest.param("1", id="text"),
    pytest.param(True, id="true"),
    pytest.param([1], id="list"),
    pytest.param({}, id="object"),
    pytest.param(1e13, id="1e13"),
    pytest.param(-1e13, id="-1e13"),
    pytest.param(10**400, id="huge whole number"),
]


@pytest.mark.parametrize("value", WRONG_NUMBERS)
@pytest.mark.parametrize(
    "name", ["equity", "cash", "buying_power", "daily_pnl", "weekly_pnl", "daily_executed_notional"]
)
def test_a_wrong_account_number_is_refused(offline: TestClient, name: str, value: object) -> None:
    assert refused(offline, a_request(account={name: value})) == [f"account.{name}"]


@pytest.mark.parametrize("value", WRONG_NUMBERS)
@pytest.mark.parametrize("name", ["price", "bid", "ask", "atr", "adv", "spread_pct", "borrow_rate", "rsi", "ma_20"])
def test_a_wrong_market_number_is_refused(offline: TestClient, name: str, value: object) -> None:
    assert refused(offline, a_request(symbol={name: value})) == [f"market.0.{name}"]


def test_a_number_too_large_for_a_float_is_refused(offline: TestClient) -> None:
    body = json.dumps(a_request(account={"equity": "LARGE"})).replace('"LARGE"', "1e999").encode()

    assert fields_of(problem_of(post(offline, body), ErrorCode.VALIDATION_ERROR)) == ["account.equity"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"account": {"equity": 0}}, "account.equity"),
        ({"account": {"equity": -1}}, "account.equity"),
        ({"account": {"equity": None}}, "account.equity"),
        ({"account": {"daily_executed_notional": -1}}, "account.daily_executed_notional"),
        ({"account": {"mode": "demo"}}, "account.mode"),
        ({"account": {"id": ""}}, "account.id"),
        ({"account": {"id": " x"}}, "account.id"),
        ({"account": {"id": "a\nb"}}, "account.id"),
        ({"account": {"id": "a\x00b"}}, "account.id"),
        ({"account": {"id": "a\u202eb"}}, "account.id"),
        ({"account": {"id": "x" * 65}}, "account.id"),
        ({"account": {"id": 7}}, "account.id"),
        ({"account": {"positions": None}}, "account.positions"),
        ({"account": {"nickname": "x"}}, "account.nickname"),
        ({"symbol": {"price": 0}}, "market.0.price"),
        ({"symbol": {"price": -5}}, "market.0.price"),
        ({"symbol": {"atr": -1}}, "market.0.atr"),
        ({"symbol": {"adv": -1}}, "market.0.adv"),
        ({"symbol": {"avg_volume": -1}}, "market.0.avg_volume"),
        ({"symbol": {"volume": -1}}, "market.0.volume"),
        ({"symbol": {"market_cap": -1}}, "market.0.market_cap"),
        ({"symbol": {"borrow_rate": -0.1}}, "market.0.borrow_rate"),
        ({"symbol": {"support": -1}}, "market.0.support"),
        ({"symbol": {"rsi": 100.5}}, "market.0.rsi"),
        ({"symbol": {"iv_rank": -1}}, "market.0.iv_rank"),
        ({"symbol": {"shortable": 1}}, "market.0.shortable"),
        ({"symbol": {"shortable": "true"}}, "market.0.shortable"),
        ({"symbol": {"earnings_date": "soon"}}, "market.0.earnings_date"),
        ({"symbol": {"earnings_date": 20261125}}, "market.0.earnings_date"),
        ({"symbol": {"buckets": ["tech\u200bnology"]}}, "market.0.buckets.0"),
        ({"symbol": {"buckets": "technology"}}, "market.0.buckets"),
        ({"symbol": {"last": 1}}, "market.0.last"),
        ({"symbol": {"symbol": 5}}, "market.0.symbol"),
        ({"market": []}, "market"),
        ({"regime": "sideways"}, "regime"),
        ({"aggressiveness_level": 4}, "aggressiveness_level"),
        ({"aggressiveness_level": -1}, "aggressiveness_level"),
        ({"aggressiveness_level": 1.0}, "aggressiveness_level"),
        ({"aggressiveness_level": True}, "aggressiveness_level"),
        ({"surprise": 1}, "surprise"),
        ({"options_flow": [{"symbol": "no such"}]}, "options_flow.0.symbol"),
        ({"options_flow": [{"symbol": "A", "unusual_activity": [{"size": float("nan")}]}]}, None),
        ({"options_flow": [{"symbol": "A", "unusual_activity": [7]}]}, None),
        ({"options_flow": [{"symbol": "A", "unusual_activity": [{"note": "x" * 2000}]}]}, None),
        ({"news": [{"summary": "no headline"}]}, "news.0.headline"),
        ({"news": [{"headline": "x" * 1001}]}, "news.0.headline"),
        ({"news": [{"headline": "x", "summary": "x" * 10_001}]}, "news.0.summary"),
        ({"news": [{"headline": "x"}] * 201}, "news"),
    ],
)
def test_a_wrong_field_is_refused_by_name(offline: TestClient, changes: dict[str, Any], field: str | None) -> None:
    assert refused(offline, a_request(**changes)) == [field or "options_flow.0.unusual_activity.0"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"account": {"id": ...}}, "account.id"),
        ({"account": {"equity": ...}}, "account.equity"),
        ({"account": {"cash": ...}}, "account.cash"),
        ({"account": {"positions": ...}}, "account.positions"),
        ({"symbol": {"symbol": ...}}, "market.0.symbol"),
        ({"symbol": {"price": ...}}, "market.0.price"),
        ({"as_of": ...}, "as_of"),
        ({"market": ...}, "market"),
    ],
)
def test_a_required_field_that_is_absent_is_refused_by_name(
    offline: TestClient, changes: dict[str, Any], field: str
) -> None:
    assert refused(offline, a_request(**changes)) == [field]


def test_every_wrong_field_is_named_at_once(offline: TestClient) -> None:
    request = a_request(account={"equity": "100000", "cash": True}, symbol={"price": 0, "colour": "red"}, as_of="now")

    assert refused(offline, request) == [
        "account.equity",
        "account.cash",
        "as_of",
        "market.0.price",
        "market.0.colour",
    ]


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-20T15:30:00",
        "2026-11-20",
        "20/11/2026",
        1763652600,
        None,
        "0001-01-01T00:00:00+14:00",
        "3000-01-01T00:00Z",
    ],
)
def test_a_time_without_zone_or_sense_is_refused(offline: TestClient, time: object) -> None:
    bar = {"t": time, "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}

    assert refused(offline, a_request(as_of=time)) == ["as_of"]
    assert refused(offline, a_request(symbol={"bars": [bar]})) == ["market.0.bars.0.t"]
    if time is not None:
        assert refused(offline, a_request(news=[{"headline": "x", "timestamp": time}])) == ["news.0.timestamp"]


@pytest.mark.parametrize(
    "name", ["", " ", "1ABC", "TOOLONG", "A.BCD", "A B", "A..B", "ÄÖÜ", "ıBM", "A" * 40, "$SPX", "A\nB", "A\u200b"]
)
def test_what_is_no_symbol_is_refused(offline: TestClient, name: str) -> None:
    assert refused(offline, a_request(symbol={"symbol": name})) == ["market.0.symbol"]


def test_symbols_are_normalized_before_they_are_compared(offline: TestClient) -> None:
    market = [{"symbol": "brk-b", "price": 1}, {"symbol": " BRK/B ", "price": 2}]
    positions = [{"symbol": "aapl", "quantity": 1}, {"symbol": "AAPL", "quantity": -1}]

    assert refused(offline, a_request(market=market)) == ["market"]
    assert refused(offline, a_request(account={"positions": positions})) == ["account.positions"]


def test_more_than_fifty_symbols_are_refused(offline: TestClient) -> None:
    market = [{"symbol": f"A{number}", "price": 1} for number in range(51)]

    assert refused(offline, a_request(market=market)) == ["market"]


def test_more_than_a_thousand_bars_are_refused(offline: TestClient) -> None:
    bar = {"t": "2026-11-19T00:00:00Z", "o": 1, "h": 1, "l": 1, "c": 1, "v": 1}

    assert refused(offline, a_request(symbol={"bars": [bar] * 1001})) == ["market.0.bars"]


def test_at_most_fifty_faults_are_named(offline: TestClient) -> None:
    assert len(refused(offline, a_request(market=[{"symbol": 1, "price": 0}] * 40))) == 50


def test_what_was_sent_becomes_exact_decimals() -> None:
    request = a_request(
        account={
            "mode": ...,
            "positions": [
                {"symbol": "aapl", "quantity": -0.5, "mark_price": 0, "stop_loss": 0},
                {"symbol": "MSFT", "quantity": 0},
            ],
        },
        symbol={"price": 0.1, "bid": -1, "symbol": "brk/b", "buckets": ["Information Technology"]},
        as_of="2026-11-20T10:30:00-05:00",
        news=[{"headline": "Up\u200b \u202eand away\x00", "symbols": ["nvda", "nonsense!", "NVDA"]}],
        options_flow=[{"symbol": "A", "unusual_activity": ["sweep", {"strike": 5, "side": "call"}]}],
    )

    account, snapshot, level = DecideRequest.model_validate_json(json.dumps(request)).to_domain()

    assert account.mode == "paper"
    assert [position.symbol for position in account.positions] == ["AAPL"]
    assert str(account.positions[0].quantity) == "-0.5"
    assert account.positions[0].mark_price is None
    assert account.positions[0].stop_loss is None
    assert str(snapshot.market[0].price) == "0.1"
    assert str(snapshot.market[0].bid) == "-1.0"
    assert snapshot.market[0].symbol == "BRK.B"
    assert snapshot.market[0].buckets == ("technology",)
    assert snapshot.as_of.isoformat() == "2026-11-20T15:30:00+00:00"
    assert snapshot.news[0].headline == "Up and away"
    assert snapshot.news[0].symbols == ("NVDA",)
    assert snapshot.options_flow[0].unusual_activity == ("sweep", '{"strike":5,"side":"call"}')
    assert level == 1
