"""Tests of the shipped bucket file and of BUCKETS_FILE."""

from pathlib import Path

import pytest

from app.buckets import SHIPPED_FILE, BucketFileError, load_buckets
from app.sample import shipped_bars

GICS_SECTORS = {
    "communication",
    "consumer_discretionary",
    "consumer_staples",
    "energy",
    "financials",
    "health_care",
    "industrials",
    "materials",
    "real_estate",
    "technology",
    "utilities",
}


def write(directory: Path, text: str | bytes) -> Path:
    """Write an operator's bucket file."""
    path = directory / "buckets.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("symbol", "buckets"),
    [
        ("AAPL", ("technology",)),
        ("NVDA", ("technology", "semiconductors", "ai")),
        ("GOOGL", ("communication", "internet", "ai")),
        ("JPM", ("financials", "banks")),
        ("BRK.B", ("financials",)),
        ("COIN", ("financials", "capital_markets", "crypto")),
        ("MARA", ("crypto",)),
        ("IBIT", ("crypto",)),
        ("UTX", ("industrials", "defense")),
        ("AABA", ("communication", "internet", "china")),
        ("XLE", ("energy", "oil_and_gas")),
        ("SPY", ("broad_index",)),
        ("SOXS", ("technology", "semiconductors", "inverse", "leveraged")),
        ("GLD", ("precious_metals",)),
        ("GDX", ("precious_metals", "gold_miners")),
        ("TLT", ("bonds",)),
        ("VXX", ("volatility",)),
        ("USO", ("commodities", "oil_and_gas")),
        ("ZZZZ", ("unclassified",)),
    ],
)
def test_the_shipped_file_knows_sectors_and_themes(symbol: str, buckets: tuple[str, ...]) -> None:
    assert load_buckets().of(symbol) == buckets


def test_the_shipped_file_gives_every_constituent_a_gics_sector_first() -> None:
    sections = SHIPPED_FILE.read_text().split("\n\n")
    constituents = next(section for section in sections if section.startswith("# S&P 500"))
    symbols = [line.split(",")[0] for line in constituents.splitlines()[1:]]
    buckets = load_buckets()

    assert len(symbols) == 503
    assert {buckets.of(symbol)[0] for symbol in symbols} == GICS_SECTORS


def test_the_shipped_file_is_written_in_normal_form() -> None:
    rows = [line for line in SHIPPED_FILE.read_text().splitlines() if line and not line.startswith("#")]
    entries = load_buckets().entries

    assert rows[1:] == [f"{symbol},{'|'.join(buckets)}" for symbol, buckets in entries.items()]


def test_every_symbol_of_the_shipped_bars_has_a_bucket() -> None:
    buckets = load_buckets()

    assert [symbol for symbol in shipped_bars() if symbol not in buckets.entries] == []


def test_an_operators_file_replaces_the_symbols_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path, "symbol,buckets\nNVDA,my theme\nMYCO,Information Technology|ai\n")

    buckets = load_buckets(path)

    assert buckets.of("NVDA") == ("my_theme",)
    assert buckets.of("MYCO") == ("technology", "ai")
    assert buckets.of("AMD") == load_buckets().of("AMD")


@pytest.mark.parametrize("written", ["BRK.B", "brk-b", " BRK/B "])
def test_symbols_are_written_in_any_usual_form(tmp_path: Path, written: str) -> None:
    path = write(tmp_path, f"symbol,buckets\n{written},insurance\n")

    assert load_buckets(path).of("BRK.B") == ("insurance",)


def test_comments_blank_lines_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf# mine\r\n\r\nsymbol,buckets\r\n  # shares\r\nNVDA, chips | ai \r\n")

    assert load_buckets(path).of("NVDA") == ("chips", "ai")


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("NVDA,ai\n", 1, "the header must be 'symbol,buckets', not 'NVDA,ai'"),
        ("symbol,buckets\n\nNVDA\n", 3, "expected symbol,buckets, found 'NVDA'"),
        ("symbol,buckets\nNV DA,ai\n", 2, "'NV DA' is not a symbol"),
        ("symbol,buckets\n,ai\n", 2, "'' is not a symbol"),
        ("symbol,buckets\nTOOLONG,ai\n", 2, "'TOOLONG' is not a symbol"),
        ("symbol,buckets\nNVDA,\n", 2, "NVDA has no bucket"),
        ("symbol,buckets\nNVDA,ai|\n", 2, "'' is not a bucket name"),
        ("symbol,buckets\nNVDA,ai,chips\n", 2, "'ai,chips' is not a bucket name"),
        ("symbol,buckets\nNVDA,5g\n", 2, "'5g' is not a bucket name"),
        ("symbol,buckets\nNVDA,ai|AI\n", 2, "NVDA names a bucket twice: ai|AI"),
        ("symbol,buckets\nBRK.B,ai\n# again\nBRK-B,ai\n", 4, "BRK.B already stands in line 2"),
        ("symbol,buckets\n", None, "names no symbol"),
        ("# nothing\n", None, "names no symbol"),
        ("", None, "names no symbol"),
        (b"symbol,buckets\nNVDA,ai\nAMD,\xff\n", 3, "is not UTF-8 text"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, text: str | bytes, line: int | None, problem: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(BucketFileError) as caught:
        load_buckets(path)

    place = f"{path}" if line is None else f"{path}, line {line}"
    assert str(caught.value).startswith(f"{place}: {problem}")
    assert (caught.value.path, caught.value.line) == (path, line)
    assert caught.value.problem.startswith(problem)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent.csv"

    with pytest.raises(BucketFileError) as caught:
        load_buckets(path)

    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_a_directory_is_not_a_file_of_buckets(tmp_path: Path) -> None:
    with pytest.raises(BucketFileError, match="cannot be read: Is a directory"):
        load_buckets(tmp_path)
