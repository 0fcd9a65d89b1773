"""Tests of what each gate is said to have saved or cost."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from app.domain.gate_effects import GATE_OF, BlockedForecasts, Effect, effects_by_gate, gate_of
from app.domain.gates import GATES, Code
from app.domain.sizing import Cap

DOCUMENTED = Path(__file__).parents[2] / "docs/gates.md"


def blocked(r: str = "0", *, resolved: int = 1, won: int = 0) -> BlockedForecasts:
    return BlockedForecasts(blocked=2, resolved=resolved, won=won, r=Decimal(r))


def documented() -> dict[str, str]:
    """The gate of each code, by the table that traders read; MISSING_ codes by the first gate named with them."""
    text, gate = DOCUMENTED.read_text(), ""
    found: dict[str, str] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[1].isupper():
            gate = cells[0] or gate
            found |= dict.fromkeys(re.findall(r"[A-Z_]{3,}", cells[1]), gate)
    return found | dict(re.findall(r"(MISSING_[A-Z_]+) \(([a-z_]+)", text))


def test_every_code_belongs_to_the_gate_that_the_docs_name() -> None:
    assert {code: gate for code, gate in documented().items() if not code.startswith("SIZE_")} == GATE_OF
    assert set(GATE_OF) == set(Code)
    assert {gate.name for gate in GATES} == set(GATE_OF.values())


def test_every_cap_belongs_to_the_size_gate() -> None:
    assert gate_of(Cap(cap="bucket:technology", max_quantity=0).code) == "size"
    assert {gate_of(code) for code in documented() if code.startswith("SIZE_")} == {"size"}


def test_a_code_that_no_gate_has_any_more_belongs_to_none() -> None:
    assert gate_of("GUT_FEELING") is None
    assert sum(of.blocked for of in effects_by_gate([("GUT_FEELING", blocked())]).values()) == 0


def test_the_codes_of_a_gate_add_up_and_gates_keep_their_order() -> None:
    found = effects_by_gate(
        [("SIZE_BUCKET", blocked("1.5", won=1)), ("MISSING_MARK", blocked("-2.25")), ("ILLIQUID", blocked("-1"))]
    )

    assert list(found) == [gate.name for gate in GATES]
    assert found["size"] == BlockedForecasts(blocked=4, resolved=2, won=1, r=Decimal("-0.75"))
    assert found["min_adv"] == blocked("-1")
    assert found["target"] == BlockedForecasts()


@pytest.mark.parametrize(
    ("r", "resolved", "effect"),
    [("0.000001", 1, Effect.COST), ("-0.000001", 1, Effect.SAVED), ("0", 2, Effect.NEITHER), ("0", 0, None)],
)
def test_a_gate_costs_what_the_blocked_would_have_gained(r: str, resolved: int, effect: Effect | None) -> None:
    assert blocked(r, resolved=resolved).effect is effect
