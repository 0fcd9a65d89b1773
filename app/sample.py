"""Build requests for POST /decide from the daily bars that ship with the service: the demo and its scenes.

Nothing in a request was unknown at `as_of`. Bars end on the day before; the price is the day's opening price,
which is known from 14:30 UTC on (New York opens then in winter, an hour earlier in summer); the day's high,
low, close and volume are left out. The bars hold no quotes and no borrow list, so two fields are assumptions,
not history: `spread_pct` (see `SPREAD_PCT`), and `shortable`, taken as true for companies of this size.
"""

import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, Final

BARS_FILE: Final = Path(__file__).parent / "data" / "dow30_daily_2006_2015.csv.gz"
HEADER: Final = "date,symbol,open,high,low,close,volume"
OPEN_KNOWN_FROM: Final = time(14, 30)
"""UTC; the latest that New York opens in the year."""
SPREAD_PCT: Final = 0.0005
"""Assumed spread, a fraction of mid: 5 basis points, more than these companies' shares usually trade at."""
TICK_USD: Final = 0.01
"""No quoted spread is narrower than one cent, which is more than 5 basis points on shares below $20."""
AVG_VOLUME_BARS: Final = 20


class BarFileError(Exception):
    """Say which file of bars cannot be used, in which line, and why."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None) -> None:
        self.path = path
        self.problem = problem
        self.line = line
        place = f"{path}" if line is None else f"{path}, line {line}"
        super().__init__(f"{place}: {problem}")


class SampleError(Exception):
    """Say why the shipped bars cannot give the request that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyBar:
    """Hold one day of one symbol as the file has it; dollars per share, volume in shares."""

    day: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


def read_bars(path: Path) -> dict[str, tuple[DailyBar, ...]]:
    """Read a CSV of daily bars (gzip when the name ends in .gz) into bars by symbol, in the file's order.

    Bars that contradict themselves are kept as they are: the domain drops and counts them. Raises
    BarFileError when the file cannot be read or a line is not a bar at all.
    """
    lines = _text(path).splitlines()
    if not lines or lines[0] != HEADER:
        raise BarFileError(path, f"the header must be {HEADER!r}", line=1)
    bars: dict[str, list[DailyBar]] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            symbol, bar = _parse(line)
        except ValueError as error:
            raise BarFileError(path, str(error), line=number) from error
        bars.setdefault(symbol, []).append(bar)
    if not bars:
        raise BarFileError(path, "holds no bars")
    return {symbol: tuple(series) for symbol, series in bars.items()}


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise BarFileError(path, f"cannot be read: {error}") from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BarFileError(path, "is not UTF-8 text", line=line) from error


def _parse(line: str) -> tuple[str, DailyBar]:
    """Split a line into symbol and bar; raises ValueError."""
    fields = line.split(",")
    if len(fields) != HEADER.count(",") + 1 or not fields[1]:
        raise ValueError(f"expected {HEADER}, found {line!r}")
    day, symbol, *prices, volume = fields
    open_, high, low, close = map(_price, prices)
    return symbol, DailyBar(
        day=date.fromisoformat(day), open=open_, high=high, low=low, close=close, volume=int(volume)
    )


def _price(text: str) -> Decimal:
    try:
        price = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is not a price") from error
    if not price.is_finite():
        raise ValueError(f"{text!r} is not a price")
    return price


@cache
def shipped_bars() -> Mapping[str, tuple[DailyBar, ...]]:
    """Read the shipped bars, once."""
    return read_bars(BARS_FILE)


def sample_request(
    *,
    as_of: datetime,
    symbols: Sequence[str],
    equity: float,
    cash: float,
    daily_pnl: float,
    weekly_pnl: float,
    positions: Sequence[Mapping[str, Any]],
    account_id: str = "demo",
    bars_per_symbol: int = 60,
) -> dict[str, Any]:
    """Build the JSON body of POST /decide as the morning of `as_of` could have sent it.

    Account figures are dollars and the caller's own; `positions` are objects of the request's form. A symbol
    with little or no history before that day is sent as it is, for the gates to judge. Raises SampleError
    when `as_of` has no time zone or lies before the open, or a symbol did not trade on that day.
    """
    if as_of.tzinfo is None:
        raise SampleError(f"as_of {as_of} has no time zone")
    as_of = as_of.astimezone(UTC)
    if as_of.time() < OPEN_KNOWN_FROM:
        raise SampleError(f"as_of {as_of} lies before {OPEN_KNOWN_FROM} UTC, when no opening price is known")
    if bars_per_symbol < 1:
        raise SampleError(f"bars_per_symbol is {bars_per_symbol}, and must be 1 or more")
    return {
        "account": {
            "id": account_id,
            "mode": "paper",
            "equity": equity,
            "cash": cash,
            "daily_pnl": daily_pnl,
            "weekly_pnl": weekly_pnl,
            "positions": [dict(position) for position in positions],
        },
        "as_of": _timestamp(as_of),
        "market": [_market(symbol, day=as_of.date(), bars_per_symbol=bars_per_symbol) for symbol in symbols],
    }


def _market(symbol: str, *, day: date, bars_per_symbol: int) -> dict[str, Any]:
    price = _opening_price(symbol, day=day)
    earlier = [bar for bar in shipped_bars()[symbol] if bar.day < day]
    market: dict[str, Any] = {
        "symbol": symbol,
        "price": price,
        "spread_pct": max(SPREAD_PCT, round(TICK_USD / price, 6)),
        "shortable": True,
        "bars": [_bar(bar) for bar in earlier[-bars_per_symbol:]],
    }
    if earlier:
        volumes = [bar.volume for bar in earlier[-AVG_VOLUME_BARS:]]
        market["avg_volume"] = sum(volumes) // len(volumes)
    return market


def _opening_price(symbol: str, *, day: date) -> float:
    for bar in shipped_bars().get(symbol, ()):
        if bar.day == day:
            return float(bar.open)
    raise SampleError(f"the shipped bars hold no bar of {symbol} on {day}")


def _bar(bar: DailyBar) -> dict[str, Any]:
    return {
        "t": _timestamp(datetime.combine(bar.day, time(), UTC)),
        "o": float(bar.open),
        "h": float(bar.high),
        "l": float(bar.low),
        "c": float(bar.close),
        "v": bar.volume,
    }


def _timestamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def trade_scene(*, account_id: str) -> dict[str, Any]:
    """Build a request that the `rules` decider should have a trade for.

    By the morning of 6 March 2013 seven of the eight had closed above the highs of the 20 days before. The date
    was picked for that, and not for what came after.
    """
    return _scene(account_id=account_id, equity=100_000.0, daily_pnl=-150.0, weekly_pnl=420.0)


def loss_scene(*, account_id: str) -> dict[str, Any]:
    """Build the same morning for an account that lost 2.4 % of 100,000 today, so that DAILY_LOSS_LIMIT blocks.

    Name another account than that of `trade_scene`: an open ticket there would block first.
    """
    return _scene(account_id=account_id, equity=97_600.0, daily_pnl=-2_400.0, weekly_pnl=-1_980.0)


def _scene(*, account_id: str, equity: float, daily_pnl: float, weekly_pnl: float) -> dict[str, Any]:
    """Put one account before the scene's morning, holding 120 JNJ and the rest in cash."""
    as_of = datetime(2013, 3, 6, 15, 30, tzinfo=UTC)
    held, shares = "JNJ", 120
    mark = _opening_price(held, day=as_of.date())
    return sample_request(
        as_of=as_of,
        symbols=("AAPL", "AXP", "BA", "CVX", "HD", "IBM", held, "MSFT"),
        equity=equity,
        cash=round(equity - shares * mark, 2),
        daily_pnl=daily_pnl,
        weekly_pnl=weekly_pnl,
        positions=[{"symbol": held, "quantity": shares, "avg_price": 74.1, "mark_price": mark, "stop_loss": 72.0}],
        account_id=account_id,
    )
