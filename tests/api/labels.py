"""Look at the labels and counts of one account."""

from typing import Any
from uuid import UUID

from tests.api.conftest import execute
from tests.recount import statistics_of

Counts = dict[tuple[str, str, int], tuple[int, ...]]

_COUNTS = """
SELECT source, forecast, percent, sum(win) AS win, sum(loss) AS loss, sum(scratch) AS scratch, sum(timeout) AS timeout
FROM calibration_counts WHERE account_id = $1 AND win + loss + scratch + timeout > 0 GROUP BY 1, 2, 3
"""


def forecast_of(url: str, decision: dict[str, Any]) -> dict[str, Any]:
    """The stored forecast of a decision; empty when it foretold nothing that can be labelled."""
    rows = execute(url, "SELECT * FROM forecasts WHERE decision_id = $1", UUID(decision["decision_id"]))
    return dict(rows[0]) if rows else {}


def counts_of(url: str, account_id: str) -> Counts:
    """The account's outcomes by source, kind of forecast and percent: wins, losses, scratches, timeouts.

    All statistics must agree with a recount.
    """
    statistics_of(url)
    rows = execute(url, _COUNTS, account_id)
    return {
        (row["source"], row["forecast"], row["percent"]): tuple(
            int(row[name]) for name in ("win", "loss", "scratch", "timeout")
        )
        for row in rows
    }
