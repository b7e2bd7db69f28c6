"""Which samples are made, and in which order."""

from __future__ import annotations

from random import Random

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.suites.generating.making import make_samples
from ov_kvcrush.evaluation.suites.sample import Question, Sample
from tests.support.generated_samples import count


class Dice:
    def __init__(self, task: str) -> None:
        self.task = task

    def __call__(self, random: Random, amount: int) -> Sample:
        thrown = str(random.getrandbits(64))
        question = Question(f"{thrown}?", (thrown,), "exact", 4)
        return Sample(self.task, self.task, "dull " * amount, (question,))


MAKERS = {"first": Dice("first"), "second": Dice("second")}


def test_tasks_come_in_turn_and_each_sample_has_a_name_of_its_own() -> None:
    samples = list(make_samples(MAKERS, 100, count, 2))
    assert [sample.id for sample in samples] == [
        "first-100-0",
        "second-100-0",
        "first-100-1",
        "second-100-1",
    ]
    assert len({sample.questions[0].text for sample in samples}) == 4
    assert {sample.task for sample in samples} == {"first", "second"}


def test_a_sample_depends_on_seed_task_and_number_alone() -> None:
    samples = list(make_samples(MAKERS, 100, count, 3))
    assert list(make_samples(MAKERS, 100, count, 1, tasks=["second"])) == [samples[1]]
    assert list(make_samples(MAKERS, 100, count, 2)) == samples[:4]
    longer = next(iter(make_samples(MAKERS, 200, count, 1)))
    assert longer.questions == samples[0].questions
    others = make_samples(MAKERS, 100, count, 3, seed=1)
    assert not {sample.questions for sample in others} & {sample.questions for sample in samples}


def test_tasks_can_be_chosen() -> None:
    (sample,) = make_samples(MAKERS, 100, count, 1, tasks=["second", "second"])
    assert sample.task == "second"
    with pytest.raises(ConfigError, match="unknown task 'frist'") as caught:
        make_samples(MAKERS, 100, count, 1, tasks=["frist"])
    assert caught.value.hint == "Did you mean 'first'?"
