"""Judge one case by every gate, in the order of the rulebook (section 5).

The rules of the rules:
  * every gate is evaluated and reported, whatever the others say; none changes a case, none raises;
  * a gate passes, blocks with one stable code, or does not apply; an input it needs and does not have
    blocks (MISSING_...), unless another gate already blocks for the very input, as section 5 says;
  * a limit is inclusive: exactly at the limit passes, except losses and expected value, whose limits block;
  * exits and adjusts are held only to the four gates that `holds_exits`; what is missing for an entry
    never blocks a reduction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from math import ceil
from typing import Final, NamedTuple

from app.domain.account import Account, AccountMode, AccountState, HaltState, PeriodLoss
from app.domain.edge import Edge
from app.domain.exposure import Exposure
from app.domain.making import made_quickly
from app.domain.market import MarketView, SymbolView
from app.domain.policy import (
    FUTURE_TOLERANCE_S,
    PROBE_CASH_PCT,
    PROBE_MAX_STOP_ATR,
    Policy,
    Regime,
)
from app.domain.proposal import Candidate, EntryType
from app.domain.sizing import Sizing


class GateStatus(StrEnum):
    """Say what a gate found."""

    PASS = "pass"  # noqa: S105
    BLOCK = "block"
    NOT_APPLICABLE = "not_applicable"


class Code(StrEnum):
    """Name every reason for which a gate blocks, except the SIZE_ codes, which name a cap."""

    HALTED = "HALTED"
    REDUCE_ONLY = "REDUCE_ONLY"
    LIVE_NOT_ALLOWED = "LIVE_NOT_ALLOWED"
    LIVE_NOT_CONFIRMED = "LIVE_NOT_CONFIRMED"
    PROPOSAL_INVALID = "PROPOSAL_INVALID"
    UNKNOWN_SYMBOL = "UNKNOWN_SYMBOL"
    STALE_SNAPSHOT = "STALE_SNAPSHOT"
    FUTURE_SNAPSHOT = "FUTURE_SNAPSHOT"
    QUOTES_INCONSISTENT = "QUOTES_INCONSISTENT"
    DUPLICATE_INTENT = "DUPLICATE_INTENT"
    OPPOSITE_POSITION = "OPPOSITE_POSITION"
    PRICE_COLLAR = "PRICE_COLLAR"
    STOP_MISSING = "STOP_MISSING"
    STOP_WRONG_SIDE = "STOP_WRONG_SIDE"
    STOP_TOO_TIGHT = "STOP_TOO_TIGHT"
    STOP_TOO_WIDE = "STOP_TOO_WIDE"
    TARGET_WRONG_SIDE = "TARGET_WRONG_SIDE"
    TARGET_TOO_FAR = "TARGET_TOO_FAR"
    ILLIQUID = "ILLIQUID"
    SPREAD_TOO_WIDE = "SPREAD_TOO_WIDE"
    PRICE_TOO_LOW = "PRICE_TOO_LOW"
    MICROCAP = "MICROCAP"
    NOT_SHORTABLE = "NOT_SHORTABLE"
    DAILY_LOSS_LIMIT = "DAILY_LOSS_LIMIT"
    WEEKLY_LOSS_LIMIT = "WEEKLY_LOSS_LIMIT"
    LOW_CONVICTION = "LOW_CONVICTION"
    LOW_P_WIN = "LOW_P_WIN"
    LOW_RISK_REWARD = "LOW_RISK_REWARD"
    NEGATIVE_EV = "NEGATIVE_EV"
    MISSING_ATR = "MISSING_ATR"
    MISSING_ADV = "MISSING_ADV"
    MISSING_SPREAD = "MISSING_SPREAD"
    MISSING_SHORTABLE = "MISSING_SHORTABLE"
    MISSING_DAILY_PNL = "MISSING_DAILY_PNL"
    MISSING_WEEKLY_PNL = "MISSING_WEEKLY_PNL"
    MISSING_MARK = "MISSING_MARK"
    MISSING_POSITION_STOP = "MISSING_POSITION_STOP"


MILLISECOND: Final = timedelta(milliseconds=1)

Reading = Decimal | int | str | None


class Finding(NamedTuple):
    """Hold what one gate found, without its name and unit.

    A named tuple, as a line of the report is: a candidate takes two dozen of each, made in a third of the time.
    """

    status: GateStatus
    observed: Reading = None
    limit: Reading = None
    code: str | None = None
    detail: str = ""


class GateResult(NamedTuple):
    """Hold one line of the report."""

    gate: str
    status: GateStatus
    observed: Reading
    limit: Reading
    unit: str
    code: str | None
    detail: str


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Hold everything the gates may look at for one candidate, exit or adjust.

    `reduces` is true for exits and adjusts, which have no candidate. `view`, `entry` and everything below
    it are None where the proposal or the data do not give them;
    `proposal_fault` names what is wrong with the proposal itself, with its code.
    """

    account: Account
    market: MarketView
    state: AccountState
    policy: Policy
    decider_serves_live: bool
    calibrated: bool
    proposal_fault: tuple[Code, str] | None
    exposure: Exposure
    reduces: bool
    candidate: Candidate | None = None
    view: SymbolView | None = None
    entry: Decimal | None = None
    edge: Edge | None = None
    sizing: Sizing | None = None
    probe_minimum_waived: bool = False

    @property
    def is_probe(self) -> bool:
        """Tell whether conviction is below the action threshold but permitted as a probe."""
        return (
            self.candidate is not None
            and self.candidate.conviction < self.policy.action_threshold
            and probe_refusal(self) is None
        )


PASS: Final = GateStatus.PASS
_made: Final = tuple.__new__
"""Makes a named tuple of its parts, past the function that puts them together: a case asks for two score of them."""


def _passes(observed: Reading = None, limit: Reading = None, detail: str = "") -> Finding:
    return _made(Finding, (PASS, observed, limit, None, detail))


def _blocks(code: str, observed: Reading = None, limit: Reading = None, detail: str = "") -> Finding:
    return Finding(GateStatus.BLOCK, observed, limit, code, detail)


def _not_applicable(detail: str) -> Finding:
    return Finding(GateStatus.NOT_APPLICABLE, None, None, None, detail)


NO_SYMBOL: Final = _not_applicable("the snapshot does not hold the symbol")
PAPER_ACCOUNT: Final = _not_applicable("paper account")
NO_QUOTES: Final = _not_applicable("no quotes were sent")
NO_MARKET_CAP: Final = _not_applicable("no market cap was sent")
NO_BORROWING: Final = _not_applicable("a long entry borrows nothing")
NO_PRICE: Final = _not_applicable("the proposal gives no usable entry")


def kill_switch(case: Case) -> Finding:
    """Block everything while halted, and entries while reduce_only."""
    halt = case.state.halt
    if halt is None:
        return _passes("running")
    detail = f"{halt.reason} ({halt.operator})"
    if halt.state is HaltState.HALTED:
        return _blocks(Code.HALTED, halt.state.value, detail=detail)
    if case.reduces:
        return _passes(halt.state.value, detail="reducing is allowed")
    return _blocks(Code.REDUCE_ONLY, halt.state.value, detail=detail)


def live_interlock(case: Case) -> Finding:
    """Keep live accounts locked until settings, decider and a person allow them."""
    if case.account.mode is not AccountMode.LIVE:
        return PAPER_ACCOUNT
    if not case.policy.live_allowed:
        return _blocks(Code.LIVE_NOT_ALLOWED, "live", "LIVE_ALLOWED=false")
    if not case.decider_serves_live:
        return _blocks(Code.LIVE_NOT_ALLOWED, "live", "model", "this decider never serves live accounts")
    if case.reduces or not case.policy.require_live_confirm:
        return _passes("live")
    if not case.state.live_confirmed:
        return _blocks(Code.LIVE_NOT_CONFIRMED, "unconfirmed", "confirmed", "no valid confirmation by a person")
    return _passes("confirmed", "confirmed")


def proposal_valid(case: Case) -> Finding:
    """Refuse a proposal that contradicts itself or names what the request does not hold."""
    if case.proposal_fault is None:
        return _passes()
    code, detail = case.proposal_fault
    return _blocks(code, detail=detail)


def snapshot_fresh(case: Case) -> Finding:
    """Refuse data that is too old, or from the future by more than 5 s."""
    age = case.state.now - case.market.as_of
    observed = Decimal(age // MILLISECOND) / 1000
    limit = case.policy.max_snapshot_age_s
    if age < -timedelta(seconds=FUTURE_TOLERANCE_S):
        return _blocks(Code.FUTURE_SNAPSHOT, observed, -FUTURE_TOLERANCE_S, "as_of lies in the future")
    if limit == 0:
        return _passes(observed, detail="the age check is off")
    if age > timedelta(seconds=limit):
        return _blocks(Code.STALE_SNAPSHOT, observed, limit, "as_of is too old")
    return _passes(observed, limit)


def quotes(case: Case) -> Finding:
    """Refuse quotes that contradict themselves or the price."""
    if case.view is None:
        return NO_SYMBOL
    if case.view.quote_fault is not None:
        return _blocks(Code.QUOTES_INCONSISTENT, detail=case.view.quote_fault)
    if case.view.bid is None:
        return NO_QUOTES
    return _passes(case.view.price, case.view.mid, "price and mid agree")


def duplicate_intent(case: Case) -> Finding:
    """Refuse an entry in a symbol that the account already holds or has a live ticket in."""
    if case.candidate is None:
        return NO_SYMBOL
    symbol, direction = case.candidate.symbol, case.candidate.direction
    held = case.account.position(symbol)
    sides = {
        reservation.direction: "open ticket"
        for reservation in case.state.reservations
        if reservation.symbol == symbol and not reservation.reduce_only
    }
    if held is not None:
        sides[held.direction] = "position"
    if direction in sides:
        return _blocks(Code.DUPLICATE_INTENT, direction.value, detail=f"{sides[direction]} in the same direction")
    if sides:
        side, kind = next(iter(sides.items()))
        return _blocks(Code.OPPOSITE_POSITION, side.value, detail=f"{kind} in the opposite direction")
    return _passes("none")


def price_collar(case: Case) -> Finding:
    """Refuse an entry too far from mid."""
    if case.view is None:
        return NO_SYMBOL
    if case.entry is None:
        return NO_PRICE
    if case.view.atr is None:
        return _blocks(Code.MISSING_ATR, detail="ATR is missing")
    distance, limit = abs(case.entry - case.view.mid), case.policy.price_collar_atr * case.view.atr
    if distance > limit:
        return _blocks(Code.PRICE_COLLAR, distance, limit, "entry too far from mid")
    return _passes(distance, limit)


def stop_fault(*, candidate: Candidate, entry: Decimal, mid: Decimal) -> Code | None:
    """Name what is wrong with the stop's side: it must lie on the loss side of the entry.

    A market or limit entry may fill at mid, so its stop must lie on the loss side of mid too.
    """
    if candidate.stop_loss is None:
        return Code.STOP_MISSING
    fills_at_mid = candidate.entry_type in (EntryType.MARKET, EntryType.LIMIT)
    if candidate.is_long:
        wrong = candidate.stop_loss >= entry or (fills_at_mid and candidate.stop_loss >= mid)
    else:
        wrong = candidate.stop_loss <= entry or (fills_at_mid and candidate.stop_loss <= mid)
    return Code.STOP_WRONG_SIDE if wrong else None


def stop(case: Case) -> Finding:
    """Refuse a stop that is missing, on the wrong side, too tight or too wide."""
    candidate, view = case.candidate, case.view
    if candidate is None or view is None:
        return NO_SYMBOL
    if case.entry is None:
        return NO_PRICE
    fault = stop_fault(candidate=candidate, entry=case.entry, mid=view.mid)
    if candidate.stop_loss is None or fault is not None:
        return _blocks(
            fault or Code.STOP_MISSING, candidate.stop_loss, case.entry, "no stop on the loss side of the entry"
        )
    if view.atr is None:
        return _blocks(Code.MISSING_ATR, detail="ATR is missing")
    width = abs(case.entry - candidate.stop_loss)
    tightest = case.policy.min_stop_atr * view.atr
    widest = case.policy.max_stop_atr * view.atr
    if case.is_probe:
        widest = min(widest, PROBE_MAX_STOP_ATR * view.atr)
    if width < tightest:
        return _blocks(Code.STOP_TOO_TIGHT, width, tightest, "stop nearer than allowed")
    if width > widest:
        return _blocks(Code.STOP_TOO_WIDE, width, widest, "stop wider than allowed")
    return _passes(width, widest)


def target_fault(*, candidate: Candidate, entry: Decimal) -> Code | None:
    """Name what is wrong with the target's side: it must lie on the profit side of the entry."""
    price = candidate.target_price
    if price is None or (price <= entry if candidate.is_long else price >= entry):
        return Code.TARGET_WRONG_SIDE
    return None


def target(case: Case) -> Finding:
    """Refuse a target that is missing, on the wrong side, or too far to be honest."""
    candidate, view = case.candidate, case.view
    if candidate is None or view is None:
        return NO_SYMBOL
    if case.entry is None:
        return NO_PRICE
    fault = target_fault(candidate=candidate, entry=case.entry)
    if candidate.target_price is None or fault is not None:
        return _blocks(
            Code.TARGET_WRONG_SIDE, candidate.target_price, case.entry, "no target on the profit side of the entry"
        )
    if view.atr is None:
        return _blocks(Code.MISSING_ATR, detail="ATR is missing")
    distance, limit = abs(candidate.target_price - case.entry), case.policy.max_target_atr * view.atr
    if distance > limit:
        return _blocks(Code.TARGET_TOO_FAR, distance, limit, "target further than allowed")
    return _passes(distance, limit)


def min_adv(case: Case) -> Finding:
    """Refuse what trades too little."""
    if case.view is None:
        return NO_SYMBOL
    limit = case.policy.min_adv
    if case.view.adv is None:
        return _blocks(Code.MISSING_ADV, limit=limit, detail="average daily dollar volume is missing")
    if case.view.adv < limit:
        return _blocks(Code.ILLIQUID, case.view.adv, limit, "trades too little")
    return _passes(case.view.adv, limit)


def spread(case: Case) -> Finding:
    """Refuse a spread that is unknown or too wide."""
    if case.view is None:
        return NO_SYMBOL
    if case.view.quote_fault is not None:
        return _not_applicable("the quotes are inconsistent")
    limit = case.policy.max_spread_pct
    if case.view.spread_pct is None:
        return _blocks(Code.MISSING_SPREAD, limit=limit, detail="neither quotes nor a spread")
    if case.view.spread_pct > limit:
        return _blocks(Code.SPREAD_TOO_WIDE, case.view.spread_pct, limit, "spread too wide")
    return _passes(case.view.spread_pct, limit)


def min_price(case: Case) -> Finding:
    """Refuse shares that cost too little."""
    if case.view is None:
        return NO_SYMBOL
    if case.view.price < case.policy.min_price:
        return _blocks(Code.PRICE_TOO_LOW, case.view.price, case.policy.min_price, "price too low")
    return _passes(case.view.price, case.policy.min_price)


def market_cap(case: Case) -> Finding:
    """Refuse companies known to be too small."""
    if case.view is None:
        return NO_SYMBOL
    size, limit = case.view.sent.market_cap, case.policy.min_market_cap
    if size is None:
        return NO_MARKET_CAP
    if size < limit:
        return _blocks(Code.MICROCAP, size, limit, "company too small")
    return _passes(size, limit)


def borrow(case: Case) -> Finding:
    """Refuse to sell short what cannot be borrowed."""
    if case.candidate is None or case.view is None:
        return NO_SYMBOL
    if case.candidate.is_long:
        return NO_BORROWING
    shortable = case.view.sent.shortable
    if shortable is None:
        return _blocks(Code.MISSING_SHORTABLE, detail="whether it can be borrowed is not known")
    if not shortable:
        return _blocks(Code.NOT_SHORTABLE, "no", "yes", "cannot be borrowed")
    return _passes("yes", "yes")


def _loss(loss: PeriodLoss | None, limit: Decimal, reached: Code, missing: Code) -> Finding:
    if loss is None:
        return _blocks(missing, limit=limit, detail="neither a P&L nor an earlier equity mark")
    fraction, detail = loss.fraction, f"{loss.loss_usd:.2f} of {loss.baseline_usd:.2f} USD"
    if fraction >= limit:
        return _blocks(reached, fraction, limit, detail)
    return _passes(fraction, limit, detail)


def daily_loss(case: Case) -> Finding:
    """Stop entries when the day's loss reaches its limit."""
    return _loss(
        case.exposure.day_loss,
        case.policy.max_daily_loss_pct,
        Code.DAILY_LOSS_LIMIT,
        Code.MISSING_DAILY_PNL,
    )


def weekly_loss(case: Case) -> Finding:
    """Stop entries when the week's loss reaches its limit."""
    return _loss(
        case.exposure.week_loss,
        case.policy.max_weekly_loss_pct,
        Code.WEEKLY_LOSS_LIMIT,
        Code.MISSING_WEEKLY_PNL,
    )


def probe_refusal(case: Case) -> str | None:
    """Say why a conviction below the action threshold may not probe; None where it may."""
    if case.candidate is None:
        return "nothing to probe with"
    minimum = case.policy.level.probe_minimum
    if case.candidate.conviction < minimum and not case.probe_minimum_waived:
        return f"below the probe minimum {minimum}"
    if case.account.cash <= PROBE_CASH_PCT * case.account.equity:
        return f"a probe needs cash above {PROBE_CASH_PCT} of equity"
    if case.market.regime is Regime.HIGH_VOLATILITY:
        return "no probes in high volatility"
    return None


def conviction(case: Case) -> Finding:
    """Refuse conviction below the level's threshold, unless a probe is permitted."""
    if case.candidate is None:
        return NO_SYMBOL
    observed, limit = case.candidate.conviction, case.policy.action_threshold
    if observed >= limit:
        return _passes(observed, limit)
    refusal = probe_refusal(case)
    if refusal is not None:
        return _blocks(Code.LOW_CONVICTION, observed, limit, refusal)
    return _passes(observed, limit, "permitted as a probe")


NO_EDGE: Final = _not_applicable("needs a priced entry, stop and target, ATR, spread and volume")


def p_win_waives(case: Case) -> bool:
    """Tell whether a calibrated p_win stands in for the risk-reward minimum."""
    return case.calibrated and case.edge is not None and case.edge.p_win >= case.policy.min_p_win


def _required_risk_reward(case: Case) -> Decimal | None:
    """Give the minimum in force; None where a calibrated p_win waives it and the level sets none of its own."""
    if p_win_waives(case):
        return case.policy.level.min_risk_reward
    return case.policy.required_risk_reward


def _rewards_too_little(edge: Edge, limit: Decimal | None) -> bool:
    return limit is not None and edge.risk_reward < limit


def p_win(case: Case) -> Finding:
    """Refuse a low probability of winning where the reward does not make up for it."""
    if case.edge is None:
        return NO_EDGE
    observed, limit = case.edge.p_win, case.policy.min_p_win
    if observed < limit and _rewards_too_little(case.edge, _required_risk_reward(case)):
        return _blocks(Code.LOW_P_WIN, observed, limit, "p_win and risk-reward are both too low")
    return _passes(observed, limit, "" if observed >= limit else "the reward makes up for it")


def risk_reward(case: Case) -> Finding:
    """Refuse too little reward for the risk, after costs."""
    if case.edge is None:
        return NO_EDGE
    observed, limit = case.edge.risk_reward, _required_risk_reward(case)
    if _rewards_too_little(case.edge, limit):
        return _blocks(Code.LOW_RISK_REWARD, observed, limit, "reward too small for the risk")
    return _passes(observed, limit, "waived by a calibrated p_win" if p_win_waives(case) else "")


def expected_value(case: Case) -> Finding:
    """Refuse an entry that is not expected to gain more than the minimum."""
    if case.edge is None:
        return NO_EDGE
    observed, limit = case.edge.ev_pct, case.policy.min_ev_pct
    if observed <= limit:
        return _blocks(Code.NEGATIVE_EV, observed, limit, "expected value not above the minimum")
    return _passes(observed, limit)


def size(case: Case) -> Finding:
    """Refuse an entry whose caps leave less than one share or than the smallest order."""
    if case.sizing is None or case.entry is None:
        return NO_EDGE
    if case.exposure.unmarked:
        return _blocks(Code.MISSING_MARK, detail="no price for " + ", ".join(case.exposure.unmarked))
    if case.exposure.unstopped:
        return _blocks(Code.MISSING_POSITION_STOP, detail="no stop for " + ", ".join(case.exposure.unstopped))
    quantity, binding = case.sizing.quantity, case.sizing.binding
    notional = quantity * case.entry
    if quantity < 1:
        return _blocks(binding.code, quantity, 1, f"{binding.cap} leaves less than one share")
    if notional < case.policy.min_order_notional:
        least = ceil(case.policy.min_order_notional / case.entry)
        return _blocks(
            binding.code, quantity, least, f"{notional:.2f} USD is below the smallest order ({binding.cap} binds)"
        )
    return _passes(quantity, 1, f"{binding.cap} binds")


@dataclass(frozen=True, slots=True)
class Gate:
    """Hold one rule: its name and unit in the report, its check, and whether exits answer to it."""

    name: str
    unit: str
    check: Callable[[Case], Finding]
    holds_exits: bool = False

    def judge(self, case: Case) -> GateResult:
        """Evaluate the rule for one case."""
        if case.reduces and not self.holds_exits:
            return self.skip("a rule for entries")
        status, observed, limit, code, detail = self.check(case)
        told = None if code is None else str(code)
        return _made(GateResult, (self.name, status, observed, limit, self.unit, told, detail))

    def skip(self, detail: str) -> GateResult:
        """Report that there was nothing to judge."""
        return GateResult(self.name, GateStatus.NOT_APPLICABLE, None, None, self.unit, None, detail)


GATES: Final = (
    Gate("kill_switch", "state", kill_switch, holds_exits=True),
    Gate("live_interlock", "state", live_interlock, holds_exits=True),
    Gate("proposal_valid", "", proposal_valid, holds_exits=True),
    Gate("snapshot_fresh", "s", snapshot_fresh, holds_exits=True),
    Gate("quotes", "usd", quotes),
    Gate("duplicate_intent", "direction", duplicate_intent),
    Gate("price_collar", "usd", price_collar),
    Gate("stop", "usd", stop),
    Gate("target", "usd", target),
    Gate("min_adv", "usd", min_adv),
    Gate("spread", "fraction", spread),
    Gate("min_price", "usd", min_price),
    Gate("market_cap", "usd", market_cap),
    Gate("borrow", "shortable", borrow),
    Gate("daily_loss", "fraction", daily_loss),
    Gate("weekly_loss", "fraction", weekly_loss),
    Gate("conviction", "conviction", conviction),
    Gate("p_win", "probability", p_win),
    Gate("risk_reward", "ratio", risk_reward),
    Gate("expected_value", "fraction", expected_value),
    Gate("size", "shares", size),
)


def judge_gates(case: Case) -> tuple[GateResult, ...]:
    """Evaluate every gate for one case, in order."""
    return tuple([gate.judge(case) for gate in GATES])


def skip_gates(detail: str) -> tuple[GateResult, ...]:
    """Report every gate as not applicable, for a reply that proposes nothing to judge."""
    return tuple(gate.skip(detail) for gate in GATES)


ACCOUNT_GATES: Final = (kill_switch, live_interlock, snapshot_fresh, daily_loss, weekly_loss)


def account_blocks(case: Case) -> list[str]:
    """Give the codes of the gates that block any entry whatever is proposed."""
    return [finding.code for check in ACCOUNT_GATES if (finding := check(case)).code is not None]
