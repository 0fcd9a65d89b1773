"""Versions of accounts, by which a decision is recorded only if what it was judged by stands; less work for each."""
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

# What decisions name is never removed. That makes a foreign key's check, which locks the row that it finds, needless.
REFUSE_REMOVAL = """
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE insufficient_privilege
        USING MESSAGE = TG_OP || ' of ' || TG_TABLE_NAME || ' is refused: decisions name its rows';
END
$$
"""
NAMED_BY_DECISIONS = {
    "account_id": ("accounts", "account_id"),
    "prompt_hash": ("prompts", "hash"),
    "system_hash": ("prompts", "hash"),
    "policy_hash": ("policies", "hash"),
}

# The table may be divided into partitions (docs/scaling.md), which have what the whole cannot have.
KEEP_ROWS_TOGETHER = """
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT oid FROM pg_class WHERE oid = 'llm_decisions'::regclass AND relkind = 'r'
        UNION ALL SELECT relid FROM pg_partition_tree('llm_decisions') WHERE isleaf
    LOOP
        EXECUTE format('ALTER TABLE %s {}', part);
    END LOOP;
END
$$
"""

# Columns that the statement which records a decision fills from the same values as those of `llm_decisions`, whose
# checks refuse for all; each check is read and compiled anew for every statement.
COPIES = {
    "account_marks": {"mode": "mode IN ('paper', 'live')"},
    "reservations": {"mode": "mode IN ('paper', 'live')"},
    "forecasts": {
        "mode": "mode IN ('paper', 'live')",
        "setup": "setup IN ('breakout', 'mean_reversion', 'momentum', 'earnings_beat', 'earnings_miss', 'fed_dovish', "
        "'fed_hawkish', 'options_flow', 'insider_buying', 'short_squeeze', 'sector_rotation', 'other')",
        "direction": "direction IN ('long', 'short')",
        "verdict": "verdict IN ('approved', 'resized', 'blocked', 'no_trade')",
        "conviction": "conviction BETWEEN 0 AND 100",
    },
    "decision_counts": {
        "action": "action IN ('trade', 'adjust', 'exit', 'neutral', 'watchlist')",
        "verdict": "verdict IN ('approved', 'resized', 'blocked', 'no_trade')",
    },
}


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
    op.execute(REFUSE_REMOVAL)
    for table in ("accounts", "prompts", "policies"):
        op.execute(
            f"CREATE TRIGGER {table}_never_removed BEFORE DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_removal()"
        )
    for column in NAMED_BY_DECISIONS:
        op.drop_constraint(f"llm_decisions_{column}_fkey", "llm_decisions")
    for table, checks in COPIES.items():
        for name in checks:
            op.drop_constraint(f"{table}_{name}_check", table)
    op.execute(KEEP_ROWS_TOGETHER.format("SET (toast_tuple_target = 8160)"))


def downgrade() -> None:
    op.execute(KEEP_ROWS_TOGETHER.format("RESET (toast_tuple_target)"))
    for table, checks in COPIES.items():
        for name, condition in checks.items():
            op.create_check_constraint(op.f(f"{table}_{name}_check"), table, condition)
    for column, (table, key) in NAMED_BY_DECISIONS.items():
        op.create_foreign_key(op.f(f"llm_decisions_{column}_fkey"), "llm_decisions", table, [column], [key])
    for table in ("accounts", "prompts", "policies"):
        op.execute(f"DROP TRIGGER {table}_never_removed ON {table}")
    op.execute("DROP FUNCTION refuse_removal()")
    op.execute("DROP TRIGGER halts_void_judgements ON halts")
    op.execute("DROP FUNCTION void_judgements()")
    op.execute("REVOKE UPDATE (version) ON accounts FROM tradeverdict_app")
    op.execute("GRANT UPDATE (created_at) ON accounts TO tradeverdict_app")
    op.drop_column("accounts", "version")
