"""Tests of the rules decider."""

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.account import AccountState, Position
from app.domain.indicators import Bar
from app.domain.market import MarketView, SymbolSnapshot
from app.domain.policy import Policy
from app.domain.proposal import Candidate, Direction, EntryType, Manage, Mode, Proposal, Setup, candidate_fault
from app.domain.verdict import Verdict, judge
from app.llm.prompt import build_prompt
from app.llm.rules import RULES_VERSION, RulesDecider, propose_by_rules
from app.sample import DailyBar, shipped_bars
from tests.llm.builders import AS_OF, account, bounds, nvda, view

DIP: dict[str, Any] = {"price": Decimal(112), "bid": None, "ask": None, "rsi": 25.0}
"""2.2 ATR below MA20."""


def proposed(*symbols: SymbolSnapshot, positions: tuple[Position, ...] = (), policy: Policy | None = None) -> Proposal:
    """What the rules propose for some symbols (default: NVDA of the rulebook's example)."""
    return propose_by_rules(market=view(*symbols), account=account(positions=positions), policy=policy or Policy())


def held(**changes: Any) -> Position:
    """A long position in NVDA, bought when its price was above MA50."""
    example = Position(symbol="NVDA", quantity=Decimal(10), avg_price=Decimal(120), stop_loss=Decimal(110))
    return replace(example, **changes)


def setups_of(proposal: Proposal) -> list[Setup]:
    return [candidate.setup for candidate in proposal.candidates]


# --- entries -------------------------------------------------------------------------------------------


def test_the_rulebooks_example_gives_a_momentum_trade() -> None:
    (candidate,) = proposed().candidates

    # Stop 1.2 x 4.1 = 4.92 below the ask. Costs: 125.42 x (0.000319/2 + 2 x 0.00005) = 0.03254.
    # Target: (1.8 + 0.2) x (4.92 + 0.03254) + 0.03254 = 9.93762 above it, up to the next cent.
    # p_win: 1.11 / (1 + 9.94/4.92) = 36.75 %.
    assert replace(candidate, thesis="") == Candidate(
        symbol="NVDA",
        direction=Direction.LONG,
        setup=Setup.MOMENTUM,
        entry_type=EntryType.LIMIT,
        entry_price=Decimal("125.42"),
        stop_loss=Decimal("120.50"),
        target_price=Decimal("135.36"),
        time_stop_hours=1440,
        p_win_pct=37,
        # Strength: trend (121 - 117.5)/8.2 = 0.427, lead 4.4/8.2 = 0.537, RSI 11/25 = 0.44; mean 0.468.
        # 55 + 30 x 0.468 = 69.
        conviction=69,
        thesis="",
    )
    assert len(candidate.thesis.split()) <= 40


def test_the_trade_of_the_rulebooks_example_is_approved() -> None:
    market, of, policy = view(), account(), Policy()
    judgement = judge(
        decision_id="0193",
        outcome=propose_by_rules(market=market, account=of, policy=policy),
        market=market,
        account=of,
        state=AccountState(now=AS_OF),
        policy=policy,
        decider_serves_live=False,
    )

    assert judgement.verdict is Verdict.APPROVED
    assert judgement.ticket is not None


@pytest.mark.parametrize(
    ("changes", "setups"),
    [
        ({}, [Setup.MOMENTUM]),
        ({"rsi": 50.0}, [Setup.MOMENTUM]),
        ({"rsi": 49.9}, []),
        ({"rsi": 74.9}, [Setup.MOMENTUM]),
        ({"rsi": 75.0}, []),
        ({"ma_20": 125.3}, [Setup.MOMENTUM]),
        ({"ma_20": 125.4}, []),
        ({"ma_50": 120.9}, [Setup.MOMENTUM]),
        ({"ma_50": 121.0}, []),
        (DIP, [Setup.MEAN_REVERSION]),
        (DIP | {"rsi": 29.9}, [Setup.MEAN_REVERSION]),
        (DIP | {"rsi": 30.0}, []),
        (DIP | {"price": Decimal("114.85")}, [Setup.MEAN_REVERSION]),  # 121 - 1.5 x 4.1
        (DIP | {"price": Decimal("114.86")}, []),
    ],
)
def test_an_entry_needs_every_part_of_its_signal(changes: dict[str, Any], setups: list[Setup]) -> None:
    assert setups_of(proposed(nvda(**changes))) == setups


@pytest.mark.parametrize("field", ["atr", "rsi", "ma_20", "ma_50"])
def test_a_symbol_without_what_the_rules_read_is_left_out(field: str) -> None:
    proposal = proposed(nvda(**{field: None}))

    assert proposal.mode is Mode.NEUTRAL


def test_an_atr_too_small_for_a_float_is_none() -> None:
    assert proposed(nvda(atr=Decimal("1e-400"))).mode is Mode.NEUTRAL


def test_indicators_that_bars_give_are_as_good_as_sent_ones() -> None:
    days = [AS_OF - timedelta(days=number) for number in range(60, 0, -1)]
    # Two steps up, one down: the trend rises and RSI stays near 60.
    closes = [100 + 0.2 * number + (1.5 if number % 3 else 0) for number in range(60)]
    bars = tuple(Bar(day, close, close + 1, close - 1, close, 1e6) for day, close in zip(days, closes, strict=True))
    bare = SymbolSnapshot(symbol="NVDA", price=Decimal("114.5"), spread_pct=Decimal("0.0005"), bars=bars)

    assert setups_of(proposed(bare)) == [Setup.MOMENTUM]


def test_a_held_symbol_is_not_proposed_again() -> None:
    assert proposed(positions=(held(),)).mode is Mode.NEUTRAL
    assert (
        proposed(positions=(held(quantity=Decimal(-10), avg_price=Decimal(130), stop_loss=Decimal(140)),)).candidates
        == ()
    )


def test_falling_prices_give_no_short() -> None:
    falling = nvda(price=Decimal(112), bid=None, ask=None, ma_20=115.0, ma_50=120.0, rsi=40.0)

    assert proposed(falling).candidates == ()


def test_what_is_weaker_than_the_action_threshold_is_watched_instead() -> None:
    strict = Policy(conviction_threshold=70)
    proposal = proposed(policy=strict)

    assert proposal.mode is Mode.WATCHLIST
    assert [(item.symbol, item.target_conviction) for item in proposal.watchlist] == [("NVDA", 70)]
    assert proposed(policy=Policy(conviction_threshold=69)).mode is Mode.TRADE


@pytest.mark.parametrize(
    ("changes", "trigger"),
    [
        ({"rsi": 80.0}, "RSI between 50 and 75"),
        ({"price": Decimal(119), "bid": None, "ask": None}, "price above MA20 (121.00)"),
        (DIP | {"rsi": 33.0}, "RSI below 30"),
    ],
)
def test_what_is_close_to_a_signal_is_watched(changes: dict[str, Any], trigger: str) -> None:
    proposal = proposed(nvda(**changes))

    assert proposal.mode is Mode.WATCHLIST
    assert [item.trigger for item in proposal.watchlist] == [trigger]


def test_without_anything_near_a_signal_the_rules_are_neutral() -> None:
    proposal = proposed(nvda(ma_20=130.0, ma_50=140.0, rsi=45.0))

    assert (proposal.mode, proposal.candidates, proposal.watchlist) == (Mode.NEUTRAL, (), ())


def test_the_three_strongest_are_proposed_and_those_the_gates_must_refuse_for_missing_data_come_last() -> None:
    symbols = (
        nvda(symbol="WEAK", rsi=52.0),
        nvda(symbol="MID", rsi=60.0),
        nvda(symbol="TOP", rsi=74.0),
        nvda(symbol="AAA", rsi=60.0),
        nvda(symbol="BARE", rsi=74.0, adv=None),
    )

    assert [candidate.symbol for candidate in proposed(*symbols).candidates] == ["TOP", "AAA", "MID"]
    assert [candidate.symbol for candidate in proposed(*symbols[-1:]).candidates] == ["BARE"]


POLICIES = [
    Policy(),
    Policy(min_risk_reward=Decimal(3)),
    Policy(aggressiveness_level=3),
    Policy(atr_mult_trend=Decimal(2), atr_mult_reversion=Decimal(20)),
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("changes", [{}, DIP, {"bid": None, "ask": None, "spread_pct": Decimal("0.002")}])
def test_an_entry_passes_the_gates_that_judge_its_prices(policy: Policy, changes: dict[str, Any]) -> None:
    market, of = view(nvda(**changes)), account()
    proposal = propose_by_rules(market=market, account=of, policy=policy)
    judgement = judge(
        decision_id="0193", outcome=proposal, market=market, account=of, state=AccountState(now=AS_OF), policy=policy
    )

    # Where the policy's stop puts the target out of its own reach, nothing is proposed.
    assert proposal.candidates == () or judgement.reason_code is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bid": None, "ask": None, "spread_pct": Decimal("0.02")}, "SPREAD_TOO_WIDE"),
        ({"bid": None, "ask": None, "spread_pct": None}, "MISSING_SPREAD"),
        ({"adv": None}, "MISSING_ADV"),
        ({"adv": Decimal(1000)}, "ILLIQUID"),
        ({"market_cap": Decimal(1000)}, "MICROCAP"),
        ({"bid": Decimal(126), "ask": Decimal(125)}, "QUOTES_INCONSISTENT"),
    ],
)
def test_what_only_a_gate_may_judge_is_proposed_and_left_to_the_gate(changes: dict[str, Any], code: str) -> None:
    market, of, policy = view(nvda(**changes)), account(), Policy()
    proposal = propose_by_rules(market=market, account=of, policy=policy)
    judgement = judge(
        decision_id="0193", outcome=proposal, market=market, account=of, state=AccountState(now=AS_OF), policy=policy
    )

    assert judgement.reason_code == code


def test_a_target_out_of_reach_is_not_proposed() -> None:
    assert proposed(policy=Policy(max_target_atr=Decimal("2.4"))).candidates == ()


@given(
    price=st.decimals("0.0001", "9999999999999", places=4),
    atr_pct=st.floats(0.0001, 3),
    lead=st.floats(-6, 6),
    trend=st.floats(-6, 6),
    rsi=st.floats(0, 100),
    spread_pct=st.none() | st.decimals("0", "0.2", places=4),
)
def test_whatever_is_proposed_has_its_prices_on_the_right_sides_and_an_expected_gain(
    price: Decimal, atr_pct: float, lead: float, trend: float, rsi: float, spread_pct: Decimal | None
) -> None:
    atr = float(price) * atr_pct
    ma_20 = float(price) - lead * atr
    snapshot = SymbolSnapshot(
        symbol="NVDA",
        price=price,
        atr=Decimal(repr(atr)),
        spread_pct=spread_pct,
        rsi=rsi,
        ma_20=ma_20,
        ma_50=ma_20 - trend * atr,
    )

    for candidate in proposed(snapshot).candidates:
        assert candidate_fault(candidate) is None
        assert candidate.entry_price is not None
        assert candidate.stop_loss is not None
        assert candidate.target_price is not None
        assert 0 < candidate.stop_loss < price <= candidate.entry_price < candidate.target_price
        assert 55 <= candidate.conviction <= 85
        reward_risk = (candidate.target_price - candidate.entry_price) / (candidate.entry_price - candidate.stop_loss)
        assert candidate.p_win_pct * (1 + reward_risk) > 100


# --- exits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("position", "price", "reason"),
    [
        (held(), "118", None),
        (held(), "117.4", "crossed MA50"),
        (held(), "109.9", "beyond the stop"),
        (held(stop_loss=None), "117.4", "crossed MA50"),
        (held(avg_price=None), "117.4", "crossed MA50"),
        (held(avg_price=Decimal(112)), "114", None),  # a dip bought below MA50
        (held(avg_price=Decimal(112)), "109.9", "beyond the stop"),
        (held(quantity=Decimal(-10), avg_price=Decimal(115), stop_loss=Decimal(130)), "117.4", None),
        (held(quantity=Decimal(-10), avg_price=Decimal(115), stop_loss=Decimal(130)), "117.6", "crossed MA50"),
        (held(quantity=Decimal(-10), avg_price=Decimal(125), stop_loss=Decimal(130)), "119", None),
        (held(quantity=Decimal(-10), avg_price=Decimal(125), stop_loss=Decimal(130)), "130.1", "beyond the stop"),
        (held(quantity=Decimal(0)), "100", None),
    ],
)
def test_a_position_is_closed_when_its_stop_or_trend_is_broken(
    position: Position, price: str, reason: str | None
) -> None:
    snapshot = nvda(price=Decimal(price), bid=None, ask=None, rsi=45.0)
    proposal = proposed(snapshot, positions=(position,))

    assert (proposal.mode is Mode.EXIT) == (reason is not None)
    if reason is not None:
        assert proposal.manage is not None
        assert reason in proposal.manage.reason
        assert proposal.manage == Manage(
            symbol="NVDA", reduce_pct=None, new_stop=None, new_target=None, reason=proposal.manage.reason
        )


def test_without_ma_50_a_position_is_left_to_its_stop() -> None:
    below_cost = {"price": Decimal(115), "bid": None, "ask": None, "ma_50": None}

    assert proposed(nvda(**below_cost), positions=(held(),)).mode is Mode.NEUTRAL
    assert proposed(nvda(**below_cost), positions=(held(stop_loss=Decimal(116)),)).mode is Mode.EXIT


def test_an_exit_comes_before_any_entry_and_a_broken_stop_before_a_broken_trend() -> None:
    broken = {"price": Decimal(112), "bid": None, "ask": None}
    symbols = (nvda(symbol="AAA", **broken), nvda(symbol="BBB", **broken), nvda(symbol="NVDA"))
    positions = (held(symbol="AAA"), held(symbol="BBB", stop_loss=Decimal(113)))
    proposal = proposed(*symbols, positions=positions)

    assert proposal.candidates == ()
    assert proposal.manage is not None
    assert proposal.manage.symbol == "BBB"


def test_a_position_in_a_symbol_the_snapshot_lacks_is_left_alone() -> None:
    assert proposed(positions=(held(symbol="AAPL"),)).mode is Mode.TRADE


# --- the claim -----------------------------------------------------------------------------------------


def _as_bar(daily: DailyBar) -> Bar:
    opened = datetime.combine(daily.day, time(), UTC)
    prices = (float(daily.open), float(daily.high), float(daily.low), float(daily.close))
    return Bar(opened, *prices, float(daily.volume))


def _won(candidate: Candidate, following: list[Bar]) -> bool:
    """Tell whether the target traded before stop and time stop; a day that holds both counts as lost."""
    stop, target = float(candidate.stop_loss or 0), float(candidate.target_price or 0)
    expires = following[0].t + timedelta(hours=candidate.time_stop_hours)
    for bar in following:
        if bar.t > expires or bar.low <= stop:
            return False
        if bar.high >= target:
            return True
    return False


def test_the_claimed_win_rate_is_what_the_shipped_bars_give() -> None:
    won: list[bool] = []
    claimed: list[int] = []
    for symbol, series in shipped_bars().items():
        bars = [_as_bar(daily) for daily in series]
        for today in range(60, len(bars) - 60, 15):
            snapshot = SymbolSnapshot(
                symbol=symbol,
                price=Decimal(repr(bars[today].open)),
                spread_pct=Decimal("0.0005"),
                bars=tuple(bars[today - 60 : today]),
            )
            market = view(snapshot, as_of=bars[today].t + timedelta(hours=15))
            proposal = propose_by_rules(market=market, account=account(positions=()), policy=Policy())
            won += [_won(candidate, bars[today:]) for candidate in proposal.candidates]
            claimed += [candidate.p_win_pct for candidate in proposal.candidates]

    # About 1,900 entries, some of them overlapping: a standard error above 1.1 points.
    assert len(won) > 1500
    assert sum(won) / len(won) == pytest.approx(sum(claimed) / len(claimed) / 100, abs=0.03)


# --- the decider ---------------------------------------------------------------------------------------


async def test_the_decider_says_who_it_is_and_never_serves_live_accounts() -> None:
    market, of, policy = view(), account(), Policy()
    prompt = build_prompt(policy=policy, market=market, account=of, bounds=bounds())
    decider = RulesDecider()
    reply = await decider.propose(prompt=prompt, market=market, account=of, policy=policy, budget_s=0.0)
    await decider.close()

    assert decider.name == "rules"
    assert decider.serves_live is False
    assert reply.outcome == propose_by_rules(market=market, account=of, policy=policy)
    assert (reply.call.name, reply.call.model) == ("rules", RULES_VERSION)
    assert reply.call.cost_usd == 0
    assert reply.call.prompt_hash == prompt.template_hash


def test_the_same_snapshot_always_gives_the_same_proposal() -> None:
    market: MarketView = view()
    first = propose_by_rules(market=market, account=account(), policy=Policy())

    assert propose_by_rules(market=market, account=account(), policy=Policy()) == first
