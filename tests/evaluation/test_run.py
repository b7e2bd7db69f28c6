"""The comparison: one outcome after the other, and nothing runs ahead of what was asked for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from ov_kvcrush.errors import ConfigError, ContextError
from ov_kvcrush.evaluation.configurations import make_configurations
from ov_kvcrush.evaluation.dataset import Example
from ov_kvcrush.evaluation.run import Evaluation
from tests.support.texts import document

EXAMPLE = Example("one", "quote", 250, ((f"{document()} What is room 7?", "7"), ("Room 8?", "8")))


class Steps:
    """Remembers what was told."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.shares: list[float] = []

    def step(self, number: int, total: int, title: str) -> None:
        self.titles.append(f"{number}/{total} {title}")

    def advance(self, share: float) -> None:
        self.shares.append(share)

    def note(self, text: str) -> None:
        self.titles.append(text)


def test_an_outcome_is_there_before_the_next_configuration_begins(needle_int8_dir: Path) -> None:
    steps = Steps()
    configurations = make_configurations(["default"], [Fraction(1, 2)], [])
    outcomes = Evaluation(needle_int8_dir).compare(configurations, [EXAMPLE], steps)
    assert steps.titles == []
    assert next(outcomes).configuration is configurations[0]
    assert (steps.titles, steps.shares) == (["1/2 full cache"], [1.0])
    last = next(outcomes)
    assert steps.titles[-1] == "2/2 default 1/2"
    assert [answer.kind for answer in last.records[0].answers] == ["first", "later"]
    assert next(outcomes, None) is None


def test_all_budgets_are_checked_before_anything_runs(needle_int8_dir: Path) -> None:
    steps = Steps()
    configurations = make_configurations(["default"], [Fraction(1, 20)], [])
    with pytest.raises(ConfigError, match=r"default 1/20 of one, .* leaves nothing to choose"):
        next(Evaluation(needle_int8_dir).compare(configurations, [EXAMPLE], steps))
    assert steps.titles == []


def test_a_document_beyond_the_context_is_refused_before_anything_runs(
    needle_int8_dir: Path,
) -> None:
    question = f"{'Room 7 is blue. ' * 3000} What is room 7?"
    steps, example = Steps(), Example("long", "quote", 9000, ((question, "7"),))
    configurations = make_configurations(["default"], [Fraction(1, 2)], [])
    with pytest.raises(ContextError, match=r"long: the prompt has .* within the 8,192 that"):
        next(Evaluation(needle_int8_dir).compare(configurations, [EXAMPLE, example], steps))
    assert steps.titles == []
