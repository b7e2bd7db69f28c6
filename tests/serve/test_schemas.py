"""Requests as clients send them: what is read, what is left out, and what is refused by name."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ov_kvcrush.serve.errors import ApiError, as_api_error
from ov_kvcrush.serve.schemas import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    PrefixRequest,
    TokenizeRequest,
)

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"model": "m", "messages": HELLO, **fields})


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "Hello", **fields})


def refusal(kind: type[BaseModel], **fields: Any) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(fields)
    return as_api_error(caught.value)


def test_what_is_not_known_is_left_out() -> None:
    request = chat(user="u", metadata={"a": 1}, store=True, verbosity="low", of_next_month=[{}])
    assert request == chat()


def test_how_many_fields_were_left_out_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "ov_kvcrush.serve.schemas"):
        chat(user="u", store=True)
    assert caplog.messages == ["2 fields are ignored: ['store', 'user']"]


def test_null_is_a_field_that_is_not_given() -> None:
    names = set(ChatRequest.model_fields) - {"model", "messages"}
    assert chat(**dict.fromkeys(names)).model_dump() == chat().model_dump()
    names = set(CompletionRequest.model_fields) - {"model", "prompt"}
    assert completion(**dict.fromkeys(names)).model_dump() == completion().model_dump()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("audio", {"voice": "alloy"}),
        ("continue_final_message", True),
        ("function_call", {"name": "f"}),
        ("functions", [{"name": "f"}]),
        ("guided_json", {"type": "object"}),
        ("logit_bias", {"5": 100}),
        ("modalities", ["text", "audio"]),
        ("response_format", {"type": "structural_tag"}),
        ("tool_choice", {"type": "custom", "custom": {"name": "f"}}),
        ("use_beam_search", True),
        ("web_search_options", {}),
    ],
)
def test_what_others_serve_and_we_do_not_is_named(field: str, value: object) -> None:
    error = refusal(ChatRequest, model="m", messages=HELLO, **{field: value})
    assert (error.status, error.code, error.param) == (400, "unsupported_value", field)
    assert "not served here" in error.message


@pytest.mark.parametrize("field", ["echo", "suffix", "best_of"])
def test_a_completion_is_only_what_follows(field: str) -> None:
    value = {"echo": True, "suffix": "b", "best_of": 4}[field]
    assert refusal(CompletionRequest, model="m", prompt="a", **{field: value}).param == field


def test_fields_that_are_refused_may_ask_for_nothing() -> None:
    nothing = {"tools": [], "tool_choice": "auto", "logit_bias": {}, "modalities": ["text"]}
    assert chat(**nothing, response_format={"type": "text"}, function_call="none", best_of=1)
    assert completion(echo=False, suffix="", best_of=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frequency_penalty", 2.1),
        ("max_completion_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 2**70),
        ("max_tokens", 1.5),
        ("min_p", 1.0),
        ("model", 3),
        ("n", 0),
        ("n", True),
        ("n", "2"),
        ("presence_penalty", -3),
        ("repetition_penalty", 0),
        ("seed", False),
        ("seed", 2**63),
        ("stop", 3),
        ("stream", "yes"),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_k", -2),
        ("top_logprobs", 21),
        ("top_p", 1.1),
    ],
)
def test_a_value_out_of_bounds_is_named(field: str, value: object) -> None:
    error = refusal(ChatRequest, **{"model": "m", "messages": HELLO, field: value})
    assert (error.status, error.param, error.code) == (400, field, None)
    assert error.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        (None, "messages"),
        (["Hello"], "messages.0"),
        ([{"content": "Hello"}], "messages.0.role"),
        ([{"role": "owner", "content": "Hello"}], "messages.0.role"),
        ([*HELLO, {"role": "user", "content": 3}], "messages.1.content"),
        ([{"role": "user", "content": ["Hello"]}], "messages.0.content.0"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages.0.content.0.text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages.0.content"),
        ([{"role": "user", "content": "\ud800"}], "messages.0.content.0.text"),
        ([{"role": "assistant", "audio": {"id": "a"}}], "messages.0.audio"),
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], "messages.0.tool_calls.0.function"),
    ],
)
def test_a_message_that_cannot_be_read_is_named(messages: object, param: str) -> None:
    assert refusal(ChatRequest, model="m", messages=messages).param == param


@pytest.mark.parametrize(
    ("stop", "param"),
    [("", "stop.0"), (["a", ""], "stop.1"), ("a" * 257, "stop.0"), (["\ud800"], "stop.0")],
)
def test_what_nobody_can_stop_at_is_named(stop: object, param: str) -> None:
    assert refusal(ChatRequest, model="m", messages=HELLO, stop=stop).param == param


def test_one_string_to_stop_at_is_a_list_of_one() -> None:
    assert chat(stop="\n").stop == ["\n"] == chat(stop=["\n"]).stop


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
        ("", [""]),
    ],
)
def test_a_completion_has_one_prompt_or_several(prompt: object, prompts: object) -> None:
    request = completion(prompt=prompt)
    assert request.prompts == prompts
    assert request.num_prompts == len(request.prompts)


@pytest.mark.parametrize(
    "prompt", [None, 3, [], [True], [-1], [2**31], [1.0], [["a"]], [[]], ["a"] * 9, "\ud800"]
)
def test_a_prompt_that_cannot_be_read_is_named(prompt: object) -> None:
    param = refusal(CompletionRequest, model="m", prompt=prompt).param
    assert param is not None
    assert param.startswith("prompt")


def test_the_newer_name_of_the_length_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=6).token_limit == 6
    assert chat(max_tokens=5).token_limit == 5
    assert chat().token_limit is None


def test_log_probabilities_are_asked_for_in_two_ways() -> None:
    assert [chat(logprobs=True, top_logprobs=3).num_top, chat(logprobs=True).num_top] == [3, 0]
    assert chat(logprobs=False).num_top is None
    assert [completion(logprobs=3).num_top, completion(logprobs=0).num_top] == [3, 0]
    assert completion().num_top is None


def test_a_conversation_has_a_key_in_the_body_too() -> None:
    assert chat(session_id="a", prompt_cache_key="b").session_key == "a"
    assert chat(prompt_cache_key="b").session_key == "b"
    assert chat().session_key == ""
    assert refusal(ChatRequest, model="m", messages=HELLO, session_id="\ud800").status == 400


def test_usage_is_an_option_of_streams() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage


def test_small_requests_have_few_fields() -> None:
    assert TokenizeRequest.model_validate({"prompt": "a", "model": "m"}).messages is None
    assert DetokenizeRequest.model_validate({"tokens": [1, 2]}).tokens == [1, 2]
    assert not PrefixRequest.model_validate({"text": "a", "id": "b"}).thorough
    assert refusal(DetokenizeRequest, tokens=[-1]).param == "tokens.0"
    assert refusal(PrefixRequest, text="").param == "text"


def test_requests_can_be_described() -> None:
    for kind in (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest, PrefixRequest):
        assert json.dumps(kind.model_json_schema())
    fields = ChatRequest.model_json_schema()["properties"]
    assert fields["functions"]["type"] == "null"
