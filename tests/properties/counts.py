"""Say what a property test tried: how many cases ended how."""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

CountReport: TypeAlias = Callable[[str, Counter[str]], None]


def counts_line(title: str, counts: Counter[str]) -> str:
    """One line: the total, then each outcome with its share."""
    total = counts.total()
    shares = ", ".join(f"{count} {name} ({count / total:.0%})" for name, count in counts.most_common())
    return f"{title}: {total} cases: {shares}"
