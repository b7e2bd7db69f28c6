"""Work that is done on a thread of its own while the plugin compiles a model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ov_kvcrush.runtime.plugin.background import complete

T = TypeVar("T")


class SpareThread:
    """Does one thing after another, none before somebody is about to wait for the plugin.

    The plugin compiles without the interpreter and mostly on one processor. What comes before that
    needs the interpreter itself, and would be later for whatever is done beside it.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ov-kvcrush-spare")
        self._waiting: list[Callable[[], object]] = []
        self._has_begun = False

    def add(self, work: Callable[[], T]) -> Future[T]:
        """What ``work`` will give, or raise. Whoever waits for it calls ``begin`` before."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                complete(future, work)

        if self._has_begun:
            self._worker.submit(run)
        else:
            self._waiting.append(run)
        return future

    def begin(self) -> None:
        """Do what has been added, in that order, and from now on at once."""
        self._has_begun = True
        while self._waiting:
            self._worker.submit(self._waiting.pop(0))
