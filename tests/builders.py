"""Build the passing case that tests start from and change one field of.

The default case is approved: 100,000 dollars, all cash; ACME at 100.00 with no spread and an ATR of 4.00; a limit
order to buy at 100.00 with the stop at 95.00, the target at 115.00 and conviction 90:

    C without impact = 100 x (0 + 2 x 0.5 bps) = 0.01;  D = max(5 + 0.01, 1.2 x 4) = 5.01
    risk budget = 100,000 x 50 bps = 500;  500 / 5.01 = 99.8 -> 99 shares

Whole numbers and text become Decimals where a field is one, so that tests can write `stop_loss="95.00"`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from app.domain.account import Account, AccountMode, AccountState, Halt, HaltState, Position, Reservation
from app.domain.buckets import BucketMap
from app.domain.gates import GateResult
from app.domain.indicators import Bar
from app.domain.market import MarketView, Snapshot, SymbolSnapshot, SymbolView, resolve_market
from app.domain.policy import Policy
from app.domain.proposal import Candidate, Direction, EntryType, Manage, Mode, ModelFailure, Proposal, Setup
from app.domain.recalibration import UNCALIBRATED, CalibratorState, PlattCalibrator, SizingStanding
from app.domain.verdict import Judgement, judge

AS_OF: Final = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
"""A Friday; the week began on Monday the 16th."""
DECISION_ID: Final = "01930000-0000-7000-8000-000000000001"
BUCKETS: Final = BucketMap({"ACME": ("technology",), "BOLT": ("industrials",), "COGS": ("industrials", "robots")})
SHORT: Final[Mapping[str, Any]] = {"direction": Direction.SHORT, "stop_loss": "105.00", "target_price": "85.00"}
"""What turns the default candidate into its mirror image."""
COSTLESS: Final[Mapping[str, Any]] = {"commission_bps": 0}
"""With the default symbol, whose bid is its ask, this leaves market impact as the only cost."""

Changes = Mapping[str, Any]


def _laid_over(defaults: Changes, changes: Changes, *, kind: type[Any]) -> dict[str, Any]:
    """Lay changes over defaults, exact where the dataclass asks for a Decimal."""
    exact = {spec.name for spec in fields(kind) if "Decimal" in str(spec.type)}
    values = {**defaults, **changes}
    return {name: _exact(value) if name in exact else value for name, value in values.items()}


def _exact(value: Any) -> Any:
    return Decimal(value) if isinstance(value, int | str) else value


def a_policy(**changes: Any) -> Policy:
    """The rulebook's defaults."""
    return Policy(**_laid_over({}, changes, kind=Policy))


def an_account(**changes: Any) -> Account:
    """A paper account of 100,000 dollars, all cash, that has neither gained nor lost."""
    defaults: Changes = {
        "id": "paper-1",
        "mode": AccountMode.PAPER,
        "equity": 100_000,
        "cash": 100_000,
        "positions": (),
        "daily_pnl": 0,
        "weekly_pnl": 0,
    }
    return Account(**_laid_over(defaults, changes, kind=Account))


def a_position(**changes: Any) -> Position:
    """100 shares of BOLT, bought at 40.00 and worth 50.00 each, with the stop at 45.00."""
    defaults: Changes = {
        "symbol": "BOLT",
        "quantity": 100,
        "avg_price": "40.00",
        "mark_price": "50.00",
        "stop_loss": "45.00",
    }
    return Position(**_laid_over(defaults, changes, kind=Position))


def a_reservation(**changes: Any) -> Reservation:
    """A live ticket to buy 40 BOLT: 2,000 dollars, 100 of them at risk."""
    defaults: Changes = {
        "decision_id": "01930000-0000-7000-8000-0000000000ff",
        "symbol": "BOLT",
        "direction": Direction.LONG,
        "quantity": 40,
        "notional_usd": 2_000,
        "risk_usd": 100,
        "buckets": ("industrials",),
    }
    return Reservation(**_laid_over(defaults, changes, kind=Reservation))


def a_halt(**changes: Any) -> Halt:
    """A person's order to stop everything on every account."""
    defaults: Changes = {"account_id": None, "state": HaltState.HALTED, "reason": "flash crash", "operator": "ana"}
    return Halt(**{**defaults, **changes})


def a_state(**changes: Any) -> AccountState:
    """An account that the store knows nothing of, judged at the moment of the snapshot."""
    return AccountState(**{"now": AS_OF, **changes})


def a_symbol(**changes: Any) -> SymbolSnapshot:
    """ACME at 100.00, bid and ask at the price unless changed, ATR 4.00, a billion dollars and 10 M shares a day."""
    price = changes.get("price", "100.00")
    defaults: Changes = {
        "symbol": "ACME",
        "price": price,
        "bid": price,
        "ask": price,
        "avg_volume": 10_000_000,
        "atr": "4.00",
        "adv": 1_000_000_000,
        "shortable": True,
        "market_cap": 50_000_000_000,
    }
    return SymbolSnapshot(**_laid_over(defaults, changes, kind=SymbolSnapshot))


def a_snapshot(*symbols: SymbolSnapshot, **changes: Any) -> Snapshot:
    """The market of ACME alone, unless other symbols are given."""
    return Snapshot(**_laid_over({"as_of": AS_OF, "market": symbols or (a_symbol(),)}, changes, kind=Snapshot))


def a_market(*symbols: SymbolSnapshot, **changes: Any) -> MarketView:
    """The resolved snapshot."""
    return resolve_market(a_snapshot(*symbols, **changes), buckets=BUCKETS)


def a_view(**changes: Any) -> SymbolView:
    """The resolved default symbol."""
    return a_market(a_symbol(**changes)).symbols[0]


def a_candidate(**changes: Any) -> Candidate:
    """Buy ACME at 100.00, stop 95.00, target 115.00, even odds, conviction 90."""
    defaults: Changes = {
        "symbol": "ACME",
        "direction": Direction.LONG,
        "setup": Setup.MOMENTUM,
        "entry_type": EntryType.LIMIT,
        "entry_price": "100.00",
        "stop_loss": "95.00",
        "target_price": "115.00",
        "time_stop_hours": 48,
        "p_win_pct": 50,
        "conviction": 90,
        "thesis": "Higher lows on rising volume.",
    }
    return Candidate(**_laid_over(defaults, changes, kind=Candidate))


def a_trade(*candidates: Candidate, **changes: Any) -> Proposal:
    """A reply that proposes the given candidates, or the default one."""
    return Proposal(mode=Mode.TRADE, candidates=candidates or (a_candidate(),), **changes)


def an_exit(**changes: Any) -> Proposal:
    """A reply that closes the default position."""
    return Proposal(mode=Mode.EXIT, manage=_manage(changes))


def an_adjust(**changes: Any) -> Proposal:
    """A reply that changes the default position as told."""
    return Proposal(mode=Mode.ADJUST, manage=_manage(changes))


def _manage(changes: Changes) -> Manage:
    defaults: Changes = {
        "symbol": "BOLT",
        "reduce_pct": None,
        "new_stop": None,
        "new_target": None,
        "reason": "The idea has played out.",
    }
    return Manage(**_laid_over(defaults, changes, kind=Manage))


def a_standing(**changes: Any) -> SizingStanding:
    """A decider whose calibrator is on and changes nothing; nothing is derated."""
    defaults: Changes = {
        "state": CalibratorState.ON,
        "calibrator_id": 7,
        "calibrator": PlattCalibrator(intercept=0.0, slope=1.0),
        "derated": False,
        "reason": None,
    }
    return SizingStanding(**_laid_over(defaults, changes, kind=SizingStanding))


def judged(
    outcome: Proposal | ModelFailure | None = None,
    *,
    candidate: Changes | None = None,
    symbol: Changes | None = None,
    snapshot: Snapshot | Changes | None = None,
    account: Account | Changes | None = None,
    state: AccountState | Changes | None = None,
    policy: Policy | Changes | None = None,
    decider_serves_live: bool = True,
    calibration: SizingStanding = UNCALIBRATED,
    buckets: BucketMap = BUCKETS,
) -> Judgement:
    """Judge the default case with the named changes; `outcome` and whole values replace what they stand for."""
    if not isinstance(snapshot, Snapshot):
        snapshot = a_snapshot(a_symbol(**(symbol or {})), **(snapshot or {}))
    return judge(
        decision_id=DECISION_ID,
        outcome=a_trade(a_candidate(**(candidate or {}))) if outcome is None else outcome,
        market=resolve_market(snapshot, buckets=buckets),
        account=account if isinstance(account, Account) else an_account(**(account or {})),
        state=state if isinstance(state, AccountState) else a_state(**(state or {})),
        policy=policy if isinstance(policy, Policy) else a_policy(**(policy or {})),
        decider_serves_live=decider_serves_live,
        calibration=calibration,
    )


def gate_of(judgement: Judgement, name: str) -> GateResult:
    """One line of the gates' report."""
    return next(gate for gate in judgement.gates if gate.gate == name)


def blocking_codes(judgement: Judgement) -> tuple[str, ...]:
    """The codes of all blocking gates, in the order of the report."""
    return tuple(gate.code for gate in judgement.gates if gate.code is not None)


def caps_of(judgement: Judgement) -> dict[str, int]:
    """The shares that each cap allows, in the order of the report."""
    if judgement.sizing is None:
        raise AssertionError("the case was not sized")
    return {cap.cap: cap.max_quantity for cap in judgement.sizing.caps}


def a_bar(**changes: Any) -> Bar:
    """A daily bar that opens and closes at 100.00 and spans 98.00 to 102.00, the day before the snapshot."""
    defaults: Changes = {
        "t": datetime(2026, 11, 19, tzinfo=UTC),
        "open": 100.0,
        "high": 102.0,
        "low": 98.0,
        "close": 100.0,
        "volume": 1_000_000.0,
    }
    return Bar(**{**defaults, **changes})


def daily_bars(count: int, *, last: datetime = datetime(2026, 11, 19, tzinfo=UTC), **changes: Any) -> tuple[Bar, ...]:
    """Equal bars of `count` days in a row: a true range of 4.00 and 100,000,000 dollars each."""
    return tuple(a_bar(t=last - timedelta(days=count - 1 - day), **changes) for day in range(count))


def bars_closing_at(closes: Sequence[float], *, last: datetime = datetime(2026, 11, 19, tzinfo=UTC)) -> tuple[Bar, ...]:
    """Daily bars without a body or a wick, one for each close."""
    first = last - timedelta(days=len(closes) - 1)
    return tuple(
        a_bar(t=first + timedelta(days=day), open=close, high=close, low=close, close=close)
        for day, close in enumerate(closes)
    )


_REQUEST: Final[Changes] = {
    "account": {
        "id": "paper-1",
        "mode": "paper",
        "equity": 100000,
        "cash": 62000,
        "buying_power": 124000,
        "daily_pnl": -350,
        "weekly_pnl": -900,
        "daily_executed_notional": 0,
        "positions": [{"symbol": "AAPL", "quantity": 50, "avg_price": 190.0, "mark_price": 201.2, "stop_loss": 185.0}],
    },
    "as_of": "2026-11-20T15:30:00Z",
    "market": [
        {
            "symbol": "NVDA",
            "price": 125.4,
            "bid": 125.38,
            "ask": 125.42,
            "volume": 210000000,
            "avg_volume": 250000000,
            "atr": 4.1,
            "adv": 31000000000,
            "spread_pct": 0.0003,
            "shortable": True,
            "borrow_rate": 0.0,
            "rsi": 61,
            "ma_20": 121.0,
            "ma_50": 117.5,
            "support": 119.0,
            "resistance": 131.0,
            "iv_rank": 40,
            "market_cap": 3000000000000,
            "pe_ratio": 48.0,
            "earnings_date": "2026-11-25",
            "buckets": ["technology", "ai"],
            "bars": [{"t": "2026-11-19T00:00:00Z", "o": 123.0, "h": 126.1, "l": 122.4, "c": 125.0, "v": 240000000}],
        }
    ],
    "news": [
        {
            "headline": "Chip orders beat forecasts",
            "summary": "Two suppliers raised their outlook.",
            "source": "wire",
            "timestamp": "2026-11-20T14:00:00Z",
            "relevance_score": 0.8,
            "sentiment_score": 0.3,
            "symbols": ["NVDA"],
            "event_type": "news",
        }
    ],
    "options_flow": [
        {
            "symbol": "NVDA",
            "total_volume": 100000,
            "put_call_ratio": 0.7,
            "net_premium": 5000000,
            "smart_money_sentiment": "bullish",
            "unusual_activity": [],
        }
    ],
    "regime": "bull_trend",
    "aggressiveness_level": 1,
}


def a_request(*, account: Changes | None = None, symbol: Changes | None = None, **changes: Any) -> dict[str, Any]:
    """The JSON body of the rulebook, section 2.

    `account` and `symbol` (the one symbol of `market`) are laid over the defaults, everything else replaces the
    top-level field of its name; a value of `...` leaves the field out.
    """
    body: dict[str, Any] = deepcopy({**_REQUEST, **changes})
    if account:
        body["account"] = {**body["account"], **account}
    if symbol:
        body["market"] = [{**body["market"][0], **symbol}, *body["market"][1:]]
    present: dict[str, Any] = _without_absent(body)
    return present


def _without_absent(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _without_absent(value) for name, value in node.items() if value is not ...}
    if isinstance(node, list):
        return [_without_absent(item) for item in node]
    return node
