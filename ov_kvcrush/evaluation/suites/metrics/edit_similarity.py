"""Likeness of a line of code to the right one, as LongBench (arXiv 2308.14508) scores code."""

from __future__ import annotations

from ov_kvcrush.evaluation.suites.metrics.libraries import require_library

# Of comments in the languages there are, and of code in Markdown.
_MARKS = ("`", "#", "//")


def edit_similarity(answer: str, gold: str) -> float:
    """How alike ``gold`` and the first line of code in ``answer`` are.

    1 less the insertions and deletions between them, over their characters. The first line of code
    is the first one without a comment or a backtick; empty lines before the answer are skipped.
    LongBench's own code finds up to a few points less where its library has no edit distance.

    Raises:
        ConfigError: the library is missing.
    """
    require_library("rapidfuzz", "edit_similarity")
    from rapidfuzz import fuzz

    lines = answer.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in _MARKS)), "")
    return fuzz.ratio(code, gold) / 100
