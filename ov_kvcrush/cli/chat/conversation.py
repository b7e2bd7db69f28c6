"""A conversation with its settings: what a chat's turns and commands act upon."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from openvino_genai import GenerationConfig

from ov_kvcrush.errors import ConfigError, PromptError, did_you_mean
from ov_kvcrush.runtime.generation.settings import REFUSED, SERVED, resolve_generation_config

if TYPE_CHECKING:
    from ov_kvcrush.pipeline.chat import Chat
    from ov_kvcrush.pipeline.llm_pipeline import LLMPipeline
    from ov_kvcrush.pipeline.reading import OnReading
    from ov_kvcrush.pipeline.results import DecodedResults
    from ov_kvcrush.pipeline.streaming import Streamer

# Where neither the model nor the user sets a limit, a model that never ends would not let go.
_LONGEST_ANSWER = 2048
_UNLIMITED = GenerationConfig().max_length
# A chat shows one answer to a templated history; these would do nothing or break it.
_NOT_IN_A_CHAT = frozenset({"apply_chat_template", "logprobs", "num_return_sequences"})

# Seeds that are drawn are below it: short enough to be typed again.
_SEEDS = 2**32


@dataclass(frozen=True, eq=False)
class Attachment:
    """A text that the next message begins with.

    Attributes:
        name: where it is from.
        text: may have several lines.
        num_tokens: of it.
    """

    name: str
    text: str
    num_tokens: int


class Conversation:
    """A chat, the settings of its answers, and what waits to be sent.

    Args:
        pipeline: the model.
        settings: changes to its generation config.
        system_message: may be empty.
        chat: to go on with, instead of a new one with that system message.

    Attributes:
        pipeline: the model.
        chat: messages and their cache.
        settings: changes to the model's generation config, by name.
        attached: what the next message begins with.

    Raises:
        ConfigError, UnsupportedError: a setting is unknown, malformed or not served.
    """

    def __init__(
        self,
        pipeline: LLMPipeline,
        settings: Mapping[str, Any],
        system_message: str = "",
        chat: Chat | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.chat = chat or pipeline.chat(system_message)
        self.settings: dict[str, Any] = {}
        self.change_settings(settings)
        self.attached: list[Attachment] = []
        self._unanswered = ""
        self._sent: Sequence[Attachment] = ()
        self._attempt = 0
        self._drawn_seed: int | None = None
        self._saved = self.chat.messages

    @property
    def generation_config(self) -> GenerationConfig:
        """The settings of the next answer; one without any limit gets one."""
        return self._resolve(self.settings)

    @property
    def system_message(self) -> str:
        """The system message, empty if there is none."""
        return "".join(m["content"] for m in self.chat.messages if m["role"] == "system")

    @property
    def has_unsaved_turns(self) -> bool:
        """Whether something has been said since the messages were saved or loaded."""
        messages = self.chat.messages
        return messages != self._saved and any(m["role"] == "user" for m in messages)

    def note_saved(self) -> None:
        """What has been said so far is in a file."""
        self._saved = self.chat.messages

    def change_settings(self, changes: Mapping[str, Any]) -> None:
        """Change settings: all of them, or none if one is refused.

        Raises:
            ConfigError, UnsupportedError: as ``resolve_generation_config``.
        """
        changed = {**self.settings, **changes}
        self._resolve(changed)
        self.settings = changed

    def attach(self, name: str, text: str) -> Attachment:
        """Let the next message begin with ``text``, which is from ``name``."""
        tokens = self.pipeline.get_tokenizer().encode(text).input_ids.shape[1]
        self.attached.append(Attachment(name, text, tokens))
        return self.attached[-1]

    def ask(
        self, text: str, streamer: Streamer | None = None, progress: OnReading | None = None
    ) -> DecodedResults:
        """Send what is attached with ``text`` after it; arguments and errors as ``Chat.ask``.

        What is attached stays so until there is a whole answer.
        """
        if not text.strip():
            raise PromptError("the message is empty", "Type a question.")
        message = "\n\n".join([*(attachment.text for attachment in self.attached), text])
        self._attempt = 0
        self._sent = tuple(self.attached)
        return self._send(message, streamer, progress)

    def continue_text(
        self, text: str, streamer: Streamer | None = None, progress: OnReading | None = None
    ) -> DecodedResults:
        """Let the model go on with ``text`` as it is, behind the chat's document if it has one.

        For a model without a chat template, which holds no conversation; nothing is remembered.
        Errors as ``LLMPipeline.generate``.
        """
        results = self.pipeline.generate(
            [text], self.generation_config, streamer, self.chat.prefix, progress
        )
        return cast("DecodedResults", results)

    def ask_again(
        self, streamer: Streamer | None = None, progress: OnReading | None = None
    ) -> DecodedResults:
        """Answer the last message once more, with another seed each time.

        A message whose answer failed or was broken off counts. If this answer is broken off, the
        one before it stays.

        Raises:
            PromptError: nothing has been asked yet; else as ``Chat.ask``.
        """
        if self._unanswered:
            self._attempt += 1
            return self._send(self._unanswered, streamer, progress)
        messages = self.chat.messages
        question = self.chat.take_back()
        self._attempt += 1
        self._sent = ()
        try:
            return self._send(question, streamer, progress)
        except BaseException:
            self.chat.replace_messages(messages)
            self._unanswered = ""
            raise

    def clear(self) -> None:
        """Forget everything said and attached but the system message, and free the cache."""
        self.chat.clear()
        self.attached = []
        self._unanswered = ""
        self._attempt = 0

    def restore(self, messages: list[dict[str, str]], settings: Mapping[str, Any]) -> None:
        """Replace messages and settings; the cache is freed, the next turn reads all anew.

        Raises:
            ConfigError, UnsupportedError: a setting cannot be used; nothing has changed then.
        """
        self._resolve(settings)
        self.settings = dict(settings)
        chat = self.pipeline.chat()
        chat.replace_messages(messages)
        self.replace_chat(chat)

    def replace_chat(self, chat: Chat) -> None:
        """Go on with ``chat``; the cache of the one before is freed, the settings stay."""
        self.clear()
        chat.files = {**self.chat.files, **chat.files}  # who goes on has seen these
        self.chat = chat
        self.note_saved()

    def describe_settings(self) -> dict[str, Any]:
        """All settings by name, as JSON values; None where nothing limits.

        A seed that is drawn for each answer is that of the last one, None before there is one.
        """
        config = self.generation_config
        settings = {name: _plain(getattr(config, name)) for name in SERVED - _NOT_IN_A_CHAT}
        if self._draws_seeds(config):
            settings["rng_seed"] = self._drawn_seed
        return dict(sorted(settings.items()))

    def _send(
        self, message: str, streamer: Streamer | None, progress: OnReading | None
    ) -> DecodedResults:
        config = self.generation_config
        if self._draws_seeds(config):
            config.rng_seed = self._drawn_seed = secrets.randbelow(_SEEDS)
        else:
            config.rng_seed += self._attempt
        self._unanswered = message
        results = self.chat.ask(message, config, streamer, progress)
        self._unanswered = ""
        self.attached = [one for one in self.attached if one not in self._sent]
        return results

    def _draws_seeds(self, config: GenerationConfig) -> bool:
        """Whether an answer with ``config`` is drawn, and nothing says with which seed."""
        return config.do_sample and not ("rng_seed" in self.settings or config.rng_seed)

    def _resolve(self, settings: Mapping[str, Any]) -> GenerationConfig:
        for name in _NOT_IN_A_CHAT.intersection(settings):
            raise ConfigError(f"{name} cannot be set in a chat, which has one answer a turn")
        for name in settings.keys() - SERVED - REFUSED.keys():
            raise ConfigError(
                f"unknown generation setting {name!r}",
                did_you_mean(name, SERVED - _NOT_IN_A_CHAT, REFUSED),
            )
        default = self.pipeline.get_generation_config()
        config = resolve_generation_config(default, settings, {})
        if config.max_new_tokens == config.max_length == _UNLIMITED:
            config.max_new_tokens = _LONGEST_ANSWER
        return config


def _plain(value: Any) -> Any:
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, float):  # kept in 32 bits: 0.7, not 0.699999988079071
        return float(str(np.float32(value)))
    return None if value == _UNLIMITED else value
