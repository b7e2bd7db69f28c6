"""From one thread to one reader in an event loop, whichever loop that is."""

from __future__ import annotations

import asyncio
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Holds items until its reader, who sleeps meanwhile, takes all there are.

    Attributes:
        closed: nothing comes any more.
    """

    def __init__(self) -> None:
        self.closed = False
        self._items: list[T] = []
        self._lock = threading.Lock()
        self._sleeper: asyncio.Future[None] | None = None

    def put(self, items: list[T], close: bool = False) -> bool:
        """Add ``items`` and wake the reader; False where its event loop is gone. From any thread.

        Args:
            items: may be empty.
            close: nothing will follow.
        """
        with self._lock:
            self._items += items
            self.closed = self.closed or close
            sleeper, self._sleeper = self._sleeper, None
        if sleeper is None:
            return True
        try:
            sleeper.get_loop().call_soon_threadsafe(_wake, sleeper)
        except RuntimeError:  # closed, and the reader's task with it
            return False
        return True

    async def take(self) -> list[T]:
        """All items that are there, at least one; none once the mailbox is closed and empty."""
        while True:
            with self._lock:
                items, self._items = self._items, []
                if items or self.closed:
                    return items
                sleeper = self._sleeper = asyncio.get_running_loop().create_future()
            await sleeper


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
