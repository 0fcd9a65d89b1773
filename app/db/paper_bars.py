"""Keep the bars that can resolve forecasts on paper, and label what they resolve.

Bars are kept per account: what one account's bot reports never labels another's forecasts. Of several reports of one
bar the first counts, so labels are a function of the set of bars that are known, in whatever order they came.

Where bars of several intervals are known, the longest that settles a forecast by its bars before the time stop
decides: it has no holes. Where none does, the first bar after the time stop, of whatever interval, says that the time
is over. Hence a bar after both the time stop and the exit of a settled forecast cannot change its label, and a bar
before them may: `_CONCERNED` finds the forecasts to look at by that.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

import asyncpg

from app.db.engine import Connection, ConnectionPool
from app.db.labels import READ_FORECASTS, StoredForecast, relabel, stored_forecast
from app.db.locks import hold_account
from app.domain.triple_barrier import BarFault, PaperLabel, PaperState, PriceBar, clean_bars, paper_label

UNKNOWN_VOLUME: Final = Decimal(0)
LABELLED_AT_ONCE: Final = 50
"""Forecasts labelled by one transaction: for so long decisions on the account wait."""

_CONCERNED: Final = """
symbol = $1 AND as_of <= $2 AND (paper_state = 'pending' OR greatest(time_stop_at, paper_exit_at) >= $3)
"""
_FIND_ACCOUNTS: Final = f"""
SELECT account_id, min(as_of) AS since FROM forecasts
WHERE {_CONCERNED} AND ($4::text[] IS NULL OR account_id = ANY ($4)) GROUP BY account_id ORDER BY account_id
"""  # noqa: S608 (constants only)
_FIND_FORECASTS: Final = f"""
SELECT decision_id FROM forecasts WHERE {_CONCERNED} AND account_id = $4 ORDER BY decision_id
"""  # noqa: S608 (constants only)
_READ_SOME: Final = READ_FORECASTS + "decision_id = ANY ($1) ORDER BY decision_id"
_KEEP: Final = """
INSERT INTO paper_bars (account_id, symbol, interval_s, t, o, h, l, c)
SELECT $1, $2, $3, * FROM unnest($4::timestamptz[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[])
ON CONFLICT DO NOTHING
"""
_FIND_CONFLICTS: Final = """
SELECT kept.t FROM paper_bars AS kept
JOIN unnest($4::timestamptz[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[]) AS sent (t, o, h, l, c)
    USING (t)
WHERE account_id = $1 AND symbol = $2 AND interval_s = $3
    AND (kept.o, kept.h, kept.l, kept.c) IS DISTINCT FROM (sent.o, sent.h, sent.l, sent.c)
"""
_READ_BARS: Final = """
SELECT interval_s, t, o, h, l, c FROM paper_bars WHERE account_id = $1 AND symbol = $2 AND t >= $3 ORDER BY t
"""
_FIND_PENDING: Final = """
SELECT DISTINCT symbol FROM forecasts WHERE account_id = $1 AND symbol = ANY ($2) AND paper_state = 'pending'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolBars:
    """Hold bars of one symbol as received, all of one interval, in their order."""

    symbol: str
    interval: timedelta
    bars: tuple[PriceBar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedBar:
    """Say which bar of which symbol was not used, by its place as received, and why."""

    symbol: str
    index: int
    t: datetime
    fault: BarFault


@dataclass(frozen=True, slots=True, kw_only=True)
class BarsReport:
    """Hold what bars did: forecasts resolved, entries found never to have traded, and the bars that were dropped."""

    resolved: int = 0
    unfilled: int = 0
    dropped: tuple[DroppedBar, ...] = ()


async def record_bars(pool: ConnectionPool, sent: SymbolBars, *, accounts: Collection[str] | None) -> BarsReport:
    """Keep what is usable of a symbol's bars for the accounts whose forecasts it concerns, and label those.

    `accounts` are those that the reporter may act for; None means every one. Told twice, bars change nothing.

    Raises:
        StoreUnavailable: they may be kept and not all forecasts labelled; telling them again completes it.
    """
    async with pool.connection() as connection:
        now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    received = clean_bars(sent.bars, interval=sent.interval, now=now)
    dropped = [
        DroppedBar(symbol=sent.symbol, index=drop.index, t=drop.t, fault=drop.fault) for drop in received.dropped
    ]
    if not received.kept:
        return BarsReport(dropped=tuple(dropped))
    first, last = received.kept[0].t, received.kept[-1].t
    async with pool.connection() as connection:
        concerned = await connection.fetch(
            _FIND_ACCOUNTS, sent.symbol, last, first, None if accounts is None else list(accounts)
        )
    report = BarsReport()
    conflicting: set[datetime] = set()
    for account in concerned:
        kept = [bar for bar in received.kept if bar.t >= account["since"]]
        conflicting |= await _keep(pool, account_id=account["account_id"], sent=replace(sent, bars=tuple(kept)))
        async with pool.connection() as connection:
            rows = await connection.fetch(_FIND_FORECASTS, sent.symbol, last, first, account["account_id"])
        forecasts = [row["decision_id"] for row in rows]
        for start in range(0, len(forecasts), LABELLED_AT_ONCE):
            some = forecasts[start : start + LABELLED_AT_ONCE]
            resolved, unfilled = await _label(pool, account_id=account["account_id"], symbol=sent.symbol, some=some)
            report = replace(report, resolved=report.resolved + resolved, unfilled=report.unfilled + unfilled)
    unusable = {drop.index for drop in received.dropped}
    dropped += [
        DroppedBar(symbol=sent.symbol, index=index, t=bar.t, fault=BarFault.CONFLICT)
        for index, bar in enumerate(sent.bars)
        if bar.t in conflicting and index not in unusable
    ]
    return replace(report, dropped=tuple(sorted(dropped, key=lambda drop: drop.index)))


async def pending_symbols(pool: ConnectionPool, *, account_id: str, symbols: Collection[str]) -> set[str]:
    """Name those symbols of which the account has a forecast that bars may still resolve.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    async with pool.connection() as connection:
        rows = await connection.fetch(_FIND_PENDING, account_id, list(symbols))
    return {row["symbol"] for row in rows}


async def _keep(pool: ConnectionPool, *, account_id: str, sent: SymbolBars) -> set[datetime]:
    """Keep bars that are not kept yet; give the times of those that differ from what is."""
    columns = [[getattr(bar, name) for bar in sent.bars] for name in ("t", "open", "high", "low", "close")]
    values = (account_id, sent.symbol, int(sent.interval.total_seconds()), *columns)
    async with pool.transaction() as connection:
        await connection.execute(_KEEP, *values)
        return {row["t"] for row in await connection.fetch(_FIND_CONFLICTS, *values)}


async def _label(pool: ConnectionPool, *, account_id: str, symbol: str, some: Sequence[UUID]) -> tuple[int, int]:
    """Label forecasts of one account and symbol by all bars that are known; count those that are settled now."""
    resolved = unfilled = 0
    async with pool.transaction() as connection:
        await hold_account(connection, account_id=account_id)
        forecasts = [stored_forecast(row) for row in await connection.fetch(_READ_SOME, list(some))]
        since = min(forecast.plan.as_of for forecast in forecasts)
        bars = await _read_bars(connection, account_id=account_id, symbol=symbol, since=since)
        for forecast in forecasts:
            label = _settled(forecast, bars)
            changed = await relabel(connection, forecast, replace(forecast.labels, paper=label))
            if changed and forecast.labels.paper.state is PaperState.PENDING:
                resolved += label.state is PaperState.RESOLVED
                unfilled += label.state is PaperState.UNFILLED
    return resolved, unfilled


async def _read_bars(
    connection: Connection, *, account_id: str, symbol: str, since: datetime
) -> Mapping[timedelta, Sequence[PriceBar]]:
    """Read the bars of a symbol by their interval, the longest first."""
    bars: dict[timedelta, list[PriceBar]] = {}
    for row in await connection.fetch(_READ_BARS, account_id, symbol, since):
        bars.setdefault(timedelta(seconds=row["interval_s"]), []).append(_bar(row))
    return dict(sorted(bars.items(), reverse=True))


def _bar(row: asyncpg.Record) -> PriceBar:
    return PriceBar(t=row["t"], open=row["o"], high=row["h"], low=row["l"], close=row["c"], volume=UNKNOWN_VOLUME)


def _settled(forecast: StoredForecast, bars: Mapping[timedelta, Sequence[PriceBar]]) -> PaperLabel:
    """Label by the bars of one interval, as the module says which; `bars` by interval, the longest first."""
    plan = forecast.plan
    counted = {
        interval: during
        for interval, known in bars.items()
        if (during := [bar for bar in known if plan.as_of <= bar.t < plan.time_stop_at])
    }
    for interval, during in counted.items():
        label = paper_label(plan=plan, bars=during, interval=interval)
        if label.state is not PaperState.PENDING:
            return label
    after = [(bar.t, -interval, bar) for interval, known in bars.items() for bar in known if bar.t >= plan.time_stop_at]
    if not after:
        return PaperLabel(state=PaperState.PENDING)
    _, shorter, first_after = min(after, key=lambda place: place[:2])
    interval, during = next(iter(counted.items()), (-shorter, []))
    return paper_label(plan=plan, bars=[*during, first_after], interval=interval)
