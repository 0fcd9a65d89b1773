"""Name what only the store distinguishes. Each is text with a CHECK in the tables."""

from enum import StrEnum


class ReleaseReason(StrEnum):
    """Say why a reservation ended. That it lapsed or became a position needs no reason: its times tell."""

    CANCELLED = "cancelled"
    REJECTED = "rejected"
    CLOSED = "closed"
    OPERATOR = "operator"


class NotedEvent(StrEnum):
    """Name what the service itself notes of a decision, beside what its bot reports."""

    RESERVATION_EXPIRED = "reservation_expired"
    MODEL_REPLY = "model_reply"
    MODEL_USAGE = "model_usage"
    OUTCOME = "outcome"


class Scope(StrEnum):
    """Name what an API key may do."""

    DECIDE = "decide"
    READ = "read"
    REPORT = "report"
    ADMIN = "admin"


class StoredTextKind(StrEnum):
    """Tell the two texts of a prompt that are stored once: the template, and its static part as rendered."""

    TEMPLATE = "template"
    SYSTEM = "system"


class KeyState(StrEnum):
    """Say how far the request that took an idempotency key has come."""

    RUNNING = "running"
    FINISHED = "finished"
