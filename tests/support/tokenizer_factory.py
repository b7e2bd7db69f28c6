"""Small tokenizers of other kinds than the repository's, as OpenVINO IR."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SPECIAL = ["<|im_start|>", "<|im_end|>", "<｜user｜>"]
MARKUP = ["<think>", "</think>", "<｜tool｜>"]
TEXT_TOKENS = ["\n\n", "<b>"]

_TEXTS = ["Below is a text. How many coins does it cost?", "<b>Say</b>\n\n<think>so.", "é, 7 of 9"]


def make_tokenizers(folder: Path) -> Path:
    """Write two tokenizers to folders in ``folder``, in a process of their own; returns it.

    ``byte_level`` is like Qwen's, with added tokens that are special (``SPECIAL``), that steer a
    chat though they are not (``MARKUP``), and that are mere text (``TEXT_TOKENS``); ``metaspace``
    is like Llama 2's and begins each text with a space.
    """
    subprocess.run(
        [sys.executable, "-m", __name__, str(folder)],
        env={**os.environ, "USE_TORCH": "0"},
        check=True,
    )
    return folder


def _byte_level() -> object:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in SPECIAL])
    added = [AddedToken(one, normalized=False) for one in (*MARKUP, *TEXT_TOKENS)]
    tokenizer.add_tokens(added)
    return tokenizer


def _metaspace() -> object:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocab = {piece: number for number, piece in enumerate([*pieces, *map(chr, range(33, 127))])}
    model = models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", *SPECIAL])
    return tokenizer


def _write(folder: Path, tokenizer: object) -> None:
    import openvino
    from openvino_tokenizers import convert_tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[1])
    folder.mkdir(parents=True, exist_ok=True)
    models = convert_tokenizer(fast, with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), models, strict=True):
        openvino.save_model(model, folder / f"openvino_{name}.xml")


if __name__ == "__main__":
    _write(Path(sys.argv[1]) / "byte_level", _byte_level())
    _write(Path(sys.argv[1]) / "metaspace", _metaspace())
