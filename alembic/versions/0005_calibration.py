"""Calibration: forecasts and their labels, sufficient statistics, paper bars, calibrators and metrics."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)
NOW = sa.text("clock_timestamp()")
ZERO = sa.text("0")
CLASSES = ("win", "loss", "scratch", "timeout")
OUTCOMES = "IN ('win', 'loss', 'scratch', 'timeout')"
SOURCES = "source IN ('executed', 'paper', 'paper_of_executed')"
FORECASTS = "forecast IN ('p_win', 'p_win_calibrated', 'conviction')"
MODES = "action IN ('trade', 'adjust', 'exit', 'neutral', 'watchlist')"
VERDICTS = "verdict IN ('approved', 'resized', 'blocked', 'no_trade')"
EVENTS = (
    "event IN ('claimed', 'acknowledged', 'partially_filled', 'filled', 'cancelled', 'rejected', 'closed', "
    "'corrected', 'reservation_expired', 'model_reply', 'model_usage', 'outcome')"
)


def upgrade() -> None:
    op.add_column("llm_decisions", sa.Column("calibration", postgresql.JSON))
    op.drop_constraint("event", "decision_events", type_="check")
    op.create_check_constraint("event", "decision_events", EVENTS)
    op.create_index(
        "decision_events_outcomes", "decision_events", ["sequence"], postgresql_where=sa.text("event = 'outcome'")
    )
    _create_forecasts()
    _create_counts()
    _create_sums()
    _create_paper_bars()
    _create_calibrators()
    _create_calibration_metrics()
    for table in ("calibrators", "calibration_metrics"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "GRANT SELECT, INSERT ON forecasts, calibration_counts, calibration_daily, outcome_sums, gate_sums, "
        "decision_counts, paper_bars, calibrators, calibration_metrics TO tradeverdict_app"
    )
    op.execute(
        "GRANT UPDATE (paper_state, paper_outcome, paper_r, paper_entered_at, paper_exit_at, paper_exit_price, "
        "executed_outcome, executed_r, executed_entered_at, executed_exit_at, executed_exit_price, realized_usd, "
        "fees_usd) ON forecasts TO tradeverdict_app"
    )
    op.execute(
        "GRANT UPDATE (win, loss, scratch, timeout) ON calibration_counts, calibration_daily TO tradeverdict_app"
    )
    op.execute(
        "GRANT UPDATE (win, loss, scratch, timeout, r_win, r_loss, r_scratch, r_timeout, r_squares, ev_n, ev, ev_r) "
        "ON outcome_sums TO tradeverdict_app"
    )
    op.execute("GRANT UPDATE (blocked, resolved, won, r) ON gate_sums TO tradeverdict_app")
    op.execute("GRANT UPDATE (decisions) ON decision_counts TO tradeverdict_app")


def _create_forecasts() -> None:
    op.create_table(
        "forecasts",
        sa.Column("decision_id", postgresql.UUID, primary_key=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("as_of", TIME, nullable=False),
        sa.Column("day", sa.Date, sa.Computed("(as_of AT TIME ZONE 'UTC')::date", persisted=True), nullable=False),
        sa.Column("decider", sa.Text, nullable=False),
        sa.Column("prompt_hash", sa.Text, nullable=False),
        sa.Column("setup", sa.Text, nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("direction", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("blocked_by", sa.ARRAY(sa.Text), nullable=False),
        sa.Column("p_win", sa.Double, nullable=False),
        sa.Column("p_win_calibrated", sa.Double),
        sa.Column("p_win_percent", sa.SmallInteger, nullable=False),
        sa.Column("p_win_calibrated_percent", sa.SmallInteger),
        sa.Column("conviction", sa.SmallInteger, nullable=False),
        sa.Column("ev_r", sa.Numeric),
        sa.Column("entry_type", sa.Text, nullable=False),
        sa.Column("entry", sa.Numeric, nullable=False),
        sa.Column("stop", sa.Numeric, nullable=False),
        sa.Column("target", sa.Numeric, nullable=False),
        sa.Column("cost_usd", sa.Numeric, nullable=False),
        sa.Column("time_stop_at", TIME, nullable=False),
        sa.Column("paper_state", sa.Text, nullable=False, server_default=sa.text("'pending'")),
        sa.Column("paper_outcome", sa.Text),
        sa.Column("paper_r", sa.Numeric),
        sa.Column("paper_entered_at", TIME),
        sa.Column("paper_exit_at", TIME),
        sa.Column("paper_exit_price", sa.Numeric),
        sa.Column("executed_outcome", sa.Text),
        sa.Column("executed_r", sa.Numeric),
        sa.Column("executed_entered_at", TIME),
        sa.Column("executed_exit_at", TIME),
        sa.Column("executed_exit_price", sa.Numeric),
        sa.Column("realized_usd", sa.Numeric),
        sa.Column("fees_usd", sa.Numeric),
        sa.CheckConstraint("mode IN ('paper', 'live')", name="mode"),
        sa.CheckConstraint(
            "setup IN ('breakout', 'mean_reversion', 'momentum', 'earnings_beat', 'earnings_miss', 'fed_dovish', "
            "'fed_hawkish', 'options_flow', 'insider_buying', 'short_squeeze', 'sector_rotation', 'other')",
            name="setup",
        ),
        sa.CheckConstraint("direction IN ('long', 'short')", name="direction"),
        sa.CheckConstraint(VERDICTS, name="verdict"),
        sa.CheckConstraint("entry_type IN ('market', 'limit', 'stop', 'stop_limit')", name="entry_type"),
        sa.CheckConstraint("paper_state IN ('pending', 'resolved', 'unfilled')", name="paper_state"),
        sa.CheckConstraint(f"paper_outcome {OUTCOMES}", name="paper_outcome"),
        sa.CheckConstraint(f"executed_outcome {OUTCOMES}", name="executed_outcome"),
        sa.CheckConstraint("p_win > 0 AND p_win < 1", name="p_win"),
        sa.CheckConstraint("p_win_calibrated > 0 AND p_win_calibrated < 1", name="p_win_calibrated"),
        sa.CheckConstraint("p_win_percent BETWEEN 0 AND 100", name="p_win_percent"),
        sa.CheckConstraint("p_win_calibrated_percent BETWEEN 0 AND 100", name="p_win_calibrated_percent"),
        sa.CheckConstraint("conviction BETWEEN 0 AND 100", name="conviction"),
        sa.CheckConstraint("entry > 0 AND entry < 'Infinity'", name="entry"),
        sa.CheckConstraint("cost_usd >= 0 AND cost_usd < 'Infinity'", name="cost_usd"),
        sa.CheckConstraint("(paper_state = 'resolved') = (paper_outcome IS NOT NULL)", name="paper_resolved"),
        sa.CheckConstraint("num_nulls(paper_outcome, paper_r) IN (0, 2)", name="paper"),
        sa.CheckConstraint("num_nulls(executed_outcome, executed_r) IN (0, 2)", name="executed"),
    )
    op.create_index("forecasts_by_symbol", "forecasts", ["symbol", "account_id", "as_of"])
    op.create_index(
        "forecasts_pending",
        "forecasts",
        ["day", "account_id"],
        postgresql_where=sa.text("paper_state = 'pending' AND executed_outcome IS NULL"),
    )
    op.create_index(
        "forecasts_breaching",
        "forecasts",
        ["day", "account_id"],
        postgresql_where=sa.text("verdict IN ('approved', 'resized') AND cardinality(blocked_by) > 0"),
    )


def _counts_per_class() -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False, server_default=ZERO) for name in CLASSES]


def _never_negative(*columns: str) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(f"{column} >= 0", name=column) for column in columns]


def _create_counts() -> None:
    op.create_table(
        "calibration_counts",
        sa.Column("day", sa.Date, nullable=False),
        *[
            sa.Column(name, sa.Text, nullable=False)
            for name in ("account_id", "decider", "prompt_hash", "setup", "direction", "source", "forecast")
        ],
        sa.Column("percent", sa.SmallInteger, nullable=False),
        *_counts_per_class(),
        sa.PrimaryKeyConstraint(
            "day", "account_id", "decider", "prompt_hash", "setup", "direction", "source", "forecast", "percent"
        ),
        sa.CheckConstraint(SOURCES, name="source"),
        sa.CheckConstraint(FORECASTS, name="forecast"),
        sa.CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
        *_never_negative(*CLASSES),
    )
    op.create_table(
        "calibration_daily",
        sa.Column("day", sa.Date, nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("source", "forecast", "decider")],
        sa.Column("percent", sa.SmallInteger, nullable=False),
        *_counts_per_class(),
        sa.PrimaryKeyConstraint("day", "source", "forecast", "decider", "percent"),
        sa.CheckConstraint(SOURCES, name="source"),
        sa.CheckConstraint(FORECASTS, name="forecast"),
        sa.CheckConstraint("percent BETWEEN 0 AND 100", name="percent"),
        *_never_negative(*CLASSES),
    )


def _create_sums() -> None:
    op.create_table(
        "outcome_sums",
        sa.Column("day", sa.Date, nullable=False),
        *[
            sa.Column(name, sa.Text, nullable=False)
            for name in ("account_id", "decider", "setup", "direction", "source")
        ],
        *_counts_per_class(),
        *[sa.Column(f"r_{name}", sa.Numeric, nullable=False, server_default=ZERO) for name in CLASSES],
        sa.Column("r_squares", sa.Numeric, nullable=False, server_default=ZERO),
        sa.Column("ev_n", sa.BigInteger, nullable=False, server_default=ZERO),
        sa.Column("ev", sa.Numeric, nullable=False, server_default=ZERO),
        sa.Column("ev_r", sa.Numeric, nullable=False, server_default=ZERO),
        sa.PrimaryKeyConstraint("day", "account_id", "decider", "setup", "direction", "source"),
        sa.CheckConstraint(SOURCES, name="source"),
        *_never_negative(*CLASSES, "ev_n"),
    )
    op.create_table(
        "gate_sums",
        sa.Column("day", sa.Date, nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("account_id", "decider", "code")],
        *[
            sa.Column(name, sa.BigInteger, nullable=False, server_default=ZERO)
            for name in ("blocked", "resolved", "won")
        ],
        sa.Column("r", sa.Numeric, nullable=False, server_default=ZERO),
        sa.PrimaryKeyConstraint("day", "account_id", "decider", "code"),
        *_never_negative("blocked", "resolved", "won"),
    )
    op.create_table(
        "decision_counts",
        sa.Column("day", sa.Date, nullable=False),
        *[
            sa.Column(name, sa.Text, nullable=False)
            for name in ("account_id", "decider", "action", "verdict", "reason_code")
        ],
        sa.Column("decisions", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "account_id", "decider", "action", "verdict", "reason_code"),
        sa.CheckConstraint(MODES, name="action"),
        sa.CheckConstraint(VERDICTS, name="verdict"),
        *_never_negative("decisions"),
    )


def _create_paper_bars() -> None:
    op.create_table(
        "paper_bars",
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("interval_s", sa.Integer, nullable=False),
        sa.Column("t", TIME, nullable=False),
        *[sa.Column(name, sa.Numeric, nullable=False) for name in ("o", "h", "l", "c")],
        sa.Column("recorded_at", TIME, nullable=False, server_default=NOW),
        sa.PrimaryKeyConstraint("account_id", "symbol", "interval_s", "t"),
        sa.CheckConstraint("interval_s > 0", name="interval_s"),
        sa.CheckConstraint("l > 0 AND l <= least(o, c) AND h >= greatest(o, c) AND h < 'Infinity'", name="prices"),
    )


def _create_calibrators() -> None:
    op.create_table(
        "calibrators",
        sa.Column("calibrator_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("decider", sa.Text, nullable=False),
        sa.Column("prompt_hash", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("intercept", sa.Double),
        sa.Column("slope", sa.Double),
        sa.Column("resolved", sa.BigInteger, nullable=False),
        sa.Column("fitted_on", sa.BigInteger, nullable=False),
        sa.Column("held_out", sa.BigInteger, nullable=False),
        sa.Column("gain_brier", sa.Double),
        sa.Column("gain_z", sa.Double),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("made_at", TIME, nullable=False, server_default=NOW),
        sa.CheckConstraint("state IN ('off', 'shadow', 'on')", name="state"),
        sa.CheckConstraint("num_nulls(intercept, slope) IN (0, 2)", name="map"),
        sa.CheckConstraint("state = 'off' OR intercept IS NOT NULL", name="map_in_use"),
    )
    op.create_index("calibrators_in_force", "calibrators", ["decider", "prompt_hash", "calibrator_id"])


def _create_calibration_metrics() -> None:
    op.create_table(
        "calibration_metrics",
        sa.Column("metrics_id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("computed_at", TIME, nullable=False, server_default=NOW),
        sa.Column("window_days", sa.SmallInteger, nullable=False),
        sa.Column("decider", sa.Text, nullable=False),
        sa.Column("forecast", sa.Text, nullable=False),
        sa.Column("resolved", sa.BigInteger, nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("brier", sa.Double),
        sa.Column("slope", sa.Double),
        sa.Column("calibration_error", sa.Double),
        sa.Column("calibration_error_t", sa.Double),
        sa.Column("e_value", sa.Double),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("derated", sa.Boolean, nullable=False),
        sa.Column("report", postgresql.JSON, nullable=False),
        sa.Column("outcome_sequence", sa.BigInteger, nullable=False),
        sa.CheckConstraint(FORECASTS, name="forecast"),
        sa.CheckConstraint("window_days > 0", name="window_days"),
    )
    op.create_index("calibration_metrics_latest", "calibration_metrics", ["decider", "window_days", "metrics_id"])


def downgrade() -> None:
    raise NotImplementedError("Going back would drop what is known of outcomes: restore a backup instead.")
