"""Where facts stand among filler."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random


def place(pieces: Sequence[str], facts: Sequence[tuple[float, str]]) -> str:
    """One text of ``pieces`` with ``facts`` among them.

    Args:
        pieces: of filler, each with the white space before it.
        facts: depth of each, from 0 (before all filler) to 1 (behind it), and its text with the
            white space before it. Equal places keep the order given.
    """
    at: dict[int, list[str]] = {}
    for depth, fact in facts:
        at.setdefault(round(depth * len(pieces)), []).append(fact)
    text = []
    for number in range(len(pieces) + 1):
        text += at.get(number, [])
        text += pieces[number : number + 1]
    return "".join(text).strip()


def spread_depths(random: Random, count: int) -> list[float]:
    """``count`` random depths, one in each of as many equal parts of a text, in order."""
    return [(part + random.random()) / count for part in range(count)]
