"""Every importance method with every representative rule on the real cache, in every precision."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from openvino_genai import GenerationConfig, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import ConfigError
from ov_kvcrush.plan import PLAN_FILE, KVPlan
from ov_kvcrush.precisions import KV_PRECISION_PAIRS, LayerPrecision
from ov_kvcrush.runtime.eviction.budgets import CacheBudgets
from ov_kvcrush.runtime.eviction.compressor import Compressor
from ov_kvcrush.runtime.eviction.cut_plan import CutPlanner
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Cut, Sequence
from ov_kvcrush.selection import IMPORTANCE_METHODS, REPRESENTATIVE_RULES

PROMPT = np.random.default_rng(3).integers(8, 5000, 400).tolist()
TOKEN = {"max_cache_size": 100, "start_size": 10, "recent_size": 30}
PAGE = {"max_cache_size": 160, "start_size": 32, "recent_size": 32, "granularity": "page"}
EVERY = list(itertools.product(IMPORTANCE_METHODS, REPRESENTATIVE_RULES))


def engine_of(folder: Path, chunk: int = 128, **settings: object) -> PagedEngine:
    # Prefixes kept for others would be counted too.
    alone = {"pool_size": 2048, "representative_share": 0.5, "prefix_caching": False}
    settings = alone | settings
    config = KVCacheConfig(**settings)  # type: ignore[arg-type]
    return PagedEngine(
        folder, Tokenizer(folder), config=config, limits=EngineLimits(max_num_batched_tokens=chunk)
    )


def read(engine: PagedEngine, prompt: list[int] = PROMPT) -> Sequence:
    """The sequence right after its prompt."""
    request = engine.add_request(prompt, GenerationConfig(max_new_tokens=4, ignore_eos=True))
    sequence = request.generations[0].sequence
    assert sequence is not None
    while not request.generations[0].tokens:
        engine.step()
        engine.check_integrity()
    return sequence


def kept_positions(engine: PagedEngine) -> list[NDArray[np.int32]]:
    return [layer.positions.copy() for layer in read(engine).layers]


class Cutter:
    """Cuts copies of one sequence that has read its prompt, by one policy after another."""

    def __init__(self, folder: Path, importance: str) -> None:
        self.engine = engine_of(folder, max_cache_size=500, importance=importance)
        self.source = read(self.engine)
        assert not self.source.cuts

    def kept(self, **settings: object) -> list[NDArray[np.int32]]:
        config = KVCacheConfig(representative_share=0.5, **settings)  # type: ignore[arg-type]
        model, cache = self.engine.model, self.engine.cache
        budgets = CacheBudgets(config, model.layers, ())
        planner = CutPlanner(config, budgets, 128)
        compressor = Compressor(
            model.layers, model.scales, model.memories, config, budgets, planner
        )
        copy = Sequence(
            list(self.source.tokens), model.layers, 16, accumulates=self.source.accumulates
        )
        cache.fork(self.source, copy)
        copy.planned_cuts = [Cut(len(PROMPT), config.max_cache_size)]
        compressor.compress(copy, cache)
        cache.check_integrity([self.source, copy])
        positions = [layer.positions.copy() for layer in copy.layers]
        cache.release(copy)
        return positions


@pytest.fixture(scope="module")
def cutters(needle_int8_dir: Path) -> dict[str, Cutter]:
    """By what the importance methods look at."""
    return {name: Cutter(needle_int8_dir, name) for name in ("snapkv", "h2o")}


def require_a_good_cut(
    positions: list[NDArray[np.int32]], budget: int, start: int, recent: int
) -> None:
    assert sum(p.shape[1] for p in positions) <= budget * len(positions)
    for held in positions:
        assert (np.diff(held, axis=1) > 0).all()
        assert (held[:, :start] == np.arange(start)).all()
        assert (held[:, held.shape[1] - recent :] == 400 - recent + np.arange(recent)).all()


@pytest.mark.parametrize(("importance", "representatives"), EVERY)
def test_every_pair_keeps_exactly_its_budget_start_and_recent(
    cutters: dict[str, Cutter], importance: str, representatives: str
) -> None:
    cutter = cutters["h2o" if importance == "h2o" else "snapkv"]
    settings = {**TOKEN, "importance": importance, "representatives": representatives}
    first, second = cutter.kept(**settings), cutter.kept(**settings)
    require_a_good_cut(first, 100, 10, 30)
    assert sum(p.shape[1] for p in first) == 100 * len(first)
    # The draws of what is random come from the seed.
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(("importance", "representatives"), EVERY)
def test_whole_pages_stay_within_the_budget(
    cutters: dict[str, Cutter], importance: str, representatives: str
) -> None:
    cutter = cutters["h2o" if importance == "h2o" else "snapkv"]
    settings = {**PAGE, "importance": importance, "representatives": representatives}
    require_a_good_cut(cutter.kept(**settings), 160, 32, 32)


@pytest.mark.parametrize(("key", "value"), KV_PRECISION_PAIRS)
@pytest.mark.parametrize("importance", ["snapkv", "h2o", "keydiff"])
def test_every_precision_is_cut(
    needle_int8_dir: Path, key: str, value: str, importance: str
) -> None:
    settings = {"key_cache_precision": key, "value_cache_precision": value, **TOKEN}
    engine = engine_of(needle_int8_dir, importance=importance, **settings)
    require_a_good_cut(kept_positions(engine), 100, 10, 30)


def test_the_top_scored_are_kept(needle_int8_dir: Path) -> None:
    # StreamingLLM's score is the position: the newest of the middle stay, and nothing else.
    settings = {"importance": "streaming", "representatives": "none", "layer_budgets": "uniform"}
    engine = engine_of(needle_int8_dir, **TOKEN, **settings)
    for held in kept_positions(engine):
        assert (held[:, 10:] == np.arange(310, 400)).all()


# ------------------------------------------------------------------ accumulated attention


@pytest.mark.parametrize("chunk", [400, 37])
def test_accumulated_attention_counts_every_query_once(needle_f32_dir: Path, chunk: int) -> None:
    precise = {"key_cache_precision": "f32", "value_cache_precision": "f32"}
    engine = engine_of(
        needle_f32_dir, chunk, **precise, max_cache_size=500, importance="h2o",
        representatives="none",
    )  # fmt: skip
    sequence = read(engine)
    assert not sequence.cuts
    whole = [layer.attention for layer in sequence.layers]
    for attention in whole:
        assert attention is not None
        # Each of the 400 queries pays 1 in all; the first token is seen by all of them.
        np.testing.assert_allclose(attention.sum(axis=1), 400, rtol=1e-4)
        assert (attention[:, 0] >= 1).all()
        assert (attention[:, -1] <= 1).all()
    again = read(engine_of(
        needle_f32_dir, 100, **precise, max_cache_size=500, importance="h2o",
        representatives="none",
    ))  # fmt: skip
    for attention, layer in zip(whole, again.layers, strict=True):
        np.testing.assert_allclose(attention, layer.attention, atol=1e-3)


def test_accumulated_attention_follows_the_tokens_that_stay(needle_f32_dir: Path) -> None:
    engine = engine_of(needle_f32_dir, **TOKEN, importance="h2o", representatives="none")
    for layer in read(engine).layers:
        assert layer.attention is not None
        assert layer.attention.shape[1] == layer.length
        # Heads that share a KV head hold the same tokens; the first token stays the richest.
        assert (layer.attention[:, 0] > 1).all()


# ------------------------------------------------------------------ budgets and prefill


def test_layers_hold_what_their_shares_say_and_the_pool_what_they_hold(
    needle_int8_dir: Path,
) -> None:
    shares = (1, 1, 1, 1, 1, 1, 7, 3)
    engine = engine_of(needle_int8_dir, **TOKEN, layer_budgets=shares, pool_size=512)
    lengths = [layer.length for layer in read(engine).layers]
    # 8 * 60 tokens between start and recent, 16 parts.
    assert lengths == [40 + 30 * share for share in shares]
    pool = engine.cache.pool
    assert [pool.num_used(n) for n in range(8)] == [-(-length // 32) for length in lengths]
    assert pool.num_free(6) >= 512 // 32 * 3
    assert pool.max_bytes == 512 // 32 * engine.model.page_bytes


def test_the_pool_never_holds_more_than_prefill_budget_and_chunk(needle_int8_dir: Path) -> None:
    engine = engine_of(
        needle_int8_dir, 64, **TOKEN, prefill_budget=128, pool_size=224,
        layer_budgets=(1, 1, 1, 1, 1, 1, 4, 2),
    )  # fmt: skip
    request = engine.add_request(PROMPT * 4, GenerationConfig(max_new_tokens=2, ignore_eos=True))
    sequence = request.generations[0].sequence
    assert sequence is not None
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
    needle_int8_dir: Path, megabytes: float, settings: dict[str, object]
) -> None:
    small = {"start_size": 32, "recent_size": 32, "decode_slack": 16}
    engine = engine_of(needle_int8_dir, kv_budget_mb=megabytes, **small, **settings)
    bought = engine.config.max_cache_size
    assert engine.describe()["kv_cache_config"]["max_cache_size"] == bought > 64
    request = engine.add_request(PROMPT * 3, GenerationConfig(max_new_tokens=60, ignore_eos=True))
    sequence = request.generations[0].sequence
    assert sequence is not None
    most = 0
    while not request.finished:
        engine.step()
        if sequence.num_cached > len(PROMPT) * 3:
            most = max(most, engine.cache.used_bytes)
    # Pages that are not full are reckoned with, and so is what shares are rounded by.
    assert 0.8 * 1e6 * megabytes < most <= 1e6 * megabytes


def test_a_budget_in_bytes_that_holds_nothing_is_refused(needle_int8_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"kv_budget_mb 0\.5 holds no token beside"):
        engine_of(needle_int8_dir, kv_budget_mb=0.5)
    with pytest.raises(ConfigError, match="are two budgets"):
        KVCacheConfig(kv_budget_mb=1, max_cache_size=512)


def test_distinct_alone_cuts_while_a_prompt_is_read_and_both_at_its_end(
    needle_int8_dir: Path,
) -> None:
    def kept_while_reading(**settings: object) -> list[NDArray[np.int32]]:
        engine = engine_of(needle_int8_dir, 128, **TOKEN, prefill_budget=100, **settings)
        sequence = engine.add_request(PROMPT, GenerationConfig(max_new_tokens=2)).generations[0]
        assert sequence.sequence is not None
        while not sequence.sequence.cuts:
            engine.step()
        assert sequence.sequence.cuts[0].reads_on
        return [layer.positions.copy() for layer in sequence.sequence.layers]

    def same(one: list[NDArray[np.int32]], other: list[NDArray[np.int32]]) -> bool:
        return all(map(np.array_equal, one, other))

    by_default = kept_while_reading(representatives="distinct")
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
    for path in needle_int8_dir.iterdir():
        (tmp_path / path.name).symlink_to(path)
    plan = KVPlan.load(needle_int8_dir)
    assert plan is not None
    kinds = ("u8/u8", "u4/u4", "u4/u4", "u8/u4", "u8/u8", "u4/u8", "u8/u8", "u4/u4")
    precisions = tuple(LayerPrecision(*kind.split("/")) for kind in kinds)
    (tmp_path / PLAN_FILE).unlink()
    replace(plan, precisions=precisions).save(tmp_path)
    shares = (2, 1, 1, 1, 1, 1, 8, 1)
    engine = engine_of(tmp_path, 64, **TOKEN, layer_budgets=shares, prefill_budget=128)
    request = engine.add_request(PROMPT * 2, GenerationConfig(max_new_tokens=80, ignore_eos=True))
    sequence = request.generations[0].sequence
    assert sequence is not None
    while not request.finished:
        engine.step()
        engine.check_integrity()
        bytes_of_layers = [
            len(layer.pages) * memory.layout.page_bytes
            for layer, memory in zip(sequence.layers, engine.model.memories, strict=True)
        ]
        assert engine.cache.used_bytes == sum(bytes_of_layers) <= engine.cache.max_bytes
    assert list(engine.describe()["layer_precisions"].values()) == [
        "u8/u8", "u4/u4", "u8/u4", "u8/u8", "u4/u8", "u8/u8", "u4/u4",
    ]  # fmt: skip
    assert request.generations[0].metrics.num_evicted_tokens > len(PROMPT)


def test_what_was_cut_while_reading_is_computed_again_after_a_preemption(
    needle_f32_dir: Path,
) -> None:
    precise = {"key_cache_precision": "f32", "value_cache_precision": "f32"}
    settings = {**TOKEN, **precise, "prefill_budget": 128}
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True)

    def answer(preempted_after: int, prefix_caching: bool = False) -> list[int]:
        engine = engine_of(needle_f32_dir, 64, prefix_caching=prefix_caching, **settings)
        request = engine.add_request(PROMPT, config)
        (generation,) = request.generations
        assert generation.sequence is not None
        num_steps = 0
        while not request.finished:
            engine.step()
            engine.check_integrity()
            num_steps += 1
            if num_steps == preempted_after:
                engine.preempt(generation.sequence)
        assert generation.metrics.num_preemptions == (preempted_after > 0)
        assert bool(generation.metrics.num_reused_tokens) == prefix_caching
        return generation.tokens

    wanted = answer(0)
    for num_steps in (1, 3, 7, 9):
        assert answer(num_steps) == wanted
    assert answer(4, prefix_caching=True) == wanted


def test_a_later_question_that_fits_the_slack_cuts_nothing(needle_int8_dir: Path) -> None:
    from ov_kvcrush.runtime.sequences.session import Session

    engine = engine_of(needle_int8_dir, **TOKEN, decode_slack=64, prefill_budget=0)
    config, session = GenerationConfig(max_new_tokens=2, ignore_eos=True), Session()

    def ask(prompt: list[int]) -> list[int]:
        request = engine.add_request(prompt, config, session)
        while not request.finished:
            engine.step()
        return [*prompt, *request.generations[0].tokens]

    history = ask(PROMPT)
    assert session.sequence is not None
    assert len(session.sequence.cuts) == 1
    history = ask(history + PROMPT[:20])
    assert len(session.sequence.cuts) == 1
    ask(history + PROMPT[:100])
    assert len(session.sequence.cuts) == 2
