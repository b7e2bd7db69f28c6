"""Whether what is to be exported is a GGUF file."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".gguf"


def gguf_file(model: str) -> Path | None:
    """The GGUF file that ``model`` names; None where it is something else, or cannot be read."""
    path = Path(model)
    try:
        return path if path.is_file() and is_gguf(path) else None
    except (OSError, ValueError):
        return None


def is_gguf(path: Path) -> bool:
    """Whether the file ``path`` is one of llama.cpp's, which holds a whole model."""
    if path.suffix.lower() == SUFFIX:
        return True
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"
