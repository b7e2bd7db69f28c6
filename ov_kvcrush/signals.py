"""Ctrl+C, and what else asks a process to end, put off until what is being done is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# SIGHUP: the terminal was closed. Windows has none.
_ENDING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])


class DeferredSignals:
    """What has come while signals wait.

    Attributes:
        numbers: of the signals, in the order they came.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._breaks_off = False

    @property
    def have_come(self) -> bool:
        """Whether there is one."""
        return bool(self.numbers)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Take one in, in place of its handler."""
        self.numbers.append(number)
        breaks_off, self._breaks_off = self._breaks_off, False
        if breaks_off:
            raise _BrokenOffError

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Let one that comes end the whole ``with deferred_signals()`` at once, not just be noted.

        For while a user's own code is at work, which may take as long as it likes.
        """
        self._breaks_off = True
        try:
            yield
        finally:
            self._breaks_off = False


class _BrokenOffError(BaseException):
    """A signal has come while a user's code was at work."""


@contextmanager
def deferred_signals() -> Iterator[DeferredSignals]:
    """Let Ctrl+C, and what asks a process to end, wait for the end of the ``with``.

    Their handlers raise, and an exception in the middle of a step would leave pages between two
    owners. They are called when the ``with`` ends. Signals whose handlers are not Python's, or that
    are ignored, stay as they are; so do all outside the main thread, where Python delivers none.
    """
    signals = DeferredSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    found = {number: signal.getsignal(number) for number in _ENDING}
    handlers = {number: handler for number, handler in found.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, signals.note)
    try:
        with suppress(_BrokenOffError):
            yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for come in signals.numbers:
            handlers[signal.Signals(come)](come, None)
