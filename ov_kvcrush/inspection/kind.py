"""What a path leads to: a model's folder, a KV plan, a session file, or something else."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.gate import GATE_FILE

MODEL, PLAN, SESSION = "model", "plan", "session"

_GIVE = "Give a model's folder, its ov_kvcrush.json, or a session file (*.safetensors)."
_MODEL_FILES = (".xml", ".bin")


def kind_of(path: Path) -> str:
    """``MODEL``, ``PLAN`` or ``SESSION``, by its name and first bytes; the rest is not looked at.

    Raises:
        OVKVCrushError: it is not there, cannot be read, or is clearly something else.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            os.listdir(path)
            return MODEL
        if not stat.S_ISREG(mode):
            raise OVKVCrushError(f"{path} is not a file or a folder of files", _GIVE)
        with path.open("rb") as stream:
            beginning = stream.read(64)
    except FileNotFoundError:
        raise OVKVCrushError(f"no such file or folder: {path}", _GIVE) from None
    except OSError as error:
        raise OVKVCrushError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise OVKVCrushError(f"{str(path)!r} cannot be read: {error}") from error
    _refuse_parts_of_models(path, beginning)
    if path.suffix == ".safetensors":
        return SESSION
    if path.suffix == ".json" or beginning.lstrip().startswith(b"{"):
        return PLAN
    if beginning[8:9] == b"{":  # the length of its header comes first
        return SESSION
    what = "neither a KV plan nor a session file" if beginning else "an empty file"
    raise OVKVCrushError(f"{path} is {what}", _GIVE)


def _refuse_parts_of_models(path: Path, beginning: bytes) -> None:
    if beginning.startswith(b"GGUF"):
        raise OVKVCrushError(
            f"{path} is a GGUF file, not a model for OpenVINO",
            f"Make one of it with: ov-kvcrush export -m {shlex.quote(str(path))} OUTPUT",
        )
    if path.name == GATE_FILE:
        raise OVKVCrushError(f"{path} is the gate of a model", f"Give its folder: {path.parent}")
    if path.suffix in _MODEL_FILES and path.name.startswith("openvino_"):
        raise OVKVCrushError(
            f"{path} is one of the files of a model", f"Give its folder: {path.parent}"
        )
