"""The pages hold together: all are found from the index, links lead somewhere, and lists are complete."""

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx2
import pytest

from app.domain.gates import GATES, Code
from app.domain.proposal import ModelFailure
from app.settings import SETTINGS
from tests.builders import a_request
from tests.docs.pages import DOCS, ROOT, blocks_of, pages, prose_of
from tests.faults.processes import Service

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
INLINE_CODE = re.compile(r"`[^`\n]*`")


def anchors_of(page: Path) -> set[str]:
    """What `#` may name in a page, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links_of(page: Path) -> list[str]:
    return [link for link in LINK.findall(INLINE_CODE.sub("", prose_of(page))) if "://" not in link]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    dead = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)

    assert dead == []


def test_the_index_names_every_page_and_the_readme_names_the_index() -> None:
    indexed = {link.partition("#")[0] for link in links_of(DOCS / "README.md")}

    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= indexed
    assert "docs/README.md" in links_of(ROOT / "README.md")


def test_the_architecture_names_every_decision_about_the_design() -> None:
    linked = {link for link in links_of(DOCS / "architecture.md") if link.startswith("adr/")}

    assert {f"adr/{file.name}" for file in (DOCS / "adr").glob("*.md")} <= linked


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    checked = [set(re.findall(r"\w+", layer)) for layer in layers]
    (drawn,) = (block.text for block in blocks_of(DOCS / "architecture.md") if block.language == "text")
    shown = [set(line.partition("#")[0].split()) for line in drawn.splitlines()]

    assert shown == checked


def test_the_picture_is_a_sound_document_of_its_own() -> None:
    picture = (DOCS / "architecture.svg").read_text()
    root = ET.fromstring(picture)  # written by us

    assert root.tag.endswith("svg")
    assert "prefers-color-scheme: dark" in picture
    assert "<title" in picture
    assert not re.search(r"(?:href|src|url\()\s*=?\s*[\"']?(?:https?:)?//", picture), "it loads nothing"


def test_every_setting_gate_and_code_is_explained() -> None:
    settings, gates = (DOCS / "settings.md").read_text(), (DOCS / "gates.md").read_text()

    assert [name for name in SETTINGS if f"| `{name}` |" not in settings] == []
    assert [gate.name for gate in GATES if not re.search(rf"^\| {gate.name} \| [A-Z]", gates, re.MULTILINE)] == []
    assert [code for code in (*Code, *ModelFailure) if not re.search(rf"\b{code}\b", gates)] == []


@pytest.mark.usefixtures("empty_store")
def test_every_cap_of_a_verdict_is_explained(local: Service) -> None:
    explained = (DOCS / "gates.md").read_text()
    answer = httpx2.post(f"{local.base_url}/decide", json=a_request(as_of=datetime.now(UTC).isoformat()), timeout=20)
    caps = {cap["cap"].partition(":")[0] for cap in answer.json()["sizing"]["caps"]}

    assert len(caps) >= 10
    assert [cap for cap in caps if f"SIZE_{cap.upper()}" not in explained] == []
