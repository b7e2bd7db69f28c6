"""``/prefixes``: texts that are read once, and that requests then begin with by name."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ov_kvcrush.serve.answers import until_gone
from ov_kvcrush.serve.errors import loading, request_timeout, shutting_down
from ov_kvcrush.serve.named_prefixes import NamedPrefix, NamedPrefixes
from ov_kvcrush.serve.request_log import CLIENT_GONE
from ov_kvcrush.serve.schemas import PrefixRequest
from ov_kvcrush.serve.service import Service

router = APIRouter()


@router.post("/prefixes")
async def add(body: PrefixRequest, request: Request) -> Response:
    """Read a text and keep what the cache's budget leaves of it."""
    service: Service = request.app.state.service
    prefixes, record = _prefixes(service), request.state.record
    with service.admission.place(record.key):
        reading = prefixes.add(body.text, body.system_message, record.key, body.thorough)
        named = await _while_wanted(reading, request, service.settings.request_seconds)
        if service.draining and named is not None:  # it may have been broken off
            raise shutting_down()
    if named is None:
        return Response(status_code=CLIENT_GONE)
    record.num_prompt_tokens = named.num_tokens
    return JSONResponse(named.to_dict())


@router.get("/prefixes")
async def list_all(request: Request) -> dict[str, Any]:
    """Those that were made with the same key."""
    named = _prefixes(request.app.state.service).of(request.state.record.key)
    return {"object": "list", "data": [one.to_dict() for one in named]}


@router.get("/prefixes/{id}")
async def get(id: str, request: Request) -> dict[str, Any]:
    """What one takes."""
    return _prefixes(request.app.state.service).get(id, request.state.record.key).to_dict()


@router.delete("/prefixes/{id}")
async def remove(id: str, request: Request) -> dict[str, Any]:
    """Free one's pages."""
    await _prefixes(request.app.state.service).remove(id, request.state.record.key)
    return {"id": id, "object": "prefix", "deleted": True}


def _prefixes(service: Service) -> NamedPrefixes:
    service.usable_pipeline()
    if service.prefixes is None:
        raise loading()
    return service.prefixes


async def _while_wanted(
    reading: Coroutine[Any, Any, NamedPrefix], request: Request, seconds: float
) -> NamedPrefix | None:
    """What ``reading`` gives; ended, and None, where the client leaves before.

    Args:
        reading: a coroutine that frees what it holds when it is cancelled.
        request: whose client waits.
        seconds: that it may take; 0 does not bound it.

    Raises:
        ApiError: it takes longer.
        Exception: what ended it.
    """
    work = asyncio.create_task(reading)
    gone = asyncio.create_task(until_gone(request.receive))
    try:
        await asyncio.wait(
            (work, gone), timeout=seconds or None, return_when=asyncio.FIRST_COMPLETED
        )
        if work.done():
            return work.result()
        if gone.done():
            return None
        raise request_timeout(seconds)
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.wait((work, gone))
