"""Find the files that pages load, and name each by what is in it, so that browsers may keep it for ever.

Plotly's script is read from its installed package: it is neither copied into this one nor fetched from anywhere.
"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

STATIC: Final = Path(__file__).parent / "static"
PLOTLY: Final = "plotly.min.js"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
NAMES: Final = ("app.css", "charts.js", "icon.svg", "pages.js", PLOTLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """Hold a file as it is sent, plain and packed."""

    version: str
    media_type: str
    plain: bytes
    packed: bytes


def asset_path(name: str) -> str:
    """Give the address of a file, which changes whenever the file does."""
    return f"/ui/static/{_version(name)}/{name}"


@cache
def load_asset(name: str) -> Asset:
    """Read a file, once, and pack it: Plotly's script is 4.8 MB, and packing it takes half a second."""
    plain = _file(name).read_bytes()
    return Asset(
        version=_version(name),
        media_type=MEDIA_TYPES[Path(name).suffix],
        plain=plain,
        packed=gzip.compress(plain, compresslevel=6, mtime=0),
    )


@cache
def _version(name: str) -> str:
    if name == PLOTLY:
        return f"plotly-{version('plotly')}"
    return hashlib.sha256(_file(name).read_bytes()).hexdigest()[:16]


def _file(name: str) -> Path:
    if name != PLOTLY:
        return STATIC / name
    # Looked up, not imported: importing plotly takes longer than starting the service.
    spec = find_spec("plotly")
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 (a dependency)
    return Path(spec.origin).parent / "package_data" / PLOTLY
