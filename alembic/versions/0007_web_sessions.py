"""Sessions of people who signed in to the pages with an API key."""
# ruff: noqa: D103

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "web_sessions",
        sa.Column("token_sha256", sa.LargeBinary, primary_key=True),
        sa.Column("api_key_id", sa.Text, sa.ForeignKey("api_keys.public_id"), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            nullable=False,
            server_default=sa.text("clock_timestamp()"),
        ),
        sa.Column("expires_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True)),
        sa.CheckConstraint("octet_length(token_sha256) = 32", name="token_sha256"),
        sa.CheckConstraint("expires_at > created_at", name="expires_at"),
    )
    op.execute("GRANT SELECT, INSERT, UPDATE (ended_at) ON web_sessions TO tradeverdict_app")


def downgrade() -> None:
    op.drop_table("web_sessions")
