"""Models of a set shape with random weights: what they say means nothing, how fast they are does.

Speed depends on a model's shape, not on what it has learnt.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from ov_kvcrush.benchmark.random_gate import random_gate
from ov_kvcrush.errors import ConfigError, ExportError, did_you_mean
from ov_kvcrush.model_folder import GRAPH_FILE, fingerprint
from ov_kvcrush.progress import Progress

_SEED = 0
VOCABULARY = 5120
"""Tokens that all of them know."""
_CONTEXT_LENGTH = 32768
_SPECIAL_TOKENS = ("<pad>", "<s>", "</s>")
_PAD, _BEGIN, _END = range(len(_SPECIAL_TOKENS))


@dataclass(frozen=True)
class Shape:
    """A Llama.

    Attributes:
        layers: of attention and feed-forward.
        hidden: width in elements.
        query_heads: by layer.
        kv_heads: by layer.
        feed_forward: width in elements.
        vocabulary: tokens it can write.
        ties_embeddings: whether the table of tokens makes the logits too.
    """

    layers: int
    hidden: int
    query_heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int = VOCABULARY
    ties_embeddings: bool = False


SHAPES = {
    # As many KV heads as query heads: about 0.2 billion parameters.
    "mha": Shape(16, 1024, 16, 16, 2816),
    # The shape of a Llama of the 1B class, with grouped queries: about 1.2 billion.
    "gqa": Shape(16, 2048, 32, 8, 8192, 128256, ties_embeddings=True),
    # To see that a benchmark runs: its figures mean nothing.
    "tiny": Shape(2, 256, 4, 2, 512),
}
"""By the name that the command line has for them."""


def default_folder() -> Path:
    """Where random models are kept unless somebody says otherwise: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "ov-kvcrush" / "random-models"


def make_random_model(name: str, keep_in: Path, progress: Progress, verbose: bool = False) -> Path:
    """The folder of the model called ``name`` in ``SHAPES``, made if it is not there yet.

    Args:
        name: of the shape.
        keep_in: folder for it and others; made if it is not there.
        progress: is told how far it is.
        verbose: whether the libraries' own output is shown.

    Raises:
        ConfigError: there is no such shape.
        ExportError: a package of the export extra is missing, or as ``export_model``.
    """
    if name not in SHAPES:
        raise ConfigError(f"unknown random model {name!r}", did_you_mean(name, SHAPES))
    return make_model_of_shape(SHAPES[name], keep_in / name, progress, verbose)


def make_model_of_shape(
    shape: Shape, folder: Path, progress: Progress, verbose: bool = False
) -> Path:
    """Export a model of ``shape`` to ``folder``, unless it is there; as :func:`make_random_model`.

    Its weights are 8-bit. It has a gate, as models that were calibrated have, but one of random
    weights too: measuring what nothing was learnt of would take minutes and tell nothing.
    """
    if (folder / GRAPH_FILE).exists():
        return folder
    from ov_kvcrush.export.child_process import work_in_child

    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise ExportError(
                f"making a random model needs the package {package}, which is missing",
                'Run: pip install "ov-kvcrush[export]"',
            )
    progress.note(f"a model of random weights is made in {folder}, once")
    folder = Path(os.path.abspath(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"{folder.parent} cannot be made: {error.strerror}") from error
    work_in_child(
        partial(_make, shape, folder),
        progress,
        verbose,
        "random model",
        clear_up=partial(_clear_up, folder),
    )
    return folder


def _make(shape: Shape, folder: Path, progress: Progress) -> None:
    from ov_kvcrush.export import ExportOptions, export_model

    making = _making(folder, os.getpid())
    checkpoint, model = making / "checkpoint", making / "model"
    try:
        checkpoint.mkdir(parents=True)
    except OSError as error:
        raise ExportError(f"cannot write in {folder.parent}: {error.strerror}") from error
    _save_checkpoint(shape, checkpoint)
    options = ExportOptions(
        model=str(checkpoint), output=model, weight_format="int8", calibrate=False
    )
    export_model(options, progress)
    replace(random_gate(model), fingerprint=fingerprint(model)).save(model)
    os.rename(model, folder)  # it appears whole or not at all


def _making(folder: Path, process: int) -> Path:
    return folder.with_name(f".{folder.name}.making-{process}")


def _clear_up(folder: Path, process: int) -> None:
    """Remove what the process has left, however it ended."""
    shutil.rmtree(_making(folder, process), ignore_errors=True)


def _save_checkpoint(shape: Shape, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.hidden // shape.query_heads,
        max_position_embeddings=_CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=shape.ties_embeddings,
        bos_token_id=_BEGIN,
        eos_token_id=_END,
        pad_token_id=_PAD,
        dtype="bfloat16",
    )
    torch.manual_seed(_SEED)
    # transformers' own initialization (normal, 0.02) behind RMSNorm keeps the logits small.
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    """Its pieces are those of the package's own prose."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from ov_kvcrush.export.texts.texts import OWN_PROSE

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(_SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([OWN_PROSE.read_text(encoding="utf-8")], trainer)
    pad, begin, end = _SPECIAL_TOKENS
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=begin, eos_token=end
    ).save_pretrained(folder)
