"""Versions of accounts, by which a decision is recorded only if nothing it was judged by has changed."""
# ruff: noqa: D103

import sqlalchemy as sa

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Whoever sets a halt, also by hand: decisions that were judged before it are void, and it counts from then on.
# Each statement of a function sees what was committed before it began, so after its wait for the lock; the number is
# that of `EVERY_ACCOUNT_LOCK`, under which accounts are made.
VOID_JUDGEMENTS = """
CREATE FUNCTION void_judgements() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.account_id IS NULL THEN
        PERFORM pg_advisory_xact_lock(127897167986690);
        UPDATE accounts SET version = version + 1;
    ELSE
        UPDATE accounts SET version = version + 1 WHERE account_id = NEW.account_id;
    END IF;
    NEW.set_at := clock_timestamp();
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    # A constant default rewrites no row.
    op.add_column("accounts", sa.Column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    # A program from before raises no version, so it must change nothing that is judged: it can lock no account any
    # more, and answers 503 until it is replaced.
    op.execute("REVOKE UPDATE (created_at) ON accounts FROM tradeverdict_app")
    op.execute("GRANT UPDATE (version) ON accounts TO tradeverdict_app")
    op.execute(VOID_JUDGEMENTS)
    op.execute(
        "CREATE TRIGGER halts_void_judgements BEFORE INSERT ON halts FOR EACH ROW EXECUTE FUNCTION void_judgements()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER halts_void_judgements ON halts")
    op.execute("DROP FUNCTION void_judgements()")
    op.execute("REVOKE UPDATE (version) ON accounts FROM tradeverdict_app")
    op.execute("GRANT UPDATE (created_at) ON accounts TO tradeverdict_app")
    op.drop_column("accounts", "version")
