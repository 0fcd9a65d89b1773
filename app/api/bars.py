"""POST /bars: what prices did, which settles forecasts on paper, executed or not."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ErrorCode, invalid_body
from app.api.openapi import BEARER, answers, json_body
from app.api.responses import AnswerModel
from app.api.runtime import caller, runtime_of
from app.api.schemas import MAX_SYMBOLS, BarIn, RequestModel
from app.db.paper_bars import SymbolBars, record_bars
from app.db.vocabulary import Scope
from app.domain.symbols import normalize_symbol
from app.domain.triple_barrier import BarFault, PriceBar

INTERVALS: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        "1m": timedelta(minutes=1),
        "5m": timedelta(minutes=5),
        "15m": timedelta(minutes=15),
        "30m": timedelta(minutes=30),
        "1h": timedelta(hours=1),
        "4h": timedelta(hours=4),
        "1d": timedelta(days=1),
    }
)
MAX_BARS_AT_ONCE: Final = 5_000
EXAMPLE: Final[dict[str, Any]] = {
    "interval": "1d",
    "bars": {"NVDA": [{"t": "2026-11-19T00:00:00Z", "o": 123.0, "h": 126.1, "l": 122.4, "c": 125.0, "v": 240000000}]},
}

router = APIRouter(tags=["outcomes"])
log = structlog.stdlib.get_logger(__name__)


def _by_symbol(bars: dict[str, list[BarIn]]) -> dict[str, list[BarIn]]:
    """Name each of 1 to `MAX_SYMBOLS` symbols once, in its normal form."""
    if not 1 <= len(bars) <= MAX_SYMBOLS:
        raise ValueError(f"must hold 1 to {MAX_SYMBOLS} symbols")
    by_symbol: dict[str, list[BarIn]] = {}
    for name, listed in bars.items():
        symbol = normalize_symbol(name)
        if symbol in by_symbol:
            raise ValueError(f"{symbol} is named twice")
        by_symbol[symbol] = listed
    return by_symbol


class BarsRequest(RequestModel):
    """Closed bars by symbol, oldest first; `t` is when a bar opened. Told twice, bars change nothing."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    interval: Literal["1m", "5m", "15m", "30m", "1h", "4h", "1d"]
    bars: Annotated[
        dict[Annotated[str, Field(max_length=32)], Annotated[list[BarIn], Field(max_length=MAX_BARS_AT_ONCE)]],
        AfterValidator(_by_symbol),
        Field(json_schema_extra={"minProperties": 1, "maxProperties": MAX_SYMBOLS}),
    ]


class DroppedBarOut(AnswerModel):
    """A bar that was not used, by its place in the list of its symbol."""

    symbol: str
    index: int
    t: datetime
    reason: BarFault


class BarsResponse(AnswerModel):
    """How many forecasts these bars settled: resolved, or found never to have been entered."""

    resolved: int
    unfilled: int
    dropped: list[DroppedBarOut]


@router.post(
    "/bars",
    name="report_bars",
    response_class=Response,
    responses=answers(
        {"model": BarsResponse, "description": "The usable bars are kept, and every forecast they settle is labelled"},
        ErrorCode.MALFORMED_JSON,
        ErrorCode.VALIDATION_ERROR,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.FORBIDDEN,
        ErrorCode.BODY_TOO_SLOW,
        ErrorCode.BODY_TOO_LARGE,
        ErrorCode.UNSUPPORTED_MEDIA_TYPE,
        ErrorCode.STORE_UNAVAILABLE,
    ),
    openapi_extra=BEARER | json_body("BarsRequest"),
)
async def report_bars(request: Request, identity: Annotated[Identity, caller(Scope.REPORT)]) -> Response:
    """Keep bars and label the forecasts of the key's accounts that they settle; dirty bars are dropped and named."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        sent = BarsRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    accounts = identity.visible_accounts(None)
    reports = [
        await record_bars(
            runtime.pool,
            SymbolBars(
                symbol=symbol,
                interval=INTERVALS[sent.interval],
                bars=tuple(PriceBar.of(bar.to_domain()) for bar in bars),
            ),
            accounts=accounts,
        )
        for symbol, bars in sent.bars.items()
    ]
    resolved, unfilled = sum(report.resolved for report in reports), sum(report.unfilled for report in reports)
    dropped = [
        {"symbol": drop.symbol, "index": drop.index, "t": drop.t, "reason": drop.fault}
        for report in reports
        for drop in report.dropped
    ]
    log.info("bars", symbols=len(reports), resolved=resolved, unfilled=unfilled, dropped=len(dropped))
    return Response(
        orjson.dumps({"resolved": resolved, "unfilled": unfilled, "dropped": dropped}, option=orjson.OPT_UTC_Z),
        media_type="application/json",
    )
