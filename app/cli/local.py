"""Decide in this process, through the very service that `serve` runs."""

import time

import uuid_utils
from pydantic import ValidationError

from app.api.errors import ApiError, FieldError, invalid, invalid_body
from app.api.runtime import Runtime
from app.api.schemas import DecideRequest
from app.cli.errors import CommandError, ExitCode
from app.domain.policy import PolicyError


async def decide_locally(runtime: Runtime, body: bytes) -> bytes:
    """Decide on the body of a request and return the answer, committed.

    Raises:
        CommandError: the request is wrong.
        StoreUnavailable: nothing was decided.
    """
    started = time.monotonic()
    try:
        account, snapshot, level = DecideRequest.model_validate_json(body).to_domain()
        return await runtime.service.decide(
            runtime.service.situation(account=account, snapshot=snapshot),
            policy=runtime.service.policy_at(level),
            request_body=body,
            request_id=str(uuid_utils.uuid7()),
            api_key_id=None,
            started=started,
        )
    except ValidationError as error:
        raise _refused(invalid_body(error)) from error
    except PolicyError as error:
        raise _refused(invalid([FieldError(field=error.setting, message=error.reason)])) from error


def _refused(error: ApiError) -> CommandError:
    fields = "".join(f"\n  {fault.field}: {fault.message}" for fault in error.errors)
    return CommandError(f"{error.code}{fields or f': {error.detail}'}", ExitCode.BAD_INPUT)
