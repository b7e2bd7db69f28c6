"""Styles that templates are found to have, and answers spelled in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush.pipeline.prompt_encoder import PromptEncoder
from ov_kvcrush.serve.tools.calls import Call
from ov_kvcrush.serve.tools.style import POLYFILLED, ToolStyle, find_tool_style
from tests.support.tool_styles import (
    LLAMA_LIKE,
    LLAMA_LIKE_TEMPLATE,
    QWEN_LIKE,
    QWEN_LIKE_TEMPLATE,
    UNKNOWN_TEMPLATE,
)

# openvino_genai's renderer has no such filter, so Python's renders.
BY_JINJA = "{{ '' | center(0) }}"
CALLS = [Call("", "f", '{"x":1}'), Call("", "g", "{}")]


@pytest.fixture(scope="module")
def tokenizer(needle_int8_dir: Path) -> genai.Tokenizer:
    return genai.Tokenizer(needle_int8_dir)


def style_of(tokenizer: genai.Tokenizer, template: str = "") -> ToolStyle | None:
    if template:
        tokenizer.set_chat_template(template)
    encoder = PromptEncoder(tokenizer)

    def render(
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        history = genai.ChatHistory(list(messages))
        history.set_tools(list(tools))
        return encoder.render(history, add_generation_prompt).text

    return find_tool_style(render)


def test_a_template_that_does_not_know_tools_is_taught_the_renderers_own(
    needle_int8_dir: Path,
) -> None:
    # This model's answers begin with a blank.
    assert style_of(genai.Tokenizer(needle_int8_dir)) == replace(POLYFILLED, lead=" ")


@pytest.mark.parametrize("more", ["", BY_JINJA])
@pytest.mark.parametrize(
    ("template", "style"),
    [(QWEN_LIKE_TEMPLATE, QWEN_LIKE), (LLAMA_LIKE_TEMPLATE, LLAMA_LIKE)],
)
def test_a_style_is_found_by_rendering(
    tokenizer: genai.Tokenizer, template: str, style: ToolStyle, more: str
) -> None:
    assert style_of(tokenizer, template + more) == style


@pytest.mark.parametrize(
    "template",
    [
        UNKNOWN_TEMPLATE,
        "{% for m in messages %}{{ m.role | center(8) }}{{ m.content }};{% endfor %}",
        # Python's renderer leaves the tools out without a word.
        QWEN_LIKE_TEMPLATE.replace("{%- if tools %}", "{%- if tools and 0 %}") + BY_JINJA,
    ],
)
def test_other_templates_have_no_style(tokenizer: genai.Tokenizer, template: str) -> None:
    assert style_of(tokenizer, template) is None


def test_content_that_a_template_changes_is_not_used_for_calls(tokenizer: genai.Tokenizer) -> None:
    trimmed = QWEN_LIKE_TEMPLATE.replace("+ m.content }", "+ m.content | replace('  ', ' ') }")
    style = style_of(tokenizer, trimmed)
    assert style is not None
    assert not style.as_content
    assert (style.begin, style.end) == (QWEN_LIKE.begin, QWEN_LIKE.end)


def test_calls_are_spelled_with_their_arguments_as_they_are() -> None:
    assert QWEN_LIKE.spell(CALLS, "Well.") == (
        'Well.\n<tool_call>\n{"name": "f", "arguments": {"x":1}}\n</tool_call>\n'
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    )
    assert LLAMA_LIKE.spell(CALLS[:1]) == '{"name": "f", "parameters": {"x":1}}'
    assert POLYFILLED.spell(CALLS) == (
        '{"tool_calls": [{"name": "f", "arguments": {"x":1}}, {"name": "g", "arguments": {}}]}'
    )


def test_what_has_no_form_in_a_style_is_not_spelled() -> None:
    assert LLAMA_LIKE.spell(CALLS) is None
    assert LLAMA_LIKE.spell(CALLS[:1], "Well.") is None
    assert POLYFILLED.spell(CALLS, "Well.") is None
