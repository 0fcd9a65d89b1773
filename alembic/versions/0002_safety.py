"""Safety: API keys, halts, live confirmations, idempotency keys and decision events."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)


def _recorded(name: str) -> sa.Column[object]:
    return sa.Column(name, TIME, nullable=False, server_default=sa.text("clock_timestamp()"))


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("public_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_sha256", sa.LargeBinary, nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("accounts", sa.ARRAY(sa.Text), nullable=False),
        _recorded("created_at"),
        sa.Column("expires_at", TIME),
        sa.Column("revoked_at", TIME),
        sa.Column("last_used_at", TIME),
        sa.CheckConstraint("octet_length(secret_sha256) = 32", name="secret_sha256"),
        sa.CheckConstraint(
            "scopes <@ ARRAY['decide', 'read', 'report', 'admin'] AND cardinality(scopes) > 0", name="scopes"
        ),
        sa.CheckConstraint("cardinality(accounts) > 0", name="accounts"),
    )
    op.create_table(
        "halts",
        sa.Column("halt_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.account_id")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        _recorded("set_at"),
        sa.Column("lifted_at", TIME),
        sa.Column("lifted_by", sa.Text),
        sa.Column("lift_reason", sa.Text),
        sa.CheckConstraint("state IN ('reduce_only', 'halted')", name="state"),
        sa.CheckConstraint("operator <> ''", name="operator"),
        sa.CheckConstraint("lifted_by <> ''", name="lifted_by"),
        sa.CheckConstraint("num_nulls(lifted_at, lifted_by, lift_reason) IN (0, 3)", name="lift"),
    )
    op.create_index("halts_in_force", "halts", ["account_id"], postgresql_where=sa.text("lifted_at IS NULL"))
    op.create_table(
        "live_confirmations",
        sa.Column("confirmation_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.account_id"), nullable=False),
        sa.Column("operator", sa.Text, nullable=False),
        _recorded("confirmed_at"),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.Column("revoked_by", sa.Text),
        sa.CheckConstraint("operator <> ''", name="operator"),
        sa.CheckConstraint("expires_at > confirmed_at", name="expires_at"),
        sa.CheckConstraint("num_nulls(revoked_at, revoked_by) IN (0, 2)", name="revocation"),
    )
    op.create_index(
        "live_confirmations_standing",
        "live_confirmations",
        ["account_id", "expires_at"],
        postgresql_where=sa.text("revoked_at IS NULL"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("api_key_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("lease_until", TIME, nullable=False),
        sa.Column("decision_id", postgresql.UUID),
        _recorded("created_at"),
        sa.Column("finished_at", TIME),
        sa.PrimaryKeyConstraint("api_key_id", "account_id", "key"),
        sa.CheckConstraint("state IN ('running', 'finished')", name="state"),
        sa.CheckConstraint(
            "num_nonnulls(finished_at, decision_id) = CASE state WHEN 'finished' THEN 2 ELSE 0 END", name="finished"
        ),
    )
    _create_decision_events()
    op.execute(
        "GRANT SELECT, INSERT ON api_keys, halts, live_confirmations, idempotency_keys, decision_events "
        "TO tradeverdict_app"
    )
    op.execute("GRANT UPDATE (last_used_at, revoked_at) ON api_keys TO tradeverdict_app")
    op.execute("GRANT UPDATE (lifted_at, lifted_by, lift_reason) ON halts TO tradeverdict_app")
    op.execute("GRANT UPDATE (revoked_at, revoked_by) ON live_confirmations TO tradeverdict_app")
    op.execute(
        "GRANT UPDATE (state, fence, lease_until, decision_id, finished_at) ON idempotency_keys TO tradeverdict_app"
    )


def _create_decision_events() -> None:
    op.create_table(
        "decision_events",
        sa.Column("sequence", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("decision_id", postgresql.UUID, sa.ForeignKey("llm_decisions.decision_id"), nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("quantity", sa.Numeric),
        sa.Column("price", sa.Numeric),
        sa.Column("stop_placed", sa.Boolean),
        sa.Column("fees", sa.Numeric),
        sa.Column("exit_reason", sa.Text),
        sa.Column("realized_pnl", sa.Numeric),
        sa.Column("corrects", sa.Text),
        _recorded("recorded_at"),
        sa.Column("body", postgresql.JSON, nullable=False),
        sa.UniqueConstraint("decision_id", "event_id"),
        sa.CheckConstraint("mode IN ('paper', 'live')", name="mode"),
        sa.CheckConstraint(
            "event IN ('claimed', 'acknowledged', 'partially_filled', 'filled', 'cancelled', 'rejected', 'closed', "
            "'corrected', 'reservation_expired', 'model_reply', 'model_usage')",
            name="event",
        ),
        sa.CheckConstraint("exit_reason IN ('target', 'stop', 'time', 'manual', 'other')", name="exit_reason"),
        sa.CheckConstraint("quantity >= 0 AND quantity < 'Infinity'", name="quantity"),
        sa.CheckConstraint("price >= 0 AND price < 'Infinity'", name="price"),
        sa.CheckConstraint("fees > '-Infinity' AND fees < 'Infinity'", name="fees"),
        sa.CheckConstraint("realized_pnl > '-Infinity' AND realized_pnl < 'Infinity'", name="realized_pnl"),
        sa.CheckConstraint(
            "event NOT IN ('filled', 'partially_filled') OR (quantity IS NOT NULL AND price IS NOT NULL)", name="fill"
        ),
        sa.CheckConstraint("(event = 'corrected') = (corrects IS NOT NULL)", name="corrects"),
    )
    op.create_index(
        "decision_events_fills",
        "decision_events",
        ["account_id", "mode", "at"],
        postgresql_where=sa.text("event IN ('filled', 'partially_filled')"),
    )
    op.execute(
        "CREATE TRIGGER decision_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decision_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def downgrade() -> None:
    raise NotImplementedError("Going back would drop the record of decisions: restore a backup instead.")
