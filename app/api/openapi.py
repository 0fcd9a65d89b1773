"""Write the OpenAPI document: what FastAPI cannot know of bodies read raw, and errors that are problems."""

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api.errors import CATALOGUE, MEDIA_TYPE, ErrorCode, Problem
from app.api.schemas import RequestModel

REF: Final = "#/components/schemas/{model}"
BEARER: Final[dict[str, Any]] = {"security": [{"key": []}]}


def answers(success: dict[str, Any], *codes: ErrorCode) -> dict[int | str, dict[str, Any]]:
    """Document the answers of an operation: its success, its errors, and those that come with keys and with bugs."""
    by_status: dict[int, list[ErrorCode]] = {}
    counted = (ErrorCode.RATE_LIMITED,) if ErrorCode.UNAUTHENTICATED in codes else ()
    for code in (*codes, *counted, ErrorCode.INTERNAL_ERROR):
        by_status.setdefault(CATALOGUE[code][0], []).append(code)
    documented: dict[int | str, dict[str, Any]] = {200: success}
    for status, listed in by_status.items():
        documented[status] = {
            "description": "; ".join(f"`{code}`: {CATALOGUE[code][1]}" for code in listed),
            "content": {MEDIA_TYPE: {"schema": {"$ref": REF.format(model="Problem")}}},
        }
    return documented


def json_body(model: str) -> dict[str, Any]:
    """Document a body that the operation reads by itself, by the name of its `RequestModel`."""
    schema = {"$ref": REF.format(model=model)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def ticket_links(decision_id: str) -> dict[str, Any]:
    """Document what can be asked next about a decision whose id is found by a runtime expression."""
    return {
        operation: {"operationId": operation, "parameters": {"decision_id": decision_id}}
        for operation in ("decision", "report")
    }


def install_openapi(app: FastAPI) -> None:
    """Replace the app's document, made once, on first request."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = made.setdefault("components", {})
    models: list[type[BaseModel]] = [Problem, *RequestModel.__subclasses__()]
    _, schemas = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    components.setdefault("schemas", {}).update(schemas["$defs"])
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "tv_<public>_<secret>; not needed with AUTH=off"}
    }
    return made
