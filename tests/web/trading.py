"""Fill a store through the public API with what the pages show: every verdict, fills, outcomes, bars, halts.

Days are real ones, up to now, so that the windows of the pages hold them. The one plan is the rulebook's: buy NVDA at
125.40, stop 119.80, target 137.00.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx2

from app.domain.proposal import Mode, ModelFailure, Proposal, WatchItem
from tests.api.scenes import nvda, nvda_trade
from tests.builders import a_request, a_trade, an_exit
from tests.fakes import NEUTRAL, FakeDecider

DAYS: Final = 12
ACCOUNTS: Final = ("desk-1", "desk-2", "desk-3")
PERCENTS: Final = (46, 52, 58, 63, 54, 49, 67, 71, 44)
WINS: Final = (1, 4, 5, 7, 8, 10, 13, 15, 16, 19, 22, 25, 26, 28, 31, 34)
"""Which of the closed trades, by number, reached their target."""
HOSTILE: Final = """<script>alert(1)</script><img src=x onerror=alert(2)> "'--></script>{{ 7*7 }} &lt;b&gt;"""
HOSTILE_ACCOUNT: Final = """'"><svg onload=alert(3)>"""


class Trading:
    """One bot at a service whose decider says what it is told."""

    def __init__(self, client: httpx2.Client, decider: FakeDecider, *, headers: dict[str, str] | None = None) -> None:
        self.client = client
        self.decider = decider
        self.headers = headers or {}
        self.now = datetime.now(UTC).replace(microsecond=0)

    def decide(
        self, *script: Proposal | ModelFailure, account: str, days_ago: float = 0.0, **changes: Any
    ) -> dict[str, Any]:
        """Ask for one decision."""
        self.decider.will(*script)
        as_of = self.now - timedelta(days=days_ago, minutes=5)
        body = a_request(
            **{
                "account": {"id": account, "daily_pnl": 120, "weekly_pnl": 300} | changes.pop("of_account", {}),
                "as_of": as_of.isoformat(),
                "news": [],
                **changes,
            }
        )
        answer = self.client.post("/decide", json=body, headers=self.headers)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def tell(self, decision: dict[str, Any], event: str, **fields: Any) -> None:
        """Report an event."""
        body = {"event_id": event, "event": event, "at": self.now.isoformat(), **fields}
        path = f"/decisions/{decision['decision_id']}/events"
        answer = self.client.post(path, json=body, headers=self.headers)
        assert answer.status_code == 201, answer.text

    def close(self, outcomes: list[dict[str, Any]]) -> None:
        """Report how trades ended."""
        answer = self.client.post("/outcomes", json=outcomes, headers=self.headers)
        assert answer.status_code == 200, answer.text
        assert {line["status"] for line in answer.json()["results"]} == {"recorded"}, answer.text

    def resolve_on_paper(self, *, days_ago: float, wins: bool) -> None:
        """Send the hours after a decision, in which its plan was filled and then won or lost."""
        opened = (self.now - timedelta(days=days_ago)).replace(minute=0, second=0) + timedelta(hours=1)
        high, low = (138.0, 124.0) if wins else (126.0, 118.0)
        prices = [(125.6, 126.0, 125.0, 125.5), (125.5, high, low, 125.0)]
        bars = [
            {"t": (opened + timedelta(hours=hour)).isoformat(), "o": o, "h": h, "l": low_, "c": c, "v": 1_000_000}
            for hour, (o, h, low_, c) in enumerate(prices)
        ]
        answer = self.client.post("/bars", json={"interval": "1h", "bars": {"NVDA": bars}}, headers=self.headers)
        assert answer.status_code == 200, answer.text


def daily_bars(count: int, *, before: datetime) -> list[dict[str, Any]]:
    """Daily bars that rise and fall a little, up to the day before."""
    first = before.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=count)
    closes = [114 + day * 0.25 + 2.2 * ((day * 7) % 5 - 2) / 2 for day in range(count)]
    return [
        {
            "t": (first + timedelta(days=day)).isoformat(),
            "o": round(close - 0.8, 2),
            "h": round(close + 2.0, 2),
            "l": round(close - 2.1, 2),
            "c": round(close, 2),
            "v": 240_000_000,
        }
        for day, close in enumerate(closes)
    ]


def history(trading: Trading, *, days: int = DAYS) -> None:
    """Trade and close for some days, and have the gates block for some."""
    number = 0
    for days_ago in range(days, 0, -1):
        outcomes = []
        for account in ACCOUNTS:
            decision = trading.decide(
                nvda_trade(p_win_pct=PERCENTS[number % len(PERCENTS)]), account=account, days_ago=days_ago
            )
            assert decision["should_execute"], decision["gates"]
            won = number in WINS
            number += 1
            outcomes.append(
                {
                    "decision_id": decision["decision_id"],
                    "exit_at": (trading.now - timedelta(days=days_ago) + timedelta(hours=3)).isoformat(),
                    "exit_price": "137.00" if won else "119.80",
                    "quantity": decision["order"]["quantity"],
                    "exit_reason": "target" if won else "stop",
                }
            )
        trading.close(outcomes)
        if days_ago % 4 == 0:
            # A bar means the same to every plan of its day; each day of the blocked is one by itself.
            for conviction, rest in ((41, {}), (72, {"target_price": "130.00"})):
                trading.decide(
                    nvda_trade(conviction=conviction, **rest), account=f"blocked-{conviction}", days_ago=days_ago - 0.5
                )
            trading.resolve_on_paper(days_ago=days_ago - 0.5, wins=days_ago % 8 == 0)


def today(trading: Trading) -> dict[str, dict[str, Any]]:
    """Make one decision of each kind, by the name of its kind."""
    bars = daily_bars(60, before=trading.now)
    told: dict[str, dict[str, Any]] = {}
    told["approved"] = trading.decide(
        a_trade(nvda(), nvda(symbol="MSFT", entry_price="410.00", stop_loss="402.00", target_price="436.00")),
        account="desk-1",
        symbol={"bars": bars},
        news=[
            {
                "headline": "Chip orders rise",
                "summary": "A supplier reports more orders than it can fill.",
                "source": "wire",
                "timestamp": (trading.now - timedelta(hours=2)).isoformat(),
                "symbols": ["NVDA"],
            }
        ],
    )
    trading.tell(told["approved"], "claimed")
    trading.tell(
        told["approved"],
        "filled",
        quantity=told["approved"]["order"]["quantity"],
        price="125.40",
        stop_placed=True,
        fees="0.53",
    )
    told["resized"] = trading.decide(nvda_trade(conviction=92), account="fund-7", of_account={"equity": 900_000})
    told["blocked"] = trading.decide(
        nvda_trade(conviction=40, stop_loss="127.00"), account="desk-2", of_account={"daily_pnl": -2600}
    )
    told["neutral"] = trading.decide(NEUTRAL, account="desk-3")
    told["watchlist"] = trading.decide(
        Proposal(
            mode=Mode.WATCHLIST,
            watchlist=(WatchItem(symbol="NVDA", trigger="close above 131", target_conviction=70),),
        ),
        account="desk-3",
    )
    told["timeout"] = trading.decide(ModelFailure.TIMEOUT, account="desk-2")
    told["exit"] = trading.decide(an_exit(symbol="AAPL"), account="desk-3")
    told["crowded"] = trading.decide(
        NEUTRAL,
        account="fund-7",
        of_account={
            "equity": 900_000,
            "positions": [{"symbol": "AAPL", "quantity": 2000, "mark_price": 201.2, "stop_loss": 185.0}],
        },
    )
    told["hostile"] = trading.decide(
        nvda_trade(thesis=HOSTILE),
        account=HOSTILE_ACCOUNT,
        news=[
            {
                "headline": HOSTILE,
                "summary": HOSTILE,
                "source": HOSTILE,
                "timestamp": (trading.now - timedelta(hours=1)).isoformat(),
                "symbols": ["NVDA"],
            }
        ],
    )
    return told
