"""A published set of forecasts, told through the public API, gives the figures that independent libraries give."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, Final

import httpx2
import pytest

from app.domain.calibration import calibration_report
from app.domain.outcome import OutcomeClass
from app.domain.tally import Tally
from app.main import create_app
from app.settings import Derating, Recalibration
from tests.api.conftest import Serve, settings_for
from tests.domain.forecast_sets import expected_values
from tests.forecast_sets import LIMITS, Forecast, StatedDecider, games, load
from tests.recount import statistics_of

PROVE = os.environ.get("PROVE") == "1"
ROWS: Final = None if PROVE else 300
"""How many games are told; the first ones."""

FIGURES: Final = {
    "n": "counts.resolved",
    "wins": "counts.win",
    "brier": "brier",
    "bss": "skill",
    "rel": "murphy.reliability",
    "res": "murphy.resolution",
    "unc": "murphy.uncertainty",
    "rel_ferro_fricker": "reliability_debiased",
    "corp_mcb": "corp.miscalibration",
    "corp_dsc": "corp.discrimination",
    "slope10_left_closed": "slope_binned",
    "slope_ols_raw": "slope",
    "auc": "auc",
    "log_loss_clip": "log_loss_clipped",
    "smece": "smooth_ece",
    "cox_slope": "cox.slope",
    "citl": "citl",
    "spiegelhalter_z": "spiegelhalter_z",
    "brier_se_iid": "brier_se_iid",
    "brier_se_cluster": "brier_se",
    "sharpness_sd": "sharpness",
}
"""Where an answer holds what `expected.json` names; `slope10_right_closed` is the trap that is not walked into."""
TOLERANCES: Final = {"cox_slope": 1e-9, "citl": 1e-9, "smece": 1e-6}


def figure_of(document: Any, path: str) -> float:
    for name in path.split("."):
        document = document[name] if isinstance(document, dict) else getattr(document, name)
    return float(document)


def test_games_told_to_the_service_are_scored_as_published(
    serve: Serve, database_url: str, record_property: Callable[[str, object], None]
) -> None:
    told = games()[:ROWS]
    # What is stated is what is to be scored and traded on, whatever the service would make of the record meanwhile.
    settings = settings_for(
        database_url, limits=dict(LIMITS), recalibration=Recalibration.OFF, calibration_derating=Derating.OFF
    )
    with serve(create_app(settings, decider=StatedDecider())) as client:
        started = time.monotonic()
        asyncio.run(load(str(client.base_url), told))
        took_s = time.monotonic() - started
        document = report_of(client, told)

        assert document["counts"]["pending"] == 0
        if PROVE:
            expected = expected_values()["fte_nba"]
            assert set(expected) == {*FIGURES, "slope10_right_closed"}
        else:
            report = calibration_report(Tally.of(cells(told)))
            expected = {name: figure_of(report, path) for name, path in FIGURES.items()}
        for name, path in FIGURES.items():
            tolerance = TOLERANCES.get(name, 1e-12)
            assert figure_of(document, path) == pytest.approx(expected[name], rel=0, abs=tolerance), name
        check_intervals(document, expected)
        check_selections(client, told, document)
    statistics_of(database_url)
    line = f"forecast set through the API: {len(told)} decisions and outcomes in {took_s:.1f} s"
    sys.stdout.write(line + "\n")
    record_property("counts", line)


def report_of(client: httpx2.Client, told: list[Forecast], **asked: Any) -> dict[str, Any]:
    """The report on the days of the set."""
    window = {"from": str(told[0].day), "to": str(told[-1].day), "source": "executed"}
    answer = client.get("/calibration", params=window | asked)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def cells(told: list[Forecast]) -> list[tuple[Any, int, OutcomeClass, int]]:
    classes = {1: OutcomeClass.WIN, 0: OutcomeClass.LOSS}
    return [(forecast.day, forecast.percent, classes[forecast.outcome], 1) for forecast in told]


def check_intervals(document: dict[str, Any], expected: Any) -> None:
    """Each interval lies about the score and reaches as far as its own standard error says."""
    normal = NormalDist().inv_cdf(0.975)
    for interval, error in (("brier_ci95_iid", "brier_se_iid"), ("brier_ci95", "brier_se_cluster")):
        low, high = document[interval]
        assert (low + high) / 2 == pytest.approx(expected["brier"], abs=1e-12)
        # Student's t of a sample this large lies a little beyond the normal distribution.
        assert 1 <= (high - low) / 2 / (normal * expected[error]) < (1.001 if PROVE else 1.1)


def check_selections(client: httpx2.Client, told: list[Forecast], document: dict[str, Any]) -> None:
    """The set is one decider's, was executed, and was told of by no bars."""
    assert report_of(client, told, source="all")["brier"] == document["brier"]
    assert report_of(client, told, source="paper")["counts"]["resolved"] == 0
    [group] = report_of(client, told, group_by="decider")["groups"]
    assert (group["key"], group["brier"], group["brier_ci95"]) == (
        "stated/set",
        document["brier"],
        document["brier_ci95"],
    )
