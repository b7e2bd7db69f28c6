"""Numbers that an answer names, as LongBench (arXiv 2308.14508) scores counts and paragraphs."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+")


def share_of_right_numbers(answer: str, gold: str) -> float:
    """Part of the numbers in ``answer`` that are the first one in ``gold``, digit by digit."""
    right, named = _NUMBER.search(gold), _NUMBER.findall(answer)
    return named.count(right[0]) / len(named) if right and named else 0.0
