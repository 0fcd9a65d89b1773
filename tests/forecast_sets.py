"""Turn sets of forecasts into decisions and outcomes, through the public API and nothing else.

Each forecast becomes a request dated on its day, in which a decider that does as it is told (`StatedDecider`) finds the
percent it is to state where a bot would put the RSI. The plan is always the same: buy at 100, stop 99, target 160.
Then its outcome is reported, 1 as an exit at the target and 0 as one at the stop.

    L = 1, W = 60, so b is about 59, and even 4 % has an expected value: 0.04 x 59 - 0.96 > 0
    Kelly = 0.04 - 0.96/59 = 2.4 %; a quarter of it is 59 bps of equity, more than the risk budget of 50

Many accounts take turns, so that none meets its own open ticket, and several requests are under way at once. The
service judges snapshots of any age (`MAX_SNAPSHOT_AGE_S=0`) and lets targets be far away (`LIMITS`).
"""

import asyncio
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx2

from app.domain.account import Account
from app.domain.market import MarketView
from app.domain.policy import Policy
from app.llm.decider import DeciderCall, Prompt, Reply
from tests.builders import a_candidate, a_trade

DATA: Final = Path(__file__).parent / "data" / "calibration"
LIMITS: Final[Mapping[str, Any]] = {"max_snapshot_age_s": 0, "max_target_atr": Decimal(100)}
ACCOUNTS: Final = 240
AT_ONCE: Final = 8

_EXITS: Final = {1: ("160.00", "target"), 0: ("99.00", "stop")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """One forecast of a set: its day, whole percent, and what came of it (1 or 0)."""

    day: date
    percent: int
    outcome: int


class StatedDecider:
    """Propose the plan with the probability that the request states."""

    name = "stated"
    serves_live = True

    async def propose(
        self, *, prompt: Prompt, market: MarketView, account: Account, policy: Policy, budget_s: float
    ) -> Reply:
        [view] = market.symbols
        assert view.rsi is not None
        return Reply(
            outcome=a_trade(
                a_candidate(symbol=view.symbol, stop_loss="99.00", target_price="160.00", p_win_pct=round(view.rsi))
            ),
            call=DeciderCall(
                name=self.name,
                model="set",
                prompt_version=prompt.version,
                prompt_hash=prompt.template_hash,
                latency_ms=0,
            ),
        )

    async def close(self) -> None:
        pass


def games() -> list[Forecast]:
    """The dated set, in order of time."""
    with (DATA / "fte_nba_games.csv").open() as lines:
        return [
            Forecast(day=date.fromisoformat(row["cluster"]), percent=int(row["p_percent"]), outcome=int(row["outcome"]))
            for row in csv.DictReader(lines)
        ]


async def load(base_url: str, forecasts: Sequence[Forecast]) -> None:
    """Make decisions and outcomes of them; each decision must be approved, and each outcome count."""
    limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    async with httpx2.AsyncClient(base_url=base_url, timeout=60, limits=limits, trust_env=False) as client:
        for turn in _turns(forecasts):
            decision_ids = await _decide(client, turn)
            await _report(client, turn, decision_ids)


def _turns(forecasts: Sequence[Forecast]) -> Iterator[Sequence[Forecast]]:
    """As many forecasts as there are accounts, one for each."""
    for start in range(0, len(forecasts), ACCOUNTS):
        yield forecasts[start : start + ACCOUNTS]


async def _decide(client: httpx2.AsyncClient, turn: Sequence[Forecast]) -> list[str]:
    decision_ids = [""] * len(turn)
    places = iter(range(len(turn)))

    async def ask() -> None:
        for place in places:
            answer = await client.post("/decide", json=_request(turn[place], account_id=f"account-{place}"))
            decision = answer.json()
            assert decision.get("should_execute"), decision
            decision_ids[place] = decision["decision_id"]

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    return decision_ids


async def _report(client: httpx2.AsyncClient, turn: Sequence[Forecast], decision_ids: Sequence[str]) -> None:
    lines = [
        {
            "decision_id": decision_id,
            "exit_at": f"{forecast.day}T21:00:00Z",
            "exit_price": _EXITS[forecast.outcome][0],
            "exit_reason": _EXITS[forecast.outcome][1],
        }
        for forecast, decision_id in zip(turn, decision_ids, strict=True)
    ]
    answer = (await client.post("/outcomes", json=lines)).json()
    assert (answer["recorded"], answer["refused"]) == (len(lines), 0), answer


def _request(forecast: Forecast, *, account_id: str) -> dict[str, Any]:
    return {
        "account": {
            "id": account_id,
            "equity": 100_000,
            "cash": 100_000,
            "daily_pnl": 0,
            "weekly_pnl": 0,
            "positions": [],
        },
        "as_of": f"{forecast.day}T20:00:00Z",
        "market": [
            {
                "symbol": "GAME",
                "price": 100,
                "bid": 100,
                "ask": 100,
                "avg_volume": 10_000_000,
                "atr": 1,
                "adv": 1_000_000_000,
                "rsi": forecast.percent,
            }
        ],
    }
