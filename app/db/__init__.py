"""The store: PostgreSQL, written through one place and read through another."""
