"""An export in a process of its own: stopped at once, quiet, and its memory is given back.

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
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from ov_kvcrush.errors import ExportError, OVKVCrushError
from ov_kvcrush.export.options import ExportOptions
from ov_kvcrush.export.output_folder import resolve_output
from ov_kvcrush.export.workspace import remove_workspace
from ov_kvcrush.plan import KVPlan
from ov_kvcrush.progress import Progress

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
_FIRST_FREE_DESCRIPTOR = 3  # behind stdin, stdout and stderr


class ChildError(Exception):
    """The child failed in a way that is nobody's mistake. The message is its traceback."""


def run_in_child(
    make: Make, options: ExportOptions, progress: Progress, verbose: bool = False
) -> KVPlan:
    """Run ``make(options, progress)``, for instance ``export_model``, in a child process.

    What the libraries write to stdout and stderr goes to stderr if ``verbose``, else nowhere.

    Raises:
        ConfigError, ExportError: as ``make``; ExportError also if the child was killed.
        ChildError: anything else.
    """
    options = replace(options, output=resolve_output(options.output))
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
            job = pickle.dumps(sys.path) + pickle.dumps((make, options, fd, verbose))
            _write(process, job)
            return _follow(receiver, process, progress, log)
        finally:
            process.kill()
            process.wait()
            _close(process)
            remove_workspace(options.output, process.pid)


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


def _write(process: subprocess.Popen[bytes], job: bytes) -> None:
    if process.stdin is not None:
        process.stdin.write(job)
        process.stdin.flush()  # and stays open: that it ends tells the child that we have


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()


def _follow(
    receiver: Connection, process: subprocess.Popen[bytes], progress: Progress, log: IO[bytes]
) -> KVPlan:
    while True:
        try:
            kind, *content = receiver.recv()
        except EOFError:
            raise _died(process.wait(), log) from None
        if kind == "step":
            progress.step(*content)
        elif kind == "advance":
            progress.advance(*content)
        elif kind == "note":
            progress.note(*content)
        elif kind == "failed":
            raise content[0]
        else:
            plan: KVPlan = content[0]
            return plan


def _died(exit_code: int, log: IO[bytes]) -> Exception:
    if exit_code == -signal.SIGKILL:
        return ExportError(
            "the export was killed by the system, most likely for want of memory",
            "Close other programs, or export on a machine with more memory.",
        )
    log.seek(0)
    lines = log.read().decode(errors="replace").rstrip().split("\n")
    tail = "\n".join(lines[-_TAIL_LINES:])
    return ChildError(f"{tail}\nthe export process ended with code {exit_code}".lstrip())


def work() -> None:
    """What the child does: reads its job from stdin, and tells its parent how it goes."""
    make, options, fd, verbose = pickle.load(sys.stdin.buffer)
    Thread(target=_end_with_parent, args=(options.output,), daemon=True).start()
    if not verbose:
        warnings.simplefilter("ignore")
    with Connection(fd, readable=False) as parent:
        try:
            parent.send(("done", make(options, _Forwarded(parent))))
        except OVKVCrushError as error:
            if verbose:
                traceback.print_exc()
            parent.send(("failed", error))
        except Exception:
            parent.send(("failed", ChildError(traceback.format_exc().strip())))


def _end_with_parent(output: Path) -> None:
    """End this process when its parent has: one that was killed cannot do it."""
    # Not through sys.stdin, whose lock this thread would still hold when Python shuts down.
    os.read(0, 1)
    try:
        remove_workspace(output, os.getpid())
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
