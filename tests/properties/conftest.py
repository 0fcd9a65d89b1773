"""What the property tests share."""

import sys
from collections import Counter
from collections.abc import Callable

import pytest

from tests.properties.counts import CountReport, counts_line


@pytest.fixture
def report_counts(record_property: Callable[[str, object], None]) -> CountReport:
    """Tell how many cases a property met, by outcome: printed (see `pytest -rA`) and kept on the test's report."""

    def report(title: str, counts: Counter[str]) -> None:
        line = counts_line(title, counts)
        sys.stdout.write(line + "\n")
        record_property("counts", line)

    return report
