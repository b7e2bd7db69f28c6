"""Long texts in pieces: some tokenizers cut off what has more tokens than their model's context."""

from __future__ import annotations

# Characters.
_PIECE = 4096


def in_pieces(text: str) -> list[str]:
    """``text`` in pieces that any tokenizer reads at once, each but the first from a space on."""
    begins = [0]
    while len(text) - begins[-1] > 2 * _PIECE:
        space = text.find(" ", begins[-1] + _PIECE)
        begins.append(space if 0 < space < begins[-1] + 2 * _PIECE else begins[-1] + _PIECE)
    return [text[begin:end] for begin, end in zip(begins, [*begins[1:], len(text)], strict=True)]
