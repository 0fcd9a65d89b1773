"""Count the sufficient statistics anew, from the forecasts and decisions themselves."""

import asyncio
from decimal import Decimal
from typing import Any, Final, TypeAlias

import asyncpg

from app.db.engine import Connection

Rows: TypeAlias = dict[tuple[Any, ...], tuple[Any, ...]]
"""What a table holds, by its key; rows of nothing but zeros are as good as absent."""

_LABELLED: Final = """
WITH labelled AS (
    SELECT *, 'executed' AS source, executed_outcome AS outcome, executed_r AS r FROM forecasts
    WHERE executed_outcome IS NOT NULL
    UNION ALL
    SELECT *, CASE WHEN executed_outcome IS NULL THEN 'paper' ELSE 'paper_of_executed' END, paper_outcome, paper_r
    FROM forecasts WHERE paper_state = 'resolved'
)
"""
_CLASSES: Final = """
count(*) FILTER (WHERE outcome = 'win') AS win, count(*) FILTER (WHERE outcome = 'loss') AS loss,
count(*) FILTER (WHERE outcome = 'scratch') AS scratch, count(*) FILTER (WHERE outcome = 'timeout') AS timeout
"""
_CLASS_NAMES: Final = ("win", "loss", "scratch", "timeout")
_PERCENT_SUMS: Final = ", ".join(
    f"count(*) FILTER (WHERE outcome = '{name}') AS {name}, "
    f"coalesce(sum(percent) FILTER (WHERE outcome = '{name}'), 0) AS {name}_percents, "
    f"coalesce(sum(percent * percent) FILTER (WHERE outcome = '{name}'), 0) AS {name}_squares"
    for name in _CLASS_NAMES
)
_SAID: Final = """
FROM labelled CROSS JOIN LATERAL (VALUES
    ('p_win', p_win_percent), ('p_win_calibrated', p_win_calibrated_percent), ('conviction', conviction)
) AS said (forecast, percent)
WHERE percent IS NOT NULL
"""
_ANEW: Final = {
    "calibration_counts": f"""
        {_LABELLED}
        SELECT day, account_id, decider, prompt_hash, setup, direction, source, forecast, percent, {_CLASSES}
        {_SAID} GROUP BY day, account_id, decider, prompt_hash, setup, direction, source, forecast, percent
    """,
    "calibration_daily": f"""
        {_LABELLED}
        SELECT day, source, forecast, decider, percent, {_CLASSES}
        {_SAID} GROUP BY day, source, forecast, decider, percent
    """,
    "calibration_sums": f"""
        {_LABELLED}
        SELECT day, source, forecast, decider,
            CASE WHEN percent BETWEEN 0 AND 30 THEN 0 WHEN percent BETWEEN 31 AND 50 THEN 31
            WHEN percent BETWEEN 51 AND 70 THEN 51 ELSE 71 END AS lower, {_PERCENT_SUMS}
        {_SAID} GROUP BY day, source, forecast, decider, lower
    """,
    "outcome_sums": f"""
        {_LABELLED}
        SELECT
            day, account_id, decider, setup, direction, source, {_CLASSES},
            coalesce(sum(r) FILTER (WHERE outcome = 'win'), 0) AS r_win,
            coalesce(sum(r) FILTER (WHERE outcome = 'loss'), 0) AS r_loss,
            coalesce(sum(r) FILTER (WHERE outcome = 'scratch'), 0) AS r_scratch,
            coalesce(sum(r) FILTER (WHERE outcome = 'timeout'), 0) AS r_timeout,
            sum(r * r) AS r_squares, count(ev_r) AS ev_n, coalesce(sum(labelled.ev_r), 0) AS ev,
            coalesce(sum(r) FILTER (WHERE labelled.ev_r IS NOT NULL), 0) AS ev_r
        FROM labelled GROUP BY day, account_id, decider, setup, direction, source
    """,
    "gate_sums": """
        SELECT
            day, account_id, decider, code, count(*) AS blocked,
            count(*) FILTER (WHERE paper_state = 'resolved') AS resolved,
            count(*) FILTER (WHERE paper_outcome = 'win') AS won, coalesce(sum(paper_r), 0) AS r
        FROM forecasts CROSS JOIN LATERAL (SELECT DISTINCT code FROM unnest(blocked_by) AS blocking (code)) AS blocking
        GROUP BY day, account_id, decider, code
    """,
    "decision_counts": """
        SELECT
            (as_of AT TIME ZONE 'UTC')::date AS day, account_id,
            CASE WHEN decider_name = 'rules' OR model IS NULL THEN decider_name
            ELSE decider_name || '/' || model END AS decider,
            action, verdict, coalesce(reason_code, '') AS reason_code, count(*) AS decisions
        FROM llm_decisions GROUP BY 1, 2, 3, 4, 5, 6
    """,
}
_AMOUNTS: Final = {
    "calibration_counts": _CLASS_NAMES,
    "calibration_daily": _CLASS_NAMES,
    "calibration_sums": tuple(f"{name}{of}" for name in _CLASS_NAMES for of in ("", "_percents", "_squares")),
    "outcome_sums": (
        *(*_CLASS_NAMES, "r_win", "r_loss", "r_scratch", "r_timeout"),
        *("r_squares", "ev_n", "ev", "ev_r"),
    ),
    "gate_sums": ("blocked", "resolved", "won", "r"),
    "decision_counts": ("decisions",),
}


async def statistics(connection: Connection) -> dict[str, Rows]:
    """What the service keeps."""
    return {
        table: _by_key(amounts, await connection.fetch(f"SELECT * FROM {table}")) for table, amounts in _AMOUNTS.items()
    }


async def recount(connection: Connection) -> dict[str, Rows]:
    """What it should keep."""
    return {table: _by_key(amounts, await connection.fetch(_ANEW[table])) for table, amounts in _AMOUNTS.items()}


def _by_key(amounts: tuple[str, ...], rows: list[asyncpg.Record]) -> Rows:
    """Put rows under what names them, whatever the order of the columns."""
    found: Rows = {}
    for row in rows:
        columns = dict(row)
        counted = tuple(Decimal(columns.pop(name)) for name in amounts)
        if any(counted):
            found[tuple(sorted(columns.items()))] = counted
    return found


async def checked_statistics(connection: Connection) -> dict[str, Rows]:
    """What the service keeps, which must be what a recount gives."""
    kept, anew = await statistics(connection), await recount(connection)
    for table in _AMOUNTS:
        assert kept[table] == anew[table], table
    return kept


def statistics_of(url: str) -> dict[str, Rows]:
    """The same of a database at an address."""

    async def check() -> dict[str, Rows]:
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction(isolation="repeatable_read"):
                return await checked_statistics(connection)
        finally:
            await connection.close()

    return asyncio.run(check())
