"""Recount from what is stored whether an approved order broke a limit, with all that was reserved at that moment.

What the service read when it judged is not looked at: what was reserved follows from the times of the reservations,
and the arithmetic is that of `tests/properties/limits.py`. It fits loads in which nothing is claimed or filled.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import asyncpg

from app.db.engine import Connection
from tests import oracle
from tests.properties.limits import broken_limits
from tests.properties.worlds import World, empty_state

_APPROVED = """
SELECT decision.decision_id, reservation.account_id, reservation.symbol, reservation.quantity,
    reservation.notional_usd, reservation.risk_usd, reservation.buckets, reservation.created_at, reservation.expires_at,
    decision.as_of, decision.request, decision.proposal, policy.body AS policy
FROM reservations AS reservation
JOIN llm_decisions AS decision USING (decision_id)
JOIN policies AS policy ON policy.hash = decision.policy_hash
WHERE NOT reservation.reduce_only
ORDER BY reservation.account_id, reservation.created_at
"""
_TOUCHED = "SELECT count(*) FROM reservations WHERE claimed_at IS NOT NULL OR released_at IS NOT NULL"
_ATTENDED = ("notional_usd", "risk_usd", "symbol", "buckets")


@dataclass
class Recount:
    """How many orders were looked at, which limits they broke, and the most that was reserved at once."""

    orders: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    most_notional_usd: Decimal = Decimal(0)


async def recount_limits(connection: Connection) -> Recount:
    """Look at every approved entry of the database."""
    assert await connection.fetchval(_TOUCHED) == 0, "a ticket was claimed or released: times alone tell too little"
    by_account: defaultdict[str, list[asyncpg.Record]] = defaultdict(list)
    for row in await connection.fetch(_APPROVED):
        by_account[row["account_id"]].append(row)
    found = Recount()
    for rows in by_account.values():
        for place, row in enumerate(rows):
            live = [held for held in rows[:place] if held["expires_at"] > row["created_at"]]
            found.orders += 1
            found.broken.update(_broken_by(row, live))
            found.most_at_once = max(found.most_at_once, len(live) + 1)
            reserved = sum((held["notional_usd"] for held in live), row["notional_usd"])
            found.most_notional_usd = max(found.most_notional_usd, reserved)
    return found


def _broken_by(row: asyncpg.Record, live: Sequence[asyncpg.Record]) -> list[str]:
    request = _exact(row["request"])
    account = request["account"]
    # Nothing was lost, so the first mark of the period is the equity that every request sent.
    baselines = dict.fromkeys(("day_baseline_usd", "week_baseline_usd"), Decimal(account["equity"]))
    world = World(
        snapshot=request | {"as_of": row["as_of"]},
        account=account,
        state=empty_state(row["created_at"])
        | baselines
        | {"reservations": [{name: held[name] for name in _ATTENDED} for held in live]},
        reply={},
        policy=_policy(row["policy"]),
    )
    (candidate,) = _exact(row["proposal"])["candidates"]
    return broken_limits(
        world,
        candidate,
        quantity=int(row["quantity"]),
        risk_per_share=Fraction(row["risk_usd"]) / int(row["quantity"]),
    )


def _policy(body: str) -> dict[str, Any]:
    """The limits that were in force, as the oracle reads them."""
    stored = _exact(body)["limits"]
    return {
        name: Fraction(stored[name]) if isinstance(default, Fraction) else default
        for name, default in oracle.DEFAULT_POLICY.items()
    }


def _exact(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)
