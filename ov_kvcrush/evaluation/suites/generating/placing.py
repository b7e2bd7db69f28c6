"""Where facts stand among filler."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from random import Random


def place(pieces: Sequence[str], facts: Sequence[tuple[float, str]]) -> str:
    """One text of ``pieces`` with ``facts`` among them.

    Args:
        pieces: of filler, each with the white space before it.
        facts: depth of each, as the share of the filler's characters before it, and its text with
            the white space before it. It stands between the pieces nearest to there; of two at one
            place the first comes first.
    """
    ends = [0, *accumulate(len(piece) for piece in pieces)]
    at: dict[int, list[str]] = {}
    for depth, fact in facts:
        at.setdefault(_nearest(ends, depth * ends[-1]), []).append(fact)
    text = []
    for number in range(len(pieces) + 1):
        text += at.get(number, [])
        text += pieces[number : number + 1]
    return "".join(text).strip()


def spread_depths(random: Random, count: int) -> list[float]:
    """``count`` random depths, one in each of as many equal parts of a text, in order."""
    return [(part + random.random()) / count for part in range(count)]


def _nearest(ends: Sequence[int], wanted: float) -> int:
    number = bisect_left(ends, wanted)
    is_before = number > 0 and wanted - ends[number - 1] < ends[number] - wanted
    return number - 1 if is_before else number
