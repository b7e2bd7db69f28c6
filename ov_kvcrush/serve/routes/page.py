"""``/``: a page that shows what the server holds and does, with a chat; nothing from elsewhere."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter, Response

router = APIRouter(include_in_schema=False)

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


@router.get("/page.js")
async def script() -> Response:
    """What it does."""
    return _file("page.js", "text/javascript")


@router.get("/page.css")
async def style() -> Response:
    """How it looks."""
    return _file("page.css", "text/css")


def _file(name: str, media_type: str) -> Response:
    return Response(_content(name), media_type=media_type, headers=_HEADERS)


@lru_cache
def _content(name: str) -> bytes:
    return (files("ov_kvcrush.serve.page") / name).read_bytes()
