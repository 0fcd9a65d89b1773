"""What else a decision was judged with, so that it can be judged again."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Nullable and without a default: no row is rewritten, and decisions from before keep NULL.
    op.add_column("llm_decisions", sa.Column("judged_with", postgresql.JSON))


def downgrade() -> None:
    raise NotImplementedError("Going back would drop what decisions were judged with: restore a backup instead.")
