"""Tests of what the service says about a decider's call."""

from dataclasses import replace
from decimal import Decimal

from app.llm.decider import DeciderCall
from app.service import call_document

CALL = DeciderCall(
    name="anthropic",
    model="claude-haiku-5-5",
    prompt_version="1",
    prompt_hash="0" * 64,
    latency_ms=812,
    cost_usd=Decimal("0.00012"),
)


def test_what_a_call_cost_is_a_number() -> None:
    assert call_document(CALL)["cost_usd"] == 0.00012


def test_what_a_call_of_unknown_price_cost_is_null_and_not_nothing() -> None:
    call = replace(CALL, model="some-gateway-model", cost_usd=Decimal(0), priced=False)

    assert call_document(call)["cost_usd"] is None
