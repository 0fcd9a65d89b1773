"""Whatever the order in which outcomes and bars arrive, and however often, the figures are the same.

Each example is told twice to one store: once in the order of time, and once in an order drawn by Hypothesis, with
repetitions. A ticket's own events keep their order, for what may follow what is a rule of its own; everything else is
shuffled. Both tellings are the same but for their week and for the ids, and so must be all that is kept of them.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, TypeAlias

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.calibration import calibration_document
from app.db.engine import Connection, ConnectionPool, create_pool
from app.db.events import RecordedEvent, StoredTicket, find_ticket, record_event
from app.db.operations import Store
from app.db.paper_bars import SymbolBars, record_bars
from app.db.statistics import GroupBy, Scope, Source, Window
from app.domain.lifecycle import Event, EventKind, ExitReason
from app.domain.outcome import ForecastKind
from app.domain.proposal import Direction, EntryType, Setup
from app.domain.tally import ScratchRule
from app.domain.triple_barrier import PriceBar
from app.domain.verdict import Verdict
from tests.db.builders import decision, forecast, stored
from tests.properties.counts import CountReport
from tests.recount import checked_statistics, statistics

EXAMPLES: Final = 300 if os.environ.get("PROVE") == "1" else 40
WEEK: Final = timedelta(days=7)
FIRST_WEEK: Final = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday
INTERVALS: Final = (timedelta(hours=1), timedelta(hours=4), timedelta(days=1))
HOUR: Final = timedelta(hours=1)
LAST_HOUR: Final = 120
SYMBOLS: Final = ("AAA", "BBB")
ACCOUNTS: Final = ("a", "b")
TICKET: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Idea:
    """One decision, `hour` hours into the week, and its ticket's events in their order (none: it was blocked)."""

    account_id: str
    symbol: str
    hour: int
    direction: Direction
    entry_type: EntryType
    offset: int
    stop_distance: int
    target_distance: int
    lasts_hours: int
    setup: Setup
    percent: int
    calibrated: int | None
    conviction: int
    ev: bool
    blocked_by: tuple[str, ...]
    events: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """One report of bars of one interval: hours into the week, with open, high, low and close."""

    symbol: str
    interval: timedelta
    accounts: tuple[str, ...] | None
    bars: tuple[tuple[int, tuple[int, int, int, int]], ...]


Step: TypeAlias = tuple[str, int]
"""`("event", n)`: the next event of idea n; `("again", n)`: its latest told again; `("bars", n)`: report n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened, the order of time, and another order with repetitions."""

    ideas: tuple[Idea, ...]
    reports: tuple[Bars, ...]
    in_order: tuple[Step, ...]
    shuffled: tuple[Step, ...]


def _events(draw: st.DrawFn) -> tuple[dict[str, Any], ...]:
    """Fills, a closing and corrections of them, each valid after those before it."""
    events: list[dict[str, Any]] = []
    price = st.integers(90, 110).map(Decimal)
    if draw(st.booleans()):
        events.append(
            {
                "event_id": "fill",
                "kind": EventKind.FILLED,
                "quantity": draw(st.integers(1, TICKET)),
                "price": draw(price),
            }
        )
    told = draw(st.sampled_from([None, "price", "realized_pnl"]))
    if told is None:
        return tuple(events)
    events.append(
        {
            "event_id": "exit",
            "kind": EventKind.CLOSED,
            "exit_reason": draw(st.sampled_from(ExitReason)),
            "price": draw(price) if told == "price" else None,
            "realized_pnl": Decimal(draw(st.integers(-500, 900))) if told == "realized_pnl" else None,
            "fees": draw(st.sampled_from([None, Decimal("0.53")])),
        }
    )
    for number in range(draw(st.integers(0, 2))):
        corrected = draw(
            st.sampled_from([event["event_id"] for event in events if event["event_id"] in ("fill", "exit")])
        )
        events.append(
            {
                "event_id": f"correction-{number}",
                "kind": EventKind.CORRECTED,
                "corrects": corrected,
                "price": draw(price),
                "exit_reason": draw(st.sampled_from([None, *ExitReason])) if corrected == "exit" else None,
            }
        )
    return tuple(events)


@st.composite
def _ideas(draw: st.DrawFn) -> Idea:
    blocked_by = draw(st.sampled_from([(), (), ("LOW_CONVICTION",), ("NEGATIVE_EV", "LOW_CONVICTION")]))
    return Idea(
        account_id=draw(st.sampled_from(ACCOUNTS)),
        symbol=draw(st.sampled_from(SYMBOLS)),
        hour=draw(st.integers(0, 60)),
        direction=draw(st.sampled_from(Direction)),
        entry_type=draw(st.sampled_from(EntryType)),
        offset=draw(st.integers(-3, 3)),
        stop_distance=draw(st.integers(1, 6)),
        target_distance=draw(st.integers(1, 8)),
        lasts_hours=draw(st.sampled_from([1, 3, 8, 24, 48])),
        setup=draw(st.sampled_from([Setup.MOMENTUM, Setup.BREAKOUT])),
        percent=draw(st.integers(1, 99)),
        calibrated=draw(st.none() | st.integers(1, 99)),
        conviction=draw(st.integers(0, 100)),
        ev=draw(st.booleans()),
        blocked_by=blocked_by,
        events=() if blocked_by else _events(draw),
    )


@st.composite
def _reports(draw: st.DrawFn) -> tuple[Bars, ...]:
    """Bars of each symbol and interval, with holes, in any cut; what two reports say of one bar is the same."""
    reports: list[Bars] = []
    for symbol in SYMBOLS:
        for interval in draw(st.lists(st.sampled_from(INTERVALS), unique=True, min_size=1, max_size=3)):
            step = int(interval / HOUR)
            starts = draw(st.lists(st.sampled_from(range(0, LAST_HOUR, step)), unique=True, min_size=3, max_size=12))
            known = {start: draw(_prices()) for start in starts}
            for _ in range(draw(st.integers(1, 4))):
                some = draw(st.lists(st.sampled_from(sorted(known)), unique=True, min_size=1, max_size=6))
                accounts = draw(st.sampled_from([None, None, ("a",)]))
                bars = tuple((start, known[start]) for start in sorted(some))
                reports.append(Bars(symbol=symbol, interval=interval, accounts=accounts, bars=bars))
    return tuple(reports)


def _prices() -> st.SearchStrategy[tuple[int, int, int, int]]:
    prices = st.integers(91, 109)

    def bar(four: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        return four[0], max(four), min(four), four[3]

    return st.tuples(prices, prices, prices, prices).map(bar)


@st.composite
def stories(draw: st.DrawFn) -> Story:
    ideas = tuple(draw(st.lists(_ideas(), min_size=2, max_size=6)))
    reports = draw(_reports())
    events: list[Step] = [("event", number) for number, idea in enumerate(ideas) for _ in idea.events]
    by_time = sorted(range(len(reports)), key=lambda number: reports[number].bars[-1][0])
    in_order = (*events, *(("bars", number) for number in by_time))
    repeated = draw(st.lists(st.sampled_from([("again", number) for number in range(len(ideas))]), max_size=4))
    repeated += draw(st.lists(st.sampled_from([("bars", number) for number in range(len(reports))]), max_size=4))
    shuffled = tuple(draw(st.permutations([*in_order, *repeated])))
    return Story(ideas=ideas, reports=reports, in_order=in_order, shuffled=shuffled)


class Telling:
    """One telling of a story, in a week of its own."""

    def __init__(self, pool: ConnectionPool, story: Story, *, week: datetime) -> None:
        self.pool = pool
        self.story = story
        self.week = week
        self.tickets: list[StoredTicket] = []
        self.told: Counter[int] = Counter()

    async def decide(self) -> None:
        """Record the decisions."""
        store = Store(self.pool)
        for idea in self.story.ideas:
            long = idea.direction is Direction.LONG
            sign = 1 if long else -1
            entry = Decimal(100 + idea.offset)
            as_of = self.week + idea.hour * HOUR
            record = await stored(
                store,
                decision(
                    account_id=idea.account_id,
                    symbol=idea.symbol,
                    as_of=as_of,
                    direction=idea.direction,
                    setup=idea.setup,
                    conviction=idea.conviction,
                    blocked_by=idea.blocked_by,
                    verdict=Verdict.BLOCKED if idea.blocked_by else Verdict.APPROVED,
                    reason_code=idea.blocked_by[0] if idea.blocked_by else None,
                    ticket=None if idea.blocked_by else json.dumps({"quantity": TICKET}),
                ),
                foretelling=forecast(
                    p_win=idea.percent / 100,
                    p_win_percent=idea.percent,
                    p_win_calibrated=None if idea.calibrated is None else idea.calibrated / 100,
                    p_win_calibrated_percent=idea.calibrated,
                    ev_r=Decimal(idea.percent).scaleb(-2) if idea.ev else None,
                    entry_type=idea.entry_type,
                    entry=entry,
                    stop=entry - sign * idea.stop_distance,
                    target=entry + sign * idea.target_distance,
                    cost_usd=Decimal("0.03"),
                    time_stop_at=as_of + idea.lasts_hours * HOUR,
                ),
            )
            ticket = await find_ticket(self.pool, record.decision_id)
            assert ticket is not None
            self.tickets.append(ticket)

    async def tell(self, step: Step) -> None:
        """Report one thing."""
        kind, number = step
        if kind == "bars":
            await self._tell_bars(self.story.reports[number])
        elif kind == "event":
            await self._tell_event(number, self.told[number], repeated=False)
            self.told[number] += 1
        elif self.told[number]:
            await self._tell_event(number, self.told[number] - 1, repeated=True)

    async def _tell_event(self, number: int, place: int, *, repeated: bool) -> None:
        idea = self.story.ideas[number]
        at = self.week + idea.hour * HOUR + (place + 1) * timedelta(minutes=20)
        recorded = await record_event(
            self.pool, ticket=self.tickets[number], event=Event(at=at, **idea.events[place]), body="{}"
        )
        assert isinstance(recorded, RecordedEvent), recorded
        assert recorded.repeated is repeated

    async def _tell_bars(self, report: Bars) -> None:
        names = ("open", "high", "low", "close")
        bars = tuple(
            PriceBar(
                t=self.week + start * HOUR,
                volume=Decimal(0),
                **dict(zip(names, map(Decimal, prices), strict=True)),
            )
            for start, prices in report.bars
        )
        sent = SymbolBars(symbol=report.symbol, interval=report.interval, bars=bars)
        received = await record_bars(self.pool, sent, accounts=report.accounts)
        assert received.dropped == ()

    async def kept(self, owner: Connection) -> dict[str, Any]:
        """All sufficient statistics of the week, by the day of the week."""
        first = self.week.date()
        return {
            table: {
                tuple((name, (value - first).days if name == "day" else value) for name, value in key): amounts
                for key, amounts in rows.items()
                if first <= dict(key)["day"] < first + WEEK
            }
            for table, rows in (await statistics(owner)).items()
        }

    async def labels(self, owner: Connection) -> list[Any]:
        """The labels of the forecasts, in the order of the ideas."""
        rows = await owner.fetch(
            "SELECT * FROM forecasts WHERE day >= $1 AND day < $2 ORDER BY decision_id",
            self.week.date(),
            self.week.date() + WEEK,
        )
        return [
            {
                name: value - self.week if isinstance(value, datetime) else value
                for name, value in row.items()
                if name.startswith(("paper_", "executed_", "realized", "fees"))
            }
            for row in rows
        ]

    async def figures(self) -> list[Any]:
        """What GET /calibration says of the week, in several ways of asking."""
        window = Window(first=self.week.date(), last=self.week.date() + timedelta(days=6))
        documents = []
        for forecast_kind, source, scratch, group_by, accounts in ASKED:
            document = json.loads(
                await calibration_document(
                    self.pool,
                    Scope(accounts=accounts, window=window, source=source),
                    forecast=forecast_kind,
                    scratch=scratch,
                    group_by=group_by,
                    min_decisions=2,
                )
            )
            del document["window"]
            documents.append(document)
        return documents


ASKED: Final[Sequence[tuple[ForecastKind, Source, ScratchRule, GroupBy | None, tuple[str, ...] | None]]] = (
    (ForecastKind.P_WIN, Source.ALL, ScratchRule.ZERO, None, None),
    (ForecastKind.P_WIN_CALIBRATED, Source.PAPER, ScratchRule.HALF, GroupBy.SETUP, None),
    (ForecastKind.CONVICTION, Source.EXECUTED, ScratchRule.EXCLUDE, GroupBy.DIRECTION, ("a",)),
)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def test_any_order_repetition_and_correction_gives_the_same_figures(
    database_url: str, runner: asyncio.Runner, report_counts: CountReport
) -> None:
    counts: Counter[str] = Counter()
    weeks = iter(FIRST_WEEK + number * WEEK for number in range(3_000))
    pool = runner.run(create_pool(database_url, min_size=1, max_size=2))
    owner: Connection = runner.run(asyncpg.connect(database_url))

    async def told(story: Story, steps: Sequence[Step]) -> tuple[Any, ...]:
        telling = Telling(pool, story, week=next(weeks))
        await telling.decide()
        for step in steps:
            await telling.tell(step)
        return await telling.labels(owner), await telling.kept(owner), await telling.figures()

    @settings(max_examples=EXAMPLES)
    @given(stories())
    def same_figures(story: Story) -> None:
        in_order, shuffled = runner.run(both(story))

        assert in_order[0] == shuffled[0]
        assert in_order[1] == shuffled[1]
        assert in_order[2] == shuffled[2]
        counts[_kind(in_order[0])] += 1

    async def both(story: Story) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return await told(story, story.in_order), await told(story, story.shuffled)

    try:
        same_figures()
        runner.run(checked_statistics(owner))
    finally:
        runner.run(owner.close())
        runner.run(pool.close())
    report_counts("stories told in two orders", counts)


def _kind(labels: list[dict[str, Any]]) -> str:
    """Which labels a story had."""
    executed = any(label["executed_outcome"] for label in labels)
    on_paper = any(label["paper_outcome"] for label in labels)
    return {
        (True, True): "with labels of both kinds",
        (True, False): "with executed labels",
        (False, True): "with paper labels",
    }.get((executed, on_paper), "without a label")
