"""Ctrl+C and streamers: how a user's program gets a word in while tokens are generated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from openvino_genai import StreamerBase, StreamingStatus, TextStreamer, Tokenizer

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.generation.stopping import StopChecker

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


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl+C wait for the end of a step, so that no page is between two owners.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    seen = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    if previous is None:  # installed by something that is not Python
        yield lambda: False
        return
    signal.signal(signal.SIGINT, lambda *_: seen.set())
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


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
