"""Many reporters at once, over two processes: no deadlock, and the statistics are what a recount gives."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx2

from tests.api.prices import FILLS, MONDAY, QUIET, hours
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.processes import (
    Service,
    ask,
    asking,
    full_or_quick,
    owner_of,
    services,
)
from tests.model_server import ModelServer
from tests.recount import checked_statistics

ACCOUNTS = 4
REPORTERS = 8
IDEAS = full_or_quick(40, 10)
"""Decisions of each account, each in a symbol of its own."""
BARS = full_or_quick(60, 20)
"""Reports of bars by each reporter."""
TOUCHES = ((126.0, 140.5, 125.5, 139.0), (126.0, 126.5, 118.0, 119.0), QUIET)
"""An hour in which the stand-in's target (139.75) trades, one with its stop (119.66), one with neither."""


def symbol(number: int) -> str:
    return f"Q{chr(65 + number // 26)}{chr(65 + number % 26)}"


async def decided(client: httpx2.AsyncClient, service: Service, account_id: str) -> list[dict[str, Any]]:
    """The account's approved decisions."""
    approved = []
    for number in range(IDEAS):
        body = a_request(
            account={"id": account_id, "positions": []},
            symbol={"symbol": symbol(number), "buckets": [f"bucket_{number}"], "bars": []},
            as_of=MONDAY,
            news=[],
            options_flow=[],
        )
        answer = await ask(client, service, body)
        assert answer.status == 200, answer.body
        if answer.json["should_execute"]:
            approved.append(answer.json)
    return approved


class Reporter:
    """Tell of an account's trades and of the market, in an order of its own, and try again what had no answer."""

    def __init__(
        self, client: httpx2.AsyncClient, service: Service, decisions: list[dict[str, Any]], *, seed: int
    ) -> None:
        self.client = client
        self.service = service
        self.decisions = decisions
        self.draw = Random(seed)
        self.statuses: Counter[int] = Counter()

    async def report(self) -> None:
        trades = self.draw.sample(self.decisions, len(self.decisions))
        steps = [self.bars() for _ in range(BARS)]
        for start in range(0, len(trades), 3):
            steps.insert(self.draw.randrange(len(steps)), self.trades(trades[start : start + 3]))
        for step in steps:
            await step

    async def trades(self, decisions: list[dict[str, Any]]) -> None:
        """Tell that these were closed, and then correct that."""
        lines = [
            {
                "decision_id": decision["decision_id"],
                "exit_at": "2024-03-04T19:00:00Z",
                "exit_price": "119.66",
                "exit_reason": "stop",
            }
            for decision in decisions
        ]
        results = (await self.post("/outcomes", lines)).json()["results"]
        assert {result["status"] for result in results} <= {"recorded", "repeated"}, results
        for decision in decisions:
            for number, price in enumerate(("139.75", "126.00", "139.80")):
                await self.post(
                    f"/decisions/{decision['decision_id']}/events",
                    {
                        "event_id": f"correction-{number}",
                        "event": "corrected",
                        "corrects": f"closed:{decision['decision_id']}",
                        "at": "2024-03-04T20:00:00Z",
                        "price": price,
                        "exit_reason": "target",
                    },
                )

    async def bars(self) -> None:
        """Tell what some symbols did; two reporters may tell of one bar differently, and the first counts."""
        told = {
            symbol(number): hours(FILLS, QUIET, self.draw.choice(TOUCHES), self.draw.choice(TOUCHES))
            for number in self.draw.sample(range(IDEAS), 4)
        }
        await self.post("/bars", {"interval": self.draw.choice(["1h", "15m"]), "bars": told})

    async def post(self, path: str, body: Any) -> httpx2.Response:
        while True:
            answer = await self.client.post(f"{self.service.base_url}{path}", json=body)
            self.statuses[answer.status_code] += 1
            if answer.status_code != 503:
                assert answer.status_code in (200, 201), answer.text
                return answer
            await asyncio.sleep(0.1)


async def test_reporters_at_once_leave_the_statistics_that_a_recount_gives(
    client: httpx2.AsyncClient, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    async with (
        ModelServer() as model,
        services(2, database_url, tmp_path, PER_TRADE_RISK_BPS=5, **asking(model)) as running,
    ):
        decisions = await asyncio.gather(
            *(decided(client, running[number % 2], f"account-{number}") for number in range(ACCOUNTS))
        )
        reporters = [
            Reporter(client, running[number % 2], decisions[number // 2], seed=number) for number in range(REPORTERS)
        ]
        await asyncio.gather(*(reporter.report() for reporter in reporters))

    async with owner_of(database_url) as owner:
        kept = await checked_statistics(owner)
        deadlocks = await owner.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        labels = await owner.fetchval("SELECT count(*) FROM decision_events WHERE event = 'outcome'")
        executed = await owner.fetchval("SELECT count(*) FROM forecasts WHERE executed_outcome = 'win'")
        resolved = await owner.fetchval("SELECT count(*) FROM forecasts WHERE paper_state = 'resolved'")
    approved = sum(map(len, decisions))
    assert deadlocks == 0
    # The last correction of each trade says that it ended beyond its target.
    assert executed == approved >= ACCOUNTS
    assert resolved > 0
    assert sum(sum(amounts) for amounts in kept["calibration_daily"].values()) == 2 * (executed + resolved)
    statuses = sum((reporter.statuses for reporter in reporters), Counter[int]())
    figures(
        f"{REPORTERS} reporters on {ACCOUNTS} accounts over 2 processes",
        reports=statuses.total(),
        told_again_after_503=statuses[503],
        changes_of_labels=labels,
        executed=executed,
        on_paper=resolved,
        deadlocks=deadlocks,
    )
