"""A conversation that keeps its compressed cache: each turn reads only what is new."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import GenerationConfig, GenerationFinishReason

from ov_kvcrush.errors import ConfigError, PromptError
from ov_kvcrush.pipeline.prompt_encoder import require_text
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.loaded_model import LoadedModel
    from ov_kvcrush.pipeline.reading import OnReading
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.pipeline.streaming import Streamer


class Chat:
    """One conversation with a pipeline. Make it with :meth:`LLMPipeline.chat`.

    Attributes:
        messages: role and content of each message so far.
        session: its cache.
        prefix: cached prefix it begins behind, if any.
        files: what it was loaded from or saved to, and the digest each file had then.
    """

    def __init__(
        self, model: LoadedModel, system_message: str = "", prefix: CachedPrefix | None = None
    ) -> None:
        if prefix is not None and system_message not in ("", prefix.system_message):
            raise _system_message_of_prefix()
        self._model = model
        self.prefix = prefix
        system_message = prefix.system_message if prefix is not None else system_message
        self.session = Session()
        self.files: dict[Path, str] = {}
        self._changing = threading.Lock()
        self.messages: list[dict[str, str]] = []
        if system_message:
            self.messages.append({"role": "system", "content": system_message})

    def ask(
        self,
        message: str,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        streamer: Streamer | None = None,
        progress: OnReading | None = None,
        **kwargs: Any,
    ) -> DecodedResults:
        """Add a user message and generate the answer, which joins the conversation.

        ``progress`` is told how far the reading of what is new is, as it grows. The other arguments
        beside ``message``, and errors, are those of :meth:`LLMPipeline.generate`. An answer that is
        broken off by an error or Ctrl+C, or that a streamer cancels, leaves the conversation as it
        was; one that a streamer stops joins it as far as it went.
        """
        config = self._model.settings(generation_config, kwargs)
        with self.begin_turn(message) as turn:
            results = self._model.answer(
                turn.asked, config, streamer, self.session, self.prefix, progress
            )
            turn.keep(results.texts[0], results.finish_reasons[0])
        return results

    def begin_turn(self, message: str) -> Turn:
        """Have ``message`` answered by whoever calls this; until it ends nothing else happens here.

        Raises:
            PromptError: it cannot be read.
            ConfigError: the chat is still answering.
        """
        require_text(message, "the message")
        if not message.strip():
            raise PromptError("the message is empty", "Type a question.")
        self._begin_change()
        asked = [*self.messages, {"role": "user", "content": self._read_before + message}]
        return Turn(self, asked, self._changing.release)

    def _begin_change(self) -> None:
        """Refuse what a streamer, or another thread, would change under an answer's feet."""
        if not self._changing.acquire(blocking=False):
            raise ConfigError(
                "the chat is still answering", "Call this when it has answered, or use another one."
            )

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        self._begin_change()
        try:
            yield
        finally:
            self._changing.release()

    def replace_messages(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Replace the conversation; what differs from what is cached is read anew in the next turn.

        Args:
            messages: role and content of each; copied.

        Raises:
            PromptError: one cannot be read; nothing has changed then.
        """
        read = self._model.reader.encoder.read(messages) if messages else []
        with self._at_rest():
            self.messages = read

    def take_back(self) -> str:
        """Remove the last question and its answer; returns the question.

        Raises:
            PromptError: nothing has been asked yet.
        """
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant":
            raise PromptError("there is no answer to take back", "Ask something first.")
        with self._at_rest():
            *self.messages, question, _ = self.messages
        return question["content"].removeprefix(self._read_before)

    @property
    def _read_before(self) -> str:
        """What the prefix has read of the next message: its text where that is the first."""
        is_first = not any(m["role"] == "user" for m in self.messages)
        return self.prefix.text if self.prefix is not None and is_first else ""

    def clear(self) -> None:
        """Forget all messages but the system message, and free the cache."""
        with self._at_rest():
            self.messages = [m for m in self.messages if m["role"] == "system"]
            self.close()

    def set_system_message(self, system_message: str) -> None:
        """Replace the system message, or remove it if empty; the next turn reads all anew.

        Raises:
            ConfigError: the chat is behind a cached prefix, which comes after its system message.
        """
        if self.prefix is not None:
            raise _system_message_of_prefix()
        rest = [m for m in self.messages if m["role"] != "system"]
        first = [{"role": "system", "content": system_message}] if system_message else []
        with self._at_rest():
            self.messages = first + rest

    def close(self) -> None:
        """Free the cache. The conversation stays, and would be read anew."""
        self._model.close_session(self.session)


class Turn:
    """A message of a chat while it is being answered. Leaving its ``with`` ends it.

    Attributes:
        asked: the conversation with the message at its end.
    """

    def __init__(
        self, chat: Chat, asked: list[dict[str, str]], release: Callable[[], None]
    ) -> None:
        self.asked = asked
        self._chat = chat
        self._release = release

    def keep(self, answer: str, reason: GenerationFinishReason) -> None:
        """Let message and answer join the conversation, unless it was ended from outside."""
        if reason != GenerationFinishReason.NONE:
            self._chat.messages = [*self.asked, {"role": "assistant", "content": answer}]

    def end(self) -> None:
        """Let others ask."""
        self._release()

    def __enter__(self) -> Turn:
        """This turn."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.end()


def _system_message_of_prefix() -> ConfigError:
    return ConfigError(
        "a chat behind a cached prefix has the system message the prefix was made with",
        "Give cache_prefix the system message.",
    )
