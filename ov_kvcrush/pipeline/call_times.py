"""How long a call takes around its engine: texts become tokens, and tokens texts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class CallTimes:
    """Times of one call, in seconds, one for each time that it was done.

    Attributes:
        begun: clock when the call came.
        chat_template: of rendering the chat template.
        tokenization: of encoding a text.
        detokenization: of decoding an answer.
    """

    begun: float = field(default_factory=time.perf_counter)
    chat_template: list[float] = field(default_factory=list)
    tokenization: list[float] = field(default_factory=list)
    detokenization: list[float] = field(default_factory=list)


_CALL: ContextVar[CallTimes | None] = ContextVar("call", default=None)


@contextmanager
def timed_call(times: CallTimes | None = None) -> Iterator[CallTimes]:
    """Note what is :func:`timed` meanwhile in ``times``, or in new ones."""
    times = times or CallTimes()
    token = _CALL.set(times)
    try:
        yield times
    finally:
        _CALL.reset(token)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Note how long this takes as ``what``, a field of the call's :class:`CallTimes`.

    Whoever encodes or decodes need not know the call; where there is none, nothing is noted. Also
    a decorator.
    """
    begun = time.perf_counter()
    yield
    times = _CALL.get()
    if times is not None:
        getattr(times, what).append(time.perf_counter() - begun)


def times_of_call() -> CallTimes:
    """Of the call this is part of; empty ones where there is none."""
    return _CALL.get() or CallTimes()
