"""A conversation as a JSON file: messages and settings, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.files import parse_json, read_text, write_text
from ov_kvcrush.pipeline.saving import are_messages
from ov_kvcrush.runtime.session_files.session_lock import session_lock

FORMAT = "ov-kvcrush-conversation"
VERSION = 1


def write_conversation(
    path: Path,
    messages: list[dict[str, str]],
    settings: Mapping[str, Any],
    seen: dict[Path, str],
) -> None:
    """Write to ``path``; a file that is there is replaced if it is a conversation and was ``seen``.

    Args:
        path: of the file.
        messages: role and content of each.
        settings: by name.
        seen: digest of each file when it was last read or written here; ``path`` is noted there.

    Raises:
        OVKVCrushError: ``path`` is another kind of file, holds what was not seen, or cannot be
            written.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "messages": messages,
        "generation_config": dict(settings),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    place = Path(os.path.realpath(path))
    with session_lock(path):
        if os.path.exists(path):
            found: dict[Path, str] = {}
            try:
                read_conversation(path, found)
            except OVKVCrushError:
                raise OVKVCrushError(
                    f"{path} exists and is not a saved conversation", "Choose another name."
                ) from None
            if found[place] != seen.get(place):
                raise OVKVCrushError(
                    f"{path} holds another conversation", "Choose another name, or /load it first."
                )
        write_text(path, text)
    seen[place] = _digest(text)


def read_conversation(
    path: Path, seen: dict[Path, str]
) -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Messages and settings in ``path``, which is noted in ``seen``.

    Raises:
        OVKVCrushError: it cannot be read, or is not a conversation of this format.
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise _not_a_conversation(path, f"it is not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _not_a_conversation(path, f'it has no "format": "{FORMAT}"')
    if content.get("version") != VERSION:
        raise _not_a_conversation(
            path, f"its version is {content.get('version')!r}; this release reads {VERSION}"
        )
    messages, settings = content.get("messages"), content.get("generation_config")
    if not are_messages(messages):
        raise _not_a_conversation(path, "its messages are not objects of role and content")
    if not _take_turns([message["role"] for message in messages]):
        raise _not_a_conversation(path, "its questions and answers do not take turns")
    if not isinstance(settings, dict):
        raise _not_a_conversation(path, "its generation_config is not an object")
    seen[Path(os.path.realpath(path))] = _digest(text)
    return messages, settings


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _take_turns(roles: list[str]) -> bool:
    turns = roles[1:] if roles[:1] == ["system"] else roles
    return turns == ["user", "assistant"] * (len(turns) // 2)


def _not_a_conversation(path: Path, reason: str) -> OVKVCrushError:
    return OVKVCrushError(f"{path} is not a saved conversation: {reason}")
