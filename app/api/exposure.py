"""POST /exposure: a portfolio beside its limits, and what to reduce so that it is inside all of them."""

from decimal import ROUND_CEILING, Context, Decimal
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import AfterValidator, ConfigDict, Field, ValidationError

from app.api.auth import Identity
from app.api.body import read_json_body
from app.api.errors import ErrorCode, FieldError, invalid, invalid_body
from app.api.openapi import BEARER, answers, json_body
from app.api.responses import AnswerModel, Money, PolicyOut
from app.api.runtime import caller, runtime_of
from app.api.schemas import MAX_BUCKETS, MAX_POSITIONS, AccountIn, Bucket, Positive, RequestModel
from app.db.vocabulary import Scope
from app.domain.buckets import BucketMap
from app.domain.document import finite, money_text
from app.domain.exposure import ExposureStatus, Holding, LimitUse, Rebalancing, Reduction, rebalance
from app.domain.policy import POLICY_VERSION, Policy
from app.domain.proposal import Direction
from app.domain.symbols import normalize_symbol
from app.domain.verdict import Side

ERRORS: Final = (
    ErrorCode.MALFORMED_JSON,
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.BODY_TOO_SLOW,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.STORE_UNAVAILABLE,
)
EXAMPLE: Final[dict[str, Any]] = {
    "account": {
        "id": "paper-1",
        "equity": 100000,
        "cash": 52000,
        "positions": [
            {"symbol": "AAPL", "quantity": 150, "mark_price": 201.2},
            {"symbol": "NVDA", "quantity": 145},
        ],
    },
    "marks": {"NVDA": 125.4},
    "buckets": {"NVDA": ["ai"]},
}
CENT: Final = Decimal("0.01")
_UPWARDS: Final = Context(prec=100, rounding=ROUND_CEILING)

router = APIRouter(tags=["risk"])

_Value = TypeVar("_Value")


def _by_symbol(values: dict[str, _Value]) -> dict[str, _Value]:
    """Name each symbol once, in its normal form."""
    found: dict[str, _Value] = {}
    for name, value in values.items():
        symbol = normalize_symbol(name)
        if symbol in found:
            raise ValueError(f"{symbol} is named twice")
        found[symbol] = value
    return found


class ExposureRequest(RequestModel):
    """An account as POST /decide takes it; of a position's own mark and the one in `marks` the larger counts.

    `buckets` adds to those that the service knows of a symbol. Tickets that are still open are not looked up.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    account: AccountIn
    marks: Annotated[dict[str, Positive], AfterValidator(_by_symbol)] = Field(
        default_factory=dict, max_length=MAX_POSITIONS
    )
    buckets: Annotated[
        dict[str, Annotated[list[Bucket], Field(max_length=MAX_BUCKETS)]], AfterValidator(_by_symbol)
    ] = Field(default_factory=dict, max_length=MAX_POSITIONS)

    def to_domain(self, *, bucket_map: BucketMap) -> tuple[Decimal, list[Holding]]:
        """Give the equity and what is held.

        Raises:
            ApiError: VALIDATION_ERROR; a position has no mark, and nothing is ever valued at 0.
        """
        account = self.account.to_domain()
        holdings: list[Holding] = []
        unmarked: list[str] = []
        for position in account.positions:
            sent = self.marks.get(position.symbol)
            marks = [position.mark_price, None if sent is None else Decimal(repr(sent))]
            mark = max((mark for mark in marks if mark is not None), default=None)
            if mark is None:
                unmarked.append(position.symbol)
                continue
            holdings.append(
                Holding(
                    symbol=position.symbol,
                    quantity=position.quantity,
                    mark=mark,
                    buckets=bucket_map.of(position.symbol, self.buckets.get(position.symbol, ())),
                )
            )
        if unmarked:
            places = {position.symbol: place for place, position in enumerate(self.account.positions)}
            raise invalid(
                [
                    FieldError(
                        field=f"account.positions.{places[symbol]}.mark_price",
                        message=f"{symbol} has no mark: send mark_price, or its price in marks",
                    )
                    for symbol in unmarked
                ]
            )
        return account.equity, holdings


class LimitUseOut(AnswerModel):
    """A gross exposure beside its limit; `after_pct` is what the suggestions would leave. Fractions of equity."""

    exposure_usd: Money
    exposure_pct: float
    limit_pct: float
    reduce_by_usd: Annotated[Money, Field(description="rounded up to the cent")]
    status: ExposureStatus
    after_pct: float


class BucketUseOut(LimitUseOut):
    """One bucket."""

    bucket: str


class SymbolUseOut(LimitUseOut):
    """One symbol."""

    symbol: str


class SuggestionOut(AnswerModel):
    """Close so many shares: whole ones, or the whole position. `limits` are the exceeded ones it counts in."""

    symbol: str
    side: Side
    quantity: float
    quantity_after: float
    value_usd: Money
    limits: list[str]


class ExposureResponse(AnswerModel):
    """What a portfolio is exposed to, and the reductions after which no limit is exceeded.

    Symbols above their own limit come down to it; then, while a bucket or the leverage is exceeded, the position that
    counts in the most exceeded limits gives (of equals the largest, then by symbol) what the least exceeded of them
    needs; last, every reduction is cut to the fewest shares that the others leave it.
    """

    account_id: str
    equity_usd: Money
    gross: LimitUseOut
    buckets: list[BucketUseOut]
    symbols: list[SymbolUseOut]
    suggestions: list[SuggestionOut]
    policy: PolicyOut


@router.post(
    "/exposure",
    response_class=Response,
    responses=answers({"model": ExposureResponse}, *ERRORS),
    openapi_extra=BEARER | json_body("ExposureRequest"),
)
async def exposure(request: Request, identity: Annotated[Identity, caller(Scope.READ)]) -> Response:
    """Set a portfolio beside the limits of the policy, and suggest what to reduce. Nothing is recorded or ordered."""
    runtime = runtime_of(request)
    body = await read_json_body(request, limit=runtime.settings.max_body_bytes)
    try:
        sent = ExposureRequest.model_validate_json(body)
    except ValidationError as error:
        raise invalid_body(error) from error
    identity.require_account(sent.account.id)
    equity, holdings = sent.to_domain(bucket_map=runtime.buckets)
    found = rebalance(holdings=holdings, equity=equity, policy=runtime.policy)
    document = _document(found, account_id=sent.account.id, equity=equity, policy=runtime.policy)
    return Response(orjson.dumps(document), media_type="application/json")


def _document(found: Rebalancing, *, account_id: str, equity: Decimal, policy: Policy) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "equity_usd": money_text(equity),
        "gross": _use(found.gross, equity=equity),
        "buckets": [{"bucket": use.name, **_use(use, equity=equity)} for use in found.by_bucket],
        "symbols": [{"symbol": use.name, **_use(use, equity=equity)} for use in found.by_symbol],
        "suggestions": [_suggestion(reduction) for reduction in found.reductions],
        "policy": {
            "version": POLICY_VERSION,
            "hash": policy.hash(),
            "aggressiveness_level": policy.aggressiveness_level,
        },
    }


def _use(use: LimitUse, *, equity: Decimal) -> dict[str, Any]:
    return {
        "exposure_usd": money_text(use.exposure_usd),
        "exposure_pct": finite(use.exposure_usd / equity),
        "limit_pct": finite(use.limit_usd / equity),
        "reduce_by_usd": money_text(use.reduce_by_usd.quantize(CENT, context=_UPWARDS)),
        "status": use.status,
        "after_pct": finite(use.after_usd / equity),
    }


def _suggestion(reduction: Reduction) -> dict[str, Any]:
    return {
        "symbol": reduction.symbol,
        "side": Side.SELL if reduction.direction is Direction.LONG else Side.BUY_TO_COVER,
        "quantity": _shares(reduction.quantity),
        "quantity_after": _shares(reduction.left),
        "value_usd": money_text(reduction.value_usd),
        "limits": reduction.limits,
    }


def _shares(quantity: Decimal) -> int | float:
    return int(quantity) if quantity == quantity.to_integral_value() else float(quantity)
