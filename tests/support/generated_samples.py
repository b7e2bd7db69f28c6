"""Generated samples without a model: tokens counted by a rule, each task read by its own solver."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hypothesis import strategies as st

from ov_kvcrush.evaluation.suites.generating.fitting import num_tokens
from ov_kvcrush.evaluation.suites.generating.making import Maker, make_samples
from ov_kvcrush.evaluation.suites.sample import Sample

LENGTHS = st.integers(2500, 8000)
SEEDS = st.integers(0, 10**6)


def count(text: str) -> int:
    """Pieces of at most four letters or digits, and marks: about what tokenizers make of a text."""
    return len(re.findall(r"\w{1,4}|[^\w\s]", text))


def sample_of(makers: Mapping[str, Maker], task: str, length: int, seed: int) -> Sample:
    """The first sample of ``task``, whose length is checked."""
    (sample,) = make_samples(makers, length, count, 1, seed, [task])
    assert 0.98 * length <= num_tokens(sample, count) <= length
    assert (sample.task, sample.is_chat) == (task, True)
    assert all(question.kind == task for question in sample.questions)
    assert all(question.most_tokens > 0 for question in sample.questions)
    assert sample.context.endswith("\n\n")
    (again,) = make_samples(makers, length, count, 1, seed, [task])
    assert again == sample
    return sample
