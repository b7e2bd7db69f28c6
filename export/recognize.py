"""Whether what is to be exported is a GGUF file."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".gguf"


def gguf_file(model: str) -> Path | None:
    """The GGUF file that ``model`` names, there or not; None where it names something else."""
    path = Path(model)
    try:
        if path.is_file():
            return path if is_gguf(path) else None
        return path if path.suffix.lower() == SUFFIX and not path.exists() else None
    except (OSError, ValueError):
        return None


def is_gguf(path: Path) -> bool:
    """Whether the file ``path`` is one of llama.cpp's, which holds a whole model."""
    if path.suffix.lower() == SUFFIX:
        return True
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"
