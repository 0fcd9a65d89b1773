"""Every stored decision, judged again from what is stored of it, gives the answer that was sent, byte by byte."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi.testclient import TestClient

from app.api.stored import read_stored_request
from app.cli import main
from app.cli.errors import ExitCode
from app.db.engine import ConnectionPool
from app.db.locks import become_calibration_writer
from app.domain.account import HaltState
from app.domain.buckets import BucketMap
from app.domain.policy import Policy, ScaleOut
from app.domain.proposal import Candidate, Mode, ModelFailure, Proposal, WatchItem
from app.llm.decider import Reply
from app.main import create_app
from app.replay import PAGE, Replay, policy_from_json, replay_stored
from app.settings import LastResort
from tests.api.conftest import client_of, execute, on_database, settings_for
from tests.api.desk import now
from tests.api.scenes import SHORT, nvda, nvda_trade
from tests.api.served import served
from tests.builders import a_request, a_trade, an_adjust, an_exit
from tests.fakes import FakeDecider, Scripted
from tests.llm.routes import streamed_decision
from tests.log_state import restored_logging
from tests.model_server import Answer, ModelServer, error, message, stream, tool_call

NO_BUCKETS = BucketMap({})
"""What today's map says must not matter."""


class StandIn(FakeDecider):
    """A decider whose last resort proposed, at a price that nobody knows."""

    async def propose(self, **asked: Any) -> Reply:
        reply = await super().propose(**asked)
        return replace(reply, degraded=True, call=replace(reply.call, priced=False, attempts=2, hedged=True))


def replays(url: str, **wanted: Any) -> list[Replay]:
    """Replay what is stored, newest first."""

    async def run(pool: ConnectionPool) -> list[Replay]:
        options = {"read_request": read_stored_request, "buckets": NO_BUCKETS, **wanted}
        return [replay async for replay in replay_stored(pool, **options)]

    return on_database(url, run)


def rewrite(url: str, statement: str, *values: object) -> None:
    """Change a stored decision, which nobody but the owner can, and only without its guards."""
    execute(url, "ALTER TABLE llm_decisions DISABLE TRIGGER USER")
    execute(url, statement, *values)
    execute(url, "ALTER TABLE llm_decisions ENABLE TRIGGER USER")


# ------------------------------------------------------------------------------------------ every kind of decision


def probe(symbol: str, target: str) -> Candidate:
    """An idea too faint for level 0, small enough for a probe."""
    return nvda(symbol=symbol, conviction=52, stop_loss="121.50", target_price=target, p_win_pct=60)


def two_symbols(**changes: Any) -> dict[str, Any]:
    """The example with a second symbol that is as NVDA is."""
    body = a_request(**changes)
    body["market"].append(body["market"][0] | {"symbol": "AMD"})
    return body


FLAT = {"positions": [], "cash": 100_000}
SCRIPT: list[tuple[Scripted, dict[str, Any]]] = [
    (nvda_trade(), {"account": {"id": "a"}}),
    (nvda_trade(), {"account": {"id": "a"}}),  # DUPLICATE_INTENT, for the first one's reservation
    (nvda_trade(), {"account": {"id": "b", "daily_executed_notional": 495_000}}),  # resized
    (nvda_trade(**SHORT), {"account": {"id": "c"}, "regime": "bear_trend"}),
    (nvda_trade(thesis="R:R 3:1, surely; naïve “quotes” and a line\u2028end"), {"account": {"id": "d"}}),
    (a_trade(nvda(), nvda(symbol="TSLA"), nvda(entry_price=None)), {"account": {"id": "e"}}),
    (Proposal(mode=Mode.TRADE, notes="nothing to trade"), {"account": {"id": "f"}}),
    (
        Proposal(mode=Mode.WATCHLIST, watchlist=(WatchItem(symbol="NVDA", trigger="> 131", target_conviction=70),)),
        {"account": {"id": "g"}},
    ),
    (an_exit(symbol="AAPL"), {"account": {"id": "h"}}),
    (an_exit(symbol="AAPL", reduce_pct=Decimal("33.3")), {"account": {"id": "h"}}),
    (an_adjust(symbol="AAPL", new_stop="190.00", new_target="230.5"), {"account": {"id": "i"}}),
    (an_adjust(symbol="AAPL", new_stop="180.00"), {"account": {"id": "i"}}),  # would add risk
    (nvda_trade(), {"account": {"id": "j"}, "as_of": "2199-11-20T15:30:00Z"}),  # leaves no mark
    (nvda_trade(), {"account": {"id": "k", "mode": "live"}}),
    (nvda_trade(), {"account": {"id": "l"}, "symbol": {"bid": 125.5, "ask": 125.4}}),
    (nvda_trade(), {"account": {"id": "m"}, "symbol": {"atr": 9.9, "bars": []}}),
    (nvda_trade(p_win_pct=45), {"account": {"id": "n"}, "aggressiveness_level": 0}),
    # Idle on two days of the same week, then two faint ideas: the better may probe after all.
    (ModelFailure.TIMEOUT, {"account": FLAT | {"id": "o"}, "as_of": "2026-11-18T15:30:00Z"}),
    (ModelFailure.REFUSED, {"account": FLAT | {"id": "o"}, "as_of": "2026-11-19T15:30:00Z"}),
    *[(failure, {"account": {"id": "p"}}) for failure in ModelFailure],
]


def decide(client: TestClient, body: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    answer = client.post("/decide", json=body, headers={} if key is None else {"idempotency-key": key})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.fixture(scope="module")
def decided(shared_database_url: str) -> str:
    """A database with decisions of every kind, made over HTTP."""
    limits = {"max_aggressiveness_level": 3, "scale_out": ScaleOut.THIRDS}
    decider = FakeDecider()
    with client_of(create_app(settings_for(shared_database_url, limits=limits), decider=decider)) as client:
        for scripted, changes in SCRIPT:
            decider.will(scripted)
            decide(client, a_request(**changes), "live" if changes["account"].get("mode") == "live" else None)
        decider.will(a_trade(probe("AMD", "137.00"), probe("NVDA", "136.00")))
        waived = decide(client, two_symbols(account=FLAT | {"id": "o"}, aggressiveness_level=0))
        assert (waived["verdict"], waived["proposal"]["symbol"]) == ("approved", "AMD"), waived["gates"]
        decider.will(nvda_trade())
        first, again = (decide(client, a_request(account={"id": "q"}), "once") for _ in range(2))
        assert again == first
        for state, account in ((HaltState.REDUCE_ONLY, "r"), (HaltState.HALTED, "s")):
            halt = {"account_id": account, "state": state, "reason": "drill", "operator": "ana"}
            assert client.post("/halt", json=halt).status_code < 300
            assert decide(client, a_request(account={"id": account}))["reason_code"] == state.upper()
    with no_calibration_writer(shared_database_url):
        calibrate(shared_database_url, first["decider"])
        others = (FakeDecider(nvda_trade()), StandIn(nvda_trade()), FakeDecider(nvda_trade(), serves_live=False))
        for number, other in enumerate(others):
            limits = {"live_allowed": True, "max_snapshot_age_s": 60, "require_live_confirm": False}
            with client_of(create_app(settings_for(shared_database_url, limits=limits), decider=other)) as client:
                body = a_request(account={"id": f"t-{number}", "mode": "live"}, as_of=now())
                calibrated = decide(client, body, "live")
            assert calibrated["calibration"]["state"] == "on"
            assert calibrated["should_execute"] == other.serves_live
    return shared_database_url


@contextmanager
def no_calibration_writer(url: str) -> Iterator[None]:
    """Be the one that writes calibrators, so that what a test writes stays."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        assert runner.run(become_calibration_writer(connection))
        yield
        runner.run(connection.close())


def calibrate(url: str, call: dict[str, Any]) -> None:
    """Have the decider's p_win mapped from now on."""
    execute(
        url,
        "INSERT INTO calibrators (decider, prompt_hash, state, intercept, slope, resolved, fitted_on, held_out, reason)"
        " VALUES ($1, $2, 'on', 0.1, 0.777777777777777, 500, 350, 150, 'as a test says')",
        f"{call['name']}/{call['model']}",
        call["prompt_hash"],
    )


def test_decisions_of_every_kind_come_out_again_to_the_byte(decided: str) -> None:
    found = replays(decided)
    kinds = execute(decided, "SELECT DISTINCT action, verdict FROM llm_decisions")
    codes = {row["reason_code"] for row in execute(decided, "SELECT reason_code FROM llm_decisions")}

    assert [replay for replay in found if not replay.identical] == []
    assert {replay.assumed for replay in found} == {()}
    assert len(found) == len(SCRIPT) + 7
    assert {row["verdict"] for row in kinds} == {"approved", "resized", "blocked", "no_trade"}
    assert {row["action"] for row in kinds} == {"trade", "exit", "adjust", "neutral", "watchlist"}
    assert codes >= {None, "DUPLICATE_INTENT", "HALTED", "REDUCE_ONLY", "LIVE_NOT_ALLOWED", "MODEL_NEUTRAL"}
    assert codes >= {failure.value for failure in ModelFailure}


def test_newest_come_first_and_no_more_than_wanted(decided: str) -> None:
    all_of_them = replays(decided)
    newest = replays(decided, limit=3)
    since = replays(decided, since=all_of_them[4].decided_at)

    assert [replay.decided_at for replay in all_of_them] == sorted((r.decided_at for r in all_of_them), reverse=True)
    assert newest == all_of_them[:3]
    assert since == all_of_them[:5]


async def test_early_answers_and_last_resorts_come_out_again(database_url: str, tmp_path: Path) -> None:
    whole = message(tool_call(streamed_decision()))
    early_answer = stream(whole, first_s=0.02, last_number_s=0.05, end_s=0.3)
    async with (
        ModelServer(early_answer, Answer(status=500, body=error("api_error"))) as model,
        served(database_url, tmp_path, model, model_last_resort=LastResort.RULES) as client,
    ):
        early = (await client.post("/decide", json=a_request())).json()
        degraded = (await client.post("/decide", json=a_request(account={"id": "other"}))).json()
    assert (early["verdict"], early["proposal"]["thesis"]) == ("approved", "")
    assert (degraded["degraded"], degraded["decider"]["name"]) == (True, "rules")
    found = await asyncio.to_thread(replays, database_url)

    assert [replay.identical for replay in found] == [True, True]


# ------------------------------------------------------------------------------------------ what was kept otherwise


@pytest.fixture
def one(database_url: str) -> tuple[str, UUID]:
    """A database with one approved decision, whose symbol has no buckets but those of the shipped map."""
    with client_of(create_app(settings_for(database_url), decider=FakeDecider(nvda_trade()))) as client:
        answer = decide(client, a_request(symbol={"buckets": []}))
    return database_url, UUID(answer["decision_id"])


def test_decisions_from_before_buckets_were_kept_are_judged_with_those_of_today(one: tuple[str, UUID]) -> None:
    url, _ = one
    buckets = BucketMap({"NVDA": ("technology", "semiconductors", "ai"), "AAPL": ("technology", "hardware")})
    assert [replay.identical for replay in replays(url)] == [True]
    kept = json.loads(execute(url, "SELECT judged_with FROM llm_decisions")[0]["judged_with"])
    rewrite(url, "UPDATE llm_decisions SET judged_with = NULL")
    of_then = BucketMap({symbol: tuple(names) for symbol, names in kept["buckets"].items()})

    (right,) = replays(url, buckets=of_then)
    (wrong,) = replays(url, buckets=buckets if of_then != buckets else NO_BUCKETS)

    assert (right.identical, right.assumed) == (True, ("buckets", "decider"))
    assert not wrong.identical
    assert {field.split(".")[0] for field, _, _ in wrong.differences} <= {"sizing", "risk_state"}


def test_an_answer_that_was_tampered_with_is_found(one: tuple[str, UUID]) -> None:
    url, _ = one
    rewrite(
        url,
        "UPDATE llm_decisions SET response = replace(response::text, '\"quantity\":53', '\"quantity\":530')::json",
    )

    (replay,) = replays(url)

    assert not replay.identical
    assert replay.differences == (("order.quantity", 530, 53),)


def test_an_answer_that_only_is_written_otherwise_is_found(one: tuple[str, UUID]) -> None:
    url, _ = one
    rewrite(url, "UPDATE llm_decisions SET response = (response::text || ' ')::json")

    assert [bool(replay.differences) for replay in replays(url)] == [True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("""request = '{"account": {"id": "paper-1"}}'""", "ValidationError"),
        ("""proposal = '{"mode": "gamble"}'""", "ValueError: 'gamble' is not a valid Mode"),
        ("""proposal = NULL, reason_code = 'LOW_CONVICTION'""", "ValueError: 'LOW_CONVICTION' is not a valid"),
    ],
)
def test_what_this_program_does_not_know_is_refused(one: tuple[str, UUID], change: str, said: str) -> None:
    url, _ = one
    rewrite(url, f"UPDATE llm_decisions SET {change}")

    (replay,) = replays(url)

    assert not replay.identical
    assert (replay.refusal or "").startswith(said)


def test_a_policy_is_read_back_as_it_was() -> None:
    policy = Policy(
        min_risk_reward=Decimal("1.85"),
        max_leverage=Decimal("10"),
        aggressiveness_level=2,
        max_aggressiveness_level=3,
        live_allowed=True,
        scale_out=ScaleOut.THIRDS,
    )

    assert policy_from_json(policy.canonical_json()) == policy
    assert policy_from_json(policy.canonical_json()).hash() == policy.hash()
    with pytest.raises(ValueError, match="no limit is named MAX_HUNCHES any more"):
        policy_from_json(policy.canonical_json().replace("max_leverage", "max_hunches"))


# ------------------------------------------------------------------------------------------ the command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Any]:
    """Run `tradeverdict replay` on a database: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(url: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("DATABASE_URL", url)
        capsys.readouterr()
        exit_code = main(("replay", *arguments))
        said = capsys.readouterr()
        return exit_code, said.out, said.err

    with restored_logging():
        yield run


def test_the_command_counts_what_came_out_again(decided: str, command: Any) -> None:
    total = len(SCRIPT) + 7

    assert command(decided) == (
        ExitCode.DONE,
        f"{total} decisions replayed: {total} identical to the byte, 0 different\n",
        "",
    )
    assert command(decided, "--limit", "2")[1].startswith("2 decisions")
    assert command(decided, "--since", "2199-01-01")[1].startswith("0 decisions")


def test_the_command_names_each_difference_and_fails(one: tuple[str, UUID], command: Any) -> None:
    url, decision_id = one
    rewrite(url, "UPDATE llm_decisions SET response = replace(response::text, 'approved', 'resized')::json")

    exit_code, out, err = command(url)
    as_json = command(url, "--json")

    assert (exit_code, err) == (1, "tradeverdict: 1 of 1 answers did not come out again\n")
    assert str(decision_id) in out
    assert 'verdict: stored "resized", replayed "approved"' in out
    assert "1 decision replayed: 0 identical to the byte, 1 different" in out
    document = json.loads(as_json[1])
    assert (as_json[0], document["decisions"], document["different"]) == (1, 1, 1)
    assert document["failed"][0]["differences"][0] == {"field": "verdict", "stored": "resized", "replayed": "approved"}


@pytest.mark.parametrize(
    "arguments", [("--limit", "0"), ("--limit", "many"), ("--since", "yesterday"), ("--since", "2026-13-01")]
)
def test_the_command_refuses_what_it_cannot_read(command: Any, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as refused:
        command("postgresql://nobody@127.0.0.1:9/nothing", *arguments)

    assert refused.value.code == ExitCode.BAD_INPUT


def test_pages_join_up(database_url: str) -> None:
    posts = PAGE + 2
    with client_of(create_app(settings_for(database_url), decider=FakeDecider(nvda_trade()))) as client:
        for number in range(posts):
            decide(client, a_request(account={"id": f"page-{number % 3}"}))

    found = replays(database_url)

    assert len({replay.decision_id for replay in found}) == len(found) == posts
    assert all(replay.identical for replay in found)
    assert len(replays(database_url, limit=PAGE + 1)) == PAGE + 1
