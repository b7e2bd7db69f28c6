"""The models the benchmarks run on: random weights of a set shape, made here once and kept.

Speed depends on the shape of a model, not on what it has learnt. The weights are 8-bit.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "benchmarks"
TOKENIZER = ROOT / "samples" / "models" / "needle"
TOKENIZER_VOCAB = 5120
SEED = 0


@dataclass(frozen=True)
class Shape:
    """A Llama: counts of layers and heads, widths in elements."""

    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    feed_forward: int
    vocab: int
    ties_embeddings: bool = False


SHAPES = {
    # 16 layers, 1024 wide, as many KV heads as query heads: about 200 million parameters.
    "mha": Shape(16, 1024, 16, 16, 2816, TOKENIZER_VOCAB),
    # The shape of a Llama of the 1B class with grouped queries: about 1.2 billion parameters.
    "gqa": Shape(16, 2048, 32, 8, 8192, 128256, ties_embeddings=True),
    # For trying the scripts out: its figures mean nothing.
    "tiny": Shape(2, 256, 4, 2, 512, TOKENIZER_VOCAB),
}


def model_folder(name: str) -> Path:
    """The exported model called ``name`` in ``SHAPES``, made if it is not there yet."""
    return _made(name, SHAPES[name])


def model_of_layers(count: int) -> Path:
    """A model of ``count`` narrow layers: what a step costs beside its inferences is what counts.

    It is exported without a calibration, which would take minutes and tell nothing.
    """
    shape = Shape(count, 64, 4, 2, 64, TOKENIZER_VOCAB)
    return _made(f"layers-{count}", shape, calibrate=False)


def _made(name: str, shape: Shape, calibrate: bool = True) -> Path:
    folder = CACHE / name
    if folder.exists():
        return folder
    print(f"making the model {name!r} in {folder} (once)", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as checkpoint:
        _save_checkpoint(shape, Path(checkpoint))
        _export(Path(checkpoint), folder, calibrate)
    return folder


def _save_checkpoint(shape: Shape, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.query_heads,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=shape.ties_embeddings,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(SEED)
    # transformers' own initialization (normal, 0.02) behind RMSNorm keeps the logits small.
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)


def _export(checkpoint: Path, folder: Path, calibrate: bool) -> None:
    from ov_kvcrush.export import ExportOptions, export_model

    export_model(
        ExportOptions(
            model=str(checkpoint), output=folder, weight_format="int8", calibrate=calibrate
        )
    )
