"""A model's tokens as llguidance takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ov_kvcrush.token_bytes import TokenBytes

if TYPE_CHECKING:
    from llguidance import LLTokenizer
    from openvino_genai import Tokenizer

# A character that is not part of any longer token: what stands before it changes nothing behind it.
_SEPARATOR = "\x02"


class TokenTrie:
    """The tokens of ``tokenizer`` by their bytes, for grammars.

    They are read from the tokenizer that the pipeline itself uses, so that any exported model will
    do, whatever files it came with.

    Attributes:
        end: an id behind all tokens, which stands for the end of a text: which tokens end an
            answer is a matter of each request.
        specials: tokens that are not text.
        tokenizer: llguidance's.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        token_bytes = TokenBytes(tokenizer)
        self.end = token_bytes.size
        self.specials = frozenset(token_bytes.special_tokens())
        pieces = [token_bytes.of(token) or b"" for token in range(self.end)]
        source = _Source(tokenizer, pieces, self.end, self.specials)
        self.tokenizer: LLTokenizer = LLTokenizer(
            TokenizerWrapper(source), n_vocab=self.end + 1, eos_token=[self.end]
        )


class _Source:
    """What llguidance asks of a tokenizer.

    Attributes:
        tokens: bytes of each, the end's too.
        special_token_ids: of those that are not text.
        eos_token_id: the end's.
        bos_token_id: None; nothing begins anew.
    """

    def __init__(
        self, tokenizer: Tokenizer, pieces: list[bytes], end: int, specials: frozenset[int]
    ) -> None:
        self.tokens = [*pieces, b""]
        self.special_token_ids = [*sorted(specials), end]
        self.eos_token_id = end
        self.bos_token_id: int | None = None
        self._tokenizer = tokenizer
        self._specials = specials
        self._ids = {
            piece: token for token, piece in enumerate(pieces) if piece and token not in specials
        }
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, data: bytes) -> list[int]:
        """Tokens of a text, none of them special: what a grammar spells is text.

        They are the tokenizer's own where their bytes are those of the text.
        """
        text = data.decode(errors="replace")
        for before in ("", _SEPARATOR):
            # Some tokenizers put a blank before every text.
            tokens = self._encoded(before + text)
            if (start := self._start(tokens, data)) is not None:
                return tokens[start:]
        return self._greedy(data)

    def _encoded(self, text: str) -> list[int]:
        encoded: Any = self._tokenizer.encode(text, add_special_tokens=False).input_ids.data
        ids: list[int] = encoded[0].tolist()
        return ids

    def _start(self, tokens: list[int], data: bytes) -> int | None:
        """From which of ``tokens`` on they are ``data``; None where they are not."""
        left, start = len(data), len(tokens)
        while left > 0 and start > 0:
            start -= 1
            token = tokens[start]
            if token in self._specials or token >= len(self.tokens):
                return None
            left -= len(self.tokens[token])
        if left or b"".join(self.tokens[token] for token in tokens[start:]) != data:
            return None
        return start

    def _greedy(self, data: bytes) -> list[int]:
        """The longest token at each place."""
        tokens, place = [], 0
        while place < len(data):
            for length in range(min(self._longest, len(data) - place), 0, -1):
                token = self._ids.get(data[place : place + length])
                if token is not None:
                    tokens.append(token)
                    place += length
                    break
            else:
                break  # a byte that no token has: the text is as long as it goes
        return tokens
