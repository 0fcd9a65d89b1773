"""Whatever a model replies, nothing wrong is approved, and every valid snapshot is answered."""

import asyncio
import copy
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.proposal import Candidate
from app.domain.verdict import Judgement
from app.llm.wire import InvalidReplyError, parse_decision
from app.main import create_app
from app.settings import Auth, DeciderChoice, Secret, Settings
from tests.builders import a_request
from tests.faults.processes import asking, start
from tests.model_server import Answer, ModelServer, message, tool_call
from tests.properties import worlds as scenery
from tests.properties.counts import CountReport
from tests.properties.crossing import judge_outcome
from tests.properties.exchanges import KINDS, Exchange, dump, exchanges, request_of, sent_worlds
from tests.properties.limits import broken_limits
from tests.properties.replies import ANYTHING, spoiled, tool_input, tool_inputs
from tests.properties.worlds import BUCKET_MAP, Draw, Record, World, worlds

LEAST_ORDERS = 0.30


# ------------------------------------------------------------------------------------------ parse and judge


@st.composite
def worlds_and_tool_inputs(draw: Draw) -> tuple[World, Any]:
    # The reply is spoiled here, so most worlds are left alone.
    world = draw(worlds((scenery.spoil_words,)) | worlds())
    return world, draw(tool_inputs(world))


def test_no_reply_gets_a_wrong_value_approved(report_counts: CountReport) -> None:
    verdicts: Counter[str] = Counter()

    @given(worlds_and_tool_inputs())
    def parse_and_judge(case: tuple[World, Any]) -> None:
        world, reply = case
        try:
            proposal = parse_decision(reply)
        except InvalidReplyError:
            verdicts["not a reply"] += 1
            return
        judgement = judge_outcome(world, proposal)
        verdicts[judgement.verdict] += 1
        if judgement.ticket is None:
            assert not judgement.should_execute
        elif judgement.ticket.reduce_only:
            check_reduction(world, judgement)
        else:
            check_entry(world, judgement)

    parse_and_judge()

    report_counts("any tool input", verdicts)
    assert (verdicts["approved"] + verdicts["resized"]) / verdicts.total() >= LEAST_ORDERS


def as_record(candidate: Candidate) -> Record:
    """The candidate as the oracle reads it."""
    names = ("symbol", "direction", "setup", "entry_type", "entry_price", "stop_loss", "target_price")
    return {name: getattr(candidate, name) for name in (*names, "time_stop_hours", "p_win_pct", "conviction")}


def check_entry(world: World, judgement: Judgement) -> None:
    assert judgement.ticket is not None
    assert judgement.candidate is not None
    assert judgement.sizing is not None
    ticket, candidate = judgement.ticket, judgement.candidate
    numbers = [candidate.stop_loss, candidate.target_price, ticket.notional_usd, ticket.risk_usd]
    numbers += [ticket.entry_price, ticket.stop_loss, *(target.price for target in ticket.targets)]
    named = [value for value in numbers if value is not None]

    assert all(value.is_finite() and value > 0 for value in named)
    assert ticket.stop_required
    assert ticket.stop_loss == candidate.stop_loss
    assert 1 <= candidate.p_win_pct <= 99
    assert 0 <= candidate.conviction <= 100
    assert isinstance(ticket.quantity, int)
    broken = broken_limits(
        world,
        as_record(candidate),
        quantity=ticket.quantity,
        risk_per_share=Fraction(judgement.sizing.risk_per_share),
    )
    assert broken == []


def check_reduction(world: World, judgement: Judgement) -> None:
    """An exit or adjust sells at most what is held, and a new stop lies between the old one and the mark."""
    assert judgement.ticket is not None
    ticket = judgement.ticket
    position = next(p for p in world.account["positions"] if p["symbol"] == ticket.symbol)
    is_long = position["quantity"] > 0

    assert 0 <= ticket.quantity <= abs(position["quantity"])
    assert ticket.side == ("sell" if is_long else "buy_to_cover")
    if judgement.manage is not None and judgement.manage.new_stop is not None and position["stop_loss"] is not None:
        further = judgement.manage.new_stop - position["stop_loss"]
        assert judgement.action == "exit" or (further > 0 if is_long else further < 0)


# ------------------------------------------------------------------------------------------ over HTTP


class Model:
    """A model behind a real socket that gives the answer it is told to give."""

    def __init__(self) -> None:
        self.answer = Answer()
        self.base_url = ""

    @contextmanager
    def serve(self) -> Iterator["Model"]:
        """Serve in a thread of its own."""
        ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

        async def run() -> None:
            async with ModelServer(lambda _: self.answer) as server:
                self.base_url = server.base_url
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()


@pytest.fixture
def model() -> Iterator[Model]:
    with Model().serve() as serving:
        yield serving


def buckets_file(folder: Path) -> Path:
    """The worlds' buckets as the service reads them."""
    lines = [f"{symbol},{'|'.join(names)}" for symbol, names in BUCKET_MAP.items()]
    path = folder / "buckets.csv"
    path.write_text("\n".join(["symbol,buckets", *lines]) + "\n")
    return path


@pytest.fixture
def client(database_url: str, model: Model, tmp_path: Path) -> Iterator[TestClient]:
    told = Settings(
        database_url=Secret(database_url),
        auth=Auth.OFF,
        decider=DeciderChoice.ANTHROPIC,
        anthropic_api_key=Secret("sk-test"),
        anthropic_base_url=model.base_url,
        buckets_file=buckets_file(tmp_path),
        rate_limit_per_minute=1_000_000,
        limits={"max_snapshot_age_s": 0, "decision_deadline_ms": 60_000},
    )
    app = create_app(told)
    # Log lines of thousands of requests would bury what the test has to say.
    with capture_logs(), TestClient(app, raise_server_exceptions=False) as running:
        yield running


@pytest.fixture
def account_ids() -> Callable[[], str]:
    """Names of accounts that the service never saw."""
    numbers = count()
    return lambda: f"account-{next(numbers)}"


PROVE = os.environ.get("PROVE") == "1"
REPLIES = 5000 if PROVE else 160
UNMOVED = {"MODEL_BREAKER_FAILURES": 1000, "MODEL_WARM_EVERY_S": 0}
"""Settings of a service that asks the model once per request, whatever came of the requests before."""
ENDLESS_DEADLINE_MS = 400
"""How long a decision may take where the model never comes to an end; 150 ms of it are kept for the record."""


@contextmanager
def serving(database_url: str, model: Model, folder: Path, **settings: object) -> Iterator[str]:
    """The address of a `tradeverdict serve` process of its own that asks the model."""
    with asyncio.Runner() as runner:
        started = runner.run(
            start(
                database_url,
                folder,
                **asking(model.base_url),
                **UNMOVED,
                RATE_LIMIT_PER_MINUTE=1_000_000,
                BUCKETS_FILE=buckets_file(folder),
                **settings,
            )
        )
        try:
            yield started.base_url
        finally:
            runner.run(started.kill())
            assert started.process.stdout is not None
            started.process.stdout.close()


def test_every_reply_to_a_valid_snapshot_is_answered_within_all_limits(
    database_url: str, model: Model, tmp_path: Path, account_ids: Callable[[], str], report_counts: CountReport
) -> None:
    verdicts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()

    with (
        serving(database_url, model, tmp_path, DECISION_DEADLINE_MS=60_000) as patient,
        serving(database_url, model, tmp_path, DECISION_DEADLINE_MS=ENDLESS_DEADLINE_MS) as hasty,
        httpx2.Client(timeout=90, trust_env=False) as bot,
    ):

        @settings(max_examples=REPLIES)
        @given(exchanges())
        def ask(exchange: Exchange) -> None:
            world, model.answer = exchange.world, exchange.answer()
            service = hasty if exchange.endless else patient
            response = bot.post(f"{service}/decide", json=request_of(world, account_ids()))

            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == "application/json"
            answer = response.json()
            verdicts[answer["verdict"]] += 1
            kinds[exchange.kind] += 1
            check_order(world, answer)
            if exchange.reasons:
                assert answer["order"] is None
                assert answer["reason_code"] in exchange.reasons
            if exchange.sound:
                expected = world.judged_by_oracle()
                assert (answer["verdict"], answer["reason_code"]) == (expected["verdict"], expected["reason_code"])

        ask()

    report_counts("any model answer over HTTP", verdicts)
    report_counts("kinds of model answers", kinds)
    assert verdicts.total() >= REPLIES
    assert not PROVE or set(kinds) == set(KINDS)
    assert (verdicts["approved"] + verdicts["resized"]) / verdicts.total() >= LEAST_ORDERS


def test_every_recorded_reply_of_the_real_api_is_answered(
    client: TestClient, model: Model, account_ids: Callable[[], str]
) -> None:
    recordings = json.loads((Path(__file__).parents[1] / "data" / "messages_api_replies.json").read_text())["replies"]
    answers = []
    for recording in recordings:
        model.answer = Answer(status=recording["status"], body=dump(recording["body"]))
        answers.append(client.post("/decide", json=a_request(account={"id": account_ids()})))

    assert len(answers) == 25
    assert {answer.status_code for answer in answers} == {200}
    # None of them was asked for our tool, so none is a proposal; those with an error status are no replies at all.
    assert [answer.json()["reason_code"] for answer in answers] == [
        "MODEL_INVALID" if recording["status"] == 200 else "MODEL_UNAVAILABLE" for recording in recordings
    ]
    assert all(answer.json()["order"] is None for answer in answers)


def check_order(world: World, answer: Record) -> None:
    """What is executed was approved, and keeps every limit; what only reduces takes no more than is held."""
    order = answer["order"]
    assert answer["should_execute"] == (order is not None)
    assert answer["should_execute"] == (answer["verdict"] in {"approved", "resized"})
    if order is None:
        return
    if order["reduce_only"]:
        held = next(position for position in world.account["positions"] if position["symbol"] == order["symbol"])
        assert 0 <= order["quantity"] <= abs(held["quantity"])
    else:
        check_limits(world, answer)


def check_limits(world: World, answer: Record) -> None:
    order, proposal = answer["order"], answer["proposal"]
    # risk_usd is rounded to the cent.
    risk_per_share = (Fraction(order["risk_usd"]) - Fraction("0.005")) / order["quantity"]

    assert order["stop_required"]
    assert order["stop_loss"] == proposal["stop_loss"]
    assert broken_limits(world, proposal, quantity=order["quantity"], risk_per_share=risk_per_share) == []


def test_every_request_is_answered_or_refused_with_a_problem(
    client: TestClient, model: Model, account_ids: Callable[[], str], report_counts: CountReport
) -> None:
    statuses: Counter[str] = Counter()

    @st.composite
    def requests(draw: Draw) -> tuple[World, Any]:
        world = draw(sent_worlds())
        sound = request_of(world, "")
        return world, draw(st.just(sound) | spoiled(sound) | spoiled(sound) | ANYTHING)

    @given(requests())
    def ask(case: tuple[World, Any]) -> None:
        world, body = case
        model.answer = Answer(body=dump(message(tool_call(tool_input(world.reply)))))
        body = copy.deepcopy(body)
        if isinstance(body, dict) and isinstance(body.get("account"), dict) and body["account"].get("id") == "":
            body["account"]["id"] = account_ids()
        response = client.post("/decide", content=dump(body), headers={"content-type": "application/json"})
        statuses[str(response.status_code)] += 1

        assert response.status_code in {200, 422}, response.text
        if response.status_code == 422:
            problem = response.json()
            assert response.headers["content-type"] == "application/problem+json"
            assert problem["code"] in {"MALFORMED_JSON", "VALIDATION_ERROR"}

    ask()

    report_counts("any request over HTTP", statuses)
    assert statuses["200"] / statuses.total() >= LEAST_ORDERS
