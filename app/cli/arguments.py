"""Read what people write on the command line."""

import argparse
import re
from datetime import timedelta
from typing import Final, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 (it has no public name)
"""Where a command adds itself."""

_UNITS: Final = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def one_line(text: str) -> str:
    """Read a name or a reason: not empty, printable, without spaces at its ends (an argparse type)."""
    if not text or not text.isprintable() or text != text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty, not printable, or has spaces at its ends")
    return text


def duration(text: str) -> timedelta:
    """Read "15m", "8h" or "30d" (an argparse type)."""
    match = re.fullmatch(r"([1-9][0-9]{0,3})([mhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 15m, 8h or 30d")
    return int(match[1]) * _UNITS[match[2]]
