"""The bytes of one streamed reply: 200 no sooner than needed, whole events, always an end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import Send

from ov_kvcrush.serve.events import DONE, KEEP_ALIVE, event

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


class EventStream:
    """Events on their way to one client.

    Args:
        send: ASGI's.
        ends_with_done: the last event is ``[DONE]``.

    Attributes:
        began: the client has been told 200; what goes wrong from then on is an event.
    """

    def __init__(self, send: Send, ends_with_done: bool = True) -> None:
        self._send = send
        self._done = DONE if ends_with_done else b""
        self.began = False

    async def begin(self) -> None:
        """Say 200."""
        self.began = True
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})

    async def put(self, bodies: Iterable[dict[str, Any]]) -> None:
        """Send an event for each of ``bodies``, if there are any."""
        content = b"".join(map(event, bodies))
        if content:
            await self._body(content)

    async def keep_alive(self) -> None:
        """Show that somebody is there."""
        await self._body(KEEP_ALIVE)

    async def end(self, error: Mapping[str, Any] | None = None) -> None:
        """Send the last event, behind ``error`` if that is how it ends."""
        last = self._done if error is None else event(error) + self._done
        await self._body(last, more=False)

    async def _body(self, content: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})
