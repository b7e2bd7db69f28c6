"""A text as tokens of an exported model, and passages of it."""

from __future__ import annotations

from pathlib import Path

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.export.texts.texts import Text, find_text
from ov_kvcrush.model_folder import load_tokenizer

# Passages from all over the text: one place may be easier than all others.
_NUM_PASSAGES, _PASSAGE_TOKENS, _LEAST_TOKENS = 4, 512, 32


def read_tokens(folder: Path, text: Text | None = None) -> list[int]:
    """Token ids of ``text``, or of the package's own, for the exported model in ``folder``.

    Raises:
        ModelError: the folder has no tokenizer, or it cannot be loaded.
    """
    content = (text or find_text()).content
    encoded = load_tokenizer(folder).encode(content).input_ids.data[0]
    return [int(token) for token in encoded]


def split_passages(
    tokens: list[int], context_length: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Passages from all over a text, to fit something on and, those in between, to judge it by.

    Args:
        tokens: the text.
        context_length: tokens the model can read, 0 where that is not known.

    Raises:
        ConfigError: the text is too short.
    """
    least = 2 * _NUM_PASSAGES * _LEAST_TOKENS
    if len(tokens) < least:
        raise ConfigError(
            f"the calibration text has {len(tokens)} tokens, and at least {least} are needed",
            "Give a longer text with --kv-dataset, or leave it out for the package's own.",
        )
    length = min(_PASSAGE_TOKENS, context_length or _PASSAGE_TOKENS)
    passages = spread_passages(tokens, 2 * _NUM_PASSAGES, length)
    return passages[0::2], passages[1::2]


def spread_passages(tokens: list[int], count: int, length: int) -> list[list[int]]:
    """``count`` passages of at most ``length`` tokens, evenly spread, without overlap."""
    room = len(tokens) // count
    return [tokens[n * room : n * room + min(room, length)] for n in range(count)]
