"""Read the pages of the documentation: their blocks of code in order, and what each says of itself."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

SHELL = frozenset({"bash", "sh", "console"})
RUN = SHELL | {"python", "sql"}
READ = frozenset({"json", "toml", "yaml"})
"""Not run, but read by what reads them."""
SHOWN = frozenset({"text", "http", "csv", "promql", "ini", "mermaid", "nginx"})
LANGUAGES = RUN | READ | SHOWN

REASONS = ("docker", "kubectl", "a cluster", "a real key", "a real machine")
"""What a block may need that the tests do not have."""

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\s`]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE
)
NOTE = re.compile(r"<!--\s*(?P<text>(?:(?!-->).)*?)\s*-->\s*\Z", re.DOTALL)
NOT_RUN = re.compile(rf"not run: needs (?:{'|'.join(REASONS)})\b")
ANYTHING = "…"
"""Stands in shown output for what differs from run to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Hold one fenced block; `note` is the HTML comment above it, `follows` whether only blank lines part it from the
    block before."""

    page: Path
    line: int
    language: str
    text: str
    note: str
    follows: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not self.note.startswith("not run")

    def noted(self, name: str) -> str | None:
        """What the note says under this name."""
        found, _, value = self.note.partition(": ")
        return value if found == name else None


def pages() -> list[Path]:
    """The pages whose blocks are run, by name."""
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    blocks: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()]
        note = NOTE.search(between)
        indent = len(match["indent"])
        blocks.append(
            Block(
                page=page,
                line=text.count("\n", 0, match.start()) + 1,
                language=match["language"],
                text="".join(line[indent:] or "\n" for line in match["text"].splitlines(keepends=True)),
                note=note["text"] if note else "",
                follows=bool(blocks) and not between.strip(),
            )
        )
        end = match.end()
    return blocks


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Hold one command of a console block, and what it is shown to print."""

    command: str
    output: str


def steps_of(console: str) -> list[Step]:
    """The commands of a console block, each after its `$`."""
    lead, *parts = re.split(r"^\$ ", console, flags=re.MULTILINE)
    assert not lead.strip(), f"a console block begins with a command, not with {lead!r}"
    return [Step(command=command, output=output) for command, _, output in (part.partition("\n") for part in parts)]


def shows(shown: str, printed: str) -> bool:
    """Tell whether this was printed, `…` standing for anything."""
    pattern = re.escape(_trimmed(shown)).replace(ANYTHING, "(?s:.*?)")
    return re.fullmatch(pattern, _trimmed(printed)) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def differences(shown: Any, real: Any, at: str = "$") -> list[str]:
    """Where a shown document says other than the real one; what it leaves out it does not say."""
    if shown == ANYTHING:
        return []
    if isinstance(shown, dict) and isinstance(real, dict):
        missing = [f"{at}.{name} does not exist" for name in shown.keys() - real.keys()]
        return missing + [
            line for name in shown.keys() & real.keys() for line in differences(shown[name], real[name], f"{at}.{name}")
        ]
    if isinstance(shown, list) and isinstance(real, list):
        return _differing_items(shown, real, at)
    if isinstance(shown, str) and isinstance(real, str) and shows(shown, real):
        return []
    same = _rounded(real, as_in=shown) == shown and isinstance(shown, bool) is isinstance(real, bool)
    return (
        [] if same else [f"{at} is {json.dumps(real, ensure_ascii=False)}, not {json.dumps(shown, ensure_ascii=False)}"]
    )


def _rounded(real: Any, *, as_in: Any) -> Any:
    if isinstance(real, float) and isinstance(as_in, float):
        return round(real, len(repr(as_in).partition(".")[2]))
    return real


def _differing_items(shown: Sequence[Any], real: Sequence[Any], at: str) -> list[str]:
    items = shown[:-1] if shown and shown[-1] == ANYTHING else shown
    if len(items) > len(real) or (len(items) < len(real) and len(items) == len(shown)):
        return [f"{at} has {len(real)} items, not {len(items)}"]
    return [
        line
        for number, (one, other) in enumerate(zip(items, real, strict=False))
        for line in differences(one, other, f"{at}[{number}]")
    ]
