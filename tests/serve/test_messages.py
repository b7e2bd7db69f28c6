"""Histories made of OpenAI's messages."""

from __future__ import annotations

from typing import Any

import pytest
from openvino_genai import ChatHistory

from ov_kvcrush.serve.errors import ApiError
from ov_kvcrush.serve.messages import chat_history
from ov_kvcrush.serve.schemas import ChatRequest, TokenizeRequest
from ov_kvcrush.serve.settings import ServeSettings

SETTINGS = ServeSettings(("m",), max_messages=8)
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": '{"x": 1}'},
}


def history(*messages: dict[str, Any], **fields: Any) -> ChatHistory:
    request = ChatRequest.model_validate({"model": "m", "messages": list(messages), **fields})
    return chat_history(request, SETTINGS)


def read(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return list(history(*messages).get_messages())


def test_roles_and_texts_stay() -> None:
    messages = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    assert read(*messages) == messages


def test_the_pipeline_says_what_a_template_makes_of_a_developer() -> None:
    assert read({"role": "developer", "content": "a"}) == [{"role": "developer", "content": "a"}]


def test_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "cache_control": {}}]
    assert read({"role": "user", "content": parts}) == [{"role": "user", "content": "a\nb"}]
    refused = [{"type": "refusal", "refusal": "No."}]
    assert read({"role": "assistant", "content": refused})[0]["content"] == "No."


def test_null_is_an_empty_text() -> None:
    assert read({"role": "user", "content": None}) == [{"role": "user", "content": ""}]
    assert read({"role": "assistant"}) == [{"role": "assistant", "content": ""}]


def test_only_an_assistant_may_have_no_content() -> None:
    with pytest.raises(ApiError, match="content") as caught:
        read({"role": "assistant"}, {"role": "user"})
    assert (caught.value.status, caught.value.param) == (400, "messages.1.content")


def test_names_and_what_clients_send_back_of_an_answer_are_left_out() -> None:
    sent_back = {"refusal": None, "audio": None, "function_call": None, "tool_calls": None}
    assert read({"role": "assistant", "content": "a", "name": "Ann", **sent_back}) == [
        {"role": "assistant", "content": "a"}
    ]


def test_calls_of_tools_and_their_results_pass() -> None:
    call, result = read(
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "f"},
    )
    assert call == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert result == {"role": "tool", "content": "2", "tool_call_id": "call_1", "name": "f"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_has_two_names(name: str) -> None:
    (message,) = read({"role": "assistant", "content": "a", name: "so"})
    assert message == {"role": "assistant", "content": "a", "reasoning_content": "so"}


def test_arguments_of_the_template_are_its_context() -> None:
    hello = {"role": "user", "content": "a"}
    with_context = history(
        hello, chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low"
    )
    assert with_context.get_extra_context() == {"enable_thinking": False, "reasoning_effort": "low"}
    assert not history(hello).get_extra_context()


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token"])
def test_arguments_cannot_replace_the_conversation(name: str) -> None:
    with pytest.raises(ApiError, match=name) as caught:
        history({"role": "user", "content": "a"}, chat_template_kwargs={name: []})
    assert caught.value.param == f"chat_template_kwargs.{name}"


def test_a_server_takes_so_many_messages() -> None:
    with pytest.raises(ApiError, match="9 messages, and at most 8") as caught:
        history(*[{"role": "user", "content": "a"}] * 9)
    assert caught.value.param == "messages"


def test_what_is_tokenized_is_the_same_history() -> None:
    messages = [{"role": "user", "content": "a"}]
    request = TokenizeRequest.model_validate({"messages": messages})
    assert chat_history(request, SETTINGS).get_messages() == messages
