"""Write every symbol the same way, wherever it comes from: request, model or file."""

import re
from typing import Final

SYMBOL_PATTERN: Final = r"^[A-Z][A-Z0-9]{0,5}(\.[A-Z]{1,2})?$"
"""The form of a normal symbol; share classes follow a dot (BRK.B)."""

_SYMBOL: Final = re.compile(SYMBOL_PATTERN)
_SEPARATORS: Final = str.maketrans("-/", "..")


def normalize_symbol(text: str) -> str:
    """Trim and upper-case a symbol, with `-` and `/` turned into the dot of a share class.

    " brk-b " gives "BRK.B"; a normal symbol gives itself. ASCII only: a letter whose upper case happens to be
    ASCII ("ı" becomes "I") is a look-alike, not a symbol. Raises ValueError on any other form.
    """
    if _SYMBOL.fullmatch(text) is not None:
        return text
    symbol = text.strip().upper().translate(_SEPARATORS)
    if not text.strip().isascii() or _SYMBOL.fullmatch(symbol) is None:
        raise ValueError(f"{text[:24]!r} is not a symbol")
    return symbol
