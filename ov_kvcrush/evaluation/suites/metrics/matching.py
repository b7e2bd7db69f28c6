"""Right answers that stand in an answer as they are; RULER (arXiv 2404.06654) counts like this."""

from __future__ import annotations

from ov_kvcrush.evaluation.suites.sample import Question


def exact(answer: str, gold: str) -> float:
    """1 where ``answer`` is ``gold``, but for space around them."""
    return float(answer.strip() == gold.strip())


def contains_all(answer: str, question: Question) -> float:
    """Part of ``question.answers``, all of which are wanted, that stand in ``answer``.

    Upper and lower case are alike. What is empty stands in nothing.
    """
    found = _found(answer, question)
    return sum(found) / len(found) if found else 0.0


def contains_any(answer: str, question: Question) -> float:
    """1 where one of ``question.answers`` stands in ``answer``, as for :func:`contains_all`."""
    return float(any(_found(answer, question)))


def _found(answer: str, question: Question) -> list[bool]:
    told = answer.lower()
    golds = (gold.strip().lower() for gold in question.answers)
    return [bool(gold) and gold in told for gold in golds]
