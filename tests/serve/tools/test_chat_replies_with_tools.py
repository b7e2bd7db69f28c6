"""Chunks and whole replies of answers that call of their own accord."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush.pipeline.deltas import Delta
from ov_kvcrush.serve.chat_reply import ChatReply
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.schemas import ChatRequest
from ov_kvcrush.serve.settings import ServeSettings
from ov_kvcrush.serve.token_texts import TokenTexts
from ov_kvcrush.serve.tools.calls import is_bare, new_call_id
from ov_kvcrush.serve.tools.fields import ToolChoice
from ov_kvcrush.serve.tools.style import POLYFILLED, ToolStyle
from ov_kvcrush.serve.tools.use import ToolUse
from tests.support.tool_styles import LLAMA_LIKE, QWEN_LIKE
from tests.support.weather import TOOLS

ARGUMENTS = '{"city": "Rome"}'
MARKED = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


@pytest.fixture(scope="module")
def texts(needle_int8_dir: Path) -> TokenTexts:
    return TokenTexts(genai.Tokenizer(needle_int8_dir))


def chat(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    asked = messages or ({"role": "user", "content": "Well?"},)
    body = {"model": "m", "messages": list(asked), "tools": TOOLS, **fields}
    return ChatRequest.model_validate(body)


def use_of(style: ToolStyle, has_grammars: bool = True) -> ToolUse:
    use = ToolUse.of(chat().tool_functions, ToolChoice(), style, {}, False, has_grammars)
    assert use is not None
    return use


def deltas_of(reply: ChatReply, answer: str) -> list[dict[str, Any]]:
    bodies = [body for one in answer for body in reply.events(Delta(one, (), (), ()))]
    return [body["choices"][0]["delta"] for body in bodies]


@pytest.mark.parametrize("has_grammars", [True, False])
def test_text_before_a_call_is_content_and_blanks_between_are_nobodys(
    texts: TokenTexts, has_grammars: bool
) -> None:
    reply = ChatReply.of(chat(), "m", texts, tools=use_of(QWEN_LIKE, has_grammars))
    deltas = deltas_of(reply, f"Let me see.\n{MARKED}")
    content = "".join(delta.get("content", "") for delta in deltas)
    assert content == "Let me see."
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call["index"] for call in calls] == [0] * len(calls)
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS


def test_log_probabilities_are_told_while_text_is_held_back(texts: TokenTexts) -> None:
    request = chat(logprobs=True)
    reply = ChatReply.of(request, "m", texts, tools=use_of(QWEN_LIKE))
    (held,) = reply.events(Delta("<tool", (5,), (-0.5,), ((),)))
    choice = held["choices"][0]
    assert choice["delta"] == {"content": ""}
    assert len(choice["logprobs"]["content"]) == 1
    (shown,) = reply.events(Delta("s>", (6,), (-0.5,), ((),)))
    assert shown["choices"][0]["delta"] == {"content": "<tools>"}


BARE = f'{{"name": "weather", "arguments": {ARGUMENTS}}}'


def spelled_again(style: ToolStyle, answer: str) -> tuple[str, list[str]]:
    """What the next turn's prompt has of an answer, and the ids of its calls."""
    parsed = use_of(style).reader().read(answer)
    calls = [
        {"id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
        for call in parsed.calls
    ]
    message = {"role": "assistant", "content": parsed.text or None, "tool_calls": calls}
    history = chat_history(chat(message), ServeSettings(("m",)), style)
    (read,) = history.get_messages()
    assert "tool_calls" not in read
    return read["content"], [call.id for call in parsed.calls]


@pytest.mark.parametrize(
    ("style", "answer"),
    [
        (QWEN_LIKE, MARKED),
        (QWEN_LIKE, f"Let me see.\n{MARKED}\n{MARKED}"),
        (QWEN_LIKE, BARE),
        (QWEN_LIKE, f"{BARE}\n{BARE}"),
        (LLAMA_LIKE, BARE.replace("arguments", "parameters")),
        (POLYFILLED, f'{{"tool_calls": [{BARE}, {BARE}]}}'),
    ],
)
def test_an_answer_that_called_is_spelled_in_the_next_prompt_as_it_was_written(
    style: ToolStyle, answer: str
) -> None:
    again, ids = spelled_again(style, answer)
    assert again == answer
    assert [is_bare(id) for id in ids] == [style is QWEN_LIKE and "<" not in answer] * len(ids)


def test_a_call_in_a_fence_is_one_and_is_spelled_with_marks() -> None:
    again, (_,) = spelled_again(QWEN_LIKE, f"```json\n{BARE}\n```")
    assert again == MARKED


def test_calls_that_no_style_spells_are_left_to_the_template() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{x: 1"}}
    message = {"role": "assistant", "content": "b", "tool_calls": [call]}
    for style in (QWEN_LIKE, LLAMA_LIKE, None):
        (read,) = chat_history(chat(message), ServeSettings(("m",)), style).get_messages()
        assert read["content"] == "b"
        assert read["tool_calls"] == [{**call, "type": "function"}]


def test_ids_tell_of_calls_that_they_were_bare() -> None:
    assert all(is_bare(new_call_id(is_bare=True)) for _ in range(8))
    assert not any(is_bare(id) for id in ("", "call_1", "call_é", new_call_id() + "0"))
