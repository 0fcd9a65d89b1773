"""Hold what the pages work with, and make every answer of theirs a safe page, errors too."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.routing import APIRoute

from app.db.engine import ConnectionPool, StoreUnavailable
from app.domain.policy import Policy
from app.settings import Settings
from app.web.rendering import TEMPLATES

# Plotly adds two style elements: an empty one, into which it then puts its few rules, and that of its maps, which no
# page draws. A new version of Plotly may have another of these; the tests in a browser notice.
_EMPTY_STYLE: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
_STYLE_OF_MAPS: Final = "'sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o='"
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_EMPTY_STYLE} {_STYLE_OF_MAPS}",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SAFETY_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: browsers would then send `Origin: null` with forms, and their origin could not be checked.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Hold the running service as far as pages need it; `targets` tells how each model target stands here."""

    settings: Settings
    policy: Policy
    pool: ConnectionPool
    targets: Callable[[], Mapping[str, str]]
    warnings: tuple[str, ...]


def site_of(request: Request) -> Site:
    """Give the site that the lifespan put into the state of every request."""
    site: Site = request.state.site
    return site


class PageError(Exception):
    """Carry to its page what a person is told."""

    def __init__(
        self,
        status: int,
        title: str,
        text: str,
        *,
        headers: Mapping[str, str] | None = None,
        location: str | None = None,
    ) -> None:
        super().__init__(f"{status}: {title}")
        self.status = status
        self.title = title
        self.text = text
        self.headers = dict(headers or {})
        self.location = location


def sent_to(location: str) -> PageError:
    """Send the browser elsewhere, to GET it."""
    return PageError(303, "See other", "", headers={"Location": location}, location=location)


class PageRoute(APIRoute):
    """Answer a request for a page by a page, whatever happens, with the headers that keep it safe."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_safely(request: Request) -> Response:
            try:
                response = await handle(request)
            except PageError as error:
                response = _error_page(request, error)
            except RequestValidationError:
                response = _error_page(request, PageError(404, "Not found", "There is no such page."))
            except StoreUnavailable as error:
                log.error("store unavailable", reason=str(error))
                response = _error_page(
                    request,
                    PageError(
                        503,
                        "The database does not answer",
                        "Nothing can be shown, and nothing is approved, until it does. Try again in a moment.",
                        headers={"Retry-After": "1"},
                    ),
                )
            for name, value in SAFETY_HEADERS.items():
                response.headers.setdefault(name, value)
            response.headers.setdefault("Cache-Control", "no-store")
            return response

        return handle_safely


def _error_page(request: Request, error: PageError) -> Response:
    if error.location is not None:
        return Response(status_code=error.status, headers=error.headers)
    html = TEMPLATES.get_template("error.html").render(error=error, request_id=request.state.request_id)
    return HTMLResponse(html, status_code=error.status, headers=error.headers)
