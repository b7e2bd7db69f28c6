"""From texts to token ids: whole, or in pieces that stand behind one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ov_kvcrush.errors import PromptError

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# Texts encoded at once: each call takes as long as some dozens of short texts.
_BATCH = 64
# No tokenizer cuts off what is shorter, in tokens.
_SHORT = 512


class TextEncoder:
    """A tokenizer whose ids read like the texts they are of.

    Args:
        tokenizer: of the model.
        specials: spellings of special tokens.
    """

    def __init__(self, tokenizer: Tokenizer, specials: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._leads = self._find_leads(specials)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of ``text``, which begins a prompt.

        Raises:
            PromptError: the tokenizer cuts it off.
        """
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        ids: list[int] = encoded.input_ids.data[0].tolist()
        self._require_whole(text, ids)
        return ids

    def encode_behind(self, pieces: Sequence[str]) -> list[int]:
        """Token ids of ``pieces``, each encoded by itself, that stand behind other tokens.

        Raises:
            PromptError: the tokenizer cuts one off.
        """
        # A text that repeats a spelling is in pieces that repeat, too.
        encoded = {piece: list[int]() for piece in pieces}
        waiting = sorted(filter(None, encoded), key=len)
        for lead, lead_ids in self._leads:
            rows = self._encode_all([lead + piece for piece in waiting])
            encoded.update(
                (piece, ids[len(lead_ids) :])
                for piece, ids in zip(waiting, rows, strict=True)
                if ids[: len(lead_ids)] == lead_ids
            )
            waiting = [piece for piece in waiting if not encoded[piece]]
        encoded.update(zip(waiting, self._encode_all(waiting), strict=True))
        return [token for piece in pieces for token in encoded[piece]]

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each of ``texts``, which are in the order of their lengths."""
        rows: list[list[int]] = []
        for begin in range(0, len(texts), _BATCH):
            batch = list(texts[begin : begin + _BATCH])
            encoded = self._tokenizer.encode(batch, add_special_tokens=False)
            masks = encoded.attention_mask.data.astype(bool)
            rows += [
                row[mask].tolist() for row, mask in zip(encoded.input_ids.data, masks, strict=True)
            ]
        for text, ids in zip(texts, rows, strict=True):
            self._require_whole(text, ids)
        return rows

    def _require_whole(self, text: str, ids: Sequence[int]) -> None:
        """Raise PromptError where ``ids`` are not all of ``text``.

        Some tokenizers were converted with a length that they cut every text to, whatever they are
        told. That shows where more text makes no more tokens.
        """
        if len(ids) < _SHORT:
            return
        if len(self._tokenizer.decode(list(ids), skip_special_tokens=False)) >= len(text):
            return
        longer = self._tokenizer.encode(text + text[-_SHORT:], add_special_tokens=False)
        if longer.input_ids.shape[1] <= len(ids):
            raise PromptError(
                f"the text has more than the {len(ids):,} tokens that the model's tokenizer reads "
                "at once",
                "Shorten it, or export the model again with today's openvino_tokenizers.",
            )

    def _find_leads(self, specials: Sequence[str]) -> list[tuple[str, list[int]]]:
        """Texts, with their ids, behind which a piece does not gain the space that begins a text.

        None where texts do not begin with one.
        """
        encode, decode = self.encode, self._tokenizer.decode
        if decode([*encode("a"), *encode("b")]) == "ab":
            return []
        candidates = [*specials[:1], "\n", "a"]
        return [
            (lead, encode(lead))
            for lead in candidates
            if decode([*encode("a"), *encode(lead + "b")[len(encode(lead)) :]]) == "ab"
        ]
