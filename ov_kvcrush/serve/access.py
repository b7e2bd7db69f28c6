"""What every request passes on its way in and out: id, Host, key, size, and a line in the log.

An ASGI middleware of its own, since Starlette's ``BaseHTTPMiddleware`` hides from routes that their
client has left.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ov_kvcrush.serve.errors import (
    ApiError,
    as_api_error,
    body_too_large,
    body_too_slow,
    invalid_api_key,
    wrong_host,
)
from ov_kvcrush.serve.keys import bearer, owner_of
from ov_kvcrush.serve.request_log import CLIENT_GONE, RequestRecord
from ov_kvcrush.serve.service import Service
from ov_kvcrush.serve.settings import LOOPBACK

OPEN_PATHS = ("/health", "/ready", "/")
"""Answered without a key: what supervisors ask, and a page that holds nothing of anybody."""

PAGE_PARTS = "/page/"
"""What the paths of the page's parts begin with; likewise."""

WATCHING_PATHS = ("/health", "/ready", "/metrics", "/stats")
"""Asked every few seconds; the log has those of them only that are not answered."""

OTHER = "other"
"""Endpoint of a request that was sent away before a route had it, whatever its path."""

VERSIONS = ("/v1", "/v3")
"""What the paths of OpenAI's API begin with; OpenVINO Model Server has them under the second."""

# A client that sends its request more slowly than this is not waited for.
_BODY_SECONDS = 60.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_lines = logging.getLogger("ov_kvcrush.access")
_log = logging.getLogger(__name__)


class Access:
    """Lets requests in that may come in, and notes what becomes of them.

    Args:
        app: answers them. ``request.state.record`` is the request's :class:`RequestRecord`.
        service: of the server.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        settings = service.settings
        # Beyond loopback a server has names that it does not know; there keys protect it.
        is_local = settings.host in LOOPBACK
        names = (*LOOPBACK, *map(str.lower, settings.allowed_hosts))
        self._hosts = frozenset(names if is_local or settings.allowed_hosts else ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        began, given = time.monotonic(), headers.get("x-request-id", "")
        is_id = _REQUEST_ID.fullmatch(given)
        record = RequestRecord(
            id=given if is_id else uuid.uuid4().hex,
            endpoint=OTHER,
            began_at=time.time(),
        )
        scope.setdefault("state", {})["record"] = record
        has_begun = False

        async def reply(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.id
            await send(message)

        try:
            try:
                self._check(scope, headers, record)
                body = await self._read_body(headers, receive)
                if body is not None:
                    await self._app(scope, _replaying(body, receive), reply)
            except Exception as error:
                told = as_api_error(error)
                record.rejected = told.rejected
                if told.status >= 500 and not isinstance(error, ApiError):
                    _log.exception("request %s failed", record.id)
                if has_begun:
                    raise  # nothing else tells the client that the reply is not whole
                await error_response(told)(scope, receive, reply)
        finally:
            record.seconds = time.monotonic() - began
            record.status = record.status or CLIENT_GONE
            record.endpoint = _endpoint(scope)
            self._service.log.add(record)
            is_routine = record.endpoint in WATCHING_PATHS and record.status < 400
            if self._service.settings.access_log and not is_routine:
                _lines.info("%s", line(scope["method"], record))

    def _check(self, scope: Scope, headers: Headers, record: RequestRecord) -> None:
        """Whether it may come in; whose it is.

        Raises:
            ApiError: it may not.
        """
        if self._hosts and _hostname(headers.get("host", "")) not in self._hosts:
            raise wrong_host(headers.get("host", ""))
        keys = self._service.settings.keys
        if keys:
            owner = owner_of(bearer(headers.get("authorization")), keys)
            if owner is None and not _is_open(scope["path"]):
                raise invalid_api_key()
            record.key = owner or ""

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes | None:
        """The request's body, however it is sent; None where its client leaves.

        Raises:
            ApiError: it is too large, or comes too slowly.
        """
        limit = self._service.settings.max_body_bytes
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise body_too_large(limit)
        try:
            return await asyncio.wait_for(_all_of(receive, limit), _BODY_SECONDS)
        except asyncio.TimeoutError:
            raise body_too_slow(_BODY_SECONDS) from None


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(PAGE_PARTS)


def error_response(error: ApiError) -> JSONResponse:
    """``error`` as a reply."""
    return JSONResponse(error.body, error.status, dict(error.headers))


def line(method: str, record: RequestRecord) -> str:
    """What the access log says of a request: who, what became of it, what it cost; no text."""
    words = [method, record.endpoint, str(record.status), f"id={record.id}"]
    words += [f"key={record.key}"] if record.key else []
    if record.num_prompt_tokens:
        words += [f"in={record.num_prompt_tokens}", f"cached={record.num_cached_tokens}"]
        words += [f"out={record.num_generated_tokens}"]
    words += [f"ttft={record.ttft:.3f}"] if record.ttft is not None else []
    words += [f"total={record.seconds or 0.0:.3f}"]
    words += [f"end={record.end}"] if record.end else []
    words += [f"rejected={record.rejected}"] if record.rejected else []
    return " ".join(words)


async def _all_of(receive: Receive, limit: int) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > limit:
            raise body_too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


def _replaying(body: bytes, receive: Receive) -> Receive:
    """``receive`` that gives ``body`` first."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _endpoint(scope: Scope) -> str:
    """The path of the route that a request came to, as it is declared: there are only so many."""
    route = scope.get("route")
    if route is None:
        return OTHER
    path: str = route.path
    # Some releases of FastAPI leave out what the route's router was included with.
    version = next((v for v in VERSIONS if scope["path"].startswith(f"{v}/")), "")
    return path if path.startswith(version) else version + path


def _hostname(host: str) -> str:
    """The name in a ``Host`` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
