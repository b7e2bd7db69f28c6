"""A client that costs next to nothing: what is measured beside it is the server.

A client library takes 80 microseconds for each piece of a stream (httpx2), and on the machine that
it loads they are taken from the model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit


async def post(url: str, body: Mapping[str, Any], key: str = "") -> bytes:
    """The end of the reply to ``body``, posted as JSON on a connection of its own.

    Args:
        url: with a path, of plain HTTP.
        body: of the request.
        key: API key; none where it is empty.

    Returns:
        Its last bytes, 64 or less; what ends chunks is among them.

    Raises:
        RuntimeError: its status is not 200.
    """
    parts = urlsplit(url)
    content = json.dumps(body).encode()
    lines = [
        f"POST {parts.path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        status = (await reader.readline()).split()[1:2]
        if status != [b"200"]:
            raise RuntimeError(f"the server answered {status}")
        last = b""
        while piece := await reader.read(65536):
            last = (last + piece)[-64:]
        return last
    finally:
        writer.close()
        await writer.wait_closed()
