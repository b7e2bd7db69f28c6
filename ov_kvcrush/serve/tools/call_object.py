"""Calls as JSON objects, however they are spelled."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from ov_kvcrush.serve.tools.object_scanner import ObjectScanner

_ARGUMENTS = ("arguments", "parameters")
# What a call, or a list of calls, may begin with.
_KEYS = ("name", *_ARGUMENTS, "tool_calls", "content", "type", "id", "function")
_HEAD = re.compile(r'\{\s*"name"\s*:\s*"[^"\\]*"\s*,\s*"(?:arguments|parameters)"\s*:\s*')


def read_call(spelled: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments of the call that a JSON object is; None where it is not one.

    Arguments are as they are spelled, where they stand behind the name, as templates have them;
    none are ``{}``.

    Args:
        spelled: the object.
        names: functions that may be called.
    """
    read = loads(spelled)
    if not isinstance(read, dict):
        return None
    name, values = read.get("name"), [read[key] for key in _ARGUMENTS if key in read]
    if not isinstance(name, str) or name not in names or len(values) > 1:
        return None
    arguments: Any = values[0] if values else {}
    if isinstance(arguments, str):  # JSON in JSON
        return (name, arguments) if isinstance(loads(arguments), dict) else None
    if not isinstance(arguments, dict):
        return None
    head = _HEAD.match(spelled)
    if head is None:
        return name, json.dumps(arguments, ensure_ascii=False)
    rest = spelled[head.end() :]
    return name, rest[: ObjectScanner().feed(rest)]


def may_be_call(beginning: str, names: Collection[str]) -> bool:
    """Whether an object that begins so may be a call, or hold a list of calls.

    Args:
        beginning: from its brace on, as far as it is known.
        names: functions that may be called.
    """
    rest = beginning[1:].lstrip()
    key = next((key for key in _KEYS if rest.startswith(f'"{key}"')), None)
    if key is None:
        return any(f'"{one}"'.startswith(rest) for one in _KEYS)
    rest = rest[len(key) + 2 :].lstrip()
    if key != "name" or not rest:
        return rest[:1] in ("", ":")
    value = rest[1:].lstrip()
    spelled = [json.dumps(name) for name in names]
    return rest[0] == ":" and any(one.startswith(value) or value.startswith(one) for one in spelled)


def loads(text: str) -> Any:
    """The JSON value that ``text`` is; None where it is not one."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
