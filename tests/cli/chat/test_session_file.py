"""``/save`` and ``/load`` of a session: the conversation with its cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli.chat.conversation import Conversation
from ov_kvcrush.errors import SessionError
from tests.support.pipelines import engine_in
from tests.support.screens import SETTINGS, FakeScreen
from tests.support.texts import rooms

TEXT = rooms(60)
CONFIG = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=CONFIG)


@pytest.fixture
def screen(pipeline: LLMPipeline) -> Iterator[FakeScreen]:
    screen = FakeScreen(Conversation(pipeline, SETTINGS))
    yield screen
    screen.conversation.clear()


def test_a_saved_session_goes_on_without_reading(
    screen: FakeScreen, pipeline: LLMPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask(TEXT)
    saved = screen.do(f"/save {file}")
    cache = re.search(rf"Saved 2 messages with (.*), to {file}: [\d.]+ MB", saved)
    assert cache is not None
    assert re.fullmatch(r"the KV cache, \d+ of \d+ tokens", cache[1])
    other = FakeScreen(Conversation(pipeline, {"max_new_tokens": 5}))
    other.ask("Something else")
    assert other.do(f"/load {file}") == f"Loaded 2 messages with {cache[1]}, from {file}."
    assert other.messages == screen.messages
    assert other.conversation.settings == {"max_new_tokens": 5}
    other.conversation.change_settings(SETTINGS)
    here, there = screen.ask("And room 7?"), other.ask("And room 7?")
    assert here.texts == there.texts
    assert there.metrics[0].num_reused_tokens == here.metrics[0].num_reused_tokens > 0
    other.conversation.clear()
    engine_in(pipeline).check_integrity()


def test_a_session_without_its_cache_says_so(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask("Hello")
    screen.conversation.chat.close()
    assert "without a KV cache: it had been given up" in screen.do(f"/save {file}")
    assert "The next turn reads the history anew" in screen.do(f"/load {file}")
    assert "has these 2 messages already: it stays as it is" in screen.do(f"/save {file}")
    assert screen.ask("Go on").metrics[0].num_reused_tokens == 0


def test_a_file_that_cannot_be_loaded_changes_nothing(screen: FakeScreen, tmp_path: Path) -> None:
    file = tmp_path / "talk.safetensors"
    screen.ask("Hello")
    before = list(screen.messages)
    for content in (None, b"", b"weights"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(SessionError):
            screen.do(f"/load {file}")
    with pytest.raises(SessionError, match="is not a saved session"):
        screen.do(f"/save {file}")
    assert file.read_bytes() == b"weights"
    assert screen.messages == before
    assert screen.ask("Go on").metrics[0].num_reused_tokens > 0


def test_a_conversation_leaves_a_document_behind(
    screen: FakeScreen, pipeline: LLMPipeline, tmp_path: Path
) -> None:
    file, talk = tmp_path / "rooms.safetensors", tmp_path / "talk.json"
    with pipeline.cache_prefix(f"{TEXT}\n\n") as prefix:
        pipeline.save_session(file, prefix)
    screen.ask("Hello")
    screen.do(f"/save {talk}")
    assert "holds a document of" in screen.do(f"/load {file}")
    first = screen.ask("Which is room 7?")
    assert first.metrics[0].num_reused_tokens == len(prefix.token_ids)
    screen.do("/regen")
    assert screen.results[-1].texts == first.texts
    assert screen.messages[0]["content"] == f"{TEXT}\n\nWhich is room 7?"
    screen.do(f"/load {talk}")
    assert screen.ask("Go on").metrics[0].num_reused_tokens == 0
