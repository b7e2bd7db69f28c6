"""F1 of words: how many an answer and the right one share, as SQuAD (arXiv 1606.05250) counts."""

from __future__ import annotations

import re
import string
from collections import Counter

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of the words of ``answer``, each as often as it stands.

    Case, ASCII punctuation and English articles do not count. 0 where either has no words, also
    where both have none.
    """
    told, right = _words(answer), _words(gold)
    shared = (told & right).total() if told and right else 0
    return 2 * shared / (told.total() + right.total()) if shared else 0.0


def _words(text: str) -> Counter[str]:
    # Punctuation first: what it divides becomes one word, and "a.m." is not an article.
    return Counter(_ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())
