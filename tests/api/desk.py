"""A bot's desk: it asks for decisions and reports what became of its tickets."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from fastapi.testclient import TestClient

from tests.api.scenes import nvda_trade
from tests.builders import a_request, an_adjust, an_exit
from tests.fakes import FakeDecider

_event_numbers = itertools.count(1)

NEEDED: dict[str, dict[str, Any]] = {
    "partially_filled": {"quantity": 1, "price": "125.40"},
    "filled": {"quantity": 53, "price": "125.40"},
    "closed": {"price": "137.00"},
}
"""What an event of its kind cannot do without."""


def now(**later: float) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


class Desk:
    """One bot with one account; what it sends goes with its headers."""

    def __init__(
        self, client: TestClient, decider: FakeDecider, account_id: str, *, headers: dict[str, str] | None = None
    ) -> None:
        self.client = client
        self.decider = decider
        self.account_id = account_id
        self.headers = headers or {}

    def ask(self, *, as_of: str = "2026-11-20T15:30:00Z", symbol: str = "NVDA", **account: Any) -> dict[str, Any]:
        """Ask for a decision on an entry in one symbol that costs what NVDA does."""
        self.decider.will(nvda_trade(symbol=symbol))
        return self._decide(as_of=as_of, account=account, symbol={"symbol": symbol})

    def ask_to_close(self, *, as_of: str = "2026-11-20T15:30:00Z", **account: Any) -> dict[str, Any]:
        """Ask for a decision on closing AAPL, of which 50 shares are held."""
        self.decider.will(an_exit(symbol="AAPL"))
        return self._decide(as_of=as_of, account=account)

    def ask_to_move_the_stop(self) -> dict[str, Any]:
        """Ask for a decision on a tighter stop for AAPL, which moves no share."""
        self.decider.will(an_adjust(symbol="AAPL", new_stop="190.00"))
        return self._decide(account={})

    def _decide(self, *, account: dict[str, Any], **request: Any) -> dict[str, Any]:
        body = a_request(account={"id": self.account_id} | account, **request)
        answer = self.client.post("/decide", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def approved(self, **changes: Any) -> dict[str, Any]:
        """A decision with a ticket."""
        decision = self.ask(**changes)
        assert decision["should_execute"], decision["gates"]
        return decision

    def tell(self, decision: dict[str, Any] | str, event: str, **fields: Any) -> httpx2.Response:
        """Report an event; it happens now, and has what its kind needs."""
        decision_id = decision if isinstance(decision, str) else decision["decision_id"]
        body = {"event_id": f"e-{next(_event_numbers)}", "event": event, "at": now(), **NEEDED.get(event, {}), **fields}
        body = {name: value for name, value in body.items() if value is not ...}
        return self.client.post(f"/decisions/{decision_id}/events", json=body, headers=self.headers)

    def told(self, decision: dict[str, Any], event: str, **fields: Any) -> dict[str, Any]:
        """Report an event that counts, and return how far its ticket has come."""
        answer = self.tell(decision, event, **fields)
        assert answer.status_code == 201, answer.text
        ticket: dict[str, Any] = answer.json()["ticket"]
        return ticket

    def sees(self, gate: str, **changes: Any) -> str | None:
        """The code with which a gate blocks the next entry, if it does."""
        gates = {found["gate"]: found["code"] for found in self.ask(**changes)["gates"]}
        code: str | None = gates[gate]
        return code
