"""The decision path: accounts, prompts, policies, decisions, account marks and reservations."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)
MODES = "mode IN ('paper', 'live')"
DIRECTIONS = "direction IN ('long', 'short')"

# Roles belong to the whole server, which several databases may be migrating at once. Whoever migrates must be
# able to act as the role, and so must the service's own login where a DBA has made one. (Since PostgreSQL 16
# one may be a role's member without that. No percent signs: `alembic upgrade --sql` would double them.)
CREATE_ROLES = """
DO $$
DECLARE
    acting text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
    login text;
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tradeverdict_app') THEN
            CREATE ROLE tradeverdict_app NOLOGIN;
        END IF;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
    FOR login IN SELECT rolname FROM pg_roles WHERE rolname IN (current_user, 'tradeverdict_api') LOOP
        BEGIN
            IF NOT pg_has_role(login, 'tradeverdict_app', acting) THEN
                EXECUTE 'GRANT tradeverdict_app TO ' || quote_ident(login);
            END IF;
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END LOOP;
END
$$
"""

# Removing what is older than must be kept is the owner's, in a transaction that says so:
#   BEGIN; SET LOCAL tradeverdict.retention = 'on'; DELETE FROM ... WHERE ...; COMMIT;
REFUSE_CHANGE = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'UPDATE' AND current_setting('tradeverdict.retention', true) = 'on' THEN
        RETURN NULL;
    END IF;
    RAISE insufficient_privilege
        USING MESSAGE = TG_OP || ' of ' || TG_TABLE_NAME || ' is refused: it is append-only';
END
$$
"""


def upgrade() -> None:
    op.execute(CREATE_ROLES)
    op.execute(REFUSE_CHANGE)
    op.create_table(
        "accounts",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.text("clock_timestamp()")),
    )
    op.create_table(
        "prompts",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.CheckConstraint("kind IN ('template', 'system')", name="kind"),
    )
    op.create_table(
        "policies",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("body", postgresql.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.text("clock_timestamp()")),
    )
    _create_llm_decisions()
    _create_account_marks()
    _create_reservations()
    for table in ("prompts", "policies", "llm_decisions", "account_marks"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "GRANT SELECT, INSERT ON accounts, prompts, policies, llm_decisions, account_marks, reservations "
        "TO tradeverdict_app"
    )
    op.execute("GRANT SELECT ON alembic_version TO tradeverdict_app")
    # Never changed: locking a row asks for the right to update it.
    op.execute("GRANT UPDATE (created_at) ON accounts TO tradeverdict_app")
    op.execute(
        "GRANT UPDATE (claimed_at, filled_quantity, filled_at, stop_placed_at, released_at, release_reason) "
        "ON reservations TO tradeverdict_app"
    )


def _create_llm_decisions() -> None:
    op.create_table(
        "llm_decisions",
        sa.Column("decision_id", postgresql.UUID, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.account_id"), nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("decided_at", TIME, nullable=False),
        sa.Column("valid_until", TIME, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("reason_code", sa.Text),
        sa.Column("blocked_by", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("symbol", sa.Text),
        sa.Column("direction", sa.Text),
        sa.Column("setup", sa.Text),
        sa.Column("conviction", sa.SmallInteger),
        sa.Column("p_win_raw", sa.Double),
        sa.Column("p_win", sa.Double),
        sa.Column("ev_r", sa.Double),
        sa.Column("quantity", sa.BigInteger),
        sa.Column("notional_usd", sa.Numeric),
        sa.Column("risk_usd", sa.Numeric),
        sa.Column("request", postgresql.JSON, nullable=False),
        sa.Column("state", postgresql.JSON, nullable=False),
        sa.Column("proposal", postgresql.JSON),
        sa.Column("raw_reply", sa.Text),
        sa.Column("response", postgresql.JSON, nullable=False),
        sa.Column("gates", postgresql.JSON, nullable=False),
        sa.Column("sizing", postgresql.JSON),
        sa.Column("ticket", postgresql.JSON),
        sa.Column("decider_name", sa.Text, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("prompt_hash", sa.Text, sa.ForeignKey("prompts.hash"), nullable=False),
        sa.Column("system_hash", sa.Text, sa.ForeignKey("prompts.hash"), nullable=False),
        sa.Column("prompt_user", sa.Text, nullable=False),
        sa.Column("policy_hash", sa.Text, sa.ForeignKey("policies.hash"), nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("hedged", sa.Boolean, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cache_read_tokens", sa.Integer, nullable=False),
        sa.Column("cache_write_tokens", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        sa.Column("stop_reason", sa.Text),
        sa.Column("model_request_id", sa.Text),
        sa.Column("model_latency_ms", sa.Integer, nullable=False),
        sa.Column("latency_ms", sa.Integer, nullable=False),
        sa.Column("request_id", sa.Text),
        sa.Column("api_key_id", sa.Text),
        sa.CheckConstraint(MODES, name="mode"),
        sa.CheckConstraint("action IN ('trade', 'adjust', 'exit', 'neutral', 'watchlist')", name="action"),
        sa.CheckConstraint("verdict IN ('approved', 'resized', 'blocked', 'no_trade')", name="verdict"),
        sa.CheckConstraint(DIRECTIONS, name="direction"),
        sa.CheckConstraint(
            "setup IN ('breakout', 'mean_reversion', 'momentum', 'earnings_beat', 'earnings_miss', 'fed_dovish', "
            "'fed_hawkish', 'options_flow', 'insider_buying', 'short_squeeze', 'sector_rotation', 'other')",
            name="setup",
        ),
        sa.CheckConstraint("conviction BETWEEN 0 AND 100", name="conviction"),
        sa.CheckConstraint("p_win_raw BETWEEN 0 AND 1", name="p_win_raw"),
        sa.CheckConstraint("p_win BETWEEN 0 AND 1", name="p_win"),
        sa.CheckConstraint("quantity >= 0", name="quantity"),
        sa.CheckConstraint("notional_usd >= 0 AND notional_usd < 'Infinity'", name="notional_usd"),
        sa.CheckConstraint("risk_usd >= 0 AND risk_usd < 'Infinity'", name="risk_usd"),
        sa.CheckConstraint("cost_usd >= 0 AND cost_usd < 'Infinity'", name="cost_usd"),
        sa.CheckConstraint("(verdict IN ('approved', 'resized')) = (ticket IS NOT NULL)", name="ticket"),
    )
    op.create_index("llm_decisions_by_time", "llm_decisions", ["decided_at", "decision_id"])
    op.create_index("llm_decisions_by_account", "llm_decisions", ["account_id", "decided_at", "decision_id"])
    op.create_index("llm_decisions_by_symbol", "llm_decisions", ["symbol", "decided_at", "decision_id"])
    op.create_index("llm_decisions_by_verdict", "llm_decisions", ["verdict", "decided_at", "decision_id"])


def _create_account_marks() -> None:
    day = "(as_of AT TIME ZONE 'UTC')::date"
    weekday = "EXTRACT(isodow FROM as_of AT TIME ZONE 'UTC') < 6"
    op.create_table(
        "account_marks",
        sa.Column("decision_id", postgresql.UUID, primary_key=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("day", sa.Date, sa.Computed(day, persisted=True), nullable=False),
        sa.Column(
            "week",
            sa.Date,
            sa.Computed("date_trunc('week', as_of AT TIME ZONE 'UTC')::date", persisted=True),
            nullable=False,
        ),
        sa.Column("session", sa.Date, sa.Computed(f"CASE WHEN {weekday} THEN {day} END", persisted=True)),
        sa.Column(
            "approved_session",
            sa.Date,
            sa.Computed(f"CASE WHEN approved_entry AND {weekday} THEN {day} END", persisted=True),
        ),
        sa.Column("equity_usd", sa.Numeric, nullable=False),
        sa.Column("day_loss_usd", sa.Numeric),
        sa.Column("week_loss_usd", sa.Numeric),
        sa.Column("approved_entry", sa.Boolean, nullable=False),
        sa.CheckConstraint(MODES, name="mode"),
        sa.CheckConstraint("equity_usd > 0 AND equity_usd < 'Infinity'", name="equity_usd"),
        sa.CheckConstraint("day_loss_usd >= 0 AND day_loss_usd < 'Infinity'", name="day_loss_usd"),
        sa.CheckConstraint("week_loss_usd >= 0 AND week_loss_usd < 'Infinity'", name="week_loss_usd"),
    )
    for index, columns, condition in (
        ("by_time", ["as_of", "decision_id"], "equity_usd > 0"),
        ("by_day_loss", ["day", "day_loss_usd"], "day_loss_usd IS NOT NULL"),
        ("by_week_loss", ["week", "week_loss_usd"], "week_loss_usd IS NOT NULL"),
        ("by_session", ["session"], "session IS NOT NULL"),
        ("by_approved_session", ["approved_session"], "approved_session IS NOT NULL"),
    ):
        op.create_index(
            f"account_marks_{index}",
            "account_marks",
            ["account_id", "mode", *columns],
            postgresql_where=sa.text(condition),
        )


def _create_reservations() -> None:
    op.create_table(
        "reservations",
        sa.Column("decision_id", postgresql.UUID, sa.ForeignKey("llm_decisions.decision_id"), primary_key=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("quantity", sa.Numeric, nullable=False),
        sa.Column("notional_usd", sa.Numeric, nullable=False),
        sa.Column("risk_usd", sa.Numeric, nullable=False),
        sa.Column("buckets", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("reduce_only", sa.Boolean, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("claimed_at", TIME),
        sa.Column(
            "held_until",
            TIME,
            sa.Computed(
                "CASE WHEN claimed_at IS NULL THEN expires_at ELSE 'infinity'::timestamptz END", persisted=True
            ),
            nullable=False,
        ),
        sa.Column("filled_quantity", sa.Numeric, nullable=False, server_default=sa.text("0")),
        sa.Column("filled_at", TIME),
        sa.Column("stop_placed_at", TIME),
        sa.Column("released_at", TIME),
        sa.Column("release_reason", sa.Text),
        sa.CheckConstraint(MODES, name="mode"),
        sa.CheckConstraint(DIRECTIONS, name="direction"),
        sa.CheckConstraint("release_reason IN ('cancelled', 'rejected', 'closed', 'operator')", name="release_reason"),
        sa.CheckConstraint("quantity >= 0 AND quantity < 'Infinity'", name="quantity"),
        sa.CheckConstraint("notional_usd >= 0 AND notional_usd < 'Infinity'", name="notional_usd"),
        sa.CheckConstraint("risk_usd >= 0 AND risk_usd < 'Infinity'", name="risk_usd"),
        sa.CheckConstraint("filled_quantity >= 0 AND filled_quantity < 'Infinity'", name="filled_quantity"),
        sa.CheckConstraint("num_nulls(released_at, release_reason) IN (0, 2)", name="release"),
    )
    for index, columns, condition in (
        ("unfilled", ["held_until"], "released_at IS NULL AND filled_at IS NULL"),
        ("filled", ["filled_at"], "released_at IS NULL AND filled_at IS NOT NULL"),
        ("by_symbol", ["symbol", "created_at"], "NOT reduce_only"),
    ):
        op.create_index(
            f"reservations_{index}",
            "reservations",
            ["account_id", "mode", *columns],
            postgresql_where=sa.text(condition),
        )


def downgrade() -> None:
    raise NotImplementedError("Going back would drop the record of decisions: restore a backup instead.")
