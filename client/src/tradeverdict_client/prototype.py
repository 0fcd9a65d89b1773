"""Stand in for the prototype's `ClaudeTrader`, `DecisiveLLMClient` and `KellyCriterion`.

The same names, arguments and results, with three differences, all on purpose:
  * the account is asked for, never assumed: the prototype told the model "$100,000 cash, no positions";
  * what is not known is not sent: the prototype filled in a price of 100, an ATR of 2, an ADV of 10 million;
  * an error is never a calm neutral. `ClaudeTrader` gives a `FailedSignal`, whose opinion cannot be read;
    `DecisiveLLMClient` raises.
"""

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar, Final, TypeVar, cast

from tradeverdict_client.client import TradeVerdict
from tradeverdict_client.decision import Decision, Ticket, WatchItem
from tradeverdict_client.errors import InvalidInput, ModelFailed, SignalFailed, TradeVerdictError
from tradeverdict_client.reports import utc_now
from tradeverdict_client.snapshot import Account, News, OptionsFlow, Position, Snapshot, SymbolData

T = TypeVar("T")

FED_SYMBOLS: Final = ("SPY", "QQQ", "TLT", "XLF")
MAX_HEADLINE: Final = 200
MAX_SUMMARY: Final = 10_000
MOST_OF_CAPITAL: Final = 0.10

AccountSource = Account | Callable[[], Account | Awaitable[Account]]
MarketSource = Callable[[str], "SymbolData | Mapping[str, Any] | Awaitable[SymbolData | Mapping[str, Any]]"]


class Signal(dict[str, Any]):
    """An opinion, in the dictionary that bots already read; `decision` has everything, `ticket` the order.

    direction (bullish, bearish, neutral), conviction (0-100), rationale, entry_price, stop_loss, take_profit (dollars;
    0.0 without an order), position_size_pct (percent of equity), key_risks, alternative_scenario; and symbol, action,
    verdict, reason_code, should_execute, quantity, decision_id, client_order_id, valid_until.
    """

    error: ClassVar[None] = None

    def __init__(self, told: Mapping[str, Any], *, decision: Decision) -> None:
        super().__init__(told)
        self.decision = decision

    @property
    def ticket(self) -> Ticket | None:
        return self.decision.ticket


class FailedSignal(dict[str, Any]):
    """No opinion. `signal["error"]` is {"code", "message"}; whoever reads an opinion from it gets `SignalFailed`.

    Every field of the opinion is None, also in a copy and in JSON, and reading one by `[]`, `get`, `pop` or
    `setdefault` raises: a bot that forgets to look for the error stops here rather than believing "neutral".
    """

    OPINION: ClassVar = ("direction", "conviction", "entry_price", "stop_loss", "take_profit", "position_size_pct")

    def __init__(self, error: TradeVerdictError) -> None:
        super().__init__(
            dict.fromkeys(self.OPINION)
            | {
                "rationale": f"ERROR {error}",
                "key_risks": [],
                "alternative_scenario": "",
                "should_execute": False,
                "error": {"code": error.code, "message": error.detail},
            }
        )
        self.error = error

    def __getitem__(self, name: str) -> Any:
        self._refuse(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._refuse(name)
        return super().get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        self._refuse(name)
        return super().pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        self._refuse(name)
        return super().setdefault(name, default)

    def _refuse(self, name: str) -> None:
        if name in self.OPINION:
            raise SignalFailed(
                f"{name} was read of a failed signal: {self.error}", code=self.error.code
            ) from self.error


class ClaudeTrader:
    """Give signals on events.

    `account` is the account, or a function that gives it as it is now. `market` gives what is known of a symbol, for
    the events that come without market data (Fed, earnings). Prices count as of now unless the market data has an
    `as_of`. Requests are sent from a thread, so it may be used from any event loop.
    """

    def __init__(
        self,
        *,
        account: AccountSource,
        market: MarketSource | None = None,
        client: TradeVerdict | None = None,
        aggressiveness_level: int | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._account = account
        self._market = market
        self._client = client or TradeVerdict()
        self._level = aggressiveness_level
        self._clock = clock

    async def analyze_market_event(
        self,
        event_text: str,
        symbol: str,
        market_data: Mapping[str, Any],
        options_data: Mapping[str, Any] | None = None,
        historical_events: Sequence[Any] | None = None,  # noqa: ARG002 (the prototype did not use them either)
    ) -> Signal | FailedSignal:
        """Give a signal on a piece of news about a symbol."""
        return await self._signal(event_text, "news", {symbol: market_data}, options_data)

    async def analyze_fed_event(
        self,
        fed_text: str,
        current_rate: float,
        rate_expectations: str,
        *,
        market_data: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Signal | FailedSignal:
        """Give a signal on a Fed statement: for the best of the given symbols, else of SPY, QQQ, TLT and XLF."""
        text = f"{fed_text}\nFed funds rate: {current_rate}. Expected: {rate_expectations}"
        return await self._signal(text, "fed", market_data, symbols=FED_SYMBOLS)

    async def analyze_earnings(  # noqa: PLR0917 (as the prototype has them)
        self,
        symbol: str,
        actual_eps: float,
        expected_eps: float,
        actual_rev: float,
        expected_rev: float,
        guidance: str,
        *,
        market_data: Mapping[str, Any] | None = None,
    ) -> Signal | FailedSignal:
        """Give a signal on an earnings report."""
        text = (
            f"{symbol} reported EPS {actual_eps} (expected {expected_eps}), revenue {actual_rev} "
            f"(expected {expected_rev}). Guidance: {guidance}"
        )
        known = None if market_data is None else {symbol: market_data}
        return await self._signal(text, "earnings", known, symbols=(symbol,))

    async def _signal(
        self,
        text: str,
        kind: str,
        market_data: Mapping[str, Mapping[str, Any]] | None,
        options: Mapping[str, Any] | None = None,
        *,
        symbols: Iterable[str] = (),
    ) -> Signal | FailedSignal:
        try:
            known = await self._known(symbols) if market_data is None else market_data
            account = await _awaited(self._account() if callable(self._account) else self._account)
            as_of = _as_of(known.values()) or self._clock()
            news = News(
                headline=text[:MAX_HEADLINE],
                summary=text[:MAX_SUMMARY],
                source="market_event",
                timestamp=as_of,
                symbols=tuple(known),
                event_type=kind,
            )
            flow = () if options is None else (_made(OptionsFlow, options, symbol=next(iter(known))),)
            snapshot = Snapshot(
                account=account,
                as_of=as_of,
                market=tuple(_made(SymbolData, data, symbol=symbol) for symbol, data in known.items()),
                news=(news,),
                options_flow=flow,
                aggressiveness_level=self._level,
            )
            decision = await asyncio.to_thread(self._client.decide, snapshot)
            if decision.model_failed:
                raise _model_failed(decision)
            return _signal_of(decision, account)
        except TradeVerdictError as error:
            return FailedSignal(error)

    async def _known(self, symbols: Iterable[str]) -> Mapping[str, Any]:
        if self._market is None:
            raise InvalidInput(
                "no market data: pass market_data, or give ClaudeTrader a `market`", code="NO_MARKET_DATA"
            )
        return {symbol: await _awaited(self._market(symbol)) for symbol in symbols}


class TradingMode(StrEnum):
    """Name what the decider wants to do."""

    TRADE = "trade"
    ADJUST = "adjust"
    EXIT = "exit"
    NEUTRAL = "neutral"
    WATCHLIST = "watchlist"


class Direction(StrEnum):
    """Name the side of an entry."""

    LONG = "long"
    SHORT = "short"


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeRecommendation:
    """An approved entry, in the fields that bots already read; `quantity` is what may be traded."""

    symbol: str
    direction: Direction
    setup: str
    entry_type: str
    entry_price: float
    stop_loss: float
    targets: tuple[float, ...]
    position_size_bps: float
    quantity: int
    risk_reward: float
    p_win: float
    expected_value_pct: float
    thesis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TradingDecision:
    """A decision in the prototype's words; a recommendation is there exactly when an entry was approved."""

    mode: TradingMode
    conviction: int
    recommendation: TradeRecommendation | None
    watchlist: tuple[WatchItem, ...]
    notes: str
    decision: Decision

    def should_execute(self) -> bool:
        """Tell whether there is an order to place, now."""
        return self.decision.should_execute()


class DecisiveLLMClient:
    """Ask for decisions on several symbols; errors are raised, a failure of the model (`ModelFailed`) too."""

    def __init__(
        self,
        *,
        account: AccountSource | None = None,
        account_id: str = "paper-1",
        client: TradeVerdict | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._account = account
        self._account_id = account_id
        self._client = client or TradeVerdict()
        self._clock = clock

    async def get_trading_decision(
        self,
        market_data: Mapping[str, Any],
        news_events: Sequence[Any],
        options_flow: Mapping[str, Any] | None = None,
        portfolio_state: Mapping[str, Any] | None = None,
        aggressiveness_level: int | None = None,
    ) -> TradingDecision:
        """Ask for one decision; mappings, dataclasses and pydantic models are all taken.

        `portfolio_state` (equity, cash, positions by symbol, daily_pnl, ...) may be left out only where the client
        was given an `account`.

        Raises:
            TradeVerdictError: there is no decision.
        """
        markets = tuple(_made(SymbolData, data, symbol=symbol) for symbol, data in market_data.items())
        account = await self._portfolio(portfolio_state)
        snapshot = Snapshot(
            account=account,
            as_of=_as_of(market_data.values()) or self._clock(),
            market=markets,
            news=tuple(_made(News, event) for event in news_events),
            options_flow=tuple(
                _made(OptionsFlow, flow, symbol=symbol) for symbol, flow in (options_flow or {}).items()
            ),
            aggressiveness_level=aggressiveness_level,
        )
        decision = await asyncio.to_thread(self._client.decide, snapshot)
        if decision.model_failed:
            raise _model_failed(decision)
        return _in_the_prototypes_words(decision)

    async def _portfolio(self, state: Mapping[str, Any] | None) -> Account:
        if state is None:
            if self._account is None:
                raise InvalidInput("the portfolio is missing, and none is assumed: pass portfolio_state")
            return await _awaited(self._account() if callable(self._account) else self._account)
        held = state.get("positions")
        if held is None:
            raise InvalidInput("portfolio_state has no positions; an empty one is {}")
        listed = (
            [_made(Position, position, symbol=symbol) for symbol, position in held.items()]
            if isinstance(held, Mapping)
            else [_made(Position, position) for position in held]
        )
        return replace(_made(Account, state, id=self._account_id, positions=()), positions=tuple(listed))


class KellyCriterion:
    """Size by edge. An approved ticket already is: its `quantity` is the most that may be traded."""

    @staticmethod
    def calculate_position_size(
        win_probability: float, avg_win_return: float, avg_loss_return: float, kelly_fraction: float = 0.25
    ) -> float:
        """Give a fraction of capital, 0 to 0.10: kelly_fraction x (p - (1 - p) / b), b = win / loss (Kelly 1956).

        `avg_loss_return` is negative; returns are fractions.

        Raises:
            InvalidInput: the probability lies outside [0, 1], or something is not finite.
        """
        _check(win_probability, avg_win_return, avg_loss_return, kelly_fraction)
        if not 0 <= win_probability <= 1:
            raise InvalidInput(f"win_probability is {win_probability}, and must lie in [0, 1]")
        if avg_loss_return >= 0 or avg_win_return <= 0 or kelly_fraction <= 0:
            return 0.0
        ratio = avg_win_return / -avg_loss_return
        kelly = win_probability - (1 - win_probability) / ratio
        return max(0.0, min(MOST_OF_CAPITAL, kelly_fraction * kelly))

    @staticmethod
    def size_from_conviction(conviction: float, base_size: float = 0.02, max_size: float = 0.10) -> float:
        """Give a fraction of capital: base_size at conviction 50, max_size at 100, 0 below 50.

        Raises:
            InvalidInput: the conviction lies outside [0, 100], as one of an error (None) does.
        """
        _check(conviction, base_size, max_size)
        if not 0 <= conviction <= 100:
            raise InvalidInput(f"conviction is {conviction}, and must lie in [0, 100]")
        if conviction < 50:
            return 0.0
        return round(base_size + (max_size - base_size) * (conviction - 50) / 50, 3)


def _signal_of(decision: Decision, account: Account) -> Signal:
    """Write a decision as a signal: only an approved entry is bullish or bearish, all else is neutral, and says why."""
    ticket, proposal = decision.ticket, decision.proposal
    enters = decision.approved and ticket is not None and not ticket.reduce_only and decision.action == "trade"
    told: dict[str, Any] = {
        "direction": "neutral",
        "conviction": 0,
        "rationale": _why(decision),
        "entry_price": 0.0,
        "stop_loss": 0.0,
        "take_profit": 0.0,
        "position_size_pct": 0.0,
        "key_risks": list(decision.blocked_by),
        "alternative_scenario": "",
        "symbol": None if proposal is None else proposal.symbol,
        "action": decision.action,
        "verdict": decision.verdict,
        "reason_code": decision.reason_code,
        "should_execute": decision.should_execute(),
        "quantity": 0 if ticket is None else ticket.quantity,
        "decision_id": decision.decision_id,
        "client_order_id": None if ticket is None else ticket.client_order_id,
        "valid_until": decision.valid_until.isoformat(),
    }
    if enters and ticket is not None and proposal is not None:
        notional = ticket.notional_usd or Decimal(0)
        told |= {
            "direction": "bullish" if ticket.side == "buy" else "bearish",
            "conviction": proposal.conviction,
            "entry_price": _entry(ticket),
            "stop_loss": _dollars(ticket.stop_loss),
            "take_profit": _dollars(ticket.target),
            "position_size_pct": 100 * float(notional) / float(account.equity),
            "alternative_scenario": f"The idea is wrong at {ticket.stop_loss}.",
        }
    return Signal(told, decision=decision)


def _why(decision: Decision) -> str:
    thesis = "" if decision.proposal is None else decision.proposal.thesis or decision.proposal.reason or ""
    if not decision.approved:
        codes = ", ".join(decision.blocked_by) or str(decision.reason_code)
        return f"No trade: {decision.verdict}, {codes}. {thesis or decision.notes}".strip()
    return thesis or decision.notes


def _in_the_prototypes_words(decision: Decision) -> TradingDecision:
    ticket, proposal, edge = decision.ticket, decision.proposal, decision.edge
    advice = None
    conviction = 0 if proposal is None else proposal.conviction or 0
    if decision.approved and decision.action == "trade" and None not in (ticket, proposal, edge):
        ticket, proposal, edge = cast("Any", ticket), cast("Any", proposal), cast("Any", edge)
        advice = TradeRecommendation(
            symbol=ticket.symbol,
            direction=Direction.LONG if ticket.side == "buy" else Direction.SHORT,
            setup=proposal.setup,
            entry_type=ticket.entry_type,
            entry_price=_entry(ticket),
            stop_loss=_dollars(ticket.stop_loss),
            targets=tuple(float(target.price) for target in ticket.targets),
            position_size_bps=ticket.risk_bps,
            quantity=ticket.quantity,
            risk_reward=edge.risk_reward,
            p_win=edge.p_win,
            expected_value_pct=100 * edge.ev_pct,
            thesis=proposal.thesis,
        )
    return TradingDecision(
        mode=TradingMode(decision.action),
        conviction=conviction if decision.approved else 0,
        recommendation=advice,
        watchlist=decision.watchlist,
        notes=_why(decision),
        decision=decision,
    )


def _model_failed(decision: Decision) -> ModelFailed:
    failed = ModelFailed(f"decision {decision.decision_id} has no opinion", code=decision.reason_code)
    failed.idempotency_key = decision.idempotency_key
    return failed


def _entry(ticket: Ticket) -> float:
    """Give the price to enter at; of a market order, what the service judged it by."""
    if ticket.entry_price is not None:
        return float(ticket.entry_price)
    return float((ticket.notional_usd or Decimal(0)) / ticket.quantity) if ticket.quantity else 0.0


def _dollars(price: Decimal | None) -> float:
    return 0.0 if price is None else float(price)


async def _awaited(given: T | Awaitable[T]) -> T:
    return cast("T", await given if inspect.isawaitable(given) else given)


def _as_of(known: Iterable[Any]) -> datetime | None:
    """Give the oldest time that market data names as its own."""
    told = [moment for data in known if isinstance(moment := _named(data).get("as_of"), datetime)]
    return min(told) if told else None


def _made(kind: type[T], source: Any, **defaults: Any) -> T:
    """Make one of ours from what a bot has; fields that we do not know, and None, are left out.

    Raises:
        InvalidInput: a field that is needed is missing.
    """
    if isinstance(source, kind):
        return source
    named = _named(source)
    known = {spec.name for spec in fields(cast("Any", kind))}
    values = defaults | {name: value for name, value in named.items() if name in known and value is not None}
    for name, value in values.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise InvalidInput(f"{kind.__name__}.{name} has no time zone")
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidInput(f"{kind.__name__} of {sorted(named)}: {error}") from error


def _named(source: Any) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if is_dataclass(source) and not isinstance(source, type):
        return {spec.name: getattr(source, spec.name) for spec in fields(source)}
    if callable(dump := getattr(source, "model_dump", None) or getattr(source, "dict", None)):
        return cast("Mapping[str, Any]", dump())
    raise InvalidInput(f"{type(source).__name__} is neither a mapping nor a model")


def _check(*numbers: object) -> None:
    for number in numbers:
        if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number):
            raise InvalidInput(f"{number!r} is no finite number")
