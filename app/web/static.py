"""GET /ui/static/{version}/{name}: the files that pages load, which are the same for everyone."""

import asyncio
from typing import Final

from fastapi import APIRouter, Request, Response

from app.web.assets import NAMES, load_asset
from app.web.site import PageError, PageRoute

FOR_EVER: Final = "public, max-age=31536000, immutable"

router = APIRouter(route_class=PageRoute)


@router.get("/ui/static/{version}/{name}")
async def asset(request: Request, version: str, name: str) -> Response:
    """Give a file; one that was asked for by the name of another version may be of that one, so nobody keeps it."""
    if name not in NAMES:
        raise PageError(404, "Not found", "There is no such file.")
    found = await asyncio.to_thread(load_asset, name)
    headers = {"Vary": "Accept-Encoding", "Cache-Control": FOR_EVER if version == found.version else "no-cache"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(found.packed, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"})
    return Response(found.plain, media_type=found.media_type, headers=headers)
