"""A file of results, a line each, from which a run that was killed goes on."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ov_kvcrush.errors import JournalError
from ov_kvcrush.evaluation.asking.results import SampleResult
from ov_kvcrush.files import sync_folder

_REQUEST = "request"


class Journal:
    """An open journal. Open it with :func:`open_journal`.

    Attributes:
        results: that it holds, in the order of their samples.
    """

    def __init__(self, path: Path, descriptor: int, results: list[SampleResult]) -> None:
        self.results = results
        self._path = path
        self._descriptor = descriptor

    def append(self, result: SampleResult) -> None:
        """Add ``result``; when this returns, a kill or a power cut does not undo it.

        Raises:
            JournalError: it cannot be written.
        """
        _write(self._path, self._descriptor, result.to_dict())
        self.results.append(result)


@contextmanager
def open_journal(path: Path, request: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal at ``path``, held for this process until the ``with`` ends.

    Its first line is the request, each other one a sample's result. A last line that a kill has
    broken off is dropped.

    Args:
        path: of a journal that the same request has begun, or of a file that is not there or empty.
        request: JSON values, of which results depend.

    Raises:
        JournalError: it belongs to another request or another process, is damaged or another file,
            or cannot be written.
    """
    descriptor = _open(path)
    try:
        _lock(path, descriptor)
        results = _read(path, descriptor, request)
        yield Journal(path, descriptor, results)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from error
    except ValueError as error:  # a NUL in the name
        raise JournalError(f"cannot write {str(path)!r}: {error}") from error


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JournalError(
            f"{path} is in use by another run", "Wait until that has ended, or give another file."
        ) from None
    except OSError as error:
        raise JournalError(f"{path} cannot be locked: {error.strerror}") from error


def _read(path: Path, descriptor: int, request: Mapping[str, Any]) -> list[SampleResult]:
    """The results in it; it holds nothing but ``request`` and them afterwards."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise _another_file(path)
    content = path.read_bytes()
    begun = _line({_REQUEST: request})
    whole, newline, torn = content.rpartition(b"\n")
    if not newline:
        # What another file holds is not thrown away.
        if not begun.startswith(torn):
            raise _another_file(path)
        if torn:
            os.ftruncate(descriptor, 0)
        _write(path, descriptor, {_REQUEST: request})
        sync_folder(path.parent)
        return []
    first, *lines = whole.split(b"\n")
    _require_same(path, first, json.loads(begun)[_REQUEST])
    results = [_result(path, number, line) for number, line in enumerate(lines, start=2)]
    if torn:
        os.ftruncate(descriptor, len(content) - len(torn))
    return results


def _require_same(path: Path, line: bytes, request: Mapping[str, Any]) -> None:
    try:
        begun = json.loads(line)[_REQUEST]
        names = [name for name in {**begun, **request} if begun.get(name) != request.get(name)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _another_file(path) from None
    if names:
        raise JournalError(
            f"{path} was begun by another request, which differs in {', '.join(names)}",
            "Ask for the same, or give the name of another file.",
        )


def _result(path: Path, number: int, line: bytes) -> SampleResult:
    try:
        return SampleResult.from_dict(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JournalError(
            f"{path} is damaged: line {number} is not a result",
            "Remove that line and those behind it: the run goes on from there.",
        ) from error


def _write(path: Path, descriptor: int, body: Mapping[str, Any]) -> None:
    line = memoryview(_line(body))
    try:
        while line:
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    except OSError as error:
        raise _unwritable(path, error) from error


def _line(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, allow_nan=False).encode() + b"\n"


def _unwritable(path: Path, error: OSError) -> JournalError:
    return JournalError(f"cannot write {path}: {error.strerror}")


def _another_file(path: Path) -> JournalError:
    return JournalError(
        f"{path} is not a journal of an evaluation", "Give the name of another file."
    )
