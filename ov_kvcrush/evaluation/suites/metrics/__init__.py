"""Metrics: each scores an answer from 0 to 1, by the one of the right ones it is nearest to."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ov_kvcrush.errors import ConfigError, did_you_mean
from ov_kvcrush.evaluation.suites.metrics.classification import classification
from ov_kvcrush.evaluation.suites.metrics.edit_similarity import edit_similarity
from ov_kvcrush.evaluation.suites.metrics.f1 import f1
from ov_kvcrush.evaluation.suites.metrics.libraries import require_library
from ov_kvcrush.evaluation.suites.metrics.matching import contains_all, contains_any, exact
from ov_kvcrush.evaluation.suites.metrics.numbers import share_of_right_numbers
from ov_kvcrush.evaluation.suites.metrics.rouge_l import rouge_l
from ov_kvcrush.evaluation.suites.sample import Question

__all__ = ["METRICS", "Metric", "require_metrics"]

Metric = Callable[[str, Question], float]


def _best(score: Callable[[str, str], float]) -> Metric:
    """By the one of the right answers to which ``score`` finds an answer nearest."""

    def metric(answer: str, question: Question) -> float:
        return max((score(answer, gold) for gold in question.answers), default=0.0)

    return metric


def _first_line(whole: Metric) -> Metric:
    """Of an answer's first line alone: behind it a model that continues examples writes more."""

    def metric(answer: str, question: Question) -> float:
        return whole(answer.lstrip("\n").partition("\n")[0], question)

    return metric


METRICS: dict[str, Metric] = {
    "f1": _best(f1),
    "f1_first_line": _first_line(_best(f1)),
    "rouge_l": _best(rouge_l),
    "rouge_l_first_line": _first_line(_best(rouge_l)),
    "classification": _first_line(classification),
    "edit_similarity": _best(edit_similarity),
    "retrieval": _best(share_of_right_numbers),
    "count": _best(share_of_right_numbers),
    "exact": _best(exact),
    "contains_all": contains_all,
    "contains_any": contains_any,
}
"""By the names that :attr:`Question.metric` has."""

# What some need beside NumPy, and the package it is in.
_LIBRARIES = {
    "rouge_l": "rouge",
    "rouge_l_first_line": "rouge",
    "edit_similarity": "rapidfuzz",
}


def require_metrics(names: Iterable[str]) -> None:
    """Refuse, before anything is asked, metrics that could not score it in the end.

    Raises:
        ConfigError: one is not known, or a library that it needs is missing.
    """
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"unknown metric {name!r}", did_you_mean(name, METRICS))
        if name in _LIBRARIES:
            require_library(_LIBRARIES[name], name)
