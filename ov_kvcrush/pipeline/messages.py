"""The messages of a conversation: checked, and made what every chat template can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ov_kvcrush.errors import PromptError

_ROLES = frozenset({"system", "user", "assistant", "tool"})
# The longest word near the beginning of a text is what it is looked for by.
_WORD = re.compile(r"[A-Za-z0-9]+")
_SEARCHED = 500


def require_utf8(*texts: str) -> None:
    """Raise PromptError for a text with half characters, as Python makes them of bad bytes."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text cannot be written as UTF-8: half a character at position {error.start}",
                "Check the encoding of what was read or typed, and the locale "
                "(for instance LANG=C.UTF-8).",
            ) from None


def read_messages(messages: Sequence[object], template: str) -> list[dict[str, Any]]:
    """``messages`` as new dicts whose content is text and whose role ``template`` can tell.

    Text parts are joined by line breaks. An assistant's missing content is empty, since it may have
    called a tool instead. ``developer`` is ``system`` to templates that do not know it.

    Raises:
        PromptError: there is none; one is not a mapping, has no content or no text in it, a role
            that ``template`` does not name, or a text that is not one.
    """
    if not messages:
        raise PromptError("the conversation has no message", "Give it one of the role user.")
    read = [_read(number, message, template) for number, message in enumerate(messages, start=1)]
    require_utf8(*texts_in(read))
    return read


def texts_in(value: object) -> Iterator[str]:
    """Every text in a JSON value, keys too."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            waiting += one


def require_all_rendered(messages: Sequence[Mapping[str, Any]], rendered: str) -> None:
    """Raise PromptError for a message that a template has left out without a word.

    Those of user and assistant are not looked for: they are what templates are for, and of an
    assistant's some leave the reasoning out.
    """
    for message in messages:
        words = _WORD.findall(message["content"][:_SEARCHED])
        if message["role"] in ("user", "assistant") or not words:
            continue
        if max(words, key=len) not in rendered:
            raise PromptError(
                f"the model's chat template leaves out what has the role {message['role']!r}",
                "Say it in a message of the role user.",
            )


def _read(number: int, message: object, template: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise PromptError(
            f"message {number} is not a mapping of role and content, but {message!r:.40}",
            'A message is for instance {"role": "user", "content": "Hello"}.',
        )
    role = _read_role(number, message.get("role"), template)
    _require_json({name: value for name, value in message.items() if name != "content"}, number)
    return {**message, "role": role, "content": _read_content(number, role, message)}


def _require_json(more: Mapping[str, object], number: int) -> None:
    try:
        json.dumps(more, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise PromptError(f"message {number} holds what is not a JSON value: {error}") from None


def _read_role(number: int, role: object, template: str) -> str:
    if isinstance(role, str):
        if role in _ROLES or (role and _names(template, role)):
            return role
        if role == "developer":
            return "system"
    known = "The model's chat template reads system, user, assistant and tool."
    if role is None:
        raise PromptError(f"message {number} has no role", known)
    raise PromptError(f"message {number} has an unknown role: {role!r:.40}", known)


def _names(template: str, role: str) -> bool:
    return f"'{role}'" in template or f'"{role}"' in template


def _read_content(number: int, role: str, message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if content is None and role == "assistant":
        return ""
    if content is None:
        raise PromptError(f"message {number}, of the role {role}, has no content")
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "\n".join(_read_part(number, part) for part in content)
    raise PromptError(
        f"the content of message {number} is not text, but {content!r:.40}",
        "Give a text, or a list of parts of the type text.",
    )


def _read_part(number: int, part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text":
        text = part.get("text")
        if isinstance(text, str):
            return text
    what = part.get("type") if isinstance(part, Mapping) else part
    raise PromptError(
        f"message {number} has a part that is not text: {what!r:.40}",
        'This model reads text: {"type": "text", "text": "Hello"}.',
    )
