"""Text to measure a model on: the package's own, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.export.calibration import read_samples
from ov_kvcrush.loading import load_tokenizer

_OWN = Path(__file__).parent / "calibration.txt"


def read_tokens(folder: Path, path: str | Path | None = None) -> list[int]:
    """Token ids of a text.

    Args:
        folder: exported model, for its tokenizer.
        path: the user's file, as :func:`read_samples` takes it; None is the package's own prose.

    Raises:
        ModelError: there is no tokenizer.
        ConfigError: as :func:`read_samples`.
    """
    text = "\n\n".join(read_samples(path)) if path else _OWN.read_text(encoding="utf-8")
    encoded = load_tokenizer(folder).encode(text).input_ids.data[0]
    return [int(token) for token in encoded]


def spread_passages(tokens: list[int], count: int, length: int) -> list[list[int]]:
    """``count`` passages of at most ``length`` tokens, evenly spread; none overlap."""
    room = len(tokens) // count
    return [tokens[n * room : n * room + min(room, length)] for n in range(count)]
