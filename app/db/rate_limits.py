"""Count requests by the minute, exactly, however many processes count: one row for each caller, on the database clock.

A caller's minute begins with its first request after the last one ended. A request beyond the limit writes nothing.
"""

import math
from typing import Final

from app.db.engine import ConnectionPool

WINDOW_S: Final = 60

_IN_WINDOW: Final = f"counted.started_at > statement_timestamp() - interval '{WINDOW_S} s'"

# Needs the source of callers to count, and the number of the parameter that holds the limit. A row comes back for
# each that is within it. The statement's time is the same throughout, also after waiting for a concurrent count.
COUNT: Final = f"""
INSERT INTO rate_windows AS counted (api_key_id, started_at, requests)
SELECT api_key_id, statement_timestamp(), 1 FROM {{callers}}
ON CONFLICT (api_key_id) DO UPDATE SET
    started_at = CASE WHEN {_IN_WINDOW} THEN counted.started_at ELSE statement_timestamp() END,
    requests = CASE WHEN {_IN_WINDOW} THEN counted.requests + 1 ELSE 1 END
WHERE counted.requests < {{limit}} OR NOT {_IN_WINDOW}
RETURNING counted.api_key_id
"""  # noqa: S608 (constants)
# Needs the number of the parameter that holds the caller.
SECONDS_LEFT: Final = f"""
SELECT extract(epoch FROM started_at - statement_timestamp())::float8 + {WINDOW_S}
FROM rate_windows WHERE rate_windows.api_key_id = {{caller}}
"""  # noqa: S608 (constants)
_ADMIT: Final = f"""
WITH counted AS ({COUNT.format(callers="(SELECT $1 AS api_key_id) AS caller", limit="$2::integer")})
SELECT EXISTS (SELECT FROM counted) AS admitted, ({SECONDS_LEFT.format(caller="$1")}) AS seconds_left
"""  # noqa: S608 (constants)


async def refused_for_s(pool: ConnectionPool, caller: str, *, requests_per_minute: int) -> int | None:
    """Count one request of a caller; when it is one too many, say in how many seconds to ask again.

    Raises:
        StoreUnavailable: it could not be counted.
    """
    async with pool.connection() as connection:
        row = await connection.fetchrow(_ADMIT, caller, requests_per_minute)
    assert row is not None  # noqa: S101 (a SELECT without FROM)
    return None if row["admitted"] else whole_seconds(row["seconds_left"])


def whole_seconds(seconds_left: float | None) -> int:
    """Round what is left of a window up; a window that began while its reader waited is not seen by it."""
    return WINDOW_S if seconds_left is None else min(max(math.ceil(seconds_left), 1), WINDOW_S)
