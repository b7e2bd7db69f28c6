"""Texts of any length as tokens, and what a model's prompts begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ov_kvcrush.model_folder import load_tokenizer

# No tokenizer cuts off what is shorter; many cut what has more tokens than their model's context.
_PIECE_CHARACTERS = 1200
# Texts encoded at once: each call takes as long as some dozens of short texts.
_BATCH = 64


class TextReader:
    """The tokenizer of the model in ``folder``, for texts to measure on.

    Attributes:
        lead: tokens that the tokenizer puts before every prompt, for instance a BOS.

    Raises:
        ModelError: the folder has no tokenizer, or it cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = load_tokenizer(folder)
        plain = self.tokens("a")
        encoded = [int(token) for token in self._tokenizer.encode("a").input_ids.data[0]]
        at = (n for n in range(len(encoded)) if encoded[n : n + len(plain)] == plain)
        self.lead: list[int] = encoded[: next(at, 0)]

    def tokens(self, text: str) -> list[int]:
        """The tokens of all of ``text``, without special ones."""
        pieces = list(_pieces(text))
        tokens: list[int] = []
        for begin in range(0, len(pieces), _BATCH):
            batch = pieces[begin : begin + _BATCH]
            encoded = self._tokenizer.encode(batch, add_special_tokens=False)
            masks = encoded.attention_mask.data.astype(bool)
            for row, mask in zip(encoded.input_ids.data, masks, strict=True):
                tokens += row[mask].tolist()
        return tokens


def _pieces(text: str) -> Iterator[str]:
    """``text`` cut before white space: at the end of a paragraph, a line or at least a word."""
    begin = 0
    while begin < len(text):
        end = begin + _PIECE_CHARACTERS
        if end < len(text):
            ends = (text.rfind(mark, begin + 1, end) for mark in ("\n\n", "\n", " "))
            end = next((found for found in ends if found > begin), end)
        yield text[begin:end]
        begin = end
