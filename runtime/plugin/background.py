"""Work on a thread of its own, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def begin(work: Callable[[], T], name: str) -> Future[T]:
    """What ``work`` will give, or raise, on a thread of the ``name``; it begins at once."""
    future: Future[T] = Future()
    Thread(target=lambda: complete(future, work), name=name).start()
    return future


def complete(future: Future[T], work: Callable[[], T]) -> None:
    """Do ``work``, and let ``future`` have what it gives or raises."""
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
