"""Tests of the one sanitizer of outside text."""

import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.text import clean_text, first_words

INVISIBLE_RANGES = [
    ("control", 0x00, 0x08),
    ("delete", 0x7F, 0x7F),
    ("C1 control", 0x80, 0x84),
    ("soft hyphen", 0xAD, 0xAD),
    ("combining grapheme joiner", 0x034F, 0x034F),
    ("Arabic letter mark", 0x061C, 0x061C),
    ("Hangul fillers", 0x115F, 0x1160),
    ("Khmer inherent vowels", 0x17B4, 0x17B5),
    ("Mongolian selectors", 0x180B, 0x180F),
    ("zero width and direction marks", 0x200B, 0x200F),
    ("bidirectional embedding", 0x202A, 0x202E),
    ("invisible operators and isolates", 0x2060, 0x206F),
    ("blank Braille pattern", 0x2800, 0x2800),
    ("Hangul filler", 0x3164, 0x3164),
    ("surrogates", 0xD800, 0xDFFF),
    ("private use", 0xE000, 0xF8FF),
    ("variation selectors", 0xFE00, 0xFE0F),
    ("byte order mark", 0xFEFF, 0xFEFF),
    ("half-width Hangul filler", 0xFFA0, 0xFFA0),
    ("interlinear annotation", 0xFFF9, 0xFFFB),
    ("object replacement", 0xFFFC, 0xFFFC),
    ("non-characters", 0xFFFE, 0xFFFF),
    ("shorthand controls", 0x1BCA0, 0x1BCA3),
    ("musical controls", 0x1D173, 0x1D17A),
    ("tags and the rest of their plane's ignorables", 0xE0000, 0xE0FFF),
    ("private use planes", 0xF0000, 0x10FFFF),
]


@pytest.mark.parametrize(("first", "last"), [pytest.param(*span, id=name) for name, *span in INVISIBLE_RANGES])
def test_no_invisible_code_point_survives(first: int, last: int) -> None:
    survivors = [hex(code) for code in range(first, last + 1) if clean_text(f"buy{chr(code)}now", limit=20) != "buynow"]

    assert survivors == []


@pytest.mark.parametrize(
    "code",
    [0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x20, 0x85, 0xA0, 0x1680, 0x2003, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000],
)
def test_white_space_of_any_kind_becomes_one_space(code: int) -> None:
    assert clean_text(f"{chr(code)}buy{chr(code)}{chr(code)}now{chr(code)}", limit=20) == "buy now"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("𝐢𝐠𝐧𝐨𝐫𝐞", "ignore"),
        ("ｉｇｎｏｒｅ", "ignore"),
        ("ﬁrst", "first"),
        ("cafe\u0301", "café"),
        ("e\u200d\u0301", "é"),
        ("раураl", "раураl"),  # Cyrillic look-alikes are other letters, and stay what they are
        ("東京 ↑3%", "東京 ↑3%"),
    ],
)
def test_compatibility_forms_fold_and_other_letters_stay(written: str, expected: str) -> None:
    assert clean_text(written, limit=20) == expected


def test_text_is_clipped_without_a_space_at_the_end() -> None:
    assert clean_text("one two three", limit=8) == "one two"


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_printable_ascii_changes_only_in_white_space(text: str) -> None:
    assert clean_text(text, limit=len(text)) == " ".join(text.split())


# Half of the characters from where the trouble is.
troublesome = st.one_of(
    st.characters(exclude_categories=()),
    st.sampled_from(
        [chr(code) for _, first, last in INVISIBLE_RANGES for code in (first, last)] + list(" \t\u0301\u0323éＡ﷽")
    ),
)


@given(st.text(troublesome), st.integers(0, 50))
def test_clean_text_is_visible_short_normal_and_cleaning_it_again_changes_nothing(text: str, limit: int) -> None:
    cleaned = clean_text(text, limit=limit)

    assert len(cleaned) <= limit
    assert cleaned == "" or cleaned.isprintable()
    assert unicodedata.is_normalized("NFKC", cleaned)
    assert clean_text(cleaned, limit=limit) == cleaned


def test_normalizing_no_visible_code_point_brings_an_invisible_one_back() -> None:
    returned = [hex(code) for code in range(sys.maxunicode + 1) if not clean_text(chr(code), limit=99).isprintable()]

    assert returned == []


def test_a_megabyte_of_combining_marks_is_cleaned_at_once() -> None:
    started = time.monotonic()

    clean_text("a" + "\u0301\u0323" * 500_000, limit=400)

    # The normalizer alone would need minutes: it sorts runs of marks in quadratic time.
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("count", "expected"), [(0, ""), (1, "one"), (2, "one two"), (9, "one two three")])
def test_first_words_keeps_so_many_words(count: int, expected: str) -> None:
    assert first_words("one two three", count=count) == expected


def test_long_runs_of_combining_marks_are_cut_before_they_cost_time() -> None:
    # 10,000 marks in a row would take the normalizer seconds, and the service with it.
    cleaned = clean_text("a" + "\u0300\u0323" * 5_000, limit=10_000)

    assert 1 < len(cleaned) <= 1 + 30
