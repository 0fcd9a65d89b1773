"""GET /ui and what lies below it that is no page: people who mistype an address read so, on a page."""

from fastapi import APIRouter, Response

from app.web.site import PageError, PageRoute

router = APIRouter(route_class=PageRoute)


@router.get("/ui")
@router.get("/ui/{rest:path}")
async def unknown(rest: str = "") -> Response:  # noqa: ARG001 (whatever it is)
    """Say that there is no such page."""
    raise PageError(404, "Not found", "There is no such page.")
