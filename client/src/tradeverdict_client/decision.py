"""What the service answered: a verdict, why, and, when it approved, a ticket that looks after itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, Self

from tradeverdict_client.errors import NotExecutable, StopMissing, TicketExpired, UnexpectedAnswer
from tradeverdict_client.wire import Answer, read

APPROVING: Final = ("approved", "resized")
NEUTRAL: Final = "MODEL_NEUTRAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(Answer):
    """A take-profit price and the fraction of the quantity that it closes."""

    price: Decimal
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceCollar(Answer):
    """The fill prices that keep the order inside its limits."""

    low: Decimal
    high: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket(Answer):
    """An approved order: valid until `valid_until`, worthless without its stop, the same under one `client_order_id`.

    Take the order from `use()`, which refuses when it must not be placed. `quantity` 0 moves only stop or target.
    """

    decision_id: str
    account_id: str
    as_of: datetime
    valid_until: datetime
    client_order_id: str
    symbol: str
    side: str
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
    mode: str

    @property
    def target(self) -> Decimal | None:
        """The last take-profit price: the one that was judged."""
        return self.targets[-1].price if self.targets else None

    @property
    def needs_stop(self) -> bool:
        """Whether the order may only stand together with its stop."""
        return self.stop_required or not self.reduce_only

    def checked(self, now: datetime) -> Self:
        """Give the ticket when it may be used at that time.

        Raises:
            TicketExpired: `now` is `valid_until` or later.
            StopMissing: the order needs a stop and has none.
        """
        if now >= self.valid_until:
            raise TicketExpired(f"{self.client_order_id} was valid until {self.valid_until.isoformat()}")
        if self.needs_stop and (self.stop_loss is None or self.stop_loss <= 0):
            raise StopMissing(f"{self.client_order_id} has no stop; do not place it")
        return self

    def use(self) -> Self:
        """Give the ticket when it may be used now; raises like `checked`."""
        return self.checked(datetime.now(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(Answer):
    """What the decider said of the judged entry (or, with `reason`, of the judged exit or adjust)."""

    symbol: str
    direction: str | None = None
    setup: str | None = None
    entry_type: str | None = None
    entry_price: Decimal | None = None
    stop_loss: Decimal | None = None
    target_price: Decimal | None = None
    time_stop_hours: int | None = None
    p_win_pct: int | None = None
    conviction: int | None = None
    thesis: str | None = None
    reduce_pct: float | None = None
    new_stop: Decimal | None = None
    new_target: Decimal | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge(Answer):
    """What the trade is worth after costs: `ev_r` in units of risk, `ev_pct` a fraction of the entry."""

    p_win_raw: float
    p_win: float
    risk_reward: float
    ev_r: float
    ev_pct: float
    kelly_fraction: float
    cost_bps_round_trip: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap(Answer):
    """One cap and the whole shares that it allows."""

    cap: str
    max_quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing(Answer):
    """How the quantity came about: every cap, and the one that binds."""

    risk_per_share: Decimal
    atr_multiple: float
    caps: tuple[Cap, ...]
    binding_cap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationStanding(Answer):
    """What the decider's record did: `on` uses `p_win_calibrated`, `shadow` reports it; derated, size stays small."""

    state: str
    calibrator_id: int | None = None
    p_win_calibrated: float | None = None
    derated: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult(Answer):
    """One gate: what it saw, what it allows, and the code with which it blocks."""

    gate: str
    status: str
    observed: float | str | None
    limit: float | str | None
    unit: str
    code: str | None
    detail: str

    @property
    def blocks(self) -> bool:
        return self.status == "block"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Answer):
    """One judged candidate's place among the others."""

    symbol: str
    rank: int
    verdict: str
    ev_r: float | None
    blocked_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketExposure(Answer):
    """The gross exposure of one bucket, fractions of equity."""

    bucket: str
    exposure_pct: float
    limit_pct: float
    reduce_by_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskState(Answer):
    """The account's risk before this decision; None where it cannot be known."""

    day_dd_bps: int | None
    week_dd_bps: int | None
    cash_pct: float
    gross_leverage: float | None
    open_positions: int
    buckets: tuple[BucketExposure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Answer):
    """A figure that somebody claimed, beside the computed one."""

    field: str
    claimed: float
    computed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchItem(Answer):
    """A symbol that the decider would act on later."""

    symbol: str
    trigger: str
    target_conviction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIssue(Answer):
    """Something that was wrong with the data, and what was done about it."""

    symbol: str | None
    field: str
    issue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Liquidity(Answer):
    """Liquidity of one symbol, 0 to 100; None when unknown."""

    symbol: str
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Decider(Answer):
    """Who decided, how long it took, and what it cost."""

    name: str
    model: str | None
    prompt_version: str
    prompt_hash: str
    latency_ms: int
    attempts: int
    hedged: bool
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce(Answer):
    """Which limits were in force."""

    version: str
    hash: str
    aggressiveness_level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision(Answer):
    """A recorded verdict. Ask `should_execute()`, then take the order from `use()`."""

    decision_id: str
    account_id: str
    as_of: datetime
    decided_at: datetime
    valid_until: datetime
    action: str
    verdict: str
    approved: bool = field(metadata={"key": "should_execute"})
    reason_code: str | None
    degraded: bool
    ticket: Ticket | None = field(metadata={"key": "order"})
    proposal: Proposal | None
    edge: Edge | None
    sizing: Sizing | None
    gates: tuple[GateResult, ...]
    candidates: tuple[Candidate, ...]
    risk_state: RiskState
    claims: tuple[Claim, ...]
    watchlist: tuple[WatchItem, ...]
    notes: str
    data_quality: tuple[DataIssue, ...]
    liquidity: tuple[Liquidity, ...]
    decider: Decider
    policy: PolicyInForce
    latency_ms: int
    calibration: CalibrationStanding | None = None
    idempotency_key: str | None = None
    replayed: bool = False

    @property
    def model_failed(self) -> bool:
        """Whether there was no opinion at all: `reason_code` is a MODEL_ code other than MODEL_NEUTRAL."""
        code = self.reason_code or ""
        return self.degraded or (code.startswith("MODEL_") and code != NEUTRAL)

    @property
    def blocked_by(self) -> tuple[str, ...]:
        """The codes of all blocking gates."""
        return tuple(gate.code or gate.gate for gate in self.gates if gate.blocks)

    def should_execute(self, *, now: datetime | None = None) -> bool:
        """Tell whether there is an order to place, at that time or now. Anything unclear is a no."""
        try:
            self.use(now=now)
        except (NotExecutable, TicketExpired, StopMissing):
            return False
        return True

    def use(self, *, now: datetime | None = None) -> Ticket:
        """Give the order to place.

        Raises:
            NotExecutable: nothing was approved; its code is the decision's reason code.
            TicketExpired, StopMissing: see `Ticket.checked`.
        """
        if self.ticket is None or self.approved is not True or self.verdict not in APPROVING:
            raise NotExecutable(f"{self.action} was {self.verdict}", code=self.reason_code)
        return self.ticket.checked(now or datetime.now(UTC))


def read_decision(document: object, *, idempotency_key: str | None = None, replayed: bool = False) -> Decision:
    """Read an answer of POST /decide; its order becomes a ticket that knows which decision it is of."""
    told: dict[str, Any] = dict(document) if isinstance(document, Mapping) else {}
    if isinstance(order := told.get("order"), Mapping):
        whose = ("decision_id", "account_id", "as_of", "valid_until")
        told["order"] = {**order, **{name: told.get(name) for name in whose}}
    told |= {"idempotency_key": idempotency_key, "replayed": replayed}
    decision = read(Decision, told)
    if decision.approved is not (decision.verdict in APPROVING and decision.ticket is not None):
        raise UnexpectedAnswer(f"should_execute is {decision.approved}, and the verdict is {decision.verdict}")
    return decision
