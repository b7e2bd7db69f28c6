"""``/``: a page that shows what the server holds and does, with a chat; nothing from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import PurePosixPath

from fastapi import APIRouter, HTTPException, Response

router = APIRouter(include_in_schema=False)

_FOLDER = files("ov_kvcrush.serve.page")
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A server of another version may listen here tomorrow.
    "Cache-Control": "no-cache",
}


@router.get("/")
async def page() -> Response:
    """The page."""
    return _file("index.html", "text/html")


@router.get("/page/{name}")
async def part(name: str) -> Response:
    """One of the page's parts."""
    media_type = _MEDIA_TYPES.get(PurePosixPath(name).suffix)
    if media_type is None or not (_FOLDER / name).is_file():
        raise HTTPException(404)
    return _file(name, media_type)


def _file(name: str, media_type: str) -> Response:
    return Response(_content(name), media_type=media_type, headers=_HEADERS)


@lru_cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
