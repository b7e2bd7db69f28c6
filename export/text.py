"""A text as tokens of an exported model, and passages of it."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.export.kv_text import Text, read_text
from ov_kvcrush.loading import load_tokenizer


def read_tokens(folder: Path, text: Text | None = None) -> list[int]:
    """Token ids of ``text``, or of the package's own, for the exported model in ``folder``.

    Raises:
        ModelError: there is no tokenizer.
    """
    content = (text or read_text()).content
    encoded = load_tokenizer(folder).encode(content).input_ids.data[0]
    return [int(token) for token in encoded]


def spread_passages(tokens: list[int], count: int, length: int) -> list[list[int]]:
    """``count`` passages of at most ``length`` tokens, evenly spread; none overlap."""
    room = len(tokens) // count
    return [tokens[n * room : n * room + min(room, length)] for n in range(count)]
