"""Tell who looks at a page: the bearer of a key who signed in, or, with AUTH=off, whoever reaches the loopback host.

Forms carry a token that is derived from a cookie which no script can read and no other site makes a browser send, so
that a page elsewhere cannot post in a visitor's name. That holds with AUTH=off too, where there is no session: a
visitor then gets a cookie that stands for nothing else.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import Depends, Request, Response

from app.db.api_keys import EVERY_ACCOUNT, ApiKey
from app.db.rate_limits import refused_for_s
from app.db.vocabulary import Scope
from app.db.web_sessions import PAGES, TOKEN_BYTES, find_session
from app.settings import Auth
from app.web.site import PageError, Site, sent_to, site_of

SESSION_COOKIE: Final = "tradeverdict_session"
VISIT_COOKIE: Final = "tradeverdict_visit"
CSRF_FIELD: Final = "csrf_token"
MAX_FORM_BYTES: Final = 8_192
FORM_TIMEOUT_S: Final = 10.0
FORM_TYPE: Final = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Hold whose request it is; without a key it is the local operator's, who may do everything."""

    key: ApiKey | None
    csrf_secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name the visitor, for people."""
        return "local operator" if self.key is None else self.key.name

    def may(self, scope: Scope) -> bool:
        """Tell whether the visitor may do what a scope names."""
        return self.key is None or scope in self.key.scopes

    def may_see(self, account_id: str) -> bool:
        """Tell whether the account is one of the visitor's."""
        return self.key is None or self.key.covers(account_id)

    @property
    def sees_every_account(self) -> bool:
        """Tell whether the visitor's key is for all accounts."""
        return self.key is None or EVERY_ACCOUNT in self.key.accounts

    def accounts(self, wanted: str | None = None) -> Collection[str] | None:
        """Give the accounts to show: the wanted one if it is the visitor's, else all of these; None means every one."""
        if wanted is not None:
            return (wanted,) if self.may_see(wanted) else ()
        return None if self.key is None or self.sees_every_account else sorted(self.key.accounts)

    @property
    def csrf_token(self) -> str:
        """Give what a form must carry to be taken for the visitor's own."""
        return hmac.new(self.csrf_secret.encode(), b"form", hashlib.sha256).hexdigest()


def visitor(*scopes: Scope) -> Any:
    """Have a page given its visitor, who may do what any of `scopes` names; others are sent to sign in."""

    async def identify(request: Request) -> Visitor:
        found = await visitor_of(request)
        if found is None:
            raise sent_to(_sign_in_path(request))
        if not any(found.may(scope) for scope in scopes):
            raise PageError(403, "Not for this key", f"The key {found.name} lacks the scope {' or '.join(scopes)}.")
        return found

    return Depends(identify)


async def visitor_of(request: Request) -> Visitor | None:
    """Give the visitor of a request; None when nobody is signed in.

    Raises:
        PageError: the visitor asks too often.
        StoreUnavailable: sessions cannot be checked.
    """
    site = site_of(request)
    if site.settings.auth is Auth.OFF:
        await _admit_without_key(site)
        return Visitor(key=None, csrf_secret=visit_of(request))
    token = request.cookies.get(SESSION_COOKIE)
    if not token:
        return None
    session = await find_session(site.pool, token, requests_per_minute=site.settings.rate_limit_per_minute)
    if session is None:
        return None
    request.state.api_key_id = session.key.public_id
    _admit(session.refused_for_s)
    return Visitor(key=session.key, csrf_secret=token, session_token=token)


def visit_of(request: Request) -> str:
    """Give the secret of a visit without a session: that of its cookie, or a new one for this request."""
    known: str | None = getattr(request.state, "visit", None)
    if known is None:
        sent = request.cookies.get(VISIT_COOKIE, "")
        known = sent if len(sent) >= TOKEN_BYTES else secrets.token_urlsafe(TOKEN_BYTES)
        request.state.visit = known
    return known


def keep_visit(request: Request, response: Response, found: Visitor) -> None:
    """Leave the cookie of a visit without a session with the browser, where it has none yet."""
    if found.session_token is None and request.cookies.get(VISIT_COOKIE) != found.csrf_secret:
        set_cookie(request, response, VISIT_COOKIE, found.csrf_secret)


def set_cookie(request: Request, response: Response, name: str, value: str, *, max_age_s: int | None = None) -> None:
    """Set a cookie that no script reads and no other site makes a browser send."""
    response.set_cookie(
        name, value, max_age=max_age_s, path="/", httponly=True, samesite="strict", secure=_is_encrypted(request)
    )


async def read_form(request: Request, *, csrf_token: str) -> Mapping[str, str]:
    """Read a posted form that the visitor's own page sent.

    Raises:
        PageError: it is too large, too slow, none at all, or another's.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM_TYPE:
        raise PageError(415, "Not a form", "Only forms of these pages are read here.")
    body = bytearray()
    try:
        async with asyncio.timeout(FORM_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_FORM_BYTES:
                    raise PageError(413, "Too long", "The form holds more text than is taken.")
    except TimeoutError as error:
        raise PageError(408, "Too slow", "The form did not arrive in time.") from error
    try:
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict"))
    except ValueError as error:
        raise PageError(400, "Not a form", "The form cannot be read.") from error
    sent = fields.get(CSRF_FIELD, "")
    if not _is_own_origin(request) or not hmac.compare_digest(sent.encode(), csrf_token.encode()):
        raise PageError(
            403, "The form is out of date", "It was not sent by a page of this visit. Load the page again and retry."
        )
    return fields


def _is_own_origin(request: Request) -> bool:
    """Tell whether a browser says that the form came from here; who says nothing is held to the token alone."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        return False


def _is_encrypted(request: Request) -> bool:
    # A proxy says so; whoever says so without being one only keeps the cookie from themselves.
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def _sign_in_path(request: Request) -> str:
    if request.url.path == "/":
        return "/sign-in"
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return f"/sign-in?next={quote(asked, safe='')}"


async def _admit_without_key(site: Site) -> None:
    if site.settings.limits_requests_without_key:
        limit = site.settings.rate_limit_per_minute
        _admit(await refused_for_s(site.pool, PAGES, requests_per_minute=limit))


def _admit(refused_s: int | None) -> None:
    if refused_s is not None:
        raise PageError(
            429, "Too many requests", f"Ask again in {refused_s} s.", headers={"Retry-After": str(refused_s)}
        )
