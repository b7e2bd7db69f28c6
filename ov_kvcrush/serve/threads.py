"""OpenVINO's properties for a pipeline that shares its machine with others."""

from __future__ import annotations

from collections.abc import Mapping

THREADS = "INFERENCE_NUM_THREADS"
"""The property that bounds the threads that compute."""

_PINNING = "ENABLE_CPU_PINNING"


def with_threads(properties: Mapping[str, str], threads: int | None) -> dict[str, str]:
    """``properties``, and as many threads; None leaves them to OpenVINO.

    A number that ``properties`` have stays.
    """
    if threads is None:
        return dict(properties)
    # Pinned, all that are given few threads would have the same processors.
    return {_PINNING: "NO", THREADS: str(threads), **properties}
