"""The ledger of model calls, which budgets and GET /costs read."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


def upgrade() -> None:
    op.drop_index("llm_decisions_by_cost", "llm_decisions")
    op.create_table(
        "model_calls",
        sa.Column("call_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("decision_id", postgresql.UUID),
        sa.Column("account_id", sa.Text),
        sa.Column("api_key_id", sa.Text),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("target", "model")],
        sa.Column("started_ms", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("detail", sa.Text),
        sa.Column("hedged", sa.Boolean, nullable=False),
        sa.Column("cancelled", sa.Boolean, nullable=False),
        sa.Column("status", sa.SmallInteger),
        *[sa.Column(name, sa.Integer, nullable=False) for name in TOKENS],
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        sa.Column("priced", sa.Boolean, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("stop_reason", sa.Text),
        sa.Column(
            "recorded_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.CheckConstraint(
            "outcome IN ('MODEL_TIMEOUT', 'MODEL_UNAVAILABLE', 'MODEL_REFUSED', 'MODEL_TRUNCATED', 'MODEL_INVALID', "
            "'proposal', 'cancelled', 'warm')",
            name="outcome",
        ),
        *[sa.CheckConstraint(f"{name} >= 0", name=name) for name in TOKENS],
        sa.CheckConstraint("cost_usd >= 0 AND cost_usd < 'Infinity'", name="cost_usd"),
    )
    op.create_index("model_calls_by_decision", "model_calls", ["decision_id"])
    op.create_index("model_calls_by_time", "model_calls", ["recorded_at"])
    op.create_index(
        "model_calls_by_cost",
        "model_calls",
        ["api_key_id", "recorded_at"],
        postgresql_include=["cost_usd"],
        postgresql_where=sa.text("cost_usd > 0"),
    )
    op.execute(
        "CREATE TRIGGER model_calls_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON model_calls "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute("GRANT SELECT, INSERT ON model_calls TO tradeverdict_app")


def downgrade() -> None:
    raise NotImplementedError("Going back would drop what model calls cost: restore a backup instead.")
