"""A real Prometheus, with the rules and through the ways of the local stack, sees what happens to a real service.

Every expression of the rules and of the dashboard has data after the traffic of a demo, and every alert's expression
becomes true by its cause. How long each waits before it fires: rules_test.yml and market_hours_test.yml.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
import httpx2
import pytest
import yaml

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.engine import create_pool
from app.db.vocabulary import Scope
from app.domain.lifecycle import STOP_GRACE
from deploy.grafana.dashboard import expressions
from tests.api.served import cost_usd, rows
from tests.deploy.local import RULES, SCRAPE_S, free_port, name_server, needs_nginx, needs_prometheus, nginx, prometheus
from tests.faults.processes import Service, asking, full_or_quick, http_client, request, service
from tests.faults.tcp_proxy import TcpProxy
from tests.ledger import Foretold, keep
from tests.model_server import Answer, ModelServer, Request, decide, message, tool_call

pytestmark = pytest.mark.xdist_group("waits")

RULE_GROUPS = yaml.safe_load(RULES.read_text())["groups"]
RECORDED = {rule["record"]: rule["expr"] for group in RULE_GROUPS for rule in group["rules"] if "record" in rule}
ALERTS = {rule["alert"]: rule["expr"] for group in RULE_GROUPS for rule in group["rules"] if "alert" in rule}
NEW_YORK = ZoneInfo("America/New_York")
HOSTS = ("127.0.0.2", "127.0.0.3")
SEEN_S = 20.0
"""A cause shows within this time: calibration and spending are looked at every 10 s, all else within 2 s."""

QUARTERS = full_or_quick(20, 5)
TRADES = 8
BOASTER = "anthropic/boaster"
CALL_USD = cost_usd(input=120, output=92, cache_read=1800)


class Mood:
    """How the stand-in for the model answers: with a p_win that changes, as by default; late; or not at all."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.overloaded = False
        self._percents = itertools.cycle((45, 48, 51, 54))

    def __call__(self, asked: Request) -> Answer:
        if self.overloaded:
            return Answer(status=529, body={"type": "error", "error": {"type": "overloaded_error", "message": "no"}})
        answer = decide(asked)
        assert isinstance(answer.body, dict)
        (call,) = answer.body["content"]
        for candidate in call["input"]["candidates"]:
            candidate["p_win_pct"] = next(self._percents)
        return replace(answer, body=message(tool_call(call["input"])), delay_s=self.delay_s)


class Watcher:
    """Ask a Prometheus."""

    def __init__(self, client: httpx2.AsyncClient, address: str) -> None:
        self._client = client
        self._address = address

    async def ask(self, expr: str) -> list[dict[str, Any]]:
        """The present values of an expression."""
        answer = await self._client.post(f"{self._address}/api/v1/query", data={"query": expr})
        assert answer.status_code == 200, f"{expr}: {answer.text}"
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    async def over_time(self, expr: str, *, start: datetime, end: datetime, step_s: int) -> dict[int, float]:
        """The values of an expression with one series, by time."""
        asked = {"query": expr, "start": start.timestamp(), "end": end.timestamp(), "step": step_s}
        answer = await self._client.post(f"{self._address}/api/v1/query_range", data=asked)
        (series,) = answer.json()["data"]["result"]
        return {int(at): float(value) for at, value in series["values"]}

    async def comes_true(self, alert: str, **labels: str) -> None:
        """Wait until Prometheus has an alert, pending or firing."""
        named = "".join(f', {name}="{value}"' for name, value in labels.items())
        await until(lambda: self.ask(f'ALERTS{{alertname="{alert}"{named}}}'), what=f"{alert} {labels}")

    async def present(self) -> set[str]:
        """The alerts that are pending or firing."""
        return {series["metric"]["alertname"] for series in await self.ask("ALERTS")}


async def until(find: Callable[[], Awaitable[object]], *, what: str) -> None:
    """Ask until something is found."""
    try:
        async with asyncio.timeout(SEEN_S):
            while not await find():
                await asyncio.sleep(SCRAPE_S / 2)
    except TimeoutError:
        raise AssertionError(f"not seen in {SEEN_S} s: {what}") from None


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The stack as docker-compose.yml makes it, in processes of this machine."""

    client: httpx2.AsyncClient
    """Through nginx, with a key for everything."""
    watcher: Watcher
    replicas: list[Service]
    model: Mood
    way_to_store: TcpProxy
    database_url: str

    async def decided(self, account_id: str) -> dict[str, Any]:
        answer = await self.client.post("/decide", json=request(account_id))
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def told(self, decision: dict[str, Any], event: str, **fields: Any) -> None:
        body = {"event_id": f"{event}-1", "event": event, "at": datetime.now(UTC).isoformat(), **fields}
        answer = await self.client.post(f"/decisions/{decision['decision_id']}/events", json=body)
        assert answer.status_code == 201, answer.text

    async def filled(self, account_id: str, **fields: Any) -> dict[str, Any]:
        """A decision whose order is filled."""
        decision = await self.decided(account_id)
        order = decision["order"]
        assert order is not None, decision["reason_code"]
        await self.told(decision, "filled", quantity=order["quantity"], price="125.40", **fields)
        return decision

    async def lost(self, account_id: str) -> None:
        """A trade that ends at its stop."""
        decision = await self.filled(account_id, stop_placed=True)
        await self.told(decision, "closed", price=str(decision["order"]["stop_loss"]))


async def weeks_of_boasting(database_url: str) -> None:
    """Resolved forecasts of 80 and 90 % of which not one in two won, as if made on the last 20 days."""
    connection = await asyncpg.connect(database_url)
    try:
        day = await connection.fetchval("SELECT (statement_timestamp() AT TIME ZONE 'UTC')::date")
        forecasts = [
            Foretold(day=day - timedelta(days=back), decider=BOASTER, percent=percent, paper=label)
            for back in range(20)
            for percent, label in ((80, ("loss", "-1")), (80, ("win", "2")), (90, ("loss", "-1")), (90, ("loss", "-1")))
        ]
        await keep(connection, forecasts)
    finally:
        await connection.close()


@asynccontextmanager
async def local_stack(database_url: str, folder: Path) -> AsyncIterator[Stack]:
    pool = await create_pool(database_url, min_size=0, max_size=1)
    issued = await create_key(pool, name="all", scopes=list(Scope), accounts=[EVERY_ACCOUNT])
    await pool.close()
    await weeks_of_boasting(database_url)
    mood, port = Mood(), free_port(HOSTS[0])
    async with ModelServer(mood) as model, TcpProxy(database_url) as way, name_server(*HOSTS) as names:
        settings = asking(model) | {
            "AUTH": "on",
            "DECISION_DEADLINE_MS": 4000,  # so that a slow model can make slow decisions
            "MODEL_BUDGET_USD_PER_DAY": CALL_USD * (TRADES + 1),
            "MODEL_BREAKER_FAILURES": 3,
        }
        async with (
            # First, for Prometheus takes 5 s to look for its targets.
            prometheus(folder, *(f"{host}:{port}" for host in HOSTS)) as watching,
            nginx(folder, names=names, replica_port=port) as address,
            AsyncExitStack() as stack,
            http_client() as plain,
            httpx2.AsyncClient(
                base_url=address,
                timeout=20,
                trust_env=False,
                headers={"Authorization": f"Bearer {issued.token}"},
            ) as client,
        ):
            made = (service(way.url, folder, host, port, **settings) for host in HOSTS)
            replicas = await asyncio.gather(*map(stack.enter_async_context, made))
            yield Stack(
                client=client,
                watcher=Watcher(plain, watching),
                replicas=list(replicas),
                model=mood,
                way_to_store=way,
                database_url=database_url,
            )


async def other_key(stack: Stack) -> None:
    """Go on with another key, whose budget is untouched."""
    pool = await create_pool(stack.database_url, min_size=0, max_size=1)
    issued = await create_key(pool, name="other", scopes=list(Scope), accounts=[EVERY_ACCOUNT])
    await pool.close()
    stack.client.headers["Authorization"] = f"Bearer {issued.token}"


async def nobody_decides(stack: Stack) -> None:
    """Before the first decision; whether the market is open just now is not ours to choose."""
    expr = ALERTS["NoDecisionsInMarketHours"]
    open_now = "tradeverdict:market_open:bool == 1"
    assert open_now in expr
    well = "tradeverdict:store_up:min == 1 and tradeverdict:replicas_up:count == 2"
    other = 'ALERTS{alertname!~"NoDecisionsInMarketHours|CalibrationRejected"}'
    await until(lambda: stack.watcher.ask(f"({well}) unless on() {other}"), what="all is well")

    assert await stack.watcher.ask(expr.replace(open_now, "vector(1)"))


async def trades_are_lost(stack: Stack) -> None:
    """Each asks the model once, so that all together use eight ninths of their key's budget."""
    await asyncio.gather(*(stack.lost(f"loser-{number}") for number in range(TRADES)))


async def the_budget_of_their_key_is_nearly_spent(stack: Stack) -> None:
    await stack.watcher.comes_true("ModelBudgetNearlySpent")


async def a_fill_has_no_stop(stack: Stack) -> None:
    decision = await stack.filled("unprotected")
    statement = "UPDATE reservations SET stop_due_at = stop_due_at - $2::interval WHERE decision_id = $1"
    await rows(stack.database_url, statement, UUID(decision["decision_id"]), STOP_GRACE)
    await stack.watcher.comes_true("FillUnprotected")
    await stack.watcher.comes_true("TradingHalted", state="reduce_only")


async def a_person_halts_an_account(stack: Stack) -> None:
    assert not await stack.watcher.ask('ALERTS{alertname="TradingHalted", state="halted"}')
    halt = {"account_id": "halted", "state": "halted", "reason": "flash crash", "operator": "ana"}
    answer = await stack.client.post("/halt", json=halt)
    assert answer.is_success, answer.text
    await stack.watcher.comes_true("TradingHalted", state="halted")
    blocked = await stack.decided("halted")
    assert blocked["reason_code"] == "HALTED"


async def the_model_is_slow(stack: Stack) -> None:
    assert "DecisionsSlow" not in await stack.watcher.present()
    stack.model.delay_s = 1.7
    await asyncio.gather(*(stack.decided(f"slow-{number}") for number in range(4)))
    stack.model.delay_s = 0
    await stack.watcher.comes_true("DecisionsSlow")


async def the_model_is_overloaded(stack: Stack) -> None:
    assert not {"ModelFailing", "ModelBreakerOpen"} & await stack.watcher.present()
    stack.model.overloaded = True
    for number in range(10):
        assert (await stack.decided(f"overloaded-{number}"))["degraded"]
    await stack.watcher.comes_true("ModelFailing")
    await stack.watcher.comes_true("ModelBreakerOpen")


async def a_decider_has_boasted_for_weeks(stack: Stack) -> None:
    """One day proves nothing, whatever it brings: see `weeks_of_boasting`."""
    await stack.watcher.comes_true("CalibrationRejected", decider=BOASTER)
    honest = f'tradeverdict:calibration_rejected:max{{decider!="{BOASTER}"}}'
    await until(lambda: stack.watcher.ask(honest), what="the decider of the trades")
    assert not await stack.watcher.ask(f"{honest} == 1")


async def every_expression_has_data(stack: Stack) -> None:
    empty = [expr for expr in (*RECORDED, *RECORDED.values(), *expressions()) if not await stack.watcher.ask(expr)]

    assert empty == []


async def the_database_goes_away_and_comes_back(stack: Stack) -> None:
    await until(lambda: stack.watcher.ask("tradeverdict:store_up:min == 1"), what="the store is up")
    stack.way_to_store.refusing = True
    stack.way_to_store.reset()
    await stack.watcher.comes_true("DatabaseDown")
    stack.way_to_store.heal()
    await until(lambda: stack.watcher.ask("tradeverdict:store_up:min == 1"), what="the store is up again")


async def the_replicas_die(stack: Stack) -> None:
    assert not await stack.watcher.ask("tradeverdict:replicas_up:count != 2")
    first, second = stack.replicas
    await first.kill()
    await stack.watcher.comes_true("ReplicaDown")
    assert [(await stack.client.get("/healthz")).status_code for _ in range(6)] == [200] * 6
    assert "AllReplicasDown" not in await stack.watcher.present()
    await second.kill()
    await stack.watcher.comes_true("AllReplicasDown")
    assert (await stack.client.get("/healthz")).json()["code"] == "REPLICA_UNREACHABLE"


@needs_prometheus
@needs_nginx
async def test_every_expression_has_data_and_every_alert_is_true_by_its_cause(
    database_url: str, tmp_path: Path
) -> None:
    async with local_stack(database_url, tmp_path) as stack:
        await nobody_decides(stack)
        await trades_are_lost(stack)
        await other_key(stack)
        await a_fill_has_no_stop(stack)
        await a_person_halts_an_account(stack)
        await the_model_is_slow(stack)
        await the_model_is_overloaded(stack)
        await the_budget_of_their_key_is_nearly_spent(stack)
        await a_decider_has_boasted_for_weeks(stack)
        await every_expression_has_data(stack)
        await the_database_goes_away_and_comes_back(stack)
        await the_replicas_die(stack)

        seen = {series["metric"]["alertname"] for series in await stack.watcher.ask("max_over_time(ALERTS[5m])")} | {
            "NoDecisionsInMarketHours"
        }  # by its expression alone, in nobody_decides

    assert seen == ALERTS.keys()


@needs_prometheus
async def test_the_market_is_open_when_new_york_trades_in_every_season(tmp_path: Path) -> None:
    expr = RECORDED["tradeverdict:market_open:bool"].replace(
        "tradeverdict:new_york_is_behind_utc:hours", f"({RECORDED['tradeverdict:new_york_is_behind_utc:hours']})"
    )
    minutes = {570, 960}  # 9:30 and 16:00
    start = datetime(2026, 1, 1, tzinfo=UTC)
    found: dict[int, float] = {}
    async with prometheus(tmp_path) as address, http_client() as client:
        for quarter in range(QUARTERS):
            first = start + timedelta(days=92 * quarter)
            found |= await Watcher(client, address).over_time(
                expr, start=first, end=first + timedelta(days=92), step_s=1800
            )
    expected = {}
    for at in found:
        there = datetime.fromtimestamp(at, NEW_YORK)
        minute = there.hour * 60 + there.minute
        expected[at] = float(there.weekday() < 5 and min(minutes) <= minute < max(minutes))

    assert len(found) == QUARTERS * 92 * 48 + 1
    assert found == expected
