"""GET and POST /sign-in, POST /sign-out: begin a session with an API key, and end it.

The key is sent once, checked and forgotten; the browser keeps a random token, the store a hash of that.
"""

from datetime import timedelta
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from app.db.api_keys import ApiKey, find_key, parse_token
from app.db.rate_limits import refused_for_s
from app.db.vocabulary import Scope
from app.db.web_sessions import SIGN_INS, begin_session, end_session, sign_ins_spent
from app.settings import Auth
from app.web.rendering import TEMPLATES
from app.web.site import PageError, PageRoute, Site, site_of
from app.web.visitor import SESSION_COOKIE, VISIT_COOKIE, Visitor, read_form, set_cookie, visit_of, visitor_of

FAILURES_PER_MINUTE: Final = 10
"""From one address; whoever knows a key needs no more."""
LONGEST_PATH: Final = 2_000

router = APIRouter(route_class=PageRoute)
log = structlog.stdlib.get_logger(__name__)


@router.get("/sign-in")
async def sign_in_page(request: Request) -> Response:
    """Ask for a key; with AUTH=off there is nothing to ask for."""
    if site_of(request).settings.auth is Auth.OFF:
        return RedirectResponse("/", status_code=303)
    return _form(request, wanted=_own_path(request.query_params.get("next", "")))


@router.post("/sign-in")
async def sign_in(request: Request) -> Response:
    """Begin a session of a key that may see something."""
    site = site_of(request)
    if site.settings.auth is Auth.OFF:
        return RedirectResponse("/", status_code=303)
    fields = await read_form(request, csrf_token=Visitor(key=None, csrf_secret=visit_of(request)).csrf_token)
    wanted = _own_path(fields.get("next", ""))
    address = request.client.host if request.client else ""
    if await sign_ins_spent(site.pool, address, most=FAILURES_PER_MINUTE):
        return _form(request, wanted=wanted, status=429, refusal="Too many attempts. Wait a minute, then try again.")
    key = await _key(site, fields.get("key", ""))
    if key is None:
        await refused_for_s(site.pool, f"{SIGN_INS}:{address}", requests_per_minute=FAILURES_PER_MINUTE)
        log.warning("sign-in refused")
        return _form(request, wanted=wanted, status=401, refusal="The key is not valid.")
    if key.scopes.isdisjoint({Scope.READ, Scope.ADMIN}):
        return _form(request, wanted=wanted, status=403, refusal="The key has neither the scope read nor admin.")
    if Scope.READ not in key.scopes:
        wanted = "/ui/halts"
    # A browser that was signed in before does not keep that session beside the new one.
    if SESSION_COOKIE in request.cookies:
        await end_session(site.pool, request.cookies[SESSION_COOKIE])
    lasting = timedelta(hours=site.settings.web_session_hours)
    session = await begin_session(site.pool, key=key, lasting=lasting)
    log.info("signed in", api_key_id=key.public_id)
    response = RedirectResponse(wanted, status_code=303)
    set_cookie(request, response, SESSION_COOKIE, session.token, max_age_s=int(lasting.total_seconds()))
    response.delete_cookie(VISIT_COOKIE, path="/")
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session; its cookie is worth nothing afterwards."""
    found = await visitor_of(request)
    if found is not None and found.session_token is not None:
        await read_form(request, csrf_token=found.csrf_token)
        await end_session(site_of(request).pool, found.session_token)
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(SESSION_COOKIE, path="/")
    return response


async def _key(site: Site, sent: str) -> ApiKey | None:
    """Find the key that was typed, with or without spaces around it, if it is valid."""
    credentials = parse_token(sent.strip())
    if credentials is None:
        return None
    limit = site.settings.rate_limit_per_minute
    key, refused = await find_key(site.pool, credentials, requests_per_minute=limit)
    if key is None or not key.matches(credentials) or not key.usable:
        return None
    if refused is not None:
        raise PageError(429, "Too many requests", f"Ask again in {refused} s.", headers={"Retry-After": str(refused)})
    return key


def _own_path(path: str) -> str:
    """Give a path of this site to go on to; anything else leads to the start."""
    if len(path) > LONGEST_PATH or not path.isprintable() or not path.startswith("/"):
        return "/"
    # Browsers read // and /\\ as the beginning of another host's address.
    return "/" if path.startswith(("//", "/\\")) else path


def _form(request: Request, *, wanted: str, status: int = 200, refusal: str | None = None) -> Response:
    secret = visit_of(request)
    html = TEMPLATES.get_template("sign_in.html").render(
        csrf_token=Visitor(key=None, csrf_secret=secret).csrf_token, wanted=wanted, refusal=refusal
    )
    response = HTMLResponse(html, status_code=status)
    set_cookie(request, response, VISIT_COOKIE, secret)
    return response
