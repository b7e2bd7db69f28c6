"""``save_session`` and ``load_session``: chats and prefixes go on, damaged files are refused."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError, SessionError, UnsupportedError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.chat import Chat
from tests.support.damaged_sessions import DAMAGES, signed
from tests.support.pipelines import engine_in
from tests.support.session_holder import held_elsewhere
from tests.support.texts import rooms

BUDGET = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=4096)
TEXT = rooms(60)
ENDLESS: dict[str, Any] = {"max_new_tokens": 30, "ignore_eos": True}


@pytest.fixture(scope="module")
def pipe(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=BUDGET)


@pytest.fixture
def chat(pipe: LLMPipeline) -> Iterator[Chat]:
    """A chat of one turn."""
    chat = pipe.chat("Be brief.")
    chat.ask(TEXT, **ENDLESS)
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def whole(pipe: LLMPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a chat."""
    path = tmp_path_factory.mktemp("whole") / "chat.safetensors"
    chat = pipe.chat()
    chat.ask(TEXT, **ENDLESS)
    pipe.save_session(path, chat)
    chat.close()
    return path


def used_bytes(pipe: LLMPipeline) -> int:
    engine_in(pipe).check_integrity()
    return int(pipe.get_metrics()["kv_cache"]["used_bytes"])


# ------------------------------------------------------------------ chats


def test_a_chat_goes_on_where_it_was(pipe: LLMPipeline, chat: Chat, tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"
    summary = pipe.save_session(path, chat)
    assert summary.kind == "chat"
    assert summary.num_kept < summary.num_tokens
    assert summary.file_bytes == path.stat().st_size
    loaded = pipe.load_session(path)
    assert isinstance(loaded, Chat)
    assert loaded.messages == chat.messages
    here, there = (one.ask("And room 7?", **ENDLESS) for one in (chat, loaded))
    assert there.texts == here.texts
    assert there.metrics[0].num_reused_tokens == here.metrics[0].num_reused_tokens > 400
    assert loaded.take_back() == "And room 7?"
    loaded.close()


def test_the_conversation_of_start_chat_is_saved(pipe: LLMPipeline, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no conversation to save"):
        pipe.save_session(tmp_path / "chat.safetensors")
    pipe.start_chat()
    pipe.generate("Hello", max_new_tokens=3)
    pipe.save_session(tmp_path / "chat.safetensors")
    pipe.finish_chat()
    loaded = pipe.load_session(tmp_path / "chat.safetensors")
    assert isinstance(loaded, Chat)
    assert loaded.messages[0] == {"role": "user", "content": "Hello"}
    loaded.close()


def test_a_chat_whose_cache_was_given_up_is_saved_and_read_anew(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    chat.close()
    path = tmp_path / "chat.safetensors"
    assert pipe.save_session(path, chat).num_tokens == 0
    assert path.stat().st_size < 20_000
    loaded = pipe.load_session(path)
    assert isinstance(loaded, Chat)
    assert loaded.messages == chat.messages
    assert loaded.session.token_ids == []
    assert loaded.ask("And room 7?", **ENDLESS).texts == chat.ask("And room 7?", **ENDLESS).texts
    loaded.close()


def test_a_broken_off_answer_is_no_part_of_it(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    def stop(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.ask("And room 7?", streamer=stop)
    pipe.save_session(tmp_path / "chat.safetensors", chat)
    loaded = pipe.load_session(tmp_path / "chat.safetensors")
    assert isinstance(loaded, Chat)
    assert loaded.messages == chat.messages
    assert loaded.ask("And room 8?", **ENDLESS).texts == chat.ask("And room 8?", **ENDLESS).texts
    loaded.close()


# ------------------------------------------------------------------ prefixes


def test_a_prefix_answers_as_before(pipe: LLMPipeline, tmp_path: Path) -> None:
    path = tmp_path / "prefix.safetensors"
    questions = ["Which is room 3?", "Which is room 50?"]
    with pipe.cache_prefix(f"{TEXT}\n\n", "Be brief.") as prefix:
        wanted = [pipe.generate(q, prefix=prefix, **ENDLESS) for q in questions]
        assert pipe.save_session(path, prefix).kind == "prefix"
    with pipe.load_session(path) as loaded:  # type: ignore[union-attr]
        assert isinstance(loaded, CachedPrefix)
        assert (loaded.text, loaded.system_message) == (f"{TEXT}\n\n", "Be brief.")
        assert loaded.token_ids == prefix.token_ids
        assert [pipe.generate(q, prefix=loaded, **ENDLESS) for q in questions] == wanted
        chat = pipe.chat(prefix=loaded)
        assert chat.ask(questions[0], **ENDLESS).metrics[0].num_reused_tokens == len(
            loaded.token_ids
        )
        chat.close()
    used_bytes(pipe)


def test_a_chat_behind_a_prefix_goes_on_without_it(pipe: LLMPipeline, tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"
    with pipe.cache_prefix(f"{TEXT}\n\n") as prefix:
        chat = pipe.chat(prefix=prefix)
        chat.ask("Which is room 3?", **ENDLESS)
        pipe.save_session(path, chat)
        wanted = chat.ask("And room 7?", **ENDLESS).texts
        chat.close()
    loaded = pipe.load_session(path)
    assert isinstance(loaded, Chat)
    assert loaded.prefix is None
    results = loaded.ask("And room 7?", **ENDLESS)
    assert results.texts == wanted
    assert results.metrics[0].num_reused_tokens > len(prefix.token_ids)
    loaded.close()


def test_a_prefix_that_is_closed_cannot_be_saved(pipe: LLMPipeline, tmp_path: Path) -> None:
    prefix = pipe.cache_prefix(TEXT)
    prefix.close()
    with pytest.raises(SessionError, match="is closed"):
        pipe.save_session(tmp_path / "prefix.safetensors", prefix)


def test_a_prefix_of_another_chat_template_is_refused(
    pipe: LLMPipeline, needle_int8_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prefix.safetensors"
    with pipe.cache_prefix(TEXT) as prefix:
        pipe.save_session(path, prefix)
    signed(lambda _, content, __: content["about"].update(system_message="Be brief."))(path)
    before = used_bytes(pipe)
    with pytest.raises(SessionError, match="another tokenizer or chat template"):
        pipe.load_session(path)
    assert used_bytes(pipe) == before


def test_the_first_question_behind_a_prefix_can_be_taken_back(pipe: LLMPipeline) -> None:
    with pipe.cache_prefix(TEXT) as prefix:
        chat = pipe.chat(prefix=prefix)
        chat.ask(" Which is room 3?", max_new_tokens=3)
        assert chat.take_back() == " Which is room 3?"
        with pytest.raises(ConfigError, match="the system message the prefix was made with"):
            chat.set_system_message("Be brief.")
        chat.close()


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(
    pipe: LLMPipeline, whole: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "chat.safetensors"
    shutil.copy(whole, path)
    damage, message = DAMAGES[name]
    damage(path)
    before = used_bytes(pipe)
    with pytest.raises(SessionError) as caught:
        pipe.load_session(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert used_bytes(pipe) == before


def test_a_signed_file_without_damage_is_loaded(
    pipe: LLMPipeline, whole: Path, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"
    shutil.copy(whole, path)
    signed(lambda *_: None)(path)
    loaded = pipe.load_session(path)
    assert isinstance(loaded, Chat)
    loaded.close()


def test_any_flipped_byte_is_found(pipe: LLMPipeline, whole: Path, tmp_path: Path) -> None:
    path, content = tmp_path / "chat.safetensors", whole.read_bytes()
    for place in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with pytest.raises(SessionError):
            pipe.load_session(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(pipe: LLMPipeline, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"
    shutil.copy(whole, path)
    path.chmod(0)
    with pytest.raises(SessionError, match="Permission denied"):
        pipe.load_session(path)


def test_only_a_session_of_the_same_kind_is_replaced(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("weights, say")
    with pytest.raises(SessionError, match="exists and is not a saved session"):
        pipe.save_session(path, chat)
    assert path.read_text() == "weights, say"
    with pipe.cache_prefix(TEXT) as prefix:
        pipe.save_session(path, prefix, overwrite=True)
        pipe.save_session(path, prefix)
    with pytest.raises(SessionError, match="a saved prefix and is not replaced by a chat"):
        pipe.save_session(path, chat)
    pipe.save_session(path, chat, overwrite=True)
    assert os.listdir(tmp_path) == [path.name]


def test_what_another_chat_has_stored_is_not_replaced(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"
    pipe.save_session(path, chat)
    first, second = pipe.load_session(path), pipe.load_session(path)
    assert isinstance(first, Chat)
    assert isinstance(second, Chat)
    for one in (first, second):
        one.ask("And room 7?", **ENDLESS)
    pipe.save_session(path, first)
    first.ask("And room 8?", **ENDLESS)
    pipe.save_session(path, first)  # its own
    stored = path.read_bytes()
    for late in (second, chat):
        with pytest.raises(SessionError, match="was changed by another chat since"):
            pipe.save_session(path, late)
    stranger = pipe.chat()
    stranger.ask("Hello", max_new_tokens=2)
    with pytest.raises(SessionError, match="holds another chat"):
        pipe.save_session(path, stranger)
    assert path.read_bytes() == stored
    pipe.save_session(path, second, overwrite=True)
    pipe.save_session(path, second)
    path.unlink()
    pipe.save_session(path, first)  # nothing is lost by it
    for one in (first, second, stranger):
        one.close()


def test_a_chat_that_takes_back_its_answer_may_replace_what_it_saved(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    path, link = tmp_path / "chat.safetensors", tmp_path / "link.safetensors"
    link.symlink_to(path)
    pipe.save_session(path, chat)
    chat.take_back()
    chat.ask("Something else", **ENDLESS)
    pipe.save_session(link, chat)
    loaded = pipe.load_session(path)
    assert isinstance(loaded, Chat)
    assert loaded.messages == chat.messages
    loaded.close()


def test_a_file_that_another_process_holds_is_refused(
    pipe: LLMPipeline, chat: Chat, tmp_path: Path
) -> None:
    path = tmp_path / "chat.safetensors"
    with held_elsewhere(path):
        for overwrite in (False, True):
            with pytest.raises(SessionError, match="is in use by another program"):
                pipe.save_session(path, chat, overwrite=overwrite)
    pipe.save_session(path, chat)
    assert os.listdir(tmp_path) == [path.name]


def test_what_is_no_session_is_not_saved(pipe: LLMPipeline, tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"
    with pytest.raises(SessionError, match="nothing has been said yet"):
        pipe.save_session(path, pipe.chat("Be brief."))
    with pytest.raises(ConfigError, match="not a str"):
        pipe.save_session(path, "Hello")  # type: ignore[arg-type]
    assert not path.exists()


def test_a_folder_that_does_not_exist(pipe: LLMPipeline, chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="No such file"):
        pipe.save_session(tmp_path / "nowhere" / "chat.safetensors", chat)


def test_a_link_is_followed(pipe: LLMPipeline, chat: Chat, tmp_path: Path) -> None:
    path, link = tmp_path / "chat.safetensors", tmp_path / "link.safetensors"
    pipe.save_session(path, chat)
    link.symlink_to(path)
    pipe.save_session(link, chat)
    assert link.is_symlink()
    assert sorted(os.listdir(tmp_path)) == [path.name, link.name]


def test_the_genai_engine_keeps_none(needle_int8_dir: Path, whole: Path, tmp_path: Path) -> None:
    pipe = LLMPipeline(needle_int8_dir, engine="genai")
    chat = pipe.chat()
    chat.ask("Hello", max_new_tokens=2)
    with pytest.raises(UnsupportedError, match="genai engine keeps no cache"):
        pipe.save_session(tmp_path / "chat.safetensors", chat)
    with pytest.raises(UnsupportedError, match="genai engine keeps no cache"):
        pipe.load_session(whole)
