"""A tokenizer's tokens as the bytes that they add to a text."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# SentencePiece's spellings of a space and of single bytes (Kudo and Richardson, arXiv 1808.06226).
_SPACE = "\u2581"
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


class TokenBytes:
    """What each token adds to a text. It is read when it is first asked, and not for two threads.

    Args:
        tokenizer: of a model; it tells all that is known here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def read(self) -> None:
        """Do now what the first question waits for: 0.1 to 0.3 s with 150,000 tokens."""
        _ = self._spellings

    def of(self, token: int) -> bytes | None:
        """Bytes that ``token`` adds to a text, behind another; None of what is not an entry."""
        spelling = self._spellings.get(token)
        return None if spelling is None else self._plain(spelling)

    @property
    def size(self) -> int:
        """All ids are below it."""
        return max(self._spellings, default=-1) + 1

    def special_tokens(self) -> list[int]:
        """Ids of the tokens that are not text: decoding leaves them out. 0.2 s with 150,000."""
        rows = [[token] for token in self._spellings]
        decode = self._tokenizer.decode
        shown, whole = (decode(rows, skip_special_tokens=skip) for skip in (True, False))
        return sorted(
            token
            for (token,), short, text in zip(rows, shown, whole, strict=True)
            if text != short or (not text and self._is_visible(token))
        )

    def _is_visible(self, token: int) -> bool:
        """Whether a text would show it, were it text: not a blank, nor a part of a character."""
        piece = self.of(token) or b""
        return piece.isascii() and bool(piece.strip())

    @cached_property
    def _spellings(self) -> dict[int, bytes]:
        return {token: spelling for spelling, token in self._tokenizer.get_vocab().items()}

    def _plain(self, spelling: bytes) -> bytes:
        if not self._is_sentence_piece:
            return spelling
        byte = _BYTE.fullmatch(spelling)
        if byte is not None:
            return bytes.fromhex(byte.group(1).decode())
        return spelling.replace(_SPACE.encode(), b" ")

    @cached_property
    def _is_sentence_piece(self) -> bool:
        """Whether entries are spelled in SentencePiece's way, and not as the bytes they are."""
        ids = {spelling: token for token, spelling in self._spellings.items()}
        byte, space = ids.get(b"<0x41>"), ids.get(_SPACE.encode())
        if byte is not None:
            return str(self._tokenizer.decode([byte])) == "A"
        return space is not None and _SPACE not in str(self._tokenizer.decode([space]))
