"""Prose to hide facts in: the novels that ship with the package for calibration."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from itertools import islice
from random import Random

from ov_kvcrush.export.texts.mix import find_texts

_WORD = re.compile(r"[A-Za-z]+(?:['’][a-z]+)?")
_SHORTEST_WORD = 4


@dataclass(frozen=True)
class Sentence:
    """One of the prose.

    Attributes:
        text: without white space around it.
        begins_paragraph: a paragraph begins with it.
        words: in it, in small letters.
    """

    text: str
    begins_paragraph: bool
    words: frozenset[str]


@cache
def sentences() -> tuple[Sentence, ...]:
    """All of the package's prose, in order."""
    return tuple(
        Sentence(line.strip(), number == 0, frozenset(words_of(line)))
        for text in find_texts().prose
        for paragraph in text.content.split("\n\n")
        for number, line in enumerate(paragraph.strip().split("\n"))
        if line.strip()
    )


@cache
def vocabulary() -> tuple[str, ...]:
    """Words of the prose with four letters or more that are not names, in order of the alphabet."""
    content = "\n".join(sentence.text for sentence in sentences())
    found = set(_WORD.findall(content))
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
    """Prose from a random place on, as pieces for :func:`place`; it begins anew behind its end.

    Args:
        random: chooses the place, which does not depend on ``num_words``.
        num_words: of the text; its last sentence is cut off where they end.
        without: words in small letters; sentences with one of them are left out.
    """
    forbidden = frozenset(without)
    known = [sentence for sentence in sentences() if not sentence.words & forbidden]
    number = random.randrange(len(known))
    pieces: list[str] = []
    while num_words > 0:
        sentence = known[number % len(known)]
        words = sentence.text.split(" ")
        text = sentence.text
        if len(words) > num_words:
            text = f"{' '.join(islice(words, num_words))} …"
        pieces.append(f"{chr(10) * 2 if sentence.begins_paragraph else ' '}{text}")
        num_words -= len(words)
        number += 1
    return pieces
