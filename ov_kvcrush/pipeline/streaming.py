"""Ctrl+C and streamers: how a user's program gets a word in while tokens are generated."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from openvino_genai import StreamerBase, StreamingStatus, TextStreamer, Tokenizer

from ov_kvcrush.errors import ConfigError


def as_streamer(streamer: Any, tokenizer: Tokenizer) -> StreamerBase:
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
