"""Arguments of tool calls: JSON as text, as OpenAI's API has them, or the object that it spells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ov_kvcrush.errors import OVKVCrushError

_ARGUMENTS = '{"argument": "as text"}'
_PROBE: list[dict[str, Any]] = [
    {"role": "user", "content": "user"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call000000",
                "type": "function",
                "function": {"name": "f", "arguments": _ARGUMENTS},
            }
        ],
    },
]


def takes_text(render: Callable[[Sequence[Mapping[str, Any]]], str]) -> bool:
    """Whether a chat template writes arguments that are text as they are.

    Others write them as JSON (``tojson``), which would be a text in quotes, or read their fields.

    Args:
        render: a conversation through the template.
    """
    try:
        return _ARGUMENTS in render(_PROBE)
    except OVKVCrushError:
        return False


def with_objects(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """``messages``, which are not changed, with those arguments as objects that spell one."""
    return [_with_objects(message) for message in messages]


def _with_objects(message: Mapping[str, Any]) -> Mapping[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list | tuple):
        return message
    return {**message, "tool_calls": [_read_call(call) for call in calls]}


def _read_call(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(function := call.get("function"), Mapping):
        return {**call, "function": _read_function(function)}
    return _read_function(call)


def _read_function(function: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return function
    try:
        read = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return function
    return {**function, "arguments": read} if isinstance(read, dict) else function
