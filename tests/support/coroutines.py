"""Coroutines run from a test that is none, for so long that only what hangs is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
ENOUGH = 120  # seconds; what takes longer hangs


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What ``coroutine`` returns, in an event loop of its own."""
    return asyncio.run(asyncio.wait_for(coroutine, ENOUGH))
