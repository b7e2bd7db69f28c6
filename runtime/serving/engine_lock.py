"""Who may touch an engine: one thread at a time, in the order they came."""

from __future__ import annotations

import threading
from collections import deque

from ov_kvcrush.errors import ConfigError


class EngineLock:
    """Held during a step, and whatever else is done with an engine.

    Unlike ``threading.Lock`` it is fair: a thread that runs step after step would otherwise take it
    again before those that wait for it wake up. And whoever holds it and asks for it again gets an
    error at once, where waiting for oneself would last for ever.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holder: int | None = None
        self._waiting: deque[_Turn] = deque()

    def __enter__(self) -> None:
        """Wait for one's turn.

        Raises:
            ConfigError: this thread holds it already.
        """
        me = threading.get_ident()
        if self._holder == me:  # which nobody else makes it, or ends
            raise ConfigError(
                "this call would wait for itself: it was made while the engine is at work for "
                "the same thread",
                "Make it when the call that is at work has returned, or from another thread.",
            )
        turn = _Turn(me)
        try:
            with self._guard:
                if self._holder is None:
                    self._holder = me
                    return
                self._waiting.append(turn)
            turn.has_come.wait()
        except BaseException:  # Ctrl+C, at any place
            with self._guard:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                elif self._holder == me:
                    self._hand_on()
            raise

    def __exit__(self, *_: object) -> None:
        """Let the next one have it."""
        with self._guard:
            self._hand_on()

    def _hand_on(self) -> None:
        if not self._waiting:
            self._holder = None
            return
        turn = self._waiting.popleft()
        self._holder = turn.thread
        turn.has_come.set()


class _Turn:
    """A thread that waits.

    Attributes:
        thread: its number.
        has_come: it has the lock now.
    """

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.has_come = threading.Event()
