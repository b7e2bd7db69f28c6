"""Items of a conversation, and the messages that they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ov_kvcrush.serve.fields import Model, Parts, Text, TextPart, unsupported
from ov_kvcrush.serve.schemas import Function, Message, ToolCall

_KINDS = ("message", "function_call", "function_call_output", "reasoning")
_TEXTS = ("input_text", "output_text", "text")
_NEEDED = {
    "message": ("role", "content"),
    "function_call": ("call_id", "name"),
    "function_call_output": ("call_id", "output"),
}


def _as_chat_parts(content: Any) -> Any:
    """Parts as chats name them; pictures and others are refused by :data:`Parts`."""
    if not isinstance(content, list):
        return content
    return [
        {**part, "type": "text"} if isinstance(part, dict) and part.get("type") in _TEXTS else part
        for part in content
    ]


_Content = Annotated[
    Parts,
    BeforeValidator(_as_chat_parts, json_schema_input_type=str | list[TextPart] | None),
]


class Item(Model):
    """A message, a call, what came of one, or reasoning, which is not read.

    Which fields count is a matter of its type.
    """

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: _Content | None = None
    call_id: Text | None = None
    name: Text | None = None
    arguments: Text = ""
    output: _Content | None = None

    @model_validator(mode="before")
    @classmethod
    def _require_known(cls, item: Any) -> Any:
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if isinstance(kind, str) and kind not in _KINDS:
            raise unsupported(f"items of the type {kind!r:.40} are not served here")
        if kind == "reasoning":
            return {"type": kind}
        return item

    @model_validator(mode="after")
    def _require_fields(self) -> Item:
        for name in _NEEDED.get(self.type, ()):
            if getattr(self, name) is None:
                raise PydanticCustomError(
                    "item", "{kind} needs {name}", {"kind": self.type, "name": name}
                )
        return self


def _as_items(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


Items = Annotated[
    list[Item],
    BeforeValidator(_as_items, json_schema_input_type=str | list[Item]),
    Field(min_length=1),
]
"""``input``: a text of the user, or items."""


def messages_of(items: Sequence[Item], instructions: str | None = None) -> list[Message]:
    """The conversation that ``items`` are.

    What an answer has said and called is one message, as it was one answer.

    Args:
        items: of a request.
        instructions: before them.
    """
    messages: list[Message] = []
    if instructions is not None:
        messages.append(Message(role="system", content=_parts(instructions)))
    for item in items:
        match item.type:
            case "message" if item.role is not None:
                messages.append(Message(role=item.role, content=item.content or []))
            case "function_call":
                messages.append(_called(item, messages))
            case "function_call_output":
                messages.append(
                    Message(role="tool", content=item.output or [], tool_call_id=item.call_id)
                )
    return messages


def _called(item: Item, messages: list[Message]) -> Message:
    """The answer that calls ``item``, with what it has said and called before; those are taken."""
    function = Function(name=item.name or "", arguments=item.arguments)
    call = ToolCall(id=item.call_id or "", function=function)
    if messages and messages[-1].role == "assistant":
        answer = messages.pop()
        calls = [*(answer.tool_calls or []), call]
        return Message(role="assistant", content=answer.content, tool_calls=calls)
    return Message(role="assistant", content=[], tool_calls=[call])


def _parts(text: str) -> list[TextPart]:
    return [TextPart(type="text", text=text)]
