"""Stand-ins that tests script by hand."""

import asyncio
from decimal import Decimal
from typing import Final

from app.domain.account import Account
from app.domain.market import MarketView
from app.domain.model_call import PROPOSED, ModelCall
from app.domain.policy import Policy
from app.domain.proposal import Mode, ModelFailure, Proposal
from app.llm.decider import DeciderCall, DeciderFailure, Prompt, Reply

NEUTRAL: Final = Proposal(mode=Mode.NEUTRAL)

Scripted = Proposal | ModelFailure | Exception


class FakeDecider:
    """Propose what the test says, in turn, and the last of it for ever; note what was asked.

    A `ModelFailure` fails with that code, an exception is raised (a bug in a decider), `delay_s` passes first.
    """

    name = "fake"

    def __init__(self, *script: Scripted, serves_live: bool = True, delay_s: float = 0.0) -> None:
        self.script: list[Scripted] = list(script) or [NEUTRAL]
        self.serves_live = serves_live
        self.delay_s = delay_s
        self.prompts: list[Prompt] = []
        self.budgets_s: list[float] = []
        self.closed = False

    def will(self, *script: Scripted) -> None:
        """Replace the script."""
        self.script = list(script)

    async def propose(
        self, *, prompt: Prompt, market: MarketView, account: Account, policy: Policy, budget_s: float
    ) -> Reply:
        self.prompts.append(prompt)
        self.budgets_s.append(budget_s)
        await asyncio.sleep(self.delay_s)
        scripted = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(scripted, Exception):
            raise scripted
        outcome = (
            DeciderFailure(code=scripted, detail="as scripted") if isinstance(scripted, ModelFailure) else scripted
        )
        return Reply(
            outcome=outcome,
            call=DeciderCall(
                name=self.name,
                model="fake-1",
                prompt_version=prompt.version,
                prompt_hash=prompt.template_hash,
                latency_ms=7,
                input_tokens=1000,
                output_tokens=100,
                cost_usd=Decimal("0.0015"),
                raw_reply="{}",
                calls=(
                    ModelCall(
                        target="fake",
                        model="fake-1",
                        started_ms=0,
                        latency_ms=7,
                        outcome=outcome.code if isinstance(outcome, DeciderFailure) else PROPOSED,
                        input_tokens=1000,
                        output_tokens=100,
                        cost_usd=Decimal("0.0015"),
                    ),
                ),
            ),
        )

    async def close(self) -> None:
        self.closed = True
