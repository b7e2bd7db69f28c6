"""How a long piece of work tells its caller where it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """Receives steps as they begin, and what the user ought to know besides."""

    def step(self, number: int, total: int, title: str) -> None:
        """Step ``number`` of ``total`` begins, and the one before it is done."""

    def advance(self, share: float) -> None:
        """So much of the step is done, 0 to 1. Not every step knows."""

    def note(self, text: str) -> None:
        """Something worth a line that is not a failure."""


class Silent:
    """A progress that says nothing."""

    def step(self, number: int, total: int, title: str) -> None:
        """Ignore the step."""

    def advance(self, share: float) -> None:
        """Ignore the share."""

    def note(self, text: str) -> None:
        """Ignore the note."""


class TimeLeft:
    """How long a step will still take, by what it took so far.

    Args:
        clock: tells the time in seconds.
    """

    _LEAST_SECONDS, _LEAST_SHARE = 1.0, 0.01

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()

    def at(self, share: float) -> float | None:
        """Seconds left when ``share`` of the step is done, 0 to 1; None while too little is.

        What went before a share of 0 does not count: it prepared the rest.
        """
        if not share:
            self._begin = self._clock()
        elapsed = self._clock() - self._begin
        if elapsed < self._LEAST_SECONDS or share < self._LEAST_SHARE:
            return None
        return elapsed * (1 - share) / share


def describe_seconds(seconds: float) -> str:
    """A duration as people say it: ``35 s``, ``2 min 10 s``, ``1 h 20 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
