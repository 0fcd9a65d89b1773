"""Marks in the rows of their decisions, and less work for each: no foreign key, fewer checks, a query set up seldom."""
# ruff: noqa: D103

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

FIGURES = ("equity_usd", "day_loss_usd", "week_loss_usd")
OF_A_MARK = "decision_id, account_id, mode, as_of, equity_usd, day_loss_usd, week_loss_usd"
MARKS_OF_DECISIONS = f"""
SELECT {OF_A_MARK}, action = 'trade' AND verdict IN ('approved', 'resized')
FROM llm_decisions WHERE equity_usd IS NOT NULL
"""  # noqa: S608 (constants only)
# A column of a type that demands something is added by writing the table anew, so those of decisions get a plain one.
# The row of the day is made of the same values by the same statement, and its table is small.
OF_A_DAY = {
    "first_equity_usd": "positive_amount",
    "last_equity_usd": "positive_amount",
    "day_loss_usd": "amount",
    "week_loss_usd": "amount",
}
# Which constraints there are depends on the release of PostgreSQL: from 18 on NOT NULL is one.
RENAME = """
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = '{after}'::regclass LOOP
        EXECUTE format('ALTER TABLE {after} RENAME CONSTRAINT %I TO %I', name, replace(name, '{before}', '{after}'));
    END LOOP;
END
$$
"""
# Shares of a reservation that filled before a time, each fill as last corrected.
SHARES_FILLED = """
CREATE FUNCTION shares_filled(reservation uuid, before timestamptz) RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT sum(coalesce(correction.quantity, fill.quantity))
    FROM decision_events AS fill
    LEFT JOIN LATERAL (
        SELECT quantity FROM decision_events
        WHERE decision_id = fill.decision_id AND event = 'corrected' AND corrects = fill.event_id
        ORDER BY sequence DESC LIMIT 1
    ) AS correction ON true
    WHERE fill.event IN ('filled', 'partially_filled') AND fill.decision_id = reservation AND fill.at < before
$$
"""
RELEASE = "(released_at IS NULL) = (release_reason IS NULL)"
RELEASE_BEFORE = "num_nulls(released_at, release_reason) IN (0, 2)"
LABELS = (
    "(paper_outcome IS NULL) = (paper_r IS NULL) AND (executed_outcome IS NULL) = (executed_r IS NULL)"
    " AND (paper_outcome IS NULL) = (paper_state <> 'resolved')"
)
LABELS_BEFORE = {
    "paper_resolved": "(paper_state = 'resolved') = (paper_outcome IS NOT NULL)",
    "paper": "num_nulls(paper_outcome, paper_r) IN (0, 2)",
    "executed": "num_nulls(executed_outcome, executed_r) IN (0, 2)",
}


def upgrade() -> None:
    op.execute(f"ALTER TABLE llm_decisions {', '.join(f'ADD {figure} numeric' for figure in FIGURES)}")
    op.execute(
        "ALTER TABLE account_days " + ", ".join(f"ALTER {column} TYPE {domain}" for column, domain in OF_A_DAY.items())
    )
    # A program from before fails to write its marks, and so its decisions: what would lack a mark is not stored.
    op.rename_table("account_marks", "account_marks_before")
    op.execute(RENAME.format(before="account_marks", after="account_marks_before"))
    op.execute(
        "ALTER TRIGGER account_marks_append_only ON account_marks_before RENAME TO account_marks_before_append_only"
    )
    op.execute("REVOKE INSERT ON account_marks_before FROM tradeverdict_app")
    op.execute(
        f"CREATE VIEW account_marks AS SELECT {OF_A_MARK}, approved_entry FROM account_marks_before"  # noqa: S608
        f" UNION ALL {MARKS_OF_DECISIONS}"
    )
    op.execute("GRANT SELECT ON account_marks TO tradeverdict_app")
    op.execute(SHARES_FILLED)
    op.execute(
        "ALTER TABLE reservations DROP CONSTRAINT reservations_decision_id_fkey,"
        f" DROP CONSTRAINT reservations_release_check, ADD CONSTRAINT reservations_release_check CHECK ({RELEASE})"
    )
    op.execute(
        f"ALTER TABLE forecasts {', '.join(f'DROP CONSTRAINT forecasts_{name}_check' for name in LABELS_BEFORE)},"
        f" ADD CONSTRAINT forecasts_labels_check CHECK ({LABELS})"
    )


def downgrade() -> None:
    op.drop_constraint("forecasts_labels_check", "forecasts")
    for name, condition in LABELS_BEFORE.items():
        op.create_check_constraint(op.f(f"forecasts_{name}_check"), "forecasts", condition)
    op.drop_constraint("reservations_release_check", "reservations")
    op.create_check_constraint(op.f("reservations_release_check"), "reservations", RELEASE_BEFORE)
    op.create_foreign_key(
        op.f("reservations_decision_id_fkey"), "reservations", "llm_decisions", ["decision_id"], ["decision_id"]
    )
    op.execute("DROP FUNCTION shares_filled(uuid, timestamptz)")
    op.execute("DROP VIEW account_marks")
    op.rename_table("account_marks_before", "account_marks")
    op.execute(RENAME.format(before="account_marks_before", after="account_marks"))
    op.execute("ALTER TRIGGER account_marks_before_append_only ON account_marks RENAME TO account_marks_append_only")
    op.execute("GRANT INSERT ON account_marks TO tradeverdict_app")
    op.execute(f"INSERT INTO account_marks ({OF_A_MARK}, approved_entry) {MARKS_OF_DECISIONS}")
    op.execute(f"ALTER TABLE account_days {', '.join(f'ALTER {column} TYPE numeric' for column in OF_A_DAY)}")
    op.execute(f"ALTER TABLE llm_decisions {', '.join(f'DROP {figure}' for figure in FIGURES)}")
