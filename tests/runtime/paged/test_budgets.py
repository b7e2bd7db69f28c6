"""Budgets of layers, in bytes and while a prompt is read: what is held, and when it is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import (
    EXACT,
    TOKEN,
    bare_engine,
    finish,
    greedy,
    prompt_of,
    read_prompt,
    sequence_of,
)
from tests.support.model_factory import precisions_of, replanned

PROMPT = prompt_of(400, 3)


def test_layers_hold_what_their_shares_say_and_the_pool_what_they_hold(
    needle_int8_dir: Path,
) -> None:
    shares = (1, 1, 1, 1, 1, 1, 7, 3)
    engine = bare_engine(needle_int8_dir, **TOKEN, layer_budgets=shares, pool_size=512)
    lengths = [layer.length for layer in read_prompt(engine, PROMPT).layers]
    # 8 * 60 tokens between start and recent, 16 parts.
    assert lengths == [40 + 30 * share for share in shares]
    pool = engine.cache.pool
    assert [pool.num_used(n) for n in range(8)] == [-(-length // 32) for length in lengths]
    assert pool.num_free(6) >= 512 // 32 * 3
    assert pool.max_bytes == 512 // 32 * engine.model.page_bytes


def test_the_pool_never_holds_more_than_prefill_budget_and_chunk(needle_int8_dir: Path) -> None:
    engine = bare_engine(
        needle_int8_dir, max_num_batched_tokens=64, **TOKEN, prefill_budget=128, pool_size=224,
        layer_budgets=(1, 1, 1, 1, 1, 1, 4, 2),
    )  # fmt: skip
    request = engine.add_request(PROMPT * 4, greedy(2))
    most = 0
    while not request.finished:
        engine.step()
        engine.check_integrity()
        most = max(most, sum(map(engine.cache.pool.num_used, range(8))))
    # Many times as many tokens as the pool has room for have been read. Each layer's last page may
    # be half empty.
    assert most <= 8 * (128 + 64 + 32) // 32
    metrics = request.generations[0].metrics
    assert metrics.kv_bytes_peak <= (128 + 64 + 32) * engine.model.kv_bytes_per_token
    assert metrics.kv_tokens <= 100 + 2


@pytest.mark.parametrize(
    ("megabytes", "settings"),
    [
        (1.2, {}),
        (2.0, {"layer_budgets": "uniform", "value_cache_precision": "u4"}),
        (1.5, {"layer_budgets": (1, 1, 1, 1, 1, 1, 4, 2), "importance": "keydiff"}),
        (2.5, {"layer_budgets": "uniform", "granularity": "page"}),
    ],
)
def test_a_budget_in_bytes_buys_tokens_and_holds(
    needle_int8_dir: Path, megabytes: float, settings: dict[str, Any]
) -> None:
    engine = bare_engine(
        needle_int8_dir, kv_budget_mb=megabytes, start_size=32, recent_size=32, decode_slack=16,
        **settings,
    )  # fmt: skip
    bought = engine.config.max_cache_size
    assert engine.describe().kv_cache_config.max_cache_size == bought > 64
    request = engine.add_request(PROMPT * 3, greedy(60))
    sequence = sequence_of(request)
    most = 0
    while not request.finished:
        engine.step()
        if sequence.num_cached > len(PROMPT) * 3:
            most = max(most, engine.cache.used_bytes)
    # Pages that are not full are reckoned with, and so is what shares are rounded by.
    assert 0.8 * 1e6 * megabytes < most <= 1e6 * megabytes


def test_a_budget_in_bytes_that_holds_nothing_is_refused(needle_int8_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"kv_budget_mb 0\.5 holds no token beside"):
        bare_engine(needle_int8_dir, kv_budget_mb=0.5)
    with pytest.raises(ConfigError, match="are two budgets"):
        KVCacheConfig(kv_budget_mb=1, max_cache_size=512)


def test_distinct_alone_cuts_while_a_prompt_is_read_and_both_at_its_end(
    needle_int8_dir: Path,
) -> None:
    def kept_while_reading(**changes: Any) -> list[NDArray[np.int32]]:
        settings = {"representatives": "distinct", **TOKEN, "prefill_budget": 100, **changes}
        engine = bare_engine(needle_int8_dir, **settings)
        sequence = sequence_of(engine.add_request(PROMPT, greedy(2)))
        while not sequence.cuts:
            engine.step()
        assert sequence.cuts[0].reads_on
        return [layer.positions.copy() for layer in sequence.layers]

    def same(one: list[NDArray[np.int32]], other: list[NDArray[np.int32]]) -> bool:
        return all(map(np.array_equal, one, other))

    by_default = kept_while_reading()
    assert same(by_default, kept_while_reading(importance="keydiff", representatives="none"))
    assert same(by_default, kept_while_reading(prefill_representative_share=1))
    half = kept_while_reading(prefill_representative_share=0.5)
    assert not same(by_default, half)
    # Importance alone stays alone, and the paper's rule has the share it has at the end.
    alone = kept_while_reading(representative_share=0)
    assert same(alone, kept_while_reading(representatives="none"))
    rank = {"representatives": "rank", "representative_share": 0.25}
    assert same(
        kept_while_reading(**rank), kept_while_reading(**rank, prefill_representative_share=0.25)
    )


def test_layers_of_different_precisions_are_cut_and_counted_in_bytes(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    kinds = ("u8/u8", "u4/u4", "u4/u4", "u8/u4", "u8/u8", "u4/u8", "u8/u8", "u4/u4")
    replanned(tmp_path, needle_int8_dir, precisions_of(*kinds))
    shares = (2, 1, 1, 1, 1, 1, 8, 1)
    engine = bare_engine(
        tmp_path, max_num_batched_tokens=64, **TOKEN, layer_budgets=shares, prefill_budget=128
    )
    request = engine.add_request(PROMPT * 2, greedy(80))
    sequence = sequence_of(request)
    while not request.finished:
        engine.step()
        engine.check_integrity()
        bytes_of_layers = [
            len(layer.pages) * memory.layout.page_bytes
            for layer, memory in zip(sequence.layers, engine.model.memories, strict=True)
        ]
        assert engine.cache.used_bytes == sum(bytes_of_layers) <= engine.cache.max_bytes
    assert list(engine.describe().layer_precisions.values()) == [
        "u8/u8", "u4/u4", "u8/u4", "u8/u8", "u4/u8", "u8/u8", "u4/u4",
    ]  # fmt: skip
    assert request.generations[0].metrics.num_evicted_tokens > len(PROMPT)


def test_what_was_cut_while_reading_is_computed_again_after_a_preemption(
    needle_f32_dir: Path,
) -> None:
    settings = {**TOKEN, **EXACT, "prefill_budget": 128, "max_num_batched_tokens": 64}

    def answer(preempted_after: int, prefix_caching: bool = False) -> list[int]:
        engine = bare_engine(needle_f32_dir, prefix_caching=prefix_caching, **settings)
        request = engine.add_request(PROMPT, greedy(8))
        (generation,) = request.generations
        sequence, num_steps = sequence_of(request), 0
        while not request.finished:
            engine.step()
            engine.check_integrity()
            num_steps += 1
            if num_steps == preempted_after:
                engine.preempt(sequence)
        assert generation.metrics.num_preemptions == (preempted_after > 0)
        assert bool(generation.metrics.num_reused_tokens) == prefix_caching
        return generation.tokens

    wanted = answer(0)
    for num_steps in (1, 3, 7, 9):
        assert answer(num_steps) == wanted
    assert answer(4, prefix_caching=True) == wanted


def test_a_later_question_that_fits_the_slack_cuts_nothing(needle_int8_dir: Path) -> None:
    engine = bare_engine(needle_int8_dir, **TOKEN, decode_slack=64, prefill_budget=0)
    session = Session()

    def ask(prompt: list[int]) -> list[int]:
        (answer,) = finish(engine, engine.add_request(prompt, greedy(2), session))
        return [*prompt, *answer]

    history = ask(PROMPT)
    assert session.sequence is not None
    assert len(session.sequence.cuts) == 1
    history = ask(history + PROMPT[:20])
    assert len(session.sequence.cuts) == 1
    ask(history + PROMPT[:100])
    assert len(session.sequence.cuts) == 2
