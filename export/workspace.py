"""Where an export is made: hidden beside its output, and moved into place when it is whole."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import ExportError
from ov_kvcrush.model_folder import GRAPH_FILE
from ov_kvcrush.plan import PLAN_FILE


@dataclass(frozen=True)
class Workspace:
    """Folders of one export in the making, on the file system of ``output``.

    ``model`` becomes ``output``; ``scratch`` is the temporary folder of the libraries meanwhile.
    """

    output: Path
    root: Path

    @property
    def model(self) -> Path:
        """The exported model, as far as it is made."""
        return self.root / "model"

    @property
    def scratch(self) -> Path:
        """What the libraries put in temporary files."""
        return self.root / "scratch"

    @property
    def replaced(self) -> Path:
        """What was at ``output`` before, while the new model moves in."""
        return self.root / "replaced"

    def publish(self) -> None:
        """Move the model to ``output``."""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        if self.output.exists():
            os.rename(self.output, self.replaced)
        os.rename(self.model, self.output)

    def remove(self) -> None:
        """Delete all that is left; puts back what was at ``output`` if nothing new came there."""
        if self.replaced.exists() and not self.output.exists():
            os.rename(self.replaced, self.output)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def open_workspace(output: Path) -> Iterator[Workspace]:
    """A workspace for ``output`` (an absolute path), removed at the end whatever happens.

    Meanwhile it is also the process's temporary folder: the libraries put whole models there, which
    a small ``/tmp`` cannot hold, and only one disk needs the room.

    Raises:
        ExportError: nothing can be written there.
    """
    workspace = _workspace(output, os.getpid())
    former = tempfile.tempdir
    try:
        reclaim(output)
        workspace.root.mkdir()
        lock = _open_lock(workspace.root)
        workspace.model.mkdir()
        workspace.scratch.mkdir()
    except OSError as error:
        raise ExportError(
            f"cannot write in {workspace.root.parent}: {error.strerror}",
            "Choose another output folder.",
        ) from error
    try:
        tempfile.tempdir = str(workspace.scratch)
        yield workspace
    finally:
        tempfile.tempdir = former
        workspace.remove()
        os.close(lock)


def reclaim(output: Path) -> None:
    """Clear up after all exports to ``output`` (an absolute path) whose processes are dead.

    One that was killed while it put the new model in place of the old one gives that back.
    """
    name = re.compile(rf"\.{re.escape(output.name)}\.partial-\d+")
    with suppress(OSError):  # a folder that cannot be listed is refused elsewhere
        for root in nearest_folder(output).iterdir():
            if name.fullmatch(root.name) and _is_abandoned(root):
                Workspace(output, root).remove()


def remove_workspace(output: Path, process: int | None) -> None:
    """Clear up after a process that died while it exported to ``output``."""
    if process is not None:
        _workspace(output, process).remove()


def check_output(output: Path, overwrite: bool) -> None:
    """Refuse an output folder that cannot, or must not, be written.

    Raises:
        ExportError: it is a file, holds something, or lies where nothing can be written.
    """
    if output.exists():
        if not output.is_dir():
            raise ExportError(f"{output} is a file", "Give the name of a folder to make.")
        if any(output.iterdir()):
            _check_replaceable(output, overwrite)
    folder = nearest_folder(output)
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is a file: no folder can be made in it", "Choose another output folder."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"no permission to write in {folder}", "Choose another output folder.")


def nearest_folder(output: Path) -> Path:
    """The closest parent of ``output`` that exists."""
    return next(parent for parent in output.parents if parent.exists())


def _workspace(output: Path, process: int) -> Workspace:
    return Workspace(output, nearest_folder(output) / f".{output.name}.partial-{process}")


def _open_lock(root: Path) -> int:
    """A descriptor that marks ``root`` as in use for as long as it is open.

    The system lets go of the lock when the process dies. Process numbers would not do: they come
    round again, and two containers may share a disk and not their numbers.
    """
    descriptor = os.open(root, os.O_RDONLY)
    # Some network disks cannot lock a folder. Those cannot lock it for others either, so that a
    # folder there is never taken for abandoned.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _is_abandoned(root: Path) -> bool:
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _check_replaceable(output: Path, overwrite: bool) -> None:
    if not overwrite:
        raise ExportError(
            f"{output} exists and is not empty", "Choose another folder, or add --overwrite."
        )
    if not any((output / name).exists() for name in (GRAPH_FILE, PLAN_FILE)):
        raise ExportError(
            f"{output} holds something other than an exported model, which is not overwritten",
            "Choose another folder, or delete this one yourself.",
        )
