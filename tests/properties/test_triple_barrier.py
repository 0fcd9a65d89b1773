"""Paper labels on the shipped bars are those of a slower, independent reading, and hang on nothing but the bars."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import islice
from random import Random
from typing import Final

from app.domain.edge import assess_edge
from app.domain.outcome import OutcomeClass, Plan, rounded_r
from app.domain.policy import ScaleOut
from app.domain.proposal import Direction, EntryType
from app.domain.triple_barrier import PaperLabel, PaperState, PriceBar, clean_bars, paper_label
from app.sample import shipped_bars
from tests.properties.counts import CountReport
from tests.slow_barriers import SlowLabel, slow_label

PROPOSALS: Final = 12_000 if os.environ.get("PROVE") == "1" else 1_500
ORDERINGS: Final = PROPOSALS // 5
LEAST_OF_EACH: Final = 0.01
"""Each kind of case must make up at least this share, or the agreement would say nothing about it."""
DAY: Final = timedelta(days=1)
NOW: Final = datetime(2026, 11, 20, tzinfo=UTC)
CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposed:
    """A plan, and the bars of its symbol that are known when it is labelled."""

    plan: Plan
    bars: tuple[PriceBar, ...]

    def label(self) -> PaperLabel:
        return paper_label(plan=self.plan, bars=self.bars, interval=DAY)

    def slow_label(self) -> SlowLabel:
        return slow_label(plan=self.plan, bars={bar.t: bar for bar in self.bars}, interval=DAY)


@cache
def real_bars() -> Mapping[str, tuple[PriceBar, ...]]:
    """The shipped bars without the 151 dirty ones."""
    return {
        symbol: clean_bars(
            [
                PriceBar(
                    t=datetime.combine(bar.day, time(), UTC),
                    open=bar.open,
                    high=bar.high,
                    low=bar.low,
                    close=bar.close,
                    volume=Decimal(bar.volume),
                )
                for bar in series
            ],
            interval=DAY,
            now=NOW,
        ).kept
        for symbol, series in shipped_bars().items()
    }


def proposals(seed: int) -> Iterator[Proposed]:
    """Plans of every kind on random days, without end; a quarter of their prices are prices that bars touch."""
    rng = Random(seed)
    while True:
        series = real_bars()[rng.choice(sorted(real_bars()))]
        today = rng.randrange(20, len(series) - 1)
        coming = series[today : today + 40]
        plan = _plan(rng, series=series, today=today, coming=coming)
        if plan is None:
            continue
        known = list(coming) if rng.random() < 0.9 else list(coming[: rng.randrange(len(coming))])
        if rng.random() < 0.2:
            known = [bar for bar in known if rng.random() < 0.8]
        yield Proposed(plan=plan, bars=(*series[today - 3 : today], *known))


def _plan(rng: Random, *, series: tuple[PriceBar, ...], today: int, coming: tuple[PriceBar, ...]) -> Plan | None:
    direction, entry_type = rng.choice(list(Direction)), rng.choice(list(EntryType))
    sign = 1 if direction is Direction.LONG else -1
    width = sum((bar.high - bar.low for bar in series[today - 14 : today]), Decimal(0)) / 14
    price = series[today].open
    touched = [price for bar in coming[:6] for price in (bar.open, bar.high, bar.low, bar.close)]

    def distance() -> Decimal:
        low, high = rng.choice([(0.05, 0.4), (0.4, 1.5), (1.5, 5.0)])
        return Decimal(rng.uniform(low, high)) * width

    def snapped(value: Decimal) -> Decimal:
        return rng.choice(touched) if rng.random() < 0.25 else value.quantize(CENT)

    entry = price if entry_type is EntryType.MARKET else snapped(price + Decimal(rng.gauss(0, 1.2)) * width)
    stop, target = snapped(entry - sign * distance()), snapped(entry + sign * distance())
    if not 0 < sign * (entry - stop) < entry or not 0 < sign * (target - entry) < entry:
        return None
    as_of = series[today].t + rng.choice([timedelta(0), timedelta(hours=15, minutes=30), DAY - timedelta(seconds=1)])
    return Plan(
        direction=direction,
        entry_type=entry_type,
        entry=entry,
        stop=stop,
        target=target,
        cost_usd=(entry * Decimal(rng.uniform(0, 0.002))).quantize(Decimal("0.000001")),
        as_of=as_of,
        time_stop_at=as_of + timedelta(hours=rng.randint(24, 480)),
        ev_r=None,
    )


def kinds_of(proposed: Proposed, label: PaperLabel) -> list[str]:
    """Name what makes a case worth counting."""
    plan, outcome = proposed.plan, label.outcome
    if outcome is None:
        return ["never filled" if label.state is PaperState.UNFILLED else "pending"]
    kinds = [str(outcome.outcome)]
    if outcome.outcome is OutcomeClass.TIMEOUT:
        return kinds
    if outcome.exit_price not in (plan.stop, plan.target):
        kinds.append("gap beyond a barrier")
    low, high = sorted((plan.stop, plan.target))
    if any(
        bar.low <= low and bar.high >= high and bar.t <= outcome.exit_at <= bar.t + DAY and bar.t >= plan.as_of
        for bar in proposed.bars
    ):
        kinds.append("both touched in one bar")
    if plan.entry_type is not EntryType.MARKET and outcome.exit_at - (outcome.entered_at or NOW) <= DAY:
        kinds.append("in and out in one bar")
    return kinds


def test_paper_labels_agree_with_a_slower_reading_of_the_real_bars(report_counts: CountReport) -> None:
    counts: Counter[str] = Counter()
    orders: Counter[str] = Counter()
    for proposed in islice(proposals(seed=4), PROPOSALS):
        label, slow = proposed.label(), proposed.slow_label()
        outcome = label.outcome
        actual = SlowLabel(state=str(label.state))
        if outcome is not None:
            actual = SlowLabel(
                state=str(label.state),
                outcome=str(outcome.outcome),
                r_multiple=Fraction(outcome.r_multiple),
                exit_price=None if outcome.exit_price is None else Fraction(outcome.exit_price),
                exit_at=outcome.exit_at,
                entered_at=outcome.entered_at,
            )

        assert actual == slow, proposed

        counts.update(kinds_of(proposed, label))
        orders[f"{proposed.plan.direction} {proposed.plan.entry_type}"] += 1
    report_counts(f"triple barrier against a slower reading, {PROPOSALS} proposals", orders)
    report_counts("their cases, some of two kinds", counts)
    expected = {
        "win",
        "loss",
        "timeout",
        "never filled",
        "pending",
        "gap beyond a barrier",
        "both touched in one bar",
        "in and out in one bar",
    }
    assert {kind for kind, count in counts.items() if count >= LEAST_OF_EACH * PROPOSALS} == expected
    assert len(orders) == len(Direction) * len(EntryType)


def test_a_label_hangs_on_the_set_of_bars_and_not_on_the_order_in_which_they_came() -> None:
    rng = Random(5)
    for proposed in islice(proposals(seed=6), ORDERINGS):
        shuffled = rng.sample(proposed.bars, k=len(proposed.bars))

        assert replace(proposed, bars=tuple(shuffled)).label() == proposed.label(), proposed


def test_bars_after_the_resolution_change_nothing(report_counts: CountReport) -> None:
    counts: Counter[str] = Counter()
    for proposed in islice(proposals(seed=7), ORDERINGS):
        final = proposed.label()
        settled = False
        for known in range(len(proposed.bars) + 1):
            label = replace(proposed, bars=proposed.bars[:known]).label()
            settled = settled or label.state is not PaperState.PENDING

            assert label.state is PaperState.PENDING if not settled else label == final, proposed

        counts[str(final.state)] += 1
    report_counts("labels as bars arrive one by one", counts)


def test_a_full_stop_is_minus_one_and_the_target_is_the_risk_reward_that_was_judged(
    report_counts: CountReport,
) -> None:
    counts: Counter[str] = Counter()
    for proposed in islice(proposals(seed=8), PROPOSALS):
        plan, outcome = proposed.plan, proposed.label().outcome
        if outcome is None or plan.entry_type is not EntryType.MARKET:
            continue
        reward = rounded_r(risk_reward(plan))
        if outcome.exit_price == plan.stop:
            counts["full stop"] += 1
            assert outcome.r_multiple == -1, proposed
        elif outcome.exit_price == plan.target:
            counts["target"] += 1
            assert outcome.r_multiple == reward, proposed
        elif outcome.outcome is OutcomeClass.LOSS:
            counts["gap beyond the stop"] += 1
            assert outcome.r_multiple < -1, proposed
        elif outcome.outcome is OutcomeClass.WIN:
            counts["gap beyond the target"] += 1
            assert outcome.r_multiple > reward, proposed
        elif any(plan.as_of <= bar.t < plan.time_stop_at for bar in proposed.bars):
            counts["timeout at a close"] += 1
            assert -1 < outcome.r_multiple < reward, proposed
        else:
            counts["timeout at the next open"] += 1
    report_counts("R of market entries", counts)
    assert len(counts) == 6


def risk_reward(plan: Plan) -> Decimal:
    """b as the edge has it; the probabilities do not go into it."""
    return assess_edge(
        entry=plan.entry,
        stop=plan.stop,
        target=plan.target,
        cost=plan.cost_usd,
        p_win_raw=Decimal("0.5"),
        p_win=Decimal("0.5"),
        scale_out=ScaleOut.OFF,
    ).risk_reward
