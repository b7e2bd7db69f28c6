"""Conversations as files: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush.cli.chat.conversation_file import (
    FORMAT,
    VERSION,
    read_conversation,
    write_conversation,
)
from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.files import read_text

MESSAGES = [
    {"role": "system", "content": "Sé breve."},
    {"role": "user", "content": "one\ntwo"},
    {"role": "assistant", "content": " three"},
]
SETTINGS = {"max_new_tokens": 7, "stop_strings": ["#"]}


def stored(**changes: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "messages": MESSAGES,
        "generation_config": {},
    } | changes


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    write_conversation(path, MESSAGES, SETTINGS, {})
    assert read_conversation(path, {}) == (MESSAGES, SETTINGS)
    assert list(tmp_path.iterdir()) == [path]


def test_a_conversation_is_written_over_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    seen: dict[Path, str] = {}
    write_conversation(path, MESSAGES, SETTINGS, seen)
    write_conversation(path, [], {}, seen)
    assert read_conversation(path, seen) == ([], {})


def test_a_conversation_that_was_not_seen_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    mine: dict[Path, str] = {}
    yours: dict[Path, str] = {}
    write_conversation(path, MESSAGES, SETTINGS, mine)
    with pytest.raises(OVKVCrushError, match="holds another conversation"):
        write_conversation(path, MESSAGES[:1], {}, yours)
    assert read_conversation(path, yours) == (MESSAGES, SETTINGS)
    write_conversation(path, MESSAGES[:1], {}, yours)
    with pytest.raises(OVKVCrushError, match="holds another conversation"):
        write_conversation(path, MESSAGES, SETTINGS, mine)
    assert read_conversation(path, {}) == (MESSAGES[:1], {})


def test_what_a_link_points_to_is_written(tmp_path: Path) -> None:
    path, link = tmp_path / "talk.json", tmp_path / "link.json"
    link.symlink_to(path)
    write_conversation(link, MESSAGES, SETTINGS, {})
    assert link.is_symlink()
    assert read_conversation(path, {}) == (MESSAGES, SETTINGS)


def test_a_file_of_another_kind_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OVKVCrushError, match="exists and is not a saved conversation"):
        write_conversation(path, MESSAGES, SETTINGS, {})
    assert path.read_text() == "mine"


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OVKVCrushError, match=r"cannot write .*nowhere"):
        write_conversation(tmp_path / "nowhere" / "talk.json", MESSAGES, SETTINGS, {})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", 'no "format"'),
        ({"messages": MESSAGES}, 'no "format"'),
        (stored(version=99), "version is 99; this release reads 1"),
        (stored(messages="hello"), "messages are not objects"),
        (stored(messages=[{"role": "user"}]), "messages are not objects"),
        (stored(messages=[{"role": "user", "content": 1}]), "messages are not objects"),
        (stored(messages=MESSAGES[:2]), "do not take turns"),
        (stored(messages=[*MESSAGES, MESSAGES[0]]), "do not take turns"),
        (stored(generation_config=[]), "generation_config is not an object"),
    ],
)
def test_anything_else_is_refused_in_one_line(
    tmp_path: Path, content: str | dict[str, Any], reason: str
) -> None:
    path = tmp_path / "talk.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(OVKVCrushError, match="is not a saved conversation: ") as caught:
        read_conversation(path, {})
    assert reason in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(OVKVCrushError, match="not a text file"):
        read_text(path)
    with pytest.raises(OVKVCrushError, match="Is a directory"):
        read_text(tmp_path)
