"""From conversations to token ids: through the chat template, and never past what was said."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from openvino_genai import ChatHistory

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.call_times import timed
from ov_kvcrush.pipeline.chat_template import ChatTemplate
from ov_kvcrush.pipeline.messages import (
    read_messages,
    require_all_rendered,
    require_utf8,
    texts_in,
)
from ov_kvcrush.pipeline.rendered_text import MARK, Quoting, RenderedText
from ov_kvcrush.pipeline.special_tokens import SpecialTokens, find_special_tokens
from ov_kvcrush.pipeline.text_encoder import TextEncoder

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

Conversation: TypeAlias = "ChatHistory | Sequence[Mapping[str, Any]]"


class PromptEncoder:
    """A tokenizer with its chat template.

    What users, documents, tools and earlier answers say is text, also where it spells a special
    token: the tokenizer reads it in pieces then, each of which spells none.

    Args:
        tokenizer: of the model.
        added: spellings of its added tokens, where they are known.
        parse_special: let such spellings be special tokens, as openvino_genai does.

    Attributes:
        tokenizer: of the model.
    """

    def __init__(
        self, tokenizer: Tokenizer, added: Collection[str] = (), parse_special: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self._added = added
        self._parse_special = parse_special
        self._use(ChatTemplate(tokenizer))

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template; without one it continues texts."""
        return bool(self._template_now().source)

    @property
    def special_tokens(self) -> SpecialTokens:
        """The tokens by which prompts are steered, and the only ways to spell them."""
        self._template_now()
        return self._special

    def read(self, messages: Sequence[object]) -> list[dict[str, Any]]:
        """``messages`` as the chat template reads them.

        Raises:
            PromptError: as :func:`read_messages`.
        """
        return read_messages(messages, self._template_now().source)

    def render(
        self, conversation: Conversation, add_generation_prompt: bool = True
    ) -> RenderedText:
        """``conversation`` through the chat template.

        Raises:
            ModelError: the model has no chat template, or it is at fault.
            PromptError: a message cannot be read, or the template refuses or drops it.
        """
        tools: Sequence[Any] = ()
        extra: Mapping[str, Any] = {}
        if isinstance(conversation, ChatHistory):
            tools, extra = conversation.get_tools(), conversation.get_extra_context()
            conversation = conversation.get_messages()
        messages = self.read(conversation)
        require_utf8(*texts_in([tools, extra]))
        try:
            rendered = self._render(messages, tools, extra, add_generation_prompt)
        except RecursionError:
            raise PromptError("tools or extra context are nested too deeply to be read") from None
        require_all_rendered(messages, rendered.text)
        return rendered

    def plain(self, text: str) -> RenderedText:
        """``text`` as it is, without a template: what it spells it means."""
        return RenderedText([text], self._special, is_plain=True)

    @timed("tokenization")
    def encode(self, rendered: RenderedText) -> list[int]:
        """Token ids of ``rendered``, which begins a prompt."""
        first, rest = rendered.pieces[:1], rendered.pieces[1:]
        ids = self._texts.encode(first[0], rendered.is_plain) if first else []
        return [*ids, *self._texts.encode_behind(rest)]

    @timed("tokenization")
    def encode_rest(self, rendered: RenderedText) -> list[int]:
        """Token ids of ``rendered``, which stands behind other tokens."""
        return self._texts.encode_behind(rendered.pieces)

    def encode_continuing(self, rendered: RenderedText, cached: Sequence[int]) -> list[int] | None:
        """Token ids of ``rendered`` that begin with ``cached`` ids; None where the texts differ.

        What a model wrote is not always spelled as the tokenizer would spell it, so ids are
        compared by their text: if ``cached`` reads like the beginning of ``rendered``, with the
        same special tokens, only the rest is encoded.
        """
        beginning = self.decode_marked(cached) if cached else None
        if beginning is None or not rendered.marked.startswith(beginning):
            return None
        _, rest = rendered.split(len(beginning.replace(MARK, "")))
        return [*cached, *self.encode_rest(rest)]

    def decode_marked(self, ids: Sequence[int]) -> str | None:
        """The text of ``ids``, with its special tokens marked as in :attr:`RenderedText.marked`.

        None where it cannot be told which they are: then ``ids`` begin nothing.
        """
        special, marked = self._special.ids, list[int]()
        places = [place for place, token in enumerate(ids) if token in special]
        for begin, end in zip([0, *places], places, strict=False):
            marked += [*ids[begin:end], *self._mark_ids]
        marked += ids[places[-1] if places else 0 :]
        text = str(self.tokenizer.decode(marked, skip_special_tokens=False))
        if not self._mark_ids:  # then all that reads like a special token has to be one
            text = RenderedText([text], self._special).marked
        # One more or less: the text holds the mark itself, or a special token's spelling.
        return text if text.count(MARK) == len(places) else None

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any],
        extra: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> RenderedText:
        template = self._template_now()
        if self._parse_special:
            text = template.render(messages, tools, extra, add_generation_prompt)
            return RenderedText([text], self._special)
        quoting = Quoting(self._special, messages, tools, extra)
        quoted = [quoting.message(message) for message in messages]
        tools, extra = quoting.value(tools), quoting.value(extra)
        return quoting.read(template.render(quoted, tools, extra, add_generation_prompt))

    def _template_now(self) -> ChatTemplate:
        # A program may give the tokenizer another one at any time.
        if self.tokenizer.chat_template != self._template.source:
            self._use(ChatTemplate(self.tokenizer))
        return self._template

    def _use(self, template: ChatTemplate) -> None:
        self._template = template
        self._special: SpecialTokens = find_special_tokens(
            self.tokenizer, self._added, template.source
        )
        self._texts = TextEncoder(self.tokenizer, list(self._special.special))
        self._mark_ids = self._find_mark_ids()

    def _find_mark_ids(self) -> list[int]:
        """Tokens that read ``MARK`` behind others; none where the tokenizer cannot spell it."""
        before, ids = self._texts.encode("a"), self._texts.encode_behind([MARK])
        return ids if self.tokenizer.decode([*before, *ids]) == f"a{MARK}" else []


def require_text(text: str, what: str) -> None:
    """Raise PromptError where ``what``, said by the user, is empty or not text."""
    if not isinstance(text, str):
        raise PromptError(f"{what} is not text, but {text!r:.40}", "Give a str.")
    if not text:
        raise PromptError(f"{what} is empty", "Give it at least one character.")
    require_utf8(text)
