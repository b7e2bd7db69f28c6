"""An exported model's folder: its files by name, what is missing, and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ov_kvcrush.errors import ModelError, last_line

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

GRAPH_FILE = "openvino_model.xml"
WEIGHTS_FILE = "openvino_model.bin"
TOKENIZER_FILES = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")
GENERATION_FILE = "generation_config.json"
CONFIG_FILE = "config.json"
TEMPLATE_FILE = "chat_template.jinja"

# As the models' own configurations call it.
_CONTEXT_LENGTH = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

_EXPORT_AGAIN = "Export the model again with: ov-kvcrush export -m MODEL OUTPUT"

_PROBES = 64
_PROBE_BYTES = 4096


def require_graph(folder: Path) -> Path:
    """The graph file of the model in ``folder``.

    Raises:
        ModelError: there is no such folder, or no OpenVINO model in it.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        raise ModelError(
            f"no such model folder: {folder}", "Make one with: ov-kvcrush export"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"the model folder {folder} cannot be read: {reason}") from error
    if not is_folder:
        raise ModelError(f"{folder} is a file, not a folder with a model", _instead_of(folder))
    path = folder / GRAPH_FILE
    if not path.exists():
        raise ModelError(
            f"{folder} holds no OpenVINO model ({GRAPH_FILE})",
            "Make one of the model with: ov-kvcrush export -m MODEL OUTPUT",
        )
    _require_xml(path)
    return path


def _require_xml(path: Path) -> None:
    # Or each of OpenVINO's readers of other formats has a try, and complains on stderr.
    try:
        with path.open("rb") as stream:
            is_xml = stream.read(64).lstrip().startswith(b"<")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}", _EXPORT_AGAIN) from error
    if not is_xml:
        raise ModelError(f"{path} is damaged: it is not XML", _EXPORT_AGAIN)


def _instead_of(file: Path) -> str:
    if file.name == GRAPH_FILE or file.name == WEIGHTS_FILE:
        return f"Give its folder: {file.parent}"
    model = shlex.quote(str(file)) if file.suffix == ".gguf" else "MODEL"
    return f"Make one with: ov-kvcrush export -m {model} OUTPUT"


def require_tokenizer(folder: Path) -> None:
    """Raise ModelError where a file of the tokenizer beside the IR is missing."""
    for name in TOKENIZER_FILES:
        if not os.path.exists(folder / name):  # Path.exists raises where the name is too long
            require_graph(folder)  # that there is no model at all is said first
            raise ModelError(f"{folder} holds no {name}", _EXPORT_AGAIN)
        _require_xml(folder / name)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer beside the IR; ModelError says what is missing."""
    from openvino_genai import Tokenizer

    require_tokenizer(folder)
    try:
        return Tokenizer(folder)
    except RuntimeError as error:
        reason = last_line(error)
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {reason}", _EXPORT_AGAIN
        ) from error


def context_length(folder: Path) -> int:
    """Tokens the model in ``folder`` was made to read, as its config says; 0 where it does not."""
    config = _read_config(folder)
    text = config.get("text_config")
    for part in (text if isinstance(text, dict) else {}, config):
        for name in _CONTEXT_LENGTH:
            if isinstance(length := part.get(name), int) and length > 0:
                return length
    return 0


def has_chat_template(folder: Path) -> bool:
    """Whether there is one beside the model in ``folder``, or in its tokenizer."""
    if (folder / TEMPLATE_FILE).exists():
        return True
    try:
        return b"<chat_template " in (folder / TOKENIZER_FILES[0]).read_bytes()
    except OSError:
        return False


def model_type(folder: Path) -> str:
    """Name of its architecture (``llama``, ``qwen2``, …), as its config says, or ``unknown``."""
    name = _read_config(folder).get("model_type")
    return name if isinstance(name, str) and name else "unknown"


def _read_config(folder: Path) -> dict[str, Any]:
    """The model's config; empty where there is none that can be read."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # made without one; the graph needs none
        return {}
    return config if isinstance(config, dict) else {}


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
