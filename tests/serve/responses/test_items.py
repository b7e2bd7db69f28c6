"""Items as the messages that they are."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from ov_kvcrush.serve.responses.items import Items, messages_of

ITEMS: TypeAdapter[Any] = TypeAdapter(Items)


def read(value: object, instructions: str | None = None) -> list[tuple[str, str, list[str]]]:
    """Role, text and called functions of each message."""
    return [
        (message.role, message.text, [call.function.name for call in message.tool_calls or []])
        for message in messages_of(ITEMS.validate_python(value), instructions)
    ]


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"of-{name}", "name": name, "arguments": "{}"}


def test_a_text_is_what_the_user_says_behind_instructions() -> None:
    assert read("Hi") == [("user", "Hi", [])]
    assert read("Hi", "Be brief.") == [("system", "Be brief.", []), ("user", "Hi", [])]


def test_what_an_answer_said_and_called_is_one_message() -> None:
    said = {"type": "output_text", "text": "Let me see.", "annotations": []}
    answer = {"type": "message", "role": "assistant", "id": "msg_1", "content": [said]}
    result = {"type": "function_call_output", "call_id": "of-f", "output": "1"}
    items = [{"role": "user", "content": "Hi"}, answer, call("f"), call("g"), result, call("h")]
    assert read(items) == [
        ("user", "Hi", []),
        ("assistant", "Let me see.", ["f", "g"]),
        ("tool", "1", []),
        ("assistant", "", ["h"]),
    ]
    messages = messages_of(ITEMS.validate_python(items))
    assert [one.id for one in messages[1].tool_calls or []] == ["of-f", "of-g"]
    assert messages[2].tool_call_id == "of-f"


def test_reasoning_is_passed_over() -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "x"}]}
    assert read([{"role": "developer", "content": "a"}, reasoning]) == [("developer", "a", [])]


def test_results_may_be_parts_of_text() -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    result = {"type": "function_call_output", "call_id": "c", "output": parts}
    assert read([call("f"), result])[1] == ("tool", "a\nb", [])
