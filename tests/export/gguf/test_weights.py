"""Exported GGUF files compute what the weights in the file mean, whatever these are stored in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ov_kvcrush.export import ExportOptions, export_model
from ov_kvcrush.plan import KVPlan
from tests.support.gguf_factory import CONTEXT_LENGTH, HEAD_SIZE, ROPE_BASE, write_gguf
from tests.support.gguf_reference import exported_logits, reference_logits

TOKENS = [int(token) for token in np.random.default_rng(0).integers(10, 5000, 200)]

# Mean difference of logits, relative to how far they are spread. Scales and zeros in f16 move a
# weight by a thousandth of its size; what is stored in Q8_0 instead by half a step of 8 bits.
# With the zeros rounded to whole steps it is 0.3.
EXACT, AS_Q8_0 = 0.006, 0.03


def export(model: Path, **settings: Any) -> KVPlan:
    options = ExportOptions(str(model), model.parent / "exported", calibrate=False, **settings)
    return export_model(options)


def difference(model: Path, frequencies: Any = None) -> float:
    expected = reference_logits(model, TOKENS, frequencies)
    found = exported_logits(model.parent / "exported", TOKENS)
    return float((found - expected).std() / expected.std())


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("F32", EXACT),
        ("F16", EXACT),
        ("BF16", EXACT),
        ("Q4_0", EXACT),
        ("Q4_1", EXACT),
        ("Q4_K", EXACT),
        ("Q5_0", EXACT),
        ("Q6_K", EXACT),
        ("Q8_0", EXACT),
        ("Q3_K", AS_Q8_0),
        ("Q5_1", AS_Q8_0),
        ("Q5_K", AS_Q8_0),
    ],
)
def test_weights_of_every_kind(tmp_path: Path, kind: str, limit: float) -> None:
    model = write_gguf(tmp_path / "model.gguf", weights=kind)
    plan = export(model)
    assert plan.weights["format"] == kind
    assert difference(model) < limit


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["Q4_1", "Q4_K", "Q8_0"])
def test_every_architecture(tmp_path: Path, architecture: str, kind: str) -> None:
    model = write_gguf(tmp_path / "model.gguf", architecture, kind)
    plan = export(model)
    assert plan.model_type == architecture
    assert difference(model) < EXACT


def test_a_file_of_several_kinds(tmp_path: Path) -> None:
    kinds = {"token_embd.weight": "Q5_0", "blk.0.ffn_down.weight": "Q6_K", "output.weight": "F32"}
    model = write_gguf(tmp_path / "model.gguf", weights="Q4_K", kinds=kinds)
    export(model)
    assert difference(model) < EXACT


def test_embeddings_that_are_the_last_layer_too(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", weights="Q4_1", without=("output.weight",))
    export(model)
    assert difference(model) < EXACT


def test_groups_of_weights_that_are_all_alike(tmp_path: Path) -> None:
    kinds = {"blk.0.attn_v.weight": "Q4_1"}
    alike = {"blk.0.attn_v.weight": np.full((128, 256), 0.25, np.float32)}
    model = write_gguf(tmp_path / "model.gguf", kinds=kinds, tensors=alike)
    export(model)
    assert difference(model) < EXACT


def test_positions_that_are_stretched(tmp_path: Path) -> None:
    plain = ROPE_BASE ** (-np.arange(0, HEAD_SIZE, 2) / HEAD_SIZE)
    factors = np.linspace(1, 8, HEAD_SIZE // 2, dtype=np.float32)
    one_by_one = write_gguf(tmp_path / "a" / "model.gguf", tensors={"rope_freqs.weight": factors})
    export(one_by_one)
    assert difference(one_by_one, (plain / factors).astype(np.float32)) < EXACT
    assert difference(one_by_one) > EXACT
    fields = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    all_alike = write_gguf(tmp_path / "b" / "model.gguf", fields=fields)
    export(all_alike)
    assert difference(all_alike, (plain / 4).astype(np.float32)) < EXACT


def test_a_split_file(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", weights="Q4_1")
    write_gguf(tmp_path / "model.gguf", weights="Q4_1", split=10)
    (first, *others) = sorted(tmp_path.glob("model-*.gguf"))
    assert others
    plan = export(first)
    assert plan.context_length == CONTEXT_LENGTH
    expected = reference_logits(whole, TOKENS)
    found = exported_logits(tmp_path / "exported", TOKENS)
    assert (found - expected).std() < EXACT * expected.std()


def test_only_the_output_is_written(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", weights="Q5_0")
    before = model.read_bytes()
    export(model)
    assert {path.name for path in tmp_path.iterdir()} == {"model.gguf", "exported"}
    assert model.read_bytes() == before
