"""Shift one constant of the domain at a time by one step, and see which tests notice.

    python -m tests.domain.shifted_constants [--every N]

Prints one JSON object per shift: what was shifted, and the first file of tests that failed. The tests of what a
decision does come first; only where none of them notices, the tables of `test_policy.py` are asked, which were
written by hand from the rulebook. (Bounds of settings are asked there at once: no decision knows them.) The hash of
the policy, which any change moves, is not asked at all.

Each shift runs in a process of its own, forked from one that has imported everything but the domain and the tests:
there the changed source takes the place of the module before anything imports it.
"""

import argparse
import ast
import contextlib
import importlib.util
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType

# What the tests need besides the domain: imported once, before forking.
import hypothesis
import numpy as np
import pydantic
import pytest

PRELOADED = (hypothesis, np, pydantic)
ROOT = Path(__file__).parents[2]
TESTS = "tests/domain/"
TABLES = ("test_policy.py", "test_constants.py")
"""What notices what no single decision can show, such as the life of a ticket: the rulebook's tables, by hand."""
WHERE: dict[str, tuple[str, ...]] = {
    "policy": (
        "test_gate_report.py",
        "test_levels.py",
        "test_arithmetic.py",
        "test_sizing.py",
        "test_verdict.py",
        "test_edge.py",
        "test_gates.py",
    ),
    "account": ("test_account.py", "test_sizing.py"),
    "calibration_verdict": ("test_calibration_verdict.py",),
    "costs": ("test_costs.py", "test_arithmetic.py"),
    "edge": ("test_edge.py",),
    "evidence": ("test_evidence.py",),
    "indicators": ("test_indicators.py", "test_market.py"),
    "lifecycle": ("test_lifecycle.py",),
    "market": ("test_market.py", "test_gate_report.py"),
    "proposal": ("test_verdict.py", "test_gates.py"),
    "verdict": ("test_verdict.py", "test_exits.py"),
}
"""The files whose tests are asked about each module's constants, in this order."""
WHOLE = ("costs", "indicators", "market")
"""Modules whose numbers inside functions count too: Wilder's smoothing, the averages, the liquidity score."""
DESELECTED = ("test_the_hash_of_the_defaults_is_known",)
UNOBSERVABLE = {
    "policy.POLICY_VERSION": "names the scheme of the canonical JSON, and no rule reads it",
    "edge.BISECTIONS": "the loop ends by itself after some 60 rounds, when no float lies between its ends",
    "evidence.TAIL_SDS": "beyond eight standard deviations lies less of a binomial than a float can tell",
    "evidence.NORMAL_VARIANCE": "where one way to find a binomial's quantiles gives place to the other, they agree",
    "evidence.EXPANSION_ERROR": "it chooses between the same two ways",
    "evidence.MANY_DEGREES": "where one way to compute t gives place to the other, they agree to nine digits",
}
"""Constants that no decision and no table can show, and why."""


@dataclass(frozen=True)
class Shift:
    """One constant, as it is and as it shall be, and where in the source it stands."""

    module: str
    name: str
    before: str
    after: str
    line: int
    start: int
    end: int

    @property
    def is_bound(self) -> bool:
        """Whether it is the smallest or largest value that a setting may have."""
        return self.name.startswith("Policy.") and not self.name.endswith("[0]")

    def __str__(self) -> str:
        return f"{self.module}.{self.name}: {self.before} -> {self.after}"

    def applied(self, source: str) -> str:
        """The source with the constant shifted."""
        lines = source.splitlines(keepends=True)
        # Positions count bytes.
        line = lines[self.line - 1].encode()
        lines[self.line - 1] = (line[: self.start] + self.after.encode() + line[self.end :]).decode()
        return "".join(lines)


# --- finding the constants -----------------------------------------------------------------------------


def path_of(module: str) -> Path:
    return ROOT / "app" / "domain" / f"{module}.py"


def all_shifts() -> list[Shift]:
    """Every constant of the modules, in the order of the sources."""
    return [
        shift
        for module in WHERE
        for shift in shifts_of(module, path_of(module).read_text())
        if f"{module}.{shift.name.partition('[')[0]}" not in UNOBSERVABLE
    ]


def shifts_of(module: str, source: str) -> Iterator[Shift]:
    """The constants that a module's tables, dataclasses and (where they count) functions hold."""
    for name, value in held_by(ast.parse(source).body, inside_functions=module in WHOLE):
        numbers = itertools.count()
        for node, table in constants(value):
            after = stepped(node, in_table=table)
            if after is None:
                continue
            before = ast.get_source_segment(source, node)
            assert before is not None
            assert node.lineno == node.end_lineno
            assert node.end_col_offset is not None
            label = f"{name}[{next(numbers)}]"
            yield Shift(module, label, before, after, node.lineno, node.col_offset, node.end_col_offset)


def held_by(body: Sequence[ast.stmt], *, inside_functions: bool, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every value that is bound to a name, or written in a function."""
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield prefix + name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield prefix + name, value
            case ast.ClassDef(name=name, body=inner):
                yield from held_by(inner, inside_functions=inside_functions, prefix=f"{prefix}{name}.")
            case ast.FunctionDef(name=name, body=inner) if inside_functions:
                yield prefix + name, ast.Module(body=inner, type_ignores=[])
            case _:
                pass


def constants(value: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """Every constant below a node, and whether its None and True are values of a table."""
    match value:
        case ast.Call(func=ast.Name(id="_dec" | "_limit"), args=[default, *bounds]):
            # The first is the default; a bound that is None is none.
            yield default, True
            yield from ((node, False) for bound in bounds for node, _ in constants(bound))
        case ast.Constant() | ast.Attribute(value=ast.Name(id="ScaleOut")):
            assert isinstance(value, ast.expr)
            yield value, False
        case ast.Call(func=ast.Name(id="AggressivenessLevel")):
            for inner in ast.iter_child_nodes(value):
                yield from ((node, True) for node, _ in constants(inner))
        case ast.JoinedStr():
            return
        case _:
            for inner in ast.iter_child_nodes(value):
                yield from constants(inner)


def stepped(node: ast.expr, *, in_table: bool) -> str | None:
    """The source of a constant one step further; None for what has no step."""
    match node:
        case ast.Attribute(attr="OFF"):
            return "ScaleOut.THIRDS"
        case ast.Constant(value=bool() as switch):
            return str(not switch) if in_table else None
        case ast.Constant(value=None):
            # The levels' own risk-reward minimum, and the highest level a request may name.
            return "3" if in_table else None
        case ast.Constant(value=int() | float() as plain):
            step = one_step(Decimal(repr(plain)))
            return str(int(step) if isinstance(plain, int) else float(step))
        case ast.Constant(value=str() as text):
            with contextlib.suppress(InvalidOperation):
                number = Decimal(text)
                return f'"{one_step(number)}"' if number.is_finite() else None
            return None
        case _:
            return None


def one_step(number: Decimal) -> Decimal:
    """Add one to the last digit written."""
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    return number + Decimal((0, (1,), exponent))


# --- asking the tests ----------------------------------------------------------------------------------


class Shifted(SourceFileLoader):
    """Load the shifted source instead of the file's."""

    def __init__(self, shift: Shift) -> None:
        super().__init__(f"app.domain.{shift.module}", str(path_of(shift.module)))
        self._source = shift.applied(path_of(shift.module).read_text())

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Take part in imports as a finder of this one module."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None


def asked_about(shift: Shift | None) -> tuple[str, ...]:
    """The files to ask; without a shift, all of them."""
    if shift is None:
        return tuple(dict.fromkeys((*itertools.chain(*WHERE.values()), *TABLES)))
    if shift.is_bound:
        return TABLES
    return (*WHERE[shift.module], *TABLES)


def first_to_notice(shift: Shift | None) -> str | None:
    """The first file of tests that fails under a shift, run in this process; None: nobody noticed."""
    if shift is not None:
        sys.meta_path.insert(0, Shifted(shift))
    hypothesis.settings.register_profile("shifted", max_examples=1, database=None)
    hypothesis.settings.load_profile("shifted")
    for name in asked_about(shift):
        arguments = ["-x", "-q", "--tb=no", "--assert=plain", "--noconftest", "--import-mode=importlib"]
        arguments += ["-c", os.devnull, f"--rootdir={ROOT}", "-o", f"pythonpath={ROOT}", "-p", "no:cacheprovider"]
        arguments += [f"--deselect={TESTS}{name}::{test}" for test in DESELECTED]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = pytest.main([*arguments, TESTS + name])
        if found != pytest.ExitCode.OK:
            return name
    return None


def ask(shift: Shift | None) -> str | None:
    """Ask in a process of its own."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(told)
            os.write(tell, json.dumps(first_to_notice(shift)).encode())
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    # A child that could not even tell has failed for the shift's sake.
    noticed: str | None = json.loads(said) if said else "a crash"
    return noticed


def ask_each(shifts: Sequence[Shift | None]) -> None:
    """Ask about one shift after another, and print who noticed."""
    for shift in shifts:
        said = {"shift": None if shift is None else str(shift), "noticed_by": ask(shift)}
        os.write(1, (json.dumps(said) + "\n").encode())


def main() -> None:
    """Ask about the constants, without any shift first: then nobody may notice anything."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--every", type=int, default=1, help="ask about every N-th constant only")
    parser.add_argument("--jobs", type=int, default=2, help="ask so many at a time")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    asked: list[Shift | None] = [None, *all_shifts()[:: arguments.every]]
    workers = []
    for job in range(arguments.jobs):
        if worker := os.fork():
            workers.append(worker)
        else:
            ask_each(asked[job :: arguments.jobs])
            os._exit(0)
    sys.exit(max(os.waitpid(worker, 0)[1] for worker in workers))


if __name__ == "__main__":
    main()
