"""The genai engine: openvino_genai's answers through our interface, within the budget asked for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from openvino_genai import GenerationConfig, GenerationFinishReason, LLMPipeline, Tokenizer

from ov_kvcrush.config import KVCacheConfig
from ov_kvcrush.errors import (
    ConfigError,
    DeviceError,
    ModelError,
    OVKVCrushError,
    PromptError,
    UnsupportedError,
)
from ov_kvcrush.model_folder import fingerprint
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.genai.engine import GenaiEngine
from ov_kvcrush.runtime.interface import EngineLimits
from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.session import Session
from tests.support.engines import GENAI_EVICTING, finish, greedy, prompt_of
from tests.support.model_factory import replanned

PAGE = 32


@pytest.fixture(scope="module")
def tokenizer(needle_int8_dir: Path) -> Tokenizer:
    return Tokenizer(needle_int8_dir)


@pytest.fixture(scope="module")
def engine(needle_int8_dir: Path, tokenizer: Tokenizer) -> GenaiEngine:
    return GenaiEngine(needle_int8_dir, tokenizer, "cpu")


@pytest.fixture(scope="module")
def evicting(needle_int8_dir: Path, tokenizer: Tokenizer) -> GenaiEngine:
    return GenaiEngine(
        needle_int8_dir,
        tokenizer,
        config=GENAI_EVICTING,
        limits=EngineLimits(max_num_batched_tokens=256),
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"logprobs": 1},
        {"stop_strings": {" a"}},
        {"stop_strings": {" pale"}},
        {"stop_strings": {"pale"}, "include_stop_str_in_output": True},
        {"stop_token_ids": {4374}, "ignore_eos": False},
        {"repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_a_greedy_answer_is_openvino_genais(
    engine: GenaiEngine, needle_int8_dir: Path, tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    prompt = tokenizer.encode("The quick brown fox jumps. She was").input_ids
    config = GenerationConfig(**{"max_new_tokens": 24, "ignore_eos": True, **settings})
    expected = LLMPipeline(needle_int8_dir, "CPU").generate(prompt, config)
    request = engine.add_request(prompt.data[0].tolist(), config)
    finish(engine, request)
    (generation,) = request.generations
    assert generation.tokens == expected.tokens[0]
    assert generation.finish_reason == expected.finish_reasons[0]
    assert generation.score == pytest.approx(expected.scores[0], abs=1e-4)


def test_a_greedy_answer_at_f32_is_the_paged_engines(
    needle_int8_dir: Path, needle_f32_dir: Path, tokenizer: Tokenizer
) -> None:
    f32 = KVCacheConfig(key_cache_precision="f32", value_cache_precision="f32", pool_size=1024)
    # The second model's own plan says f32.
    for folder, config in ((needle_int8_dir, f32), (needle_f32_dir, KVCacheConfig(pool_size=1024))):
        answers = []
        for make in (GenaiEngine, PagedEngine):
            engine = make(folder, tokenizer, config=config)
            requests = [engine.add_request(prompt_of(n, seed=n), greedy(24)) for n in (70, 300)]
            answers.append(finish(engine, *requests))
        assert answers[0] == answers[1]


def test_tokens_come_one_a_step_with_their_times(engine: GenaiEngine) -> None:
    request = engine.add_request(prompt_of(40), greedy(5))
    (generation,) = request.generations
    counts = []
    while not request.finished:
        assert engine.step() == [request]
        assert generation.checker.num_settled == len(generation.tokens)
        counts.append(len(generation.tokens))
    assert counts == [1, 2, 3, 4, 5]
    assert generation.finish_reason == GenerationFinishReason.LENGTH
    assert len(generation.log_probs) == 5
    metrics = generation.metrics
    assert metrics.num_prompt_tokens == 40
    assert metrics.num_generated_tokens == 5
    assert 0 < metrics.ttft < metrics.duration
    assert metrics.kv_tokens == 44
    assert metrics.kv_bytes == metrics.kv_bytes_full > 0


def test_several_return_sequences_come_out_complete_and_different(engine: GenaiEngine) -> None:
    config = greedy(6, do_sample=True, rng_seed=3, num_return_sequences=3)
    request = engine.add_request(prompt_of(40), config)
    finish(engine, request)
    answers = [tuple(generation.tokens) for generation in request.generations]
    assert len(set(answers)) == 3
    assert [len(answer) for answer in answers] == [6, 6, 6]
    assert all(g.finish_reason == GenerationFinishReason.LENGTH for g in request.generations)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_the_blocks_it_keeps_are_those_we_report(
    needle_int8_dir: Path, tokenizer: Tokenizer, share: float
) -> None:
    config = KVCacheConfig(**{**GENAI_EVICTING.to_dict(), "representative_share": share})
    engine = GenaiEngine(needle_int8_dir, tokenizer, config=config)
    assert engine.eviction is not None
    for prompt_length, count in ((600, 70), (100, 190), (256, 40), (289, 5)):
        request = engine.add_request(prompt_of(prompt_length), greedy(count))
        engine.step()
        page_bytes = engine.metrics().pool_bytes // (2048 // PAGE)
        held = prompt_length
        while True:
            engine.step()
            held += 1
            if request.finished:
                break
            assert engine.metrics().used_bytes == -(-held // PAGE) * page_bytes
            held = engine.eviction.kept(held)
            assert held < config.max_cache_size + PAGE
        held = engine.eviction.kept(held)
        metrics = request.generations[0].metrics
        assert metrics.kv_tokens == held
        assert metrics.num_evicted_tokens == prompt_length + count - 1 - held
        assert metrics.kv_bytes == -(-held // PAGE) * page_bytes
        assert metrics.kv_bytes_peak >= -(-prompt_length // PAGE) * page_bytes


def test_without_eviction_the_same_settings_are_not_looked_at(engine: GenaiEngine) -> None:
    assert engine.config.granularity == "token"
    assert engine.describe().eviction is None


def test_the_slack_it_describes_is_the_page_that_it_waits_for(evicting: GenaiEngine) -> None:
    description = evicting.describe()
    assert description.kv_cache_config.decode_slack == description.page_size == PAGE


def test_prefix_caching_is_on_just_where_nothing_is_evicted(
    engine: GenaiEngine, evicting: GenaiEngine
) -> None:
    assert engine.describe().prefix_caching
    assert not evicting.describe().prefix_caching


def test_a_chat_goes_on_after_eviction(evicting: GenaiEngine) -> None:
    session = Session()
    history = prompt_of(500)
    for _ in range(3):
        request = evicting.add_request(history, greedy(40), session)
        with pytest.raises(ConfigError, match="still answering"):
            evicting.add_request(history, greedy(1), session)
        finish(evicting, request)
        history = history + request.generations[0].tokens + prompt_of(20)
    evicting.close_session(session)
    assert not session.busy
    assert not evicting.has_unfinished()


def test_cancelling_keeps_the_tokens_so_far_and_frees_the_pages(evicting: GenaiEngine) -> None:
    request = evicting.add_request(prompt_of(500), greedy(100))
    while len(request.generations[0].tokens) < 3:
        evicting.step()
    used = evicting.metrics().used_bytes
    evicting.cancel(request)
    evicting.cancel(request)
    assert request.finished
    assert request.generations[0].finish_reason == GenerationFinishReason.NONE
    assert len(request.generations[0].tokens) == 3
    assert not evicting.has_unfinished()
    again = evicting.add_request(prompt_of(100), greedy(2))
    evicting.step()
    assert 0 < evicting.metrics().used_bytes < used
    evicting.cancel(again)


def test_cancelling_one_request_leaves_the_other_alone(engine: GenaiEngine) -> None:
    alone = engine.add_request(prompt_of(50, seed=1), greedy(8))
    finish(engine, alone)
    cancelled = engine.add_request(prompt_of(50), greedy(50))
    other = engine.add_request(prompt_of(50, seed=1), greedy(8))
    engine.step()
    engine.cancel(cancelled)
    finish(engine, other)
    assert other.generations[0].tokens == alone.generations[0].tokens
    assert not engine.has_unfinished()


def test_a_request_that_outgrows_the_pool_ends_at_its_length(
    needle_int8_dir: Path, tokenizer: Tokenizer
) -> None:
    engine = GenaiEngine(needle_int8_dir, tokenizer, config=KVCacheConfig(pool_size=128))
    request = engine.add_request(prompt_of(100), greedy(100))
    finish(engine, request)
    (generation,) = request.generations
    assert generation.finish_reason == GenerationFinishReason.LENGTH
    assert 100 + len(generation.tokens) - 1 == 128


def test_prompts_it_cannot_read_are_refused(evicting: GenaiEngine) -> None:
    with pytest.raises(PromptError, match="empty"):
        evicting.add_request([], greedy(1))
    with pytest.raises(PromptError, match="2049 tokens does not fit"):
        evicting.add_request(prompt_of(2049), greedy(1))
    with pytest.raises(UnsupportedError, match="num_beams"):
        evicting.add_request([5], GenerationConfig(num_beams=4, max_new_tokens=5))
    assert not evicting.has_unfinished()


def test_a_cpp_check_comes_out_as_its_useful_line(engine: GenaiEngine) -> None:
    config = GenerationConfig(max_new_tokens=4)
    config.repetition_penalty = -1.0
    with pytest.raises(OVKVCrushError, match="repetition_penalty") as raised:
        engine.add_request([5, 6], config)
    assert "\n" not in raised.value.message
    assert ".cpp" not in raised.value.message


def test_bad_folders_devices_and_properties_are_refused(
    needle_int8_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        GenaiEngine(tmp_path / "missing", tokenizer)
    with pytest.raises(ModelError, match="holds no OpenVINO model"):
        GenaiEngine(tmp_path, tokenizer)
    (tmp_path / "openvino_model.xml").write_text("not an IR")
    with pytest.raises(ModelError, match="is damaged: it is not XML") as raised:
        GenaiEngine(tmp_path, tokenizer)
    assert "\n" not in raised.value.message
    with pytest.raises(DeviceError, match="'TPU' is not a device"):
        GenaiEngine(needle_int8_dir, tokenizer, "TPU")
    with pytest.raises(ConfigError, match="NUM_STREAM") as refused:
        GenaiEngine(needle_int8_dir, tokenizer, properties={"NUM_STREAM": 1})
    assert "NUM_STREAMS" in refused.value.hint
    with pytest.raises(ConfigError, match="whole GiB"):
        GenaiEngine(needle_int8_dir, tokenizer, limits=EngineLimits(pool_bytes=1000))
    config = KVCacheConfig(key_cache_precision="u8", value_cache_precision="u4")
    with pytest.raises(ConfigError, match="damages its memory") as refused:
        GenaiEngine(needle_int8_dir, tokenizer, config=config)
    assert "pool_size" in refused.value.hint


def test_a_plan_with_several_precisions_is_refused_and_can_be_overridden(
    needle_int8_dir: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    mixed = (LayerPrecision("u8", "u8"),) * 4 + (LayerPrecision("u4", "u4"),) * 4
    replanned(tmp_path, needle_int8_dir, mixed)
    with pytest.raises(ConfigError, match="stores the KV cache of all layers alike"):
        GenaiEngine(tmp_path, tokenizer)
    config = KVCacheConfig(key_cache_precision="u8", value_cache_precision="u8")
    assert GenaiEngine(tmp_path, tokenizer, config=config).describe().key_cache_precision == "u8"


@pytest.mark.parametrize(
    ("key", "value", "planned"),
    [("u8", "u8", False), ("u8", "u8", True), ("u8", "u4", True), ("u4", "u4", True)],
)
def test_kv_bytes_are_the_paged_engines(
    needle_int8_dir: Path, tokenizer: Tokenizer, tmp_path: Path, key: str, value: str, planned: bool
) -> None:
    for name in ("openvino_model.xml", "openvino_model.bin"):
        shutil.copy(needle_int8_dir / name, tmp_path)
    config = KVCacheConfig(key_cache_precision=key, value_cache_precision=value, pool_size=512)
    paged = PagedEngine(tmp_path, tokenizer, config=config)
    if planned:
        KVPlan(
            model_type="llama",
            fingerprint=fingerprint(tmp_path),
            layers=paged.model.layers,
            precisions=(LayerPrecision("u8", "u8"),) * len(paged.model.layers),
            kv_bytes_per_token=0.0,
            context_length=8192,
        ).save(tmp_path)
    genai = GenaiEngine(tmp_path, tokenizer, config=config)
    requests = []
    for engine in (paged, genai):
        requests.append(engine.add_request(prompt_of(100), greedy(4)))
        finish(engine, requests[-1])
    ours, theirs = (request.generations[0].metrics for request in requests)
    assert theirs.kv_bytes == ours.kv_bytes
    assert genai.describe().kv_bytes_per_token == paged.describe().kv_bytes_per_token
    assert genai.metrics().pool_bytes == paged.metrics().pool_bytes
    assert genai.describe().key_cache_precision == key
    assert genai.describe().value_cache_precision == value
