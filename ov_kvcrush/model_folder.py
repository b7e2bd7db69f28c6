"""An exported model's folder: its files by name, what is missing, and its tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ov_kvcrush.errors import ModelError, last_line

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
TOKENIZER_FILES = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
GENERATION_FILE = "generation_config.json"

_PROBES = 64
_PROBE_BYTES = 4096


def require_graph(folder: Path) -> Path:
    """The graph file of the model in ``folder``.

    Raises:
        ModelError: there is no such folder, or no OpenVINO model in it.
    """
    if not folder.is_dir():
        raise ModelError(f"no such model folder: {folder}", "Make one with: ov-kvcrush export")
    path = folder / GRAPH_FILE
    if not path.exists():
        raise ModelError(
            f"{folder} holds no OpenVINO model ({GRAPH_FILE})",
            "Make one of the model with: ov-kvcrush export -m MODEL OUTPUT",
        )
    return path


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer beside the IR; ModelError says what is missing."""
    from openvino_genai import Tokenizer

    for name in TOKENIZER_FILES:
        if not (folder / name).exists():
            require_graph(folder)  # that there is no model at all is said first
            raise ModelError(
                f"{folder} holds no {name}",
                "Export the model again with: ov-kvcrush export -m MODEL OUTPUT",
            )
    try:
        return Tokenizer(folder)
    except RuntimeError as error:
        reason = last_line(error)
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error


def fingerprint(folder: str | Path) -> str:
    """Identity of the IR in ``folder``: its graph whole, its weights by size and spread probes.

    A few hundred kilobytes are read whatever the size of the weights, so that loading stays quick;
    two fine-tunes of one architecture still differ.
    """
    digest = hashlib.sha256()
    digest.update((Path(folder) / GRAPH_FILE).read_bytes())
    weights = Path(folder) / WEIGHTS_FILE
    size = weights.stat().st_size
    digest.update(str(size).encode())
    with weights.open("rb") as stream:
        for probe in range(_PROBES):
            stream.seek(max(0, size - _PROBE_BYTES) * probe // (_PROBES - 1))
            digest.update(stream.read(_PROBE_BYTES))
    return digest.hexdigest()
