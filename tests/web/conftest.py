"""What the tests of the pages share: clients of the real app on databases of their own."""

import itertools
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime
from html import unescape
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from app.db.api_keys import EVERY_ACCOUNT, IssuedKey, create_key
from app.db.embedded import EmbeddedPostgres
from app.db.vocabulary import Scope
from app.main import create_app
from app.settings import Auth
from tests.api.conftest import client_of, on_database, settings_for
from tests.fakes import FakeDecider

_module_numbers = itertools.count(1)
_CSRF = re.compile(r'name="csrf_token" value="([0-9a-f]{64})"')


@pytest.fixture(scope="module")
def shared_database_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A migrated database that the tests of one module share."""
    name = f"web_{next(_module_numbers)}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)


SiteWith = Callable[..., TestClient]


@pytest.fixture(scope="module")
def site_with(shared_database_url: str) -> Iterator[SiteWith]:
    """Make clients of apps with other settings; they follow no redirect."""
    with ExitStack() as stack:

        def make(decider: FakeDecider | None = None, *, auth: Auth = Auth.ON, **changes: Any) -> TestClient:
            url = changes.pop("database_at", shared_database_url)
            app = create_app(settings_for(url, auth=auth, **changes), decider=decider or FakeDecider())
            client = stack.enter_context(client_of(app))
            client.follow_redirects = False
            return client

        yield make


@pytest.fixture(scope="module")
def shared_guarded(site_with: SiteWith) -> TestClient:
    """A service that needs keys."""
    return site_with()


@pytest.fixture
def guarded(shared_guarded: TestClient) -> TestClient:
    """The same, for a visitor who was never there."""
    shared_guarded.cookies.clear()
    return shared_guarded


Issue = Callable[..., IssuedKey]


@pytest.fixture(scope="module")
def issue(shared_database_url: str) -> Issue:
    """Make a key."""

    def make(
        *scopes: Scope,
        accounts: Collection[str] = (EVERY_ACCOUNT,),
        expires_at: datetime | None = None,
        name: str = "desk of ana",
    ) -> IssuedKey:
        return on_database(
            shared_database_url,
            lambda pool: create_key(pool, name=name, scopes=scopes, accounts=accounts, expires_at=expires_at),
        )

    return make


def token_of(page: httpx2.Response) -> str:
    """The token that the forms of a page carry."""
    match = _CSRF.search(page.text)
    assert match is not None, page.text
    return match[1]


def sign_in(client: TestClient, key: IssuedKey | str, **fields: str) -> httpx2.Response:
    """Sign in as a person does: load the form, fill it in, send it."""
    csrf_token = token_of(client.get("/sign-in"))
    typed = key if isinstance(key, str) else key.token
    return client.post("/sign-in", data={"csrf_token": csrf_token, "key": typed, **fields})


def signed_in(client: TestClient, key: IssuedKey) -> TestClient:
    """The client, with a session of the key."""
    answer = sign_in(client, key)
    assert answer.status_code == 303, answer.text
    return client


def text_of(page: httpx2.Response) -> str:
    """What a page says, without its marks; spaces as one."""
    assert page.status_code == 200, page.text
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page.text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))
