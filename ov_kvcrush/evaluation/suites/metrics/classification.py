"""Labels that an answer names, as LongBench (arXiv 2308.14508) scores trec."""

from __future__ import annotations

from ov_kvcrush.evaluation.suites.sample import Question


def classification(answer: str, question: Question) -> float:
    """1 over the number of ``question.classes`` that ``answer`` names; 0 without the right one.

    Named is what stands in it, spelled like that. A label that is a part of the right one's name
    does not count beside it.
    """
    named = [label for label in question.classes if label in answer]
    scores = [
        1 / sum(label == gold or label not in gold for label in named)
        for gold in question.answers
        if gold in named
    ]
    return max(scores, default=0.0)
