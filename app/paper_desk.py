"""Follow forecasts on paper with the bars that later snapshots bring, after their decisions were answered."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from app.db.engine import ConnectionPool, StoreUnavailable
from app.db.paper_bars import SymbolBars, pending_symbols, record_bars
from app.domain.indicators import Bar
from app.domain.market import MarketView, bar_interval
from app.domain.triple_barrier import PriceBar

MOST_WAITING: Final = 200_000
"""Bars that wait to be looked at; when more come, the oldest snapshots give way: later ones bring their bars."""
MOST_REMEMBERED: Final = 10_000
ONE_SECOND: Final = timedelta(seconds=1)
ONE_DAY: Final = timedelta(days=1)
LONGEST_WEEKEND: Final = timedelta(days=4)

log = structlog.get_logger(__name__)

_News = Mapping[str, tuple[Bar, ...]]


class PaperDesk:
    """Take in the bars of judged snapshots and label the forecasts that they settle.

    Nothing is lost by a crash or by bars that gave way: a forecast stays open until bars settle it, and the next
    snapshots bring the same bars.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._waiting: deque[tuple[str, _News]] = deque()
        self._bars_waiting = 0
        self._arrived = asyncio.Event()
        # The newest bar looked at, by account and symbol: a snapshot without a newer one says nothing new.
        self._seen: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def take(self, account_id: str, market: MarketView) -> None:
        """Take in the usable bars of a snapshot; returns at once."""
        news = self._unseen(account_id, {view.symbol: view.bars for view in market.symbols if len(view.bars) > 1})
        if not news:
            return
        self._waiting.append((account_id, news))
        self._bars_waiting += _count(news)
        while self._bars_waiting > MOST_WAITING and len(self._waiting) > 1:
            self._next()
        self._arrived.set()

    async def work(self) -> None:
        """Label what the bars that are taken in settle, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await self.settle()

    async def settle(self) -> None:
        """Label what the bars that wait settle; whatever they hold, the next ones are looked at."""
        while self._waiting:
            await self._follow(*self._next())

    def _next(self) -> tuple[str, _News]:
        account_id, news = self._waiting.popleft()
        self._bars_waiting -= _count(news)
        return account_id, news

    async def _follow(self, account_id: str, sent: _News) -> None:
        try:
            news = self._unseen(account_id, sent)
            pending = await pending_symbols(self._pool, account_id=account_id, symbols=news) if news else set()
            for symbol, bars in news.items():
                if symbol in pending:
                    await self._settle_symbol(account_id, symbol, bars)
                self._remember((account_id, symbol), bars[-1].t)
        except StoreUnavailable as error:
            log.warning("forecasts are not followed", account_id=account_id, reason=str(error))
        except Exception:  # one snapshot must not end the work on all that follow
            log.exception("forecasts are not followed", account_id=account_id)

    async def _settle_symbol(self, account_id: str, symbol: str, bars: Sequence[Bar]) -> None:
        interval = _interval(bars)
        if interval < ONE_SECOND:
            log.warning("bars follow too closely", account_id=account_id, symbol=symbol)
            return
        sent = SymbolBars(symbol=symbol, interval=interval, bars=tuple(PriceBar.of(bar) for bar in bars))
        report = await record_bars(self._pool, sent, accounts=(account_id,))
        if report.resolved or report.unfilled:
            log.info("forecasts settled", account_id=account_id, resolved=report.resolved, unfilled=report.unfilled)

    def _unseen(self, account_id: str, news: _News) -> _News:
        return {symbol: bars for symbol, bars in news.items() if self._seen.get((account_id, symbol)) != bars[-1].t}

    def _remember(self, key: tuple[str, str], newest: datetime) -> None:
        self._seen[key] = newest
        self._seen.move_to_end(key)
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)


def _count(news: _News) -> int:
    return sum(len(bars) for bars in news.values())


def _interval(bars: Sequence[Bar]) -> timedelta:
    """Give the interval of bars of a snapshot, which names none; a weekend is no interval."""
    interval = bar_interval(bars)
    return ONE_DAY if ONE_DAY < interval <= LONGEST_WEEKEND else interval
