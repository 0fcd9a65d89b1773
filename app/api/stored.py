"""Read the body of a stored request as POST /decide read it."""

from app.api.schemas import DecideRequest
from app.domain.account import Account
from app.domain.market import Snapshot


def read_stored_request(body: bytes) -> tuple[Account, Snapshot]:
    """Give the account and the snapshot.

    Raises:
        ValueError: the schema of today refuses it (pydantic's ValidationError is one).
    """
    account, snapshot, _ = DecideRequest.model_validate_json(body).to_domain()
    return account, snapshot
