"""The prototype's names work as before, but an error can no longer be taken for a calm neutral."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import respx
from scenes import a_blocked_answer, a_live_answer, a_neutral_answer, a_problem

from tradeverdict_client import (
    Account,
    InvalidInput,
    ModelFailed,
    RetryLimits,
    ServiceError,
    SignalFailed,
    SymbolData,
    TradeVerdict,
)
from tradeverdict_client.prototype import (
    ClaudeTrader,
    DecisiveLLMClient,
    FailedSignal,
    KellyCriterion,
    Signal,
    TradingMode,
)

URL = "http://service.test"
NOW = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
ACCOUNT = Account(id="paper-1", equity=100_000, cash=100_000, positions=())
MARKET = MappingProxyType(
    {
        "price": 125.4,
        "volume": 210e6,
        "atr": 4.1,
        "rsi": None,
        "support": 119.0,
        "price_change_pct": 1.2,  # the prototype took it and made no use of it
    }
)
LEGACY = {
    "direction",
    "conviction",
    "rationale",
    "entry_price",
    "stop_loss",
    "take_profit",
    "position_size_pct",
    "key_risks",
    "alternative_scenario",
}


@pytest.fixture
def service() -> Iterator[respx.MockRouter]:
    with respx.mock(base_url=URL, assert_all_called=False) as router:
        yield router


@pytest.fixture
def client() -> Iterator[TradeVerdict]:
    with TradeVerdict(URL, limits=RetryLimits(deadline_s=0.1, first_pause_s=0.001)) as client:
        yield client


@pytest.fixture
def trader(client: TradeVerdict) -> ClaudeTrader:
    return ClaudeTrader(account=ACCOUNT, client=client, clock=lambda: NOW)


def body(route: respx.Route) -> Any:
    return json.loads(route.calls[-1].request.content)


async def on_news(trader: ClaudeTrader) -> Any:
    return await trader.analyze_market_event("Chip orders beat forecasts", "NVDA", MARKET)


async def test_an_approved_long_is_bullish(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_live_answer())

    signal = await on_news(trader)

    assert signal.keys() >= LEGACY
    assert {name: signal[name] for name in LEGACY - {"rationale", "alternative_scenario"}} == {
        "direction": "bullish",
        "conviction": 72,
        "entry_price": 125.4,
        "stop_loss": 119.8,
        "take_profit": 137.0,
        "position_size_pct": 6.6462,  # 6646.20 of 100,000 dollars
        "key_risks": [],
    }
    assert signal["rationale"] == "Higher lows on rising volume."
    assert (signal["should_execute"], signal["quantity"], signal["symbol"]) == (True, 53, "NVDA")
    assert "error" not in signal
    assert json.loads(json.dumps(signal)) == signal


async def test_an_approved_short_is_bearish(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    answer = a_live_answer()
    answer["order"]["side"] = "sell_short"
    service.post("/decide").respond(json=answer)

    assert (await on_news(trader))["direction"] == "bearish"


async def test_the_signal_leads_to_the_ticket(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_live_answer())

    signal = await on_news(trader)

    assert isinstance(signal, Signal)
    assert signal.ticket is not None
    assert signal.ticket.use().quantity == 53


async def test_only_what_the_bot_knows_is_sent(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=a_live_answer())

    await trader.analyze_market_event(
        "Chip orders beat forecasts", "NVDA", MARKET, {"put_call_ratio": 0.7, "mood": "good"}
    )

    sent = body(route)
    assert sent["account"] == {"id": "paper-1", "equity": 100000, "cash": 100000, "positions": []}
    assert sent["market"] == [{"symbol": "NVDA", "price": 125.4, "volume": 210e6, "atr": 4.1, "support": 119.0}]
    assert sent["options_flow"] == [{"symbol": "NVDA", "put_call_ratio": 0.7}]
    assert sent["as_of"] == "2026-11-20T15:30:00Z"
    assert sent["news"] == [
        {
            "headline": "Chip orders beat forecasts",
            "summary": "Chip orders beat forecasts",
            "source": "market_event",
            "timestamp": "2026-11-20T15:30:00Z",
            "symbols": ["NVDA"],
            "event_type": "news",
        }
    ]


async def test_prices_that_name_their_time_count_as_of_it(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=a_live_answer())
    earlier = datetime(2026, 11, 20, 15, 29, tzinfo=UTC)

    await trader.analyze_market_event("News", "NVDA", {**MARKET, "as_of": earlier})

    assert body(route)["as_of"] == body(route)["news"][0]["timestamp"] == "2026-11-20T15:29:00Z"


async def test_the_account_is_asked_for_anew_each_time(client: TradeVerdict, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=a_live_answer())
    equities = iter([100_000, 99_000])

    async def account() -> Account:
        return Account(id="paper-1", equity=next(equities), cash=0, positions=())

    trader = ClaudeTrader(account=account, client=client, clock=lambda: NOW)
    for equity in (100_000, 99_000):
        await on_news(trader)
        assert body(route)["account"]["equity"] == equity


async def test_a_blocked_trade_is_neutral_and_says_why(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_blocked_answer())

    signal = await on_news(trader)

    assert (signal["direction"], signal["conviction"], signal["entry_price"]) == ("neutral", 0, 0.0)
    assert signal["rationale"].startswith("No trade: blocked, SPREAD_TOO_WIDE.")
    assert signal["key_risks"] == ["SPREAD_TOO_WIDE"]
    assert signal["should_execute"] is False


async def test_a_real_neutral_is_neutral(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_neutral_answer())

    signal = await on_news(trader)

    assert (signal["direction"], signal["conviction"], signal.get("error")) == ("neutral", 0, None)


async def test_an_exit_is_never_an_order_to_go_short(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    exit_order = a_live_answer()["order"] | {
        "side": "sell",
        "stop_loss": None,
        "entry_price": None,
        "stop_required": False,
        "reduce_only": True,
    }
    manage = {"symbol": "NVDA", "reduce_pct": 100, "new_stop": None, "new_target": None, "reason": "Below its stop."}
    service.post("/decide").respond(
        json=a_live_answer(action="exit", order=None) | {"order": exit_order} | {"proposal": manage}
    )

    signal = await on_news(trader)

    assert (signal["direction"], signal["action"], signal["should_execute"]) == ("neutral", "exit", True)
    assert signal["rationale"] == "Below its stop."


FAILURES: dict[str, tuple[httpx.Response | Exception, str]] = {
    "the service is down": (httpx.Response(503, json=a_problem("STORE_UNAVAILABLE", 503)), "STORE_UNAVAILABLE"),
    "nobody answers": (httpx.ConnectError("refused"), "NO_ANSWER"),
    "the key is wrong": (httpx.Response(401, json=a_problem("UNAUTHENTICATED", 401)), "UNAUTHENTICATED"),
    "the request is wrong": (httpx.Response(422, json=a_problem("VALIDATION_ERROR", 422)), "VALIDATION_ERROR"),
    "the answer is garbage": (httpx.Response(200, content=b"neutral"), "UNEXPECTED_ANSWER"),
    "the model was late": (httpx.Response(200, json=a_neutral_answer("MODEL_TIMEOUT")), "MODEL_TIMEOUT"),
    "the model babbled": (httpx.Response(200, json=a_neutral_answer("MODEL_INVALID")), "MODEL_INVALID"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_an_error_is_marked_as_one(case: str, trader: ClaudeTrader, service: respx.MockRouter) -> None:
    came, code = FAILURES[case]
    service.post("/decide").mock(side_effect=itertools.repeat(came))

    signal = await on_news(trader)

    assert isinstance(signal, FailedSignal)
    assert signal.get("error")
    assert signal["error"]["code"] == code
    assert code in signal["rationale"]
    assert signal["should_execute"] is False


@pytest.mark.parametrize(
    "read",
    [
        lambda signal: signal["direction"],
        lambda signal: signal.get("direction"),
        lambda signal: signal.get("direction", "neutral") == "neutral",
        lambda signal: signal.get("conviction", 0) < 50,
        lambda signal: signal.pop("conviction", 0),
        lambda signal: signal.setdefault("direction", "neutral"),
        lambda signal: f"{signal.get('stop_loss', 0):.2f}",
        lambda signal: signal["take_profit"],
        lambda signal: signal["entry_price"],
        lambda signal: signal["position_size_pct"],
    ],
)
async def test_no_way_of_reading_it_gives_an_opinion(
    read: Any, trader: ClaudeTrader, service: respx.MockRouter
) -> None:
    service.post("/decide").mock(side_effect=httpx.ConnectError("refused"))
    signal = await on_news(trader)

    with pytest.raises(SignalFailed) as raised:
        read(signal)

    assert raised.value.code == "NO_ANSWER"


async def test_nor_does_a_copy_or_its_json(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").mock(side_effect=httpx.ConnectError("refused"))
    signal = await on_news(trader)

    for copied in (dict(signal), {**signal}, signal.copy(), json.loads(json.dumps(signal))):
        assert copied["direction"] is None
        assert copied.get("conviction", 0) is None
        assert copied["error"]["code"] == "NO_ANSWER"


async def test_a_missing_price_is_an_error(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    signal = await trader.analyze_market_event("News", "NVDA", {"atr": 4.1})

    assert signal["error"]["code"] == "INVALID_INPUT"
    assert "price" in signal["error"]["message"]


async def test_a_fed_event_is_judged_on_the_four_that_the_prototype_watched(
    client: TradeVerdict, service: respx.MockRouter
) -> None:
    route = service.post("/decide").respond(json=a_live_answer())
    trader = ClaudeTrader(
        account=ACCOUNT, client=client, market=lambda symbol: SymbolData(symbol=symbol, price=500), clock=lambda: NOW
    )

    signal = await trader.analyze_fed_event("Rates are unchanged.", 5.25, "unchanged")

    assert [symbol["symbol"] for symbol in body(route)["market"]] == ["SPY", "QQQ", "TLT", "XLF"]
    assert body(route)["news"][0]["event_type"] == "fed"
    assert "Fed funds rate: 5.25. Expected: unchanged" in body(route)["news"][0]["summary"]
    assert signal["direction"] == "bullish"


async def test_earnings_tell_what_was_expected(client: TradeVerdict, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=a_live_answer())

    async def market(symbol: str) -> dict[str, Any]:
        return {"price": 190}

    trader = ClaudeTrader(account=ACCOUNT, client=client, market=market, clock=lambda: NOW)
    await trader.analyze_earnings("AAPL", 2.18, 2.10, 119.6, 117.9, "Weaker than expected")

    assert body(route)["market"] == [{"symbol": "AAPL", "price": 190}]
    news = body(route)["news"][0]
    assert news["event_type"] == "earnings"
    assert "EPS 2.18 (expected 2.1), revenue 119.6 (expected 117.9)" in news["summary"]


async def test_without_market_data_there_is_no_signal(trader: ClaudeTrader) -> None:
    fed = await trader.analyze_fed_event("Rates are unchanged.", 5.25, "unchanged")
    earnings = await trader.analyze_earnings("AAPL", 2.18, 2.10, 119.6, 117.9, "")

    assert fed["error"]["code"] == earnings["error"]["code"] == "NO_MARKET_DATA"


def test_it_works_in_one_event_loop_after_another(trader: ClaudeTrader, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_live_answer())

    for _ in range(2):
        assert asyncio.run(on_news(trader))["direction"] == "bullish"


@dataclass
class TheirMarketData:
    symbol: str
    price: float
    atr: float


class TheirNews:
    def model_dump(self) -> dict[str, Any]:
        return {"headline": "Orders rise", "timestamp": NOW, "url": "http://news.test"}


PORTFOLIO = {"equity": 100_000, "cash": 60_000, "positions": {"AAPL": {"quantity": 50, "avg_price": 190.0}}}


async def test_a_decision_has_the_prototypes_words(client: TradeVerdict, service: respx.MockRouter) -> None:
    route = service.post("/decide").respond(json=a_live_answer())
    llm = DecisiveLLMClient(client=client, clock=lambda: NOW)

    decision = await llm.get_trading_decision(
        {"NVDA": TheirMarketData("NVDA", 125.4, 4.1)}, [TheirNews()], None, PORTFOLIO, aggressiveness_level=1
    )

    assert body(route) == {
        "account": {
            "id": "paper-1",
            "equity": 100000,
            "cash": 60000,
            "positions": [{"symbol": "AAPL", "quantity": 50, "avg_price": 190.0}],
        },
        "as_of": "2026-11-20T15:30:00Z",
        "market": [{"symbol": "NVDA", "price": 125.4, "atr": 4.1}],
        "news": [{"headline": "Orders rise", "timestamp": "2026-11-20T15:30:00Z"}],
        "options_flow": [],
        "aggressiveness_level": 1,
    }
    assert decision.mode is TradingMode.TRADE
    assert decision.should_execute()
    advice = decision.recommendation
    assert advice is not None
    assert (advice.direction.value, advice.entry_price, advice.stop_loss, advice.targets) == (
        "long",
        125.4,
        119.8,
        (137.0,),
    )
    assert (advice.quantity, advice.p_win, decision.conviction) == (53, 0.54, 72)


async def test_a_blocked_decision_recommends_nothing(client: TradeVerdict, service: respx.MockRouter) -> None:
    service.post("/decide").respond(json=a_blocked_answer())
    llm = DecisiveLLMClient(account=ACCOUNT, client=client)

    decision = await llm.get_trading_decision({"NVDA": MARKET}, [])

    assert (decision.recommendation, decision.conviction, decision.should_execute()) == (None, 0, False)


async def test_its_errors_are_raised(client: TradeVerdict, service: respx.MockRouter) -> None:
    llm = DecisiveLLMClient(account=ACCOUNT, client=client)

    service.post("/decide").respond(503)
    with pytest.raises(ServiceError):
        await llm.get_trading_decision({"NVDA": MARKET}, [])
    service.post("/decide").respond(json=a_neutral_answer("MODEL_REFUSED"))
    with pytest.raises(ModelFailed) as raised:
        await llm.get_trading_decision({"NVDA": MARKET}, [])
    assert raised.value.code == "MODEL_REFUSED"


@pytest.mark.parametrize("state", [None, {"equity": 1, "cash": 1}, {"cash": 1, "positions": {}}])
async def test_no_portfolio_is_assumed(state: Any, client: TradeVerdict) -> None:
    with pytest.raises(InvalidInput):
        await DecisiveLLMClient(client=client).get_trading_decision({"NVDA": MARKET}, [], None, state)


@pytest.mark.parametrize(
    ("p", "win", "loss", "expected"),
    [
        (0.55, 0.04, -0.02, 0.08125),  # b = 2; 0.55 - 0.45 / 2 = 0.325; a quarter of it
        (0.60, 0.02, -0.02, 0.05),  # b = 1; 0.6 - 0.4 = 0.2; a quarter of it
        (0.90, 0.04, -0.02, 0.10),  # 0.2125 is more than the most
        (0.30, 0.04, -0.02, 0.0),  # 0.3 - 0.7 / 2 < 0
        (0.0, 0.04, -0.02, 0.0),
        (0.55, 0.0, -0.02, 0.0),
        (0.55, 0.04, 0.0, 0.0),
        (0.55, 0.04, 0.02, 0.0),
    ],
)
def test_kelly_sizes_by_edge(p: float, win: float, loss: float, expected: float) -> None:
    assert KellyCriterion.calculate_position_size(p, win, loss) == pytest.approx(expected)


@pytest.mark.parametrize("p", [-0.1, 1.01, 7.5, float("nan"), None, True])
def test_kelly_takes_only_probabilities(p: Any) -> None:
    with pytest.raises(InvalidInput):
        KellyCriterion.calculate_position_size(p, 0.04, -0.02)


@pytest.mark.parametrize(("conviction", "size"), [(0, 0), (49, 0), (50, 0.02), (75, 0.06), (100, 0.10)])
def test_conviction_sizes_from_fifty_up(conviction: int, size: float) -> None:
    assert KellyCriterion.size_from_conviction(conviction) == size


@pytest.mark.parametrize("conviction", [None, -1, 101, float("nan")])
def test_the_conviction_of_an_error_has_no_size(conviction: Any) -> None:
    with pytest.raises(InvalidInput):
        KellyCriterion.size_from_conviction(conviction)
