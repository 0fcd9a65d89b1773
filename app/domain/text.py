"""Clean text from outside (news, options flow, notes, theses) before anyone reads, stores or sends it.

What is cleaned, and why:
  * code points nobody can see are dropped: control and format characters (zero-width, bidirectional controls,
    tags, soft hyphen, byte order mark, interlinear annotation), variation selectors, Hangul fillers, private
    use, surrogates and unassigned ones; hidden text has moved a model's trades;
  * what remains is normalized to NFKC, so that people and model read the same letters in full-width,
    mathematical or ligature forms; letters of other alphabets that merely look alike stay as they are;
  * white space of any kind becomes single spaces, and none leads or trails;
  * the result is clipped.
"""

import unicodedata
from typing import Final

INVISIBLE: Final = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180F),  # Mongolian variation selectors
        (0x2800, 0x2800),  # blank Braille pattern
        (0x3164, 0x3164),  # Hangul filler
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),  # half-width Hangul filler
        (0xFFFC, 0xFFFC),  # object replacement
        (0xE0100, 0xE01EF),  # variation selectors supplement
    )
    for code in range(first, last + 1)
)
"""Code points that show nothing although their category does not say so (Unicode: default ignorable)."""

_READ_AT_MOST: Final = 4
"""Code points looked at, for each one wanted: hidden ones may stand between."""
_MARKS_AT_MOST: Final = 30
"""Combining marks kept in a row (Unicode's stream-safe form, UAX 15): the normalizer takes quadratic time on more."""


def clean_text(text: str, *, limit: int) -> str:
    """Return text without invisible code points, NFKC, single-spaced, of at most `limit` code points.

    Cleaning twice changes nothing; printable ASCII changes only in its white space and length.
    """
    if text.isascii() and text.isprintable():
        return _squeeze(text)[:limit].rstrip()
    seen = _stream_safe(_squeeze("".join(map(_visible, text[: limit * _READ_AT_MOST]))))
    return _squeeze(unicodedata.normalize("NFKC", seen))[:limit].rstrip()


def first_words(text: str, *, count: int) -> str:
    """Return the first `count` words of cleaned text."""
    return " ".join(text.split(" ", count)[:count])


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    # isprintable is false for every separator and "other" category: Cc, Cf, Cs, Co, Cn.
    return character if character.isprintable() and character not in INVISIBLE else ""


def _stream_safe(text: str) -> str:
    """Drop what exceeds a run of `_MARKS_AT_MOST` combining marks."""
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MARKS_AT_MOST:
            kept.append(character)
    return "".join(kept)


def _squeeze(text: str) -> str:
    return " ".join(text.split())
