"""Sums of percents by day and bucket, so that the usual report reads a few rows of each day."""
# ruff: noqa: D103

import sqlalchemy as sa

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

CLASSES = ("win", "loss", "scratch", "timeout")
SUMS = tuple(f"{name}{of}" for name in CLASSES for of in ("", "_percents", "_squares"))
# Labels are given under this lock, `LABEL_LOCK`: what was labelled before is in the counts, and what comes after must
# move the sums, too. Programs from before 0009 can label nothing any more.
WAIT_FOR_LABELS = "SELECT pg_advisory_xact_lock(127897167986691)"
COUNTED = f"""
INSERT INTO calibration_sums (day, source, forecast, decider, lower, {", ".join(SUMS)})
SELECT
    day, source, forecast, decider,
    CASE WHEN percent <= 30 THEN 0 WHEN percent <= 50 THEN 31 WHEN percent <= 70 THEN 51 ELSE 71 END AS lower,
    {", ".join(f"sum({name}), sum({name} * percent), sum({name} * percent * percent)" for name in CLASSES)}
FROM calibration_daily GROUP BY day, source, forecast, decider, lower
"""  # noqa: S608 (constants only)


def upgrade() -> None:
    op.create_table(
        "calibration_sums",
        sa.Column("day", sa.Date, nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("source", "forecast", "decider")],
        sa.Column("lower", sa.SmallInteger, nullable=False),
        *[sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0")) for name in SUMS],
        sa.PrimaryKeyConstraint("day", "source", "forecast", "decider", "lower"),
        sa.CheckConstraint("source IN ('executed', 'paper', 'paper_of_executed')", name="source"),
        sa.CheckConstraint("forecast IN ('p_win', 'p_win_calibrated', 'conviction')", name="forecast"),
        sa.CheckConstraint("lower IN (0, 31, 51, 71)", name="lower"),
        *[sa.CheckConstraint(f"{name} >= 0", name=name) for name in SUMS],
    )
    op.execute(WAIT_FOR_LABELS)
    op.execute(COUNTED)
    op.execute("GRANT SELECT, INSERT ON calibration_sums TO tradeverdict_app")
    op.execute(f"GRANT UPDATE ({', '.join(SUMS)}) ON calibration_sums TO tradeverdict_app")


def downgrade() -> None:
    op.drop_table("calibration_sums")
