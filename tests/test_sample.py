"""Tests of the shipped bars and of the requests built from them."""

import gzip
import itertools
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.sample import (
    BarFileError,
    DailyBar,
    SampleError,
    loss_scene,
    read_bars,
    sample_request,
    shipped_bars,
    trade_scene,
)

DIRTY_BARS = Path(__file__).parent / "data" / "dirty_bars.csv"
HEADER = "date,symbol,open,high,low,close,volume\n"
MORNING = datetime(2013, 3, 6, 15, 30, tzinfo=UTC)


def request(**changes: Any) -> dict[str, Any]:
    """Build a plain request for two symbols, with some arguments changed."""
    arguments: dict[str, Any] = {
        "as_of": MORNING,
        "symbols": ("IBM", "MSFT"),
        "equity": 50_000.0,
        "cash": 50_000.0,
        "daily_pnl": 0.0,
        "weekly_pnl": 0.0,
        "positions": (),
    }
    return sample_request(**(arguments | changes))


def write(directory: Path, text: str | bytes, *, name: str = "bars.csv") -> Path:
    """Write a file of bars."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def faults(bar: DailyBar) -> list[str]:
    """Name what contradicts itself in a bar."""
    return [
        fault
        for fault, found in {
            "high below open": bar.high < bar.open,
            "low above open": bar.low > bar.open,
            "high below low": bar.high < bar.low,
            "high below close": bar.high < bar.close,
            "low above close": bar.low > bar.close,
            "price not positive": min(bar.open, bar.high, bar.low, bar.close) <= 0,
            "volume not positive": bar.volume <= 0,
        }.items()
        if found
    ]


DOCUMENTED_DIRT = {"high below open": 63, "low above open": 86, "high below close": 1, "price not positive": 1}


def test_the_shipped_bars_hold_exactly_the_dirt_that_their_readme_counts() -> None:
    bars = shipped_bars()
    every = [bar for series in bars.values() for bar in series]

    assert (len(bars), len(every)) == (31, 78_018)
    assert (min(bar.day for bar in every), max(bar.day for bar in every)) == (date(2006, 1, 3), date(2015, 12, 31))
    assert Counter(fault for bar in every for fault in faults(bar)) == DOCUMENTED_DIRT
    # 63 + 86 + 1 + 1: no row has two faults.
    assert sum(bool(faults(bar)) for bar in every) == 151


def test_the_shipped_bars_hold_no_repeated_day_and_miss_nine_symbol_days() -> None:
    bars = shipped_bars()
    days = {bar.day for series in bars.values() for bar in series}

    for series in bars.values():
        assert all(first.day < second.day for first, second in itertools.pairwise(series))
    missing = Counter(day for series in bars.values() for day in days - {bar.day for bar in series})
    assert missing == {date(2010, 4, 1): 7, date(2009, 8, 11): 1, date(2012, 8, 1): 1}


def test_the_slice_for_tests_holds_all_the_dirt() -> None:
    every = [bar for series in read_bars(DIRTY_BARS).values() for bar in series]

    assert len(every) == 446
    assert Counter(fault for bar in every for fault in faults(bar)) == DOCUMENTED_DIRT


def test_a_row_becomes_a_bar_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "2009-04-17,HD,26.16,26.47,0.0,26.10,21671267\n")

    assert read_bars(path) == {
        "HD": (
            DailyBar(
                day=date(2009, 4, 17),
                open=Decimal("26.16"),
                high=Decimal("26.47"),
                low=Decimal("0.0"),
                close=Decimal("26.10"),
                volume=21_671_267,
            ),
        )
    }


def test_repeated_and_unordered_rows_are_kept_for_the_domain_to_count(tmp_path: Path) -> None:
    rows = [f"{day},KO,1,1,1,1,1\n" for day in ("2012-01-04", "2012-01-03", "2012-01-03")]

    series = read_bars(write(tmp_path, HEADER + "".join(rows)))["KO"]

    assert [bar.day.day for bar in series] == [4, 3, 3]


def test_a_compressed_file_reads_like_a_plain_one(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(DIRTY_BARS.read_bytes()), name="bars.csv.gz")

    assert read_bars(path) == read_bars(DIRTY_BARS)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 1, "the header must be 'date,symbol,open,high,low,close,volume'"),
        ("date,symbol\n", 1, "the header must be 'date,symbol,open,high,low,close,volume'"),
        (HEADER, None, "holds no bars"),
        (HEADER + "2012-01-03,KO,1,1,1,1\n", 2, "expected date,symbol,open,high,low,close,volume, found '2012"),
        (HEADER + "2012-01-03,KO,1,1,1,1,1,1\n", 2, "expected date,symbol,open,high,low,close,volume, found '2012"),
        (HEADER + "2012-01-03,,1,1,1,1,1\n", 2, "expected date,symbol,open,high,low,close,volume, found '2012"),
        (HEADER + "2012-01-03,KO,1,1,1,1,1\n\n", 3, "expected date,symbol,open,high,low,close,volume, found ''"),
        (HEADER + "2012-01-03,KO,1,1,1,1,1\n03/01/2012,KO,1,1,1,1,1\n", 3, "Invalid isoformat string: '03/01/2012'"),
        (HEADER + "2012-01-03,KO,1,one,1,1,1\n", 2, "'one' is not a price"),
        (HEADER + "2012-01-03,KO,1,NaN,1,1,1\n", 2, "'NaN' is not a price"),
        (HEADER + "2012-01-03,KO,1,1,1,-Infinity,1\n", 2, "'-Infinity' is not a price"),
        (HEADER + "2012-01-03,KO,1,1,1,1,many\n", 2, "invalid literal for int() with base 10: 'many'"),
        (HEADER.encode() + b"2012-01-03,KO,1,1,1,1,1\n\xff\n", 3, "is not UTF-8 text"),
    ],
)
def test_a_line_that_is_not_a_bar_is_named(tmp_path: Path, text: str | bytes, line: int | None, problem: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(BarFileError) as caught:
        read_bars(path)

    place = f"{path}" if line is None else f"{path}, line {line}"
    assert str(caught.value).startswith(f"{place}: {problem}")
    assert (caught.value.path, caught.value.line) == (path, line)
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no gzip at all", id="not gzip"),
        pytest.param(gzip.compress(HEADER.encode())[:-9], id="cut short"),
        pytest.param(gzip.compress(HEADER.encode())[:10] + b"\xff" * 20, id="damaged"),
    ],
)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content, name="bars.csv.gz")

    with pytest.raises(BarFileError, match=r"bars\.csv\.gz: cannot be read: "):
        read_bars(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BarFileError, match=r"absent\.csv: cannot be read: .*No such file"):
        read_bars(tmp_path / "absent.csv")


def test_a_request_has_the_fields_of_the_contract_and_json_types() -> None:
    position = {"symbol": "IBM", "quantity": 10, "avg_price": 200.0, "stop_loss": 195.0}

    body = request(symbols=("MSFT",), positions=[position], account_id="paper-1", bars_per_symbol=1)

    # The mean volume of MSFT's 20 days up to 2013-03-05, cut to whole shares, is 39,450,220.
    expected = {
        "account": {
            "id": "paper-1",
            "mode": "paper",
            "equity": 50_000.0,
            "cash": 50_000.0,
            "daily_pnl": 0.0,
            "weekly_pnl": 0.0,
            "positions": [position],
        },
        "as_of": "2013-03-06T15:30:00Z",
        "market": [
            {
                "symbol": "MSFT",
                "price": 28.21,
                "spread_pct": 0.0005,
                "shortable": True,
                "bars": [
                    {"t": "2013-03-05T00:00:00Z", "o": 28.29, "h": 28.54, "l": 28.16, "c": 28.35, "v": 41_437_141}
                ],
                "avg_volume": 39_450_220,
            }
        ],
    }
    assert body == expected
    assert json.loads(json.dumps(body, allow_nan=False)) == expected


def test_a_request_knows_nothing_of_its_own_day_but_the_opening_price() -> None:
    for symbol in request(symbols=tuple(shipped_bars()))["market"]:
        today = next(bar for bar in shipped_bars()[symbol["symbol"]] if bar.day == MORNING.date())

        assert symbol["price"] == float(today.open)
        assert "volume" not in symbol
        assert symbol["bars"][-1]["t"] == "2013-03-05T00:00:00Z"
        assert len(symbol["bars"]) == 60


def test_as_of_may_be_given_in_any_time_zone() -> None:
    new_york = timezone(timedelta(hours=-5))

    assert request(as_of=MORNING.astimezone(new_york)) == request()


def test_a_spread_is_never_assumed_narrower_than_one_cent() -> None:
    [general_electric] = request(as_of=datetime(2009, 3, 10, 15, 0, tzinfo=UTC), symbols=("GE",))["market"]

    # Opening price 8.01: 0.01 / 8.01 = 0.001248.
    assert (general_electric["price"], general_electric["spread_pct"]) == (8.01, 0.001248)


def test_a_short_history_is_sent_as_it_is() -> None:
    # 2006-01-06 is the fourth day of the file.
    [ibm] = request(as_of=datetime(2006, 1, 6, 15, 0, tzinfo=UTC), symbols=("IBM",))["market"]

    assert [bar["t"][:10] for bar in ibm["bars"]] == ["2006-01-03", "2006-01-04", "2006-01-05"]
    assert ibm["avg_volume"] == sum(bar["v"] for bar in ibm["bars"]) // 3


def test_without_history_the_average_volume_is_missing_and_not_zero() -> None:
    [ibm] = request(as_of=datetime(2006, 1, 3, 15, 0, tzinfo=UTC), symbols=("IBM",))["market"]

    assert ibm["bars"] == []
    assert "avg_volume" not in ibm


def test_the_opening_price_is_known_from_14_30_utc() -> None:
    assert request(as_of=MORNING.replace(hour=14, minute=30))["market"][0]["price"] == 207.03
    with pytest.raises(SampleError, match="lies before 14:30:00 UTC"):
        request(as_of=MORNING.replace(hour=14, minute=29))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"as_of": MORNING.replace(tzinfo=None)}, "as_of 2013-03-06 15:30:00 has no time zone"),
        ({"symbols": ("IBM", "TSLA")}, "the shipped bars hold no bar of TSLA on 2013-03-06"),
        ({"as_of": MORNING.replace(day=9)}, "the shipped bars hold no bar of IBM on 2013-03-09"),
        ({"bars_per_symbol": 0}, "bars_per_symbol is 0, and must be 1 or more"),
    ],
)
def test_a_request_that_the_bars_cannot_give_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SampleError) as caught:
        request(**changes)

    assert str(caught.value) == problem


def test_in_the_trade_scene_seven_of_eight_symbols_broke_out_the_day_before() -> None:
    broke_out = [
        symbol["symbol"]
        for symbol in trade_scene(account_id="demo")["market"]
        if symbol["bars"][-1]["c"] > max(bar["h"] for bar in symbol["bars"][-21:-1])
    ]

    assert broke_out == ["AXP", "BA", "CVX", "HD", "IBM", "JNJ", "MSFT"]


def test_the_scenes_hold_no_dirty_bar() -> None:
    days = {bar["t"][:10] for symbol in trade_scene(account_id="demo")["market"] for bar in symbol["bars"]}
    dirty = {str(bar.day) for series in shipped_bars().values() for bar in series if faults(bar)}

    assert days & dirty == set()


@pytest.mark.parametrize("scene", [trade_scene, loss_scene])
def test_in_both_scenes_cash_and_position_make_up_the_equity(scene: Any) -> None:
    account = scene(account_id="demo")["account"]
    [held] = account["positions"]

    assert account["cash"] + held["quantity"] * held["mark_price"] == pytest.approx(account["equity"])
    assert held["stop_loss"] < held["mark_price"]


def test_the_loss_scene_is_the_same_morning_after_a_loss_of_more_than_two_percent() -> None:
    before, after = trade_scene(account_id="one"), loss_scene(account_id="two")
    account = after["account"]

    # -2,400 on 100,000 = -2.4 %; MAX_DAILY_LOSS_PCT is 2 %, MAX_WEEKLY_LOSS_PCT 5 %.
    assert account["daily_pnl"] / (account["equity"] - account["daily_pnl"]) == pytest.approx(-0.024)
    assert account["weekly_pnl"] / (account["equity"] - account["weekly_pnl"]) > -0.05
    assert (before["account"]["id"], account["id"]) == ("one", "two")
    assert after["market"] == before["market"]
    assert after["as_of"] == before["as_of"]
