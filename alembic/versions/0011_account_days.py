"""Marks by account and day, so that what is judged of an account is read off a few rows and each mark costs little."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)
DAY = "(as_of AT TIME ZONE 'UTC')::date"
WEEKDAY = "EXTRACT(isodow FROM as_of AT TIME ZONE 'UTC') < 6"
# What each decision moves in the row of its day.
MOVED = (
    *("first_as_of", "first_decision_id", "first_equity_usd"),
    *("last_as_of", "last_decision_id", "last_equity_usd"),
    *("day_loss_usd", "week_loss_usd", "approved_entry"),
)
# A program from before makes no rows of days. It can read no account any more, because the columns are gone that it
# asks for, so it judges nothing; and what it has judged already is void, or committed before the marks are read here.
# The number is that of `EVERY_ACCOUNT_LOCK`, which whoever judges under a lock holds until the commit.
VOID_JUDGEMENTS = ("SELECT pg_advisory_xact_lock(127897167986690)", "UPDATE accounts SET version = version + 1")
FIRST_AND_LAST = "day, account_id, mode, as_of, decision_id, equity_usd"
BY_DAY = f"""
INSERT INTO account_days (account_id, mode, day, {", ".join(MOVED)})
SELECT
    account_id, mode, day, first.as_of, first.decision_id, first.equity_usd,
    last.as_of, last.decision_id, last.equity_usd, whole.day_loss_usd, whole.week_loss_usd, whole.approved_entry
FROM (
    SELECT DISTINCT ON (account_id, mode, day) {FIRST_AND_LAST} FROM account_marks
    ORDER BY account_id, mode, day, as_of, decision_id
) AS first
JOIN (
    SELECT DISTINCT ON (account_id, mode, day) {FIRST_AND_LAST} FROM account_marks
    ORDER BY account_id, mode, day, as_of DESC, decision_id DESC
) AS last USING (account_id, mode, day)
JOIN (
    SELECT account_id, mode, day, max(day_loss_usd) AS day_loss_usd, max(week_loss_usd) AS week_loss_usd,
        bool_or(approved_entry) AS approved_entry
    FROM account_marks GROUP BY account_id, mode, day
) AS whole USING (account_id, mode, day)
"""  # noqa: S608 (constants only)
INDEXES = (
    ("by_time", ["as_of", "decision_id"], "equity_usd > 0"),
    ("by_day_loss", ["day", "day_loss_usd"], "day_loss_usd IS NOT NULL"),
    ("by_week_loss", ["week", "week_loss_usd"], "week_loss_usd IS NOT NULL"),
    ("by_session", ["session"], "session IS NOT NULL"),
    ("by_approved_session", ["approved_session"], "approved_session IS NOT NULL"),
)


def upgrade() -> None:
    for statement in VOID_JUDGEMENTS:
        op.execute(statement)
    op.create_table(
        "account_days",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("first_as_of", TIME, nullable=False),
        sa.Column("first_decision_id", postgresql.UUID, nullable=False),
        sa.Column("first_equity_usd", sa.Numeric, nullable=False),
        sa.Column("last_as_of", TIME, nullable=False),
        sa.Column("last_decision_id", postgresql.UUID, nullable=False),
        sa.Column("last_equity_usd", sa.Numeric, nullable=False),
        sa.Column("day_loss_usd", sa.Numeric),
        sa.Column("week_loss_usd", sa.Numeric),
        sa.Column("approved_entry", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("account_id", "mode", "day"),
        postgresql_with={"fillfactor": 70},
    )
    op.execute(BY_DAY)
    op.execute("GRANT SELECT, INSERT ON account_days TO tradeverdict_app")
    op.execute(f"GRANT UPDATE ({', '.join(MOVED)}) ON account_days TO tradeverdict_app")
    for index, *_ in INDEXES:
        op.drop_index(f"account_marks_{index}", "account_marks")
    for column in ("day", "week", "session", "approved_session"):
        op.drop_column("account_marks", column)


def downgrade() -> None:
    # The log of marks is whole: what was read off it can be again.
    for column, made_of, nullable in (
        ("day", DAY, False),
        ("week", "date_trunc('week', as_of AT TIME ZONE 'UTC')::date", False),
        ("session", f"CASE WHEN {WEEKDAY} THEN {DAY} END", True),
        ("approved_session", f"CASE WHEN approved_entry AND {WEEKDAY} THEN {DAY} END", True),
    ):
        op.add_column(
            "account_marks", sa.Column(column, sa.Date, sa.Computed(made_of, persisted=True), nullable=nullable)
        )
    for index, columns, condition in INDEXES:
        op.create_index(
            f"account_marks_{index}",
            "account_marks",
            ["account_id", "mode", *columns],
            postgresql_where=sa.text(condition),
        )
    op.drop_table("account_days")
