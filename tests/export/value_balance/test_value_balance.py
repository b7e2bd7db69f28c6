"""Values in other bases: the same function in every architecture, less harm when rounded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from ov_kvcrush.errors import ConfigError, ExportError
from ov_kvcrush.export import ExportOptions, estimate_model, export_model
from ov_kvcrush.export.checkpoint.estimate import estimate_layers
from ov_kvcrush.export.kv_plan.sensitivity import EXACT, read_output
from ov_kvcrush.export.value_balance.balance import find_balance, write_balanced
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.plan_records import ValueBasis
from tests.support.model_factory import ARCHITECTURES, make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # the tracer's

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ARCHITECTURES},
    "Llama with biases": ("Llama", {"attention_bias": True}),
    "Phi3, heads of 96": ("Phi3", {"hidden_size": 384}),
    "Gemma, heads of 256": ("Gemma", {"head_dim": 256, "num_key_value_heads": 1}),
}


def make_biased(folder: Path, architecture: str, **changes: Any) -> Path:
    """A random model whose biases and norms are not those of a fresh one."""
    make_model(folder, architecture, **changes)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(1)
    for tensor in tensors.values():
        if tensor.ndim == 1:
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)
    save_file(tensors, path, {"format": "pt"})
    return folder


def projections_of(folder: Path) -> ValueProjections:
    config = AutoConfig.from_pretrained(folder)
    return ValueProjections(config, estimate_layers(config))


def balanced_copy(source: Path, target: Path) -> Path:
    projections = projections_of(source)
    projections.require_in(source)
    passages = np.random.default_rng(0).integers(8, 5000, (2, 96)).tolist()
    write_balanced(source, target, projections, find_balance(source, projections, passages))
    return target


def logits_of(folder: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokens = np.random.default_rng(2).integers(8, 5000, (1, 128))
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(tokens)).logits.numpy())


@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays_the_same(name: str, tmp_path: Path) -> None:
    architecture, changes = MODELS[name]
    source = make_biased(tmp_path / "source", architecture, **changes)
    target = balanced_copy(source, tmp_path / "target")
    np.testing.assert_allclose(logits_of(target), logits_of(source), atol=1e-4)
    before, after = (load_file(one / "model.safetensors") for one in (source, target))
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert {key.split(".")[-2] for key in changed} <= {"v_proj", "qkv_proj", "o_proj"}
    assert len(changed) >= 4


@pytest.mark.parametrize("form", ["shards", "pickle"])
def test_every_form_of_checkpoint_is_changed(form: str, tmp_path: Path) -> None:
    source = make_model(tmp_path / "source", tie_word_embeddings=True)
    wanted = logits_of(source)
    if form == "shards":
        model = AutoModelForCausalLM.from_pretrained(source)
        (source / "model.safetensors").unlink()
        model.save_pretrained(source, max_shard_size="60KB")
        assert len(list(source.glob("model-*.safetensors"))) > 3
    else:
        tensors = load_file(source / "model.safetensors")
        (source / "model.safetensors").unlink()
        torch.save(tensors, source / "pytorch_model.bin")
    target = balanced_copy(source, tmp_path / "target")
    np.testing.assert_allclose(logits_of(target), wanted, atol=1e-4)
    links = {path.name for path in target.iterdir() if path.is_symlink()}
    assert {"config.json", "tokenizer.json"} <= links
    assert {path.name for path in target.iterdir()} == set(os.listdir(source))


def test_an_export_balances_and_says_so(tiny_source_dir: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": str(tiny_source_dir), "weight_format": "fp32"}
    plain = export_model(ExportOptions(output=tmp_path / "plain", **settings))
    chosen = ExportOptions(output=tmp_path / "balanced", balance_values=True, **settings)
    assert estimate_model(chosen).value_basis == ValueBasis("balanced")
    plan = export_model(chosen)
    assert plan == KVPlan.load(tmp_path / "balanced")
    assert plain.value_basis is None
    assert plan.value_basis is not None
    assert plan.value_basis.method == "balanced"
    assert plan.value_basis.passages == (512,) * 4
    assert len(plan.value_basis.predicted_cost) == 2
    assert plan.kv_bytes_per_token == plain.kv_bytes_per_token
    tokens = np.random.default_rng(5).integers(8, 5000, 64).tolist()
    before, after = (
        read_output(tmp_path / name, [EXACT] * 2, [tokens]) for name in ("plain", "balanced")
    )
    np.testing.assert_allclose(after.log_probabilities, before.log_probabilities, atol=1e-4)
    for file in (tmp_path / "balanced").iterdir():
        assert not file.is_symlink()
        assert b".partial-" not in file.read_bytes(), file.name
    stored = json.loads((tmp_path / "plain" / "ov_kvcrush.json").read_text())
    del stored["value_basis"]  # as an older release wrote it
    assert KVPlan.from_dict(stored) == plain


def test_the_copy_takes_its_place_on_the_disk(
    tiny_source_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(
        "ov_kvcrush.export.preflight.require_space",
        lambda folder, num_bytes, what: needed.append(num_bytes),
    )
    for balance in (False, True):
        estimate_model(
            ExportOptions(
                model=str(tiny_source_dir), output=tmp_path / "out", balance_values=balance
            )
        )
    stored = load_file(tiny_source_dir / "model.safetensors").values()
    assert needed[1] - needed[0] == sum(tensor.nbytes for tensor in stored)


def test_values_that_are_not_finite_numbers_are_refused(tmp_path: Path) -> None:
    source = make_model(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.self_attn.v_proj.weight"][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match="the values of layer 1 on the calibration text are not"):
        balanced_copy(source, tmp_path / "target")


class TestRefusals:
    def refuse(self, model: Path, tmp_path: Path, message: str) -> None:
        chosen = ExportOptions(model=str(model), output=tmp_path / "out", balance_values=True)
        with pytest.raises(ExportError, match=message) as caught:
            estimate_model(chosen)
        assert "--balance-values out" in caught.value.hint

    @pytest.fixture
    def model(self, tiny_source_dir: Path, tmp_path: Path) -> Path:
        return shutil.copytree(tiny_source_dir, tmp_path / "model")

    def change_config(self, folder: Path, **changes: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    def test_an_architecture_that_is_not_known(self, model: Path, tmp_path: Path) -> None:
        self.change_config(model, model_type="gpt2", architectures=["GPT2LMHeadModel"])
        self.refuse(model, tmp_path, "phi3, not those of 'gpt2'")

    def test_weights_that_are_quantized(self, model: Path, tmp_path: Path) -> None:
        self.change_config(model, quantization_config={"quant_method": "gptq", "bits": 4})
        self.refuse(model, tmp_path, "are quantized already")

    def test_projections_that_are_missing(self, model: Path, tmp_path: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        del tensors["model.layers.1.self_attn.o_proj.weight"]
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        self.refuse(model, tmp_path, "layer 1 of the checkpoint has no self_attn.o_proj.weight")

    def test_a_text_of_ones_own_is_for_balancing_too(self) -> None:
        settings: dict[str, Any] = {"model": "m", "output": Path("o"), "kv_dataset": "a.txt"}
        ExportOptions(balance_values=True, **settings)
        with pytest.raises(ConfigError, match="--kv-dataset is for a plan"):
            ExportOptions(**settings)
