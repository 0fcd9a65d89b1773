"""Limits: how often each key asks in a minute, and what its model calls cost in a day."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("api_key_id", sa.Text, primary_key=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        prefixes=["UNLOGGED"],
    )
    op.create_index(
        "llm_decisions_by_cost",
        "llm_decisions",
        ["api_key_id", "decided_at"],
        postgresql_include=["cost_usd"],
        postgresql_where=sa.text("cost_usd > 0"),
    )
    op.execute("GRANT SELECT, INSERT, UPDATE (started_at, requests) ON rate_windows TO tradeverdict_app")


def downgrade() -> None:
    op.drop_index("llm_decisions_by_cost", "llm_decisions")
    op.drop_table("rate_windows")
