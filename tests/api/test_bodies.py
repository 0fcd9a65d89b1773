"""A body is read within limits of size, time and form, whichever way it is sent."""

import socket
import time
import tracemalloc
from collections.abc import Iterator

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.api import body
from app.api.errors import ErrorCode
from app.main import create_app
from tests.api.conftest import NOWHERE, Serve, settings_for
from tests.api.problems import problem_of
from tests.fakes import FakeDecider

LIMIT = 4096


@pytest.fixture
def running(serve: Serve) -> Iterator[httpx2.Client]:
    """A service on a real socket that takes bodies of at most `LIMIT` bytes."""
    with serve(create_app(settings_for(NOWHERE, max_body_bytes=LIMIT), decider=FakeDecider())) as client:
        yield client


def in_chunks(size: int) -> Iterator[bytes]:
    """Bytes that httpx2 sends chunked, for it cannot know how many they are."""
    for start in range(0, size, 1000):
        yield b" " * min(1000, size - start)


def test_one_byte_over_the_limit_is_refused_by_its_declared_length(running: httpx2.Client) -> None:
    problem_of(running.post("/decide", content=b" " * (LIMIT + 1)), ErrorCode.BODY_TOO_LARGE)


def test_one_byte_over_the_limit_is_refused_when_chunked(running: httpx2.Client) -> None:
    answer = running.post("/decide", content=in_chunks(LIMIT + 1))

    assert answer.request.headers["transfer-encoding"] == "chunked"
    problem_of(answer, ErrorCode.BODY_TOO_LARGE)


def test_a_body_at_the_limit_is_read(running: httpx2.Client) -> None:
    problem_of(running.post("/decide", content=b" " * LIMIT), ErrorCode.MALFORMED_JSON)
    problem_of(running.post("/decide", content=in_chunks(LIMIT)), ErrorCode.MALFORMED_JSON)


def test_a_declared_length_is_believed_before_a_byte_is_read(running: httpx2.Client) -> None:
    with socket.create_connection((running.base_url.host, running.base_url.port or 0)) as connection:
        connection.sendall(b"POST /decide HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        connection.settimeout(5)

        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_the_service_lives_on_after_a_huge_body(running: httpx2.Client) -> None:
    try:
        answer = running.post("/decide", content=in_chunks(20_000_000))
    except httpx2.WriteError:
        pass  # the service may hang up on a sender that does not stop
    else:
        assert answer.status_code == 413

    assert running.get("/healthz").status_code == 200


def test_a_body_that_drips_is_given_up(running: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT_S", 0.2)
    with socket.create_connection((running.base_url.host, running.base_url.port or 0)) as connection:
        connection.sendall(b"POST /decide HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        connection.settimeout(5)
        answer = b""
        while part := connection.recv(4096):
            answer += part

    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    assert b'"BODY_TOO_SLOW"' in content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"account": }',
        b'{"a": 1} x',
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        '{"a": 1}'.encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
    ],
)
def test_what_is_not_json_is_malformed(offline: TestClient, content: bytes) -> None:
    problem_of(offline.post("/decide", content=content), ErrorCode.MALFORMED_JSON)


@pytest.mark.parametrize("content", [b"null", b"[]", b"1", b'"x"', b"true"])
def test_json_that_is_no_object_does_not_validate(offline: TestClient, content: bytes) -> None:
    problem_of(offline.post("/decide", content=content), ErrorCode.VALIDATION_ERROR)


def test_json_nested_ten_thousand_deep_keeps_memory_bounded(offline: TestClient) -> None:
    content = b'{"news":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    tracemalloc.start()
    try:
        answer = offline.post("/decide", content=content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    problem_of(answer, ErrorCode.MALFORMED_JSON)
    assert peak < 5_000_000
    assert offline.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"],
)
def test_a_body_of_another_type_is_refused(offline: TestClient, media_type: str) -> None:
    answer = offline.post("/decide", content=b"{}", headers={"content-type": media_type})

    problem_of(answer, ErrorCode.UNSUPPORTED_MEDIA_TYPE)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "application/json"},
        {"content-type": "Application/JSON; charset=utf-8"},
        {"content-type": "application/octet-stream"},
    ],
)
def test_json_or_bytes_of_no_stated_type_are_read(offline: TestClient, headers: dict[str, str]) -> None:
    problem_of(offline.post("/decide", content=b"{}", headers=headers), ErrorCode.VALIDATION_ERROR)


def test_a_refused_body_is_answered_at_once(running: httpx2.Client) -> None:
    started = time.monotonic()
    running.post("/decide", content=b"[" * LIMIT)

    assert time.monotonic() - started < 2
