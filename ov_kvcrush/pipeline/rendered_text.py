"""A prompt that a chat template has made, in which spellings of special tokens may be mere text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from ov_kvcrush.pipeline.messages import texts_in
from ov_kvcrush.pipeline.special_tokens import SpecialTokens, overlapping

# Stands before each special token that is one, where texts are compared: not a character, and no
# text is expected to hold three of them in this order.
MARK = "\ufdd0\ufdef\ufdd0"
# What may stand where a text is to be broken while a template handles it: Linear A, which nobody
# can read, is printable, so that Python does not escape it; then private ones.
_BREAKS = [chr(code) for code in (*range(0x10600, 0x10737), *range(0xF0000, 0xFFFFE))]


class RenderedText:
    """A text in pieces that the tokenizer has to read one by one.

    What it finds in a piece is a special token; what only two pieces together spell is text.

    Args:
        pieces: of the text, in order.
        special: tokens of the tokenizer.
        is_plain: no template has made it, so it wants the tokens that a text begins with.
    """

    def __init__(
        self, pieces: Iterable[str], special: SpecialTokens, is_plain: bool = False
    ) -> None:
        self.pieces = tuple(pieces)
        self.is_plain = is_plain
        self._special = special

    @cached_property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)

    @cached_property
    def marked(self) -> str:
        """All of it with ``MARK`` before each special token; the same only where those are too."""
        pattern = self._special.any_pattern
        if pattern is None:
            return self.text
        return "".join(pattern.sub(rf"{MARK}\g<0>", piece) for piece in self.pieces)

    def split(self, end: int) -> tuple[RenderedText, RenderedText]:
        """What stands before character ``end`` of the text, and the rest."""
        starts = accumulate(map(len, self.pieces), initial=0)
        cuts = [
            (piece, max(0, end - start)) for piece, start in zip(self.pieces, starts, strict=False)
        ]
        return self._of(piece[:cut] for piece, cut in cuts), self._of(p[cut:] for p, cut in cuts)

    def continued(self, text: str) -> RenderedText:
        """The same with ``text`` behind it, which is read together with its end."""
        *pieces, last = self.pieces or ("",)
        return self._of([*pieces, last + text])

    def _of(self, pieces: Iterable[str]) -> RenderedText:
        return RenderedText(filter(None, pieces), self._special, self.is_plain)


class Quoting:
    """Breaks the spellings of special tokens in what users say, for a template to pass on.

    Args:
        special: tokens of the tokenizer.
        values: messages, tools and whatever else the template gets, as JSON values.
    """

    def __init__(self, special: SpecialTokens, *values: object) -> None:
        self._special = special
        self._break = _unused(texts_in(values))

    def message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """``message``, quoted.

        In an assistant's those tokens that its answers show are its own.
        """
        tokens = self._special
        pattern = tokens.special_pattern if message["role"] == "assistant" else tokens.any_pattern
        return {
            name: value if name == "role" else self._quote(value, pattern)
            for name, value in message.items()
        }

    def value(self, value: Any) -> Any:
        """``value`` with all the texts in it quoted."""
        return self._quote(value, self._special.any_pattern)

    def read(self, rendered: str) -> RenderedText:
        """What a template has made of what was quoted."""
        if self._break not in rendered:
            return RenderedText([rendered], self._special)
        pieces = rendered.split(self._break)
        text = "".join(pieces)
        needed, begin, end = [0], 0, 0
        for piece in pieces[:-1]:
            end += len(piece)
            if end > begin and self._is_needed(text, end):
                needed.append(end)
                begin = end
        needed.append(len(text))
        return RenderedText((text[begin:end] for begin, end in pairwise(needed)), self._special)

    def _is_needed(self, text: str, place: int) -> bool:
        """Whether a spelling stands across ``place``, or a break there would be in vain."""
        pattern, reach = self._special.any_pattern, self._special.longest - 1
        start = max(0, place - reach)
        window = text[start : place + reach]
        return pattern is not None and any(
            found.start() < place - start < found.end() for found in overlapping(pattern, window)
        )

    def _quote(self, value: Any, pattern: re.Pattern[str] | None) -> Any:
        if pattern is None:
            return value
        if isinstance(value, str):
            return self._quote_text(value, pattern)
        if isinstance(value, Mapping):
            return {self._quote(k, pattern): self._quote(v, pattern) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self._quote(one, pattern) for one in value]
        return value

    def _quote_text(self, text: str, pattern: re.Pattern[str]) -> str:
        places = {found.start() + 1 for found in overlapping(pattern, text)}
        places.update(self._open_ends(text))
        if not places:
            return text
        begins = [0, *sorted(places)]
        ends = [*begins[1:], len(text)]
        pieces = (text[begin:end] for begin, end in zip(begins, ends, strict=True))
        return self._break.join(pieces)

    def _open_ends(self, text: str) -> Iterator[int]:
        """Where a spelling would be cut off by an end of ``text``, also after a template's trim."""
        trimmed = text.strip()
        start = text.find(trimmed)
        for begin, end in {(0, len(text)), (start, start + len(trimmed))}:
            for length in range(1, min(self._special.longest, end - begin + 1)):
                if text[begin : begin + length] in self._special.endings:
                    yield begin
                if text[end - length : end] in self._special.beginnings:
                    yield end


def _unused(texts: Iterable[str]) -> str:
    """A character that is in none of ``texts``."""
    waiting = list(texts)
    return next(one for one in _BREAKS if not any(one in text for text in waiting))
