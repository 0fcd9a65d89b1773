"""Shift every default of the policy, every value of its tables and every other constant of the rules by one step."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.domain.shifted_constants import TABLES, all_shifts

ROOT = Path(__file__).parents[2]
EVERY = 1 if os.environ.get("PROVE") == "1" else 18
"""Of which constants one is shifted: of all, or of every 18th."""


def test_some_test_fails_whichever_constant_is_shifted(record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "tests.domain.shifted_constants", "--every", str(EVERY)]
    asked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=900)
    unshifted, *shifted = sorted(
        (json.loads(line) for line in asked.stdout.splitlines()), key=lambda said: said["shift"] is not None
    )
    unnoticed = [said["shift"] for said in shifted if said["noticed_by"] is None]
    noticed = Counter("written tables" if said["noticed_by"] in TABLES else "decisions" for said in shifted)

    line = f"constants shifted: {len(shifted)}: " + ", ".join(
        f"{count} noticed by tests of {name}" for name, count in noticed.most_common()
    )
    sys.stdout.write(line + "\n")
    record_property("counts", line)
    assert unshifted == {"shift": None, "noticed_by": None}
    assert unnoticed == []
    assert len(shifted) == len(all_shifts()[::EVERY])


def test_the_shifts_reach_every_default_and_every_table() -> None:
    shifted = Counter(f"{shift.module}.{shift.name.partition('[')[0]}" for shift in all_shifts())
    defaults = [name for name in shifted if name.startswith("policy.Policy.")]

    # 37 settings: the 36 of the rulebook's section 4, and the highest level that a request may name.
    assert len(defaults) == 37
    # 4 levels: two thresholds, four multipliers, a switch and a minimum; 6 regimes: long and short.
    assert shifted["policy.AGGRESSIVENESS_LEVELS"] == 4 * 8
    assert shifted["policy.REGIME_MULTIPLIERS"] == 6 * 2
    assert shifted["costs.SPREAD_HALVES"] == 4
    assert shifted["market.SymbolView.liquidity_score"] == 6
    assert shifted["indicators.WILDER_PERIOD"] == shifted["indicators.ADV_BARS"] == 1
