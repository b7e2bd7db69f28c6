"""A model whose compilation begins before the engine that it is for can be made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Event, Lock

from ov_kvcrush.errors import OVKVCrushError
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.paged.model_choice import ModelChoice, ModelRequest
from ov_kvcrush.runtime.plugin.background import begin
from ov_kvcrush.runtime.plugin.ir_file import compiled_ahead

_Ahead = tuple[ModelChoice, Future[PagedModel]]

# What is compiled ahead: one at most, for whoever asks for the same first.
_ahead: list[_Ahead] = []
_lock = Lock()


def begin_compiling(request: ModelRequest) -> None:
    """Compile on another thread, for the next engine that makes the same ``request``.

    Returns when the graph is ready: the plugin compiles without the interpreter, which has modules
    to import meanwhile, and what comes before needs the interpreter itself. Whatever is wrong, the
    engine says.
    """
    try:
        choice = ModelChoice.of(request)
    except OVKVCrushError:
        return
    is_ready = Event()
    with _lock:
        future = begin(lambda: choice.compile(is_ready.set), "ov-kvcrush-compiling")
        _ahead[:] = [(choice, future)]
        compiled_ahead.clear()
        compiled_ahead.add(request.folder)
    future.add_done_callback(lambda _: is_ready.set())
    is_ready.wait()


def compiled_model(
    request: ModelRequest, before_compiling: Callable[[], object] | None = None
) -> tuple[ModelChoice, PagedModel]:
    """What is compiled for ``request``, and the model: the one begun ahead, if it is the same.

    ``before_compiling`` is called when only the compilation is left to wait for.

    Raises:
        ModelError, DeviceError, ConfigError, UnsupportedError: it cannot be had.
    """
    with _lock:
        begun = _ahead.pop() if _ahead else None
        compiled_ahead.clear()
    if begun is None or begun[0].request != request:
        choice = ModelChoice.of(request)
        return choice, choice.compile(before_compiling)
    if before_compiling is not None:
        before_compiling()
    choice, future = begun
    return choice, future.result()
