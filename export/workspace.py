"""Where an export is made: hidden near its output, and moved into place when it is whole."""

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


@dataclass(frozen=True)
class Workspace:
    """Folders of one export in the making, on the file system of ``output``.

    A new ``output`` is made beside its place, and is then renamed. One that exists stays the folder
    it is, which may be a mount point or somebody's current folder: the model is made inside it, and
    its files take the places of those that were there. ``scratch`` is the temporary folder of the
    libraries meanwhile.
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
        """What was in ``output`` before; goes back there, unless all of it came here."""
        return self.root / "replaced"

    @property
    def discarded(self) -> Path:
        """What was in ``output`` before, once all of it is here: now the model goes there."""
        return self.root / "discarded"

    def publish(self) -> None:
        """Move the model to ``output``.

        Raises:
            OSError: it cannot be moved there; :meth:`remove` restores what was there.
        """
        if self.root.parent != self.output:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.model, self.output)
            return
        self.replaced.mkdir()
        for path in self.output.iterdir():
            if not is_workspace(path):
                os.rename(path, self.replaced / path.name)
        os.rename(self.replaced, self.discarded)
        self._move_in(self.model)

    def remove(self) -> None:
        """Delete all that is left; ``output`` holds either what it held before, or the model."""
        self._move_in(self.model if self.discarded.exists() else self.replaced)
        shutil.rmtree(self.root, ignore_errors=True)

    def _move_in(self, folder: Path) -> None:
        if folder.exists():
            self.output.mkdir(exist_ok=True)
            for path in folder.iterdir():
                os.rename(path, self.output / path.name)


@contextmanager
def open_workspace(output: Path) -> Iterator[Workspace]:
    """A workspace for ``output`` (an absolute path), removed at the end whatever happens.

    Meanwhile it is also the process's temporary folder: the libraries put whole models there, which
    a small ``/tmp`` cannot hold, and only one disk needs the room.

    Raises:
        ExportError: nothing can be written there.
    """
    parent = nearest_folder(output)
    workspace = Workspace(output, parent / _name(output, os.getpid()))
    former = tempfile.tempdir
    try:
        reclaim(output)
        workspace.root.mkdir()
        lock = _open_lock(workspace.root)
        workspace.model.mkdir()
        workspace.scratch.mkdir()
    except OSError as error:
        raise ExportError(
            f"cannot write in {parent}: {error.strerror}", "Choose another output folder."
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

    One that was killed while it put the new model in place of the old one is undone, or finished if
    the old one was already away.
    """
    for folder in _places(output):
        with suppress(OSError):  # a folder that cannot be listed is refused elsewhere
            for root in folder.iterdir():
                if is_workspace(root, output) and _is_abandoned(root):
                    Workspace(output, root).remove()


def remove_workspace(output: Path, process: int | None) -> None:
    """Clear up after a process that died while it exported to ``output``."""
    if process is None:
        return
    for folder in _places(output):
        root = folder / _name(output, process)
        if root.exists():
            Workspace(output, root).remove()


def nearest_folder(output: Path) -> Path:
    """``output`` if it exists, else the closest parent that does."""
    return next(folder for folder in (output, *output.parents) if folder.exists())


def _places(output: Path) -> tuple[Path, Path]:
    """Where a workspace for ``output`` may be: in it, or where it was made before that existed."""
    return output, nearest_folder(output.parent)


def _name(output: Path, process: int) -> str:
    return f".{output.name}.partial-{process}"


def is_workspace(path: Path, output: Path | None = None) -> bool:
    """Whether ``path`` is a workspace, of any output or of one."""
    name = re.escape(output.name) if output else ".*"
    return re.fullmatch(rf"\.{name}\.partial-\d+", path.name) is not None


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
