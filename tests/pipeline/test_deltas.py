"""Answers in pieces with their tokens, log probabilities and what was likely in their place."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import Tokenizer

from ov_kvcrush import AsyncLLMPipeline, DecodedResults, KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.pipeline.deltas import Delta, DeltaReader
from ov_kvcrush.runtime.generation.progress import Progress
from tests.support.answers import decoded, encoded
from tests.support.coroutines import run
from tests.support.engines import F32
from tests.support.pipelines import TEXT

SETTINGS: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def sync(needle_f32_dir: Path) -> LLMPipeline:
    return LLMPipeline(needle_f32_dir, "CPU", F32, kv_cache_config=KVCacheConfig(pool_size=2048))


@pytest.fixture(scope="module")
def tokenizer(sync: LLMPipeline) -> Tokenizer:
    return sync.get_tokenizer()


@pytest.fixture
def pipeline(sync: LLMPipeline) -> Iterator[AsyncLLMPipeline]:
    pipeline = AsyncLLMPipeline(sync)
    yield pipeline
    pipeline.close()


def ask(pipeline: AsyncLLMPipeline, **settings: Any) -> tuple[list[Delta], DecodedResults]:
    async def serve() -> tuple[list[Delta], DecodedResults]:
        answer = pipeline.generate(TEXT, **{**SETTINGS, **settings})
        return [delta async for delta in answer.deltas()], await answer

    return run(serve())


def assert_the_answer(deltas: list[Delta], results: DecodedResults) -> None:
    assert "".join(delta.text for delta in deltas) == results.texts[0]
    assert [token for delta in deltas for token in delta.token_ids] == results.tokens[0]
    assert [one for delta in deltas for one in delta.log_probs] == results.log_probs[0]
    assert [top for delta in deltas for top in delta.top] == results.top[0]
    assert all(delta.text for delta in deltas[:-1])


def test_deltas_are_the_answer_with_its_tokens(pipeline: AsyncLLMPipeline) -> None:
    deltas, results = ask(pipeline)
    assert_the_answer(deltas, results)
    assert len(deltas) > 10
    assert len(results.tokens[0]) == 24
    assert results.log_probs[0] == [0.0] * 24  # greedy, and not asked for
    assert results.top[0] == [()] * 24


def test_the_likeliest_tokens_of_each_place_are_told_on_request(
    pipeline: AsyncLLMPipeline,
) -> None:
    deltas, results = ask(pipeline, logprobs=5, repetition_penalty=1.3)
    assert_the_answer(deltas, results)
    for token, log_prob, top in zip(
        results.tokens[0], results.log_probs[0], results.top[0], strict=True
    ):
        assert len(top) == 5
        values = [value for _, value in top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-6
        assert log_prob <= values[0] < 0
        assert dict(top).get(token, log_prob) == log_prob
    # The penalty chose others than the model's own likeliest.
    assert [top[0][0] for top in results.top[0]] != results.tokens[0]
    assert results.scores[0] == pytest.approx(sum(results.log_probs[0]))


def test_results_of_a_pipeline_tell_the_same(sync: LLMPipeline, pipeline: AsyncLLMPipeline) -> None:
    _, results = ask(pipeline, logprobs=3)
    mine = decoded(sync.generate([TEXT], logprobs=3, **SETTINGS))
    assert (mine.tokens, mine.log_probs, mine.top) == (
        results.tokens,
        results.log_probs,
        results.top,
    )
    ids = sync.get_tokenizer().encode(TEXT).input_ids
    of_ids = encoded(sync.generate(ids, logprobs=3, **SETTINGS))
    assert len(of_ids.log_probs[0]) == len(of_ids.top[0]) == len(of_ids.tokens[0])


def test_a_stop_string_leaves_its_tokens_out(pipeline: AsyncLLMPipeline) -> None:
    text = ask(pipeline)[1].texts[0]
    for begin in range(3, 12):
        for included in (False, True):
            deltas, results = ask(
                pipeline,
                stop_strings={text[begin : begin + 5]},
                include_stop_str_in_output=included,
                logprobs=2,
            )
            assert_the_answer(deltas, results)
            assert len(results.texts[0]) <= begin + 5 * included


def test_more_than_twenty_are_refused(pipeline: AsyncLLMPipeline) -> None:
    with pytest.raises(ConfigError, match="at most 20"):
        pipeline.generate(TEXT, logprobs=21)


def test_deltas_are_read_once(pipeline: AsyncLLMPipeline) -> None:
    async def serve() -> None:
        answer = pipeline.generate(TEXT, **SETTINGS)
        async for _ in answer:
            break
        with pytest.raises(ConfigError, match="once"):
            async for _ in answer.deltas():
                pass

    run(serve())


def test_the_genai_engine_tells_log_probabilities_and_no_others(needle_f32_dir: Path) -> None:
    async def serve() -> tuple[list[Delta], DecodedResults]:
        async with AsyncLLMPipeline(needle_f32_dir, "CPU", F32, engine="genai") as pipeline:
            answer = pipeline.generate(TEXT, logprobs=1, **SETTINGS)
            return [delta async for delta in answer.deltas()], await answer

    deltas, results = run(serve())
    assert_the_answer(deltas, results)
    assert max(results.log_probs[0]) < 0
    assert results.top[0] == [()] * 24


# ------------------------------------------------------------------ which tokens with which text


def read(
    tokenizer: Tokenizer, tokens: list[int], text_end: int | None = None
) -> list[tuple[str, tuple[int, ...]]]:
    """Text and tokens of each delta, token by token."""
    reader = DeltaReader(tokenizer)
    news = [Progress([token], [0.0], [()], n + 1, None, False) for n, token in enumerate(tokens)]
    news.append(Progress([], [], [], len(tokens), text_end, True))
    deltas = [reader.read(one) for one in news]
    return [(delta.text, delta.token_ids) for delta in deltas if delta is not None]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    return ids


def test_the_parts_of_a_character_come_with_it(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "a世b")
    assert len(tokens) > 3
    first, *parts, last = tokens
    assert read(tokenizer, tokens) == [("a", (first,)), ("世", tuple(parts)), ("b", (last,))]


def test_half_a_character_at_the_end_is_shown_as_one(tokenizer: Tokenizer) -> None:
    tokens = encode(tokenizer, "a世")[:-1]
    assert read(tokenizer, tokens) == [("a", (tokens[0],)), ("\ufffd", tuple(tokens[1:]))]


def test_a_token_without_text_comes_with_the_next_text_or_at_the_end(
    tokenizer: Tokenizer,
) -> None:
    a, user, b = encode(tokenizer, "a<|user|>b")
    assert read(tokenizer, [a, user, b]) == [("a", (a,)), ("b", (user, b))]
    assert read(tokenizer, [a, user]) == [("a", (a,)), ("", (user,))]
