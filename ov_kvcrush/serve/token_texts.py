"""Single tokens as text and as bytes, of which a character may need several tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# SentencePiece's spellings of a space and of single bytes (Kudo and Richardson, arXiv 1808.06226).
_SPACE = "\u2581"
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class TokenText:
    """One token.

    Attributes:
        text: what it reads; bytes that are not whole characters as ``\\xf0``.
        data: its bytes. Those of an answer's tokens are together the answer's, but for the space
            that begins each text with some tokenizers; a special token has none.
    """

    text: str
    data: bytes


class TokenTexts:
    """The texts of a vocabulary's tokens; from any thread.

    Args:
        tokenizer: of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, TokenText] = {}
        self._reading = Lock()

    def read_vocabulary(self) -> None:
        """Do now what the first token waits for: 0.1 to 0.3 s with 150,000 tokens."""
        with self._reading:
            _ = self._spellings

    def of(self, token: int) -> TokenText:
        """What the token id ``token`` stands for."""
        known = self._known.get(token)
        if known is None:
            known = self._known[token] = self._read(token)
        return known

    def _read(self, token: int) -> TokenText:
        self.read_vocabulary()
        decode = self._tokenizer.decode
        if not decode([token]) and (special := str(decode([token], skip_special_tokens=False))):
            return TokenText(special, b"")
        spelling = self._spellings.get(token)
        data = str(decode([token])).encode() if spelling is None else self._plain(spelling)
        return TokenText(data.decode(errors="backslashreplace"), data)

    def _plain(self, spelling: bytes) -> bytes:
        """Bytes that ``spelling``, an entry of the vocabulary, adds to a text."""
        if not self._is_sentence_piece:
            return spelling
        byte = _BYTE.fullmatch(spelling)
        if byte is not None:
            return bytes.fromhex(byte.group(1).decode())
        return spelling.replace(_SPACE.encode(), b" ")

    @cached_property
    def _spellings(self) -> dict[int, bytes]:
        return {token: spelling for spelling, token in self._tokenizer.get_vocab().items()}

    @cached_property
    def _is_sentence_piece(self) -> bool:
        """Whether entries are spelled in SentencePiece's way, and not as the bytes they are."""
        ids = {spelling: token for token, spelling in self._spellings.items()}
        byte, space = ids.get(b"<0x41>"), ids.get(_SPACE.encode())
        if byte is not None:
            return str(self._tokenizer.decode([byte])) == "A"
        return space is not None and _SPACE not in str(self._tokenizer.decode([space]))
