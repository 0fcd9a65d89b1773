"""Read which window of days a page is asked for, and other choices of its forms."""

from enum import StrEnum
from typing import Annotated, Final, TypeVar

from fastapi import Query

from app.db.statistics import MOST_DAYS
from app.web.site import PageError

DAYS: Final = (30, 7, 60, 90, 365)
"""The windows that are offered, the usual one first."""

Days = Annotated[int, Query(ge=1, le=MOST_DAYS)]

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
