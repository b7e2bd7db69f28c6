"""Tiny GGUF files with random weights, and what those weights are once they are read."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray

from tests.support.paths import NEEDLE

HIDDEN, INTERMEDIATE, NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS, HEAD_SIZE = 256, 512, 2, 4, 2, 64
CONTEXT_LENGTH = 512
ROPE_BASE, EPSILON = 10_000.0, 1e-5

# Where a block of a kind that the package gguf reads and does not write has its f16 scales, in
# bytes; all else in it may be anything.
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_SCALE = {"Q6_K": 2e-5, "Q3_K": 5e-4}
_BIASED = {"qwen2"}
_NORMED_HEADS = {"qwen3"}


def write_gguf(
    path: Path,
    architecture: str = "llama",
    weights: str = "Q8_0",
    seed: int = 0,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, NDArray[np.float32]] | None = None,
    kinds: dict[str, str] | None = None,
    template: str | None = "",
    tokens: list[str] | None = None,
    merges: int | None = None,
    without: Collection[str] = (),
    split: int = 0,
) -> Path:
    """Write a random model of two layers of 256 to ``path``; returns it.

    Args:
        weights: kind of its matrices: ``F32``, ``Q4_0``, ``Q6_K``, …
        fields: further fields, or other values for those it has; None leaves one out.
        tensors: further ones, or other weights for those it has.
        kinds: of matrices that are to be of another kind than ``weights``, by name.
        template: for chats; empty for the repository's model's own, None for none.
        tokens: instead of the vocabulary of the repository's model.
        merges: how many of its merges are kept, at least one; all of them if None.
        without: tensors that are left out.
        split: most tensors of a file, and then there are several; 0 for one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture, split_max_tensors=split)
    settings = _settings(architecture, template, tokens, merges)
    for name, value in {**settings, **(fields or {})}.items():
        if value is not None:
            _add(writer, name, value)
    generator = np.random.default_rng(seed)
    shapes = _shapes(architecture, len(settings["tokenizer.ggml.tokens"]))
    given = tensors or {}
    for name, shape in {**shapes, **{name: one.shape for name, one in given.items()}}.items():
        if name not in without:
            kind = (kinds or {}).get(name, "F32" if name in given else weights)
            _add_tensor(writer, name, shape, kind, generator, given.get(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary() -> tuple[list[str], list[int]]:
    """Tokens of the repository's model, and their kinds."""
    tokenizer = json.loads((NEEDLE / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = list(tokenizer["model"]["vocab"])
    special = {token["content"] for token in tokenizer["added_tokens"]}
    kinds = [TokenType.CONTROL if one in special else TokenType.NORMAL for one in tokens]
    return tokens, [int(kind) for kind in kinds]


def _settings(
    architecture: str, template: str | None, tokens: list[str] | None, merges: int | None
) -> dict[str, Any]:
    tokenizer = json.loads((NEEDLE / "tokenizer.json").read_text(encoding="utf-8"))
    config = json.loads((NEEDLE / "tokenizer_config.json").read_text(encoding="utf-8"))
    own_tokens, kinds = vocabulary()
    pairs = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    settings = {
        "block_count": NUM_LAYERS,
        "context_length": CONTEXT_LENGTH,
        "embedding_length": HIDDEN,
        "feed_forward_length": INTERMEDIATE,
        "attention.head_count": NUM_HEADS,
        "attention.head_count_kv": NUM_KV_HEADS,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "rope.freq_base": ROPE_BASE,
    }
    return {
        "general.name": "Tiny",
        "general.file_type": 7,
        **{f"{architecture}.{name}": value for name, value in settings.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens or own_tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": pairs if merges is None else pairs[: max(1, merges)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": config["chat_template"] if template == "" else template,
    }


def _shapes(architecture: str, vocab_size: int) -> dict[str, tuple[int, ...]]:
    queries, keys = NUM_HEADS * HEAD_SIZE, NUM_KV_HEADS * HEAD_SIZE
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab_size, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (vocab_size, HIDDEN),
    }
    for number in range(NUM_LAYERS):
        layer = {
            "attn_norm.weight": (HIDDEN,),
            "attn_q.weight": (queries, HIDDEN),
            "attn_k.weight": (keys, HIDDEN),
            "attn_v.weight": (keys, HIDDEN),
            "attn_output.weight": (HIDDEN, queries),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (INTERMEDIATE, HIDDEN),
            "ffn_up.weight": (INTERMEDIATE, HIDDEN),
            "ffn_down.weight": (HIDDEN, INTERMEDIATE),
        }
        if architecture in _BIASED:
            layer |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        if architecture in _NORMED_HEADS:
            layer |= {"attn_q_norm.weight": (HEAD_SIZE,), "attn_k_norm.weight": (HEAD_SIZE,)}
        shapes |= {f"blk.{number}.{name}": shape for name, shape in layer.items()}
    return shapes


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)


def _add_tensor(
    writer: GGUFWriter,
    name: str,
    shape: tuple[int, ...],
    kind: str,
    generator: np.random.Generator,
    values: NDArray[np.float32] | None,
) -> None:
    if values is None:
        center = 1.0 if name.endswith("norm.weight") else 0.0
        values = generator.normal(center, 0.05, shape).astype(np.float32)
    if len(shape) == 1:
        writer.add_tensor(name, values)
        return
    number = GGMLQuantizationType[kind]
    by_blocks = kind in _SCALES
    data = _random_blocks(shape, kind, generator) if by_blocks else quantize(values, number)
    writer.add_tensor(name, data, raw_dtype=number)


def _random_blocks(
    shape: tuple[int, ...], kind: str, generator: np.random.Generator
) -> NDArray[np.uint8]:
    rows, columns = shape
    values, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = generator.integers(0, 256, (rows, columns // values, num_bytes), np.uint8)
    scale = np.array(_SCALE.get(kind, 1e-4), np.float16)
    for begin in _SCALES[kind]:
        blocks[:, :, begin : begin + 2] = scale.reshape(1).view(np.uint8)
    return blocks.reshape(rows, -1)
