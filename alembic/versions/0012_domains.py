"""Types that hold only what a column may, in the tables of every decision: checks that a session reads but once."""
# ruff: noqa: D103

import sqlalchemy as sa

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SETUPS = (
    "'breakout', 'mean_reversion', 'momentum', 'earnings_beat', 'earnings_miss', 'fed_dovish', 'fed_hawkish', "
    "'options_flow', 'insider_buying', 'short_squeeze', 'sector_rotation', 'other'"
)
CALL_OUTCOMES = (
    "'MODEL_TIMEOUT', 'MODEL_UNAVAILABLE', 'MODEL_REFUSED', 'MODEL_TRUNCATED', 'MODEL_INVALID', "
    "'proposal', 'cancelled', 'warm'"
)
# Each with the type that it narrows, and with what it demands.
DOMAINS = {
    "account_mode": ("text", "VALUE IN ('paper', 'live')"),
    "proposed_action": ("text", "VALUE IN ('trade', 'adjust', 'exit', 'neutral', 'watchlist')"),
    "verdict_word": ("text", "VALUE IN ('approved', 'resized', 'blocked', 'no_trade')"),
    "trade_direction": ("text", "VALUE IN ('long', 'short')"),
    "setup_name": ("text", f"VALUE IN ({SETUPS})"),
    "entry_type": ("text", "VALUE IN ('market', 'limit', 'stop', 'stop_limit')"),
    "release_reason": ("text", "VALUE IN ('cancelled', 'rejected', 'closed', 'operator')"),
    "paper_state": ("text", "VALUE IN ('pending', 'resolved', 'unfilled')"),
    "outcome_class": ("text", "VALUE IN ('win', 'loss', 'scratch', 'timeout')"),
    "call_outcome": ("text", f"VALUE IN ({CALL_OUTCOMES})"),
    "amount": ("numeric", "VALUE >= 0 AND VALUE < 'Infinity'"),
    "positive_amount": ("numeric", "VALUE > 0 AND VALUE < 'Infinity'"),
    "probability": ("double precision", "VALUE BETWEEN 0 AND 1"),
    "uncertain_probability": ("double precision", "VALUE > 0 AND VALUE < 1"),
    "whole_percent": ("smallint", "VALUE BETWEEN 0 AND 100"),
    "natural_number": ("bigint", "VALUE >= 0"),
    "token_count": ("integer", "VALUE >= 0"),
}
TABLES = {
    "llm_decisions": {
        "mode": "account_mode",
        "action": "proposed_action",
        "verdict": "verdict_word",
        "direction": "trade_direction",
        "setup": "setup_name",
        "conviction": "whole_percent",
        "p_win_raw": "probability",
        "p_win": "probability",
        "quantity": "natural_number",
        "notional_usd": "amount",
        "risk_usd": "amount",
        "cost_usd": "amount",
    },
    "account_marks": {"equity_usd": "positive_amount", "day_loss_usd": "amount", "week_loss_usd": "amount"},
    "reservations": {
        "direction": "trade_direction",
        "quantity": "amount",
        "notional_usd": "amount",
        "risk_usd": "amount",
        "filled_quantity": "amount",
        "release_reason": "release_reason",
    },
    "forecasts": {
        "p_win": "uncertain_probability",
        "p_win_calibrated": "uncertain_probability",
        "p_win_percent": "whole_percent",
        "p_win_calibrated_percent": "whole_percent",
        "entry_type": "entry_type",
        "entry": "positive_amount",
        "cost_usd": "amount",
        "paper_state": "paper_state",
        "paper_outcome": "outcome_class",
        "executed_outcome": "outcome_class",
    },
    "gate_sums": {"blocked": "natural_number", "resolved": "natural_number", "won": "natural_number"},
    "decision_counts": {"decisions": "natural_number"},
    "model_calls": {
        "outcome": "call_outcome",
        "input_tokens": "token_count",
        "output_tokens": "token_count",
        "cache_read_tokens": "token_count",
        "cache_write_tokens": "token_count",
        "cost_usd": "amount",
    },
}


def upgrade() -> None:
    # A column that gets a type without constraints is not written anew. What the types demand is added afterwards, and
    # each reads the tables that have it once.
    for domain, (narrowed, _) in DOMAINS.items():
        op.execute(f"CREATE DOMAIN {domain} AS {narrowed}")
    for table, columns in TABLES.items():
        changes = [f"DROP CONSTRAINT {table}_{column}_check" for column in columns]
        changes += [f"ALTER {column} TYPE {domain}" for column, domain in columns.items()]
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
    for domain, (_, condition) in DOMAINS.items():
        op.execute(sa.text(f"ALTER DOMAIN {domain} ADD CONSTRAINT {domain}_check CHECK ({condition})"))


def downgrade() -> None:
    for table, columns in TABLES.items():
        changes = [f"ALTER {column} TYPE {DOMAINS[domain][0]}" for column, domain in columns.items()]
        for column, domain in columns.items():
            condition = DOMAINS[domain][1].replace("VALUE", column)
            changes.append(f"ADD CONSTRAINT {table}_{column}_check CHECK ({condition})")
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")
    for domain in DOMAINS:
        op.execute(f"DROP DOMAIN {domain}")
