"""A conversation that keeps its compressed cache: each turn reads only what is new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openvino_genai import ChatHistory, GenerationConfig

from ov_kvcrush.errors import ConfigError, PromptError
from ov_kvcrush.pipeline.prompts import require_utf8
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
    from ov_kvcrush.pipeline.loaded_model import LoadedModel
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
        self.messages: list[dict[str, str]] = []
        if system_message:
            self.messages.append({"role": "system", "content": system_message})

    def ask(
        self,
        message: str,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        streamer: Streamer | None = None,
        **kwargs: Any,
    ) -> DecodedResults:
        """Add a user message and generate the answer, which joins the conversation.

        Arguments beside ``message`` and errors are those of :meth:`LLMPipeline.generate`. An answer
        broken off by an error or Ctrl+C leaves the conversation as it was.
        """
        if not message.strip():
            raise PromptError("the message is empty", "Type a question.")
        asked = [*self.messages, {"role": "user", "content": self._read_before + message}]
        require_utf8(*(m["content"] for m in asked))
        config = self._model.settings(generation_config, kwargs)
        results = self._model.answer(
            ChatHistory(asked), config, streamer, self.session, self.prefix
        )
        self.messages = [*asked, {"role": "assistant", "content": results.texts[0]}]
        return results

    def replace_messages(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Replace the conversation; what differs from what is cached is read anew in the next turn.

        Args:
            messages: role and content of each; copied.
        """
        self.messages = [dict(message) for message in messages]

    def take_back(self) -> str:
        """Remove the last question and its answer; returns the question.

        Raises:
            PromptError: nothing has been asked yet.
        """
        if len(self.messages) < 2 or self.messages[-1]["role"] != "assistant":
            raise PromptError("there is no answer to take back", "Ask something first.")
        *self.messages, question, _ = self.messages
        return question["content"].removeprefix(self._read_before)

    @property
    def _read_before(self) -> str:
        """What the prefix has read of the next message: its text where that is the first."""
        is_first = not any(m["role"] == "user" for m in self.messages)
        return self.prefix.text if self.prefix is not None and is_first else ""

    def clear(self) -> None:
        """Forget all messages but the system message, and free the cache."""
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
        self.messages = first + rest

    def close(self) -> None:
        """Free the cache. The conversation stays, and would be read anew."""
        self._model.close_session(self.session)


def _system_message_of_prefix() -> ConfigError:
    return ConfigError(
        "a chat behind a cached prefix has the system message the prefix was made with",
        "Give cache_prefix the system message.",
    )
