"""Write requests and read answers: dataclasses to JSON and back, exact and by their annotations.

Answers are read leniently in one way only: a field that this version does not know is kept in `extra`. A field that
is missing or of another type is an `UnexpectedAnswer`.
"""

import json
import types
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tradeverdict_client.errors import InvalidInput, UnexpectedAnswer

T = TypeVar("T")
Amount = Decimal | int | float | str
"""Dollars or dollars per share, as a report takes them: text and Decimal lose nothing."""
Number = float | int | Decimal
"""A figure of a snapshot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Hold what the service sent; `extra` are fields that this version of the client does not know."""

    extra: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


def amount(value: Amount) -> str:
    """Write an amount as plain decimal text.

    Raises:
        InvalidInput: it is no finite number.
    """
    try:
        exact = Decimal(repr(float(value))) if isinstance(value, float) else Decimal(value)
    except (InvalidOperation, TypeError, ValueError) as error:
        raise InvalidInput(f"{value!r} is no amount") from error
    if not exact.is_finite():
        raise InvalidInput(f"{value!r} is no amount")
    return format(exact, "f")


def encode(document: object) -> bytes:
    """Write dataclasses, mappings and sequences as JSON; what is None is left out of dataclasses.

    Raises:
        InvalidInput: a number is not finite, a time has no zone, or something has no JSON form.
    """
    try:
        return json.dumps(_plain(document), allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(str(error)) from error


def utc_text(moment: datetime) -> str:
    """Write a time; raises InvalidInput when it has no zone."""
    if moment.tzinfo is None:
        raise InvalidInput(f"{moment!r} has no time zone")
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        named = ((spec.name, getattr(value, spec.name)) for spec in fields(value))
        return {name: _plain(item) for name, item in named if item is not None}
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real | Decimal):
        return float(value)
    raise InvalidInput(f"{type(value).__name__} has no JSON form: {value!r:.60}")


def decode(content: bytes) -> Any:
    """Read JSON; raises UnexpectedAnswer for anything else, NaN included."""
    try:
        return json.loads(content, parse_constant=_no_constant)
    except ValueError as error:
        raise UnexpectedAnswer(f"the answer is not JSON: {content[:80]!r}") from error


def _no_constant(name: str) -> None:
    raise ValueError(name)


class _Spec(NamedTuple):
    name: str
    key: str
    kind: Any
    required: bool


@cache
def _specs(kind: Any) -> tuple[_Spec, ...]:
    hints = get_type_hints(kind)
    return tuple(
        _Spec(
            name=spec.name,
            key=spec.metadata.get("key", spec.name),
            kind=hints[spec.name],
            required=spec.default is MISSING and spec.default_factory is MISSING,
        )
        for spec in fields(kind)
        if spec.name != "extra"
    )


def read(kind: type[T], document: object, *, path: str = "") -> T:
    """Read an answer into its dataclass.

    Raises:
        UnexpectedAnswer: it names the field that is missing or of another type.
    """
    if not isinstance(document, Mapping):
        raise UnexpectedAnswer(f"{path or kind.__name__} is no object")
    values: dict[str, Any] = {}
    specs = _specs(cast("Hashable", kind))
    for spec in specs:
        place = f"{path}.{spec.key}" if path else spec.key
        if spec.key in document:
            values[spec.name] = _value(spec.kind, document[spec.key], place)
        elif spec.required:
            raise UnexpectedAnswer(f"{place} is missing")
    known = {spec.key for spec in specs}
    values["extra"] = {name: value for name, value in document.items() if name not in known}
    return kind(**values)


def _value(kind: Any, value: Any, path: str) -> Any:  # noqa: C901 (one line for each kind)
    origin = get_origin(kind)
    if kind is Any or origin is Mapping or (kind is object):
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        kinds = [member for member in get_args(kind) if member is not type(None)]
        return _value(kinds[0], value, path) if len(kinds) == 1 else _one_of(tuple(kinds), value, path)
    if origin is tuple and isinstance(value, list):
        (item, _) = get_args(kind)
        return tuple(_value(item, part, f"{path}.{index}") for index, part in enumerate(value))
    if is_dataclass(kind):
        return read(cast("type[Any]", kind), value, path=path)
    try:
        if kind is Decimal and isinstance(value, str | int | float) and not isinstance(value, bool):
            return Decimal(amount(value))
        if kind is datetime and isinstance(value, str):
            return _moment(value)
    except ValueError as error:
        raise UnexpectedAnswer(f"{path} is {value!r:.60}, no {kind.__name__}") from error
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    raise UnexpectedAnswer(f"{path} is {value!r:.60}, no {getattr(kind, '__name__', kind)}")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("has no time zone")
    return moment.astimezone(UTC)


def _one_of(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    raise UnexpectedAnswer(f"{path} is {value!r:.60}")
