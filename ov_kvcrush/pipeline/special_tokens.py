"""The spellings of a tokenizer's own tokens, which take over a turn where a text holds them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ov_kvcrush.model_folder import TOKENIZER_FILES

if TYPE_CHECKING:
    from openvino_genai import Tokenizer

# The input of the tokenizer's first step that says what to look for, and what stands between the
# brackets and bars of it.
_PATTERN_PORT = "5"
_ALTERNATIVE = re.compile(r"(?:\\.|[^()|\\])+", re.DOTALL)


@dataclass(frozen=True)
class SpecialTokens:
    """Tokens by which a chat is steered, and the only ways to write them.

    Attributes:
        special: id by spelling of those that are marked special: no answer's text shows them.
        markup: of others that steer a chat all the same, such as ``<think>``; answers show them.
    """

    special: dict[str, int]
    markup: dict[str, int]

    @property
    def ids(self) -> frozenset[int]:
        """Of all of them."""
        return frozenset([*self.special.values(), *self.markup.values()])

    @cached_property
    def any_pattern(self) -> re.Pattern[str] | None:
        """Finds the next spelling of any of them; None where there are none."""
        return _pattern({**self.special, **self.markup})

    @cached_property
    def special_pattern(self) -> re.Pattern[str] | None:
        """Finds the next spelling of one that is marked special; None where there are none."""
        return _pattern(self.special)

    @cached_property
    def longest(self) -> int:
        """Characters of the longest spelling."""
        return max(map(len, [*self.special, *self.markup]), default=0)

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """What spellings begin with: anything shorter than the whole."""
        spellings = [*self.special, *self.markup]
        return frozenset(one[:end] for one in spellings for end in range(1, len(one)))

    @cached_property
    def endings(self) -> frozenset[str]:
        """What spellings end with: anything shorter than the whole."""
        spellings = [*self.special, *self.markup]
        return frozenset(one[start:] for one in spellings for start in range(1, len(one)))


def find_special_tokens(
    tokenizer: Tokenizer, added: Collection[str], template: str
) -> SpecialTokens:
    """The tokens of ``tokenizer`` that a chat is steered by.

    Those it leaves out of a decoded text when asked to are marked special. Of the others that were
    added to its vocabulary those are meant that ``template`` writes, or whose other half it writes
    (``</think>``), or that are in bars: Gemma's line breaks and HTML tags are added tokens too,
    and no more than text.

    Args:
        tokenizer: may be any, not only the folder's own.
        added: spellings of added tokens, as :func:`added_tokens` lists.
        template: its chat template.
    """
    rows = [[number] for number in tokenizer.get_vocab().values()]
    shown, whole = (tokenizer.decode(rows, skip_special_tokens=skip) for skip in (True, False))
    ids = {text: number for text, (number,) in zip(whole, rows, strict=True)}
    hidden = {
        number: text
        for text, left, (number,) in zip(whole, shown, rows, strict=True)
        if text and not left
    }
    markup = {}
    for spelling in added:
        number = ids[spelling] if spelling in ids else _only_id(tokenizer, spelling)
        if number in hidden:
            hidden[number] = spelling  # it is not always decoded as it is read
        elif number is not None and _steers(spelling, template):
            markup[spelling] = number
    special = {text: number for number, text in hidden.items() if len(text) > 1}
    return SpecialTokens(special, markup)


def added_tokens(folder: Path) -> list[str]:
    """Spellings of the tokens that the tokenizer of ``folder`` looks for before all others.

    They are the alternatives of the expression by which its graph splits a text, and there are none
    where it has no such step.
    """
    try:
        net = ElementTree.parse(folder / TOKENIZER_FILES[0]).getroot()
    except (OSError, ElementTree.ParseError):
        return []
    sources = {
        edge.get("to-layer"): edge.get("from-layer")
        for edge in net.iter("edge")
        if edge.get("to-port") == _PATTERN_PORT
    }
    splits = {
        sources.get(layer.get("id"))
        for layer in net.iter("layer")
        if layer.get("type") == "SpecialTokensSplit"
    }
    constants = [layer.find("data") for layer in net.iter("layer") if layer.get("id") in splits]
    weights = (folder / TOKENIZER_FILES[0]).with_suffix(".bin")
    return [
        re.sub(r"\\(.)", r"\1", escaped, flags=re.DOTALL)
        for data in constants
        if data is not None
        for escaped in _ALTERNATIVE.findall(_read_constant(weights, data))
    ]


def overlapping(pattern: re.Pattern[str], text: str, start: int = 0) -> Iterator[re.Match[str]]:
    """All matches in ``text`` from ``start`` on, also those that overlap."""
    while found := pattern.search(text, start):
        yield found
        start = found.start() + 1


def _read_constant(weights: Path, data: ElementTree.Element) -> str:
    with weights.open("rb") as stream:
        stream.seek(int(data.get("offset", 0)))
        return stream.read(int(data.get("size", 0))).decode(errors="replace")


def _only_id(tokenizer: Tokenizer, text: str) -> int | None:
    ids = tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
    return ids[0] if len(ids) == 1 else None


def _steers(text: str, template: str) -> bool:
    opening = text.replace("</", "<")
    written = any(one in template for one in (text, opening, opening.replace("<", "</", 1)))
    return len(text.strip()) > 1 and (written or text.startswith(("<|", "<｜")))


def _pattern(spellings: Collection[str]) -> re.Pattern[str] | None:
    # The longest first, as the tokenizer takes them.
    by_length = sorted(spellings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, by_length))) if by_length else None
