"""Prose to hide facts in: the novels that ship with the package for calibration."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from ov_kvcrush.export.texts.mix import find_texts

_WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")
_SHORTEST_WORD = 4


@dataclass(frozen=True)
class Passage:
    """Sentences between which nothing can stand: one, or those of a speech.

    Attributes:
        text: without white space around it.
        begins_paragraph: a paragraph begins with it.
        words: in it, in small letters.
    """

    text: str
    begins_paragraph: bool
    words: frozenset[str]


@cache
def passages() -> tuple[Passage, ...]:
    """All of the package's prose, in order."""
    return tuple(
        Passage(passage, number == 0, frozenset(words_of(passage)))
        for text in find_texts().prose
        for paragraph in text.content.split("\n\n")
        for number, passage in enumerate(_split(paragraph))
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """Words of the prose with four letters or more that are not names, in order of the alphabet."""
    found = {word for passage in passages() for word in _WORD.findall(passage.text)}
    return tuple(
        sorted(
            word
            for word in found
            if word.islower() and word.isalpha() and len(word) >= _SHORTEST_WORD
        )
    )


def words_of(text: str) -> list[str]:
    """The words in ``text``, in small letters."""
    return [word.lower() for word in _WORD.findall(text)]


def prose(random: Random, num_words: int, without: Collection[str] = ()) -> list[str]:
    """Prose from a random paragraph on, as pieces for ``place``; behind its end it begins anew.

    Args:
        random: chooses the paragraph, which does not depend on ``num_words``.
        num_words: of the text, parted by spaces; its last passage is cut off where they end.
        without: words in small letters; passages with one of them are left out.
    """
    forbidden = frozenset(without)
    known = [passage for passage in passages() if not passage.words & forbidden]
    number = random.choice([n for n, passage in enumerate(known) if passage.begins_paragraph])
    pieces: list[str] = []
    while num_words > 0:
        passage = known[number % len(known)]
        words = passage.text.split(" ")
        cut = f"{' '.join(islice(words, num_words))} …"
        text = cut if len(words) > num_words else passage.text
        pieces.append(f"\n\n{text}" if passage.begins_paragraph else f" {text}")
        num_words -= len(words)
        number += 1
    return pieces


def _split(paragraph: str) -> Iterator[str]:
    """The passages of a paragraph with a sentence a line; a speech may go on in the next one."""
    lines: list[str] = []
    for line in paragraph.strip().split("\n"):
        lines.append(line.strip())
        if sum(text.count('"') for text in lines) % 2 == 0:
            yield " ".join(lines)
            lines = []
    if lines:
        yield " ".join(lines)
