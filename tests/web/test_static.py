"""Files of pages are kept by browsers for as long as their name holds, and there are no others."""

import gzip

import pytest
from fastapi.testclient import TestClient

from app.web.assets import NAMES, asset_path, load_asset


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_given_to_everyone_packed_and_for_ever(guarded: TestClient, name: str) -> None:
    with guarded.stream("GET", asset_path(name), headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())

    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert gzip.decompress(raw) == load_asset(name).plain


def test_a_file_is_plain_for_who_cannot_unpack(guarded: TestClient) -> None:
    answer = guarded.get(asset_path("app.css"), headers={"accept-encoding": "identity"})

    assert "content-encoding" not in answer.headers
    assert answer.content == load_asset("app.css").plain


def test_a_file_asked_for_by_another_version_is_kept_by_nobody(guarded: TestClient) -> None:
    assert guarded.get("/ui/static/0123/app.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["passwd", "..%2fsite.py", "%2e%2e", "assets.py"])
def test_there_is_no_other_file(guarded: TestClient, name: str) -> None:
    assert guarded.get(f"/ui/static/0/{name}").status_code == 404
