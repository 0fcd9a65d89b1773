"""Connect a trading bot to TradeVerdict.

    with TradeVerdict("http://127.0.0.1:8000") as client:
        decision = client.decide(snapshot)
        if decision.should_execute():
            client.claim(decision.ticket)

The README shows a whole bot. What can go wrong is in `tradeverdict_client.errors`, what stands in for the prototype's
classes in `tradeverdict_client.prototype`.
"""

from tradeverdict_client.client import AsyncTradeVerdict, TradeVerdict
from tradeverdict_client.decision import (
    CalibrationStanding,
    Candidate,
    Decider,
    Decision,
    Edge,
    GateResult,
    PriceCollar,
    Proposal,
    RiskState,
    Sizing,
    Target,
    Ticket,
)
from tradeverdict_client.errors import (
    ApiError,
    BadRequest,
    Conflict,
    FieldError,
    Forbidden,
    Halted,
    InvalidInput,
    LateClaim,
    ModelFailed,
    NoAnswer,
    NotExecutable,
    NotFound,
    RateLimited,
    ServiceError,
    SignalFailed,
    StopMissing,
    TicketExpired,
    TicketRefused,
    TradeVerdictError,
    Unauthenticated,
    UnexpectedAnswer,
)
from tradeverdict_client.reports import (
    BarsResult,
    Calibration,
    DroppedBar,
    Event,
    Halt,
    Outcome,
    OutcomeResult,
    Progress,
    Report,
    Resumed,
    TradeResult,
)
from tradeverdict_client.retrying import RetryLimits
from tradeverdict_client.snapshot import Account, Bar, News, OptionsFlow, Position, Snapshot, SymbolData

__version__ = "0.1.0"

__all__ = [
    "Account",
    "ApiError",
    "AsyncTradeVerdict",
    "BadRequest",
    "Bar",
    "BarsResult",
    "Calibration",
    "CalibrationStanding",
    "Candidate",
    "Conflict",
    "Decider",
    "Decision",
    "DroppedBar",
    "Edge",
    "Event",
    "FieldError",
    "Forbidden",
    "GateResult",
    "Halt",
    "Halted",
    "InvalidInput",
    "LateClaim",
    "ModelFailed",
    "News",
    "NoAnswer",
    "NotExecutable",
    "NotFound",
    "OptionsFlow",
    "Outcome",
    "OutcomeResult",
    "Position",
    "PriceCollar",
    "Progress",
    "Proposal",
    "RateLimited",
    "Report",
    "Resumed",
    "RetryLimits",
    "RiskState",
    "ServiceError",
    "SignalFailed",
    "Sizing",
    "Snapshot",
    "StopMissing",
    "SymbolData",
    "Target",
    "Ticket",
    "TicketExpired",
    "TicketRefused",
    "TradeResult",
    "TradeVerdict",
    "TradeVerdictError",
    "Unauthenticated",
    "UnexpectedAnswer",
]
