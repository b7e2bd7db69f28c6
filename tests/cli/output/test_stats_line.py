"""The line after a turn."""

from __future__ import annotations

from typing import Any

import pytest
from openvino_genai import GenerationConfig, GenerationFinishReason

from ov_kvcrush.cli.output.stats_line import megabytes, remarks, stats_line
from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.pipeline.perf_metrics import PerfMetrics
from ov_kvcrush.pipeline.results import DecodedResults
from ov_kvcrush.runtime.generation.metrics import GenerationMetrics
from ov_kvcrush.runtime.interface import EngineDescription


def metrics(**changes: Any) -> GenerationMetrics:
    values: dict[str, Any] = {
        "token_times": [0.214, 0.2452, 0.2764],
        "num_prompt_tokens": 1972,
        "num_reused_tokens": 1840,
        "kv_tokens": 1024,
        "kv_bytes": 38_500_000,
        "kv_bytes_full": 154_000_000,
        "num_evicted_tokens": 2948,
    }
    return GenerationMetrics(**(values | changes))


def description(
    max_cache_size: int, key: str | None = "u8", decode_slack: int = 128
) -> EngineDescription:
    return EngineDescription(
        engine="paged",
        device="CPU",
        key_cache_precision=key,
        value_cache_precision=key and "u4",
        kv_bytes_per_token=1024.0,
        page_size=32,
        pool_tokens=None,
        max_num_batched_tokens=2048,
        context_length=0,
        kv_cache_config=KVCacheConfig(max_cache_size=max_cache_size, decode_slack=decode_slack),
    )


def results(
    reason: GenerationFinishReason, cost: GenerationMetrics, text: str = "blue"
) -> DecodedResults:
    return DecodedResults([text], [0.0], [reason], PerfMetrics(), [cost])


def test_a_turn_with_a_budget() -> None:
    assert stats_line(metrics(), description(1024)) == (
        "TTFT 214 ms · TPOT 31.2 ms · 1,972 in (1,840 reused) · "
        "KV 1,024 tokens (budget 1,024 + 128 slack), 38.5 MB of 154 MB, K u8 V u4, 2,948 evicted"
    )


def test_a_first_turn_without_a_budget_says_only_what_there_is() -> None:
    cost = metrics(
        token_times=[1.5], num_reused_tokens=0, num_evicted_tokens=0, kv_bytes_full=38_500_000
    )
    line = stats_line(cost, description(0, key=None))
    assert line == "TTFT 1,500 ms · 1,972 in · KV 1,024 tokens, 38.5 MB"


def test_a_cache_between_two_cuts_is_within_what_was_asked_for() -> None:
    line = stats_line(metrics(kv_tokens=295, num_evicted_tokens=0), description(256))
    assert "KV 295 tokens (budget 256 + 128 slack), 38.5 MB" in line
    line = stats_line(metrics(), description(256, decode_slack=0))
    assert "KV 1,024 tokens (budget 256), 38.5 MB" in line


def test_an_empty_answer_is_told() -> None:
    empty = [
        remarks(results(GenerationFinishReason.STOP, metrics(), text), GenerationConfig())
        for text in ("", " \n")
    ]
    assert empty == [["The answer is empty: it ended before its first word."]] * 2


def test_an_ordinary_turn_needs_no_remark() -> None:
    assert remarks(results(GenerationFinishReason.STOP, metrics()), GenerationConfig()) == []


def test_a_history_read_anew_is_told_with_its_reason() -> None:
    cost = metrics(restarted="the history differs at token 3")
    lines = remarks(results(GenerationFinishReason.STOP, cost), GenerationConfig())
    assert lines == ["The history was read anew: the history differs at token 3."]


def test_a_full_pool_is_told() -> None:
    told = [
        remarks(
            results(GenerationFinishReason.STOP, metrics(num_preemptions=n)), GenerationConfig()
        )
        for n in (1, 2)
    ]
    assert told[0] == ["The KV cache's pool was full: what was read was dropped and read anew."]
    assert told[1][0].endswith("read anew 2 times.")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_new_tokens": 3}, "max_new_tokens is 3"),
        ({"max_length": 1975}, "max_length is 1,975"),
        ({}, "the KV cache's pool is full"),
    ],
)
def test_an_answer_cut_off_says_by_what(limits: dict[str, int], reason: str) -> None:
    lines = remarks(results(GenerationFinishReason.LENGTH, metrics()), GenerationConfig(**limits))
    assert lines == [f"The answer was cut off: {reason}."]


def test_an_answer_cut_off_by_the_context_says_so() -> None:
    cost = results(GenerationFinishReason.LENGTH, metrics())
    tokens = cost.metrics[0].num_prompt_tokens + cost.metrics[0].num_generated_tokens
    lines = remarks(cost, GenerationConfig(), context_length=tokens)
    assert lines == [f"The answer was cut off: the model was made to read {tokens:,} tokens."]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 MB"), (155_648, "0.156 MB"), (99_960_000, "100 MB"), (10_200_547_328, "10,201 MB")],
)
def test_megabytes_have_three_digits_or_are_whole(num_bytes: int, text: str) -> None:
    assert megabytes(num_bytes) == text
