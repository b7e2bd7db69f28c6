"""What a pipeline refuses, at its construction and at each call, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
import pytest

from ov_kvcrush import EncodedResults, KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import (
    ConfigError,
    ContextError,
    DeviceError,
    ModelError,
    PromptError,
    UnsupportedError,
)
from ov_kvcrush.plan import PLAN_VERSION
from tests.support.folders import linked
from tests.support.pipelines import TEXT
from tests.support.texts import document


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "TPU"}, DeviceError, "'TPU' is not a device"),
        ({"engine": "vllm"}, ConfigError, "unknown engine 'vllm'"),
        ({"KV_CACHE_PRECISON": "u8"}, ConfigError, "Did you mean 'KV_CACHE_PRECISION'"),
        ({"tokenizer": None, "max_cache_size": 9}, ConfigError, "'max_cache_size'"),
        ({"tokenizer": "here"}, ConfigError, "tokenizer is a str; it takes a Tokenizer"),
        ({"device": 3}, ConfigError, "device is a int; it takes a str"),
        ({"config": "f32"}, ConfigError, "config is a str; it takes a Mapping"),
        ({"scheduler_config": {}}, ConfigError, "is a SchedulerConfig, not a dict"),
        ({"kv_cache_config": {}}, ConfigError, "is a KVCacheConfig, not a dict"),
        ({"ATTENTION_BACKEND": "SDPA"}, UnsupportedError, "keeps its KV cache in pages"),
        ({"ATTENTION_BACKEND": "FA"}, ConfigError, "'FA' is not known"),
        ({"prompt_lookup": "perhaps"}, ConfigError, "takes True, False, or a number of tokens"),
        ({"config": {"prompt_lookup": -3}}, ConfigError, "prompt_lookup is -3; it takes True"),
        ({"draft_model": object()}, UnsupportedError, "speculative decoding is not served"),
        ({"adapters": "lora.safetensors"}, UnsupportedError, "LoRA adapters are not served"),
    ],
)
def test_bad_arguments_are_refused_at_construction(
    needle_f32_dir: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        LLMPipeline(needle_f32_dir, **arguments)


def test_what_openvino_genai_takes_and_asks_for_nothing_is_taken(needle_f32_dir: Path) -> None:
    off = {"ATTENTION_BACKEND": "PA", "prompt_lookup": False, "draft_model": None}
    pipe = LLMPipeline(needle_f32_dir, "CPU", off, adapters=genai.AdapterConfig())
    assert pipe.generate(TEXT, max_new_tokens=2)


def test_settings_of_openvino_genai_without_counterpart_are_refused(needle_f32_dir: Path) -> None:
    scheduler = genai.SchedulerConfig()
    scheduler.use_cache_eviction = True
    scheduler.cache_eviction_config = genai.CacheEvictionConfig(
        32, 32, 128, genai.AggregationMode.ADAPTIVE_RKV
    )
    with pytest.raises(UnsupportedError, match="ADAPTIVE_RKV"):
        LLMPipeline(needle_f32_dir, scheduler_config=scheduler)


def test_an_ir_without_tokenizer_is_refused(needle_f32_dir: Path, tmp_path: Path) -> None:
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (tmp_path / name).symlink_to(needle_f32_dir / name)
    with pytest.raises(ModelError, match=r"holds no openvino_tokenizer\.xml"):
        LLMPipeline(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace(f'"version": {PLAN_VERSION}', '"version": 99'),
            "has format version 99",
        ),
        (lambda text: text.replace('"fingerprint": "', '"fingerprint": "0'), "another model"),
        (lambda text: text[:100], "cannot be read"),
        (lambda text: text.replace('"num_kv_heads"', '"heads"'), "is damaged"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    needle_f32_dir: Path, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    linked(needle_f32_dir, tmp_path, without="ov_kvcrush.json")
    plan = (needle_f32_dir / "ov_kvcrush.json").read_text()
    (tmp_path / "ov_kvcrush.json").write_text(change(plan))
    with pytest.raises(ModelError, match=message):
        LLMPipeline(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "kwargs", "error", "message"),
    [
        ("", {}, PromptError, "the prompt is empty"),
        ("half \ud800", {}, PromptError, "half a character at position 5"),
        ([], {}, PromptError, "neither a text"),
        (3, {}, PromptError, "neither a text"),
        ([TEXT, 3], {}, PromptError, "neither a text"),
        (TEXT, {"max_new_token": 3}, ConfigError, "Did you mean 'max_new_tokens'"),
        (TEXT, {"num_beams": 4}, UnsupportedError, "beam search"),
        (TEXT, {"temperature": -1.0, "do_sample": True}, ConfigError, "temperature"),
    ],
)
def test_bad_calls_are_refused(
    ours: LLMPipeline,
    inputs: Any,
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ours.generate(inputs, **kwargs)


def test_a_prompt_longer_than_the_pool_is_refused(needle_f32_dir: Path) -> None:
    config = KVCacheConfig(pool_size=128)
    pipe = LLMPipeline(needle_f32_dir, kv_cache_config=config)
    with pytest.raises(PromptError, match="does not fit the KV cache: the pool holds 128 tokens"):
        pipe.generate(document())
    chat = pipe.chat()
    chat.ask("Hello", max_new_tokens=4)
    with pytest.raises(PromptError, match="does not fit"):
        chat.ask(document())
    assert chat.ask("Still there?", max_new_tokens=4).metrics[0].num_reused_tokens > 0


@pytest.mark.parametrize("wrong", [999_999, -5, 2**40])
def test_token_ids_beyond_the_model_are_refused(ours: LLMPipeline, wrong: int) -> None:
    with pytest.raises(PromptError, match=f"token id {wrong} at position 2"):
        ours.generate(ov.Tensor(np.array([[5, 6, wrong]], np.int64)), max_new_tokens=2)


def test_token_ids_are_whole_numbers(ours: LLMPipeline) -> None:
    with pytest.raises(PromptError, match="whole numbers, not float32"):
        ours.generate(ov.Tensor(np.array([[5.5, 6.0]], np.float32)))


def test_a_prompt_beyond_the_context_is_refused_and_an_answer_ends_there(
    needle_int8_dir: Path,
) -> None:
    pipe = LLMPipeline(needle_int8_dir, context_length=60)
    ids = list(range(100, 170))
    with pytest.raises(ContextError) as raised:
        pipe.generate(ov.Tensor(np.array([ids], np.int64)))
    assert (raised.value.num_tokens, raised.value.limit) == (70, 60)
    short = ov.Tensor(np.array([ids[:50]], np.int64))
    results = pipe.generate(short, max_new_tokens=500, ignore_eos=True)
    assert isinstance(results, EncodedResults)
    assert len(results.tokens[0]) == 10
    assert results.finish_reasons == [genai.GenerationFinishReason.LENGTH]


def test_the_context_is_the_plans_or_the_configs_or_what_is_asked_for(
    needle_int8_dir: Path, tmp_path: Path
) -> None:
    assert LLMPipeline(needle_int8_dir).context_length == 8192
    assert LLMPipeline(needle_int8_dir, context_length=0).describe().context_length == 0
    for path in needle_int8_dir.iterdir():
        if path.name not in ("ov_kvcrush.json", "config.json"):
            (tmp_path / path.name).symlink_to(path)
    assert LLMPipeline(tmp_path).context_length == 0
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 300}}')
    assert LLMPipeline(tmp_path, engine="genai").context_length == 300
    with pytest.raises(ConfigError, match="context_length is -1"):
        LLMPipeline(tmp_path, context_length=-1)
