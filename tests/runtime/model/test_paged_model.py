"""The contract with the plugin: what it accepts, how its pages lie, what the added outputs hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from ov_kvcrush.errors import ConfigError, DeviceError, ModelError
from ov_kvcrush.precisions import KV_PRECISION_PAIRS, KV_PRECISIONS, LayerPrecision
from ov_kvcrush.runtime.model import compiled_part
from ov_kvcrush.runtime.model.paged_graph import read_paged_graph
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages import key_codec
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from tests.support.batches import batch
from tests.support.engines import F32, prompt_of

SIDES = ("key", "value")
TYPES = {"f32": ov.Type.f32, "bf16": ov.Type.bf16, "u8": ov.Type.u8, "u4": ov.Type.u4}


def loaded(folder: Path, key: str, value: str) -> PagedModel:
    hint = {} if key == "bf16" else F32
    model = PagedModel(folder, precisions=LayerPrecision(key, value), properties=hint)
    model.reserve([4] * len(model.layers))
    return model


@pytest.fixture(scope="module")
def tokens() -> list[int]:
    return prompt_of(2 * PAGE_SIZE)


def test_geometry_is_read_from_the_graph(needle_f32_dir: Path) -> None:
    graph = read_paged_graph(needle_f32_dir)
    assert len(graph.layers) == 8
    layer = graph.layers[3]
    assert (layer.num_query_heads, layer.num_kv_heads) == (12, 4)
    assert (layer.key_head_size, layer.value_head_size, layer.sliding_window) == (64, 64, 0)
    assert graph.scales == (0.125,) * 8


def test_the_plugin_takes_just_these_precision_pairs(needle_f32_dir: Path) -> None:
    model = read_paged_graph(needle_f32_dir).model
    taken = set()
    for key in KV_PRECISIONS:
        for value in KV_PRECISIONS:
            properties = {"KEY_CACHE_PRECISION": key, "VALUE_CACHE_PRECISION": value}
            if key != "bf16":
                properties |= F32
            try:
                compiled = ov.Core().compile_model(model, "CPU", properties)
                # Mixed pairs may compile and fail, or be replaced, when they run.
                found = [compiled.input(f"{side}_cache.0").element_type for side in SIDES]
            except RuntimeError:
                continue
            if found == [TYPES[key], TYPES[value]]:
                taken.add((key, value))
    assert taken >= set(KV_PRECISION_PAIRS)


def test_a_cache_in_bf16_takes_inference_in_bf16(needle_f32_dir: Path) -> None:
    properties = {"KEY_CACHE_PRECISION": "bf16", "VALUE_CACHE_PRECISION": "bf16", **F32}
    with pytest.raises(RuntimeError, match="expect kvcache type f32"):
        ov.Core().compile_model(read_paged_graph(needle_f32_dir).model, "CPU", properties)


@pytest.mark.parametrize(("key", "value"), KV_PRECISION_PAIRS)
def test_pages_are_laid_out_as_the_kernels_read_them(
    needle_f32_dir: Path, tokens: list[int], key: str, value: str
) -> None:
    exact = loaded(needle_f32_dir, "f32", "f32")
    model = loaded(needle_f32_dir, key, value)
    for one in (exact, model):
        one.forward(batch(one, tokens, 0, [0]))
    kind = key_codec.KEY_KINDS[key]
    found, wanted = (np.empty((PAGE_SIZE, 64), np.float32) for _ in range(2))
    for head in range(4):
        key_codec.read_keys(model.memories[0].keys[1, head], kind, PAGE_SIZE, 64, found)
        key_codec.read_keys(exact.memories[0].keys[1, head], key_codec.F32, PAGE_SIZE, 64, wanted)
        step = {"f32": 1e-6, "bf16": 0.04, "u8": 1 / 255, "u4": 1 / 15}[key]
        assert (np.abs(found - wanted) <= 0.51 * step * np.ptp(wanted, axis=0) + 1e-6).all()
        # Rewriting what was read gives the plugin's own bytes.
        page = model.memories[0].keys[1, head]
        rewritten = np.zeros_like(page)
        key_codec.write_keys(wanted if key != "bf16" else found, PAGE_SIZE, 64, kind, rewritten)
        assert (rewritten != page).mean() < 0.002


def test_a_chunk_after_another_gives_the_logits_of_both_at_once(
    needle_f32_dir: Path, tokens: list[int]
) -> None:
    whole, parts = (loaded(needle_f32_dir, "f32", "f32") for _ in range(2))
    together = whole.forward(batch(whole, tokens, 0, [10, 63])).logits
    nothing = parts.forward(batch(parts, tokens[:40], 0, []))
    assert nothing.logits.shape == (0, together.shape[1])
    assert (nothing.queries, nothing.gates, nothing.states) == ([], [], [])
    last = parts.forward(batch(parts, tokens[40:], 40, [23]))
    np.testing.assert_allclose(last.logits[0], together[1], atol=1e-4)
    assert [q.shape for q in last.queries] == [(1, 12 * 64)] * 8


def test_what_is_read_is_the_same_however_long_the_plugin_is_told(
    needle_f32_dir: Path, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (("f32", "f32"), ("u8", "u4")):
        told = []
        for ahead in (0, 1000):
            monkeypatch.setattr(compiled_part, "_AHEAD", ahead)
            model = loaded(needle_f32_dir, key, value)
            told.append(model.forward(batch(model, tokens[:50], 0, [10, 49])).logits.copy())
            told[-1] = np.append(
                told[-1], model.forward(batch(model, tokens[50:51], 50, [0])).logits
            )
        np.testing.assert_array_equal(*told)


def test_the_plugin_is_told_of_each_layer_s_own_length() -> None:
    past = np.array([[40, 7], [3, 9]], np.int32)
    lengths = compiled_part._context_lengths
    assert lengths(past, np.array([1, 1], np.int32)).tolist() == [41, 10]
    assert (lengths(past, np.array([1, 5], np.int32)) >= [41 + 256, 14 + 256]).all()


def test_describes_what_was_compiled(needle_f32_dir: Path) -> None:
    model = loaded(needle_f32_dir, "u8", "u4")
    assert (model.precisions[0].key, model.precisions[0].value) == ("u8", "u4")
    assert model.inference_precision == "f32"
    # Keys: 32 rows and 8 of scales; values: 64 codes of 4 bits and 8 bytes a token.
    assert model.page_bytes == 8 * 4 * (40 * 64 + 32 * (8 + 32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "TPU"}, DeviceError, "'TPU' is not a device"),
        ({"properties": {"KV_CACHE_PRECISON": "u8"}}, ConfigError, "not a property"),
        ({"precisions": LayerPrecision("u8", "bf16")}, ConfigError, "cannot hold keys in u8"),
        (
            {"precisions": LayerPrecision("bf16", "bf16"), "properties": F32},
            ConfigError,
            "does not go with INFERENCE_PRECISION_HINT f32",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    needle_f32_dir: Path, arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PagedModel(needle_f32_dir, **arguments)  # type: ignore[arg-type]


def test_folders_without_a_usable_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model folder"):
        PagedModel(tmp_path / "missing")
    with pytest.raises(ModelError, match="holds no OpenVINO model"):
        PagedModel(tmp_path)
    (tmp_path / "openvino_model.xml").write_text("not xml")
    with pytest.raises(ModelError, match="is damaged: it is not XML"):
        PagedModel(tmp_path)
    number = ov.opset13.parameter([1], np.float32)
    foreign = ov.Model([ov.opset13.add(number, number)], [number])
    ov.save_model(foreign, tmp_path / "openvino_model.xml")
    with pytest.raises(ModelError, match="not a text-generation model with a KV cache"):
        PagedModel(tmp_path)
