"""Heavy work in a process of its own: stopped at once, quiet, and its memory is given back.

PyTorch, OpenVINO and NNCF call back and forth between Python and C++. A Ctrl+C that arrives there
may be swallowed, or abort the process; and a large model may get it killed for want of memory. So
the work is done by a child, and this process clears up after it.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import IO, Any, TypeVar

from ov_kvcrush.errors import ExportError, OVKVCrushError
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.output_folder import resolve_output
from ov_kvcrush.export.workspace import remove_workspace
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.progress import Progress

Result = TypeVar("Result")
Job = Callable[[Progress], Result]
Make = Callable[[ExportOptions, Progress], KVPlan]

# The child imports what its parent would, and nothing that happens to lie in the working folder.
_BOOT = """
import sys
sys.path.pop(0)
import pickle
sys.path[:] = pickle.load(sys.stdin.buffer)
from ov_kvcrush.export.child_process import work
work()
"""
_TAIL_LINES = 10
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
_FIRST_FREE_DESCRIPTOR = 3  # behind stdin, stdout and stderr


class ChildError(Exception):
    """The child failed in a way that is nobody's mistake. The message is its traceback."""


def run_in_child(
    make: Make, options: ExportOptions, progress: Progress, verbose: bool = False
) -> KVPlan:
    """Run ``make(options, progress)``, for instance ``export_model``, in a child process.

    Errors as :func:`work_in_child`.
    """
    options = replace(options, output=resolve_output(options.output))
    clear_up = partial(remove_workspace, options.output)
    return work_in_child(partial(make, options), progress, verbose, "export", clear_up)


def work_in_child(
    job: Job[Result],
    progress: Progress,
    verbose: bool = False,
    name: str = "export",
    clear_up: Callable[[int], None] | None = None,
) -> Result:
    """Run ``job(progress)`` in a child process; both it and its result have to be picklable.

    What the libraries write to stdout and stderr goes to stderr if ``verbose``, else nowhere.

    Args:
        job: what to do.
        progress: is told how far it is.
        verbose: whether the libraries' own output is shown.
        name: what it is, for errors.
        clear_up: removes what the child has left, by its process number.

    Raises:
        ConfigError, ExportError, …: as ``job``; ExportError also if the child was killed.
        ChildError: anything else.
    """
    receiver, sender = _pipe()
    with tempfile.TemporaryFile() as log:
        noise = sys.stderr if verbose else log
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=noise,
            stderr=noise,
            pass_fds=[sender.fileno()],
            start_new_session=True,  # the terminal's Ctrl+C is for this process alone
        )
        fd = sender.fileno()
        sender.close()
        try:
            _write(process, pickle.dumps(sys.path) + pickle.dumps((job, clear_up, fd, verbose)))
            result: Result = _follow(receiver, process, progress, log, name)
            return result
        finally:
            process.kill()
            process.wait()
            _close(process)
            if clear_up:
                clear_up(process.pid)


def _pipe() -> tuple[Connection, Connection]:
    """A pipe to be read and one to be written, clear of the standard streams' descriptors.

    Where this process has those closed, a new pipe is given their numbers, on which the child puts
    its own streams.
    """
    ends = []
    for descriptor in os.pipe():
        ends.append(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_DESCRIPTOR))
        os.close(descriptor)
    return Connection(ends[0], writable=False), Connection(ends[1], readable=False)


def _write(process: subprocess.Popen[bytes], message: bytes) -> None:
    if process.stdin is not None:
        process.stdin.write(message)
        process.stdin.flush()  # and stays open: that it ends tells the child that we have


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _follow(
    receiver: Connection,
    process: subprocess.Popen[bytes],
    progress: Progress,
    log: IO[bytes],
    name: str,
) -> Any:
    step = ""
    while True:
        try:
            kind, *content = receiver.recv()
        except EOFError:
            raise _died(process.wait(), log, name, step) from None
        if kind == "step":
            step = content[2]
            progress.step(*content)
        elif kind == "advance":
            progress.advance(*content)
        elif kind == "note":
            progress.note(*content)
        elif kind == "failed":
            raise content[0]
        else:
            return content[0]


def _died(exit_code: int, log: IO[bytes], name: str, step: str) -> Exception:
    if exit_code == -signal.SIGKILL:
        return ExportError(
            f"the {name} was killed by the system, most likely for want of memory",
            f"Close other programs, or run the {name} on a machine with more memory.",
        )
    log.seek(0)
    lines = log.read().decode(errors="replace").rstrip().split("\n")
    tail = "\n".join(lines[-_TAIL_LINES:])
    if step and -exit_code in _CRASHES:
        reason = f": {lines[-1].strip()}" if lines[-1].strip() else ""
        return ExportError(
            f"a library crashed at the step {step!r} of the {name}{reason}",
            "Nothing was written. The model's files may be damaged: check them, or get them again.",
        )
    return ChildError(f"{tail}\nthe {name} process ended with code {exit_code}".lstrip())


def work() -> None:
    """What the child does: reads its job from stdin, and tells its parent how it goes."""
    job, clear_up, fd, verbose = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_parent, args=(clear_up,), daemon=True).start()
    if not verbose:
        warnings.simplefilter("ignore")
    with Connection(fd, readable=False) as parent:
        try:
            parent.send(("done", job(_Forwarded(parent))))
        except OVKVCrushError as error:
            if verbose:
                traceback.print_exc()
            parent.send(("failed", error))
        except Exception:
            parent.send(("failed", ChildError(traceback.format_exc().strip())))


def _end_with_parent(clear_up: Callable[[int], None] | None) -> None:
    """End this process when its parent has: one that was killed cannot do it."""
    # Not through sys.stdin, whose lock this thread would still hold when Python shuts down.
    os.read(0, 1)
    try:
        if clear_up:
            clear_up(os.getpid())
    finally:
        os._exit(1)


class _Forwarded:
    """The parent's progress, as the child sees it."""

    def __init__(self, parent: Connection) -> None:
        self._parent = parent
        self._lock = Lock()  # downloads report from several threads

    def step(self, number: int, total: int, title: str) -> None:
        self._send("step", number, total, title)

    def advance(self, share: float) -> None:
        self._send("advance", share)

    def note(self, text: str) -> None:
        self._send("note", text)

    def _send(self, *message: object) -> None:
        with self._lock:
            self._parent.send(message)
