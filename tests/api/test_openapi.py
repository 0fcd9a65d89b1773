"""The OpenAPI document says what the service takes and answers."""

import re
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.examples import DECIDE_REQUEST
from app.api.schemas import DecideRequest

METHODS = {"get", "post", "put", "delete", "patch"}
NO_JSON = {
    "get /metrics": ["text/plain"],
    "get /decisions/export": ["text/csv", "application/vnd.apache.parquet"],
}
"""What a success is written in, where that is not JSON."""


@pytest.fixture(scope="module")
def document(offline: TestClient) -> dict[str, Any]:
    made: dict[str, Any] = offline.get("/openapi.json").json()
    return made


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r"'\$ref': '#/([^']+)'", str(document))):
        node = document
        for part in reference.split("/"):
            node = node[part]


def test_every_error_is_documented_as_a_problem(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            expected = "application/json" if status in ("200", "201") else "application/problem+json"
            of_its_own = NO_JSON.get(name) if status == "200" else None
            assert list(answer["content"]) == (of_its_own or [expected])


def test_what_needs_a_key_says_so(document: dict[str, Any]) -> None:
    open_to_all = {name for name, operation in operations(document) if "security" not in operation}

    assert open_to_all == {"get /healthz", "get /readyz", "get /metrics"}
    for _, operation in operations(document):
        assert ("401" in operation["responses"]) == ("security" in operation)


def test_the_request_is_described_with_an_example_that_is_accepted(document: dict[str, Any]) -> None:
    body = document["paths"]["/decide"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]

    assert schema["additionalProperties"] is False
    assert schema["required"] == ["account", "as_of", "market"]
    assert schema["examples"] == [DECIDE_REQUEST]
    assert DecideRequest.model_validate(schema["examples"][0], strict=False).market[0].symbol == "NVDA"


def test_no_page_loads_anything_from_elsewhere(offline: TestClient) -> None:
    assert offline.get("/docs").status_code == 404
    assert offline.get("/redoc").status_code == 404
