"""A text whose cache is kept for any number of questions: read once, crushed once."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from openvino_genai import GenerationConfig

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder, require_text
from ov_kvcrush.pipeline.rendered_text import RenderedText
from ov_kvcrush.runtime.sequences.session import Session

if TYPE_CHECKING:
    from ov_kvcrush.runtime.generation.metrics import GenerationMetrics

# Ends the text where it is put into the chat template, so that what comes before it can be told.
_END = "\N{SYMBOL FOR END OF TEXT}"


class CachedPrefix:
    """What :meth:`LLMPipeline.cache_prefix` gives; later calls begin with it.

    Closing it, explicitly or at the end of a ``with``, frees its pages. Those of one that nobody
    holds any more go with the next call.

    Attributes:
        text: that was read.
        system_message: that was read before it.
        metrics: what reading it cost.
        beginning: of the templated prompt, up to the end of the text.
        token_ids: its tokens.
        session: its cache.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        close_session: Callable[[Session], None],
        text: str,
        system_message: str = "",
        token_ids: list[int] | None = None,
        thorough: bool = False,
    ) -> None:
        require_text(text, "the text of a prefix")
        self._close_session = close_session
        self.text, self.system_message = text, system_message
        rendered = self.render(encoder, _END)
        self.beginning, _ = rendered.split(rendered.text.rindex(_END))
        self.token_ids = token_ids or encoder.encode(self.beginning)
        self.session = Session(pinned=True, is_prefix=True, thorough=thorough)
        self.metrics: GenerationMetrics | None = None

    @property
    def thorough(self) -> bool:
        """Whether it was read twice."""
        return self.session.thorough

    def render(self, encoder: PromptEncoder, question: str) -> RenderedText:
        """The prompt, through the chat template, whose one message is the text and ``question``."""
        content = self.text + question
        if not encoder.has_template and not self.system_message:
            return encoder.plain(content)
        messages = [{"role": "user", "content": content}]
        if self.system_message:
            messages.insert(0, {"role": "system", "content": self.system_message})
        return encoder.render(messages)

    def begins(self, prompt: RenderedText) -> bool:
        """Whether a templated ``prompt`` begins with it."""
        return prompt.marked.startswith(self.beginning.marked)

    def continue_with(self, encoder: PromptEncoder, prompt: RenderedText) -> list[int]:
        """Token ids of a templated ``prompt`` that begins with the prefix.

        Raises:
            PromptError: it does not.
        """
        if not self.begins(prompt):
            raise PromptError(
                "the prompt does not begin with the cached prefix",
                "A prefix opens the first message, after the system message it was made with.",
            )
        _, rest = prompt.split(len(self.beginning.text))
        return [*self.token_ids, *encoder.encode_rest(rest)]

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


def reading_config() -> GenerationConfig:
    """Settings that read a prompt and stop: the one token they give is thrown away."""
    return GenerationConfig(max_new_tokens=1, ignore_eos=True, do_sample=False)
