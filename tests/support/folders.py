"""Model folders that differ from another in one file."""

from __future__ import annotations

from pathlib import Path


def linked(source: Path, target: Path, without: str) -> Path:
    """``target``, with links to all files of ``source`` but one."""
    for path in source.iterdir():
        if path.name != without:
            (target / path.name).symlink_to(path)
    return target
