"""Who is signed in sees what their key sees, and nobody else sees anything; forms are the visitor's own."""

from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from app.db.api_keys import revoke_key
from app.db.vocabulary import Scope
from app.settings import Auth
from app.web.signing import FAILURES_PER_MINUTE
from app.web.site import CONTENT_SECURITY_POLICY
from app.web.visitor import MAX_FORM_BYTES, SESSION_COOKIE
from tests.api.conftest import NOWHERE, execute, on_database
from tests.web.conftest import Issue, SiteWith, sign_in, signed_in, token_of

PAGES = ("/", "/ui/calibration", "/ui/gates", "/ui/model", "/ui/exposure", "/ui/halts", "/ui/latest")
DECISION = "/ui/decisions/01930000-0000-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def calm(shared_database_url: str) -> None:
    """Nobody failed to sign in before."""
    execute(shared_database_url, "DELETE FROM rate_windows")


class TestWithoutASession:
    @pytest.mark.parametrize("path", [*PAGES, DECISION])
    def test_every_page_leads_to_signing_in(self, guarded: TestClient, path: str) -> None:
        answer = guarded.get(path)

        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in")

    def test_the_page_that_was_asked_for_comes_after_signing_in(self, guarded: TestClient, issue: Issue) -> None:
        location = guarded.get("/ui/gates?days=7&account=a b").headers["location"]
        page = guarded.get(location)
        fields = {"csrf_token": token_of(page), "key": issue(Scope.READ).token, "next": "/ui/gates?days=7&account=a+b"}

        assert 'value="/ui/gates?days=7&amp;account=a%20b"' in page.text or "account=a+b" in page.text
        assert guarded.post("/sign-in", data=fields).headers["location"] == "/ui/gates?days=7&account=a+b"

    @pytest.mark.parametrize("path", ["/ui/halts/set", "/ui/halts/lift"])
    def test_nothing_can_be_posted(self, guarded: TestClient, path: str, shared_database_url: str) -> None:
        answer = guarded.post(path, data={"whose": "every", "state": "halted", "confirmation": "HALT"})

        assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?next={quote(path, safe='')}")
        assert guarded.get(path).headers["location"] == "/ui/halts", "signing in leads back to the forms"
        assert execute(shared_database_url, "SELECT FROM halts WHERE operator = ''") == []

    def test_a_made_up_cookie_is_no_session(self, guarded: TestClient) -> None:
        guarded.cookies.set(SESSION_COOKIE, "x" * 43)

        assert guarded.get("/").status_code == 303

    def test_the_bearer_token_of_a_bot_opens_no_page(self, guarded: TestClient, issue: Issue) -> None:
        token = issue(Scope.READ).token

        assert guarded.get("/", headers={"authorization": f"Bearer {token}"}).status_code == 303


class TestSigningIn:
    def test_opens_the_pages_until_signing_out(self, guarded: TestClient, issue: Issue) -> None:
        signed_in(guarded, issue(Scope.READ))
        page = guarded.get("/")
        cookie = guarded.cookies[SESSION_COOKIE]
        out = guarded.post("/sign-out", data={"csrf_token": token_of(page)})
        guarded.cookies.clear()
        guarded.cookies.set(SESSION_COOKIE, cookie)

        assert page.status_code == 200
        assert "desk of ana" in page.text
        assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
        assert guarded.get("/").status_code == 303, "the old cookie must be worth nothing"

    @pytest.mark.parametrize(("base_url", "secure"), [("http://testserver", False), ("https://testserver", True)])
    def test_leaves_a_cookie_that_no_script_and_no_other_site_can_use(
        self, guarded: TestClient, issue: Issue, base_url: str, secure: bool
    ) -> None:
        key = issue(Scope.READ)
        form = guarded.get(f"{base_url}/sign-in")
        fields = {"csrf_token": token_of(form), "key": key.token}
        answer = guarded.post(f"{base_url}/sign-in", data=fields)
        cookie = SimpleCookie(
            next(line for line in answer.headers.get_list("set-cookie") if line.startswith(SESSION_COOKIE))
        )[SESSION_COOKIE]

        assert (bool(cookie["httponly"]), cookie["samesite"], bool(cookie["secure"])) == (True, "strict", secure)
        assert (cookie["path"], cookie["max-age"]) == ("/", str(12 * 3600))
        assert key.token not in cookie.value
        assert key.key.public_id not in cookie.value

    def test_behind_a_proxy_that_speaks_https_the_cookie_is_secure(self, guarded: TestClient) -> None:
        answer = guarded.get("/sign-in", headers={"x-forwarded-proto": "https"})

        assert "; Secure" in answer.headers["set-cookie"]

    def test_the_store_holds_a_hash_of_the_cookie(
        self, guarded: TestClient, issue: Issue, shared_database_url: str
    ) -> None:
        key = issue(Scope.READ)
        signed_in(guarded, key)
        [row] = execute(
            shared_database_url,
            "SELECT token_sha256 = sha256(convert_to($1, 'UTF8')) AS hashed FROM web_sessions WHERE api_key_id = $2",
            guarded.cookies[SESSION_COOKIE],
            key.key.public_id,
        )

        assert row["hashed"]

    @pytest.mark.parametrize("typed", ["", "tv_", "tv_0011_22", "hello", "tv_0123456789abcdef_" + "0" * 64])
    def test_with_a_wrong_key_is_refused(self, guarded: TestClient, typed: str) -> None:
        answer = sign_in(guarded, typed)

        assert answer.status_code == 401
        assert "The key is not valid." in answer.text
        assert SESSION_COOKIE not in guarded.cookies

    def test_with_an_expired_or_revoked_key_is_refused(
        self, guarded: TestClient, issue: Issue, shared_database_url: str
    ) -> None:
        expired = issue(Scope.READ, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        revoked = issue(Scope.READ)
        on_database(shared_database_url, lambda pool: revoke_key(pool, revoked.key.public_id))

        assert [sign_in(guarded, key).status_code for key in (expired, revoked)] == [401, 401]

    def test_with_a_key_that_sees_nothing_is_refused(self, guarded: TestClient, issue: Issue) -> None:
        assert sign_in(guarded, issue(Scope.DECIDE, Scope.REPORT)).status_code == 403

    def test_with_an_admin_key_alone_leads_to_the_halts(self, guarded: TestClient, issue: Issue) -> None:
        answer = sign_in(guarded, issue(Scope.ADMIN))

        assert answer.headers["location"] == "/ui/halts"
        assert guarded.get("/ui/halts").status_code == 200
        assert guarded.get("/").status_code == 403

    @pytest.mark.parametrize(
        "wanted",
        ["https://evil.example/", "//evil.example/", "/\\evil.example", "evil", "/\t/evil.example", "/" + "x" * 3000],
    )
    def test_never_leads_to_another_site(self, guarded: TestClient, issue: Issue, wanted: str) -> None:
        assert sign_in(guarded, issue(Scope.READ), next=wanted).headers["location"] == "/"

    def test_that_fails_too_often_is_refused_for_a_while(self, guarded: TestClient, issue: Issue) -> None:
        failed = [sign_in(guarded, "tv_0011_22").status_code for _ in range(FAILURES_PER_MINUTE)]

        assert failed == [401] * FAILURES_PER_MINUTE
        assert sign_in(guarded, issue(Scope.READ)).status_code == 429

    def test_ends_with_its_key(self, guarded: TestClient, issue: Issue, shared_database_url: str) -> None:
        key = issue(Scope.READ)
        signed_in(guarded, key)
        before = guarded.get("/").status_code
        on_database(shared_database_url, lambda pool: revoke_key(pool, key.key.public_id))

        assert (before, guarded.get("/").status_code) == (200, 303)

    def test_ends_when_its_key_expires(self, guarded: TestClient, issue: Issue, shared_database_url: str) -> None:
        key = issue(Scope.READ, expires_at=datetime.now(UTC) + timedelta(hours=1))
        signed_in(guarded, key)
        before = guarded.get("/").status_code
        execute(
            shared_database_url,
            "UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE public_id = $1",
            key.key.public_id,
        )

        assert (before, guarded.get("/").status_code) == (200, 303)

    def test_ends_by_itself(self, guarded: TestClient, issue: Issue, shared_database_url: str) -> None:
        key = issue(Scope.READ)
        signed_in(guarded, key)
        execute(
            shared_database_url,
            "UPDATE web_sessions SET created_at = now() - interval '2 h', expires_at = now() - interval '1 s' "
            "WHERE api_key_id = $1",
            key.key.public_id,
        )

        assert guarded.get("/").status_code == 303

    def test_ends_the_session_that_the_browser_had_before(self, guarded: TestClient, issue: Issue) -> None:
        signed_in(guarded, issue(Scope.READ))
        first = guarded.cookies[SESSION_COOKIE]
        signed_in(guarded, issue(Scope.READ))
        guarded.cookies.clear()
        guarded.cookies.set(SESSION_COOKIE, first)

        assert guarded.get("/").status_code == 303


class TestForms:
    @pytest.mark.parametrize("csrf_token", ["", "0" * 64, "ü"])
    def test_without_the_token_of_their_page_are_refused(
        self, guarded: TestClient, issue: Issue, csrf_token: str
    ) -> None:
        guarded.get("/sign-in")
        answer = guarded.post("/sign-in", data={"csrf_token": csrf_token, "key": issue(Scope.READ).token})

        assert answer.status_code in (400, 403)
        assert SESSION_COOKIE not in guarded.cookies

    def test_of_another_visit_are_refused(self, guarded: TestClient, issue: Issue) -> None:
        theirs = token_of(guarded.get("/sign-in"))
        guarded.cookies.clear()
        guarded.get("/sign-in")

        assert guarded.post("/sign-in", data={"csrf_token": theirs, "key": issue(Scope.READ).token}).status_code == 403

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://["},
            {"sec-fetch-site": "cross-site"},
        ],
        ids=["origin", "opaque origin", "no address at all", "fetch metadata"],
    )
    def test_from_elsewhere_are_refused_even_with_the_token(
        self, guarded: TestClient, issue: Issue, headers: dict[str, str]
    ) -> None:
        fields = {"csrf_token": token_of(guarded.get("/sign-in")), "key": issue(Scope.READ).token}

        assert guarded.post("/sign-in", data=fields, headers=headers).status_code == 403

    def test_need_a_token_without_authentication_too(self, site_with: SiteWith, shared_database_url: str) -> None:
        client = site_with(auth=Auth.OFF)
        fields = {
            "whose": "every",
            "state": "halted",
            "reason": "from elsewhere",
            "operator": "eve",
            "confirmation": "HALT",
        }

        assert client.post("/ui/halts/set", data=fields).status_code == 403
        assert execute(shared_database_url, "SELECT FROM halts WHERE operator = 'eve'") == []

    def test_that_are_none_or_too_long_are_refused(self, guarded: TestClient) -> None:
        csrf_token = token_of(guarded.get("/sign-in"))
        long = {"csrf_token": csrf_token, "key": "x" * MAX_FORM_BYTES}

        assert guarded.post("/sign-in", json={"key": "x"}).status_code == 415
        assert guarded.post("/sign-in", data=long).status_code == 413


class TestRateLimits:
    def test_hold_for_the_pages_of_a_key_and_not_for_its_bot(self, site_with: SiteWith, issue: Issue) -> None:
        client = site_with(rate_limit_per_minute=3)
        key = issue(Scope.READ)
        signed_in(client, key)
        pages = [client.get("/ui/latest") for _ in range(4)]
        bot = client.get("/decisions", headers={"authorization": f"Bearer {key.token}"})

        assert [page.status_code for page in pages] == [200, 200, 200, 429]
        assert 1 <= int(pages[-1].headers["retry-after"]) <= 60
        assert bot.status_code == 200


class TestEveryAnswer:
    @pytest.mark.parametrize("path", ["/sign-in", "/", DECISION, "/ui", "/ui/nothing-here/", "/ui/static/0/app.css"])
    def test_is_kept_safe_by_its_headers(self, guarded: TestClient, issue: Issue, path: str) -> None:
        signed_in(guarded, issue(Scope.READ))
        answer = guarded.get(path)

        assert answer.headers["content-type"].startswith(("text/html", "text/css")), "people read no problem documents"
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert "unsafe" not in CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"
        if not path.startswith("/ui/static"):
            assert answer.headers["cache-control"] == "no-store"

    def test_says_that_the_store_is_away_without_saying_more(self, site_with: SiteWith) -> None:
        client = site_with(auth=Auth.OFF, database_at=NOWHERE)
        answer = client.get("/")

        assert answer.status_code == 503
        assert "The database does not answer" in answer.text
        assert "127.0.0.1:9" not in answer.text

    def test_is_in_no_openapi_document(self, guarded: TestClient) -> None:
        paths = guarded.get("/openapi.json").json()["paths"]

        assert [path for path in paths if path.startswith("/ui") or path in ("/", "/sign-in", "/sign-out")] == []
