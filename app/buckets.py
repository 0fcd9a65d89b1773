"""Load the bucket map: the shipped file, overridden symbol by symbol by the operator's BUCKETS_FILE.

Both are UTF-8 text with the header `symbol,buckets`, then one symbol a line and its buckets separated by `|`
(`NVDA,technology|semiconductors|ai`). Blank lines and lines starting with `#` are for people. Anything else
that cannot be used is an error that names the file and the line: no line is ever skipped.
"""

from pathlib import Path
from typing import Final

from app.domain.buckets import BucketMap, normalize_bucket
from app.domain.symbols import normalize_symbol

SHIPPED_FILE: Final = Path(__file__).parent / "data" / "buckets.csv"
HEADER: Final = "symbol,buckets"


class BucketFileError(Exception):
    """Say which bucket file cannot be used, in which line, and why."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        self.path = path
        self.problem = problem
        self.line = line
        place = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{place}: {problem}")


def load_buckets(override: Path | None = None) -> BucketMap:
    """Load the shipped map; a symbol in `override` takes its buckets from there alone, all others stay.

    Raises BucketFileError when a file is missing, unreadable or wrong in any line.
    """
    entries = _read(SHIPPED_FILE)
    if override is not None:
        entries |= _read(override)
    return BucketMap(entries)


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    lines = _text(path).split("\n")
    entries: dict[str, tuple[str, ...]] = {}
    first_line: dict[str, int] = {}
    header_seen = False
    for number, raw in enumerate(lines, start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if not header_seen:
            if line != HEADER:
                raise BucketFileError(path, f"the header must be {HEADER!r}, not {line!r}", line=number)
            header_seen = True
            continue
        try:
            symbol, buckets = _parse(line)
        except ValueError as error:
            raise BucketFileError(path, str(error), line=number) from error
        if symbol in entries:
            problem = f"{symbol} already stands in line {first_line[symbol]}"
            raise BucketFileError(path, problem, line=number)
        entries[symbol] = buckets
        first_line[symbol] = number
    if not entries:
        raise BucketFileError(path, "names no symbol")
    return entries


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BucketFileError(path, f"cannot be read: {error.strerror}") from error
    try:
        # Spreadsheets write a byte order mark; utf-8-sig takes it off.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BucketFileError(path, "is not UTF-8 text", line=line) from error


def _parse(line: str) -> tuple[str, tuple[str, ...]]:
    """Split a line into symbol and buckets; raises ValueError."""
    written, comma, listed = line.partition(",")
    if not comma:
        raise ValueError(f"expected {HEADER}, found {line!r}")
    symbol = normalize_symbol(written)
    if not listed.strip():
        raise ValueError(f"{symbol} has no bucket")
    buckets = tuple(normalize_bucket(name) for name in listed.split("|"))
    if len(set(buckets)) < len(buckets):
        raise ValueError(f"{symbol} names a bucket twice: {listed.strip()}")
    return symbol, buckets
