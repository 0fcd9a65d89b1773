"""POST /decide over a model with a long tail: in time, with a proposal, with few hedges; a real process and sockets."""

import asyncio
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from tests.api.served import targets_file
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.processes import PROVE, Service, full_or_quick, http_client, service
from tests.faults.slow_model import RATE, SlowModel, percentile, stalls_watched
from tests.model_server import ModelServer

DEADLINE_S: Final = 1.5
SLACK_S: Final = 0.1 if PROVE else 0.4
"""What an answer may be late; with few decisions, tests on the other core may hold up the service itself."""


@dataclass(frozen=True)
class Run:
    """What the decisions asked for in one way came to."""

    documents: list[dict[str, Any]]
    took_s: list[float]
    left_out: int

    @property
    def valid(self) -> float:
        return statistics.mean(not (of["reason_code"] or "").startswith("MODEL_") for of in self.documents)

    @property
    def hedged(self) -> float:
        return statistics.mean(bool(of["decider"]["hedged"]) for of in self.documents)

    def told(self) -> dict[str, object]:
        return {
            "decisions": len(self.documents),
            **{f"p{share}_ms": round(percentile(self.took_s, share / 100) * 1000) for share in (50, 95, 99)},
            "max_ms": round(max(self.took_s) * 1000),
            "left_out": self.left_out,
            "valid": f"{self.valid:.1%}",
            "hedged": f"{self.hedged:.1%}",
            "calls": sum(of["decider"]["attempts"] for of in self.documents),
        }


async def steadily(client: httpx2.AsyncClient, asked: Service, *, decisions: int, name: str) -> Run:
    """Post at a steady rate, each decision for an account of its own."""

    async def one(number: int) -> tuple[dict[str, Any], float, float]:
        await asyncio.sleep(max(number, 0) / RATE)
        started = time.monotonic()
        body = a_request(account={"id": f"{name} {number}"})
        answer = await client.post(f"{asked.base_url}/decide", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json(), started, time.monotonic() - started

    await one(-1)  # the first call of a process is slower
    async with stalls_watched() as stalls:
        answers = await asyncio.gather(*(one(number) for number in range(decisions)))
    kept = [(document, took_s) for document, began, took_s in answers if not stalls.within(began, DEADLINE_S)]
    return Run([document for document, _ in kept], [took_s for _, took_s in kept], decisions - len(kept))


async def test_a_decision_over_a_slow_model_is_in_time_and_has_a_proposal(
    database_url: str, tmp_path: Path, figures: Figures
) -> None:
    decisions = full_or_quick(3000, 75)
    runs: dict[str, Run] = {}
    for name, streamed, share, targets in (("stream and hedge", True, 0.05, 2), ("neither", False, 0, 1)):
        folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        async with ModelServer(SlowModel(seed=7)) as server:
            file = targets_file(folder, *[server.base_url] * targets, streamed=streamed)
            settings = {"DECIDER": "anthropic", "MODEL_TARGETS_FILE": file, "MODEL_HEDGE_MAX_SHARE": share}
            async with service(database_url, folder, **settings) as asked, http_client() as client:
                runs[name] = await steadily(client, asked, decisions=decisions, name=name)
        figures(f"POST /decide, {name}", **runs[name].told())
    best, neither = runs["stream and hedge"], runs["neither"]

    assert all(max(run.took_s) <= DEADLINE_S + SLACK_S for run in runs.values())
    assert percentile(best.took_s, 0.95) < DEADLINE_S
    assert best.hedged <= 0.06
    assert best.valid >= (0.97 if PROVE else 0.93)
    assert best.valid > neither.valid
