"""Name the exposure buckets of a symbol: its sector and themes, what the caller adds, or `unclassified`."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

UNCLASSIFIED: Final = "unclassified"
"""The one bucket that all symbols without a bucket share, so that unknown names count against each other."""

GICS_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "information_technology": "technology",
        "communication_services": "communication",
    }
)
"""GICS sector names whose bucket is named otherwise (rulebook, section 6)."""

_SEPARATORS: Final = re.compile(r"[\s&/_-]+")
_BUCKET: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


def normalize_bucket(name: str) -> str:
    """Turn a sector or theme name into a bucket: lower snake case, GICS aliases resolved.

    "Information Technology" gives "technology", " Oil & Gas " gives "oil_gas"; a bucket gives itself.
    Raises ValueError when what results is not a letter followed by at most 39 letters, digits or underscores
    (ASCII only, so that no look-alike can open a second bucket of the same name).
    """
    snake = _SEPARATORS.sub("_", name.strip().lower()).strip("_")
    if not name.isascii() or _BUCKET.fullmatch(snake) is None:
        raise ValueError(
            f"{name!r} is not a bucket name: it must start with a letter and hold at most 40 ASCII letters, "
            "digits, spaces or underscores"
        )
    return GICS_ALIASES.get(snake, snake)


@dataclass(frozen=True, slots=True)
class BucketMap:
    """Hold the buckets of every known symbol; symbols and bucket names are normalized."""

    entries: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "entries", MappingProxyType(dict(self.entries)))

    def of(self, symbol: str, requested: Collection[str] = ()) -> tuple[str, ...]:
        """Give a symbol's own buckets, then the requested ones not among them, or `unclassified` alone.

        A request can add a bucket, never take one away. Raises ValueError on a bad bucket name.
        """
        own = self.entries.get(symbol, ())
        buckets = dict.fromkeys((*own, *map(normalize_bucket, requested)) if requested else own)
        return tuple(buckets) or (UNCLASSIFIED,)
