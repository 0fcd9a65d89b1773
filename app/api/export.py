"""GET /decisions/export: decisions as a table for spreadsheets (CSV) or data frames (Parquet), sent as it is read.

Neither the service nor the database ever holds more than a page of it. Where it breaks off, the connection does too,
and a Parquet file lacks its end: no part can be taken for the whole.
"""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final, Protocol, Self

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.api.auth import Identity
from app.api.errors import ErrorCode, FieldError, invalid
from app.api.openapi import BEARER, answers
from app.api.runtime import caller, runtime_of
from app.api.schemas import AccountId, Time
from app.db.engine import StoreUnavailable
from app.db.exports import COLUMNS, DECIMALS, Row, decision_pages
from app.db.vocabulary import Scope
from app.domain.document import utc_text
from app.domain.verdict import Verdict

DIGITS: Final = 38
"""Digits of an amount in Parquet, those after the point included: the most that its 128 bits hold."""
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # full-width ones too
"""What a spreadsheet takes for the start of a formula."""

router = APIRouter(tags=["decisions"])
log = structlog.stdlib.get_logger(__name__)


class ExportFormat(StrEnum):
    """Name the form of the table."""

    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES: Final = MappingProxyType(
    {
        ExportFormat.CSV: "text/csv; charset=utf-8; header=present",
        ExportFormat.PARQUET: "application/vnd.apache.parquet",
    }
)


class ExportFilter(BaseModel):
    """Hold the form and the filters; an unknown parameter is refused rather than ignored."""

    model_config = ConfigDict(extra="forbid")

    format: ExportFormat = ExportFormat.CSV
    account: AccountId | None = None
    verdict: Verdict | None = None
    from_: Annotated[Time | None, Field(alias="from", description="decided at or after")] = None
    to: Annotated[Time | None, Field(description="decided before")] = None

    @model_validator(mode="after")
    def _go_forward(self) -> Self:
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise ValueError("from must not be after to")
        return self


class TableWriter(Protocol):
    """Write a table piece by piece; each method gives the bytes that it made."""

    def begin(self) -> bytes:
        """Begin the table."""

    def add(self, rows: Iterable[Row]) -> bytes:
        """Add rows, with their values in the order of `COLUMNS`."""

    def end(self) -> bytes:
        """End the table."""


class CsvWriter:
    """Write RFC 4180 in UTF-8: amounts as decimals, times in UTC, nothing for null, and no text as a formula."""

    def __init__(self) -> None:
        self._text = io.StringIO(newline="")
        self._csv = csv.writer(self._text)
        self._cells = [_CELLS[kind] for kind, _ in COLUMNS.values()]

    def begin(self) -> bytes:
        self._csv.writerow(COLUMNS)
        return self._taken()

    def add(self, rows: Iterable[Row]) -> bytes:
        for row in rows:
            self._csv.writerow(
                "" if value is None else cell(value) for cell, value in zip(self._cells, row, strict=True)
            )
        return self._taken()

    def end(self) -> bytes:
        return b""

    def _taken(self) -> bytes:
        written = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return written


def _harmless(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would compute."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


_CELLS: Final[dict[type, Callable[[Any], str]]] = {
    str: _harmless,
    bool: lambda flag: "true" if flag else "false",
    int: str,
    float: repr,
    Decimal: lambda amount: format(amount, "f"),
    datetime: utc_text,
}


class ParquetWriter:
    """Write Parquet, a row group for each page: amounts as decimal128, times as UTC microseconds."""

    def __init__(self) -> None:
        # It takes a third of a second to import, which only who wants a table should wait for.
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415
        import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415

        kinds = {
            str: pa.string(),
            bool: pa.bool_(),
            int: pa.int64(),
            float: pa.float64(),
            Decimal: pa.decimal128(DIGITS, DECIMALS),
            datetime: pa.timestamp("us", tz="UTC"),
        }
        self._table = pa.Table
        self._schema = pa.schema([(name, kinds[kind]) for name, (kind, _) in COLUMNS.items()])
        self._sink = _Sink()
        self._parquet = pq.ParquetWriter(self._sink, self._schema)

    def begin(self) -> bytes:
        return self._sink.taken()

    def add(self, rows: Iterable[Row]) -> bytes:
        columns = zip(*rows, strict=True)
        named = dict(zip(COLUMNS, columns, strict=True))
        self._parquet.write_table(self._table.from_pydict(named, schema=self._schema))
        return self._sink.taken()

    def end(self) -> bytes:
        self._parquet.close()
        return self._sink.taken()


class _Sink(io.RawIOBase):
    """Be a file to write to that gives away what it got, and knows how much that was."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        self._written += len(self._pieces[-1])
        return len(self._pieces[-1])

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


_WRITERS: Final[dict[ExportFormat, Callable[[], TableWriter]]] = {
    ExportFormat.CSV: CsvWriter,
    ExportFormat.PARQUET: ParquetWriter,
}
_TABLE: Final = {
    "text/csv": {"schema": {"type": "string", "description": ", ".join(COLUMNS)}},
    "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
}


@router.get(
    "/decisions/export",
    response_class=Response,
    responses=answers(
        {"content": _TABLE, "description": "The table, oldest decision first"},
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER,
)
async def export(
    request: Request, identity: Annotated[Identity, caller(Scope.READ)], wanted: Annotated[ExportFilter, Query()]
) -> Response:
    """Export decisions and what became of them, one row each, oldest first; made while it is sent."""
    names = [name for name, _ in request.query_params.multi_items()]
    if again := sorted({name for name in names if names.count(name) > 1}):
        # Of two accounts one would be left out without a word.
        raise invalid([FieldError(field=name, message="must be sent once") for name in again])
    runtime = runtime_of(request)
    pages = decision_pages(
        runtime.pool,
        runtime.export_reads,
        accounts=identity.visible_accounts(wanted.account),
        verdict=wanted.verdict,
        decided_from=wanted.from_,
        decided_to=wanted.to,
    )
    writer = await asyncio.to_thread(_WRITERS[wanted.format])
    # What cannot be read at all is answered as an error, before anything of a table is sent.
    first = await anext(pages, None)
    return StreamingResponse(
        _table(writer, first, pages),
        media_type=MEDIA_TYPES[wanted.format],
        headers={
            "Content-Disposition": f'attachment; filename="decisions.{wanted.format}"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _table(writer: TableWriter, first: list[Row] | None, rest: AsyncIterator[list[Row]]) -> AsyncIterator[bytes]:
    """Give the table piece by piece, each made in a thread: decisions must not wait for it."""
    yield await asyncio.to_thread(writer.begin)
    if first is not None:
        yield await asyncio.to_thread(writer.add, first)
        try:
            async for page in rest:
                yield await asyncio.to_thread(writer.add, page)
        except StoreUnavailable as error:
            # Raised on, so that the server cuts the connection: who reads must see that this is not all.
            log.error("an export broke off", reason=str(error))
            raise
    yield await asyncio.to_thread(writer.end)
