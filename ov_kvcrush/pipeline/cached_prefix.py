"""A text whose cache is kept for any number of questions: read once, crushed once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from openvino_genai import ChatHistory, GenerationConfig

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.call_times import timed
from ov_kvcrush.pipeline.prompts import encode_continuing, require_utf8
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

    from ov_kvcrush.runtime.generation.metrics import GenerationMetrics

# Ends the text where it is put into the chat template, so that what comes before it can be told.
_END = "\N{SYMBOL FOR END OF TEXT}"


class CachedPrefix:
    """What :meth:`LLMPipeline.cache_prefix` gives; later calls begin with it.

    Closing it, explicitly or at the end of a ``with``, frees its pages. One that is forgotten gives
    them up when they are needed.

    Attributes:
        text: that was read.
        system_message: that was read before it.
        metrics: what reading it cost.
        spelled: the beginning of the templated prompt, up to the end of the text.
        token_ids: its tokens.
        session: its cache.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        close_session: Callable[[Session], None],
        text: str,
        system_message: str = "",
        token_ids: list[int] | None = None,
    ) -> None:
        if not text:
            raise PromptError("the text of a prefix is empty", "Give it at least one character.")
        require_utf8(text, system_message)
        self._close_session = close_session
        self.text, self.system_message = text, system_message
        spelled = self.spell(tokenizer, _END)
        self.spelled = spelled[: spelled.rindex(_END)]
        self.token_ids = token_ids or encode_continuing(tokenizer, self.spelled, [])
        self.session = Session(pinned=True, is_prefix=True)
        self.metrics: GenerationMetrics | None = None
        # Not closed: this may happen anywhere, also while the engine is at work.
        weakref.finalize(self, _unpin, self.session)

    @timed("chat_template")
    def spell(self, tokenizer: Tokenizer, question: str) -> str:
        """The prompt, through the chat template, whose one message is the text and ``question``."""
        content = self.text + question
        if not tokenizer.chat_template:
            return content
        messages = [{"role": "user", "content": content}]
        if self.system_message:
            messages.insert(0, {"role": "system", "content": self.system_message})
        return str(tokenizer.apply_chat_template(ChatHistory(messages), add_generation_prompt=True))

    def continue_with(self, tokenizer: Tokenizer, prompt: str) -> list[int]:
        """Token ids of a templated ``prompt`` that begins with the prefix.

        Raises:
            PromptError: it does not.
        """
        if not prompt.startswith(self.spelled):
            raise PromptError(
                "the prompt does not begin with the cached prefix",
                "A prefix opens the first message, after the system message it was made with.",
            )
        rest = encode_continuing(tokenizer, prompt[len(self.spelled) :], [])
        return [*self.token_ids, *rest]

    def close(self) -> None:
        """Free its pages; it cannot be used any more."""
        self._close_session(self.session)

    def __enter__(self) -> CachedPrefix:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _unpin(session: Session) -> None:
    session.pinned = False


def reading_config() -> GenerationConfig:
    """Settings that read a prompt and stop: the one token they give is thrown away."""
    return GenerationConfig(max_new_tokens=1, ignore_eos=True, do_sample=False)
