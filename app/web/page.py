"""Render a page for its visitor: what all pages share around what each one shows."""

from typing import Any, Final

from fastapi import Request
from fastapi.responses import HTMLResponse

from app.db.halts import StoredHalt
from app.db.pages import halts_in_force
from app.db.vocabulary import Scope
from app.settings import Auth
from app.web.commands import first_decision, first_outcome
from app.web.rendering import TEMPLATES
from app.web.site import Site, site_of
from app.web.visitor import Visitor, keep_visit

SECTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    ("decisions", "/", "Decisions"),
    ("calibration", "/ui/calibration", "Calibration"),
    ("gates", "/ui/gates", "Gates"),
    ("model", "/ui/model", "Model"),
    ("exposure", "/ui/exposure", "Exposure"),
    ("halts", "/ui/halts", "Halts"),
)


async def render_page(
    request: Request, visitor: Visitor, template: str, *, section: str, status: int = 200, **context: Any
) -> HTMLResponse:
    """Render a page with the halts that concern its visitor above it.

    Raises:
        StoreUnavailable: these cannot be read.
    """
    site = site_of(request)
    host = str(request.base_url).rstrip("/")
    html = TEMPLATES.get_template(template).render(
        sections=[
            entry for entry in SECTIONS if visitor.may(Scope.READ) or (entry[0] == "halts" and visitor.may(Scope.ADMIN))
        ],
        section=section,
        visitor=visitor,
        signed_in=visitor.session_token is not None,
        auth_off=site.settings.auth is Auth.OFF,
        halts=await standing_halts(site, visitor),
        warnings=site.warnings,
        first_decision=first_decision(host, visitor=visitor),
        first_outcome=first_outcome(host, visitor=visitor),
        **context,
    )
    response = HTMLResponse(html, status_code=status)
    keep_visit(request, response, visitor)
    return response


async def standing_halts(site: Site, visitor: Visitor) -> list[StoredHalt]:
    """Read the halts in force that concern a visitor.

    Raises:
        StoreUnavailable: these cannot be read.
    """
    return await halts_in_force(site.pool, accounts=visitor.accounts())
