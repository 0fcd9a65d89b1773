"""Stand in for a reader: who types the blocks of a page, in order, into one shell and one Python."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.docs.commands import CALLER
from tests.docs.pages import ROOT, Block, shows, steps_of

URL = "http://127.0.0.1:8000"
"""Where the pages say that the service is."""
PATIENCE_S = 60.0

MAKE = """\
#!/bin/sh
# The targets have tests of their own; here they must only exist.
for word in "$@"; do
    case $word in
        -*|*=*) ;;
        *) grep -q "^$word:" Makefile || { echo "make: no target $word" >&2; exit 2; } ;;
    esac
done
"""
PIP = """\
#!/bin/sh
# Everything is installed already; what a page installs must only be something that can be.
[ "$1" = install ] || exit 2
shift
for word in "$@"; do
    case $word in
        -*) ;;
        *) [ -f "$word/pyproject.toml" ] || { echo "pip: nothing to install at $word" >&2; exit 1; } ;;
    esac
done
"""
PYTHON = """\
import contextlib, sys
here = {"__name__": "__main__"}
for line in sys.stdin:
    script, printed, name = line.rstrip("\\n").split("\\t")
    with open(script) as source, open(printed, "w") as out, contextlib.redirect_stdout(out):
        exec(compile(source.read(), name, "exec"), here)
    print("done", flush=True)
"""


class BlockFailedError(AssertionError):
    """Say which block did not do what the page says."""


class Interpreter:
    """Run scripts one after the other in one process, so that what one sets the next has."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def run(self, line: str) -> None:
        """Send a line and wait for the answer.

        Raises:
            BlockFailedError: the process ended instead, or took too long.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        impatience = threading.Timer(PATIENCE_S, self._process.kill)
        impatience.start()
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline()
        impatience.cancel()
        if said != "done\n":
            self._process.wait()
            raise BlockFailedError(self._log.read_text() or f"it ended with {self._process.returncode}")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Reader:
    """Sit in a folder that looks like a checkout, in front of a service, and type."""

    def __init__(self, folder: Path, *, base_url: str, has: Mapping[str, str], commands: Path) -> None:
        self._base_url = base_url
        self._notes = folder / "typed"
        self._notes.mkdir()
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        for entry in ROOT.iterdir():
            if entry.name not in {".venv", ".data", ".env", ".git"}:
                (self.checkout / entry.name).symlink_to(entry)
        tools = folder / "tools"
        tools.mkdir()
        command = CALLER.format(python=sys.executable, socket=str(commands))
        python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
        scripts = {"make": MAKE, "pip": PIP, "tradeverdict": command, "python": python, "python3": python}
        for name, script in scripts.items():
            (tools / name).write_text(script)
            (tools / name).chmod(0o755)
        (self.checkout / ".venv").mkdir()
        (self.checkout / ".venv" / "bin").symlink_to(tools)
        self._environment = {
            "PATH": os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.environ["PATH"])),
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "160",
            "NO_PROXY": "*",
            "TRADEVERDICT_URL": base_url,
            **has,
        }
        self._interpreters: dict[str, Interpreter] = {}
        self._typed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for interpreter in self._interpreters.values():
            interpreter.close()

    def types(self, block: Block) -> str:
        """Type a block that is run, and give what it printed.

        Raises:
            BlockFailedError: it fails, or does not print what the page shows.
        """
        if block.language == "python":
            return self._python(block)
        if block.language == "console":
            return "".join(self._step(block, step.command, step.output) for step in steps_of(block.text))
        return self._bash(block, block.text)

    def _step(self, block: Block, command: str, output: str) -> str:
        typed = block.noted("typed")
        if typed is not None:
            output = output.replace(f": {typed}\n", ": ")  # what is not typed at a terminal is not echoed
        printed = self._bash(block, command, typed=typed)
        if not shows(output, printed):
            raise BlockFailedError(f"{block}: `{command}` is shown to print\n{output}\nand printed\n{printed}")
        return printed

    def _bash(self, block: Block, script: str, *, typed: str | None = None) -> str:
        shell = self._interpreter("bash", ["bash", "--noprofile", "--norc"])
        source, printed = self._files(script)
        if typed is None:
            given = "/dev/null"
        else:
            given = f"{source}.typed"
            Path(given).write_text(f"{typed}\n")
        return self._run(
            block, shell, f"set -euo pipefail; . {source} < {given} > {printed}; set +euo pipefail; echo done", printed
        )

    def _python(self, block: Block) -> str:
        python = self._interpreter("python", [sys.executable, "-W", "error", "-c", PYTHON])
        source, printed = self._files(block.text)
        return self._run(block, python, f"{source}\t{printed}\t{block}", printed)

    def _run(self, block: Block, interpreter: Interpreter, line: str, printed: Path) -> str:
        try:
            interpreter.run(line)
        except BlockFailedError as error:
            said = printed.read_text() if printed.exists() else ""
            raise BlockFailedError(f"{block} failed:\n{block.text}\nIt printed\n{said}\nand\n{error}") from error
        return printed.read_text().replace(self._base_url, URL)

    def _files(self, script: str) -> tuple[Path, Path]:
        self._typed += 1
        source = self._notes / f"{self._typed}.txt"
        source.write_text(script.replace(URL, self._base_url))
        return source, source.with_suffix(".out")

    def _interpreter(self, name: str, command: list[str]) -> Interpreter:
        if name not in self._interpreters:
            log = self._notes / f"{name}.log"
            self._interpreters[name] = Interpreter(command, self.checkout, self._environment, log)
        return self._interpreters[name]
