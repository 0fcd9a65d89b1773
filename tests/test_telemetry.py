"""Log lines are single JSON objects from whoever writes them, and hold no secrets."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.settings import LogFormat, LogLevel
from app.telemetry import Redactor, configure_logging, name_request
from tests.log_state import restored_logging


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    with restored_logging():
        yield


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_our_lines_and_the_libraries_lines_have_one_form(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level=LogLevel.INFO, log_format=LogFormat.JSON)
    name_request(request_id="r-1", trace_id=None)

    structlog.stdlib.get_logger("app.x").info("decision", verdict="approved", latency_ms=3)
    logging.getLogger("uvicorn.error").warning("port %s", 8000)

    ours, theirs = lines(capsys)
    assert (ours["event"], ours["verdict"], ours["level"], ours["request_id"]) == (
        "decision",
        "approved",
        "info",
        "r-1",
    )
    assert (theirs["event"], theirs["logger"], theirs["level"]) == ("port 8000", "uvicorn.error", "warning")
    assert str(ours["at"]).endswith("Z")
    assert list(ours) == ["verdict", "latency_ms", "event", "request_id", "trace_id", "level", "logger", "at"]


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level=LogLevel.WARNING, log_format=LogFormat.JSON)

    structlog.stdlib.get_logger("app.x").info("no")
    logging.getLogger("httpx2").info("no")

    assert lines(capsys) == []


def test_a_line_that_cannot_be_written_is_reported_and_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(level=LogLevel.INFO, log_format=LogFormat.JSON)

    structlog.stdlib.get_logger("app.x").info("decision", account_id="\ud800")

    [report] = lines(capsys)
    assert (report["event"], report["logger"], report["level"]) == ("a line could not be written", "app.x", "error")
    assert "surrogates not allowed" in str(report["exception"])


@pytest.mark.parametrize("log_format", LogFormat)
def test_no_secret_is_written_wherever_it_stands(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> None:
    secrets = ["canary-key", "postgresql://me:canary-pw@db/x", 'quoted"canary\\']
    configure_logging(level=LogLevel.DEBUG, log_format=log_format, secrets=secrets)
    log = structlog.stdlib.get_logger("app.x")

    log.info("header canary-key", nested={"url": ["postgresql://me:canary-pw@db/x"]}, quoted='quoted"canary\\')
    logging.getLogger("other").error("at %s", "https://user:canary@host/path")
    bearer = f"token tv_0a1b2c3d_{'c' * 16}canary sk-ant-canary"
    try:
        raise ValueError(bearer)
    except ValueError:
        log.exception("failed")

    _, written = capsys.readouterr()
    assert "canary" not in written
    assert "***" in written
    assert "ValueError" in written


@pytest.mark.parametrize("log_format", LogFormat)
@pytest.mark.parametrize("secret", ['ä"canary', 'it\'s "a canary"', "\xa0a canary"])
def test_a_secret_is_masked_however_its_letters_are_escaped(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat, secret: str
) -> None:
    configure_logging(level=LogLevel.INFO, log_format=log_format, secrets=[secret])
    structlog.stdlib.get_logger("app.x").info("sent", secret=secret, nested=[secret])
    _, written = capsys.readouterr()

    assert "canary" not in written
    assert written.count("***") == 2


def test_a_redactor_without_secrets_leaves_ordinary_lines_alone() -> None:
    line = '{"event":"tv_show","url":"http://127.0.0.1:8000/decide","path":"/a@b"}'

    assert Redactor([])(line) == line
