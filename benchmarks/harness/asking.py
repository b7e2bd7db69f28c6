"""What all who ask a server over HTTP need: its model's name, and times as a line."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import numpy as np


async def model_name(client: httpx2.AsyncClient) -> str:
    """As the server calls its model."""
    return str((await client.get("/v1/models")).raise_for_status().json()["data"][0]["id"])


def times_line(name: str, times: Sequence[float]) -> str:
    """Quantiles of ``times``, in seconds, as milliseconds."""
    if not times:
        return f"{name}: none"
    p50, p95, most = (1e3 * float(np.quantile(times, share)) for share in (0.5, 0.95, 1.0))
    return f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, most {most:.1f} ms, of {len(times):,}"
