"""Take the locks that order approvals, halts and migrations, in one place and one order.

A gating transaction holds `EVERY_ACCOUNT_LOCK` shared and its account's row; whoever changes what gating
reads takes the matching one alone: a global halt the first, anything about one account the second. Both wait
until the transactions before them have committed, and hold back those after them, so nothing is judged by a
state that is about to change. Locks are taken in this order, hence no deadlock.

Whoever locks an account to change what is judged of it also raises its version, in the same transaction. A decision
that was judged without locks is recorded only if the version still is the one it was judged by (docs/adr/0013). A row
is made under the shared lock only: else a halt of all accounts, which raises the version of every row it sees, could
miss one that is being made.
"""

from typing import Final

from app.db.engine import Connection

MIGRATION_LOCK: Final = 0x7452_6144_0001
EVERY_ACCOUNT_LOCK: Final = 0x7452_6144_0002
LABEL_LOCK: Final = 0x7452_6144_0003
CALIBRATION_LOCK: Final = 0x7452_6144_0004

# `ON CONFLICT DO UPDATE` makes the row or locks it in one statement. (DO NOTHING followed by SELECT FOR UPDATE would
# not see a row that another transaction has just made.) The subquery runs first, so the shared lock comes first.
_LOCK_ACCOUNT: Final = f"""
INSERT INTO accounts (account_id)
SELECT $1 FROM (SELECT pg_advisory_xact_lock_shared({EVERY_ACCOUNT_LOCK})) AS every_account
ON CONFLICT (account_id) DO UPDATE SET version = accounts.version + 1
"""  # noqa: S608 (a constant)
# As strong as the lock of the UPDATE above, so that the two exclude each other.
_HOLD_ACCOUNT: Final = "SELECT FROM accounts WHERE account_id = $1 FOR NO KEY UPDATE"


async def lock_account(connection: Connection, *, account_id: str) -> None:
    """Hold off decisions on the account, and halts, until the transaction ends; what was judged before is void.

    The statement does nothing else: a statement sees what was committed before it began to wait.
    """
    await connection.execute(_LOCK_ACCOUNT, account_id)


async def hold_account(connection: Connection, *, account_id: str) -> None:
    """Hold off decisions on the account for what changes nothing that is judged; an unknown account has none."""
    await connection.execute(_HOLD_ACCOUNT, account_id)


async def lock_every_account(connection: Connection) -> None:
    """Hold off every decision that takes locks, until the transaction ends."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", EVERY_ACCOUNT_LOCK)


async def void_every_judgement(connection: Connection) -> None:
    """Raise the version of every account, once `lock_every_account` sees to it that none is made meanwhile."""
    await connection.execute("UPDATE accounts SET version = version + 1")


async def become_calibration_writer(connection: Connection) -> bool:
    """Try to be the one session that writes calibration metrics and calibrators; it is for as long as it lives."""
    held: bool = await connection.fetchval("SELECT pg_try_advisory_lock($1)", CALIBRATION_LOCK)
    return held
