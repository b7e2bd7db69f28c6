"""A safetensors file with a digest of all it says: written array by array, proved when opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

ArraySource = Callable[[], NDArray[Any]]

DIGEST = "blake2b"
_TYPES = {"uint8": "U8", "int32": "I32", "int64": "I64", "float32": "F32"}


class DamagedFileError(Exception):
    """A file of another format, cut short, or altered; the message says which."""


class TensorFile:
    """An open file.

    Attributes:
        metadata: without the digest.
        digest: of all it says, as the file has it; :meth:`prove` compares.
        names: of its tensors.
    """

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self.metadata: dict[str, str] = dict(opened.metadata() or {})
        self.digest = self.metadata.pop(DIGEST, "")
        self.names: list[str] = sorted(opened.keys())

    def read(self, name: str) -> NDArray[Any]:
        """The tensor called ``name``.

        Raises:
            DamagedFileError: it is missing, or of a type that is not written here.
        """
        self.type_and_shape(name)
        array: NDArray[Any] = self._opened.get_tensor(name)
        return array

    def type_and_shape(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Of the tensor called ``name``, as NumPy names them. Errors as :meth:`read`."""
        if name not in self.names:
            raise DamagedFileError(f"it has no tensor {name}")
        tensor = self._opened.get_slice(name)
        kind = next((ours for ours, its in _TYPES.items() if its == tensor.get_dtype()), None)
        if kind is None:
            raise DamagedFileError(
                f"{name} is {tensor.get_dtype()}, a type that session files do not use"
            )
        return kind, tuple(tensor.get_shape())

    def prove(self) -> None:
        """Read all of it.

        Raises:
            DamagedFileError: the digest is of something else.
        """
        tensors = ((name, self.read(name)) for name in self.names)
        if _digest(self.metadata, tensors) != self.digest:
            raise DamagedFileError("it was altered: its content does not match its digest")


def write_tensors(
    stream: BinaryIO, metadata: Mapping[str, str], sources: Mapping[str, ArraySource]
) -> None:
    """Write what ``sources`` give by name, one at a time: twice asked, never all in memory.

    safetensors' own writer wants every tensor as bytes at once, which doubles a large cache.

    Args:
        stream: at its beginning.
        metadata: beside the digest.
        sources: each gives the same array whenever it is called.
    """
    entries: dict[str, Any] = {}

    def described() -> Iterator[tuple[str, NDArray[Any]]]:
        for name in sorted(sources):
            array = np.ascontiguousarray(sources[name]())
            entries[name] = {
                "dtype": _TYPES[array.dtype.name],
                "shape": list(array.shape),
                "data_offsets": [array.itemsize, array.nbytes],
            }
            yield name, array

    digest = _digest(metadata, described())
    # The widest first, so that all are aligned.
    order = sorted(entries, key=lambda name: (-entries[name]["data_offsets"][0], name))
    end = 0
    for name in order:
        begin, end = end, end + entries[name]["data_offsets"][1]
        entries[name]["data_offsets"] = [begin, end]
    header = json.dumps({"__metadata__": {**metadata, DIGEST: digest}, **entries}).encode()
    header += b" " * (-len(header) % 8)
    stream.write(len(header).to_bytes(8, "little") + header)
    for name in order:
        stream.write(np.ascontiguousarray(sources[name]()).data)


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """The file at ``path``; only its header has been read and checked.

    Raises:
        OSError: it cannot be read.
        DamagedFileError: it is not a safetensors file, or not all of one.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise DamagedFileError("it is not a file")
    with path.open("rb"):  # the library does not tell a missing permission
        pass
    try:
        opened = safe_open(path, framework="numpy")  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise DamagedFileError(f"it is cut short, or not a safetensors file ({reason})") from error
    with opened as file:
        yield TensorFile(file)


def _digest(metadata: Mapping[str, str], tensors: Iterable[tuple[str, NDArray[Any]]]) -> str:
    hashed = hashlib.blake2b(digest_size=32)
    hashed.update(json.dumps(sorted(metadata.items())).encode())
    for name, array in tensors:
        hashed.update(json.dumps([name, array.dtype.name, list(array.shape)]).encode())
        hashed.update(array.data)
    return hashed.hexdigest()
