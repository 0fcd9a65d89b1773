"""Put forecasts with their labels, and what is counted of them, into the store as if they had been made there."""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg

from app.db.engine import Connection

CLASSES: Final = ("win", "loss", "scratch", "timeout")
PERCENT_SUMS: Final = tuple(f"{name}{of}" for name in CLASSES for of in ("", "_percents", "_squares"))
SUMS: Final = (*CLASSES, *(f"r_{name}" for name in CLASSES), "r_squares", "ev_n", "ev", "ev_r")
BLOCKS: Final = ("blocked", "resolved", "won", "r")
HAIKU: Final = "anthropic/claude-haiku-5-5"
PROMPT: Final = "ab" * 32

_numbers = itertools.count(1)

Label = tuple[str, str] | None
"""Class and R."""


@dataclass(frozen=True, kw_only=True)
class Foretold:
    """One forecast: NVDA long at 54 %, conviction 72, worth 0.20 R; no bar and no closing has come yet."""

    day: date
    account_id: str = "paper-1"
    decider: str = HAIKU
    prompt_hash: str = PROMPT
    setup: str = "momentum"
    direction: str = "long"
    percent: int = 54
    calibrated: int | None = None
    conviction: int = 72
    ev_r: str | None = "0.20"
    verdict: str = "approved"
    blocked_by: tuple[str, ...] = ()
    paper: Label = None
    executed: Label = None

    @property
    def labels(self) -> Mapping[str, tuple[str, str]]:
        """Its labels by stored source."""
        found: dict[str, tuple[str, str]] = {}
        if self.executed is not None:
            found["executed"] = self.executed
        if self.paper is not None:
            found["paper" if self.executed is None else "paper_of_executed"] = self.paper
        return found

    @property
    def said(self) -> Mapping[str, int]:
        """The percent of each kind of forecast."""
        said = {"p_win": self.percent, "conviction": self.conviction}
        return said if self.calibrated is None else said | {"p_win_calibrated": self.calibrated}


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Decisions that ended alike."""

    day: date
    account_id: str = "paper-1"
    decider: str = HAIKU
    action: str = "trade"
    verdict: str = "approved"
    reason_code: str = ""
    decisions: int = 1


async def keep(
    connection: Connection,
    forecasts: Sequence[Foretold] = (),
    decisions: Iterable[Decided] = (),
    *,
    sums_of_percents: bool = True,
) -> None:
    """Store forecasts without the decisions they belong to, and all that is counted; as the owner of the tables.

    `sums_of_percents` is false in a database from before there were any.
    """
    await connection.execute("SET session_replication_role = 'replica'")
    await _insert(connection, "forecasts", [_row(forecast) for forecast in forecasts])
    await _insert(connection, "calibration_counts", _counted(forecasts, _fine_key), amounts=CLASSES)
    await _insert(connection, "calibration_daily", _counted(forecasts, _rollup_key), amounts=CLASSES)
    if sums_of_percents:
        await _insert(connection, "calibration_sums", _percents_summed(forecasts), amounts=PERCENT_SUMS)
    await _insert(connection, "outcome_sums", _summed(forecasts), amounts=SUMS)
    await _insert(connection, "gate_sums", _blocked(forecasts), amounts=BLOCKS)
    await _insert(connection, "decision_counts", [vars(decided) for decided in decisions], amounts=("decisions",))


def kept(url: str, forecasts: Sequence[Foretold] = (), decisions: Iterable[Decided] = ()) -> None:
    """The same at an address."""

    async def run() -> None:
        connection = await asyncpg.connect(url)
        try:
            await keep(connection, forecasts, decisions)
        finally:
            await connection.close()

    asyncio.run(run())


def today(url: str) -> date:
    """The database's UTC date."""

    async def ask() -> date:
        connection = await asyncpg.connect(url)
        try:
            day: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
            return day
        finally:
            await connection.close()

    return asyncio.run(ask())


async def _insert(
    connection: Connection, table: str, rows: Sequence[Mapping[str, Any]], *, amounts: Sequence[str] = ()
) -> None:
    """Insert rows; amounts are added to those that a row of the same key has."""
    if rows:
        places = ", ".join(f"${number}" for number in range(1, len(rows[0]) + 1))
        statement = f"INSERT INTO {table} ({', '.join(rows[0])}) VALUES ({places})"
        if amounts:
            added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in amounts)
            statement += f" ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET {added}"
        await connection.executemany(statement, [tuple(row.values()) for row in rows])


def _row(forecast: Foretold) -> dict[str, Any]:
    at = datetime.combine(forecast.day, time(15, 30), UTC)
    paper, executed = forecast.paper or (None, None), forecast.executed or (None, None)
    return {
        "decision_id": UUID(int=next(_numbers)),
        "account_id": forecast.account_id,
        "mode": "paper",
        "as_of": at,
        "decider": forecast.decider,
        "prompt_hash": forecast.prompt_hash,
        "setup": forecast.setup,
        "symbol": "NVDA",
        "direction": forecast.direction,
        "verdict": forecast.verdict,
        "blocked_by": list(forecast.blocked_by),
        "p_win": forecast.percent / 100,
        "p_win_percent": forecast.percent,
        "p_win_calibrated": None if forecast.calibrated is None else forecast.calibrated / 100,
        "p_win_calibrated_percent": forecast.calibrated,
        "conviction": forecast.conviction,
        "ev_r": None if forecast.ev_r is None else Decimal(forecast.ev_r),
        "entry_type": "limit",
        "entry": Decimal(100),
        "stop": Decimal(98),
        "target": Decimal(104),
        "cost_usd": Decimal(0),
        "time_stop_at": at + timedelta(hours=48),
        "paper_state": "pending" if forecast.paper is None else "resolved",
        "paper_outcome": paper[0],
        "paper_r": _exact(paper[1]),
        "executed_outcome": executed[0],
        "executed_r": _exact(executed[1]),
    }


def _exact(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def _fine_key(forecast: Foretold, source: str, kind: str, percent: int) -> dict[str, Any]:
    kept = ("day", "account_id", "decider", "prompt_hash", "setup", "direction")
    return {name: getattr(forecast, name) for name in kept} | {"source": source, "forecast": kind, "percent": percent}


def _rollup_key(forecast: Foretold, source: str, kind: str, percent: int) -> dict[str, Any]:
    return {"day": forecast.day, "source": source, "forecast": kind, "decider": forecast.decider, "percent": percent}


def _counted(forecasts: Iterable[Foretold], key_of: Any) -> list[dict[str, Any]]:
    counts: defaultdict[tuple[tuple[str, Any], ...], Counter[str]] = defaultdict(Counter)
    for forecast in forecasts:
        for source, (outcome, _) in forecast.labels.items():
            for kind, percent in forecast.said.items():
                counts[tuple(key_of(forecast, source, kind, percent).items())][outcome] += 1
    return [dict(key) | {name: of[name] for name in CLASSES} for key, of in counts.items()]


def _percents_summed(forecasts: Iterable[Foretold]) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for forecast in forecasts:
        for source, (outcome, _) in forecast.labels.items():
            for kind, percent in forecast.said.items():
                lower = max(lower for lower in (0, 31, 51, 71) if lower <= percent)
                of = sums[forecast.day, source, kind, forecast.decider, lower]
                of.update({outcome: 1, f"{outcome}_percents": percent, f"{outcome}_squares": percent**2})
    names = ("day", "source", "forecast", "decider", "lower")
    return [dict(zip(names, key, strict=True)) | {name: of[name] for name in PERCENT_SUMS} for key, of in sums.items()]


def _summed(forecasts: Iterable[Foretold]) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[tuple[str, Any], ...], dict[str, Decimal]] = defaultdict(
        lambda: dict.fromkeys(SUMS, Decimal(0))
    )
    for forecast in forecasts:
        for source, (outcome, text) in forecast.labels.items():
            names = ("day", "account_id", "decider", "setup", "direction")
            of = sums[*((name, getattr(forecast, name)) for name in names), ("source", source)]
            r = Decimal(text)
            of[outcome] += 1
            of[f"r_{outcome}"] += r
            of["r_squares"] += r * r
            if forecast.ev_r is not None:
                of["ev_n"] += 1
                of["ev"] += Decimal(forecast.ev_r)
                of["ev_r"] += r
    whole = (*CLASSES, "ev_n")
    return [
        dict(key) | {name: int(amount) if name in whole else amount for name, amount in of.items()}
        for key, of in sums.items()
    ]


def _blocked(forecasts: Iterable[Foretold]) -> list[dict[str, Any]]:
    sums: defaultdict[tuple[date, str, str, str], list[Any]] = defaultdict(lambda: [0, 0, 0, Decimal(0)])
    for forecast in forecasts:
        for code in forecast.blocked_by:
            of = sums[forecast.day, forecast.account_id, forecast.decider, code]
            of[0] += 1
            if forecast.paper is not None:
                of[1] += 1
                of[2] += forecast.paper[0] == "win"
                of[3] += Decimal(forecast.paper[1])
    names = ("day", "account_id", "decider", "code", *BLOCKS)
    return [dict(zip(names, (*key, *of), strict=True)) for key, of in sums.items()]
