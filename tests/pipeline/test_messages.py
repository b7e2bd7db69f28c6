"""Messages as chat templates read them: what is made of them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ov_kvcrush.errors import PromptError
from ov_kvcrush.pipeline.messages import read_messages, require_all_rendered, texts_in

TEMPLATE = "{% if message.role == 'ipython' %}{{ message.content }}{% endif %}"


def read(*messages: Any) -> list[dict[str, Any]]:
    return read_messages(messages, TEMPLATE)


def test_what_is_text_stays_as_it_is() -> None:
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hello", "name": "Ann"},
        {"role": "assistant", "content": "Hi"},
        {"role": "tool", "content": "", "tool_call_id": "1"},
    ]
    assert read(*messages) == messages


def test_parts_of_text_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "First."}, {"type": "text", "text": "Second."}]
    assert read({"role": "user", "content": parts})[0]["content"] == "First.\nSecond."


@pytest.mark.parametrize("content", [{"content": None}, {}], ids=["none", "missing"])
def test_an_assistant_that_called_a_tool_says_nothing(content: dict[str, None]) -> None:
    call = {"role": "assistant", "tool_calls": [{"type": "function"}], **content}
    assert read(call) == [{**call, "content": ""}]


def test_a_developer_is_the_system_to_a_template_that_knows_none() -> None:
    message = {"role": "developer", "content": "Be brief."}
    assert read(message)[0]["role"] == "system"
    assert read_messages([message], '{% if role == "developer" %}')[0]["role"] == "developer"


def test_a_role_that_the_template_names_is_known() -> None:
    assert read({"role": "ipython", "content": "42"})[0]["role"] == "ipython"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Hello", "message 1 is not a mapping of role and content, but 'Hello'"),
        ({"content": "Hello"}, "message 1 has no role"),
        ({"role": "", "content": "Hello"}, "message 1 has an unknown role: ''"),
        ({"role": 3, "content": "Hello"}, "message 1 has an unknown role: 3"),
        ({"role": "wizard", "content": "Hello"}, "message 1 has an unknown role: 'wizard'"),
        ({"role": "x\ud800", "content": "Hello"}, "unknown role"),
        ({"role": "user"}, "message 1, of the role user, has no content"),
        ({"role": "user", "content": None}, "message 1, of the role user, has no content"),
        ({"role": "user", "content": 3}, "the content of message 1 is not text, but 3"),
        ({"role": "user", "content": ["Hello"]}, "has a part that is not text: 'Hello'"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "has a part that is not text: 'image_url'",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "has a part that is not text"),
        ({"role": "user", "content": "", "name": b"Ann"}, "message 1 holds what is not a JSON"),
        ({"role": "user", "content": "", "top_p": float("nan")}, "message 1 holds what is not"),
        ({"role": "user", "content": "half \ud800"}, "half a character at position 5"),
        ({"role": "user", "content": "", "name": "\udfff"}, "half a character at position 0"),
    ],
)
def test_what_cannot_be_read_is_refused(message: Any, reason: str) -> None:
    with pytest.raises(PromptError) as caught:
        read(message)
    assert reason in caught.value.message


def test_a_conversation_without_a_message_is_refused() -> None:
    with pytest.raises(PromptError, match="has no message"):
        read()


def test_a_message_that_a_template_drops_is_missed() -> None:
    messages = [{"role": "system", "content": "A *rule*."}, {"role": "user", "content": "Hello"}]
    require_all_rendered(messages, "system: A *rule*. user:")
    with pytest.raises(PromptError, match="leaves out what has the role 'system'"):
        require_all_rendered(messages, "user: Hello")


def test_all_texts_of_a_value_are_found() -> None:
    value = {"a": [1, "b", {"c": None, "d": ("e", True)}]}
    assert sorted(texts_in(value)) == ["a", "b", "c", "d", "e"]
