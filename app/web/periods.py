"""Read which window of days and which account a page is asked for, and other choices of its forms."""

from enum import StrEnum
from typing import Annotated, Final, TypeVar

from fastapi import Query
from pydantic import AfterValidator

from app.db.statistics import MOST_DAYS
from app.web.site import PageError

DAYS: Final = (30, 7, 60, 90, 365)
"""The windows that are offered, the usual one first."""

LONGEST_NAME: Final = 64


def _printable(text: str) -> str:
    # No account has another name, and PostgreSQL would refuse to look for one with a NUL in it.
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


Days = Annotated[int, Query(ge=1, le=MOST_DAYS)]
Account = Annotated[str, Query(max_length=LONGEST_NAME), AfterValidator(_printable)]
"""An empty one stands for all, as a form sends it whose field was left alone."""

_Choice = TypeVar("_Choice", bound=StrEnum)


def choose(kind: type[_Choice], text: str) -> _Choice:
    """Read a choice of a form.

    Raises:
        PageError: there is no such choice.
    """
    try:
        return kind(text)
    except ValueError as error:
        raise PageError(404, "Not found", "There is no such page.") from error
