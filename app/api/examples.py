"""Hold the examples that the OpenAPI document shows: real ones, which tests send and compare with the answer."""

from pathlib import Path
from typing import Any, Final

import orjson


def _example(name: str) -> dict[str, Any]:
    example: dict[str, Any] = orjson.loads((Path(__file__).parent / f"example_{name}.json").read_bytes())
    return example


DECIDE_REQUEST: Final = _example("request")
DECIDE_RESPONSE: Final = _example("response")
