"""Take the locks that order approvals, halts and migrations, in one place and one order.

A gating transaction holds `EVERY_ACCOUNT_LOCK` shared and its account's row; whoever changes what gating
reads takes the matching one alone: a global halt the first, anything about one account the second. Both wait
until the transactions before them have committed, and hold back those after them, so nothing is judged by a
state that is about to change. Locks are taken in this order, hence no deadlock.
"""

from typing import Final

from app.db.engine import Connection

MIGRATION_LOCK: Final = 0x7452_6144_0001
EVERY_ACCOUNT_LOCK: Final = 0x7452_6144_0002
LABEL_LOCK: Final = 0x7452_6144_0003
CALIBRATION_LOCK: Final = 0x7452_6144_0004

# `ON CONFLICT DO UPDATE` locks the row even where its WHERE is false, and then writes nothing: this makes the
# row or locks it in one statement. (DO NOTHING followed by SELECT FOR UPDATE would not see a row that another
# transaction has just made.) The subquery runs first, so the shared lock comes first.
_LOCK_FOR_GATING = f"""
INSERT INTO accounts (account_id)
SELECT $1 FROM (SELECT pg_advisory_xact_lock_shared({EVERY_ACCOUNT_LOCK})) AS every_account
ON CONFLICT (account_id) DO UPDATE SET created_at = accounts.created_at WHERE false
"""  # noqa: S608 (a constant)
_LOCK_ACCOUNT = """
INSERT INTO accounts (account_id) VALUES ($1)
ON CONFLICT (account_id) DO UPDATE SET created_at = accounts.created_at WHERE false
"""


async def lock_for_gating(connection: Connection, *, account_id: str) -> None:
    """Hold off other decisions on the account, and halts, until the transaction ends.

    The statement does nothing else: a statement sees what was committed before it began to wait.
    """
    await connection.execute(_LOCK_FOR_GATING, account_id)


async def lock_account(connection: Connection, *, account_id: str) -> None:
    """Hold off decisions on the account until the transaction ends."""
    await connection.execute(_LOCK_ACCOUNT, account_id)


async def lock_every_account(connection: Connection) -> None:
    """Hold off every decision until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", EVERY_ACCOUNT_LOCK)


async def become_calibration_writer(connection: Connection) -> bool:
    """Try to be the one session that writes calibration metrics and calibrators; it is for as long as it lives."""
    held: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", CALIBRATION_LOCK)
    return held
