"""Read which days and whose record a question on the record is about: the parameters that such resources share."""

import re
from datetime import date
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.api.auth import Identity
from app.api.responses import AnswerModel
from app.api.schemas import EARLIEST, LATEST, AccountId
from app.db.statistics import MOST_DAYS, Period, Scope, Source, Window

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DAYS: Final = Window().days


def _date_text(value: object) -> object:
    """Refuse a Unix time, which may pass for a date."""
    if not isinstance(value, str) or _DATE.fullmatch(value) is None:
        raise ValueError("must be a date such as 2026-11-20")
    return value


Day = Annotated[date, Field(ge=EARLIEST.date(), le=LATEST.date()), BeforeValidator(_date_text)]


class RecordFilter(BaseModel):
    """Hold the window, the account and the labels; an unknown parameter is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")

    days: Annotated[
        int | None,
        Field(ge=1, le=MOST_DAYS, description=f"the last UTC days, today included; {_DAYS} without `from` and `to`"),
    ] = None
    from_: Annotated[Day | None, Field(alias="from", description="first UTC day of `as_of`")] = None
    to: Annotated[Day | None, Field(description="last UTC day of `as_of`, included")] = None
    account: AccountId | None = None

    @model_validator(mode="after")
    def _name_one_window(self) -> Self:
        if self.from_ is None and self.to is None:
            return self
        if self.days is not None or self.from_ is None or self.to is None:
            raise ValueError("give either days, or both from and to")
        if not 0 <= (self.to - self.from_).days < MOST_DAYS:
            raise ValueError(f"from and to must span 1 to {MOST_DAYS} days")
        return self

    def scope(self, identity: Identity, *, source: Source = Source.ALL) -> Scope:
        """Say whose record that is, of the accounts that the caller may see."""
        return Scope(
            accounts=identity.visible_accounts(self.account),
            window=Window(days=_DAYS if self.days is None else self.days, first=self.from_, last=self.to),
            source=source,
        )


class LabelledRecordFilter(RecordFilter):
    """Hold these, and the labels that count."""

    source: Annotated[
        Source,
        Field(description="all: of each forecast the executed outcome where there is one, else that on paper"),
    ] = Source.ALL


class WindowOut(AnswerModel):
    """The UTC days of `as_of` that are told of, both ends included."""

    from_: Annotated[date, Field(alias="from")]
    to: date
    days: int


def window_document(period: Period) -> dict[str, date | int]:
    """Write the window."""
    return {"from": period.first, "to": period.last, "days": period.days}
