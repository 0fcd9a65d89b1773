"""POST /exposure sets a portfolio beside its limits and says what to reduce."""

from decimal import Decimal
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.exposure import EXAMPLE, ExposureRequest, ExposureResponse
from app.db.vocabulary import Scope
from app.settings import Auth
from tests.api.conftest import ClientWith, Issue, bearer
from tests.api.problems import fields_of, problem_of


@pytest.fixture
def client(client_with: ClientWith) -> TestClient:
    return client_with()


def held(*positions: dict[str, Any], **account: Any) -> dict[str, Any]:
    return {"account": {"id": "paper-1", "equity": 100_000, "cash": 0, "positions": list(positions)} | account}


def position(symbol: str = "NVDA", quantity: float = 100, mark_price: float | None = 100.0) -> dict[str, Any]:
    return {"symbol": symbol, "quantity": quantity} | ({} if mark_price is None else {"mark_price": mark_price})


def asked(client: TestClient, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer = client.post("/exposure", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    ExposureResponse.model_validate_json(answer.content)
    document: dict[str, Any] = answer.json()
    return document


def refused(answer: httpx2.Response) -> list[str]:
    return fields_of(problem_of(answer, ErrorCode.VALIDATION_ERROR))


def test_a_portfolio_is_set_beside_its_limits(client: TestClient) -> None:
    found = asked(client, EXAMPLE)

    # AAPL 150 x 201.20 = 30,180 of 20,000; NVDA 145 x 125.40 = 18,183. Together 48,363 of technology's 35,000.
    buckets = {bucket["bucket"]: bucket for bucket in found["buckets"]}
    assert buckets["technology"] == {
        "bucket": "technology",
        "exposure_usd": "48363.00",
        "exposure_pct": 0.48363,
        "limit_pct": 0.35,
        "reduce_by_usd": "13363.00",
        "status": "over",
        "after_pct": pytest.approx(0.34983, abs=0.002),
    }
    assert [(use["symbol"], use["reduce_by_usd"], use["status"]) for use in found["symbols"]] == [
        ("AAPL", "10180.00", "over"),
        ("NVDA", "0.00", "within"),
    ]
    assert (found["gross"]["exposure_pct"], found["gross"]["limit_pct"], found["gross"]["status"]) == (
        0.48363,
        2.0,
        "within",
    )
    assert all(use["after_pct"] <= use["limit_pct"] for use in [found["gross"], *found["buckets"], *found["symbols"]])
    first = found["suggestions"][0]
    assert (first["symbol"], first["side"], first["limits"]) == (
        "AAPL",
        "sell",
        ["symbol_exposure", "bucket:technology"],
    )
    assert first["quantity"] + first["quantity_after"] == 150
    assert found["policy"]["hash"]


def test_a_portfolio_within_its_limits_needs_no_reduction(client: TestClient) -> None:
    found = asked(client, held(position("NVDA", 100), position("JNJ", -100)))

    assert found["suggestions"] == []
    assert {use["status"] for use in found["symbols"]} == {"within"}
    assert found["gross"]["exposure_usd"] == "20000.00"


def test_a_short_that_is_too_large_is_covered(client: TestClient) -> None:
    [suggestion] = asked(client, held(position("JNJ", -250)))["suggestions"]

    assert suggestion == {
        "symbol": "JNJ",
        "side": "buy_to_cover",
        "quantity": 50,
        "quantity_after": -200,
        "value_usd": "5000.00",
        "limits": ["symbol_exposure"],
    }


def test_an_empty_portfolio_is_exposed_to_nothing(client: TestClient) -> None:
    found = asked(client, held(position(quantity=0, mark_price=None)))

    assert (found["gross"]["exposure_usd"], found["buckets"], found["symbols"]) == ("0.00", [], [])


def test_of_two_marks_the_larger_counts(client: TestClient) -> None:
    for mark, expected in ((90.0, "10000.00"), (110.0, "11000.00")):
        found = asked(client, held(position()) | {"marks": {"nvda": mark}})
        assert found["gross"]["exposure_usd"] == expected


def test_a_request_adds_buckets_and_unknown_symbols_share_one(client: TestClient) -> None:
    found = asked(client, held(position("NVDA"), position("ZZZZ")) | {"buckets": {"nvda": ["Space Mining"]}})

    exposure = {bucket["bucket"]: bucket["exposure_usd"] for bucket in found["buckets"]}
    assert exposure["space_mining"] == exposure["technology"] == exposure["unclassified"] == "10000.00"


def test_limits_are_those_of_the_service(client_with: ClientWith) -> None:
    client = client_with(limits={"max_symbol_exposure_pct": Decimal("0.05"), "max_snapshot_age_s": 0})

    found = asked(client, held(position()))

    assert found["symbols"][0]["limit_pct"] == 0.05
    assert found["suggestions"][0]["quantity"] == 50


def test_what_is_over_by_less_than_a_cent_is_still_over(client: TestClient) -> None:
    [use] = asked(client, held(position(quantity=20_000.001, mark_price=1.0)))["symbols"]

    assert (use["status"], use["reduce_by_usd"]) == ("over", "0.01")


def test_a_fraction_of_a_share_goes_with_its_position(client: TestClient) -> None:
    [suggestion] = asked(client, held(position("BRK-B", 0.5, 700_000.0)))["suggestions"]

    assert (suggestion["symbol"], suggestion["quantity"], suggestion["quantity_after"]) == ("BRK.B", 0.5, 0)


class TestAPositionWithoutAMark:
    def test_is_named_and_never_worth_nothing(self, client: TestClient) -> None:
        for mark in (None, 0.0):
            body = held(position(), position("JNJ", 10, mark), position("XOM", 10, mark))
            assert refused(client.post("/exposure", json=body)) == [
                "account.positions.1.mark_price",
                "account.positions.2.mark_price",
            ]

    def test_may_get_it_from_marks(self, client: TestClient) -> None:
        body = held(position(mark_price=None)) | {"marks": {"NVDA": 100.0}}

        assert asked(client, body)["gross"]["exposure_usd"] == "10000.00"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"marks": {"NVDA": 0}}, "marks.NVDA"),
        ({"marks": {"NVDA": "100"}}, "marks.NVDA"),
        ({"marks": {"no such": 1.0}}, "marks"),
        ({"marks": {"NVDA": 1.0, "nvda": 2.0}}, "marks"),
        ({"buckets": {"NVDA": ["4chan"]}}, "buckets.NVDA.0"),
        ({"market": []}, "market"),
        ({"account": {"id": "paper-1"}}, "account.equity"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(client: TestClient, change: dict[str, Any], named: str) -> None:
    assert refused(client.post("/exposure", json=held(position()) | change))[0] == named


def test_a_body_that_is_no_json_is_refused(client: TestClient) -> None:
    headers = {"content-type": "application/json"}

    problem_of(client.post("/exposure", content=b"{", headers=headers), ErrorCode.MALFORMED_JSON)


def test_the_largest_numbers_that_can_be_sent_are_answered(client: TestClient) -> None:
    vast = held(position(quantity=9.9e12, mark_price=9.9e12), position("JNJ", -1e-300, 1e-300), equity=1e-9)

    found = asked(client, vast)

    # Of JNJ less is held than any limit: it stays.
    assert [suggestion["symbol"] for suggestion in found["suggestions"]] == ["NVDA"]
    assert found["gross"]["status"] == "over"


def test_a_key_acts_for_its_own_accounts(client_with: ClientWith, issue: Issue, account_id: str) -> None:
    client = client_with(auth=Auth.ON)
    body = held(position(), id=account_id)

    problem_of(client.post("/exposure", json=body), ErrorCode.UNAUTHENTICATED)
    for key in (issue(Scope.DECIDE), issue(Scope.READ, accounts=["another"])):
        problem_of(client.post("/exposure", json=body, headers=bearer(key)), ErrorCode.FORBIDDEN)
    assert asked(client, body, **bearer(issue(Scope.READ, accounts=[account_id])))["account_id"] == account_id


def test_the_documented_example_is_one_that_is_accepted() -> None:
    assert ExposureRequest.model_validate(EXAMPLE, strict=False).account.id == "paper-1"
