"""Single tokens as text and as bytes, of which a character may need several tokens."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

from ov_kvcrush.token_bytes import TokenBytes

if TYPE_CHECKING:
    from openvino_genai import Tokenizer


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
        self._bytes = TokenBytes(tokenizer)
        self._known: dict[int, TokenText] = {}
        self._reading = Lock()

    def read_vocabulary(self) -> None:
        """Do now what the first token waits for: 0.1 to 0.3 s with 150,000 tokens."""
        with self._reading:
            self._bytes.read()

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
        data = self._bytes.of(token)
        if data is None:
            data = str(decode([token])).encode()
        return TokenText(data.decode(errors="backslashreplace"), data)
