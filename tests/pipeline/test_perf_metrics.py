"""What a call cost in time: of sequences that run together, of several calls, of nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino_genai as genai
import pytest

from ov_kvcrush import AsyncLLMPipeline, LLMPipeline
from ov_kvcrush.pipeline.perf_metrics import PerfMetrics, RawPerfMetrics
from tests.support.answers import decoded, encoded
from tests.support.coroutines import run
from tests.support.pipelines import TEXT

NOT_MEASURED = (-1.0, -1.0)


def test_sequences_that_run_together_share_their_steps(ours: LLMPipeline) -> None:
    results = decoded(ours.generate([TEXT, "Hello"], max_new_tokens=4, ignore_eos=True))
    raw = results.perf_metrics.raw_metrics
    assert raw.m_batch_sizes == [2] * 4
    assert len(raw.m_new_token_times) == len(raw.token_infer_durations) == 4
    assert raw.m_new_token_times == sorted(raw.m_new_token_times)
    assert len(raw.m_durations) == 3 * 2
    assert len(raw.tokenization_durations) == len(raw.chat_template_durations) == 2
    assert len(raw.detokenization_durations) == len(raw.m_times_to_first_token) == 2
    assert raw.inference_durations == [pytest.approx(sum(raw.token_infer_durations))]


def test_a_prompt_of_several_sequences_counts_once(ours: LLMPipeline) -> None:
    one = decoded(ours.generate([TEXT], max_new_tokens=2)).perf_metrics
    sampled: dict[str, Any] = {"do_sample": True, "num_return_sequences": 3, "ignore_eos": True}
    three = decoded(ours.generate([TEXT], max_new_tokens=2, **sampled)).perf_metrics
    assert three.get_num_input_tokens() == one.get_num_input_tokens()
    assert three.get_num_generated_tokens() == 6


def test_what_a_call_does_not_do_is_not_measured(ours: LLMPipeline) -> None:
    ids = ours.get_tokenizer().encode([TEXT])
    metrics = encoded(ours.generate(ids, max_new_tokens=1, ignore_eos=True)).perf_metrics
    assert metrics.get_tokenization_duration() == NOT_MEASURED
    assert metrics.get_detokenization_duration() == NOT_MEASURED
    assert metrics.get_chat_template_duration() == NOT_MEASURED
    assert metrics.get_tpot() == metrics.get_throughput() == NOT_MEASURED
    assert metrics.get_grammar_compile_time() == (-1.0, -1.0, -1.0, -1.0)
    assert metrics.get_grammar_compiler_init_times() == {}


def test_a_chats_turn_is_measured(ours: LLMPipeline) -> None:
    raw = ours.chat("Be brief.").ask(TEXT, max_new_tokens=2).perf_metrics.raw_metrics
    assert len(raw.chat_template_durations) == len(raw.tokenization_durations) == 1
    assert len(raw.detokenization_durations) == 1


def test_calls_are_joined() -> None:
    first = PerfMetrics(7.0, 3, 2, RawPerfMetrics(m_durations=[1e3], generate_durations=[4e3]))
    second = PerfMetrics(7.0, 5, 1, RawPerfMetrics(m_durations=[3e3], generate_durations=[6e3]))
    joined = first
    joined += second
    assert (joined.get_num_input_tokens(), joined.get_num_generated_tokens()) == (8, 3)
    assert joined.get_load_time() == 7.0
    assert joined.get_tpot() == (2.0, 1.0)
    assert joined.get_throughput() == (500.0, 250.0)
    assert joined.get_generate_duration() == (5.0, 1.0)
    assert first.get_tpot() == (1.0, 0.0)
    with pytest.raises(TypeError):
        _ = first + 1  # type: ignore[operator]


def test_an_answer_on_its_way_is_measured_once(needle_int8_dir: Path) -> None:
    async def measured() -> list[RawPerfMetrics]:
        async with AsyncLLMPipeline(needle_int8_dir) as pipe:
            history = genai.ChatHistory([{"role": "user", "content": TEXT}])
            text, chat = (
                pipe.generate(inputs, max_new_tokens=3, ignore_eos=True)
                for inputs in (TEXT, history)
            )
            results = [await text, await chat, await text, await chat]
            return [one.perf_metrics.raw_metrics for one in results]

    for raw in run(measured()):
        assert len(raw.tokenization_durations) == len(raw.detokenization_durations) == 1
        assert len(raw.chat_template_durations) == 1
        assert raw.m_batch_sizes == [1] * 3
        assert raw.generate_durations[0] > raw.inference_durations[0] > 0
