"""``cache_prefix``: a text is read once, and questions about it are answered as if with it."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import ChatHistory

from ov_kvcrush import AsyncLLMPipeline, KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError, PromptError, UnsupportedError
from ov_kvcrush.pipeline.cached_prefix import CachedPrefix
from ov_kvcrush.pipeline.reading import ReadingProgress
from tests.support.answers import decoded
from tests.support.coroutines import run
from tests.support.engines import F32
from tests.support.pipelines import engine_in
from tests.support.texts import document

DOCUMENT = f"{document(2)}\n\n"
QUESTIONS = [f"What is the number of room {n}?" for n in (3, 17, 40)]
SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}


@pytest.fixture(scope="module")
def pipe(needle_f32_dir: Path) -> LLMPipeline:
    config = KVCacheConfig(prefix_caching=False)
    return LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=config)


@pytest.fixture(scope="module")
def read(pipe: LLMPipeline) -> list[str]:
    """What the questions are answered where the document is read with each."""
    return [str(pipe.generate(DOCUMENT + question, **SETTINGS)) for question in QUESTIONS]


def used_bytes(pipe: LLMPipeline) -> int:
    return int(pipe.get_metrics()["kv_cache"]["used_bytes"])


def test_questions_behind_a_prefix_are_answered_alike(pipe: LLMPipeline, read: list[str]) -> None:
    with pipe.cache_prefix(DOCUMENT) as prefix:
        assert [pipe.generate(q, prefix=prefix, **SETTINGS) for q in QUESTIONS] == read
        reused = pipe.get_metrics()["last"][0]["num_reused_tokens"]
        assert reused == len(prefix.token_ids)
        assert decoded(pipe.generate(QUESTIONS, prefix=prefix, **SETTINGS)).texts == read
        assert pipe.get_metrics()["kv_cache"]["prefixes_bytes"] == used_bytes(pipe) > 0
    assert used_bytes(pipe) == 0


def test_a_chat_behind_a_prefix_reads_only_its_questions(
    pipe: LLMPipeline, read: list[str]
) -> None:
    with pipe.cache_prefix(DOCUMENT, "You read numbers.") as prefix:
        chat = pipe.chat(prefix=prefix)
        assert chat.messages[0] == {"role": "system", "content": "You read numbers."}
        first = chat.ask(QUESTIONS[0], **SETTINGS)
        plain = pipe.chat("You read numbers.")
        assert plain.ask(DOCUMENT + QUESTIONS[0], **SETTINGS).texts == first.texts
        assert first.metrics[0].num_reused_tokens == len(prefix.token_ids)
        assert chat.ask(QUESTIONS[1], **SETTINGS).metrics[0].restarted == ""
        chat.close()
        plain.close()


def test_a_crushed_prefix_keeps_to_the_budget(needle_f32_dir: Path) -> None:
    config = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24)
    pipe = LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=config)
    prefix = pipe.cache_prefix(DOCUMENT)
    assert prefix.metrics is not None
    assert prefix.metrics.num_prompt_tokens > 300
    assert prefix.metrics.kv_tokens <= 96
    first = [pipe.generate(q, prefix=prefix, **SETTINGS) for q in QUESTIONS]
    assert first == [pipe.generate(q, prefix=prefix, **SETTINGS) for q in QUESTIONS]
    assert pipe.get_metrics()["sequences"]["prefix_hits"] == 6
    held = pipe.get_metrics()["kv_cache"]["prefixes_bytes"]
    own = prefix.metrics.kv_bytes
    del prefix
    gc.collect()
    assert pipe.get_metrics()["kv_cache"]["prefixes_bytes"] == held - own


def test_an_edited_chat_that_was_cut_since_begins_with_its_prefix_again(
    needle_int8_dir: Path,
) -> None:
    config = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24)
    pipe = LLMPipeline(needle_int8_dir, kv_cache_config=config)
    with pipe.cache_prefix(DOCUMENT) as prefix:
        chat = pipe.chat(prefix=prefix)
        chat.ask(QUESTIONS[0], **SETTINGS)
        chat.ask(document(3), **SETTINGS)
        asked, answer = chat.messages[:2]
        chat.replace_messages([asked, {**answer, "content": "I do not know."}])
        (metrics,) = chat.ask(QUESTIONS[1], **SETTINGS).metrics
        assert "differs from the cached one" in metrics.restarted
        assert metrics.num_reused_tokens == len(prefix.token_ids)
        # What does not begin with it any more is read without.
        chat.replace_messages([{**asked, "content": QUESTIONS[0]}, answer])
        assert chat.ask(QUESTIONS[1], **SETTINGS).metrics[0].num_reused_tokens < 32
        chat.close()
    engine_in(pipe).check_integrity()


def test_many_ask_at_once(pipe: LLMPipeline, read: list[str]) -> None:
    async def serve() -> list[str]:
        async with AsyncLLMPipeline(pipe) as server:
            prefix = await server.cache_prefix(DOCUMENT)
            answers = [server.generate(q, prefix=prefix, **SETTINGS) for q in QUESTIONS]
            history = ChatHistory([{"role": "user", "content": DOCUMENT + QUESTIONS[0]}])
            answers.append(server.generate(history, prefix=prefix, **SETTINGS))
            texts = [(await answer).texts[0] for answer in answers]
            await server.close_session(prefix.session)
            return texts

    assert run(serve()) == [*read, read[0]]
    assert used_bytes(pipe) == 0


def test_mistakes_are_told(pipe: LLMPipeline, needle_f32_dir: Path) -> None:
    with pytest.raises(PromptError, match="text of a prefix is empty"):
        pipe.cache_prefix("")
    with pipe.cache_prefix("Some text. ") as prefix:
        with pytest.raises(ConfigError, match="system message the prefix was made with"):
            pipe.chat("Another one.", prefix=prefix)
        with pytest.raises(PromptError, match="neither a text"):
            pipe.generate(7, prefix=prefix)
    with pytest.raises(PromptError, match="closed"):
        pipe.generate("What?", prefix=prefix)
    assert used_bytes(pipe) == 0
    theirs = LLMPipeline(needle_f32_dir, engine="genai")
    for thorough in (False, True):
        with pytest.raises(UnsupportedError, match="keeps no prefixes"):
            theirs.cache_prefix("Some text. ", thorough=thorough)
    with pytest.raises(ConfigError, match="nothing is evicted"):
        pipe.cache_prefix("Some text. ", thorough=True)
    assert used_bytes(pipe) == 0


def test_one_that_was_read_twice_is_asked_saved_and_loaded(
    needle_f32_dir: Path, tmp_path: Path
) -> None:
    config = KVCacheConfig(max_cache_size=256, prefix_caching=False)
    pipe, path = LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=config), tmp_path / "d"
    reading: list[ReadingProgress] = []
    with pipe.cache_prefix(DOCUMENT, progress=reading.append, thorough=True) as prefix:
        assert reading[-1].share == 1
        answers = [str(pipe.generate(q, prefix=prefix, **SETTINGS)) for q in QUESTIONS]
        pipe.save_session(path, prefix)

    async def ask() -> list[str]:
        async with AsyncLLMPipeline(pipe) as serving:
            twice = await serving.cache_prefix(DOCUMENT, thorough=True)
            assert twice.thorough
            loaded = await serving.load_session(path)
            assert isinstance(loaded, CachedPrefix)
            assert loaded.thorough
            results = [
                (await serving.generate(q, prefix=one, **SETTINGS)).texts[0]
                for one in (twice, loaded)
                for q in QUESTIONS
            ]
            await serving.close_session(twice.session)
            await serving.close_session(loaded.session)
            return results

    assert run(ask()) == 2 * answers
    assert used_bytes(pipe) == 0


def test_a_chat_of_many_turns_holds_no_more_than_of_few(needle_int8_dir: Path) -> None:
    config = KVCacheConfig(max_cache_size=128, start_size=16, recent_size=32, decode_slack=64)
    pipe = LLMPipeline(needle_int8_dir, kv_cache_config=config)
    system = "You keep the numbers of rooms. " * 8
    pipe.chat(system).ask("Are you there?", max_new_tokens=4)
    chat, held = pipe.chat(system), list[int]()
    for turn in range(80):
        answer = chat.ask(f"Room {turn} is {turn * 37 % 997}. Say so.", max_new_tokens=8)
        assert answer.metrics[0].restarted == ""
        assert (answer.metrics[0].num_reused_tokens > 0) or turn
        held.append(used_bytes(pipe))
    assert max(held[40:]) <= max(held[10:40])
    assert pipe.get_metrics()["sequences"]["prefix_hits"] >= 1
    chat.close()
    engine_in(pipe).check_integrity()
