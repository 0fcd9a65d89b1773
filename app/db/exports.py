"""Read decisions in pages for an export: one row each, oldest first, with what became of them.

Each page is a statement of its own, so no transaction waits for a slow reader. Decisions are never rewritten, so what
a page holds is what any other moment would have shown; labels are those of the moment at which the page was read.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from app.db.engine import ConnectionPool
from app.domain.verdict import Verdict

ROWS_PER_PAGE: Final = 1_000
DECIMALS: Final = 10
"""Digits after the point of every amount; what has more is rounded."""

_NEVER: Final = (datetime(1800, 1, 1, tzinfo=UTC), UUID(int=0))


def _amount(expression: str) -> str:
    return f"trim_scale(round(({expression})::numeric, {DECIMALS}))"


_LABELLED: Final = """
CASE WHEN forecast.executed_outcome IS NOT NULL THEN forecast.executed_{name}
WHEN forecast.paper_outcome IS NOT NULL THEN forecast.paper_{name} END
"""

COLUMNS: Final[Mapping[str, tuple[type, str]]] = {
    "decision_id": (str, "decision.decision_id::text"),
    "decided_at": (datetime, "decision.decided_at"),
    "as_of": (datetime, "decision.as_of"),
    "account_id": (str, "decision.account_id"),
    "mode": (str, "decision.mode"),
    "action": (str, "decision.action"),
    "verdict": (str, "decision.verdict"),
    "reason_code": (str, "decision.reason_code"),
    "blocked_by": (str, "array_to_string(decision.blocked_by, ' ')"),
    "degraded": (bool, "decision.degraded"),
    "symbol": (str, "decision.symbol"),
    "direction": (str, "decision.direction"),
    "setup": (str, "decision.setup"),
    "conviction": (int, "decision.conviction::bigint"),
    "p_win_raw": (
        float,
        "coalesce(decision.p_win_raw, (answer.proposal->>'p_win_pct')::numeric / 100)::double precision",
    ),
    "p_win": (float, "decision.p_win"),
    "p_win_calibrated": (float, "(answer.calibration->>'p_win_calibrated')::double precision"),
    "entry_price": (
        Decimal,
        _amount("coalesce(decision.ticket->>'entry_price', forecast.entry::text, answer.proposal->>'entry_price')"),
    ),
    "stop_loss": (
        Decimal,
        _amount("coalesce(decision.ticket->>'stop_loss', answer.proposal->>'stop_loss', answer.proposal->>'new_stop')"),
    ),
    "target_price": (Decimal, _amount("coalesce(answer.proposal->>'target_price', answer.proposal->>'new_target')")),
    "quantity": (int, "decision.quantity"),
    "notional_usd": (Decimal, _amount("decision.notional_usd")),
    "risk_usd": (Decimal, _amount("decision.risk_usd")),
    "ev_r": (float, "decision.ev_r"),
    "risk_reward": (float, "(answer.edge->>'risk_reward')::double precision"),
    "decider": (str, "decision.decider_name"),
    "model": (str, "decision.model"),
    "prompt_hash": (str, "decision.prompt_hash"),
    "policy_hash": (str, "decision.policy_hash"),
    "aggressiveness_level": (int, "(answer.policy->>'aggressiveness_level')::bigint"),
    "latency_ms": (int, "decision.latency_ms::bigint"),
    "model_latency_ms": (int, "decision.model_latency_ms::bigint"),
    "attempts": (int, "decision.attempts::bigint"),
    "hedged": (bool, "decision.hedged"),
    "input_tokens": (int, "decision.input_tokens::bigint"),
    "output_tokens": (int, "decision.output_tokens::bigint"),
    "cache_read_tokens": (int, "decision.cache_read_tokens::bigint"),
    "cache_write_tokens": (int, "decision.cache_write_tokens::bigint"),
    # NULL, like in the answer, where the model's price was not known.
    "cost_usd": (
        Decimal,
        _amount("CASE WHEN answer.decider->>'cost_usd' IS NOT NULL THEN decision.cost_usd END"),
    ),
    "label": (
        str,
        """
        CASE WHEN forecast.executed_outcome IS NOT NULL THEN 'executed'
        WHEN forecast.paper_outcome IS NOT NULL THEN 'paper' END
        """,
    ),
    "outcome": (str, _LABELLED.format(name="outcome")),
    "r_multiple": (Decimal, _amount(_LABELLED.format(name="r"))),
    "entered_at": (datetime, _LABELLED.format(name="entered_at")),
    "exit_at": (datetime, _LABELLED.format(name="exit_at")),
    "exit_price": (Decimal, _amount(_LABELLED.format(name="exit_price"))),
    "exit_reason": (
        str,
        """
        (
            SELECT event.exit_reason FROM decision_events AS event
            WHERE event.decision_id = decision.decision_id AND event.exit_reason IS NOT NULL
            ORDER BY event.sequence DESC LIMIT 1
        )
        """,
    ),
    "realized_usd": (Decimal, _amount("forecast.realized_usd")),
    "fees_usd": (Decimal, _amount("forecast.fees_usd")),
}
"""Every column of an export in order: its type, and where it comes from."""

# The page is chosen first: whatever the planner thinks of the table, no answer is taken apart that is not on it.
_PAGE: Final = f"""
SELECT decision.decision_id AS id, {", ".join(f"{source} AS {name}" for name, (_, source) in COLUMNS.items())}
FROM (
    SELECT * FROM llm_decisions AS decision WHERE {{conditions}}
    ORDER BY decision.decided_at, decision.decision_id LIMIT {{rows:d}}
) AS decision
LEFT JOIN forecasts AS forecast USING (decision_id)
CROSS JOIN LATERAL json_to_record(decision.response)
    AS answer (proposal json, edge json, calibration json, decider json, policy json)
ORDER BY decision.decided_at, decision.decision_id
"""  # noqa: S608 (constants only)

Row = tuple[Any, ...]


async def decision_pages(
    pool: ConnectionPool,
    turn: AbstractAsyncContextManager[object],
    *,
    accounts: Collection[str] | None = None,
    verdict: Verdict | None = None,
    decided_from: datetime | None = None,
    decided_to: datetime | None = None,
    rows_per_page: int = ROWS_PER_PAGE,
) -> AsyncIterator[list[Row]]:
    """Give the rows that pass every filter, page by page, with the values in the order of `COLUMNS`.

    `accounts` None means all, an empty one none. Times are of the database clock, from inclusive, to exclusive; what
    is decided after the first page was asked for is left out. `turn` is entered for each page.

    Raises:
        StoreUnavailable: a page cannot be read.
    """
    async with turn, pool.connection() as connection:
        now: datetime = await connection.fetchval("SELECT statement_timestamp()")
    conditions = ["(decision.decided_at, decision.decision_id) > ($1, $2)", "decision.decided_at < $3"]
    values: list[object] = [*_NEVER, now if decided_to is None else min(now, decided_to)]
    if decided_from is not None:
        values[:2] = [decided_from, UUID(int=0)]
    if accounts is not None and len(accounts) == 1:
        # Equality lets the index give the order; ANY would sort all that the account ever decided.
        values.append(next(iter(accounts)))
        conditions.append(f"decision.account_id = ${len(values)}")
    elif accounts is not None:
        values.append(list(accounts))
        conditions.append(f"decision.account_id = ANY (${len(values)})")
    if verdict is not None:
        values.append(verdict)
        conditions.append(f"decision.verdict = ${len(values)}")
    statement = _PAGE.format(conditions=" AND ".join(conditions), rows=rows_per_page)
    while True:
        async with turn, pool.connection() as connection:
            rows = await connection.fetch(statement, *values)
        if rows:
            yield [tuple(row)[1:] for row in rows]
        if len(rows) < rows_per_page:
            return
        values[:2] = [rows[-1]["decided_at"], rows[-1]["id"]]
