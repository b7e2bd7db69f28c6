"""The weights of a Hugging Face model before the export: which files they are, and their sizes.

Only the headers of the files are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ExportError

_BYTES_PER_HALF = 2
_EMBEDDINGS = re.compile(
    r"embed_tokens|word_embeddings|wte|embed_out|embed_in|lm_head|output_layer"
)


@dataclass(frozen=True)
class Checkpoint:
    """Sizes of a checkpoint.

    Attributes:
        num_bytes: all of its weights as stored.
        num_parameters: all of its weights; estimated where the file format does not tell.
        num_embedding_parameters: those of token embeddings and of the head, which compression to
            4 bits leaves in 8.
        num_vector_parameters: those in norms and biases, which compression leaves alone.
    """

    num_bytes: int
    num_parameters: int
    num_embedding_parameters: int = 0
    num_vector_parameters: int = 0


def weight_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Those of ``names`` that hold the weights transformers would load."""
    infix = re.escape(f".{variant}") if variant else ""
    names = list(names)
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        pattern = re.compile(rf"{stem}{infix}(-\d+-of-\d+)?\.{suffix}")
        files = sorted(name for name in names if pattern.fullmatch(name))
        if files:
            return files
    return []


def read_checkpoint(files: Iterable[Path]) -> Checkpoint:
    """Sizes of the checkpoint in ``files``.

    Raises:
        ExportError: a file is damaged.
    """
    total = parameters = embeddings = vectors = 0
    for path in files:
        if path.suffix != ".safetensors":
            size = path.stat().st_size
            total += size
            parameters += size // _BYTES_PER_HALF
            continue
        for name, tensor in _read_header(path).items():
            count = math.prod(tensor["shape"])
            begin, end = tensor["data_offsets"]
            total += end - begin
            parameters += count
            if len(tensor["shape"]) < 2:
                vectors += count
            elif _EMBEDDINGS.search(name):
                embeddings += count
    return Checkpoint(total, parameters, embeddings, vectors)


def tensor_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Shapes of the checkpoint's tensors by name.

    Raises:
        ExportError: a file is damaged.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            header = _read_header(path)
            shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.items()}
        else:
            shapes |= _shapes_in_pickle(path)
    return shapes


def _shapes_in_pickle(path: Path) -> dict[str, tuple[int, ...]]:
    import torch  # seconds; most checkpoints do without

    try:
        stored = torch.load(path, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in stored.items()}
    except Exception as error:  # of zipfile, pickle and torch
        raise ExportError(
            f"{path} is damaged, or more than weights", "Download the model again."
        ) from error


def _read_header(path: Path) -> dict[str, dict[str, list[int]]]:
    # The format (huggingface/safetensors): length of the header in 8 bytes, the header as JSON.
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length) if length < path.stat().st_size else b"")
        except ValueError as error:
            raise ExportError(
                f"{path} is damaged or only partly downloaded", "Download the model again."
            ) from error
    end = max((t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0)
    if path.stat().st_size < 8 + length + end:
        raise ExportError(f"{path} is cut off", "Download the model again.")
    return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
