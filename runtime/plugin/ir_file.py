"""The graph of an exported model, read from its file, also ahead of time."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock

import openvino as ov

from ov_kvcrush.errors import ModelError, last_line
from ov_kvcrush.model_folder import require_graph
from ov_kvcrush.runtime.plugin.background import begin
from ov_kvcrush.runtime.plugin.core import core
from ov_kvcrush.runtime.plugin.properties import ENABLE_MMAP

# What is read ahead of time, by what it is read from: one at most, for whoever asks for it first.
_ahead: dict[Hashable, Future[ov.Model]] = {}
_lock = Lock()

compiled_ahead: set[Path] = set()
"""Folders of models whose compilation has begun: nobody is about to read them again."""


def read_ir(folder: Path, memory_mapped: bool = True) -> ov.Model:
    """The IR in ``folder``, as it was exported.

    Args:
        folder: exported model.
        memory_mapped: whether its weights stay in their file until they are needed.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    path = require_graph(folder)
    with _lock:
        begun = _ahead.pop(_identity(path), None) if memory_mapped else None
    try:
        if begun is not None:
            return begun.result()
        return core().read_model(path, config={ENABLE_MMAP: memory_mapped})
    except RuntimeError as error:
        raise ModelError(
            f"{path} cannot be read: {last_line(error)}", "Export the model again."
        ) from error


def begin_reading(folder: Path) -> None:
    """Read the IR in ``folder`` on another thread, for the next :func:`read_ir` of it.

    OpenVINO reads without the interpreter, which has modules to import meanwhile. Whatever is wrong
    with the folder, ``read_ir`` says. Nothing where it is being compiled already.
    """
    if folder in compiled_ahead:
        return
    try:
        path = require_graph(folder)
        identity = _identity(path)
    except (ModelError, OSError):
        return
    read = partial(core().read_model, path, config={ENABLE_MMAP: True})
    with _lock:
        if identity not in _ahead:
            _ahead.clear()
            _ahead[identity] = begin(read, "ov-kvcrush-reading")


def _identity(path: Path) -> Hashable:
    """Of the graph file and its weights: other ones in their place are not what was read."""
    files = (path, path.with_suffix(".bin"))
    stats = [file.stat() if file.exists() else None for file in files]
    return (str(path), *((s.st_ino, s.st_size, s.st_mtime_ns) if s else None for s in stats))
