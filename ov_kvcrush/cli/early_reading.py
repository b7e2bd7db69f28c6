"""The model that a command line names, read while the rest of the command is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ov_kvcrush.model_folder import GRAPH_FILE

READERS = frozenset({"chat", "crush", "serve"})
"""Commands that load a model in this process, as soon as their arguments are understood."""

# OpenVINO's converter of other frameworks' models: half of what OpenVINO takes to import, and not
# needed where a model is only run.
_CONVERTER, _CONVERT = "openvino.tools.ovc", "convert_model"


def begin_reading_of(command: str, arguments: Sequence[str]) -> None:
    """Begin to read the model among the ``arguments`` of ``command``; nothing where none is.

    OpenVINO reads without the interpreter, which has a command and an engine to import meanwhile.
    What is wrong with the arguments or the model is said by whoever needs them.
    """
    if command not in READERS or "--help" in arguments:
        return
    folder = next((one for one in arguments if os.path.exists(os.path.join(one, GRAPH_FILE))), None)
    if folder is None:
        return
    # Here, because it must come before OpenVINO: how that is to run on this machine.
    import_module("ov_kvcrush.runtime")
    _import_openvino()
    from ov_kvcrush.runtime.plugin.ir_file import begin_reading

    begin_reading(Path(folder))


def _import_openvino() -> None:
    """Import OpenVINO, and its converter only when somebody asks for it."""
    if "openvino" in sys.modules:
        return
    sys.modules[_CONVERTER] = None  # type: ignore[assignment]  # as if it was not installed
    try:
        openvino = import_module("openvino")
    finally:
        del sys.modules[_CONVERTER]

    def imported_late(name: str) -> Any:
        if name != _CONVERT:
            raise AttributeError(f"module 'openvino' has no attribute {name!r}")
        return getattr(import_module(_CONVERTER), _CONVERT)

    vars(openvino).setdefault("__getattr__", imported_late)
