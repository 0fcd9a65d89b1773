"""Figures are written for people: money with thousands, R with two decimals, times in UTC, nothing as a dash."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.web.assets import NAMES, PLOTLY, asset_path, load_asset
from app.web.bars import WIDTH, observed_bar, share_bar
from app.web.model import Quantiles, quantiles
from app.web.rendering import (
    figure,
    lasting,
    moment,
    money,
    percent,
    price,
    r_multiple,
    reading,
    short_money,
    signed,
    verdict_chip,
    words,
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (money(Decimal("1234567.891")), "$1,234,567.89"),
        (money(-350), "−$350.00"),
        (money("0"), "$0.00"),
        (money(None), "–"),
        (price("125.4"), "$125.40"),
        (price(0.123456789), "$0.123457"),
        (price(1e20), "$100,000,000,000,000,000,000.00"),
        (short_money(31_000_000_000), "$31.0 B"),
        (short_money(-2_500_000), "−$2.5 M"),
        (short_money(999_999), "$999,999.00"),
        (r_multiple(1.234), "+1.23 R"),
        (r_multiple(-1), "−1.00 R"),
        (r_multiple(0.001), "0.00 R"),
        (r_multiple(None), "–"),
        (percent(0.5471), "54.7 %"),
        (percent(-0.02, 0), "−2 %"),
        (figure(0.2449, 4), "0.2449"),
        (figure(0.00032), "0.00032"),
        (figure(12345), "12,345"),
        (figure(12345.6), "12,346"),
        (figure(-3.10e10), "−31.00 B"),
        (figure(1e300), "1.00e+300"),
        (figure(True), "yes"),
        (figure(None), "–"),
        (figure(float("inf")), "inf"),
        (signed(-0.1), "−0.100"),
        (signed(0.0), "0.000"),
        (signed(670_000_000), "+670.00 M"),
        (words("bucket:ai_chips"), "bucket: ai chips"),
        (lasting(timedelta(seconds=59)), "59 s"),
        (lasting(timedelta(minutes=61)), "1 h 1 min"),
        (lasting(timedelta(days=2, hours=3)), "2 d 3 h"),
    ],
)
def test_figures(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (31_000_000_000, "usd", "$31.0 B"),
        (7.078929, "usd", "$7.08"),
        (0.5, "usd", "$0.50"),
        (0.0003, "fraction", "0.03 %"),
        (0.54, "probability", "54.00 %"),
        (2.0524, "ratio", "2.05"),
        (301.5, "s", "301.5 s"),
        (53, "shares", "53"),
        ("reduce_only", "state", "reduce only"),
        (None, "usd", "–"),
    ],
)
def test_what_a_gate_read(value: Any, unit: str, expected: str) -> None:
    assert reading(value, unit) == expected


def test_times_are_in_utc_and_whole_on_hovering() -> None:
    at = datetime(2026, 11, 22, 23, 14, 12, 123456, tzinfo=timezone(timedelta(hours=2)))
    written = '<time datetime="2026-11-22T21:14:12.123456Z" title="2026-11-22 21:14:12.123 UTC">21:14:12</time>'

    assert moment(at) == written
    assert moment("2026-11-22T21:14:12Z", "full") == moment(datetime(2026, 11, 22, 21, 14, 12, tzinfo=UTC), "full")
    assert moment(None) == "–"


def test_a_verdict_is_told_by_a_sign_and_a_word_too() -> None:
    assert verdict_chip("blocked") == ('<span class="chip blocked"><span aria-hidden="true">✕</span> blocked</span>')
    assert "<b>" not in verdict_chip("<b>")


class TestBars:
    def test_set_what_was_observed_beside_its_limit(self) -> None:
        # Of 0 to 2.16: 1 is 55.56 of 120 units, 2 is 111.11.
        bar = observed_bar(1, 2)

        assert bar is not None
        assert (bar.start, bar.length, bar.limit) == (0.0, 55.56, 111.11)

    def test_begin_at_nothing_where_it_is_negative(self) -> None:
        # Of -1.08 to 1.08: 0 is in the middle.
        bar = observed_bar(-1, 1)

        assert bar is not None
        assert bar.start + bar.length == pytest.approx(WIDTH / 2)
        assert bar.limit == pytest.approx(115.56)

    @pytest.mark.parametrize(("observed", "limit"), [(None, 1), (1, None), ("long", 1), (0, 0), (True, 1), (1e301, 1)])
    def test_are_not_drawn_of_what_is_no_number(self, observed: Any, limit: Any) -> None:
        assert observed_bar(observed, limit) is None

    def test_fill_up_at_the_whole(self) -> None:
        assert [getattr(share_bar(value, of=4), "length", None) for value in (0, 1, 4, 9)] == [1.0, 30.0, 120.0, 120.0]
        assert share_bar(1, of=0) is None


class TestQuantiles:
    def test_are_durations_that_were_measured(self) -> None:
        # Nearest rank of 1..100: the 50th, 95th and 99th.
        assert quantiles(range(100, 0, -1)) == Quantiles(n=100, p50_ms=50, p95_ms=95, p99_ms=99, most_ms=100)
        assert quantiles([7]) == Quantiles(n=1, p50_ms=7, p95_ms=7, p99_ms=7, most_ms=7)
        assert quantiles([1, 9]) == Quantiles(n=2, p50_ms=1, p95_ms=9, p99_ms=9, most_ms=9)

    def test_of_nothing_are_none(self) -> None:
        assert quantiles([]) is None


class TestAssets:
    @pytest.mark.parametrize("name", NAMES)
    def test_have_a_name_that_changes_with_them(self, name: str) -> None:
        asset = load_asset(name)

        assert asset_path(name) == f"/ui/static/{asset.version}/{name}"
        assert len(asset.plain) > 100

    def test_take_the_script_of_charts_from_the_installed_package(self) -> None:
        asset = load_asset(PLOTLY)

        assert asset.version.startswith("plotly-")
        assert b"plotly.js v" in asset.plain[:200]
        assert len(asset.packed) < len(asset.plain) / 2
