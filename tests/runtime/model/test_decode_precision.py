"""Decoding in f32 behind prompts read in bf16: two compilations of a model, one cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ov_kvcrush import KVCacheConfig, LLMPipeline
from ov_kvcrush.errors import ConfigError, UnsupportedError
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.runtime.model import decode_choice, paged_model
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.plugin.core import core
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of

U8, U4 = LayerPrecision("u8", "u8"), LayerPrecision("u4", "u4")
BF16 = {"INFERENCE_PRECISION_HINT": "bf16"}
TOKENS = prompt_of(70)

pytestmark = pytest.mark.skipif(
    "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this CPU does not compute in bf16",
)


def loaded(folder: Path, precisions: list[LayerPrecision], **settings: object) -> PagedModel:
    model = PagedModel(folder, precisions=precisions, **settings)  # type: ignore[arg-type]
    model.reserve([4] * len(model.layers))
    return model


def forward(model: PagedModel, past: int, end: int) -> list[np.ndarray]:
    """Copies of logits and queries of the last of ``TOKENS[past:end]``."""
    rows = [end - past - 1]
    told = model.forward(batch(model, TOKENS[past:end], past, rows))
    return [told.logits.copy(), *(layer.copy() for layer in told.queries)]


def copy_cache(source: PagedModel, target: PagedModel) -> None:
    for mine, its in zip(source.memories, target.memories, strict=True):
        its.keys[:] = mine.keys
        its.values[:] = mine.values


@pytest.mark.parametrize(
    "precisions", [[U8] * 8, [U8, U8, U4, U4, U4, U8, U8, U8]], ids=["one part", "three parts"]
)
def test_long_steps_are_the_one_compilation_and_short_ones_the_other(
    needle_int8_dir: Path, precisions: list[LayerPrecision]
) -> None:
    both = loaded(needle_int8_dir, precisions, properties=BF16, decode_precision="f32")
    reads = loaded(needle_int8_dir, precisions, properties=BF16)
    decodes = loaded(needle_int8_dir, precisions, properties=F32)
    assert (both.inference_precision, both.decode_precision) == ("bf16", "f32")
    assert both.precisions == reads.precisions == decodes.precisions

    for past, end, alone in ((0, 40, reads), (40, 41, decodes), (41, 57, decodes)):
        copy_cache(both, alone)
        for found, wanted in zip(forward(both, past, end), forward(alone, past, end), strict=True):
            np.testing.assert_array_equal(found, wanted)
        # And what it wrote into the pages.
        for ours, its in zip(both.memories, alone.memories, strict=True):
            np.testing.assert_array_equal(ours.keys, its.keys)
            np.testing.assert_array_equal(ours.values, its.values)
    # Another type, and not another name for the same.
    copy_cache(both, reads)
    assert not np.array_equal(forward(both, 57, 58)[0], forward(reads, 57, 58)[0])


def test_where_prompts_are_read_in_f32_nothing_is_compiled_twice(needle_int8_dir: Path) -> None:
    model = loaded(needle_int8_dir, [U8] * 8, properties=F32, decode_precision="f32")
    assert model._decoding is model._compiled
    assert model.decode_precision == "f32"


@pytest.mark.parametrize("is_worth_it", [True, False])
def test_without_a_word_it_is_compiled_twice_where_that_is_faster(
    needle_int8_dir: Path, monkeypatch: pytest.MonkeyPatch, is_worth_it: bool
) -> None:
    monkeypatch.setattr(paged_model, "has_amx", lambda: True)
    if is_worth_it:
        monkeypatch.setattr(decode_choice, "_LEAST_BYTES", 0)
    pipe = LLMPipeline(needle_int8_dir, config=BF16)
    found = pipe.describe()
    if is_worth_it:
        assert found.computing.startswith("prompts in bf16, decoding in f32: faster; ")
    else:
        assert found.computing.startswith("prompts and decoding in bf16: with ")


def test_a_wrong_precision_is_refused_in_one_line(needle_int8_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"decode_precision 'f16' is not one of auto"):
        PagedModel(needle_int8_dir, decode_precision="f16")
    stored = LayerPrecision("bf16", "bf16")
    with pytest.raises(ConfigError, match=r"decode_precision f32 .* cache in bf16"):
        PagedModel(needle_int8_dir, precisions=stored, properties=BF16, decode_precision="f32")
    with pytest.raises(UnsupportedError, match="genai engine"):
        LLMPipeline(needle_int8_dir, engine="genai", decode_precision="f32")


def test_a_pipeline_answers_and_says_what_it_computes_in(needle_int8_dir: Path) -> None:
    config = KVCacheConfig(max_cache_size=512)
    pipe = LLMPipeline(needle_int8_dir, config=BF16, kv_cache_config=config, decode_precision="f32")
    found = pipe.describe().to_dict()
    assert (found["inference_precision"], found["decode_precision"]) == ("bf16", "f32")
    pipe.start_chat()
    for _ in range(2):
        assert pipe.generate("Note a thing.", max_new_tokens=700, ignore_eos=True)
    metrics = pipe.get_metrics()
    assert metrics["tokens"]["evicted"] > 0
    assert metrics["kv_cache"]["pool_bytes"] >= metrics["kv_cache"]["used_bytes"] > 0
    pipe.finish_chat()
    assert pipe.get_metrics()["kv_cache"]["chats_bytes"] == 0
