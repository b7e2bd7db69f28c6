"""A side in a process of its own: its memory is its own, and a crash in it harms no other."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from ov_kvcrush.benchmark.contestants import is_ours
from ov_kvcrush.benchmark.measurement import Measurement
from ov_kvcrush.benchmark.side import Side
from ov_kvcrush.benchmark.side_setup import SideSetup
from ov_kvcrush.benchmark.workload import Workload
from ov_kvcrush.errors import OVKVCrushError, OVKVCrushWarning
from ov_kvcrush.progress import Progress
from ov_kvcrush.signals import deferred_signals

_SECONDS_TO_END = 5.0


class SideError(Exception):
    """A side failed in a way that is nobody's mistake. The message is its traceback."""


class SideProcess:
    """A side that compiles and measures where nothing else is loaded.

    To be used in a ``with``, at whose end the process has ended.

    Args:
        setup: what the side is made of.
    """

    def __init__(self, setup: SideSetup) -> None:
        self.setup = setup
        # openvino_genai hangs where it is forked after it was loaded.
        context = get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child,), daemon=True)
        try:
            # What starts reads from this process what it is to do; half of it would be a traceback.
            with deferred_signals(), _interrupts_blocked():
                self._process.start()
        except BaseException:
            self._end()
            raise
        child.close()

    def __enter__(self) -> SideProcess:
        """It is there already; it compiles when it is told to."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it is doing."""
        self._end()

    def compile(self, progress: Progress) -> None:
        """Compile the side; what it warns of is noted to ``progress``.

        Raises:
            OVKVCrushError: as the engine, or its process has died.
            SideError: anything else.
        """
        for note in self._ask(self.setup):
            progress.note(note)

    def measure(self, workload: Workload, turn: int) -> Measurement:
        """Do ``workload`` once, with the prompts of ``turn``; errors as :meth:`compile`."""
        measured: Measurement = self._ask((workload, turn))
        return measured

    def _ask(self, message: object) -> Any:
        try:
            self._connection.send(message)
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        if failed:
            raise answer
        return answer

    def _end(self) -> None:
        self._connection.close()
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()

    def _died(self) -> OVKVCrushError:
        self._process.join(_SECONDS_TO_END)
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return OVKVCrushError(
                f"{self.setup.title} was killed by the system, most likely for want of memory",
                "Let fewer engines take turns (--engine), or give shorter prompts.",
            )
        name = signal.Signals(-code).name if code is not None and code < 0 else f"code {code}"
        return OVKVCrushError(
            f"{self.setup.title} crashed ({name})", "Leave it out: name the others with --engine."
        )


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """What is started meanwhile never gets Ctrl+C: the terminal's is for this process alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(parent: Connection) -> None:
    """What the process does: compiles when it is given a setup, measures when given a workload."""
    # What libraries print is not part of the command's output.
    with suppress(OSError):
        os.dup2(2, 1)
    side: Side | None = None
    while True:
        try:
            message = parent.recv()
        except EOFError:
            return
        try:
            if isinstance(message, SideSetup):
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("always", OVKVCrushWarning)
                    _keep_to(message.num_threads)
                    side = _make_side(message)
                answer: Any = [str(one.message) for one in warned]
            else:
                if side is None:
                    raise RuntimeError("a side measures once it is compiled")
                answer = side.measure(*message)
            parent.send((False, answer))
        except OVKVCrushError as error:
            parent.send((True, _picklable(error)))
        except Exception:
            parent.send((True, SideError(traceback.format_exc().strip())))


def _make_side(setup: SideSetup) -> Side:
    # Neither side has what only the other needs in its memory.
    if is_ours(setup.engine):
        from ov_kvcrush.benchmark.our_side import OurSide

        return OurSide(setup)
    from ov_kvcrush.benchmark.genai_side import GenaiSide

    return GenaiSide(setup)


def _keep_to(num_threads: int) -> None:
    """Run on so many processors: threads that no setting counts, as those that cut, keep to it."""
    if hasattr(os, "sched_setaffinity"):
        processors = sorted(os.sched_getaffinity(0))
        if num_threads < len(processors):
            os.sched_setaffinity(0, processors[:num_threads])


def _picklable(error: OVKVCrushError) -> OVKVCrushError:
    """``error``, or one of its message where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return OVKVCrushError(error.message, error.hint)
    return error
