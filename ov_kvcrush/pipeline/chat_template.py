"""A model's chat template: rendered by openvino_genai where it can, else by Python's Jinja."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from openvino_genai import ChatHistory

from ov_kvcrush.errors import OVKVCrushError, PromptError, TemplateError
from ov_kvcrush.pipeline.call_arguments import takes_text, with_objects
from ov_kvcrush.pipeline.call_times import timed
from ov_kvcrush.pipeline.messages import TemplateRefusalError

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

    from ov_kvcrush.pipeline.jinja_template import JinjaTemplate

_NATIVE_ERROR = re.compile(r"Minja's error: (.*?) at row \d+, column \d+:", re.DOTALL)

_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}],
}
_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object"}},
}


def _said(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": role} for role in roles]


# What a template may be asked for: messages, and tools.
_PROBES: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    (_said("user"), []),
    (_said("user", "assistant", "user"), []),
    (_said("system", "user", "assistant", "user"), []),
    ([*_said("user"), _CALL, *_said("tool", "assistant", "user")], [_TOOL]),
]


class ChatTemplate:
    """Makes a prompt of a conversation.

    Which of the two renders is found out by example, so that a chat stays with one. Only where
    openvino_genai's fails later, on what no example holds, Jinja2 takes over, for good.

    Args:
        tokenizer: its present template is meant.

    Attributes:
        source: the template; empty where the model has none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.source = str(tokenizer.chat_template)
        self._tokenizer = tokenizer
        self._jinja: JinjaTemplate | None = None
        self._by_jinja = False
        self._takes_text_arguments: bool | None = None
        if self.source:
            from ov_kvcrush.pipeline.jinja_template import may_divide_by_zero

            with _native_errors_unshown():
                # At a division by zero openvino_genai's ends the process.
                self._by_jinja = may_divide_by_zero(self.source) or any(
                    self._only_jinja_renders(*probe) for probe in _PROBES
                )

    @timed("chat_template")
    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        extra_context: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt; arguments are those of ``apply_chat_template``.

        Raises:
            TemplateError: there is no template, or it fails at this conversation.
            ModelError: the template is at fault.
            PromptError: the template refuses the conversation, in its own words.
        """
        if not self.source:
            raise TemplateError(
                "the model has no chat template: it continues a text, and holds no conversation",
                "Give it a text to continue (--prompt TEXT, or generate(text)), take a model that "
                "was made for chats, or put its template into chat_template.jinja in its folder.",
            )
        extra, sentence = extra_context or {}, ""
        if not self._by_jinja:
            try:
                return self._render_natively(messages, tools, extra, add_generation_prompt)
            except RuntimeError as error:
                # Its message is a listing of the template; Jinja2 renders, or says it in a line.
                sentence = self._refusal_in(str(error))
        try:
            text = self._render_by_jinja(messages, tools, extra, add_generation_prompt)
        except TemplateRefusalError as refusal:
            # What openvino_genai has made of the messages may be refused for another reason.
            raise TemplateRefusalError(sentence or refusal.sentence) from None
        self._by_jinja = True
        return text

    def _refusal_in(self, error: str) -> str:
        """The template's own sentence in openvino_genai's error, empty if it is not one."""
        found = _NATIVE_ERROR.search(error)
        sentence = found.group(1) if found else ""
        return sentence if sentence in self.source else ""

    def _only_jinja_renders(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]
    ) -> bool:
        try:
            self._render_natively(messages, tools, {}, True)
        except RuntimeError:
            with suppress(OVKVCrushError):
                self._render_by_jinja(messages, tools, {}, True)
                return True
        return False

    def _render_natively(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        history = ChatHistory(list(messages))
        if tools:
            history.set_tools(list(tools))
        if extra:
            history.set_extra_context(dict(extra))
        return str(self._tokenizer.apply_chat_template(history, add_generation_prompt))

    def _render_by_jinja(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        extra: Mapping[str, Any],
        add_generation_prompt: bool,
    ) -> str:
        from ov_kvcrush.pipeline.jinja_template import JinjaTemplate

        if self._jinja is None:
            self._jinja = JinjaTemplate(self.source)
        if tools and "tools" not in self.source:
            raise PromptError(
                "the model's chat template does not know tools", "Ask without set_tools."
            )
        tokenizer = self._tokenizer
        variables = {
            "bos_token": tokenizer.get_bos_token(),
            "eos_token": tokenizer.get_eos_token(),
            "pad_token": tokenizer.get_pad_token(),
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **extra,
        }
        jinja = self._jinja
        if any(message.get("tool_calls") for message in messages):
            # openvino_genai's finds out as well what a template takes.
            if self._takes_text_arguments is None:
                self._takes_text_arguments = takes_text(
                    lambda probe: jinja.render({**variables, "messages": probe})
                )
            if not self._takes_text_arguments:
                messages = with_objects(messages)
        return jinja.render({**variables, "messages": messages})


@contextmanager
def _native_errors_unshown() -> Iterator[None]:
    """Keep what C++ writes to stderr from it: openvino_genai lists a template it fails at there."""
    with suppress(AttributeError, OSError, ValueError):  # there may be none, or none that can
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
