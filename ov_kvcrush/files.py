"""Text read and written with a user's errors, and files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ov_kvcrush.errors import OVKVCrushError

# More than any model's context; what never ends (/dev/zero) is not read into all memory.
_MOST_BYTES = 2**30


def read_text(path: Path) -> str:
    """The text in ``path``.

    Raises:
        OVKVCrushError: it cannot be read, is not UTF-8, or larger than any text for a model.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise OVKVCrushError(
                f"{path} has more than {_MOST_BYTES / 1e9:.1f} GB, too much for a text", "Split it."
            )
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise OVKVCrushError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise OVKVCrushError(f"{path} is not a text file in UTF-8") from error
    except ValueError as error:  # a NUL in the name
        raise OVKVCrushError(f"cannot read {str(path)!r}: {error}") from error


def read_json(path: Path) -> Any:
    """The JSON value in ``path``. Errors as :func:`read_text`, and one for what is not JSON."""
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as error:
        raise OVKVCrushError(f"{path} is not valid JSON: {error}") from error


def parse_json(text: str) -> Any:
    """The JSON value that ``text`` says.

    Raises:
        ValueError: it says none, one nested too deeply, or one with half a character in a text.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # JSON can spell lone surrogates, which are no text that could be tokenized or written.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        OVKVCrushError: it cannot be written; ``path`` is what it was.
    """
    try:
        with replacing(path) as stream:
            stream.write(text.encode())
    except OSError as error:
        raise OVKVCrushError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content is at ``path`` when the ``with`` ends without an exception.

    Until then, and after a kill or a power cut at any moment, ``path`` is what it was. What a kill
    leaves beside it is removed by the next one to write there.

    Raises:
        OSError: it cannot be written; ``path`` is what it was.
    """
    path = Path(os.path.realpath(path))  # replace what a link points to, not the link
    if os.path.isdir(path):  # Path.is_dir raises where the name is too long
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    _remove_abandoned(path)
    partial = partial_of(path)
    with partial.open("xb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def partial_of(path: Path) -> Path:
    """A name beside ``path`` for what is to replace it, another one each time."""
    return path.with_name(f".{path.name}.partial-{secrets.token_hex(8)}")


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed have left of ``path``: nobody holds its lock."""
    name = re.compile(rf"\.{re.escape(path.name)}\.partial-[0-9a-f]+")
    with suppress(OSError):  # a folder that cannot be listed may still be written to
        for partial in path.parent.iterdir():
            if name.fullmatch(partial.name) and partial.is_file():
                with partial.open("rb") as stream, suppress(OSError):
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    partial.unlink()


def sync_folder(folder: Path) -> None:
    """Let names that were given in ``folder`` stay: a power cut may undo them else."""
    with suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
