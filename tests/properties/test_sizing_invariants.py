"""What rulebook §6 promises of every size, whatever the market, the account and the reply.

The monotonicity properties compare the sized quantity before gates (the smallest cap) in a world and in a
worse one, where both could be sized: a quantity that is not there because an input is missing is no size.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.verdict import Judgement
from tests.properties import worlds as scenery
from tests.properties.counts import CountReport
from tests.properties.crossing import judged_by_service
from tests.properties.limits import broken_limits
from tests.properties.worlds import Draw, World, between, pick, worlds

LEAST_ORDERS = 0.30
LEAST_SIZED = 0.30
Worsen: TypeAlias = Callable[[Draw, World], None]


# ------------------------------------------------------------------------------------------- one judgement


def test_no_order_breaks_a_limit(report_counts: CountReport) -> None:
    verdicts: Counter[str] = Counter()

    @given(worlds())
    def fill_the_order(world: World) -> None:
        judgement = judged_by_service(world)
        verdicts[judgement.verdict] += 1
        if judgement.ticket is None:
            assert not judgement.should_execute
            return
        check_order(world, judgement)

    fill_the_order()

    report_counts("orders within limits", verdicts)
    assert (verdicts["approved"] + verdicts["resized"]) / verdicts.total() >= LEAST_ORDERS


def check_order(world: World, judgement: Judgement) -> None:
    assert judgement.ticket is not None
    assert judgement.sizing is not None
    assert judgement.candidate is not None
    candidate = next(c for c in world.reply["candidates"] if scenery_of(c) == scenery_of(judgement.candidate))
    quantity, risk_per_share = judgement.ticket.quantity, Fraction(judgement.sizing.risk_per_share)

    assert broken_limits(world, candidate, quantity=quantity, risk_per_share=risk_per_share) == []
    assert isinstance(quantity, int)
    assert quantity == judgement.sizing.quantity
    assert quantity * risk_per_share <= budget_of(world, judgement)
    check_collar(world, judgement)


def scenery_of(candidate: Any) -> tuple[Any, ...]:
    """What tells one candidate of a reply from another."""
    names = ("symbol", "direction", "entry_type", "entry_price", "stop_loss", "target_price", "conviction", "p_win_pct")
    record = candidate if isinstance(candidate, dict) else {name: getattr(candidate, name) for name in names}
    return tuple(record[name] or None for name in names)


def budget_of(world: World, judgement: Judgement) -> Fraction:
    """The dollars that the trade may lose: equity x risk_bps / 10,000."""
    assert judgement.sizing is not None
    return Fraction(world.account["equity"]) * Fraction(judgement.sizing.risk_bps) / 10_000


def check_collar(world: World, judgement: Judgement) -> None:
    """A fill anywhere within the ticket's collar loses no more than the budget at the stop."""
    assert judgement.ticket is not None
    collar, stop = judgement.ticket.price_collar, judgement.ticket.stop_loss
    assert collar is not None
    assert stop is not None
    worst = max(abs(Fraction(collar.low) - Fraction(stop)), abs(Fraction(collar.high) - Fraction(stop)))

    assert 0 < collar.low <= collar.high
    assert judgement.ticket.quantity * worst <= budget_of(world, judgement)


def test_every_size_is_whole_and_within_every_cap_and_the_risk_budget(report_counts: CountReport) -> None:
    sizes: Counter[str] = Counter()

    @given(worlds())
    def size(world: World) -> None:
        sizing = judged_by_service(world).sizing
        sizes["not sized" if sizing is None else "zero" if sizing.quantity == 0 else "sized"] += 1
        if sizing is None:
            return
        equity = Fraction(world.account["equity"])

        assert isinstance(sizing.quantity, int)
        assert sizing.quantity >= 0
        assert sizing.quantity == min(cap.max_quantity for cap in sizing.caps)
        assert all(isinstance(cap.max_quantity, int) for cap in sizing.caps)
        assert sizing.risk_per_share > 0
        risk = sizing.quantity * Fraction(sizing.risk_per_share)
        assert risk <= equity * Fraction(sizing.risk_bps) / 10_000
        assert risk <= equity * world.policy["per_trade_risk_bps"] / 10_000

    size()

    report_counts("sizes", sizes)
    assert sizes["sized"] / sizes.total() >= LEAST_SIZED


# ------------------------------------------------------------------------------------------- monotonicity

CALM = tuple(
    trouble
    for trouble in scenery.TROUBLES
    # A sent ATR may be overruled by bars (§2), so the ATR that is made to grow is the only one; and of several
    # candidates another one may be reported in the worse world, so there is only one.
    if trouble not in {scenery.add_bars, scenery.change_reply, scenery.paralyse}
)


def candidate_of(world: World) -> scenery.Record:
    return scenery.first(world)


def growth(draw: Draw) -> Decimal:
    """A factor above 1, often close to it."""
    step: Decimal = pick(draw, Decimal("0.0001"), Decimal("0.01"), Decimal("0.1"), Decimal(1))
    return 1 + step * between(draw, 1, 5)


def amount(draw: Draw, world: World) -> Decimal:
    """Dollars: some basis points or percents of equity."""
    equity, parts = world.account["equity"], Decimal(pick(draw, 100_000, 1000))
    return equity * between(draw, 1, 300) / parts  # type: ignore[no-any-return]


def atr_grows(draw: Draw, world: World) -> None:
    entry = scenery.entry_of(world)
    if entry["atr"]:
        entry["atr"] *= growth(draw)


def spread_grows(draw: Draw, world: World) -> None:
    """Around the same mid, or as claimed."""
    entry = scenery.entry_of(world)
    bid, ask = entry.get("bid"), entry.get("ask")
    if bid is not None and ask is not None:
        wider = min(bid / 2, entry["price"] * between(draw, 1, 200) / 10_000)
        entry.update({"bid": bid - wider, "ask": ask + wider})
    elif entry.get("spread_pct") is not None:
        entry["spread_pct"] += Decimal(between(draw, 1, 200)) / 10_000


def drawdown_grows(draw: Draw, world: World) -> None:
    """Money is lost: equity and both P&L fall by the same amount, so each baseline stays."""
    account = world.account
    lost = min(amount(draw, world), account["equity"] * Decimal("0.9"))
    account["equity"] -= lost
    for period in ("daily_pnl", "weekly_pnl"):
        if account[period] is not None:
            account[period] -= lost


def deepest_loss_grows(draw: Draw, world: World) -> None:
    """An earlier request of the day or week showed a deeper loss."""
    world.state[pick(draw, "day_deepest_loss_usd", "week_deepest_loss_usd")] += amount(draw, world)


def equity_falls(draw: Draw, world: World) -> None:
    """Equity alone, all else as it was."""
    world.account["equity"] /= growth(draw)


def position_grows(draw: Draw, world: World) -> None:
    """More shares of something held, at the same mark and stop."""
    if world.account["positions"]:
        position = draw(st.sampled_from(world.account["positions"]))
        position["quantity"] = (position["quantity"] or Decimal(1)) * between(draw, 2, 5)


def mark_grows(draw: Draw, world: World) -> None:
    """A long position is worth more.

    Longs only: a short's higher mark is also a shorter way to its stop, so at the same equity and P&L its open
    risk shrinks by what its exposure grows.
    """
    held = [p for p in world.account["positions"] if p["quantity"] > 0 and p["mark_price"] is not None]
    if held:
        draw(st.sampled_from(held))["mark_price"] *= growth(draw)


def position_opens(draw: Draw, world: World) -> None:
    """Something else is held besides, in a bucket of the candidate's own."""
    symbol = scenery.entry_of(world)["symbol"]
    if any(position["symbol"] == "XXXX" for position in world.account["positions"]):
        return
    sign = pick(draw, 1, -1)
    quantity = Decimal(between(draw, 1, 2000))
    world.account["positions"].append(
        {"symbol": "XXXX", "quantity": sign * quantity, "mark_price": Decimal(40), "stop_loss": 40 - sign * Decimal(1)}
    )
    world.state["position_buckets"]["XXXX"] = (*scenery.BUCKET_MAP.get(symbol, ("unclassified",)),)


def reservation_opens(draw: Draw, world: World) -> None:
    scenery.reserve(draw, world)


def more_is_executed(draw: Draw, world: World) -> None:
    """More was traded today, as sent or as stored."""
    if draw(st.booleans()):
        world.state["executed_notional_usd"] += amount(draw, world) * 10
    else:
        sent = world.account.get("daily_executed_notional") or Decimal(0)
        world.account["daily_executed_notional"] = sent + amount(draw, world) * 10


def conviction_falls(draw: Draw, world: World) -> None:
    candidate = candidate_of(world)
    candidate["conviction"] = between(draw, 0, candidate["conviction"])


def p_win_falls(draw: Draw, world: World) -> None:
    candidate = candidate_of(world)
    candidate["p_win_pct"] = between(draw, 1, candidate["p_win_pct"])


def record_is_rejected(draw: Draw, world: World) -> None:
    """The decider is derated."""
    world.derated = True


WORSE: tuple[Worsen, ...] = (
    atr_grows,
    spread_grows,
    drawdown_grows,
    deepest_loss_grows,
    equity_falls,
    position_grows,
    mark_grows,
    position_opens,
    reservation_opens,
    more_is_executed,
    conviction_falls,
    p_win_falls,
    record_is_rejected,
)


@st.composite
def worse_worlds(draw: Draw, worsen: Worsen) -> tuple[World, World]:
    """A world and the same one after something got worse."""
    world = draw(worlds(CALM, most_candidates=1))
    worse = copy.deepcopy(world)
    worsen(draw, worse)
    return world, worse


@pytest.mark.parametrize("worsen", WORSE, ids=lambda worsen: str(worsen.__name__))
def test_the_size_never_grows_when(worsen: Worsen, report_counts: CountReport) -> None:
    sizes: Counter[str] = Counter()

    @given(worse_worlds(worsen))
    def judge_both(pair: tuple[World, World]) -> None:
        before, after = (judged_by_service(world).sizing for world in pair)
        if before is None or after is None:
            sizes["not sized"] += 1
            return
        sizes[outcome(before.quantity, after.quantity)] += 1

        assert after.quantity <= before.quantity
        # What is promised of the smallest cap holds of each one that both worlds have.
        caps = {cap.cap: cap.max_quantity for cap in before.caps}
        assert grown(caps, ((cap.cap, cap.max_quantity) for cap in after.caps)) == []

    judge_both()

    report_counts(f"size when {worsen.__name__.replace('_', ' ')}", sizes)
    assert 1 - sizes["not sized"] / sizes.total() >= LEAST_SIZED


def outcome(before: int, after: int) -> str:
    return "zero before" if before == 0 else "smaller" if after < before else "larger" if after > before else "same"


def grown(caps: dict[str, int], after: Iterable[tuple[str, int]]) -> list[str]:
    return [name for name, quantity in after if quantity > caps.get(name, quantity)]
