"""Check answers that are errors."""

from typing import Any, Protocol

from app.api.errors import CATALOGUE, ErrorCode, Problem


class Answer(Protocol):
    """What the two HTTP clients' responses have in common."""

    @property
    def status_code(self) -> int: ...

    @property
    def headers(self) -> Any: ...

    @property
    def content(self) -> bytes: ...


def problem_of(answer: Answer, code: ErrorCode) -> Problem:
    """The problem document of an answer, which must be complete and of this code."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content, strict=True)
    status, title = CATALOGUE[code]
    assert (problem.code, problem.status, problem.title) == (code, status, title)
    assert answer.status_code == status
    assert problem.instance == answer.headers["x-request-id"]
    assert problem.detail
    return problem


def fields_of(problem: Problem) -> list[str]:
    """The fields that a problem names."""
    return [error.field for error in problem.errors or []]
