"""``/v1/responses`` with OpenAI's own client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from ov_kvcrush import LLMPipeline
from tests.support.server import RunningServer, serving
from tests.support.weather import FLAT_TOOLS, require_valid

NAMED: Any = {"type": "function", "name": "weather"}
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    made = client.responses.create(
        **{"model": "needle", "input": "Hello", "temperature": 0, **fields}
    )
    if isinstance(made, Response):
        require_typed(made)
    return made


def require_typed(response: Response) -> None:
    """All that OpenAI's type says."""
    Response.model_validate(response.model_dump(by_alias=True, exclude_unset=True))


def kinds_of(events: Iterable[Any]) -> list[str]:
    """Their types without those of pieces, which may be any number."""
    kinds = [event.type.removeprefix("response.") for event in events]
    return [kind for kind in kinds if not kind.endswith(".delta")]


def test_an_answer_is_the_chats(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="needle",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        temperature=0,
    )
    made = ask(client, instructions="Be brief.")
    assert made.output_text == chat.choices[0].message.content
    assert (made.status, made.error, made.incomplete_details) == ("completed", None, None)
    assert (made.store, made.previous_response_id) == (False, None)
    assert made.usage.output_tokens == chat.usage.completion_tokens  # type: ignore[union-attr]
    assert made.usage.input_tokens == chat.usage.prompt_tokens  # type: ignore[union-attr]
    (message,) = made.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")


def test_an_answer_that_was_cut_off_is_incomplete(client: openai.OpenAI) -> None:
    made = ask(client, max_output_tokens=2)
    assert made.status == "incomplete"
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.output[0].status == "incomplete"
    assert made.usage.output_tokens == 2
    *_, last = ask(client, max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


def test_a_stream_has_typed_events_in_their_order(client: openai.OpenAI) -> None:
    include = ["message.output_text.logprobs"]
    whole = ask(client, include=include, top_logprobs=2)
    events = list(ask(client, include=include, top_logprobs=2, stream=True))
    for place, event in enumerate(events):
        assert event.sequence_number == place
        EVENTS.validate_python(event.model_dump(by_alias=True, exclude_unset=True))
    assert kinds_of(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    told = [one.token for event in deltas for one in event.logprobs]
    part = whole.output[0].content[0]
    # The token that ends the answer has no text, and the whole answer tells of it.
    assert [one.token for one in part.logprobs][: len(told)] == told
    completed = events[-1].response
    require_typed(completed)
    assert completed.output_text == whole.output_text
    assert {event.item_id for event in deltas} == {completed.output[0].id}


def test_a_call_comes_its_result_goes_back_and_all_that_was_read_is_gone_on_from(
    client: openai.OpenAI, qwen_like: None
) -> None:
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    made = ask(client, input=asked, tools=FLAT_TOOLS, tool_choice=NAMED)
    (call,) = made.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    require_valid("weather", call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    items = [*asked, call.model_dump(exclude_none=True), result]
    followed = ask(client, input=items, tools=FLAT_TOOLS, tool_choice="none", max_output_tokens=4)
    assert followed.output[0].type == "message"
    there = made.usage.input_tokens + made.usage.output_tokens - 1
    assert followed.usage.input_tokens_details.cached_tokens == there


def test_a_streamed_call_has_events_of_its_own(client: openai.OpenAI, qwen_like: None) -> None:
    whole = ask(client, tools=FLAT_TOOLS, tool_choice=NAMED)
    events = list(ask(client, tools=FLAT_TOOLS, tool_choice=NAMED, stream=True))
    for event in events:
        EVENTS.validate_python(event.model_dump(by_alias=True, exclude_unset=True))
    assert kinds_of(events) == [
        *("created", "in_progress", "output_item.added", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    pieces = [event.delta for event in events if event.type.endswith("arguments.delta")]
    assert "".join(pieces) == whole.output[0].arguments
    assert len(pieces) > 2
    with client.responses.stream(
        model="needle", input="Hello", tools=FLAT_TOOLS, tool_choice=NAMED, temperature=0
    ) as stream:
        (item,) = stream.get_final_response().output
    assert (item.type, getattr(item, "arguments", "")) == ("function_call", "".join(pieces))


class Colour(BaseModel):
    is_warm: bool


def test_the_parse_helper_gets_the_form_it_asks_for(client: openai.OpenAI) -> None:
    made = client.responses.parse(model="needle", input="Red?", text_format=Colour, temperature=0)
    assert isinstance(made.output_parsed, Colour)
    with client.responses.stream(
        model="needle", input="Red?", text_format=Colour, temperature=0
    ) as stream:
        assert stream.get_final_response().output_parsed == made.output_parsed
    loose = ask(client, text={"format": {"type": "json_object"}}, max_output_tokens=40)
    assert loose.output_text.startswith("{")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_value"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_value"),
        ({"background": True}, "background", "unsupported_value"),
        ({"truncation": "auto"}, "truncation", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools.0", "unsupported_value"),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"input": []}, "input", None),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input.0", "unsupported_value"),
        ({"input": [{"role": "user"}]}, "input.0", None),
        ({"input": [{"role": "tool", "content": "a"}]}, "input.0.role", None),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input.0", None),
        ({"input": [{"type": "function_call_output", "call_id": "a"}]}, "input.0", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content",
            "unsupported_value",
        ),
        ({"max_output_tokens": 10**6}, "max_output_tokens", "context_length_exceeded"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "unsupported_value"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format", None),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}},
            "text.format",
            "invalid_schema",
        ),
    ],
)
def test_what_cannot_be_served_is_named(
    client: openai.OpenAI, fields: dict[str, Any], param: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        ask(client, **fields)
    assert (wrong.value.param, wrong.value.code) == (param, code)


def test_what_asks_for_nothing_is_taken(client: openai.OpenAI) -> None:
    made = ask(
        client,
        store=True,
        metadata={"a": "b"},
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        reasoning={"effort": "low", "summary": "auto"},
        max_output_tokens=1,
    )
    assert (made.store, made.metadata) == (False, {"a": "b"})
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_stream_that_fails_raises_in_the_client(pipeline: LLMPipeline) -> None:
    with (
        serving(lambda: pipeline, request_seconds=0.3, max_answer_tokens=7000) as hurried,
        openai.OpenAI(base_url=f"{hurried.url}/v1", api_key="unused", max_retries=0) as client,
    ):
        stream = client.responses.create(
            model="needle", input="Hello", stream=True, text={"format": {"type": "json_object"}}
        )
        with pytest.raises(openai.APIError, match="not answered within"):
            for _ in stream:
                pass


def test_the_bytes_of_a_stream_are_named_events(server: RunningServer) -> None:
    body = {"model": "needle", "input": "Hello", "max_output_tokens": 2, "stream": True}
    with server.client.stream("POST", "/v3/responses", json=body) as reply:
        lines = list(reply.iter_lines())
    events = [lines[place : place + 3] for place in range(0, len(lines) - 2, 3)]
    for name, data, blank in events:
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"
        assert blank == ""
    assert events[-1][0] == "event: response.incomplete"
