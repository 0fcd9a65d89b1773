"""The rulebook's example over HTTP: the request of section 2 and a proposal that is approved."""

from typing import Any, Final

from app.domain.proposal import Candidate, Direction, Proposal
from tests.builders import a_candidate, a_trade

SHORT: Final[dict[str, Any]] = {"direction": Direction.SHORT, "stop_loss": "131.00", "target_price": "113.80"}
"""What turns the candidate into its mirror image."""


def nvda(**changes: Any) -> Candidate:
    """Buy NVDA at 125.40, stop 119.80, target 137.00, 54 %, conviction 72: the example of section 3."""
    example = {
        "symbol": "NVDA",
        "entry_price": "125.40",
        "stop_loss": "119.80",
        "target_price": "137.00",
        "p_win_pct": 54,
        "conviction": 72,
    }
    return a_candidate(**{**example, **changes})


def nvda_trade(**changes: Any) -> Proposal:
    """Propose that."""
    return a_trade(nvda(**changes))
