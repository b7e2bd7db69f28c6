"""What the basis of the values, and the scales of the keys, do to the harm of a cache in u4.

python benchmarks/value_bases.py

Copies of the repository's model, all the same function, are exported with int8 weights and read the
calibration text's judging passages on the plugin. Printed is KL divergence in thousandths of a nat:
under "weights" from the trained model in fp32, under the caches from the same export with a cache
in f32. "outliers" are made: two channels of each head's values times 20, the output projection
divided by it, as large models have them and this one has not.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from harness.models import NEEDLE
from ov_kvcrush.export import ExportOptions, optimum
from ov_kvcrush.export.checkpoint.estimate import estimate_layers
from ov_kvcrush.export.kv_plan.sensitivity import EXACT, Output, kl_divergence, read_output
from ov_kvcrush.export.texts.passages import read_tokens, split_passages
from ov_kvcrush.export.tokenizer import convert_tokenizer, load_checkpoint_tokenizer
from ov_kvcrush.export.value_balance.balance import Balance, find_balance, write_balanced
from ov_kvcrush.export.value_balance.basis import balanced_basis, spreading_matrix
from ov_kvcrush.export.value_balance.projections import ValueProjections
from ov_kvcrush.precisions import LayerPrecision
from ov_kvcrush.progress import Silent

CACHES = {
    "u8/u8": LayerPrecision("u8", "u8"),
    "u8/u4": LayerPrecision("u8", "u4"),
    "u8/u4 g32": LayerPrecision("u8", "u4", value_group_size=32),
    "u8/u4 g16": LayerPrecision("u8", "u4", value_group_size=16),
    "u4/u8": LayerPrecision("u4", "u8"),
    "u4/u4": LayerPrecision("u4", "u4"),
}
OUTLIERS, FACTOR = (5, 41), 20.0

Tensors = dict[str, torch.Tensor]
Fitted = list[list[int]]
Find = Callable[[Path, ValueProjections, Fitted], Balance]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weight-format", default="int8", help="default int8")
    weight_format = parser.parse_args().weight_format
    warnings.simplefilter("ignore")
    logging.getLogger("nncf").setLevel(logging.WARNING)
    # NNCF shows its progress on stdout.
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(sys.stderr):
        folder = Path(scratch)
        outliers = copy_with(folder / "outliers", add_outliers)
        smoothed = copy_with(folder / "smoothed", smooth_keys)
        trained = export(NEEDLE, None, folder, "fp32")
        reference = read(trained, EXACT)
        shutil.rmtree(trained)

        def row(model: str, source: Path, values: str, find: Find | None) -> None:
            exported = export(source, find, folder, weight_format)
            exact = read(exported, EXACT)
            found = [divergence(reference, exact)]
            found += [divergence(exact, read(exported, cache)) for cache in CACHES.values()]
            show(model, values, [f"{1000 * nats:>10.2f}" for nats in found])
            shutil.rmtree(exported)

        show("model", "values", [f"{name:>10}" for name in ("weights", *CACHES)])
        for name, find in BASES.items():
            row("trained", NEEDLE, name, find)
        for name, find in BASES.items():
            row("outliers", outliers, name, find)
        row("trained", smoothed, "none, keys smoothed", None)


def show(model: str, values: str, cells: list[str]) -> None:
    """Print a row, past whatever stands in for stdout."""
    print(f"{model:<9} {values:<22}", *cells, file=sys.__stdout__, flush=True)


def export(source: Path, find: Find | None, folder: Path, weight_format: str) -> Path:
    """The model in ``source``, its values in the bases found, as OpenVINO IR."""
    exported, copy = folder / "exported", folder / "copy"
    options = ExportOptions(model=str(source), output=exported, weight_format=weight_format)
    silent = Silent()
    tokenizer = load_checkpoint_tokenizer(options, source, 0, silent)
    convert_tokenizer(options, tokenizer, exported, silent)
    if find is not None:
        config = AutoConfig.from_pretrained(source)
        projections = ValueProjections(config, estimate_layers(config))
        fitted, _ = split_passages(read_tokens(exported), 0)
        write_balanced(source, copy, projections, find(source, projections, fitted))
        source = copy
    compression = optimum.compression(options)
    optimum.export(options, str(source), compression, exported)
    if compression is not None and optimum.compresses_afterwards(compression):
        optimum.compress(options, compression, exported)
    shutil.rmtree(copy, ignore_errors=True)
    return exported


def read(exported: Path, cache: LayerPrecision) -> list[Output]:
    """What the model says to each judging passage."""
    _, judged = split_passages(read_tokens(exported), 0)
    precisions = [cache] * AutoConfig.from_pretrained(NEEDLE).num_hidden_layers
    return [read_output(exported, precisions, [passage]) for passage in judged]


def divergence(wanted: list[Output], found: list[Output]) -> float:
    """Mean KL divergence, in nats a token."""
    pairs = zip(wanted, found, strict=True)
    return float(
        np.mean([kl_divergence(a.log_probabilities, b.log_probabilities) for a, b in pairs])
    )


def rotated(source: Path, projections: ValueProjections, fitted: Fitted) -> Balance:
    """A Hadamard matrix for every head."""
    layers = AutoConfig.from_pretrained(source).num_hidden_layers
    heads = [spreading_matrix(projections.head_size)] * projections.num_kv_heads
    return Balance((np.stack(heads),) * layers, ())


def from_weights(source: Path, projections: ValueProjections, fitted: Fitted) -> Balance:
    """Balanced as if a norm's outputs were white but for its weights: no text is read."""
    tensors = load_file(source / "model.safetensors")
    bases = []
    for number in range(AutoConfig.from_pretrained(source).num_hidden_layers):
        norm = tensors[f"model.layers.{number}.input_layernorm.weight"].float()
        weight = tensors[f"model.layers.{number}.self_attn.v_proj.weight"].float() * norm
        outputs = tensors[f"model.layers.{number}.self_attn.o_proj.weight"]
        heads = weight.double().numpy().reshape(-1, projections.head_size, weight.shape[1])
        sensitivities = projections.sensitivities(outputs)
        bases.append(
            np.stack(
                [balanced_basis(v @ v.T, m) for v, m in zip(heads, sensitivities, strict=True)]
            )
        )
    return Balance(tuple(bases), ())


BASES: dict[str, Find | None] = {
    "none": None,
    "Hadamard": rotated,
    "balanced, weights only": from_weights,
    "balanced, from a text": find_balance,
}


def copy_with(folder: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy of the repository's model in ``folder``, its weights changed."""
    shutil.copytree(NEEDLE, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def add_outliers(tensors: Tensors) -> None:
    """Two channels of each head's values are large; the function stays the same."""
    size = AutoConfig.from_pretrained(NEEDLE).head_dim
    scales = torch.ones(size)
    scales[list(OUTLIERS)] = FACTOR
    for name, tensor in tensors.items():
        if name.endswith("v_proj.weight"):
            tensor *= scales.repeat(len(tensor) // size)[:, None]
        elif name.endswith("o_proj.weight"):
            tensor /= scales.repeat(tensor.shape[1] // size)


def smooth_keys(tensors: Tensors) -> None:
    """Keys and queries as large as each other, rotary pair by pair; the function stays the same."""
    config = AutoConfig.from_pretrained(NEEDLE)
    heads, half = config.num_key_value_heads, config.head_dim // 2
    for number in range(config.num_hidden_layers):
        keys, queries = (
            tensors[f"model.layers.{number}.self_attn.{part}_proj.weight"] for part in "kq"
        )
        norm = tensors[f"model.layers.{number}.input_layernorm.weight"].float()
        # [KV heads, query heads of each, halves of rotary pairs, pairs]
        key_sizes, query_sizes = (
            (weight.float() * norm).square().sum(1).reshape(heads, -1, 2, half).sum((1, 2))
            for weight in (keys, queries)
        )
        scales = (query_sizes / key_sizes).pow(0.25).repeat(1, 2)
        keys *= scales.reshape(-1, 1)
        group = config.num_attention_heads // heads
        queries /= scales.repeat_interleave(group, dim=0).reshape(-1, 1)


if __name__ == "__main__":
    main()
