"""POST /decisions/{id}/whatif: the verdict that a stored decision would have got under another policy.

Nothing is written and nothing is asked of a model: the stored reply is judged again, on the account as it was then.
The answer is no ticket. It has no order id, no time until which it is valid and no `should_execute`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ApiError, ErrorCode, FieldError, invalid, invalid_body
from app.api.openapi import BEARER, answers, json_body
from app.api.responses import AnswerModel, CandidateOut, EdgeOut, GateOut, Money, PolicyOut, Price, SizingOut, TargetOut
from app.api.runtime import caller, runtime_of
from app.api.schemas import RequestModel
from app.api.stored import read_stored_request
from app.db.queries import get_decision, get_policy
from app.db.vocabulary import Scope
from app.domain.policy import Policy, PolicyError
from app.domain.proposal import Direction, Mode
from app.domain.verdict import Side, Verdict
from app.replay import Inputs, NotReplayable, differences, inputs_of, with_limits
from app.settings import SETTINGS, SettingsError, read_limit, setting_text

LEVEL: Final = "AGGRESSIVENESS_LEVEL"
MAX_LIMITS: Final = 100
SAME: Final = (
    *("action", "verdict", "reason_code", "degraded"),
    *("edge", "sizing", "gates", "candidates", "policy"),
)
"""What both sides show as answers do."""
OF_THE_ORDER: Final = (
    *("side", "quantity", "entry_price", "stop_loss", "targets"),
    *("notional_usd", "risk_usd", "risk_bps"),
)
OF_THE_PROPOSAL: Final = ("symbol", "direction")

router = APIRouter(tags=["decisions"])


def _in_one_line(value: object, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError as error:
        # Else each kind that it could have been gives an error of its own.
        raise ValueError("must be a number, true, false, or text of at most 40 characters") from error


LimitValue = Annotated[
    bool | int | float | Annotated[str, Field(max_length=40)],
    Field(union_mode="left_to_right"),
    WrapValidator(_in_one_line),
]


class WhatIfRequest(RequestModel):
    """The policy to judge by: the decision's own, with these limits replaced. Empty, it is the decision's own.

    `policy` names limits as the environment does (docs/settings.md), and takes the values that it takes.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"aggressiveness_level": 2, "policy": {"MIN_RISK_REWARD": 1.5}}]}
    )

    aggressiveness_level: Annotated[int, Field(ge=0, le=3)] | None = None
    policy: Annotated[dict[Annotated[str, Field(max_length=40)], LimitValue], Field(max_length=MAX_LIMITS)] = {}  # noqa: RUF012

    def policy_on(self, policy: Policy) -> Policy:
        """Lay the limits over a policy.

        Raises:
            ApiError: VALIDATION_ERROR, naming each limit that is unknown or out of bounds.
        """
        limits: dict[str, object] = {}
        faults: list[FieldError] = []
        for name, value in self.policy.items():
            try:
                field, limit = read_limit(name, _text(value))
                limits[field] = limit
            except SettingsError as error:
                faults.append(FieldError(field=f"policy.{name}", message=str(error).partition(": ")[2]))
        if self.aggressiveness_level is not None:
            if LEVEL in self.policy:
                faults.append(FieldError(field=f"policy.{LEVEL}", message="is named by aggressiveness_level already"))
            limits["aggressiveness_level"] = self.aggressiveness_level
        if faults:
            raise invalid(faults)
        try:
            return with_limits(policy, limits)
        except PolicyError as error:
            raise invalid([FieldError(field=f"policy.{error.setting}", message=error.reason)]) from error


def _text(value: bool | float | str) -> str:
    """Write a JSON value as the environment would hold it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else format(Decimal(repr(value)), "f")


class SideOut(AnswerModel):
    """One of the two verdicts; the fields of an order are null where there is none."""

    action: Mode
    verdict: Verdict
    reason_code: str | None
    degraded: bool
    symbol: str | None
    direction: Direction | None
    side: Side | None
    quantity: int | None
    entry_price: Price | None
    stop_loss: Price | None
    targets: list[TargetOut] | None
    notional_usd: Money | None
    risk_usd: Money | None
    risk_bps: float | None
    edge: EdgeOut | None
    sizing: SizingOut | None
    gates: list[GateOut]
    candidates: list[CandidateOut]
    policy: PolicyOut


class ChangedLimitOut(AnswerModel):
    """A limit that differs, as the environment writes it; null where none is set."""

    setting: str
    stored: str | None
    whatif: str | None


class ChangedGateOut(AnswerModel):
    """A gate that found otherwise, or held to another limit."""

    gate: str
    stored: GateOut | None
    whatif: GateOut | None


class WhatIfResponse(AnswerModel):
    """The stored verdict beside the one that another policy would have given. It is no ticket, and no order follows.

    `exact`: judged again by its own policy, the decision gives its stored answer to the byte, so whatever differs is
    the other policy's doing. `assumed` names what the decision did not keep and is taken from today.
    """

    decision_id: UUID
    account_id: str
    as_of: datetime
    decided_at: datetime
    hypothetical: Literal[True]
    exact: bool
    assumed: list[str]
    verdict_changed: bool
    changed_limits: list[ChangedLimitOut]
    changed_gates: list[ChangedGateOut]
    stored: SideOut
    whatif: SideOut


@router.post(
    "/decisions/{decision_id}/whatif",
    response_class=Response,
    responses=answers(
        {"model": WhatIfResponse},
        ErrorCode.MALFORMED_JSON,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.NOT_FOUND,
        ErrorCode.DECISION_NOT_REPLAYABLE,
        ErrorCode.BODY_TOO_SLOW,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER | json_body("WhatIfRequest"),
)
async def whatif(request: Request, identity: Annotated[Identity, caller(Scope.READ)], decision_id: UUID) -> Response:
    """Judge a stored decision by another policy, and show both verdicts side by side; nothing is written."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        wanted = WhatIfRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    record = await get_decision(runtime.pool, decision_id)
    if record is None or not identity.may_see(record.account_id):
        raise ApiError(ErrorCode.NOT_FOUND, f"No decision {decision_id}.")
    policy = await get_policy(runtime.pool, record.policy_hash)

    def judged_twice() -> bytes:
        inputs = inputs_of(record, policy=policy or "", read_request=read_stored_request, buckets=runtime.buckets)
        other = wanted.policy_on(inputs.policy)
        stored, exact = orjson.loads(record.response), not differences(record, inputs)
        return orjson.dumps(comparison(stored, inputs, policy=other, exact=exact))

    try:
        # In a thread: a request may be a megabyte, and decisions must not wait for its reading.
        return Response(await asyncio.to_thread(judged_twice), media_type="application/json")
    except NotReplayable as error:
        raise ApiError(ErrorCode.DECISION_NOT_REPLAYABLE, str(error)) from error


def comparison(stored: Mapping[str, Any], inputs: Inputs, *, policy: Policy, exact: bool) -> dict[str, Any]:
    """Set the stored answer beside the one that the decision's inputs give under a policy."""
    other = inputs.document(policy=policy)
    return {
        "decision_id": stored["decision_id"],
        "account_id": stored["account_id"],
        "as_of": stored["as_of"],
        "decided_at": stored["decided_at"],
        "hypothetical": True,
        "exact": exact,
        "assumed": list(inputs.assumed),
        "verdict_changed": (stored["verdict"], stored["reason_code"]) != (other["verdict"], other["reason_code"]),
        "changed_limits": _changed_limits(inputs.policy, policy),
        "changed_gates": _changed_gates(stored["gates"], other["gates"]),
        "stored": _side(stored),
        "whatif": _side(other),
    }


def _side(answer: Mapping[str, Any]) -> dict[str, Any]:
    order, proposal = answer["order"] or {}, answer["proposal"] or {}
    return (
        {name: answer[name] for name in SAME}
        | {name: proposal.get(name) for name in OF_THE_PROPOSAL}
        | {name: order.get(name) for name in OF_THE_ORDER}
    )


def _changed_limits(stored: Policy, other: Policy) -> list[dict[str, str | None]]:
    return [
        {"setting": spec.name.upper(), "stored": _written(before), "whatif": _written(after)}
        for spec in fields(Policy)
        if spec.name.upper() in SETTINGS
        and (before := getattr(stored, spec.name)) != (after := getattr(other, spec.name))
    ]


def _written(value: object) -> str | None:
    return None if value is None else setting_text(value)


def _changed_gates(stored: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    before, after = ({gate["gate"]: gate for gate in gates} for gates in (stored, other))
    return [
        {"gate": name, "stored": before.get(name), "whatif": after.get(name)}
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
