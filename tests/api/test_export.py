"""An export holds every decision that was asked for, once, exactly, and never looks whole when it is not."""

import csv
import io
from collections.abc import Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import asyncpg
import httpx2
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from fastapi.testclient import TestClient

from app.api.errors import ErrorCode
from app.api.export import CsvWriter
from app.db.engine import ConnectionPool
from app.db.exports import COLUMNS, ROWS_PER_PAGE, decision_pages
from app.db.vocabulary import Scope
from app.domain.proposal import ModelFailure
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import (
    NOWHERE,
    ClientWith,
    Issue,
    Serve,
    bearer,
    client_of,
    execute,
    on_database,
    settings_for,
)
from tests.api.desk import Desk
from tests.api.problems import fields_of, problem_of
from tests.api.scenes import SHORT, nvda_trade
from tests.builders import a_request, an_adjust, an_exit
from tests.fakes import FakeDecider, Scripted

FORMULA = "=HYPERLINK(\"http://x\",'y')"

COPIES = """
INSERT INTO llm_decisions
SELECT (json_populate_record(decision, json_build_object(
    'decision_id', uuidv7(), 'account_id', 'bulk', 'decided_at', timestamptz '2020-01-01' + n * interval '1 second'
))).*
FROM llm_decisions AS decision CROSS JOIN generate_series(1, $1::int) AS n
WHERE decision_id = (SELECT min(decision_id::text)::uuid FROM llm_decisions)
"""
"""The first decision again and again, at other times and of another account."""


@pytest.fixture(scope="module")
def desk(shared_database_url: str) -> Iterator[Desk]:
    """A desk that was told yes, no and nothing, and how its trade ended: a loss of 53 x (125.40 - 119.80) + 1.06."""
    decider = FakeDecider()
    with client_of(create_app(settings_for(shared_database_url), decider=decider)) as client:
        desk = Desk(client, decider, FORMULA)
        approved = desk.approved()
        desk.told(approved, "claimed")
        desk.told(approved, "filled", fees="0.53")
        desk.told(approved, "closed", price="119.80", quantity=53, fees="0.53", exit_reason="stop")
        desk.ask(symbol="AMD")
        others: list[Scripted] = [
            ModelFailure.TIMEOUT,
            nvda_trade(**SHORT, conviction=10),
            an_exit(symbol="AAPL"),
            an_adjust(symbol="AAPL", new_stop="190.00"),
        ]
        for number, scripted in enumerate(others):
            decider.will(scripted)
            body = a_request(account={"id": f"b-{number % 2}"}, as_of="2026-11-19T20:00:00.25+01:00")
            assert client.post("/decide", json=body).status_code == 200
        yield desk


def rows(client: TestClient, query: str = "", **headers: Any) -> list[dict[str, str]]:
    answer = client.get(f"/decisions/export?{query}", **headers)
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def table(client: TestClient, query: str = "") -> list[dict[str, Any]]:
    answer = client.get(f"/decisions/export?format=parquet&{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    return found


def test_a_row_tells_a_decision_from_question_to_outcome(desk: Desk) -> None:
    row = rows(desk.client)[0]
    decision = desk.client.get(f"/decisions/{row['decision_id']}").json()

    assert row == {
        "decision_id": decision["decision_id"],
        "decided_at": decision["decided_at"],
        "as_of": "2026-11-20T15:30:00Z",
        "account_id": "'" + FORMULA,
        "mode": "paper",
        "action": "trade",
        "verdict": "approved",
        "reason_code": "",
        "blocked_by": "",
        "degraded": "false",
        "symbol": "NVDA",
        "direction": "long",
        "setup": "momentum",
        "conviction": "72",
        "p_win_raw": "0.54",
        "p_win": "0.54",
        "p_win_calibrated": "",
        "entry_price": "125.4",
        "stop_loss": "119.8",
        "target_price": "137",
        "quantity": "53",
        "notional_usd": "6646.2",
        "risk_usd": decision["risk_usd"],
        "ev_r": repr(decision["ev_r"]),
        "risk_reward": repr(decision["response"]["edge"]["risk_reward"]),
        "decider": "fake",
        "model": "fake-1",
        "prompt_hash": decision["prompt_hash"],
        "policy_hash": decision["policy_hash"],
        "aggressiveness_level": "1",
        "latency_ms": str(decision["latency_ms"]),
        "model_latency_ms": "7",
        "attempts": "1",
        "hedged": "false",
        "input_tokens": "1000",
        "output_tokens": "100",
        "cache_read_tokens": "0",
        "cache_write_tokens": "0",
        "cost_usd": "0.0015",
        "label": "executed",
        "outcome": "loss",
        "r_multiple": row["r_multiple"],
        "entered_at": row["entered_at"],
        "exit_at": row["exit_at"],
        "exit_price": "119.8",
        "exit_reason": "stop",
        # 53 x (119.80 - 125.40) - 1.06
        "realized_usd": "-297.86",
        "fees_usd": "1.06",
    }
    assert -1.1 < float(row["r_multiple"]) < -0.9
    assert row["entered_at"].endswith("Z")
    assert row["entered_at"] < row["exit_at"]


def test_what_was_not_approved_has_its_plan_and_no_quantity(desk: Desk) -> None:
    _, _, failed, blocked, left, adjusted = rows(desk.client)

    assert (failed["verdict"], failed["reason_code"], failed["symbol"], failed["p_win_raw"]) == (
        "no_trade",
        "MODEL_TIMEOUT",
        "",
        "",
    )
    assert (blocked["verdict"], blocked["direction"], blocked["conviction"]) == ("blocked", "short", "10")
    assert blocked["blocked_by"].split()[0] == blocked["reason_code"]
    assert (blocked["entry_price"], blocked["stop_loss"], blocked["target_price"]) == ("125.4", "131", "113.8")
    assert (blocked["quantity"], blocked["notional_usd"], blocked["as_of"]) == ("", "", "2026-11-19T19:00:00.250000Z")
    assert (left["action"], left["verdict"], left["quantity"]) == ("exit", "approved", "50")
    assert (adjusted["action"], adjusted["stop_loss"], adjusted["quantity"]) == ("adjust", "190", "0")


def test_both_forms_hold_the_same(desk: Desk) -> None:
    as_csv, as_parquet = rows(desk.client), table(desk.client)

    assert list(as_csv[0]) == list(as_parquet[0]) == list(COLUMNS)
    writer = CsvWriter()
    written = writer.begin() + writer.add([tuple(row.values()) for row in as_parquet]) + writer.end()
    # Amounts keep their ten digits in Parquet; as numbers they are the same.
    for one, other in zip(as_csv, csv.DictReader(io.StringIO(written.decode(), newline="")), strict=True):
        for name, (kind, _) in COLUMNS.items():
            exact = kind is Decimal and one[name] != ""
            assert (Decimal(one[name]) == Decimal(other[name])) if exact else (one[name] == other[name]), name


def test_parquet_has_types_that_lose_nothing(desk: Desk) -> None:
    answer = desk.client.get("/decisions/export?format=parquet")
    schema = pq.read_schema(io.BytesIO(answer.content))

    assert schema.field("notional_usd").type == pa.decimal128(38, 10)
    assert schema.field("decided_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("quantity").type == pa.int64()
    assert schema.field("degraded").type == pa.bool_()
    assert schema.field("p_win").type == pa.float64()
    assert table(desk.client)[0]["account_id"] == FORMULA


def test_no_text_becomes_a_formula_and_no_number_a_text() -> None:
    kinds = [kind for kind, _ in COLUMNS.values()]
    writer = CsvWriter()
    writer.begin()
    for start in ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"):
        line = writer.add([tuple(start + "1" if kind is str else None for kind in kinds)]).decode()
        (cells,) = csv.reader(io.StringIO(line, newline=""))
        assert cells[0] == "'" + start + "1"
    numbers = {int: -1, float: -0.5, Decimal: Decimal("-1E+3")}
    line = writer.add([tuple(numbers.get(kind) for kind in kinds)]).decode()

    assert set(line.strip().split(",")) == {"", "-1", "-0.5", "-1000"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", 6),
        ("account=b-0", 2),
        ("account=nobody", 0),
        ("verdict=blocked", 1),
        ("verdict=approved&account=b-1", 1),
        ("from=2000-01-01T00:00:00Z&to=2001-01-01T00:00:00Z", 0),
        ("to=2199-01-01T00:00:00Z", 6),
    ],
)
def test_filters_narrow_it_and_an_empty_one_is_a_whole_table(desk: Desk, query: str, expected: int) -> None:
    assert len(rows(desk.client, query)) == expected
    assert len(table(desk.client, query)) == expected


def test_times_are_inclusive_from_and_exclusive_to(desk: Desk) -> None:
    everything = rows(desk.client)
    third = everything[2]["decided_at"]

    assert [row["decided_at"] for row in everything] == sorted(row["decided_at"] for row in everything)
    assert rows(desk.client, f"from={third}") == everything[2:]
    assert rows(desk.client, f"to={third}") == everything[:2]


def test_it_is_a_file_to_save(desk: Desk) -> None:
    as_csv, as_parquet = (desk.client.get(f"/decisions/export?format={form}") for form in ("csv", "parquet"))

    assert as_csv.headers["content-disposition"] == 'attachment; filename="decisions.csv"'
    assert as_csv.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert as_parquet.headers["content-disposition"] == 'attachment; filename="decisions.parquet"'
    assert as_parquet.headers["content-type"] == "application/vnd.apache.parquet"
    assert as_csv.headers["x-content-type-options"] == "nosniff"
    assert as_csv.content.count(b"\r\n") == 7


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("format=xlsx", "format"),
        ("from=yesterday", "from"),
        ("to=1763652600", "to"),
        ("verdict=maybe", "verdict"),
        ("limit=5", "limit"),
        ("from=2026-11-20T00:00:00Z&to=2026-11-19T00:00:00Z", ""),
        ("from=2026-11-20", "from"),
        ("account=b-0&account=b-1", "account"),
    ],
)
def test_wrong_parameters_are_refused_by_name(offline: TestClient, query: str, named: str) -> None:
    problem = problem_of(offline.get(f"/decisions/export?{query}"), ErrorCode.VALIDATION_ERROR)

    assert fields_of(problem) == [named]


def test_a_key_exports_its_own_accounts_alone(desk: Desk, client_with: ClientWith, issue: Issue) -> None:
    guarded = client_with(auth=Auth.ON)
    own = bearer(issue(Scope.READ, accounts=["b-1", "b-7"]))

    assert {row["account_id"] for row in rows(guarded, headers=own)} == {"b-1"}
    assert rows(guarded, "account=b-0", headers=own) == []
    assert len(rows(guarded, headers=bearer(issue(Scope.READ)))) == 6
    problem_of(guarded.get("/decisions/export", headers=bearer(issue(Scope.DECIDE))), ErrorCode.FORBIDDEN)
    problem_of(guarded.get("/decisions/export"), ErrorCode.UNAUTHENTICATED)


def test_pages_join_up_without_gap_or_repetition(desk: Desk, shared_database_url: str) -> None:
    async def paged(pool: ConnectionPool) -> list[list[Any]]:
        pages = decision_pages(pool, nullcontext(), rows_per_page=2)
        return [[row[0] for row in page] async for page in pages]

    pages = on_database(shared_database_url, paged)

    assert [len(page) for page in pages] == [2, 2, 2]
    assert [found for page in pages for found in page] == [row["decision_id"] for row in rows(desk.client)]


def test_decisions_of_the_same_instant_are_all_there(database_url: str) -> None:
    with client_of(create_app(settings_for(database_url), decider=FakeDecider(nvda_trade()))) as client:
        client.post("/decide", json=a_request())
        execute(database_url, "INSERT INTO accounts (account_id) VALUES ('bulk')")
        execute(database_url, COPIES.replace("n * interval '1 second'", "interval '0'"), 5)

        async def paged(pool: ConnectionPool) -> list[Any]:
            pages = decision_pages(pool, nullcontext(), rows_per_page=2, accounts=["bulk"])
            return [row[0] async for page in pages for row in page]

        found = on_database(database_url, paged)

    assert len(set(found)) == len(found) == 5


def test_a_store_that_is_away_is_an_error_and_no_table() -> None:
    with client_of(create_app(settings_for(NOWHERE), decider=FakeDecider())) as client:
        for form in ("csv", "parquet"):
            problem_of(client.get(f"/decisions/export?format={form}"), ErrorCode.STORE_UNAVAILABLE)


async def test_an_export_that_breaks_off_does_not_look_whole(database_url: str, serve: Serve) -> None:
    app = create_app(settings_for(database_url), decider=FakeDecider(nvda_trade()))
    with serve(app) as client:
        client.post("/decide", json=a_request())
        await _fill(database_url, ROWS_PER_PAGE + 50)
        whole = client.get("/decisions/export?account=bulk")
        await _break_last_row(database_url)

        for form in ("csv", "parquet"):
            with pytest.raises(httpx2.RemoteProtocolError):
                client.get(f"/decisions/export?account=bulk&format={form}")
        early = client.get("/decisions/export?account=bulk&from=2020-01-01T00:15:00Z")

    assert len(list(csv.DictReader(io.StringIO(whole.text)))) == ROWS_PER_PAGE + 50
    problem_of(early, ErrorCode.STORE_UNAVAILABLE)


async def _fill(url: str, copies: int) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("INSERT INTO accounts (account_id) VALUES ('bulk')")
    await connection.execute(COPIES, copies)
    await connection.close()


async def _break_last_row(url: str) -> None:
    """Put an answer that is none into the last row, so that the page it is on cannot be read."""
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER TABLE llm_decisions DISABLE TRIGGER USER")
    await connection.execute(
        "UPDATE llm_decisions SET response = '[]' WHERE decided_at ="
        " (SELECT max(decided_at) FROM llm_decisions WHERE account_id = 'bulk') AND account_id = 'bulk'"
    )
    await connection.close()
