"""When a sequence is finished, and what of its tokens and text can no longer be taken back."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

from openvino_genai import GenerationFinishReason

from ov_kvcrush.runtime.generation.growing_text import GrowingText, Piece
from ov_kvcrush.runtime.generation.settings import max_new_tokens
from ov_kvcrush.runtime.generation.stop_strings import StopStrings

if TYPE_CHECKING:
    from openvino_genai import GenerationConfig, Tokenizer


class StopChecker:
    """Collects the tokens of one sequence until a stop token, a stop string or the length ends it.

    The text ends where the first stop string in it begins, or behind it where
    ``include_stop_str_in_output`` is set, also inside a token, and also where the last token has
    completed the stop string. Tokens are whole: those stay that begin before the end of the text.
    A stop token stays too. ``ignore_eos`` ignores every stop token id, and no stop string.

    Args:
        config: resolved settings.
        tokenizer: turns tokens into text; used for stop strings only.
        prompt_length: tokens of the prompt, which ``max_length`` counts.

    Attributes:
        tokens: the generated tokens, in the end those of the answer.
        num_settled: how many of ``tokens`` are certain to be the answer's.
        num_whole: how many of the answer's have all of their text in it.
        text_end: how many characters of the text of ``tokens`` are certain to be the answer's, in
            the end the answer; None is all.

    Raises:
        PromptError: ``max_length`` leaves nothing to generate.
    """

    def __init__(self, config: GenerationConfig, tokenizer: Tokenizer, prompt_length: int) -> None:
        self.tokens: list[int] = []
        self.num_settled = 0
        self.num_whole = 0
        self.text_end: int | None = None
        self._max_new_tokens = max_new_tokens(config, prompt_length)
        self._stop_ids = frozenset() if config.ignore_eos else frozenset(config.stop_token_ids)
        self._searched: _SearchedText | None = None
        if config.stop_strings:
            self._searched = _SearchedText(config, tokenizer)
            self.text_end = 0

    @property
    def num_left(self) -> int:
        """Tokens that may still come before the length ends it."""
        return self._max_new_tokens - len(self.tokens)

    def push(self, token: int) -> GenerationFinishReason | None:
        """Append a generated token; why the sequence is finished with it, None if it is not."""
        self.tokens.append(token)
        reason = self._reason(token)
        if self._searched is None:
            self.num_settled = self.num_whole = len(self.tokens)
            return reason
        if self._searched.push(token) or reason is not None:
            return GenerationFinishReason.STOP if self.end() else reason
        self._settle(self._searched.settled())
        return None

    def end(self) -> bool:
        """Settle everything, for no token comes any more; whether a stop string ends the text."""
        cut = None if self._searched is None else self._searched.end()
        if cut is None:
            self._settle(_Settled(len(self.tokens), len(self.tokens), None))
            return False
        del self.tokens[cut.num_tokens :]
        self._settle(cut)
        return True

    def _reason(self, token: int) -> GenerationFinishReason | None:
        if token in self._stop_ids:
            return GenerationFinishReason.STOP
        if len(self.tokens) >= self._max_new_tokens:
            return GenerationFinishReason.LENGTH
        return None

    def _settle(self, settled: _Settled) -> None:
        self.num_settled, self.num_whole, self.text_end = settled


class _Settled(NamedTuple):
    """The part of an answer before a place in its text."""

    num_tokens: int
    num_whole: int
    text_end: int | None


class _SearchedText:
    """The text in which stop strings are looked for, and where in it each token begins.

    Special tokens count with their spelling, or a stop string like ``<|user|>`` would never be
    found. They are no part of the answer's text.
    """

    def __init__(self, config: GenerationConfig, tokenizer: Tokenizer) -> None:
        self._includes = bool(config.include_stop_str_in_output)
        self._text = GrowingText(tokenizer)
        self._strings = StopStrings(config.stop_strings)
        self._length = 0
        self._begins: list[int] = []
        self._specials: list[tuple[int, int]] = []

    def push(self, token: int) -> bool:
        """Take the next token; whether a stop string has ended the text."""
        self._begins.append(self._length)
        return self._search(self._text.push(token))

    def end(self) -> _Settled | None:
        """What stays where a stop string is in the text, given that no token follows."""
        if self._strings.match is None:
            self._search(self._text.end())
        match = self._strings.end()
        if match is None:
            return None
        return self._before(match.end if self._includes else match.begin)

    def settled(self) -> _Settled:
        """What no stop string can take back."""
        return self._before(self._strings.unsettled_from)

    def _search(self, piece: Piece) -> bool:
        if piece.special:
            self._specials.append((self._length, self._length + len(piece.special)))
        spelled = piece.text or piece.special
        self._length += len(spelled)
        return self._strings.push(spelled) is not None

    def _before(self, place: int) -> _Settled:
        num_tokens = bisect_left(self._begins, place)
        # All that end before the place begin before the next one does. A token without any text
        # is the first part of a character whose other parts may be taken back.
        num_whole = bisect_right(self._begins, place) - 1 if place < self._length else num_tokens
        while num_whole > 0 and self._begins[num_whole - 1] == self._begin(num_whole):
            num_whole -= 1
        special = sum(min(end, place) - begin for begin, end in self._specials if begin < place)
        return _Settled(num_tokens, min(num_whole, num_tokens), place - special)

    def _begin(self, index: int) -> int:
        return self._begins[index] if index < len(self._begins) else self._length
