"""Unprotected fills: by when a fill's stop must be reported, and that it was not."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = postgresql.TIMESTAMP(timezone=True)


def upgrade() -> None:
    op.add_column("reservations", sa.Column("stop_due_at", TIME))
    op.add_column("reservations", sa.Column("unprotected_at", TIME))
    op.create_index(
        "reservations_stop_due",
        "reservations",
        ["stop_due_at"],
        postgresql_where=sa.text("stop_due_at IS NOT NULL"),
    )
    op.execute("GRANT UPDATE (stop_due_at, unprotected_at) ON reservations TO tradeverdict_app")


def downgrade() -> None:
    op.execute("REVOKE UPDATE (stop_due_at, unprotected_at) ON reservations FROM tradeverdict_app")
    op.drop_index("reservations_stop_due", "reservations")
    op.drop_column("reservations", "unprotected_at")
    op.drop_column("reservations", "stop_due_at")
