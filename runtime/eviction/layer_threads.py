"""Work on layers, each on a thread of its own: the loops release the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class LayerThreads:
    """As many threads as there are processors to run on."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=_num_cpus())

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """What ``function`` makes of each of ``items``, once it has been called for all of them.

        Also where one fails: the others write to pages that would be given to somebody else.
        """
        futures = [self._threads.submit(function, item) for item in items]
        wait(futures)
        return [future.result() for future in futures]


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
