"""Tests of the one spelling of symbols."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.symbols import normalize_symbol


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("NVDA", "NVDA"),
        (" nvda\n", "NVDA"),
        ("A", "A"),
        ("ABCDEF", "ABCDEF"),
        ("A1B2", "A1B2"),
        ("brk-b", "BRK.B"),
        ("BRK/B", "BRK.B"),
        ("BRK.B", "BRK.B"),
        ("rds.aa", "RDS.AA"),
    ],
)
def test_a_symbol_is_trimmed_upper_cased_and_dotted(written: str, expected: str) -> None:
    assert normalize_symbol(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        "",
        "  ",
        "ABCDEFG",
        "1ABC",
        ".B",
        "BRK.",
        "BRK.BBB",
        "BRK.1",
        "BRK.B.C",
        "A B",
        "A_B",
        "$A",
        "NVDA\x00",
        "NV\nDA",
        "ＮＶＤＡ",  # full-width letters
        "ıbm",  # the upper case of a dotless i is I
        "ﬁ",  # the upper case of a ligature is FI
        "ſ",  # the upper case of a long s is S
    ],
)
def test_any_other_form_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a symbol"):
        normalize_symbol(written)


def test_a_refusal_does_not_echo_a_huge_text() -> None:
    with pytest.raises(ValueError, match="is not a symbol") as refusal:
        normalize_symbol("x" * 1_000_000)

    assert len(str(refusal.value)) < 60


@given(st.from_regex(r" ?[A-Za-z][A-Za-z0-9]{0,5}([./-][A-Za-z]{1,2})? ?", fullmatch=True))
def test_normalizing_twice_changes_nothing(written: str) -> None:
    once = normalize_symbol(written)

    assert normalize_symbol(once) == once
