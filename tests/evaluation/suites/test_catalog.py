"""Which samples a suite gives: of rows and of generators."""

from __future__ import annotations

import pytest

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.dataset import half_of
from ov_kvcrush.evaluation.suites.catalog import SampleRequest
from ov_kvcrush.evaluation.suites.generating.fitting import num_tokens
from tests.support.generated_samples import count


def nothing(note: str) -> None:
    raise AssertionError(note)


def test_rows_that_ship_come_one_of_each_task_after_the_other() -> None:
    samples = SampleRequest("longbench", limit=14).samples(count, nothing)
    assert len({sample.task for sample in samples}) == len(samples) == 14
    assert SampleRequest("longbench", limit=3).samples(count, nothing) == samples[:3]
    for split in ("tune", "held"):
        half = SampleRequest("longbench", split=split).samples(count, nothing)
        assert {half_of(sample.id) for sample in half} == {split}


def test_long_rows_lose_their_middle_and_those_that_cannot_are_told() -> None:
    notes: list[str] = []
    request = SampleRequest("longbench", tasks=["hotpotqa", "repobench-p"], lengths=[600])
    samples = request.samples(count, notes.append)
    whole = SampleRequest("longbench", tasks=["hotpotqa", "repobench-p"]).samples(count, nothing)
    assert {sample.id for sample in samples} < {sample.id for sample in whole}
    assert all(count(one.context + one.questions[0].text) <= 600 for one in samples)
    assert len(notes) == len(whole) - len(samples)
    assert all(note.startswith("left out: ") for note in notes)


@pytest.mark.parametrize("suite", ["ruler", "turns"])
def test_generated_samples_have_each_length_and_leave_room_for_a_template(suite: str) -> None:
    request = SampleRequest(suite, lengths=[3000, 4000], num_samples=2, tasks=[])
    samples = request.samples(count, nothing)
    tasks = {sample.task for sample in samples}
    assert len(samples) == len({sample.id for sample in samples}) == 2 * 2 * len(tasks)
    for sample, length in zip(samples, [3000] * (len(samples) // 2) + [4000] * 1000, strict=False):
        assert 0.95 * length < num_tokens(sample, count) <= length - 64


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (SampleRequest("longbnch"), "unknown suite 'longbnch'"),
        (SampleRequest("turns", tasks=["needls"]), "unknown task 'needls'"),
        (SampleRequest("longbench", tasks=["qaspr"]), "LongBench has no English task 'qaspr'"),
    ],
)
def test_a_mistake_says_what_there_is(request_: SampleRequest, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request_.samples(count, nothing)
