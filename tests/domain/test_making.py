"""Values that are made quickly are the values they were."""

import copy
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from app.domain.making import made_quickly


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A value with every kind of field."""

    symbol: str
    quantity: int = 3
    buckets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quantity < 0:
            raise ValueError("quantity is negative")


@made_quickly
@dataclass(frozen=True, slots=True, kw_only=True)
class Quick:
    """The same, made quickly."""

    symbol: str
    quantity: int = 3
    buckets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quantity < 0:
            raise ValueError("quantity is negative")


def test_it_takes_the_same_arguments() -> None:
    assert inspect.signature(Quick) == inspect.signature(Plain)
    with pytest.raises(TypeError):
        Quick()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Quick(symbol="ACME", price=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Quick("ACME")  # type: ignore[call-arg]


def test_it_has_the_same_fields_and_defaults() -> None:
    made = Quick(symbol="ACME")

    assert (made.symbol, made.quantity, made.buckets) == ("ACME", 3, {})
    assert Quick(symbol="ACME", quantity=5, buckets={"ai": 1}).buckets == {"ai": 1}
    assert Quick(symbol="ACME").buckets is not made.buckets
    assert repr(made) == repr(Plain(symbol="ACME")).replace("Plain", "Quick")


def test_it_is_checked_and_frozen_as_before() -> None:
    with pytest.raises(ValueError, match="quantity is negative"):
        Quick(symbol="ACME", quantity=-1)
    with pytest.raises(FrozenInstanceError):
        Quick(symbol="ACME").quantity = 4  # type: ignore[misc]


def test_it_can_be_compared_replaced_and_copied() -> None:
    made = Quick(symbol="ACME", buckets={"ai": 1})

    assert made == Quick(symbol="ACME", buckets={"ai": 1}) != Quick(symbol="BOLT")
    assert replace(made, quantity=4) == Quick(symbol="ACME", quantity=4, buckets={"ai": 1})
    assert copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made


def test_fields_by_position_are_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Positional:
        symbol: str

    with pytest.raises(TypeError, match=r"Positional\.symbol is not keyword-only"):
        made_quickly(Positional)
