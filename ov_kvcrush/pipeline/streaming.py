"""Ctrl+C and streamers: how a user's program gets a word in while tokens are generated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeAlias

from openvino_genai import StreamerBase, StreamingStatus, TextStreamer, Tokenizer

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.generation.stopping import StopChecker

# SIGHUP: the terminal was closed. Windows has none.
_ENDING = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])

Streamer: TypeAlias = Callable[[str], object] | StreamerBase
"""Gets an answer's text piece by piece; what a callable returns says whether to stop."""


def as_streamer(streamer: Streamer, tokenizer: Tokenizer) -> StreamerBase:
    """A ``StreamerBase`` that calls ``streamer`` with text, or ``streamer`` itself if it is one."""
    if isinstance(streamer, StreamerBase):
        return streamer
    if not callable(streamer):
        raise ConfigError(
            f"a streamer is a callable or a StreamerBase, not a {type(streamer).__name__}"
        )

    def forward(text: str) -> StreamingStatus:
        answer = streamer(text)
        if isinstance(answer, StreamingStatus):
            return answer
        return StreamingStatus.STOP if answer else StreamingStatus.RUNNING

    return TextStreamer(tokenizer, forward)


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


class TokenStream:
    """Hands a sequence's tokens to a streamer as soon as no stop string can take them back.

    What the streamer raises comes out as it is.
    """

    def __init__(self, streamer: StreamerBase, checker: StopChecker) -> None:
        self._streamer = streamer
        self._checker = checker
        self._num_written = 0
        self._status = StreamingStatus.RUNNING

    def advance(self) -> StreamingStatus:
        """Write what has settled since the last call; what the streamer wants to happen next."""
        self._write_until(self._checker.num_settled)
        return self._status

    def end(self) -> None:
        """Write what is still held back, unless the streamer asked to stop; then end it."""
        if self._status == StreamingStatus.RUNNING:
            self._write_until(len(self._checker.tokens))
        self._streamer.end()

    def _write_until(self, end: int) -> None:
        tokens = self._checker.tokens[self._num_written : end]
        if tokens:
            self._num_written = end
            answer = self._streamer.write(tokens)
            # Streamers written in Python also answer with whether to stop, or with nothing.
            if not isinstance(answer, StreamingStatus):
                answer = StreamingStatus.STOP if answer else StreamingStatus.RUNNING
            self._status = answer
