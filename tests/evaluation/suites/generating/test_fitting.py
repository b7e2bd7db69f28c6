"""How long samples are made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.errors import ConfigError
from ov_kvcrush.evaluation.suites.generating.fitting import fit, num_tokens
from ov_kvcrush.evaluation.suites.sample import Question, Sample


def count(text: str) -> int:
    return len(text.split())


def sample(num_words: int) -> Sample:
    question = Question("what is it ", ("x",), "contains_all", most_tokens=5)
    return Sample("id", "task", "word " * num_words, (question,))


@given(st.integers(8, 5000), st.integers(1, 20))
def test_a_sample_is_as_long_as_it_may_be(length: int, step: int) -> None:
    fitted = fit(lambda amount: sample(step * amount), count, length)
    tokens = num_tokens(fitted, count)
    assert tokens <= length
    assert tokens >= 0.99 * length or tokens > length - step


def test_all_texts_and_the_room_of_answers_count() -> None:
    questions = (
        Question("one two", ("x",), "exact", most_tokens=5),
        Question("three", ("x",), "exact", most_tokens=3, reply="longer than it may be"),
    )
    one = Sample("id", "task", "a b c ", questions, opening="it is")
    assert num_tokens(one, count) == 3 + 2 + 5 + 1 + 5 + 2 * 2


def test_a_length_that_cannot_be_reached_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a sample of task has at least 8 tokens .* the 7 that"):
        fit(sample, count, 7)
    # As tokenizers do that cut off what is longer than their model's context.
    with pytest.raises(ConfigError, match=r"cannot be made 900 tokens long.* counts 55 however"):
        fit(sample, lambda text: min(count(text), 50), 900)
