"""A record made through the public API derates a boastful decider, then mends what it says; every verdict shows it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx2
import orjson
import pytest

from app.calibration_watch import CalibrationWriter, Pace
from app.db.engine import Connection, create_pool
from app.db.locks import become_calibration_writer
from app.domain.standing import CalibratorState, standing_from_json
from app.main import create_app
from tests.api.conftest import Serve, settings_for
from tests.forecast_sets import LIMITS, Forecast, StatedDecider, _request, load
from tests.ledger import today

SAID: Final = (60, 90)
WINS: Final = (0.40, 0.55)
PATIENCE_S: Final = 20.0


def boasts(url: str, *, days: int, a_day: int = 10) -> list[Forecast]:
    """Forecasts of 60 and 90 % on the days up to yesterday, of which 40 and 55 % win."""
    draw = random.Random(days)
    owed = [0.5, 0.5]
    forecasts = []
    for back in range(days, 0, -1):
        for _ in range(a_day):
            which = draw.randrange(2)
            owed[which] += WINS[which]
            won = owed[which] >= 1
            owed[which] -= won
            forecasts.append(Forecast(day=today(url) - timedelta(days=back), percent=SAID[which], outcome=int(won)))
    return forecasts


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Connection]:
    """The connection of the one writer: the service under test waits for its turn, and passes are made by hand."""
    pool = await create_pool(database_url, min_size=0, max_size=1)
    async with pool.connection() as connection:
        assert await become_calibration_writer(connection)
        yield connection
    await pool.close()


async def test_what_the_record_says_of_a_decider_shows_in_its_next_verdicts(
    database_url: str, writer: Connection, serve: Serve
) -> None:
    settings = settings_for(database_url, limits=dict(LIMITS))
    calibration = CalibrationWriter(settings, pace=Pace())
    first = await asyncio.to_thread(boasts, database_url, days=12)
    later = await asyncio.to_thread(boasts, database_url, days=3)
    asking = _request(later[-1], account_id="paper-1")
    asking["market"][0]["rsi"] = 90

    def ask(client: httpx2.Client) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/decide", json=asking).json()
        asking["account"]["id"] += "1"
        return answer

    def ask_until(client: httpx2.Client, state: CalibratorState) -> dict[str, Any]:
        """Ask until the service has read what was written."""
        deadline = time.monotonic() + PATIENCE_S
        while (answer := ask(client))["calibration"]["state"] != state:
            assert time.monotonic() < deadline, answer["calibration"]
            time.sleep(0.2)
        return answer

    with serve(create_app(settings, decider=StatedDecider())) as client:
        unknown = await asyncio.to_thread(ask, client)
        await load(str(client.base_url), first)
        await calibration.make_pass(writer, full=False)
        shadowed = await asyncio.to_thread(ask_until, client, CalibratorState.SHADOW)
        await load(str(client.base_url), later)
        await calibration.make_pass(writer, full=False)
        mended = await asyncio.to_thread(ask_until, client, CalibratorState.ON)
        replayed = client.get(f"/decisions/{mended['decision_id']}").json()

    assert unknown["calibration"] == {
        "state": "off",
        "calibrator_id": None,
        "p_win_calibrated": None,
        "derated": False,
        "reason": None,
    }
    # In shadow what it said still counts, but for no more than the lowest multiplier of its level: .30 instead of 1.
    # The stop is 1.00 away and the ATR stop 1.20, and 100,000 x 50 bps / 1.20 = 416.7 shares; x 0.30 = 125.
    assert risk_budget_of(unknown) == 416
    assert risk_budget_of(shadowed) == shadowed["order"]["quantity"] == 125
    assert shadowed["calibration"]["derated"] is True
    assert shadowed["calibration"]["reason"].startswith("The p_win of the last 90 days is rejected (120 resolved: ")
    assert (shadowed["edge"]["p_win_raw"], shadowed["edge"]["p_win"]) == (0.9, 0.9)
    assert 0.4 < shadowed["calibration"]["p_win_calibrated"] < 0.7
    # On, the calibrated p sizes and the decider is judged by that: nothing stands against it.
    assert mended["calibration"]["derated"] is False
    assert mended["edge"]["p_win"] == mended["calibration"]["p_win_calibrated"]
    assert 0.4 < mended["edge"]["p_win"] < 0.7
    assert mended["claims"] == [{"field": "p_win", "claimed": 0.9, "computed": mended["edge"]["p_win"]}]
    assert risk_budget_of(mended) == 416
    assert replayed["response"] == mended
    await check_rows(database_url, shadowed=shadowed, mended=mended)


def risk_budget_of(decision: dict[str, Any]) -> int:
    """How many shares the risk budget allows."""
    [cap] = [cap["max_quantity"] for cap in decision["sizing"]["caps"] if cap["cap"] == "risk_budget"]
    return int(cap)


async def check_rows(url: str, *, shadowed: dict[str, Any], mended: dict[str, Any]) -> None:
    """What the verdicts said is what is stored of it, as a row each with its reason."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT * FROM calibrators ORDER BY calibrator_id")
        judged_by = await connection.fetchval(
            "SELECT calibration::text FROM llm_decisions WHERE decision_id = $1", UUID(mended["decision_id"])
        )
    finally:
        await connection.close()
    assert [(row["decider"], row["state"], row["resolved"]) for row in rows] == [
        ("stated/set", "shadow", 120),
        ("stated/set", "on", 150),
    ]
    ids = [row["calibrator_id"] for row in rows]
    assert ids == [shadowed["calibration"]["calibrator_id"], mended["calibration"]["calibrator_id"]]
    assert rows[0]["reason"].startswith("The record rejects the stated p_win, and calibrating as the earlier ")
    assert rows[1]["reason"].startswith("After 30 more outcomes in shadow, calibrating as the earlier ")
    standing = standing_from_json(orjson.loads(judged_by))
    assert (standing.state, standing.calibrator_id) == (CalibratorState.ON, ids[1])
    assert float(standing.calibrated(0.9) or 0) == mended["edge"]["p_win"]
