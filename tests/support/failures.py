"""Functions that fail once, wherever they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class InjectedError(MemoryError):
    """What is raised here and nowhere else."""


@contextmanager
def counted(place: tuple[Any, str], fails_at: int = 0) -> Iterator[list[int]]:
    """Count the calls of the function at ``place``, and let one of them fail."""
    owner, name = place
    function: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == fails_at:
            raise InjectedError(name)
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield calls
