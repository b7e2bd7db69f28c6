"""Streamers: how a user's program gets a word in while tokens are generated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from openvino_genai import StreamerBase, StreamingStatus, Tokenizer

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.pipeline.deltas import DeltaReader
from ov_kvcrush.runtime.generation.progress import Progress
from ov_kvcrush.runtime.generation.request import Generation

Streamer: TypeAlias = Callable[[str], object] | StreamerBase
"""Gets an answer's text piece by piece; what a callable returns says whether to stop."""


def open_stream(streamer: Streamer, generation: Generation, tokenizer: Tokenizer) -> AnswerStream:
    """What hands ``generation`` to ``streamer``: tokens to a StreamerBase, text to a callable.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(streamer, StreamerBase):
        return TokenStream(streamer, generation)
    if not callable(streamer):
        raise ConfigError(
            f"a streamer is a callable or a StreamerBase, not a {type(streamer).__name__}"
        )
    return TextStream(streamer, generation, tokenizer)


class AnswerStream(ABC):
    """Hands a sequence to a streamer as soon as no stop string can take it back.

    What the streamer raises comes out as it is.

    Args:
        generation: the sequence.

    Attributes:
        status: what the streamer wants to happen next.
    """

    def __init__(self, generation: Generation) -> None:
        self.status = StreamingStatus.RUNNING
        self._generation = generation
        self._num_known = 0

    def advance(self) -> StreamingStatus:
        """Write what is new and certain; what the streamer wants to happen next."""
        progress = self._generation.progress(self._num_known)
        self._num_known += len(progress.token_ids)
        answer = self._write(progress)
        # Streamers written in Python also answer with whether to stop, or with nothing.
        if not isinstance(answer, StreamingStatus):
            answer = StreamingStatus.STOP if answer else StreamingStatus.RUNNING
        self.status = answer
        return answer

    def end(self) -> None:
        """Nothing follows; what is still held back is shown, unless the streamer stopped."""
        if self.status == StreamingStatus.RUNNING:
            self.advance()

    @abstractmethod
    def _write(self, progress: Progress) -> object:
        """Give the streamer what is certain now, if anything; its answer."""


class TextStream(AnswerStream):
    """Calls ``streamer`` with text: whole characters, never empty, together the answer."""

    def __init__(
        self, streamer: Callable[[str], object], generation: Generation, tokenizer: Tokenizer
    ) -> None:
        super().__init__(generation)
        self._streamer = streamer
        self._deltas = DeltaReader(tokenizer)

    def _write(self, progress: Progress) -> object:
        delta = self._deltas.read(progress)
        return self._streamer(delta.text) if delta is not None and delta.text else None


class TokenStream(AnswerStream):
    """Writes tokens to ``streamer``: lists, never empty, together the answer's tokens.

    Tokens are whole: the one in which a stop string begins comes too, if it begins with text
    before it. A ``TextStreamer`` shows all of it.
    """

    def __init__(self, streamer: StreamerBase, generation: Generation) -> None:
        super().__init__(generation)
        self._streamer = streamer
        self._waiting: list[int] = []
        self._num_written = 0

    def end(self) -> None:
        """As of any stream; the streamer's own end too."""
        super().end()
        self._streamer.end()

    def _write(self, progress: Progress) -> object:
        self._waiting += progress.token_ids
        count = progress.num_settled - self._num_written
        settled, self._waiting = self._waiting[:count], self._waiting[count:]
        self._num_written += len(settled)
        return self._streamer.write(settled) if settled else None
