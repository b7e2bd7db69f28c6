"""Values, keys and names: no two alike, and none a part of another."""

from __future__ import annotations

import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.evaluation.suites.generating.values import (
    names,
    numbers,
    take,
    uuid_pairs,
    uuids,
)
from ov_kvcrush.evaluation.suites.generating.words import ADJECTIVES, NOUNS, PEOPLE, VERBS

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.mark.parametrize("words", [ADJECTIVES, NOUNS, VERBS, PEOPLE])
def test_no_word_begins_or_ends_with_another(words: tuple[str, ...]) -> None:
    assert len(set(words)) == len(words)
    assert all(word.isascii() and word.isalpha() for word in words)
    ordered, reverse = sorted(words), sorted(word[::-1].lower() for word in words)
    for known in (ordered, reverse):
        assert [pair for pair in pairwise(known) if pair[1].startswith(pair[0])] == []


def test_values_are_distinct_and_the_same_for_a_seed() -> None:
    for drawn, again in (
        (take(numbers(Random(1), 2), 90), take(numbers(Random(1), 2), 90)),
        (take(uuids(Random(1)), 90), take(uuids(Random(1)), 90)),
    ):
        assert len(set(drawn)) == 90
        assert drawn == again
    assert sorted(take(numbers(Random(1), 2), 90)) == [str(number) for number in range(10, 100)]
    assert all(UUID.fullmatch(text) for text in take(uuids(Random(1)), 90))


def test_names_do_not_run_out() -> None:
    drawn = take(names(Random(0), ("calm", "wild"), ("fox", "hen", "owl")), 40)
    assert len(set(drawn)) == 40
    assert all(name.count("-") == 1 for name in drawn[:3])
    assert all(name.count("-") == 2 for name in drawn[3:9])
    assert take(names(Random(0), ("a", "b"), ("c",), joiner="_"), 1)[0] in ("a_c", "b_c")


@given(st.integers(0, 60))
def test_pairs_of_uuids_have_as_many_groups_as_are_wanted(amount: int) -> None:
    pairs = uuid_pairs(uuids(Random(0)), uuids(Random(1)), amount)
    *whole, last = pairs or [("", "")]
    assert all(UUID.fullmatch(key) and UUID.fullmatch(value) for key, value in whole)
    num_groups = sum(len(text.split("-")) for pair in pairs for text in pair)
    assert num_groups == amount - (amount % 10 == 1)
    assert not pairs or all(last)
