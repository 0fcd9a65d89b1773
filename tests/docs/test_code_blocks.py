"""Every block of code in the documentation does what its page says, typed in order by one who reads."""

import asyncio
import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from pydantic import BaseModel, ValidationError

import app.main  # noqa: F401 (defines every schema)
from app.llm.targets import load_targets
from app.settings import SettingsError, load_settings
from tests.builders import a_request
from tests.docs.pages import (
    DOCS,
    LANGUAGES,
    NOT_RUN,
    ROOT,
    RUN,
    SHELL,
    Block,
    blocks_of,
    differences,
    pages,
    prose_of,
    shows,
    steps_of,
)
from tests.docs.reader import BlockFailedError, Reader
from tests.faults.processes import Service, owner_of

DEPLOYED = frozenset({"going-live.md", "security.md"})
"""Pages about a service that is deployed: keys, live trading, a model."""
BLOCKS = {page: blocks_of(page) for page in pages()}
ALL = [block for blocks in BLOCKS.values() for block in blocks]


# ------------------------------------------------------------------------------------------ by reading


@pytest.mark.parametrize("page", BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_code_that_nobody_would_run(page: Path) -> None:
    lines = prose_of(page).splitlines()
    indented = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"    +[^\s|*-]", line) and not before.strip()
    ]

    assert indented == [], "code stands in ``` fences, with its language"
    assert prose_of(page).count("```") == 0, "a fence is left open"
    assert [str(block) for block in BLOCKS[page] if block.language not in LANGUAGES] == []


def test_a_block_that_is_not_run_says_what_it_needs() -> None:
    unexplained = [
        str(block)
        for block in ALL
        if block.language in RUN and block.note.startswith("not run") and not NOT_RUN.match(block.note)
    ]

    assert unexplained == []


def test_most_blocks_are_run() -> None:
    runnable = [block for block in ALL if block.language in RUN]

    assert len(runnable) >= 40
    assert sum(block.is_run for block in runnable) >= 0.6 * len(runnable)


def test_what_make_is_asked_for_in_blocks_that_are_not_run_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    asked = {
        word
        for block in ALL
        if block.language in SHELL
        for line in re.findall(r"^(?:\$ )?make ([^#\n|]*)", block.text, flags=re.MULTILINE)
        for word in line.split()
        if re.fullmatch(r"[a-z-]+", word)
    }

    assert asked <= targets
    assert {"demo", "run"} <= asked


# ------------------------------------------------------------------------------------------ by running


def schemas_named(name: str) -> list[type[BaseModel]]:
    """The schemas of the API that `/openapi.json` shows under this name."""
    found, wait = [], [BaseModel]
    while wait:
        kinds = wait.pop().__subclasses__()
        found += [kind for kind in kinds if kind.__name__ == name and kind.__module__.startswith("app.api.")]
        wait += kinds
    return found


def schema_faults(document: Any, name: str) -> list[str]:
    """How a document differs from what the API says of this schema."""
    (schema,) = schemas_named(name)
    try:
        schema.model_validate_json(json.dumps(document))
    except ValidationError as error:
        return [str(fault) for fault in error.errors()]
    return [f"{field} is not known" for field in document if field not in schema.model_fields]


def logged(service: Service, event: str) -> Any:
    """The last line of the service's log about such an event."""
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event][-1]


def check_json(block: Block, printed: str | None, service: Service | None = None) -> None:
    document = json.loads(block.text)
    schema, event = block.noted("schema"), block.noted("logged")
    if schema is not None:
        assert schema_faults(document, schema) == [], str(block)
    elif event is not None:
        assert service is not None
        assert set(document) == set(logged(service, event)), str(block)
    else:
        assert printed is not None, f"{block} follows no block that prints it, and names no schema"
        assert differences(document, json.loads(printed)) == [], f"{block} shows other than was printed:\n{printed}"


def check_read(block: Block, folder: Path) -> None:
    """A file that is shown can be read by what reads it."""
    if block.language == "yaml":
        list(yaml.safe_load_all(block.text))
    elif block.noted("file") == "MODEL_TARGETS_FILE":
        for target in block.text.split("[[target]]")[1:]:
            check_target(f"[[target]]{target}", folder / "targets.toml")
    else:
        tomllib.loads(block.text)


def check_target(text: str, file: Path) -> None:
    """A target that is shown is one, though its platform's packages may not be installed."""
    file.write_text(text)
    keys = dict.fromkeys(re.findall(r'key_variable = "(\w+)"', text), "stand-in")
    try:
        assert len(load_targets(load_settings({"MODEL_TARGETS_FILE": str(file)} | keys))) == 1
    except SettingsError as error:
        if "needs the packages of" not in str(error):
            raise


def run_sql(database_url: str, statements: str) -> None:
    async def run() -> None:
        async with owner_of(database_url) as owner:
            await owner.execute(statements)

    asyncio.run(run())


def needs_service(blocks: list[Block]) -> bool:
    return any(block.is_run or block.noted("logged") for block in blocks)


@pytest.mark.parametrize(
    "page", [page for page in BLOCKS if BLOCKS[page]], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_blocks_of_a_page_do_what_it_says(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    blocks = BLOCKS[page]
    if not needs_service(blocks):
        for block in blocks:
            if block.language == "json":
                check_json(block, None)
            elif block.language in {"toml", "yaml"}:
                check_read(block, folder)
        return
    store: str = request.getfixturevalue("empty_store")
    service: Service = request.getfixturevalue("deployed" if page.name in DEPLOYED else "local")
    has = {"DATABASE_URL": store, "AUTH": "off", "DECIDER": "rules", "LOG_LEVEL": "warning"}
    if any("$DECISION" in block.text or block.noted("logged") for block in blocks):
        has["DECISION"] = an_approved_decision(service)
    with Reader(folder, base_url=service.base_url, has=has, commands=request.getfixturevalue("commands")) as reader:
        type_all(blocks, reader, service, folder, database_url=request.getfixturevalue("database_url"))


def an_approved_decision(service: Service) -> str:
    """The id of a decision to buy 60 NVDA for paper-1, which pages about what comes after one begin with."""
    snapshot = a_request(as_of=datetime.now(UTC).isoformat(timespec="seconds"))
    answer = httpx2.post(f"{service.base_url}/decide", json=snapshot, timeout=20).json()
    assert (answer["should_execute"], answer["order"]["quantity"]) == (True, 60)
    decision_id: str = answer["decision_id"]
    return decision_id


def type_all(blocks: list[Block], reader: Reader, service: Service, folder: Path, *, database_url: str) -> None:
    printed: str | None = None
    for block in blocks:
        if block.language == "sql" and block.is_run:
            run_sql(database_url, block.text)
        elif block.is_run:
            printed = reader.types(block)
        elif block.language == "json":
            check_json(block, printed, service)
        elif block.language == "text" and block.follows:
            assert printed is not None, f"{block} follows nothing that prints"
            if not shows(block.text, printed):
                raise BlockFailedError(f"{block} shows\n{block.text}\nand this was printed\n{printed}")
        elif block.language in {"toml", "yaml"}:
            check_read(block, folder)
        elif block.language in RUN:
            printed = None


# ------------------------------------------------------------------------------------------ that this can fail


def a_block(language: str, text: str, note: str = "") -> Block:
    return Block(page=DOCS / "gates.md", line=1, language=language, text=text, note=note, follows=False)


@pytest.fixture
def reader(folder: Path) -> Reader:
    return Reader(folder, base_url="http://127.0.0.1:1", has={}, commands=folder / "nobody")


@pytest.mark.parametrize(
    ("language", "text"),
    {
        "a command fails": ("bash", "true\nfalse\ntrue\n"),
        "a command of a pipe fails": ("bash", "false | cat\n"),
        "a variable is not set": ("bash", 'echo "$NOBODY_SET_THIS"\n'),
        "Python raises": ("python", "raise ValueError('no')\n"),
        "no such target": ("bash", "make money\n"),
        "no such package": ("bash", "pip install ./nothing\n"),
        "a command prints something else": ("console", "$ echo 1\n2\n"),
        "the service is away": ("bash", "curl -fsS http://127.0.0.1:8000/healthz\n"),
    }.values(),
)
def test_a_wrong_block_is_noticed(reader: Reader, language: str, text: str) -> None:
    with reader, pytest.raises(BlockFailedError):
        reader.types(a_block(language, text))


def test_what_one_block_sets_the_next_has(reader: Reader) -> None:
    with reader:
        reader.types(a_block("bash", "GREETING=hello\ncd docs\n"))
        reader.types(a_block("python", "greeting = 'ciao'\n"))

        assert reader.types(a_block("bash", 'echo "$GREETING from ${PWD##*/}"\n')) == "hello from docs\n"
        assert reader.types(a_block("python", "print(greeting)\n")) == "ciao\n"
        assert reader.types(a_block("console", "$ read -r NAME; echo hi $NAME\nhi …\n", "typed: ana")) == "hi ana\n"


def test_shown_documents_are_held_against_the_real_ones() -> None:
    real = {"a": 1, "b": [{"c": True}, {"c": False}], "d": "2026-11-20T15:30:00Z"}

    assert differences({"a": 1, "b": [{"c": True}, "…"], "d": "2026-…Z"}, real) == []
    assert differences({"b": "…"}, real) == []
    assert differences({"a": 2}, real) == ["$.a is 1, not 2"]
    assert differences({"a": True}, real) == ["$.a is 1, not true"]
    assert differences({"e": 1}, real) == ["$.e does not exist"]
    assert differences({"b": [{"c": True}]}, real) == ["$.b has 2 items, not 1"]
    assert differences({"b": [{"c": True}, {"c": True}]}, real) == ["$.b[1].c is false, not true"]
    assert differences({"d": "2025-…Z"}, real) == ['$.d is "2026-11-20T15:30:00Z", not "2025-…Z"']


def test_a_schema_is_the_apis_own() -> None:
    assert schema_faults(a_request(), "DecideRequest") == []
    assert schema_faults(a_request(symbol={"price": "much"}), "DecideRequest") != []
    assert schema_faults({"state": "on", "mood": "good"}, "CalibrationOut") != []


def test_console_blocks_are_read_as_commands_and_what_they_print() -> None:
    one, two = steps_of("$ echo 1\n1\n$ true\n")

    assert (one.command, one.output, two.command, two.output) == ("echo 1", "1\n", "true", "")
