"""Print for people with rich, and for programs as plain JSON."""

import sys
from typing import Final

from rich.console import Console

PIPE_WIDTH: Final = 140

console: Final = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)


def write_json(document: bytes) -> None:
    """Write one JSON document as a line of its own."""
    sys.stdout.write(document.decode() + "\n")
