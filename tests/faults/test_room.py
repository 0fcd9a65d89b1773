"""Forty callers race for room for five orders, over two processes: no round ever approves a sixth."""

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

from app.db.api_keys import EVERY_ACCOUNT, create_key
from app.db.engine import ConnectionPool
from app.db.vocabulary import Scope
from tests.builders import a_request
from tests.faults.conftest import Figures
from tests.faults.processes import Answer, ask, asking, full_or_quick, services
from tests.model_server import ModelServer

ROUNDS = full_or_quick(50, 8)
CALLERS = 40
ROOM = 5
ORDER_USD = 5_000
SETTINGS: dict[str, object] = {
    # Every order is of 50 shares at 100.00 or none at all.
    "MAX_ORDER_NOTIONAL": ORDER_USD,
    "MIN_ORDER_NOTIONAL": ORDER_USD,
    "PER_TRADE_RISK_BPS": 1000,
    "MAX_SYMBOL_EXPOSURE_PCT": 10,
    "MAX_BUCKET_EXPOSURE_PCT": 10,
    "MAX_DAILY_LOSS_PCT": "0.5",
    "MAX_WEEKLY_LOSS_PCT": "0.5",
    "MAX_DAILY_NOTIONAL": 500_000,
    "DECISION_DEADLINE_MS": 15_000,
    "AUTH": "on",
}
ROOMS: dict[str, dict[str, Any]] = {
    "buying_power": {"buying_power": ROOM * ORDER_USD},
    "leverage": {"equity": ROOM * ORDER_USD / 2},
    "daily_notional": {"daily_executed_notional": 500_000 - ROOM * ORDER_USD},
    # The stand-in's stop is 1.4 ATR away: 50 x (1.40 + 0.01 of costs) = 70.50 a ticket, five of them 352.50.
    # Of 0.5 x 100,000 dollars, the equity that the first request showed, 49,620 are lost: 380 are left.
    "daily_loss_room": {"daily_pnl": -49_620},
}
"""What makes room for five: a thing that only the sum of all tickets can exceed."""


def wanting(account_id: str, caller: int, room: str) -> dict[str, Any]:
    """A request of one caller, about a symbol of its own."""
    symbol = f"S{chr(65 + caller // 26)}{chr(65 + caller % 26)}"
    plain = {"id": account_id, "equity": 100_000, "cash": 10_000_000, "positions": [], "daily_pnl": 0, "weekly_pnl": 0}
    market = {"price": 100.0, "bid": 100.0, "ask": 100.0, "atr": 1.0, "adv": 1e9, "avg_volume": 1e7, "market_cap": 1e11}
    return a_request(
        account=plain | {"buying_power": ...} | ROOMS[room],
        market=[{"symbol": symbol, **market, "shortable": True}],
        news=[],
        options_flow=[],
        regime=...,
    )


async def test_room_for_five_orders_is_never_given_to_a_sixth(
    client: httpx2.AsyncClient, pool: ConnectionPool, database_url: str, tmp_path: Path, figures: Figures
) -> None:
    keys = [
        await create_key(pool, name=f"caller {number}", scopes=[Scope.DECIDE], accounts=[EVERY_ACCOUNT])
        for number in range(CALLERS)
    ]
    approvals: Counter[int] = Counter()
    refused: Counter[str] = Counter()
    async with (
        ModelServer() as model,
        services(2, database_url, tmp_path, **SETTINGS, **asking(model)) as running,
    ):
        for number in range(ROUNDS):
            room = list(ROOMS)[number % len(ROOMS)]

            async def race(caller: int, account_id: str = f"round-{number}", room: str = room) -> Answer:
                body = wanting(account_id, caller, room)
                token = keys[caller].token
                return await ask(client, running[caller % 2], body, key=f"{account_id}-{caller}", token=token)

            answers = await asyncio.gather(*(race(caller) for caller in range(CALLERS)))

            assert {answer.status for answer in answers} == {200}
            approved = sum(answer.json["should_execute"] for answer in answers)
            assert approved <= ROOM
            approvals[approved] += 1
            refused.update(answer.json["reason_code"] for answer in answers if not answer.json["should_execute"])

    async with pool.connection() as connection:
        held = await connection.fetch("SELECT account_id, sum(notional_usd) FROM reservations GROUP BY account_id")
    assert {row["sum"] for row in held} == {Decimal(ROOM * ORDER_USD)}
    # Nobody was kept out either: all the room was given.
    assert approvals == {ROOM: ROUNDS}
    figures(
        f"room for {ROOM} orders, {ROUNDS} rounds x {CALLERS} callers with keys of their own over 2 processes",
        approvals_in_a_round=f"{min(approvals)} to {max(approvals)}",
        refusals=dict(sorted(refused.items())),
    )
