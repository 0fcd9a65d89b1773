"""Tests of bucket names and of what buckets a symbol has."""

import pytest

from app.domain.buckets import UNCLASSIFIED, BucketMap, normalize_bucket

MAP = BucketMap({"NVDA": ("technology", "semiconductors")})


@pytest.mark.parametrize(
    ("name", "bucket"),
    [
        ("technology", "technology"),
        ("Information Technology", "technology"),
        ("information_technology", "technology"),
        ("Communication Services", "communication"),
        ("Consumer Discretionary", "consumer_discretionary"),
        ("  Real   Estate\t", "real_estate"),
        ("Oil & Gas", "oil_gas"),
        ("Mid-Cap/Value", "mid_cap_value"),
        ("_ai_", "ai"),
        ("a", "a"),
        ("a" * 40, "a" * 40),
    ],
)
def test_a_bucket_name_becomes_lower_snake_case_with_gics_sectors_renamed(name: str, bucket: str) -> None:
    assert normalize_bucket(name) == bucket
    assert normalize_bucket(bucket) == bucket


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "_",
        "5g",
        "a" * 41,
        "banks, regional",
        "crypto!",
        "biotechnologié",
        "tech\N{ZERO WIDTH SPACE}nology",
        # The Kelvin sign is a "k" once in lower case.
        "ban\N{KELVIN SIGN}s",
        "technology\N{NO-BREAK SPACE}",
    ],
)
def test_what_is_not_a_bucket_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a bucket name"):
        normalize_bucket(name)


def test_a_known_symbol_has_its_buckets_in_order() -> None:
    assert MAP.of("NVDA") == ("technology", "semiconductors")


def test_requested_buckets_come_after_a_symbols_own() -> None:
    assert MAP.of("NVDA", ("ai", "space")) == ("technology", "semiconductors", "ai", "space")


def test_a_requested_bucket_that_is_there_already_is_not_repeated() -> None:
    requested = ("Information Technology", "AI", "ai", "semiconductors")

    assert MAP.of("NVDA", requested) == ("technology", "semiconductors", "ai")


def test_an_unknown_symbol_has_the_requested_buckets_alone() -> None:
    assert MAP.of("ZZZZ", ("Real Estate",)) == ("real_estate",)


def test_a_symbol_without_any_bucket_is_unclassified() -> None:
    assert MAP.of("ZZZZ") == (UNCLASSIFIED,) == ("unclassified",)


def test_a_bad_requested_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="'!' is not a bucket name"):
        MAP.of("NVDA", ("!",))


def test_a_map_does_not_change_with_what_it_was_made_from() -> None:
    entries = {"NVDA": ("technology",)}
    buckets = BucketMap(entries)

    entries["NVDA"] = ("utilities",)

    assert buckets.of("NVDA") == ("technology",)
    with pytest.raises(TypeError):
        buckets.entries["NVDA"] = ("utilities",)  # type: ignore[index]
