"""A session file held by one process, whether it exists yet or is replaced meanwhile."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ov_kvcrush.errors import SessionError


@dataclass
class _Hold:
    descriptor: int
    lock: Path
    count: int = 0


_holds: dict[Path, _Hold] = {}
_guard = threading.Lock()


@contextmanager
def session_lock(path: Path) -> Iterator[None]:
    """Hold the session file at ``path`` for this process; within one another as often as wanted.

    Locked is a hidden file beside it, since the file itself is replaced whenever it is written. It
    goes when the ``with`` ends. A killed process leaves it, without the lock: the next one to hold
    the session takes it over and removes it.

    Raises:
        SessionError: another process holds it, or its folder cannot be written.
    """
    path = Path(os.path.realpath(path))
    with _guard:
        if path not in _holds:
            _holds[path] = _acquire(path)
        hold = _holds[path]
        hold.count += 1
    try:
        yield
    finally:
        with _guard:
            hold.count -= 1
            if not hold.count:
                del _holds[path]
                hold.lock.unlink(missing_ok=True)
                os.close(hold.descriptor)


def _acquire(path: Path) -> _Hold:
    if os.path.isdir(path):  # Path.is_dir raises where the name is too long
        raise SessionError(
            f"{path} cannot hold a session: it is not a file", "Give the name of a file."
        )
    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise SessionError(f"cannot write {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have removed it between our opening and our locking.
            if _is_at(descriptor, lock):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return _Hold(descriptor, lock)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace")
            os.close(descriptor)
            raise SessionError(
                f"{path} is in use by another program"
                + (f" (process {holder})" if holder.isdecimal() else ""),
                "Wait until that has ended, or choose another file.",
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise SessionError(f"{path} cannot be locked: {error.strerror}") from error
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
