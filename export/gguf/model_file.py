"""A GGUF file as it lies on the disk: its fields, its tensors, and the others of a split one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gguf import GGUFReader
from numpy.typing import NDArray

from ov_kvcrush.errors import ExportError, first_line
from ov_kvcrush.export.recognize import is_gguf

HUGGING_FACE_INSTEAD = (
    "Give the Hugging Face model that it was made from (config.json and safetensors)."
)

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
_DOWNLOAD = "Download it again."

T = TypeVar("T")


@dataclass(frozen=True)
class Tensor:
    """Weights, not yet read.

    Attributes:
        kind: ``F16``, ``Q4_K``, …, as llama.cpp calls it.
        shape: rows first.
        data: mapped from the file: numbers of ``shape`` where ``kind`` is a type that NumPy has,
            else ``[rows, bytes]``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: NDArray[Any]

    @property
    def size(self) -> int:
        """Weights in it."""
        size = 1
        for length in self.shape:
            size *= length
        return size


class GgufModel:
    """What a GGUF file, whole or split, holds; weights are read when they are used.

    Args:
        path: of the file, or of the first one of a split model.

    Attributes:
        path: as given.
        parts: all files, in order.
        tensors: by name.
        swapped: whether the numbers stand in the other byte order than this machine's.

    Raises:
        ExportError: it is not a GGUF file, is damaged, or other files of a split one are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        first = _open(path)
        self._fields = first.fields
        self.swapped = first.byte_order == "S"
        self.parts = _parts(path, self.number("split.no"), self.number("split.count"))
        self.tensors: dict[str, Tensor] = {}
        for reader in (first, *map(_open, self.parts[1:])):
            for found in reader.tensors:
                shape = tuple(int(size) for size in reversed(found.shape))
                tensor = Tensor(found.name, found.tensor_type.name, shape, found.data)
                self.tensors[found.name] = tensor

    @property
    def architecture(self) -> str:
        """As llama.cpp calls it; empty where it is not told."""
        return self.text("general.architecture")

    @property
    def fields(self) -> dict[str, Any]:
        """The package gguf's own description of each field of the first file."""
        return dict(self._fields)

    def has(self, name: str) -> bool:
        """Whether the file has the field ``name``."""
        return name in self._fields

    def text(self, name: str) -> str:
        """The field ``name``, empty where the file has none."""
        return self._get(name, str, "")

    def number(self, name: str) -> int:
        """The field ``name``, 0 where the file has none."""
        return self._get(name, int, 0)

    def real(self, name: str, default: float = 0.0) -> float:
        """The field ``name``, ``default`` where the file has none."""
        return self._get(name, float, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """The field ``name``, ``default`` where the file has none."""
        return self._get(name, bool, default)

    def texts(self, name: str) -> list[str]:
        """The list ``name``, empty where the file has none."""
        return self._get(name, lambda values: [str(value) for value in values], [])

    def numbers(self, name: str) -> list[int]:
        """The list ``name``, empty where the file has none."""
        return self._get(name, lambda values: [int(value) for value in values], [])

    def named(self, name: str) -> str:
        """``name`` with the architecture in front: most sizes are told by it."""
        return f"{self.architecture}.{name}"

    def _get(self, name: str, read: Callable[[Any], T], default: T) -> T:
        field = self._fields.get(name)
        if field is None:
            return default
        try:
            return read(field.contents())
        except (ValueError, TypeError, IndexError) as error:
            raise ExportError(
                f"{self.path} is damaged: its field {name} cannot be read", _DOWNLOAD
            ) from error


def _open(path: Path) -> GGUFReader:
    try:
        if not is_gguf(path):
            raise ExportError(f"{path} is not a GGUF file", HUGGING_FACE_INSTEAD)
        if not path.stat().st_size:
            raise ExportError(f"{path} is empty", _DOWNLOAD)
        return GGUFReader(path)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror or error}") from error
    except ExportError:
        raise
    except Exception as error:  # whatever comes of bytes that are taken for lengths and types
        reason = first_line(error)
        raise ExportError(
            f"{path} is damaged or only partly downloaded: {reason}", _DOWNLOAD
        ) from error


def _parts(path: Path, number: int, count: int) -> tuple[Path, ...]:
    """All files of the model of which ``path`` is the one with that ``number``, from 0."""
    if count < 2:
        return (path,)
    merge = f"Or merge its {count} files: gguf-split --merge FIRST.gguf WHOLE.gguf"
    found = _PART.fullmatch(path.name)
    if found is None:
        raise ExportError(
            f"{path} is one of the {count} files of a split model, and not named like one",
            f"Call them NAME-00001-of-{count:05}.gguf and so on. {merge}",
        )
    parts = [path.with_name(f"{found[1]}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    if number:
        raise ExportError(
            f"{path} is file {number + 1} of the {count} of a split model",
            f"Give the first one: {parts[0]}",
        )
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise ExportError(
            f"{path} is one of the {count} files of a split model, of which are missing: "
            f"{', '.join(missing)}",
            f"Download them into the same folder. {merge}",
        )
    return tuple(parts)
