"""Where facts stand in a text."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.evaluation.suites.generating.placing import place, spread_depths


def test_facts_stand_before_between_and_behind_the_filler() -> None:
    facts = [(0.5, " B."), (0, " A."), (1, " D."), (0.5, " C.")]
    assert place([" one", "\n\ntwo"], facts) == "A. one B. C.\n\ntwo D."
    assert place([], facts) == "B. A. D. C."


@given(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 50))
def test_nothing_is_lost(depths: list[float], num_pieces: int) -> None:
    pieces = [f" piece{number}" for number in range(num_pieces)]
    facts = [(depth, f" fact{number}") for number, depth in enumerate(depths)]
    words = place(pieces, facts).split()
    assert len(words) == len(pieces) + len(facts)
    assert [word for word in words if word.startswith("piece")] == [text.strip() for text in pieces]
    assert sorted(word for word in words if word.startswith("fact")) == sorted(
        text.strip() for _, text in facts
    )


@given(st.integers(0, 1000), st.integers(1, 9))
def test_depths_are_spread(seed: int, num_facts: int) -> None:
    depths = spread_depths(Random(seed), num_facts)
    assert [int(depth * num_facts) for depth in depths] == list(range(num_facts))
