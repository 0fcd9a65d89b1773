"""A request that is sent again has the answer of the first, whatever happened in between."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import httpx2
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from app.api.errors import ErrorCode
from app.api.idempotency import fingerprint
from app.llm.decider import Reply
from tests.api.conftest import ClientWith
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import nvda_trade
from tests.builders import a_request
from tests.fakes import FakeDecider


class SlowDecider(FakeDecider):
    """Take these times for one proposal after the other, and none for all that follow."""

    def __init__(self, *delays_s: float) -> None:
        super().__init__(nvda_trade())
        self.delays_s = list(delays_s)

    async def propose(self, **asked: Any) -> Reply:
        self.delay_s = self.delays_s.pop(0) if self.delays_s else 0.0
        return await super().propose(**asked)


def decide(client: TestClient, body: Any, key: str = "k-1") -> httpx2.Response:
    return client.post("/decide", json=body, headers={"Idempotency-Key": key})


def is_replay(answer: httpx2.Response) -> bool:
    return answer.headers.get("idempotency-replayed") == "true"


def stored(client: TestClient, account_id: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get(f"/decisions?account={account_id}").json()["decisions"]
    return listed


def test_the_same_request_again_has_the_same_answer_to_the_byte(client_with: ClientWith, account_id: str) -> None:
    decider = FakeDecider(nvda_trade())
    client = client_with(decider)
    body = a_request(account={"id": account_id})

    first, again = decide(client, body), decide(client, body)

    assert first.json()["verdict"] == "approved"
    assert not is_replay(first)
    assert (again.status_code, again.content, is_replay(again)) == (200, first.content, True)
    assert again.headers["content-type"] == "application/json"
    assert len(decider.prompts) == 1
    assert len(stored(client, account_id)) == 1


def test_another_spelling_of_the_same_body_is_the_same_request(client_with: ClientWith, account_id: str) -> None:
    client = client_with(FakeDecider(nvda_trade()))
    body = a_request(account={"id": account_id})
    first = decide(client, body)

    respelt = json.dumps(dict(reversed(body.items())), indent=3)
    again = client.post("/decide", content=respelt, headers={"Idempotency-Key": "k-1"})

    assert (again.content, is_replay(again)) == (first.content, True)


def test_another_body_under_the_key_is_refused(client_with: ClientWith, account_id: str) -> None:
    client = client_with(FakeDecider(nvda_trade()))
    decide(client, a_request(account={"id": account_id}))

    answer = decide(client, a_request(account={"id": account_id, "cash": 61_999}))

    problem_of(answer, ErrorCode.IDEMPOTENCY_KEY_REUSED)
    assert len(stored(client, account_id)) == 1


def test_a_key_belongs_to_one_account(client_with: ClientWith, account_id: str) -> None:
    client = client_with(FakeDecider(nvda_trade()))
    first = decide(client, a_request(account={"id": account_id}))

    other = decide(client, a_request(account={"id": f"{account_id}-b"}))

    assert not is_replay(other)
    assert other.json()["decision_id"] != first.json()["decision_id"]


def test_live_needs_a_key_and_paper_does_not(client_with: ClientWith, account_id: str) -> None:
    client = client_with()

    live = client.post("/decide", json=a_request(account={"id": account_id, "mode": "live"}))

    problem_of(live, ErrorCode.IDEMPOTENCY_KEY_REQUIRED)
    assert decide(client, a_request(account={"id": account_id, "mode": "live"})).status_code == 200
    assert client.post("/decide", json=a_request(account={"id": account_id})).status_code == 200


@pytest.mark.parametrize("key", ["k", "x" * 255, "a b", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "~!@#$%^&*()"])
def test_a_key_is_any_printable_text(client_with: ClientWith, account_id: str, key: str) -> None:
    client = client_with()
    body = a_request(account={"id": account_id})

    assert decide(client, body, key).content == decide(client, body, key).content


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\tb", "\u00fc"])
def test_what_is_no_key_is_refused_by_name(offline: TestClient, key: str) -> None:
    answer = offline.post("/decide", json=a_request(), headers={b"Idempotency-Key": key.encode("latin-1")})

    assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == ["Idempotency-Key"]


def test_two_keys_are_refused_by_name(offline: TestClient) -> None:
    answer = offline.post("/decide", json=a_request(), headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])

    assert fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR)) == ["Idempotency-Key"]


def test_a_request_that_is_refused_does_not_use_up_its_key(client_with: ClientWith, account_id: str) -> None:
    client = client_with()

    for refused in (
        a_request(account={"id": account_id, "equity": 0}),
        a_request(account={"id": account_id}, aggressiveness_level=3),
    ):
        problem_of(decide(client, refused), ErrorCode.VALIDATION_ERROR)

    assert decide(client, a_request(account={"id": account_id})).status_code == 200


def test_who_comes_while_the_first_still_runs_waits_for_its_answer(client_with: ClientWith, account_id: str) -> None:
    decider = SlowDecider(0.3)
    client = client_with(decider)
    body = a_request(account={"id": account_id})

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: decide(client, body), range(8)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum(is_replay(answer) for answer in answers) == 7
    assert len(decider.prompts) == 1


def test_who_waited_until_the_deadline_is_told_when_to_come_back(client_with: ClientWith, account_id: str) -> None:
    client = client_with(SlowDecider(0.8), limits={"decision_deadline_ms": 200})
    body = a_request(account={"id": account_id})

    with ThreadPoolExecutor(1) as other:
        first = other.submit(decide, client, body)
        time.sleep(0.2)
        answer = decide(client, body)
        assert not first.done()

    problem_of(answer, ErrorCode.IDEMPOTENCY_IN_FLIGHT)
    assert answer.headers["retry-after"] == "10"  # the lease of 10 s less 0.4 s, rounded up
    assert decide(client, body).content == first.result().content


def test_a_request_that_failed_is_decided_at_once_when_it_comes_again(client_with: ClientWith, account_id: str) -> None:
    client = client_with(FakeDecider(RuntimeError("a bug"), nvda_trade()))
    body = a_request(account={"id": account_id})

    problem_of(decide(client, body), ErrorCode.INTERNAL_ERROR)
    started = time.monotonic()
    again = decide(client, body)

    assert (again.json()["verdict"], is_replay(again)) == ("approved", False)
    assert time.monotonic() - started < 5


def test_a_holder_that_lost_its_lease_gives_the_answer_of_its_successor(
    client_with: ClientWith, account_id: str
) -> None:
    decider = SlowDecider(1.8)
    client = client_with(decider, limits={"decision_deadline_ms": 500}, idempotency_lease_s=1)
    body = a_request(account={"id": account_id})

    with ThreadPoolExecutor(1) as other:
        late = other.submit(decide, client, body)
        time.sleep(1.2)
        successor = decide(client, body)
        assert not late.done()

    assert (successor.status_code, is_replay(successor)) == (200, False)
    assert (late.result().content, is_replay(late.result())) == (successor.content, True)
    assert len(stored(client, account_id)) == 1


def test_a_key_whose_decision_is_no_longer_stored_stays_used(
    client_with: ClientWith, account_id: str, shared_database_url: str
) -> None:
    async def forget_decisions() -> None:
        connection = await asyncpg.connect(shared_database_url)
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL tradeverdict.retention = 'on'")
                await connection.execute("DELETE FROM reservations WHERE account_id = $1", account_id)
                await connection.execute("DELETE FROM llm_decisions WHERE account_id = $1", account_id)
        finally:
            await connection.close()

    client = client_with(FakeDecider(nvda_trade()))
    body = a_request(account={"id": account_id})
    decide(client, body)
    asyncio.run(forget_decisions())

    problem_of(decide(client, body), ErrorCode.IDEMPOTENCY_KEY_SPENT)
    assert stored(client, account_id) == []


def test_without_the_store_nothing_is_decided_under_a_key(offline: TestClient) -> None:
    problem_of(decide(offline, a_request()), ErrorCode.STORE_UNAVAILABLE)


@pytest.mark.parametrize(
    ("body", "same"),
    [
        (b'{"b": 2, "a": {"d": [1, 2], "c": null}}', b'{"a":{"c":null,"d":[1,2]},"b":2}'),
        (b'{"a": "\\u00e9\\/"}', '{"a":"é/"}'.encode()),
        (b'{"a": 1.0}', b'{"a": 1.00}'),
        (b'{"a": 100.0}', b'{"a": 1e2}'),
    ],
)
def test_bodies_that_say_the_same_have_one_fingerprint(body: bytes, same: bytes) -> None:
    assert fingerprint(body) == fingerprint(same)


@pytest.mark.parametrize(
    ("body", "other"),
    [
        (b'{"a": [1, 2]}', b'{"a": [2, 1]}'),
        (b'{"a": 1}', b'{"a": 1.0}'),
        (b'{"a": "1"}', b'{"a": 1}'),
        (b'{"a": null}', b"{}"),
        (b'{"a": "x"}', b'{"a": "X"}'),
        (b'{"a": 0.1}', b'{"a": 0.10000000000000002}'),
    ],
)
def test_bodies_that_say_something_else_have_another_fingerprint(body: bytes, other: bytes) -> None:
    assert fingerprint(body) != fingerprint(other)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Halves of surrogate pairs are refused before anything is hashed.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_spelling_never_changes_a_fingerprint(sent: Any) -> None:
    compact = json.dumps(sent, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    assert fingerprint(json.dumps(sent, indent=2).encode()) == fingerprint(compact.encode())
