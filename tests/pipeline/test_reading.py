"""How far a prompt has been read: told before it begins, as it goes on, and of what is new only."""

from __future__ import annotations

from pathlib import Path

import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.pipeline.reading import ReadingProgress
from tests.support.texts import rooms

CONFIG = KVCacheConfig(max_cache_size=96, start_size=8, recent_size=24, pool_size=8192)
TEXT = rooms(120)


@pytest.fixture(scope="module")
def pipeline(needle_int8_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_int8_dir, kv_cache_config=CONFIG)


def test_a_prefix_tells_every_step_from_nothing_to_all_of_it(pipeline: LLMPipeline) -> None:
    told: list[ReadingProgress] = []
    with pipeline.cache_prefix(TEXT, progress=told.append) as prefix:
        num_tokens = len(prefix.token_ids)
    assert [one.num_tokens for one in told] == [num_tokens] * len(told)
    assert told[0].num_read == 0
    assert told[-1].num_read == num_tokens
    assert [one.num_read for one in told] == sorted({one.num_read for one in told})
    assert len(told) > 2


def test_a_turn_tells_of_what_is_new_only(pipeline: LLMPipeline) -> None:
    chat = pipeline.chat()
    chat.ask(TEXT, max_new_tokens=2)
    told: list[ReadingProgress] = []
    (cost,) = chat.ask(TEXT, max_new_tokens=2, progress=told.append).metrics
    chat.close()
    assert cost.num_reused_tokens > 500
    assert told[0].num_tokens == cost.num_prompt_tokens - cost.num_reused_tokens
    assert told[0].num_read == 0
    assert told[-1].share == 1


def test_an_answer_is_after_all_of_its_prompt(pipeline: LLMPipeline) -> None:
    read_at_first_piece: list[float] = []
    told: list[ReadingProgress] = []
    pipeline.chat().ask(
        TEXT,
        max_new_tokens=4,
        ignore_eos=True,
        streamer=lambda _: read_at_first_piece.append(told[-1].share),
        progress=told.append,
    )
    assert set(read_at_first_piece) == {1}


def test_an_engine_that_tells_nothing_meanwhile_tells_the_end(needle_int8_dir: Path) -> None:
    told: list[ReadingProgress] = []
    chat = LLMPipeline(needle_int8_dir, engine="genai").chat()
    chat.ask("Hello", max_new_tokens=2, progress=told.append)
    assert told[0].num_read == 0
    assert told[-1].share == 1


def test_nothing_to_read_is_all_of_it() -> None:
    assert ReadingProgress(0, 0, 0.0).share == 1
    assert ReadingProgress(0, 9, 0.0).tokens_per_second == 0
    assert ReadingProgress(6, 9, 3.0).tokens_per_second == 2
