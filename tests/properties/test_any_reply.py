"""Whatever a model replies, nothing wrong is approved, and every valid snapshot is answered."""

import asyncio
import copy
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.proposal import Candidate
from app.domain.verdict import Judgement
from app.llm.wire import InvalidReplyError, parse_decision
from app.main import create_app
from app.settings import Auth, DeciderChoice, Secret, Settings
from tests import oracle
from tests.builders import a_request
from tests.model_server import Answer, ModelServer, Request, message, tool_call
from tests.properties import worlds as scenery
from tests.properties.counts import CountReport
from tests.properties.crossing import judge_outcome
from tests.properties.limits import broken_limits
from tests.properties.replies import ANYTHING, PRICES, spoiled, tool_input, tool_inputs
from tests.properties.worlds import BUCKET_MAP, Draw, Record, World, pick, worlds

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

FRIDAY = datetime(2024, 11, 22, 15, 30, tzinfo=UTC)
"""In the past, for a service that does not look at the age of snapshots (as in replays)."""

SENT_ALONE = (
    scenery.spoil_market,
    scenery.spoil_quotes,
    scenery.add_bars,
    scenery.spoil_prices,
    scenery.spoil_words,
    scenery.tempt_a_probe,
    scenery.spoil_loss,
    scenery.spoil_account,
    scenery.spoil_positions,
)
"""Troubles that a request can bring; what they did to the store is undone."""


def as_json(value: Any) -> Any:
    """Decimals become the floats that JSON has, times become text."""
    if isinstance(value, dict):
        return {name: as_json(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [as_json(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def as_read(value: Any) -> Any:
    """Decimals become what a reader makes of their floats; times move from the worlds' Friday to ours."""
    if isinstance(value, dict):
        return {name: as_read(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [as_read(inner) for inner in value]
    if isinstance(value, datetime):
        return value - scenery.NOON + FRIDAY
    return Decimal(repr(float(value))) if isinstance(value, Decimal) else value


@st.composite
def sent_worlds(draw: Draw) -> World:
    """A world as a request brings it to a service with default limits that never saw the account."""
    world: World = draw(worlds(SENT_ALONE))
    world.snapshot, world.account, world.reply = (
        as_read(part) for part in (world.snapshot, world.account, world.reply)
    )
    world.state = scenery.empty_state(FRIDAY)
    world.policy = oracle.DEFAULT_POLICY | {"max_snapshot_age_s": 0}
    world.calibrator, world.serves_live = None, True
    return world


@st.composite
def exchanges(draw: Draw) -> tuple[World, bytes, bool]:
    """A world, the body of the model's answer, and whether that is just what the world's reply says."""
    world = draw(sent_worlds())
    sound = message(tool_call(tool_input(world.reply)))
    match pick(draw, *["sound"] * 7, "input", "input", "message", "anything", "bytes"):
        case "input":
            return world, dump(message(tool_call(draw(tool_inputs(world))))), False
        case "message":
            return world, dump(draw(spoiled(sound))), False
        case "anything":
            return world, dump(draw(ANYTHING)), False
        case "bytes":
            return world, draw(st.binary(max_size=200)), False
        case _:
            # The tool takes no negative price; then there is no reply that the oracle could read.
            prices = [candidate[name] for candidate in world.reply["candidates"] for name in PRICES]
            return world, dump(sound), all(price is None or price >= 0 for price in prices)


def dump(value: Any) -> bytes:
    """JSON as careless programs write it: NaN and Infinity bare, lone surrogates escaped."""
    return json.dumps(value).encode()


def request_of(world: World, account_id: str) -> Record:
    body: Record = as_json(
        {
            "account": world.account | {"id": account_id},
            "as_of": world.snapshot["as_of"],
            "market": world.snapshot["market"],
            "regime": world.snapshot["regime"],
        }
    )
    return body


class Model:
    """A model behind a real socket that answers with the body it is given."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.base_url = ""

    def answer(self, _: Request) -> Answer:
        return Answer(status=self.status, body=self.body)

    @contextmanager
    def serve(self) -> Iterator["Model"]:
        """Serve in a thread of its own."""
        ready, stop, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

        async def run() -> None:
            async with ModelServer(self.answer) as server:
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


@pytest.fixture
def client(database_url: str, model: Model, tmp_path: Path) -> Iterator[TestClient]:
    buckets = tmp_path / "buckets.csv"
    lines = [f"{symbol},{'|'.join(names)}" for symbol, names in BUCKET_MAP.items()]
    buckets.write_text("\n".join(["symbol,buckets", *lines]) + "\n")
    settings = Settings(
        database_url=Secret(database_url),
        auth=Auth.OFF,
        decider=DeciderChoice.ANTHROPIC,
        anthropic_api_key=Secret("sk-test"),
        anthropic_base_url=model.base_url,
        buckets_file=buckets,
        rate_limit_per_minute=1_000_000,
        limits={"max_snapshot_age_s": 0, "decision_deadline_ms": 60_000},
    )
    app = create_app(settings)
    # Log lines of thousands of requests would bury what the test has to say.
    with capture_logs(), TestClient(app, raise_server_exceptions=False) as running:
        yield running


@pytest.fixture
def account_ids() -> Callable[[], str]:
    """Names of accounts that the service never saw."""
    numbers = count()
    return lambda: f"account-{next(numbers)}"


def test_every_reply_to_a_valid_snapshot_is_answered_within_all_limits(
    client: TestClient, model: Model, account_ids: Callable[[], str], report_counts: CountReport
) -> None:
    verdicts: Counter[str] = Counter()

    @given(exchanges())
    def ask(exchange: tuple[World, bytes, bool]) -> None:
        world, model.body, is_sound = exchange
        response = client.post("/decide", json=request_of(world, account_ids()))

        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        answer = response.json()
        verdicts[answer["verdict"]] += 1
        assert answer["should_execute"] == (answer["order"] is not None)
        assert answer["should_execute"] == (answer["verdict"] in {"approved", "resized"})
        if answer["order"] is not None and not answer["order"]["reduce_only"]:
            check_answer(world, answer)
        if is_sound:
            expected = world.judged_by_oracle()
            assert (answer["verdict"], answer["reason_code"]) == (expected["verdict"], expected["reason_code"])

    ask()

    report_counts("any model answer over HTTP", verdicts)
    assert (verdicts["approved"] + verdicts["resized"]) / verdicts.total() >= LEAST_ORDERS


def test_every_recorded_reply_of_the_real_api_is_answered(
    client: TestClient, model: Model, account_ids: Callable[[], str]
) -> None:
    recordings = json.loads((Path(__file__).parents[1] / "data" / "messages_api_replies.json").read_text())["replies"]
    answers = []
    for recording in recordings:
        model.status, model.body = recording["status"], dump(recording["body"])
        answers.append(client.post("/decide", json=a_request(account={"id": account_ids()})))

    assert len(answers) == 25
    assert {answer.status_code for answer in answers} == {200}
    # None of them was asked for our tool, so none is a proposal; those with an error status are no replies at all.
    assert [answer.json()["reason_code"] for answer in answers] == [
        "MODEL_INVALID" if recording["status"] == 200 else "MODEL_UNAVAILABLE" for recording in recordings
    ]
    assert all(answer.json()["order"] is None for answer in answers)


def check_answer(world: World, answer: Record) -> None:
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
        model.body = dump(message(tool_call(tool_input(world.reply))))
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
