"""The service judges every entry as the oracle does: gate by gate, cap by cap, number by number."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import event, given

from app.domain.verdict import Judgement
from tests.builders import daily_bars, gate_of, judged
from tests.properties.counts import CountReport
from tests.properties.crossing import judged_by_service
from tests.properties.worlds import World, worlds

ORDERS = ("approved", "resized")
LEAST_ORDERS = 0.30
"""Blocking everything proves nothing: at least this share of the worlds must end in an order."""


def test_the_service_judges_as_the_oracle_does(report_counts: CountReport) -> None:
    verdicts: Counter[str] = Counter()

    @given(worlds())
    def judge_twice(world: World) -> None:
        expected, actual = world.judged_by_oracle(), judged_by_service(world)

        event(expected["verdict"])
        if hangs_on_a_float(world, expected):
            verdicts["undecided"] += 1
            return
        verdicts[expected["verdict"]] += 1
        compare_verdicts(expected, actual)
        compare_gates(expected, actual)
        compare_sizes(expected, actual)
        compare_edges(expected, actual)

    judge_twice()

    report_counts("judge against oracle", verdicts)
    assert sum(verdicts[verdict] for verdict in ORDERS) / verdicts.total() >= LEAST_ORDERS


FLOAT_CAPS = ("risk_budget", "daily_loss_room", "weekly_loss_room", "adv_participation")
"""Caps that an ATR or ADV recomputed from bars goes into."""


def hangs_on_a_float(world: World, expected: dict[str, Any]) -> bool:
    """Tell whether a statistic's last binary digit decides over a whole share: 0.4 from bars is 0.4000...01.

    The service computes statistics in floats (§1), the oracle exactly; elsewhere both are exact, to the share.
    """
    with_bars = {entry["symbol"] for entry in world.snapshot["market"] if entry.get("bars")}
    ratios = [
        judged["cap_ratios"][cap]
        for judged in expected["candidates"]
        for cap in FLOAT_CAPS
        if judged["symbol"] in with_bars and "cap_ratios" in judged
    ]
    return any(ratio > 0 and abs(ratio - round(ratio)) <= ratio / 10**9 for ratio in ratios)


def compare_verdicts(expected: dict[str, Any], actual: Judgement) -> None:
    assert (actual.verdict, actual.reason_code) == (expected["verdict"], expected["reason_code"])
    assert (actual.candidate.symbol if actual.candidate else None) == expected["symbol"]
    assert actual.should_execute == (expected["verdict"] in ORDERS)
    assert (actual.ticket is not None) == (expected["verdict"] in ORDERS)
    by_symbol = sorted((judged["symbol"], judged["verdict"], judged["blocked_by"]) for judged in expected["candidates"])

    assert sorted((c.symbol, c.verdict, list(c.blocked_by)) for c in actual.candidates) == by_symbol


def compare_gates(expected: dict[str, Any], actual: Judgement) -> None:
    assert {gate.gate: (gate.status, gate.code) for gate in actual.gates} == expected["gates"]
    assert [gate.gate for gate in actual.gates] == list(expected["gates"])


def compare_sizes(expected: dict[str, Any], actual: Judgement) -> None:
    if not expected.get("caps"):
        assert actual.sizing is None
        return
    assert actual.sizing is not None
    caps = {cap.cap: cap.max_quantity for cap in actual.sizing.caps}

    assert caps == expected["caps"]
    assert actual.sizing.quantity == expected["quantity"]
    assert actual.sizing.binding_cap == expected["binding_cap"]
    assert_close(actual.sizing.risk_per_share, expected["risk_per_share"])
    assert_close(actual.sizing.atr_multiple, expected["atr_multiple"])
    assert_close(actual.sizing.risk_bps, expected["risk_bps"])
    if actual.ticket is not None:
        assert actual.ticket.quantity == expected["quantity"]


def compare_edges(expected: dict[str, Any], actual: Judgement) -> None:
    if expected["p_win_calibrated"] is None:
        assert actual.p_win_calibrated is None
    else:
        assert_close(actual.p_win_calibrated, expected["p_win_calibrated"])
    if expected["ev_r"] is None:
        assert actual.edge is None
        return
    assert actual.edge is not None
    assert_close(actual.edge.p_win_raw, expected["p_win_raw"])
    assert_close(actual.edge.p_win, expected["p_win"])
    assert_close(actual.edge.cost_usd, expected["cost"])
    assert_close(actual.edge.cost_bps_round_trip, expected["cost_bps"])
    assert_close(actual.edge.risk_reward, expected["risk_reward"])
    assert_close(actual.edge.ev_r, expected["ev_r"])
    assert_close(actual.edge.ev_pct, expected["ev_pct"])
    assert_close(actual.edge.kelly_fraction, expected["kelly"])


def assert_close(actual: Any, expected: Fraction) -> None:
    assert float(actual) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


def test_bars_without_any_volume_contradict_a_sent_adv() -> None:
    # Sent: a billion dollars a day. Bars: mean(close x 0) = 0, more than 10 % apart; the smaller counts; 0 is missing.
    judgement = judged(symbol={"bars": daily_bars(20, volume=0.0)})

    assert gate_of(judgement, "min_adv").code == "MISSING_ADV"
