"""Tools over HTTP with OpenAI's own client, in every style that a template may have."""

from __future__ import annotations

import json
import re
from typing import Any

import openai
import pytest

from tests.support.server import RunningServer
from tests.support.tool_styles import UNKNOWN_TEMPLATE
from tests.support.weather import TOOLS, require_valid

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


def ask(client: openai.OpenAI, /, **fields: Any) -> Any:
    return client.chat.completions.create(
        **{"model": "needle", "messages": QUESTION, "tools": TOOLS, "temperature": 0, **fields}
    )


def called(message: Any) -> list[tuple[str, str]]:
    return [(one.function.name, one.function.arguments) for one in message.tool_calls or []]


def test_a_call_comes_its_result_goes_back_and_all_that_was_read_is_gone_on_from(
    client: openai.OpenAI, style: str
) -> None:
    made = ask(client, tool_choice=NAMED)
    (choice,) = made.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)
    assert call.function.name == "weather"
    require_valid("weather", call.function.arguments)

    result = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    messages = [*QUESTION, choice.message.model_dump(exclude_none=True), result]
    followed = ask(client, messages=messages, tool_choice="none", max_tokens=4)
    assert followed.choices[0].finish_reason in ("stop", "length")
    assert followed.choices[0].message.content is not None
    assert followed.choices[0].message.tool_calls is None
    # Its last token was not read any more.
    there = made.usage.prompt_tokens + made.usage.completion_tokens - 1
    assert followed.usage.prompt_tokens_details.cached_tokens == there


def test_a_stream_has_the_calls_of_the_whole_reply(client: openai.OpenAI, style: str) -> None:
    fields: dict[str, Any] = {"tool_choice": NAMED, "temperature": 1.2, "seed": 5}
    whole = ask(client, **fields, max_tokens=400).choices[0]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage = ask(client, **fields, max_tokens=400, **options)
    assert usage.choices == []
    first, *middle, last = (chunk.choices[0] for chunk in chunks)
    assert (first.delta.role, first.delta.content) == ("assistant", "")
    assert last.finish_reason == whole.finish_reason
    assert last.delta.model_dump(exclude_unset=True) == {}
    calls: list[list[str]] = []
    for choice in middle:
        (piece,) = choice.delta.tool_calls
        if piece.index == len(calls):  # a new one
            assert (piece.type, piece.function.arguments) == ("function", "")
            assert piece.id.startswith("call_")
            calls.append([piece.function.name, ""])
        else:
            assert set(piece.model_dump(exclude_unset=True)) == {"index", "function"}
            assert piece.index == len(calls) - 1
            assert piece.function.name is None
            calls[-1][1] += piece.function.arguments
    assert [tuple(call) for call in calls] == called(whole.message)
    assert len(middle) > len(calls) + 2  # arguments come as they are written


def test_the_clients_helper_puts_a_stream_together(client: openai.OpenAI, style: str) -> None:
    with client.chat.completions.stream(
        model="needle", messages=QUESTION, tools=TOOLS, tool_choice=NAMED, temperature=0
    ) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert called(choice.message) == called(ask(client, tool_choice=NAMED).choices[0].message)


def test_what_must_be_called_is_called_with_what_its_schema_allows(
    client: openai.OpenAI, style: str
) -> None:
    fields = {"temperature": 1.5, "seed": 1, "max_tokens": 120}
    made = ask(client, tool_choice="required", **fields).choices[0]
    calls = called(made.message)
    assert calls
    for name, arguments in calls[: None if made.finish_reason == "tool_calls" else -1]:
        require_valid(name, arguments)
    assert len({call.id for call in made.message.tool_calls}) == len(calls)
    one = ask(client, tool_choice="required", parallel_tool_calls=False, **fields).choices[0]
    assert one.finish_reason == "tool_calls"
    assert len(called(one.message)) == 1


def test_several_answers_have_calls_of_their_own(client: openai.OpenAI, qwen_like: None) -> None:
    made = ask(client, tool_choice=NAMED, temperature=1.2, n=3)
    calls = [choice.message.tool_calls[0] for choice in made.choices]
    assert len({call.id for call in calls}) == 3
    for call in calls:
        require_valid(call.function.name, call.function.arguments)


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_an_answer_that_calls_nothing_is_the_same_whole_and_streamed(
    client: openai.OpenAI, style: str, choice: str
) -> None:
    whole = ask(client, tool_choice=choice, max_tokens=8).choices[0]
    assert whole.message.tool_calls is None
    chunks = ask(client, tool_choice=choice, max_tokens=8, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(pieces) == whole.message.content


def test_allowed_tools_are_those_that_are_called(client: openai.OpenAI, qwen_like: None) -> None:
    allowed = [{"type": "function", "function": {"name": "clock"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}
    made = ask(client, tool_choice=choice, parallel_tool_calls=False)
    assert called(made.choices[0].message) == [("clock", "{}")]


def test_a_call_that_ends_with_its_last_token_has_a_beginning_of_arguments(
    client: openai.OpenAI, server: RunningServer, style: str
) -> None:
    whole = called(ask(client, tool_choice=NAMED).choices[0].message)[0][1]
    made = ask(client, tool_choice=NAMED, max_tokens=20).choices[0]
    assert made.finish_reason == "length"
    server.wait_until(lambda: server.service.log.last[0].end == "length")
    for _, arguments in called(made.message):
        assert whole.startswith(arguments)
    clock = {"type": "function", "function": {"name": "clock"}}
    ask(client, tool_choice=clock)
    server.wait_until(lambda: server.service.log.last[0].end == "tool_calls")


COLOUR = {
    "type": "json_schema",
    "json_schema": {
        "name": "colour",
        "schema": {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}},
            "required": ["colour"],
            "additionalProperties": False,
        },
    },
}


def test_a_text_beside_tools_has_the_form_that_is_asked_for(
    client: openai.OpenAI, qwen_like: None
) -> None:
    for choice, seed in (("auto", 1), ("auto", 2), ("none", 3)):
        fields = {"tool_choice": choice, "seed": seed, "temperature": 1.5, "max_tokens": 600}
        message = ask(client, response_format=COLOUR, **fields).choices[0].message
        if not message.tool_calls:
            assert json.loads(message.content)["colour"] in ("red", "blue")
        assert choice == "auto" or not message.tool_calls


def test_an_answer_that_is_not_to_end_is_not_kept_to_a_form(
    client: openai.OpenAI, style: str
) -> None:
    made = ask(client, max_tokens=6, extra_body={"ignore_eos": True})
    assert made.usage.completion_tokens == 6
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, tool_choice="required", extra_body={"ignore_eos": True})
    assert (wrong.value.param, wrong.value.code) == ("tool_choice", "unsupported_value")


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0", "unsupported_value"),
        ({"tools": [{"type": "function"}]}, "tools.0.function", None),
        ({"tools": [tool(name="")]}, "tools.0.function.name", None),
        ({"tools": [tool(name="a b")]}, "tools.0.function.name", None),
        ({"tools": [tool(name="a" * 65)]}, "tools.0.function.name", None),
        ({"tools": [tool(), tool()]}, "tools.1", None),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools.0", None),
        ({"tools": [tool(parameters=[])]}, "tools.0.function.parameters", None),
        ({"tools": [tool(parameters={"not": {}})]}, "tools", "invalid_schema"),
        ({"tools": [tool(name=f"f{n}") for n in range(129)]}, "tools", None),
        ({"tools": [tool(description="a" * 300_000)]}, "tools", None),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", None),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice", None),
        ({"tool_choice": "sometimes"}, "tool_choice", None),
        ({"tool_choice": {"type": "function"}}, "tool_choice", None),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_value"),
        ({"tool_choice": {"type": "allowed_tools", "tools": []}}, "tool_choice", None),
        (
            {"tool_choice": {"type": "function", "function": {"name": "unknown"}}},
            "tool_choice",
            None,
        ),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", None),
        ({"prefix": "prefix-1"}, "tools", None),
        (
            {"extra_body": {"structured_outputs": {"regex": "a"}}},
            "response_format",
            "unsupported_value",
        ),
    ],
)
def test_what_cannot_be_served_is_named(
    client: openai.OpenAI, qwen_like: None, fields: dict[str, Any], param: str, code: str | None
) -> None:
    prefix = {"extra_body": {"prefix": fields.pop("prefix")}} if "prefix" in fields else {}
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, **fields, **prefix, max_tokens=4)
    assert (wrong.value.param, wrong.value.code) == (param, code)


def test_a_template_whose_calls_are_not_known_takes_no_tools(
    client: openai.OpenAI, template: Any
) -> None:
    template(UNKNOWN_TEMPLATE)
    with pytest.raises(openai.BadRequestError, match="not known here") as wrong:
        ask(client)
    assert (wrong.value.param, wrong.value.code) == ("tools", "unsupported_value")
    assert ask(client, tools=[], max_tokens=2).choices[0].message.tool_calls is None


def test_calls_without_a_mark_leave_no_room_for_another_form(
    client: openai.OpenAI, server: RunningServer
) -> None:
    with pytest.raises(openai.BadRequestError, match="without a mark") as wrong:
        ask(client, response_format=COLOUR)
    assert wrong.value.param == "response_format"


def test_tools_count_where_a_prompt_is_counted(server: RunningServer, style: str) -> None:
    body = {"messages": QUESTION}
    plain, told = (
        server.client.post("/tokenize", json=fields).json()["count"]
        for fields in (body, {**body, "tools": TOOLS})
    )
    assert told > plain + 50
    made = server.chat(QUESTION[0]["content"], tools=TOOLS, max_tokens=1).json()
    assert made["usage"]["prompt_tokens"] == told
