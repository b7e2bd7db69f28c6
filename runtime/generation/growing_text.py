"""The text of tokens that come one by one: each character is given once, when it is certain.

Tokens cannot be decoded alone: half a character, a leading space or a byte means something only
beside its neighbours. So the newest tokens are decoded together, as few as show the next ones as
the whole answer would: the cost of a token does not grow with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

_LONGEST_WINDOW = 48
# Tokens may be single bytes, of which a character has up to four: the context has a few characters
# then too, and of four tokens in a row one begins a character.
_CONTEXT = 24
_STARTS = 4
_SHORTEST_CONTEXT = 4  # characters: as many as a detokenizer looks at to drop a space
_HALF = "\ufffd"
_MOST_HALVES = 3
# What may go on to one of " .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've" and " 're",
# whose first space some detokenizers drop.
_BEFORE_DROPPED = (" ", " '", " n", " n'", " 'v", " 'r")

_drops_spaces: WeakKeyDictionary[Tokenizer, bool] = WeakKeyDictionary()


class Piece(NamedTuple):
    """What a token adds.

    Attributes:
        text: that is certain now; perhaps of tokens before it.
        special: spelling of a special token, which is not part of the text; else empty.
    """

    text: str
    special: str = ""


class GrowingText:
    """The text of one sequence. All pieces together are ``tokenizer.decode`` of all its tokens.

    Args:
        tokenizer: that decodes.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._uncertain = _BEFORE_DROPPED if _is_dropping_spaces(tokenizer) else ()
        self._window: list[int] = []
        self._text = ""  # of the window
        self._num_given = 0  # characters of it
        self._limit = _LONGEST_WINDOW

    def push(self, token: int) -> Piece:
        """Take the next token."""
        text = self._decode([*self._window, token])
        if text == self._text and (special := self._spelling_of_special(token)):
            return Piece("", special)
        self._window.append(token)
        self._text = text
        piece = self._give(len(text) - self._num_uncertain())
        if len(self._window) >= self._limit:
            self._slide()
        return piece

    def end(self) -> Piece:
        """What was uncertain: no token comes any more."""
        return self._give(len(self._text))

    def _give(self, end: int) -> Piece:
        text = self._text[self._num_given : end]
        self._num_given = max(self._num_given, end)
        return Piece(text)

    def _num_uncertain(self) -> int:
        """Characters at the end that the next token may change."""
        halves = len(self._text) - len(self._text.rstrip(_HALF))
        if halves:
            return min(halves, _MOST_HALVES)
        return max((len(s) for s in self._uncertain if self._text.endswith(s)), default=0)

    def _slide(self) -> None:
        """Let the window begin later, where what follows reads the same."""
        uncertain = len(self._text) - self._num_given
        for size in range(_CONTEXT, _CONTEXT + _STARTS):
            text = self._decode(self._window[-size:])
            if len(text) >= _SHORTEST_CONTEXT + uncertain and self._text.endswith(text):
                self._window = self._window[-size:]
                self._text, self._num_given = text, len(text) - uncertain
                self._limit = _LONGEST_WINDOW
                return
        self._limit = 2 * len(self._window)

    def _spelling_of_special(self, token: int) -> str:
        if self._decode([token]):
            return ""
        return str(self._tokenizer.decode([token], skip_special_tokens=False))

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens))


def _is_dropping_spaces(tokenizer: Tokenizer) -> bool:
    """Whether it decodes "a ." as "a.", as models do whose settings clean up spaces."""
    known = _drops_spaces.get(tokenizer)
    if known is None:
        ids = tokenizer.encode("a .", add_special_tokens=False).input_ids.data[0].tolist()
        known = _drops_spaces[tokenizer] = not tokenizer.decode(ids).endswith(" .")
    return known
