"""Bring a proposal, the data and the account together: judge(), the one function that decides.

How a reply becomes a verdict:
  * a failed call or a neutral reply proposes nothing: no_trade, with the MODEL_ code;
  * an exit or adjust is held to four gates only, and can never add risk;
  * each candidate of a trade is judged on its own; of those that pass, the highest EV_R becomes the order
    (then the lower cost, then symbol order); if all block, the highest EV_R is reported with its first code;
  * when two sessions brought no entry and the reply holds two candidates of some conviction, the best
    candidate that only the probe minimum stops may probe after all (anti-paralysis).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_CEILING, ROUND_DOWN, ROUND_FLOOR, Decimal
from enum import StrEnum
from typing import Final

from app.domain.account import ZERO, Account, AccountMode, AccountState, Position
from app.domain.costs import BPS, daily_volatility, market_impact, round_trip_cost
from app.domain.edge import Edge, assess_edge, kelly_fraction, slices
from app.domain.exposure import Exposure, mark_of, measure_exposure
from app.domain.gates import (
    Case,
    Code,
    GateResult,
    account_blocks,
    judge_gates,
    skip_gates,
    stop_fault,
    target_fault,
)
from app.domain.making import made_quickly
from app.domain.market import Claim, DataIssue, MarketView, SymbolView
from app.domain.policy import (
    PARALYSIS_MIN_CANDIDATES,
    PARALYSIS_MIN_CONVICTION,
    PARALYSIS_SESSIONS,
    Policy,
)
from app.domain.proposal import (
    Candidate,
    Direction,
    EntryType,
    Manage,
    Mode,
    ModelFailure,
    Proposal,
    WatchItem,
    candidate_fault,
    manage_fault,
)
from app.domain.sizing import EntryBounds, Sizing, notional_rooms, size_entry
from app.domain.standing import UNCALIBRATED, SizingStanding

MODEL_NEUTRAL: Final = "MODEL_NEUTRAL"
CENT: Final = Decimal("0.01")
SUB_CENT: Final = Decimal("0.0001")
"""Prices below one dollar are quoted in hundredths of a cent."""
PERCENT: Final = Decimal(100)


class Verdict(StrEnum):
    """Name what became of a proposal."""

    APPROVED = "approved"
    RESIZED = "resized"
    BLOCKED = "blocked"
    NO_TRADE = "no_trade"


class Side(StrEnum):
    """Name the side of an order in a broker's words."""

    BUY = "buy"
    SELL = "sell"
    SELL_SHORT = "sell_short"
    BUY_TO_COVER = "buy_to_cover"


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Hold one take-profit price and the fraction of the quantity it closes."""

    price: Decimal
    fraction: float


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCollar:
    """Hold the fill prices that keep a ticket inside its limits, dollars per share."""

    low: Decimal
    high: Decimal


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Hold an order that may be sent until it expires; quantity is whole shares.

    An adjust that only moves a stop or target has quantity 0.
    """

    client_order_id: str
    symbol: str
    side: Side
    quantity: int
    entry_type: str
    entry_price: Decimal | None
    stop_loss: Decimal | None
    targets: tuple[Target, ...]
    time_stop_at: datetime | None
    notional_usd: Decimal | None
    risk_usd: Decimal
    risk_bps: float
    price_collar: PriceCollar | None
    stop_required: bool
    reduce_only: bool
    mode: AccountMode


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class BucketExposure:
    """Hold the gross exposure of one bucket, as a fraction of equity, and what must go to fit its limit."""

    bucket: str
    exposure_pct: float
    limit_pct: float
    reduce_by_usd: Decimal


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class RiskState:
    """Hold the account's risk before this decision; None where it cannot be known."""

    day_dd_bps: float | None
    week_dd_bps: float | None
    cash_pct: float
    gross_leverage: float | None
    open_positions: int
    buckets: tuple[BucketExposure, ...]


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSummary:
    """Hold one judged candidate's place among the others."""

    symbol: str
    rank: int
    verdict: Verdict
    ev_r: float | None
    blocked_by: tuple[str, ...]


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Hold the whole outcome of judging one proposal.

    `candidate` (entries) or `manage` (exits and adjusts) is what was judged; both are None when there was
    nothing to judge. `reason_code` is the first blocking gate's code, a MODEL_ code, or None when approved.
    `calibration` is what the decider's record did to this judgement; `p_win_calibrated` is the candidate's p_win
    as its calibrator maps it, used or not: None without a candidate or with the calibrator off.
    `reserved_*` is what an approval holds in the store until it is released.
    """

    action: Mode
    verdict: Verdict
    reason_code: str | None
    degraded: bool
    decided_at: datetime
    valid_until: datetime
    candidate: Candidate | None
    manage: Manage | None
    ticket: Ticket | None
    edge: Edge | None
    sizing: Sizing | None
    calibration: SizingStanding
    p_win_calibrated: Decimal | None
    gates: tuple[GateResult, ...]
    candidates: tuple[CandidateSummary, ...]
    risk_state: RiskState
    claims: tuple[Claim, ...]
    issues: tuple[DataIssue, ...]
    watchlist: tuple[WatchItem, ...]
    notes: str
    day_loss_usd: Decimal | None
    week_loss_usd: Decimal | None
    buckets: tuple[str, ...]
    reserved_notional_usd: Decimal
    reserved_risk_usd: Decimal

    @property
    def should_execute(self) -> bool:
        """Tell whether the ticket may be sent: exactly for approved and resized."""
        return self.verdict in (Verdict.APPROVED, Verdict.RESIZED)


def judge(
    *,
    decision_id: str,
    outcome: Proposal | ModelFailure,
    market: MarketView,
    account: Account,
    state: AccountState,
    policy: Policy,
    decider_serves_live: bool = True,
    calibration: SizingStanding = UNCALIBRATED,
    exposure: Exposure | None = None,
) -> Judgement:
    """Judge one reply against the market, the account and the policy; the clock is `state.now`.

    Pure: the same arguments always give the same judgement. `calibration` is the decider's record: while its
    calibrator is on, edge, size and gates use the p_win it gives; while it is derated, no entry earns more than
    the lowest size multiplier of its level. `exposure` is that of this account in this state, where it was measured
    already; it is the same at any `state.now`.
    """
    exposure = exposure or measure_exposure(account=account, market=market, state=state)
    court = _Court(
        decision_id=decision_id,
        market=market,
        account=account,
        state=state,
        policy=policy,
        decider_serves_live=decider_serves_live,
        calibration=calibration,
        exposure=exposure,
    )
    if isinstance(outcome, ModelFailure):
        return court.no_trade(reason=outcome.value, degraded=True, proposal=Proposal(mode=Mode.NEUTRAL))
    if outcome.mode in (Mode.EXIT, Mode.ADJUST) and outcome.manage is not None:
        return court.judge_manage(proposal=outcome, manage=outcome.manage)
    if outcome.mode is Mode.TRADE and outcome.candidates:
        return court.judge_entries(proposal=outcome)
    if outcome.mode in (Mode.NEUTRAL, Mode.WATCHLIST):
        return court.no_trade(reason=MODEL_NEUTRAL, degraded=False, proposal=outcome)
    return court.no_trade(reason=ModelFailure.INVALID.value, degraded=True, proposal=outcome)


def entry_bounds(
    *,
    market: MarketView,
    account: Account,
    state: AccountState,
    policy: Policy,
    decider_serves_live: bool = True,
    exposure: Exposure | None = None,
) -> EntryBounds:
    """State what an entry may be at most before anything is proposed, for the prompt; `exposure` as for `judge`."""
    exposure = exposure or measure_exposure(account=account, market=market, state=state)
    case = Case(
        account=account,
        market=market,
        state=state,
        policy=policy,
        decider_serves_live=decider_serves_live,
        calibrated=False,
        proposal_fault=None,
        exposure=exposure,
        reduces=False,
    )
    blocked = account_blocks(case)
    if exposure.unmarked:
        blocked.append(Code.MISSING_MARK)
    if exposure.unstopped:
        blocked.append(Code.MISSING_POSITION_STOP)
    rooms = notional_rooms(account=account, exposure=exposure, policy=policy)
    limit = policy.max_bucket_exposure_pct * account.equity
    return EntryBounds(
        entries_allowed=not blocked,
        blocked_by=tuple(blocked),
        max_notional_usd=max(ZERO, min(rooms.values())),
        daily_loss_room_usd=exposure.daily_loss_room_usd(policy),
        weekly_loss_room_usd=exposure.weekly_loss_room_usd(policy),
        risk_budget_usd=account.equity * policy.per_trade_risk_bps / BPS,
        full_buckets=tuple(sorted(bucket for bucket, used in exposure.by_bucket.items() if used >= limit)),
    )


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Hold one candidate with its case, its report and what decides its rank."""

    candidate: Candidate
    case: Case
    gates: tuple[GateResult, ...]

    @property
    def blocked_by(self) -> tuple[str, ...]:
        return tuple([gate.code for gate in self.gates if gate.code is not None])

    @property
    def verdict(self) -> Verdict:
        if self.blocked_by:
            return Verdict.BLOCKED
        sizing = self.case.sizing
        return Verdict.RESIZED if sizing is not None and sizing.resized else Verdict.APPROVED

    @property
    def rank_key(self) -> tuple[bool, Decimal, Decimal, str]:
        """Order passing before blocked, then higher EV_R, then lower cost, then symbol."""
        edge = self.case.edge
        if edge is None:
            return (bool(self.blocked_by), Decimal("Infinity"), Decimal("Infinity"), self.candidate.symbol)
        return (bool(self.blocked_by), -edge.ev_r, edge.cost_bps_round_trip, self.candidate.symbol)


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class _Court:
    """Hold what every judgement of one request shares."""

    decision_id: str
    market: MarketView
    account: Account
    state: AccountState
    policy: Policy
    decider_serves_live: bool
    calibration: SizingStanding
    exposure: Exposure

    # --- entries -------------------------------------------------------------------------------------

    def judge_entries(self, *, proposal: Proposal) -> Judgement:
        """Judge every candidate, choose one, and write its ticket when it passes."""
        judged = [self._judge_candidate(candidate) for candidate in proposal.candidates]
        judged = self._relieve_paralysis(judged)
        judged.sort(key=lambda item: item.rank_key)
        chosen = judged[0]
        case, sizing = chosen.case, chosen.case.sizing
        summaries = tuple(
            [
                CandidateSummary(
                    symbol=item.candidate.symbol,
                    rank=rank,
                    verdict=item.verdict,
                    ev_r=None if item.case.edge is None else float(item.case.edge.ev_r),
                    blocked_by=item.blocked_by,
                )
                for rank, item in enumerate(judged, start=1)
            ]
        )
        verdict, blocked_by = summaries[0].verdict, summaries[0].blocked_by
        ticket = None
        if verdict is not Verdict.BLOCKED and sizing is not None and case.entry is not None:
            ticket = self._entry_ticket(case=case, candidate=chosen.candidate, entry=case.entry, sizing=sizing)
        return self._judgement(
            proposal=proposal,
            verdict=verdict,
            reason_code=blocked_by[0] if blocked_by else None,
            candidate=chosen.candidate,
            view=case.view,
            ticket=ticket,
            edge=case.edge,
            sizing=sizing,
            gates=chosen.gates,
            candidates=summaries,
            reserved_unit=None if case.entry is None or case.view is None else max(case.entry, case.view.mid),
        )

    def _judge_candidate(self, candidate: Candidate, *, waived: bool = False) -> _Judged:
        view = self.market.symbol(candidate.symbol)
        fault = candidate_fault(candidate)
        proposal_fault: tuple[Code, str] | None = None
        if view is None:
            proposal_fault = (Code.UNKNOWN_SYMBOL, f"{candidate.symbol} is not in the snapshot")
        elif fault is not None:
            proposal_fault = (Code.PROPOSAL_INVALID, fault)
        entry = None if view is None or fault is not None else entry_price(candidate=candidate, view=view)
        edge, sizing = None, None
        if view is not None and entry is not None:
            edge, sizing = self._price(candidate=candidate, view=view, entry=entry)
        case = Case(
            account=self.account,
            market=self.market,
            state=self.state,
            policy=self.policy,
            decider_serves_live=self.decider_serves_live,
            calibrated=self.calibration.active,
            proposal_fault=proposal_fault,
            exposure=self.exposure,
            reduces=False,
            candidate=candidate,
            view=view,
            entry=entry,
            edge=edge,
            sizing=sizing,
            probe_minimum_waived=waived,
        )
        return _Judged(candidate=candidate, case=case, gates=judge_gates(case))

    def _price(self, *, candidate: Candidate, view: SymbolView, entry: Decimal) -> tuple[Edge | None, Sizing | None]:
        """Compute edge and size, or neither where an input they need is missing or on the wrong side."""
        stop, target = candidate.stop_loss, candidate.target_price
        if stop is None or target is None or view.quote_fault is not None:
            return None, None
        if stop_fault(candidate=candidate, entry=entry, mid=view.mid) or target_fault(candidate=candidate, entry=entry):
            return None, None
        shares = view.average_daily_shares
        if view.atr is None or view.spread_pct is None or view.adv is None or shares is None:
            return None, None
        p_raw = candidate.p_win_pct / PERCENT
        p_calibrated = self._p_win_calibrated(candidate)
        p_win = p_calibrated if p_calibrated is not None and self.calibration.active else p_raw

        def cost_with(impact: Decimal) -> Decimal:
            return round_trip_cost(
                entry=entry,
                entry_type=candidate.entry_type,
                spread_pct=view.spread_pct or ZERO,
                commission_bps=self.policy.commission_bps,
                impact=impact,
                borrow_rate=None if candidate.is_long else view.sent.borrow_rate,
                hours=candidate.time_stop_hours,
            )

        base_cost = cost_with(ZERO)
        sizing = size_entry(
            candidate=candidate,
            entry=entry,
            stop=stop,
            cost_without_impact=base_cost,
            kelly_fraction=kelly_fraction(entry=entry, stop=stop, target=target, cost=base_cost, p_win=p_win),
            view=view,
            atr=view.atr,
            adv=view.adv,
            account=self.account,
            exposure=self.exposure,
            policy=self.policy,
            regime=self.market.regime,
            derated=self.calibration.derated,
        )
        impact = market_impact(
            quantity=sizing.quantity,
            average_daily_shares=shares,
            volatility=daily_volatility(atr=view.atr, price=view.price),
        )
        edge = assess_edge(
            entry=entry,
            stop=stop,
            target=target,
            cost=cost_with(impact),
            p_win_raw=p_raw,
            p_win=p_win,
            scale_out=self.policy.scale_out,
        )
        return edge, sizing

    def _p_win_calibrated(self, candidate: Candidate) -> Decimal | None:
        """Map the stated p_win where the calibrator is not off and p_win is one that a decider may state."""
        p_raw = candidate.p_win_pct / PERCENT
        return self.calibration.calibrated(float(p_raw)) if 0 < p_raw < 1 else None

    def _relieve_paralysis(self, judged: Sequence[_Judged]) -> list[_Judged]:
        """Waive the probe minimum for the best candidate that passes every other gate, if it is time."""
        sessions = self.state.sessions
        spirited = sum(item.candidate.conviction >= PARALYSIS_MIN_CONVICTION for item in judged)
        if (
            sessions.earlier < PARALYSIS_SESSIONS
            or sessions.approved_in_last_two
            or spirited < PARALYSIS_MIN_CANDIDATES
        ):
            return list(judged)
        waived = [self._judge_candidate(item.candidate, waived=True) for item in judged]
        best = min(range(len(waived)), key=lambda index: waived[index].rank_key)
        if waived[best].blocked_by:
            return list(judged)
        return [waived[best] if index == best else item for index, item in enumerate(judged)]

    def _entry_ticket(self, *, case: Case, candidate: Candidate, entry: Decimal, sizing: Sizing) -> Ticket:
        stop, target, view = candidate.stop_loss, candidate.target_price, case.view
        if stop is None or target is None or view is None or view.atr is None:
            raise AssertionError("a case that passed every gate has a stop, a target and an ATR")
        risk = sizing.quantity * sizing.risk_per_share
        sign = 1 if candidate.is_long else -1
        parts = slices(loss=abs(entry - stop), reward=abs(target - entry), scale_out=self.policy.scale_out)
        return Ticket(
            client_order_id=client_order_id(self.decision_id),
            symbol=candidate.symbol,
            side=Side.BUY if candidate.is_long else Side.SELL_SHORT,
            quantity=sizing.quantity,
            entry_type=candidate.entry_type.value,
            entry_price=entry,
            stop_loss=stop,
            targets=tuple(Target(price=entry + sign * part.distance, fraction=float(part.fraction)) for part in parts),
            time_stop_at=self.state.now + timedelta(hours=candidate.time_stop_hours),
            notional_usd=sizing.quantity * entry,
            risk_usd=risk,
            risk_bps=float(risk / self.account.equity * BPS),
            price_collar=_collar(
                candidate=candidate,
                entry=entry,
                stop=stop,
                view=view,
                reach=self.policy.price_collar_atr * view.atr,
                loss_allowed=self.account.equity * sizing.risk_bps / BPS / sizing.quantity,
            ),
            stop_required=True,
            reduce_only=False,
            mode=self.account.mode,
        )

    # --- exits and adjusts ---------------------------------------------------------------------------

    def judge_manage(self, *, proposal: Proposal, manage: Manage) -> Judgement:
        """Judge an exit or adjust by the four gates that may hold it."""
        position = self.account.position(manage.symbol)
        quantity, fault = 0, None
        out_of_range = manage_fault(manage)
        if out_of_range is not None:
            fault = (Code.PROPOSAL_INVALID, out_of_range)
        elif position is None:
            known = self.market.symbol(manage.symbol) is not None
            fault = (
                Code.PROPOSAL_INVALID if known else Code.UNKNOWN_SYMBOL,
                f"{manage.symbol} is not held",
            )
        else:
            quantity = self._reduction(position=position, manage=manage, mode=proposal.mode)
            refusal = self._manage_refusal(position=position, manage=manage, mode=proposal.mode, quantity=quantity)
            if refusal is not None:
                fault = (Code.PROPOSAL_INVALID, refusal)
        case = Case(
            account=self.account,
            market=self.market,
            state=self.state,
            policy=self.policy,
            decider_serves_live=self.decider_serves_live,
            calibrated=self.calibration.active,
            proposal_fault=fault,
            exposure=self.exposure,
            reduces=True,
        )
        gates = judge_gates(case)
        codes = [gate.code for gate in gates if gate.code is not None]
        ticket = None
        if not codes and position is not None:
            ticket = self._manage_ticket(position=position, manage=manage, mode=proposal.mode, quantity=quantity)
        return self._judgement(
            proposal=proposal,
            verdict=Verdict.BLOCKED if codes else Verdict.APPROVED,
            reason_code=next(iter(codes), None),
            manage=manage,
            view=self.market.symbol(manage.symbol),
            ticket=ticket,
            gates=gates,
        )

    def _reduction(self, *, position: Position, manage: Manage, mode: Mode) -> int:
        """Give the whole shares to close: rounded up, never more than is held and not already leaving."""
        percent = manage.reduce_pct
        if percent is None:
            percent = PERCENT if mode is Mode.EXIT else ZERO
        held = abs(position.quantity)
        leaving = sum(
            (
                reservation.quantity
                for reservation in self.state.reservations
                if reservation.reduce_only and reservation.symbol == position.symbol
            ),
            ZERO,
        )
        wanted = (held * percent / PERCENT).to_integral_value(rounding=ROUND_CEILING)
        free = held.to_integral_value(rounding=ROUND_DOWN) - leaving
        return int(max(ZERO, min(wanted, free)))

    def _manage_refusal(self, *, position: Position, manage: Manage, mode: Mode, quantity: int) -> str | None:
        """Say why an exit or adjust is refused: it does nothing, or it could add risk."""
        if mode is Mode.EXIT:
            return None if quantity > 0 else "nothing is left to close"
        wants_reduction = manage.reduce_pct is not None and manage.reduce_pct > 0
        if wants_reduction and quantity == 0:
            return "nothing is left to reduce"
        if not wants_reduction and manage.new_stop is None and manage.new_target is None:
            return "the adjust changes nothing"
        mark = mark_of(position, market=self.market)
        sign = 1 if position.direction is Direction.LONG else -1
        stop, old_stop = manage.new_stop, position.stop_loss
        if stop is not None:
            if old_stop is not None and sign * (stop - old_stop) <= 0:
                return "the new stop does not reduce risk"
            if mark is not None and sign * (mark - stop) <= 0:
                return "the new stop lies beyond the mark"
        target = manage.new_target
        if target is not None and mark is not None and sign * (target - mark) <= 0:
            return "the new target lies on the loss side of the mark"
        return None

    def _manage_ticket(self, *, position: Position, manage: Manage, mode: Mode, quantity: int) -> Ticket:
        view = self.market.symbol(position.symbol)
        is_long = position.direction is Direction.LONG
        touch = None if view is None else (view.bid if is_long else view.ask) or view.price
        price = touch if touch is not None else position.mark_price
        adjust = mode is Mode.ADJUST
        return Ticket(
            client_order_id=client_order_id(self.decision_id),
            symbol=position.symbol,
            side=Side.SELL if is_long else Side.BUY_TO_COVER,
            quantity=quantity,
            entry_type=EntryType.MARKET.value,
            entry_price=price,
            stop_loss=manage.new_stop if adjust else None,
            targets=(Target(price=manage.new_target, fraction=1.0),) if adjust and manage.new_target else (),
            time_stop_at=None,
            notional_usd=None if price is None else quantity * price,
            risk_usd=ZERO,
            risk_bps=0.0,
            price_collar=None,
            stop_required=False,
            reduce_only=True,
            mode=self.account.mode,
        )

    # --- what every judgement holds ------------------------------------------------------------------

    def no_trade(self, *, reason: str, degraded: bool, proposal: Proposal) -> Judgement:
        """Record that nothing was proposed, and why."""
        return self._judgement(
            proposal=proposal,
            verdict=Verdict.NO_TRADE,
            reason_code=reason,
            gates=skip_gates("nothing was proposed"),
            degraded=degraded,
        )

    def _judgement(
        self,
        *,
        proposal: Proposal,
        verdict: Verdict,
        reason_code: str | None,
        gates: tuple[GateResult, ...],
        candidate: Candidate | None = None,
        manage: Manage | None = None,
        view: SymbolView | None = None,
        ticket: Ticket | None = None,
        edge: Edge | None = None,
        sizing: Sizing | None = None,
        candidates: tuple[CandidateSummary, ...] = (),
        degraded: bool = False,
        reserved_unit: Decimal | None = None,
    ) -> Judgement:
        opens = ticket is not None and not ticket.reduce_only
        return Judgement(
            action=proposal.mode,
            verdict=verdict,
            reason_code=reason_code,
            degraded=degraded,
            decided_at=self.state.now,
            valid_until=self.state.now + timedelta(seconds=self.policy.ticket_ttl_s),
            candidate=candidate,
            manage=manage,
            ticket=ticket,
            edge=edge,
            sizing=sizing,
            calibration=self.calibration,
            p_win_calibrated=None if candidate is None else self._p_win_calibrated(candidate),
            gates=gates,
            candidates=candidates,
            risk_state=self._risk_state(),
            claims=self._claims(candidate=candidate, view=view, edge=edge),
            issues=self.market.issues,
            watchlist=proposal.watchlist,
            notes=proposal.notes,
            day_loss_usd=None if self.exposure.day_loss is None else self.exposure.day_loss.loss_usd,
            week_loss_usd=None if self.exposure.week_loss is None else self.exposure.week_loss.loss_usd,
            buckets=view.buckets if view is not None else (),
            reserved_notional_usd=(ticket.quantity * reserved_unit if opens and ticket and reserved_unit else ZERO),
            reserved_risk_usd=ticket.risk_usd if opens and ticket else ZERO,
        )

    def _risk_state(self) -> RiskState:
        exposure, equity = self.exposure, self.account.equity
        limit = self.policy.max_bucket_exposure_pct
        return RiskState(
            day_dd_bps=None if exposure.day_loss is None else float(exposure.day_loss.fraction * BPS),
            week_dd_bps=None if exposure.week_loss is None else float(exposure.week_loss.fraction * BPS),
            cash_pct=float(self.account.cash / equity),
            gross_leverage=None if exposure.unmarked else float(exposure.gross_usd / equity),
            open_positions=exposure.open_positions,
            buckets=tuple(
                BucketExposure(
                    bucket=bucket,
                    exposure_pct=float(used / equity),
                    limit_pct=float(limit),
                    reduce_by_usd=max(ZERO, used - limit * equity),
                )
                for bucket, used in sorted(exposure.by_bucket.items())
            ),
        )

    def _claims(self, *, candidate: Candidate | None, view: SymbolView | None, edge: Edge | None) -> tuple[Claim, ...]:
        """Set what the model and the caller claimed beside what was computed."""
        claims: list[Claim] = []
        if candidate is not None and edge is not None:
            claimed = claimed_risk_reward(candidate.thesis)
            if claimed is not None:
                claims.append(Claim(field="risk_reward", claimed=claimed, computed=float(edge.risk_reward)))
            if self.calibration.active:
                claims.append(Claim(field="p_win", claimed=float(edge.p_win_raw), computed=float(edge.p_win)))
        if view is not None:
            claims.extend(view.claims)
        for name, sent, baseline in (
            ("daily_pnl", self.account.daily_pnl, self.state.day_baseline_usd),
            ("weekly_pnl", self.account.weekly_pnl, self.state.week_baseline_usd),
        ):
            if sent is not None and baseline is not None:
                claims.append(Claim(field=name, claimed=float(sent), computed=float(self.account.equity - baseline)))
        return tuple(claims)


def entry_price(*, candidate: Candidate, view: SymbolView) -> Decimal | None:
    """Price an entry: a market order at the far touch (price without quotes), others at their own price."""
    if candidate.entry_type is not EntryType.MARKET:
        return candidate.entry_price
    touch = view.ask if candidate.is_long else view.bid
    return view.price if touch is None else touch


def client_order_id(decision_id: str) -> str:
    """Derive the broker's idempotency key from the decision, so that a retried order is the same order."""
    return "tv-" + decision_id.replace("-", "")


def _tick(price: Decimal) -> Decimal:
    return CENT if price >= 1 else SUB_CENT


def _collar(
    *,
    candidate: Candidate,
    entry: Decimal,
    stop: Decimal,
    view: SymbolView,
    reach: Decimal,
    loss_allowed: Decimal,
) -> PriceCollar:
    """Bound the fill: within reach of mid, on the profit side of the stop, and inside the risk budget.

    Rounded inward to the tick, but never past the entry itself.
    """
    if candidate.is_long:
        low, high = max(view.mid - reach, stop), min(view.mid + reach, stop + loss_allowed)
    else:
        low, high = max(view.mid - reach, stop - loss_allowed, ZERO), min(view.mid + reach, stop)
    return PriceCollar(
        low=min(entry, low.quantize(_tick(low), rounding=ROUND_CEILING)) if low <= entry else low,
        high=max(entry, high.quantize(_tick(high), rounding=ROUND_FLOOR)) if high >= entry else high,
    )


_CLAIMED_RATIO: Final = re.compile(
    r"\b(?:r\s*[:/]\s*r|r&r|rrr?|risk[\s:/-]*(?:to[\s-]*)?reward|reward[\s:/-]*(?:to[\s-]*)?risk)\b"
    r"\D{0,12}(\d{1,2}(?:\.\d{1,2})?)|\b(\d{1,2}(?:\.\d{1,2})?)\s*:\s*1\b",
    re.IGNORECASE,
)


def claimed_risk_reward(thesis: str) -> float | None:
    """Find a risk-reward ratio that the thesis claims ("3:1", "R:R 3.0"), or None."""
    match = _CLAIMED_RATIO.search(thesis)
    if match is None:
        return None
    return float(match.group(1) or match.group(2))
