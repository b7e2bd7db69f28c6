"""Chats and prefixes that were cut by head, loaded where the heads of a layer have one budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.cli.chat.session_file import load_chat
from ov_kvcrush.errors import SessionError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from tests.support.pipelines import engine_in
from tests.support.texts import rooms

BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)
TEXT = rooms(60)
ENDLESS: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True}


@pytest.fixture(scope="module")
def pipe(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=BUDGET)


@pytest.fixture(scope="module")
def together(needle_int8_dir: Path) -> LLMPipeline:
    """Where the heads of a layer have one budget."""
    return LLMPipeline(needle_int8_dir, kv_cache_config=replace(BUDGET, head_budgets="off"))


def test_a_chat_cut_by_head_is_read_anew_where_heads_are_together_and_says_why(
    pipe: LLMPipeline, together: LLMPipeline, tmp_path: Path
) -> None:
    path, chat = tmp_path / "chat.safetensors", pipe.chat()
    chat.ask(TEXT, **ENDLESS)
    pipe.save_session(path, chat)
    stored = path.read_bytes()
    loaded, note = load_chat(together, path)
    assert "without a KV cache" in note
    assert "other budgets for KV heads" in note
    assert "\n" not in note
    metrics = loaded.ask("And room 7?", **ENDLESS).metrics[0]
    assert "other budgets for KV heads" in metrics.restarted
    assert path.read_bytes() == stored
    loaded.close()
    again = pipe.load_session(path)
    assert isinstance(again, Chat)
    assert again.session.token_ids == chat.session.token_ids
    for one in (chat, again):
        one.close()


def test_saving_what_was_loaded_without_its_cache_keeps_the_cache_in_the_file(
    pipe: LLMPipeline, together: LLMPipeline, tmp_path: Path
) -> None:
    path, chat = tmp_path / "chat.safetensors", pipe.chat()
    chat.ask(TEXT, **ENDLESS)
    pipe.save_session(path, chat)
    stored = path.read_bytes()
    loaded = together.load_session(path)
    assert isinstance(loaded, Chat)
    for overwrite in (False, True):
        assert together.save_session(path, loaded, overwrite=overwrite).is_as_it_was
        assert path.read_bytes() == stored
    copy = together.save_session(tmp_path / "copy.safetensors", loaded)
    assert not copy.is_as_it_was
    loaded.ask("And room 7?", **ENDLESS)
    saved = together.save_session(path, loaded)
    assert not saved.is_as_it_was
    assert saved.num_kept > 0
    for one in (chat, loaded):
        one.close()


def test_a_cache_cut_by_layer_fits_a_pool_that_holds_its_bytes(
    together: LLMPipeline, needle_int8_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prefix.safetensors"
    with together.cache_prefix(TEXT) as prefix:
        kept = together.save_session(path, prefix).num_kept
        sequence = prefix.session.sequence
        assert sequence is not None
        assert max(layer.length for layer in sequence.layers) > kept + 32
    small = replace(BUDGET, pool_size=kept + 64)
    pipe = LLMPipeline(needle_int8_dir, kv_cache_config=small)
    loaded = pipe.load_session(path)
    assert isinstance(loaded, CachedPrefix)
    with loaded:
        assert loaded.session.sequence is not None
        assert loaded.session.sequence.num_kept == kept
    assert used_bytes(pipe) == 0


def test_a_prefix_cut_by_head_is_refused_where_heads_are_together(
    pipe: LLMPipeline, together: LLMPipeline, tmp_path: Path
) -> None:
    path = tmp_path / "prefix.safetensors"
    with pipe.cache_prefix(TEXT) as prefix:
        pipe.save_session(path, prefix)
    stored, before = path.read_bytes(), used_bytes(together)
    with pytest.raises(SessionError, match="other budgets for KV heads") as caught:
        together.load_session(path)
    assert "\n" not in caught.value.message
    assert "head budgets" in caught.value.hint
    assert used_bytes(together) == before
    assert path.read_bytes() == stored


def used_bytes(pipe: LLMPipeline) -> int:
    engine_in(pipe).check_integrity()
    return int(pipe.get_metrics()["kv_cache"]["used_bytes"])
