"""Tests of what counts of a snapshot: bars, sent and recomputed figures, quotes, news, and every issue named."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.domain.indicators import Bar
from app.domain.market import (
    Claim,
    DataIssue,
    MarketView,
    NewsItem,
    OptionsFlow,
    SymbolView,
    resolve_market,
    usable_bars,
)
from app.domain.policy import Regime
from tests.builders import (
    AS_OF,
    BUCKETS,
    a_bar,
    a_market,
    a_snapshot,
    a_symbol,
    a_view,
    bars_closing_at,
    daily_bars,
    judged,
)

YESTERDAY = datetime(2026, 11, 19, tzinfo=UTC)
BARE: dict[str, Any] = {"atr": None, "adv": None, "avg_volume": None}
"""A symbol of which only bars can tell these."""


def issues_of(view: MarketView) -> list[tuple[str | None, str, str]]:
    return [(issue.symbol, issue.field, issue.issue) for issue in view.issues]


# --- bars: which ones count ----------------------------------------------------------------------------


def test_daily_bars_before_the_day_of_the_snapshot_count() -> None:
    bars = daily_bars(20)

    assert usable_bars(bars, as_of=AS_OF) == (bars, Counter())


def test_the_bar_of_the_snapshots_own_day_does_not_count() -> None:
    bars = daily_bars(20, last=datetime(2026, 11, 20, tzinfo=UTC))

    assert usable_bars(bars, as_of=AS_OF) == (bars[:-1], Counter({"not complete before as_of": 1}))


def test_daily_bars_stamped_at_the_close_count_by_their_date() -> None:
    # 21:00 of the 19th plus a day is later than the snapshot, but the 19th is over.
    bars = daily_bars(3, last=datetime(2026, 11, 19, 21, 0, tzinfo=UTC))

    assert usable_bars(bars, as_of=AS_OF) == (bars, Counter())
    assert usable_bars(bars[-1:], as_of=AS_OF) == (bars[-1:], Counter())


def test_no_bar_from_the_future_counts() -> None:
    bars = daily_bars(20, last=datetime(2026, 11, 25, tzinfo=UTC))

    assert usable_bars(bars, as_of=AS_OF) == (bars[:-6], Counter({"not complete before as_of": 6}))


def test_the_day_of_a_bar_is_its_day_in_utc() -> None:
    # Midnight of the 20th in Tokyo is 15:00 of the 19th UTC.
    tokyo = timezone(timedelta(hours=9))
    bars = daily_bars(2, last=datetime(2026, 11, 20, tzinfo=tokyo))

    assert usable_bars(bars, as_of=AS_OF)[0] == bars


def test_the_day_of_the_snapshot_is_its_day_in_utc() -> None:
    # 20:00 of the 19th in New York is 01:00 of the 20th UTC: the bar of the 19th is complete.
    as_of = datetime(2026, 11, 19, 20, 0, tzinfo=timezone(timedelta(hours=-5)))

    assert usable_bars(daily_bars(2), as_of=as_of)[0] == daily_bars(2)


@pytest.mark.parametrize(
    ("seconds", "counted"), [(-1, 2), (0, 3), (1, 3)], ids=["just before it closed", "as it closed", "after it closed"]
)
def test_an_intraday_bar_counts_once_it_has_closed(seconds: int, counted: int) -> None:
    # Three bars of an hour; the last opened at 14:30 and closed at 15:30.
    hour = timedelta(hours=1)
    bars = tuple(a_bar(t=datetime(2026, 11, 20, 12, 30, tzinfo=UTC) + hour * step) for step in range(3))

    found, dropped = usable_bars(bars, as_of=AS_OF + timedelta(seconds=seconds))

    assert found == bars[:counted]
    assert dropped == Counter({"not complete before as_of": 3 - counted} if counted < 3 else {})


def test_a_gap_between_intraday_bars_does_not_make_them_longer() -> None:
    # The night between two sessions: the interval is still an hour.
    bars = (
        a_bar(t=datetime(2026, 11, 19, 19, 30, tzinfo=UTC)),
        a_bar(t=datetime(2026, 11, 19, 20, 30, tzinfo=UTC)),
        a_bar(t=datetime(2026, 11, 20, 14, 30, tzinfo=UTC)),
    )

    assert usable_bars(bars, as_of=AS_OF)[0] == bars


def test_one_stray_bar_among_daily_ones_does_not_make_them_intraday() -> None:
    # A bar stamped 06:00 two days ago: the bar of the snapshot's own day is no six-hour bar that closed at 06:00.
    stray = a_bar(t=datetime(2026, 11, 18, 6, 0, tzinfo=UTC))
    first, last = (
        daily_bars(18, last=datetime(2026, 11, 18, tzinfo=UTC)),
        daily_bars(2, last=AS_OF.replace(hour=0, minute=0)),
    )

    found, dropped = usable_bars((*first, stray, *last), as_of=AS_OF)

    assert found[-1].t == datetime(2026, 11, 19, tzinfo=UTC)
    assert dropped["not complete before as_of"] == 1


@pytest.mark.parametrize(
    ("age", "counted"),
    [(timedelta(days=7), 20), (timedelta(days=7, microseconds=1), 0)],
    ids=["seven days", "more than seven days"],
)
def test_bars_that_end_more_than_seven_days_ago_are_missing(age: timedelta, counted: int) -> None:
    bars = daily_bars(20)

    found, dropped = usable_bars(bars, as_of=bars[-1].t + age)

    assert len(found) == counted
    assert dropped == Counter({"last bar more than 7 days old": 20 - counted} if counted == 0 else {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"high": 97.0}, "high below low"),
        ({"open": 102.1}, "high below open or close"),
        ({"close": 102.1}, "high below open or close"),
        ({"open": 97.9}, "low above open or close"),
        ({"close": 97.9}, "low above open or close"),
        ({"open": float("nan")}, "price not positive and finite"),
        ({"high": float("inf")}, "price not positive and finite"),
        ({"low": float("-inf")}, "price not positive and finite"),
        ({"low": 0.0}, "price not positive and finite"),
        ({"close": -1.0}, "price not positive and finite"),
        ({"volume": -1.0}, "volume negative or not finite"),
        ({"volume": float("nan")}, "volume negative or not finite"),
        ({"volume": float("inf")}, "volume negative or not finite"),
        ({"t": YESTERDAY - timedelta(days=1)}, "time repeated"),
        ({"t": YESTERDAY - timedelta(days=2)}, "time out of order"),
    ],
)
def test_a_dirty_bar_is_dropped_and_counted(changes: dict[str, Any], reason: str) -> None:
    clean = daily_bars(5, last=YESTERDAY - timedelta(days=1))

    assert usable_bars((*clean, a_bar(**changes)), as_of=AS_OF) == (clean, Counter({reason: 1}))


@pytest.mark.parametrize(
    "changes",
    [
        {"open": 102.0},
        {"open": 98.0, "close": 98.0},
        {"high": 100.0, "low": 100.0},
        {"volume": 0.0},
    ],
)
def test_a_bar_at_the_edge_of_what_is_possible_is_kept(changes: dict[str, Any]) -> None:
    bars = (*daily_bars(5, last=YESTERDAY - timedelta(days=1)), a_bar(**changes))

    assert usable_bars(bars, as_of=AS_OF) == (bars, Counter())


def test_a_dirty_bar_does_not_make_the_next_one_out_of_order() -> None:
    # The bar of the 19th with a broken high is dropped; a good bar of the same day is not "repeated".
    bars = (*daily_bars(2, last=YESTERDAY - timedelta(days=1)), a_bar(high=1.0), a_bar())

    assert usable_bars(bars, as_of=AS_OF) == ((*bars[:2], bars[3]), Counter({"high below low": 1}))


def test_without_bars_there_is_nothing_to_count() -> None:
    assert usable_bars((), as_of=AS_OF) == ((), Counter())


def test_dropped_bars_are_reported_by_reason() -> None:
    bars = (*daily_bars(15), a_bar(), a_bar(high=1.0), a_bar(t=datetime(2026, 11, 20, tzinfo=UTC)))

    assert issues_of(a_market(a_symbol(bars=bars))) == [
        ("ACME", "bars", "1 dropped: high below low"),
        ("ACME", "bars", "1 dropped: not complete before as_of"),
        ("ACME", "bars", "1 dropped: time repeated"),
    ]


# --- bars: what they fill ------------------------------------------------------------------------------


def test_bars_fill_what_was_not_sent() -> None:
    view = a_view(**BARE, bars=daily_bars(50))

    assert view.atr == 4
    assert view.adv == 100_000_000
    assert view.rsi == 50.0
    assert view.ma_20 == 100.0
    assert view.ma_50 == 100.0


@pytest.mark.parametrize(
    ("count", "known"),
    [
        (14, set()),
        (15, {"atr", "rsi"}),
        (19, {"atr", "rsi"}),
        (20, {"atr", "rsi", "adv", "ma_20"}),
        (49, {"atr", "rsi", "adv", "ma_20"}),
        (50, {"atr", "rsi", "adv", "ma_20", "ma_50"}),
    ],
)
def test_too_few_bars_fill_nothing(count: int, known: set[str]) -> None:
    view = a_view(**BARE, bars=daily_bars(count))

    assert {name for name in ("atr", "rsi", "adv", "ma_20", "ma_50") if getattr(view, name) is not None} == known


def test_what_was_sent_is_not_replaced_by_indicators() -> None:
    view = a_view(rsi=61.0, ma_20=1.0, ma_50=2.0, bars=daily_bars(50))

    assert (view.rsi, view.ma_20, view.ma_50) == (61.0, 1.0, 2.0)


def test_an_rsi_of_0_was_sent_and_is_not_missing() -> None:
    assert a_view(rsi=0.0, bars=daily_bars(15)).rsi == 0.0


def test_moving_averages_are_those_of_the_last_closes() -> None:
    view = a_view(bars=bars_closing_at([100.0] * 30 + [200.0] * 20))

    assert view.ma_20 == 200.0
    assert view.ma_50 == 140.0  # (30 x 100 + 20 x 200) / 50


# --- sent against recomputed ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "counts"),
    [
        # The bars say 4.00: 10 % of that is 0.40.
        ("3.59", "4.0"),
        ("3.60", "3.60"),
        ("4.00", "4.00"),
        ("4.40", "4.40"),
        ("4.41", "4.41"),
        ("9.00", "9.00"),
    ],
)
def test_beyond_10_percent_the_larger_atr_counts(sent: str, counts: str) -> None:
    assert a_view(atr=sent, bars=daily_bars(15)).atr == Decimal(counts)


@pytest.mark.parametrize(
    ("sent", "counts"),
    [
        # The bars say 100 M: 10 % of that is 10 M.
        ("89999999", "89999999"),
        ("90000000", "90000000"),
        ("110000000", "110000000"),
        ("110000001", "100000000"),
        ("900000000", "100000000"),
    ],
)
def test_beyond_10_percent_the_smaller_adv_counts(sent: str, counts: str) -> None:
    assert a_view(adv=sent, bars=daily_bars(20)).adv == Decimal(counts)


@pytest.mark.parametrize(
    ("changes", "field", "issue"),
    [
        ({"atr": "4.41", "adv": None}, "atr", "sent 4.41 but bars give 4; 4.41"),
        ({"atr": "3.59", "adv": None}, "atr", "sent 3.59 but bars give 4; 4.0"),
        ({"adv": "110000001"}, "adv", "sent 110000001 but bars give 1e+08; 1.0"),
    ],
)
def test_a_difference_beyond_10_percent_is_reported(changes: dict[str, Any], field: str, issue: str) -> None:
    (found,) = issues_of(a_market(a_symbol(**changes, bars=daily_bars(20))))

    assert found[:2] == ("ACME", field)
    assert found[2].startswith(issue)
    assert found[2].endswith(" counts")


@pytest.mark.parametrize("atr", ["3.60", "4.40", None])
def test_a_difference_of_10_percent_is_not_reported(atr: str | None) -> None:
    assert a_market(a_symbol(atr=atr, adv=None, bars=daily_bars(20))).issues == ()


def test_what_was_sent_and_what_was_computed_stand_side_by_side() -> None:
    view = a_view(atr="4.41", adv="90000000", bid="99.90", ask="100.10", spread_pct="0.0003", bars=daily_bars(20))

    assert view.claims == (
        Claim(field="atr", claimed=4.41, computed=4.0),
        Claim(field="adv", claimed=90_000_000.0, computed=100_000_000.0),
        Claim(field="spread_pct", claimed=0.0003, computed=0.002),
    )


def test_nothing_is_claimed_where_nothing_was_computed() -> None:
    assert a_view(bid=None, ask=None, spread_pct="0.0003").claims == ()


# --- zero counts as missing ----------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["atr", "adv", "avg_volume"])
def test_a_zero_counts_as_missing_and_is_reported(field: str) -> None:
    market = a_market(a_symbol(**{field: 0}))

    assert getattr(market.symbols[0], field) is None
    assert market.issues == (DataIssue(symbol="ACME", field=field, issue="0 counts as missing"),)


@pytest.mark.parametrize(("field", "value"), [("atr", 4), ("adv", 100_000_000)])
def test_bars_fill_a_zero(field: str, value: int) -> None:
    assert getattr(a_view(**{field: 0}, bars=daily_bars(20)), field) == value


def test_bars_that_never_moved_have_no_atr() -> None:
    still = bars_closing_at([100.0] * 20)

    assert a_view(**BARE, bars=still).atr is None
    assert a_view(atr="4.00", bars=still).atr == 4


def test_bars_without_any_volume_contradict_a_sent_adv() -> None:
    # Recomputed 0 differs from a billion by more than 10 %; the smaller counts, and zero is missing.
    view = a_view(bars=daily_bars(20, volume=0.0))

    assert view.adv is None


def test_without_a_volume_there_are_no_average_shares_to_divide_by() -> None:
    assert a_view(**BARE).average_daily_shares is None


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"avg_volume": 7_000, "adv": 1_000_000}, 7_000),
        ({"avg_volume": 7_000, "adv": None}, 7_000),
        ({"avg_volume": None, "adv": 1_000_000}, 10_000),  # 1,000,000 / 100
        ({"avg_volume": 0, "adv": 1_000_000}, 10_000),
    ],
)
def test_average_shares_are_the_sent_ones_or_dollars_over_price(changes: dict[str, Any], shares: int) -> None:
    assert a_view(**changes).average_daily_shares == shares


# --- quotes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("a negative claimed spread", {"spread_pct": "-0.0001"}),
        ("a negative claimed spread without quotes", {"bid": None, "ask": None, "spread_pct": "-0.0001"}),
        ("no ask", {"ask": None}),
        ("no bid", {"bid": None}),
        ("no ask, though a spread is claimed", {"ask": None, "spread_pct": "0.001"}),
        ("a bid of 0", {"bid": 0}),
        ("an ask of 0", {"ask": 0}),
        ("both 0", {"bid": 0, "ask": 0}),
        ("a negative bid", {"bid": "-100", "ask": "300"}),
        ("crossed by a cent", {"bid": "100.01", "ask": "100.00"}),
        # Tolerance: max(1 % of mid, 0.5 x 4.00 = 2.00); mid 97.99 is 2.01 below the price.
        ("a price too far above mid", {"bid": "97.99", "ask": "97.99"}),
        ("a price too far below mid", {"bid": "102.01", "ask": "102.01"}),
        # Without an ATR only 1 % of mid is left: 98.99 is 1.01 below, and 1 % of it is 0.99.
        ("too far without an ATR", {"bid": "98.99", "ask": "98.99", "atr": None}),
        # 0.5 x 1.00 is less than 1 % of mid.
        ("too far with a small ATR", {"bid": "98.99", "ask": "98.99", "atr": "1.00"}),
    ],
)
def test_quotes_that_contradict_themselves_or_the_price_block(says: str, changes: dict[str, Any]) -> None:
    view = a_view(**changes)

    assert view.quote_fault is not None
    assert (view.bid, view.ask, view.spread_pct) == (None, None, None)
    assert view.mid == view.price
    assert judged(symbol=changes).reason_code == "QUOTES_INCONSISTENT"


@pytest.mark.parametrize(
    ("says", "changes", "mid", "spread"),
    [
        ("locked quotes", {}, "100", "0"),
        ("a spread of two cents", {"bid": "99.99", "ask": "100.01"}, "100", "0.0002"),
        # 2.00 below: exactly half an ATR.
        ("half an ATR above mid", {"bid": "98.00", "ask": "98.00"}, "98", "0"),
        ("half an ATR below mid", {"bid": "102.00", "ask": "102.00"}, "102", "0"),
        # |101 - 100| = 1 is exactly 1 % of 100.
        ("1 % of mid", {"price": "101.00", "bid": "100", "ask": "100", "atr": "1.00"}, "100", "0"),
        ("1 % of mid without an ATR", {"price": "99.00", "bid": "100", "ask": "100", "atr": None}, "100", "0"),
        ("a claim that the quotes replace", {"bid": "99", "ask": "101", "spread_pct": "0.0001"}, "100", "0.02"),
    ],
)
def test_consistent_quotes_give_mid_and_spread(says: str, changes: dict[str, Any], mid: str, spread: str) -> None:
    view = a_view(**changes)

    assert view.quote_fault is None
    assert view.mid == Decimal(mid)
    assert view.spread_pct == Decimal(spread)
    assert (view.bid, view.ask) == (view.sent.bid, view.sent.ask)


def test_the_tolerance_is_half_the_atr_that_counts() -> None:
    # Sent 1.00, but the bars give 4.00, which counts: 2.00 below mid is within half of that.
    view = a_view(atr="1.00", bid="102.00", ask="102.00", bars=daily_bars(15))

    assert view.quote_fault is None


def test_without_quotes_a_claimed_spread_counts_and_mid_is_the_price() -> None:
    view = a_view(bid=None, ask=None, spread_pct="0.0003")

    assert view.quote_fault is None
    assert view.mid == 100
    assert view.spread_pct == Decimal("0.0003")


def test_without_quotes_and_claim_the_spread_is_missing_and_nothing_contradicts() -> None:
    view = a_view(bid=None, ask=None)

    assert view.quote_fault is None
    assert view.spread_pct is None


@pytest.mark.parametrize(
    ("changes", "issue"),
    [
        ({"ask": None}, "one-sided quotes"),
        ({"bid": "100.01"}, "bid above ask"),
        ({"bid": 0}, "bid or ask is 0 or less"),
        ({"spread_pct": "-1"}, "spread_pct is negative"),
        ({"bid": "102.01", "ask": "102.01"}, "price 100.00 too far from mid 102.01"),
    ],
)
def test_inconsistent_quotes_are_reported(changes: dict[str, Any], issue: str) -> None:
    assert issues_of(a_market(a_symbol(**changes))) == [("ACME", "quotes", issue)]


# --- liquidity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adv", "spread_pct", "score"),
    [
        # min(50, 50 x ADV / 10 M) + max(0, 50 - 5,000 x spread)
        ("10000000", "0", 100.0),
        ("9999999", "0", 99.999995),
        ("10000001", "0", 100.0),
        ("5000000", "0.001", 70.0),  # 25 + 45
        ("1000000", "0.0099", 5.5),  # 5 + 0.5
        ("1000000", "0.01", 5.0),
        ("1000000", "0.02", 5.0),
        ("31000000000", "0.0003", 98.5),
    ],
)
def test_liquidity_scores_depth_and_spread(adv: str, spread_pct: str, score: float) -> None:
    assert a_view(adv=adv, spread_pct=spread_pct, bid=None, ask=None).liquidity_score == pytest.approx(score, abs=1e-9)


@pytest.mark.parametrize("changes", [{"adv": None}, {"bid": None, "ask": None}])
def test_liquidity_is_unknown_without_depth_or_spread(changes: dict[str, Any]) -> None:
    assert a_view(**changes).liquidity_score is None


# --- news, flow and the rest ---------------------------------------------------------------------------


def news(headline: str, timestamp: datetime | None) -> NewsItem:
    return NewsItem(headline=headline, timestamp=timestamp)


def test_news_from_after_the_snapshot_is_dropped_and_counted() -> None:
    at_the_moment, just_after = news("now", AS_OF), news("later", AS_OF + timedelta(microseconds=1))

    market = a_market(news=(at_the_moment, just_after, news("tomorrow", AS_OF + timedelta(days=1))))

    assert market.news == (at_the_moment,)
    assert issues_of(market) == [(None, "news", "2 dropped: dated after as_of")]


def test_undated_news_is_dropped_and_counted() -> None:
    market = a_market(news=(news("when?", None), news("before", AS_OF - timedelta(hours=1))))

    assert [item.headline for item in market.news] == ["before"]
    assert issues_of(market) == [(None, "news", "1 dropped: undated")]


def test_news_in_another_time_zone_is_compared_by_its_instant() -> None:
    # 00:30 of the 21st in Tokyo is 15:30 of the 20th UTC, the moment of the snapshot.
    local = datetime(2026, 11, 21, 0, 30, tzinfo=timezone(timedelta(hours=9)))

    assert len(a_market(news=(news("now", local),)).news) == 1


def test_the_snapshots_own_words_are_kept() -> None:
    flow = OptionsFlow(symbol="ACME", put_call_ratio=0.7)

    market = a_market(a_symbol(), a_symbol(symbol="BOLT"), options_flow=(flow,), regime=Regime.RISK_ON)

    assert market.as_of == AS_OF
    assert market.options_flow == (flow,)
    assert market.regime is Regime.RISK_ON
    assert [view.symbol for view in market.symbols] == ["ACME", "BOLT"]
    assert market.bucket_map is BUCKETS


def test_a_symbol_is_found_by_its_name() -> None:
    market = a_market(a_symbol(), a_symbol(symbol="BOLT", price="50"))

    found = market.symbol("BOLT")
    assert found is not None
    assert found.price == 50
    assert market.symbol("GONE") is None


def test_a_requests_buckets_are_added_to_the_shipped_ones() -> None:
    assert a_view(buckets=("Artificial Intelligence",)).buckets == ("technology", "artificial_intelligence")
    assert a_view(symbol="GONE").buckets == ("unclassified",)


def test_each_symbol_has_its_own_issues() -> None:
    market = resolve_market(a_snapshot(a_symbol(atr=0), a_symbol(symbol="BOLT", adv=0)), buckets=BUCKETS)

    assert [issue[:2] for issue in issues_of(market)] == [("ACME", "atr"), ("BOLT", "adv")]


def test_the_bars_that_counted_are_kept_for_whoever_reads_on() -> None:
    bars: tuple[Bar, ...] = daily_bars(3, last=datetime(2026, 11, 20, tzinfo=UTC))

    view: SymbolView = a_view(bars=bars)

    assert view.bars == bars[:2]
