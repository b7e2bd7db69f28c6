"""ROUGE-L (Lin 2004, summary level), with the library that LongBench's figures are made with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ov_kvcrush.evaluation.suites.metrics.libraries import require_library


def rouge_l(answer: str, gold: str) -> float:
    """F measure of the longest common subsequences of the sentences of ``answer`` and ``gold``.

    Sentences are what stands between full stops, words what stands between spaces, as it is
    spelled, and each counts once however often it stands. 0 where either has no words.

    Raises:
        ConfigError: the library is missing.
    """
    require_library("rouge", "rouge_l")
    from rouge import Rouge

    if not answer.strip(" .\t\r\n") or not gold.strip(" .\t\r\n"):
        return 0.0
    with _deep_enough(answer, gold):
        (scores,) = Rouge(metrics=["rouge-l"]).get_scores([answer], [gold])
    return float(scores["rouge-l"]["f"])


@contextmanager
def _deep_enough(*texts: str) -> Iterator[None]:
    """The library calls itself for every word of a sentence, and some answers have no full stop."""
    longest = sum(max(len(sentence.split()) for sentence in text.split(".")) for text in texts)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + longest)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)
