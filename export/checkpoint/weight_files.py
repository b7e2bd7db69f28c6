"""The weights of a Hugging Face model before the export: which files they are, and their sizes.

Only the headers of the files are read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import NamedTuple
from zipfile import is_zipfile

from ov_kvcrush.errors import ExportError

_DOWNLOAD = "Download the model again."
_NAMED = 3
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


class StoredTensor(NamedTuple):
    """A tensor in a file: its shape, and where in the file's data it lies."""

    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(names: Iterable[str], variant: str | None = None) -> list[str]:
    """Those of ``names`` that hold the weights transformers would load."""
    infix = re.escape(f".{variant}") if variant else ""
    names = list(names)
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        for shard in ("", r"-\d+-of-\d+"):  # one file goes before several
            pattern = re.compile(rf"{stem}{infix}{shard}\.{suffix}")
            files = sorted(name for name in names if pattern.fullmatch(name))
            if files:
                return files
    return []


def listed_files(folder: Path, files: list[str], variant: str | None = None) -> list[str]:
    """``files`` of ``folder``; where they are parts of a checkpoint, those that its index lists.

    Raises:
        ExportError: the index is missing or damaged, or lists a file that is not there.
    """
    part = re.search(r"-\d+-of-\d+", files[0])
    if part is None:
        return files
    suffix = Path(files[0]).suffix
    infix = f".{variant}" if variant else ""
    path = folder / f"{files[0][: part.start()].removesuffix(infix)}{suffix}.index{infix}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        listed = sorted(set(stored["weight_map"].values()))
    except OSError as error:
        raise ExportError(
            f"{folder} holds its weights in parts, and their index {path.name} cannot be read: "
            f"{error.strerror}",
            _DOWNLOAD,
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is damaged: it lists no weights", _DOWNLOAD) from error
    missing = [name for name in listed if not (folder / str(name)).is_file()]
    if missing or not listed:
        what = ", ".join(map(str, missing[:_NAMED])) or "no file at all"
        raise ExportError(f"{path} lists {what}, which is not there", _DOWNLOAD)
    return listed


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
            count = math.prod(tensor.shape)
            total += tensor.end - tensor.begin
            parameters += count
            if len(tensor.shape) < 2:
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
            shapes |= {name: tensor.shape for name, tensor in header.items()}
        else:
            shapes |= _shapes_in_pickle(path)
    return shapes


def _shapes_in_pickle(path: Path) -> dict[str, tuple[int, ...]]:
    import torch  # seconds; most checkpoints do without

    try:
        # Mapped, so that no weight is read; the format before PyTorch 1.6 cannot be.
        mapped = is_zipfile(path)
        stored = torch.load(path, map_location="meta", weights_only=True, mmap=mapped)
        return {name: tuple(tensor.shape) for name, tensor in stored.items()}
    except Exception as error:  # of zipfile, pickle and torch
        raise ExportError(f"{path} is damaged, or more than weights", _DOWNLOAD) from error


def _read_header(path: Path) -> dict[str, StoredTensor]:
    # The format (huggingface/safetensors): length of the header in 8 bytes, the header as JSON.
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length) if length < size else b"")
        header.pop("__metadata__", None)
        tensors = {name: _stored(entry) for name, entry in header.items()}
    except OSError as error:
        raise ExportError(
            f"cannot read {path}: {error.strerror}", "See that you may read the model's files."
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ExportError(f"{path} is damaged or only partly downloaded", _DOWNLOAD) from error
    if size < 8 + length + max((tensor.end for tensor in tensors.values()), default=0):
        raise ExportError(f"{path} is cut off", _DOWNLOAD)
    if not tensors:
        raise ExportError(f"{path} holds no weights", _DOWNLOAD)
    return tensors


def _stored(entry: dict[str, list[int]]) -> StoredTensor:
    begin, end = map(index, entry["data_offsets"])
    shape = tuple(map(index, entry["shape"]))
    if not 0 <= begin <= end or any(size < 0 for size in shape):
        raise ValueError(entry)
    return StoredTensor(shape, begin, end)
