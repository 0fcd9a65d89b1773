"""Let schemathesis walk deep: snapshots that the rules trade on, and events that a ticket may have.

Loaded by the `schemathesis` command (SCHEMATHESIS_HOOKS) for a run of valid data along the links. What it generated
still chooses the account, the kind of event and all that is optional; here it is only made to fit together.
"""

import itertools
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import schemathesis

from app.api.examples import DECIDE_REQUEST

_numbers = itertools.count(1)


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """Replace what would not fit; see above."""
    operation = None if context.operation is None else context.operation.label
    if operation == "POST /decide":
        snapshot = deepcopy(DECIDE_REQUEST)
        snapshot["account"]["id"] = f"bot-{next(_numbers)}"
        return snapshot
    if operation == "POST /decisions/{decision_id}/events":
        return _fitting(body)
    if operation in ("POST /halt", "DELETE /halt"):
        return body | {"account_id": f"bot-{next(_numbers) % 7}", "reason": "drill", "operator": "ana"}
    return body


def _fitting(event: dict[str, Any]) -> dict[str, Any]:
    fitted = event | {"event_id": f"event-{next(_numbers)}", "at": datetime.now(UTC).isoformat(), "corrects": None}
    if event["event"] == "corrected":
        fitted["corrects"] = f"event-{next(_numbers) - 3}"
    if event["event"] in ("partially_filled", "filled", "closed"):
        fitted |= {"quantity": (event.get("quantity") or 0) % 20 + 1, "price": "125.40"}
    return fitted
