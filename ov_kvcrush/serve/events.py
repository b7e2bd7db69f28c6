"""Server-sent events (WHATWG HTML, section 9.2): the bytes of a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
"""Ends a stream."""

KEEP_ALIVE = b": keep-alive\n\n"
"""A comment, which clients skip: proxies see that the connection lives."""


def event(body: Mapping[str, Any]) -> bytes:
    """``body`` as one event; one that tells its ``type`` has that for a name, as clients expect."""
    # Escaped, since some clients take U+0085 and U+2028 for ends of lines.
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    name = f"event: {body['type']}\n" if "type" in body else ""
    return f"{name}data: {text}\n\n".encode()
