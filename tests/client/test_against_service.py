"""The client against the running service: each decision once, whatever the network does, and a whole bot."""

import asyncio
import gc
import os
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from tests.faults.processes import full_or_quick, service
from tests.faults.tcp_proxy import Fate, TcpProxy
from tradeverdict_client import (
    Account,
    AsyncTradeVerdict,
    Bar,
    Conflict,
    Decision,
    Event,
    Halted,
    Outcome,
    RetryLimits,
    Snapshot,
    SymbolData,
    Ticket,
    TradeVerdict,
)
from tradeverdict_client.prototype import ClaudeTrader, FailedSignal, Signal

# Sockets that the proxy cut are left half closed when the event loop ends.
pytestmark = [
    pytest.mark.xdist_group("waits"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CLIENT = Path(__file__).parents[2] / "client"
BOT = CLIENT / "examples" / "bot.py"
README = CLIENT / "README.md"
DECISIONS = full_or_quick(1000, 60)
BOTS_AT_ONCE = 8
PATIENT = RetryLimits(deadline_s=120, attempt_s=1.5, first_pause_s=0.02, longest_pause_s=0.3)
LOST, UNANSWERED = 0.08, 0.20
"""Shares of what a client sends that never arrive, and that arrive and are never answered."""

CountReport = Callable[[str, object], None]


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    gc.collect()


def a_snapshot(account_id: str) -> Snapshot:
    """A trend that the rules trade on, as of now."""
    account = Account(id=account_id, equity=100_000, cash=100_000, positions=(), daily_pnl=0, weekly_pnl=0)
    amd = SymbolData(symbol="AMD", price=140, bid=139.97, ask=140, atr=4, adv=6e9, rsi=61, ma_20=136, ma_50=131)
    return Snapshot(account=account, as_of=datetime.now(UTC), market=[amd])


def ticket_of(decision: Decision) -> Ticket:
    assert decision.should_execute(), (decision.verdict, decision.reason_code)
    return decision.use()


@asynccontextmanager
async def a_bad_network(target: str, dice: random.Random) -> AsyncIterator[TcpProxy]:
    """A way to the service that loses and resets at random, and is late, dead or closed for moments."""

    def fate(_: bytes) -> Fate:
        drawn = dice.random()
        return Fate.LOST if drawn < LOST else Fate.UNANSWERED if drawn < LOST + UNANSWERED else Fate.PASSED

    async def spoil(proxy: TcpProxy) -> None:
        while True:
            for trouble, value, for_s in (("latency_s", 0.05, 0.5), ("cut", True, 0.2), ("refusing", True, 0.3)):
                calm = getattr(proxy, trouble)
                await asyncio.sleep(dice.uniform(0.2, 0.8))
                setattr(proxy, trouble, value)
                await asyncio.sleep(for_s)
                setattr(proxy, trouble, calm)
            proxy.reset()

    async with TcpProxy(target) as proxy:
        proxy.fate = fate
        spoiling = asyncio.create_task(spoil(proxy))
        try:
            yield proxy
        finally:
            spoiling.cancel()


async def test_over_a_bad_network_every_decision_and_every_claim_is_stored_once(
    database_url: str, tmp_path: Path, record_property: CountReport
) -> None:
    decided: dict[str, Decision] = {}
    met: Counter[str] = Counter()
    numbers = iter(range(DECISIONS))

    async def run_bot(proxy: TcpProxy, bot: int) -> None:
        """Every other bot waits, in a thread; the others await."""
        with TradeVerdict(proxy.url, limits=PATIENT) as waiting:
            async with AsyncTradeVerdict(proxy.url, limits=PATIENT) as awaited:
                for number in numbers:
                    account_id = f"account-{number}"
                    snapshot = a_snapshot(account_id)
                    if bot % 2:
                        decision = await awaited.decide(snapshot)
                        await awaited.claim(ticket_of(decision))
                    else:
                        decision = await asyncio.to_thread(waiting.decide, snapshot)
                        await asyncio.to_thread(waiting.claim, ticket_of(decision))
                    met["replays"] += decision.replayed
                    assert account_id not in decided
                    decided[account_id] = decision

    async with (
        service(database_url, tmp_path, DECISION_DEADLINE_MS=10_000) as running,
        a_bad_network(running.base_url, random.Random(6)) as proxy,
    ):
        await asyncio.gather(*(run_bot(proxy, bot) for bot in range(BOTS_AT_ONCE)))
        broken = proxy.broken

    connection = await asyncpg.connect(database_url)
    try:
        stored = await connection.fetch("SELECT account_id, decision_id::text AS id, ticket FROM llm_decisions")
        claims = await connection.fetch("SELECT decision_id::text AS id FROM decision_events WHERE event = 'claimed'")
    finally:
        await connection.close()
    assert len(decided) == DECISIONS
    assert Counter((row["account_id"], row["id"]) for row in stored) == Counter(
        (account_id, decision.decision_id) for account_id, decision in decided.items()
    )
    tickets = [ticket for decision in decided.values() if (ticket := decision.ticket)]
    assert len(tickets) == DECISIONS
    assert Counter(row["id"] for row in claims) == Counter(ticket.decision_id for ticket in tickets)
    assert len({ticket.client_order_id for ticket in tickets}) == DECISIONS
    assert broken > 0
    record_property(
        "counts",
        f"client over a bad network: {DECISIONS} decisions, {len(stored)} stored, {len(claims)} claims, 0 duplicates; "
        f"{broken} connections broken, {met['replays']} answers were replays",
    )


async def test_two_bots_cannot_both_claim(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path) as running, AsyncTradeVerdict(running.base_url) as client:
        ticket = ticket_of(await client.decide(a_snapshot("paper-1")))

        claims = await asyncio.gather(*(client.claim(ticket) for _ in range(5)), return_exceptions=True)

        assert sum(isinstance(claim, Conflict) for claim in claims) == 4


async def test_a_trade_is_told_from_claim_to_result(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path) as running:
        await asyncio.to_thread(tell_a_trade, running.base_url)


def tell_a_trade(url: str) -> None:
    with TradeVerdict(url) as client:
        decision = client.decide(a_snapshot("paper-1"))
        ticket = ticket_of(decision)
        fill = Event.filled(quantity=ticket.quantity, price=ticket.entry_price or 0, stop_placed=True)
        close = Event.closed(exit_reason="target", price=ticket.target)

        told = (Event.acknowledged(stop_placed=True), fill, fill, close)
        phases = [client.claim(ticket).ticket.phase, *(client.report(ticket, event).ticket.phase for event in told)]
        result = client.report(ticket, close).result

        assert phases == ["working", "working", "filled", "filled", "closed"]
        assert result is not None
        assert result.outcome == "win"
        again = client.decision(decision.decision_id)
        assert again.ticket == ticket


async def test_outcomes_and_bars_are_taken(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path) as running, AsyncTradeVerdict(running.base_url) as client:
        ticket = ticket_of(await client.decide(a_snapshot("paper-1")))
        known = Outcome(
            decision_id=ticket.decision_id, exit_at=datetime.now(UTC), exit_price=ticket.target, exit_reason="target"
        )
        unknown = Outcome(
            decision_id="0193a5f0-7c1e-7d7e-8c57-0d2c1f7f9a10", exit_at=datetime.now(UTC), realized_pnl="1.00"
        )

        first = await client.post_outcomes([known, unknown])
        second = await client.post_outcomes([known])
        bars = await client.post_bars(
            {"AMD": [Bar(t=datetime.now(UTC) - timedelta(days=2), o=140, h=141, l=139, c=140, v=1000)]}
        )

        assert [line.status for line in (*first, *second)] == ["recorded", "refused", "repeated"]
        assert (first[0].outcome, first[1].code) == ("win", "NOT_FOUND")
        assert bars.resolved == 0


async def test_a_halt_stops_claims_until_it_is_lifted(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path) as running, AsyncTradeVerdict(running.base_url) as client:
        ticket = ticket_of(await client.decide(a_snapshot("paper-1")))
        halt = await client.halt("paper-1", reason="a test", operator="ana")

        with pytest.raises(Halted) as refused:
            await client.claim(ticket)
        assert (refused.value.code, await client.halts()) == ("HALTED", (halt,))
        resumed = await client.resume("paper-1", reason="over", operator="ben")
        await client.claim(ticket)

        assert [lifted.halt_id for lifted in resumed.lifted] == [halt.halt_id]
        assert resumed.in_force == ()


async def test_calibration_can_be_read(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path) as running, AsyncTradeVerdict(running.base_url) as client:
        record = await client.calibration(days=30)

        assert (record.verdict, record.counts.resolved, record.brier) == ("insufficient", 0, None)


async def test_the_prototypes_signal_comes_from_the_service_and_its_error_from_nowhere(
    database_url: str, tmp_path: Path
) -> None:
    market = {"price": 140, "bid": 139.97, "ask": 140, "atr": 4, "adv": 6e9, "rsi": 61, "ma_20": 136, "ma_50": 131}
    account = a_snapshot("paper-1").account
    async with service(database_url, tmp_path) as running:
        with TradeVerdict(running.base_url, limits=RetryLimits(deadline_s=3)) as client:
            trader = ClaudeTrader(account=account, client=client)
            signal = await trader.analyze_market_event("Orders rise", "AMD", market)
            await running.kill()
            failed = await trader.analyze_market_event("Orders rise", "AMD", market)

    assert isinstance(signal, Signal)
    assert (signal["direction"], signal["stop_loss"], signal["should_execute"]) == ("bullish", 135.2, True)
    assert isinstance(failed, FailedSignal)
    assert failed["error"]["code"] == "NO_ANSWER"


def run_python(script: Path, url: str) -> list[str]:
    """Run a script as a bot owner does; give the lines it printed."""
    environment = os.environ | {"TRADEVERDICT_URL": url}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


async def test_the_example_bot_trades_and_reports_again_and_again(database_url: str, tmp_path: Path) -> None:
    async with service(database_url, tmp_path, MAX_SNAPSHOT_AGE_S=60) as running:
        runs = [await asyncio.to_thread(run_python, BOT, running.base_url) for _ in range(2)]

    for said in runs:
        assert [line.split(" ")[0] for line in said] == ["buy", "filled:", "closed:", "calibration:"]
        assert "outcome='win'" in said[2]


async def test_the_examples_of_the_readme_run_as_they_stand(database_url: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks))

    async with service(database_url, tmp_path, MAX_SNAPSHOT_AGE_S=60) as running:
        said = await asyncio.to_thread(run_python, script, running.base_url)

    assert len(blocks) >= 4
    assert "bullish" in said
