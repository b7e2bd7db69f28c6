"""Weights that are missing, too many or of another shape are found before and while they load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from ov_kvcrush.errors import ExportError
from ov_kvcrush.export.checkpoint.completeness import compare, loading_required_to_fit
from ov_kvcrush.export.checkpoint.weight_files import tensor_shapes
from tests.support.model_factory import ARCHITECTURES, make_model

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose head is its own."""
    return make_model(tmp_path / "model", tie_word_embeddings=False)


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def store(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def with_tensor(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.ones(4)}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensors[name] for name in tensors if part not in name}


def found_by_headers(folder: Path) -> list[str]:
    """What is left out harmlessly, as far as the headers of the weight files tell."""
    config = AutoConfig.from_pretrained(folder)
    fit = compare(config, tensor_shapes(folder.glob("*model*.*")), trust_remote_code=False)
    assert fit is not None
    return fit.require("the model", config)


def found_by_loading(folder: Path) -> list[str]:
    """The same, as transformers tells it when it loads the weights."""
    with loading_required_to_fit("the model") as notes:
        AutoModelForCausalLM.from_pretrained(folder)
    return notes


@pytest.fixture(params=[found_by_headers, found_by_loading], ids=["headers", "loading"])
def find(request: pytest.FixtureRequest) -> Callable[[Path], list[str]]:
    """Either way to find out."""
    way: Callable[[Path], list[str]] = request.param
    return way


Find = Callable[[Path], list[str]]


def test_a_whole_checkpoint_fits(find: Find, model: Path) -> None:
    assert find(model) == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_fits_its_own_checkpoint(architecture: str, tmp_path: Path) -> None:
    assert found_by_headers(make_model(tmp_path, architecture)) == []


def test_a_missing_head_is_named(find: Find, model: Path) -> None:
    store(model, without("lm_head"))
    with pytest.raises(
        ExportError, match=r"the model lacks weights .*: lm_head\.weight\n"
    ) as caught:
        find(model)
    assert "tie_word_embeddings" in caught.value.hint
    configure(model, tie_word_embeddings=True)  # as the hint says
    assert find(model) == []


def test_a_head_that_is_tied_and_stored_is_no_matter(find: Find, tmp_path: Path) -> None:
    model = make_model(tmp_path, tie_word_embeddings=True)
    store(model, lambda held: held | {"lm_head.weight": held["model.embed_tokens.weight"].clone()})
    assert find(model) == []


def test_missing_layers_are_named(find: Find, model: Path) -> None:
    configure(model, num_hidden_layers=4)
    with pytest.raises(ExportError, match=r"lacks .* model\.layers\.2\..* and 15 more"):
        find(model)


def test_more_layers_than_the_model_has_are_refused(find: Find, model: Path) -> None:
    configure(model, num_hidden_layers=1)
    with pytest.raises(ExportError, match=r"stores weights .* no place for: model\.layers\.1\."):
        find(model)


def test_layers_that_predict_ahead_are_noted(find: Find, model: Path) -> None:
    configure(model, num_hidden_layers=1, num_nextn_predict_layers=1)
    (note,) = find(model)
    assert note.startswith("not exported, because llama does not use them: model.layers.1.")


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.1.self_attn.q_norm.weight",
        "model.norm.bias",
    ],
)
def test_weights_of_another_architecture_are_refused(find: Find, model: Path, name: str) -> None:
    store(model, with_tensor(name))
    with pytest.raises(
        ExportError, match=r"the architecture 'llama' .* has no place for"
    ) as caught:
        find(model)
    assert name in caught.value.message


@pytest.mark.parametrize(
    "name",
    ["mtp.layers.0.weight", "visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.k_scale"],
)
def test_what_the_text_model_does_without_is_noted(find: Find, model: Path, name: str) -> None:
    store(model, with_tensor(name))
    (note,) = find(model)
    assert name in note


def test_what_every_model_computes_itself_is_no_matter(find: Find, model: Path) -> None:
    store(model, with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq"))
    assert find(model) == []


def test_another_shape_is_refused(find: Find, model: Path) -> None:
    configure(model, vocab_size=5000)
    with pytest.raises(ExportError, match=r"as 5120×64, and its config\.json asks for 5000×64"):
        find(model)


def test_a_base_model_without_its_prefix_fits(find: Find, tmp_path: Path) -> None:
    model = make_model(tmp_path, tie_word_embeddings=True)
    store(model, lambda held: {name.removeprefix("model."): held[name] for name in held})
    assert find(model) == []


def test_a_pickled_checkpoint_is_compared_too(find: Find, model: Path) -> None:
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert find(model) == []
    configure(model, num_hidden_layers=3)
    with pytest.raises(ExportError, match="lacks weights"):
        find(model)


def test_an_architecture_that_is_converted_is_judged_when_it_is_loaded(tmp_path: Path) -> None:
    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=2,
        vocab_size=256,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    assert found_by_loading(tmp_path) == []
    configure(tmp_path, num_hidden_layers=3)
    with pytest.raises(ExportError, match=r"lacks .* model\.layers\.2\."):
        found_by_loading(tmp_path)


def test_loading_is_as_before_afterwards(model: Path) -> None:
    with loading_required_to_fit("the model"):
        pass
    store(model, without("lm_head"))
    AutoModelForCausalLM.from_pretrained(model)


def test_a_configuration_of_which_no_model_can_be_made_is_refused(model: Path) -> None:
    configure(model, hidden_act="frobnicate")
    with pytest.raises(ExportError, match=r"no model can be made of the configuration.*frobnicate"):
        found_by_headers(model)
