"""Who may come in: so many requests at a time, so many of one key, and none while it drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ov_kvcrush.serve.errors import server_busy, shutting_down
from ov_kvcrush.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.answer import Answer


class Place:
    """One request's, until it is given up."""

    def __init__(self, admission: Admission, key: str) -> None:
        self._admission = admission
        self._key = key
        self._is_held = True

    def hold_until_ended(self, answers: Sequence[Answer]) -> None:
        """Give it up as soon as the engine has done with ``answers``.

        A client that takes its time to read them keeps nobody else waiting.
        """
        loop = asyncio.get_running_loop()
        num_left = len(answers)

        def note_end() -> None:
            nonlocal num_left
            num_left -= 1
            if not num_left:
                self.give_up()

        def ended(_: Future[Any]) -> None:  # in the engine's thread
            with suppress(RuntimeError):  # the loop is gone, and all its places
                loop.call_soon_threadsafe(note_end)

        for answer in answers:
            answer.when_done(ended)

    def give_up(self) -> None:
        """Let another request have it."""
        if self._is_held:
            self._is_held = False
            self._admission.free(self._key)


class Admission:
    """Counts the requests that are answered. For the event loop's thread.

    Args:
        settings: of the server.

    Attributes:
        num_in_flight: that the engine has, or is about to get.
        num_open: these, and those whose answer is still being sent.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._limit = settings.max_running + settings.max_waiting
        self._limit_per_key = settings.max_per_key or self._limit
        self._of_key = Counter[str]()
        self._draining = False
        self._nobody_left = asyncio.Event()
        self._nobody_left.set()
        self.num_in_flight = 0
        self.num_open = 0

    @contextmanager
    def place(self, key: str) -> Iterator[Place]:
        """A place for a request of the key named ``key``, given up at the latest at the end.

        Raises:
            ApiError: all are taken, or no more requests are.
        """
        if self._draining:
            raise shutting_down()
        if self.num_in_flight >= self._limit or self._of_key[key] >= self._limit_per_key:
            raise server_busy()
        place = Place(self, key)
        self.num_in_flight += 1
        self.num_open += 1
        self._of_key[key] += 1
        self._nobody_left.clear()
        try:
            yield place
        finally:
            place.give_up()
            self.num_open -= 1
            if not self.num_open:
                self._nobody_left.set()

    def free(self, key: str) -> None:
        """One place less is taken; for :class:`Place`."""
        self.num_in_flight -= 1
        self._of_key[key] -= 1
        if not self._of_key[key]:
            del self._of_key[key]

    def refuse_new(self) -> None:
        """Take no more requests."""
        self._draining = True

    async def nobody_left(self, seconds: float) -> bool:
        """Wait until every answer has been sent; False where some are not after ``seconds``."""
        try:
            await asyncio.wait_for(self._nobody_left.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True
