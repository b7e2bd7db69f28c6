"""The bytes of one streamed reply: 200 no sooner than needed, whole events, always an end."""

from __future__ import annotations

from typing import Any

from starlette.types import Send

from ov_kvcrush.serve.errors import ApiError
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

    Attributes:
        began: the client has been told 200; what goes wrong from then on is an event.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.began = False

    async def begin(self) -> None:
        """Say 200."""
        self.began = True
        await self._send({"type": "http.response.start", "status": 200, "headers": HEADERS})

    async def put(self, chunk: dict[str, Any] | None) -> None:
        """Send a chunk; None is nothing."""
        if chunk is not None:
            await self._body(event(chunk))

    async def keep_alive(self) -> None:
        """Show that somebody is there."""
        await self._body(KEEP_ALIVE)

    async def end(self, error: ApiError | None = None) -> None:
        """Send the last event, behind ``error`` if that is how it ends."""
        last = DONE if error is None else event(error.body) + DONE
        await self._body(last, more=False)

    async def _body(self, content: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": content, "more_body": more})
