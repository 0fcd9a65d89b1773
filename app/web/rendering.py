"""Write figures the way people read them, and render templates in which every text is escaped."""

import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from app.domain.gate_effects import gate_of
from app.web.assets import asset_path

_SIZES: Final = ((1e12, " T"), (1e9, " B"), (1e6, " M"))
NOTHING: Final = "–"
MINUS: Final = "−"
Number = int | float | Decimal | str

VERDICTS: Final = {
    "approved": ("✓", "approved"),
    "resized": ("◐", "resized"),
    "blocked": ("✕", "blocked"),
    "no_trade": ("○", "no trade"),
}
"""A sign beside each verdict: colour alone says nothing to some."""


def money(value: Number | None) -> str:
    """Write dollars to the cent with thousands."""
    if value is None:
        return NOTHING
    amount = Decimal(str(value))
    return f"{MINUS if amount < 0 else ''}${abs(amount):,.2f}"


def price(value: Number | None) -> str:
    """Write dollars per share with the decimals that it has, at least two."""
    if value is None:
        return NOTHING
    amount = Decimal(str(value)).normalize()
    exponent = amount.as_tuple().exponent
    digits = max(2, -exponent) if isinstance(exponent, int) else 2
    return f"{MINUS if amount < 0 else ''}${abs(amount):,.{min(digits, 6)}f}"


def short_money(value: Number | None) -> str:
    """Write large dollars short: $31.0 B."""
    if value is None:
        return NOTHING
    amount = float(value)
    for size, name in _SIZES:
        if abs(amount) >= size:
            return f"{MINUS if amount < 0 else ''}${abs(amount) / size:,.1f}{name}"
    return money(value)


def r_multiple(value: Number | None) -> str:
    """Write a result in units of risk."""
    if value is None:
        return NOTHING
    text = f"{abs(float(value)):,.2f}"
    sign = MINUS if float(value) < 0 else "+"
    return f"{sign if text.strip('0.') else ''}{text} R"


def percent(value: Number | None, digits: int = 1) -> str:
    """Write a fraction in percent."""
    if value is None:
        return NOTHING
    return f"{MINUS if float(value) < 0 else ''}{abs(float(value)) * 100:,.{digits}f} %"


def figure(value: object, digits: int = 3) -> str:
    """Write any figure; a dash where there is none."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{MINUS if value < 0 else ''}{abs(value):,}"
    if isinstance(value, float | Decimal):
        return _float_text(float(value), digits)
    return str(value)


def _float_text(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return str(value)
    sign = MINUS if value < 0 else ""
    for size, name in _SIZES:
        if abs(value) >= size:
            return f"{sign}{abs(value) / size:,.2f}{name}" if abs(value) < 1e15 else f"{value:.2e}"
    if 0 < abs(value) < 10**-digits:
        return f"{sign}{abs(value):.2g}"
    text = f"{abs(value):,.{digits}f}" if abs(value) < 1_000 else f"{abs(value):,.0f}"
    return f"{sign}{text}"


def _signed(value: float, digits: int) -> str:
    text = _float_text(abs(value), digits)
    return f"{MINUS if value < 0 else '+'}{text}" if text.strip("0.,") else text


def signed(value: Number | None, digits: int = 3) -> str:
    """Write a figure with its sign."""
    return NOTHING if value is None else _signed(float(value), digits)


def moment(value: datetime | str | None, form: str = "time") -> str | Markup:
    """Write a time in UTC: its time of day, or with `form` date or full; whole on hovering."""
    if value is None:
        return NOTHING
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    at = at.astimezone(UTC)
    shown = {"time": f"{at:%H:%M:%S}", "date": f"{at:%d %b %Y}", "full": f"{at:%d %b %Y %H:%M:%S} UTC"}[form]
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat().replace("+00:00", "Z"), f"{at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC", shown
    )


def reading(value: Any, unit: str) -> str:
    """Write what a gate observed, or its limit, by its unit."""
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return words(value)
    match unit:
        case "usd":
            return short_money(value) if abs(value) >= 1e6 else price(round(value, 2 if abs(value) >= 1 else 4))
        case "fraction" | "probability":
            return percent(value, 2)
        case "ratio":
            return f"{value:,.2f}"
        case "s":
            return f"{value:,.1f} s"
        case _:
            return figure(value, 2)


def words(name: str | None) -> str:
    """Write a stable name as words."""
    return NOTHING if name is None else name.replace("_", " ").replace(":", ": ")


def verdict_chip(verdict: str) -> Markup:
    """Mark a verdict by sign, word and colour."""
    sign, word = VERDICTS.get(verdict, ("?", verdict))
    return Markup('<span class="chip {}"><span aria-hidden="true">{}</span> {}</span>').format(verdict, sign, word)


def lasting(value: timedelta) -> str:
    """Write a length of time in its largest units."""
    seconds = round(value.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def pretty(document: object) -> str:
    """Write a document as JSON over several lines."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def compact(document: object) -> str:
    """Write a document as JSON on one line."""
    return orjson.dumps(document).decode()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": compact,
        "figure": figure,
        "lasting": lasting,
        "moment": moment,
        "money": money,
        "percent": percent,
        "pretty": pretty,
        "price": price,
        "r_multiple": r_multiple,
        "reading": reading,
        "short_money": short_money,
        "signed": signed,
        "verdict_chip": verdict_chip,
        "words": words,
    }
    environment.globals |= {"asset": asset_path, "gate_of": gate_of, "escape": escape}
    return environment


TEMPLATES: Final = _environment()
