"""The assignment of precisions against every assignment there is."""

from __future__ import annotations

from itertools import groupby, product

from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.export.kv_plan.assignment import Choice, best_assignments

BYTES = (152, 120, 120, 88)
LAYERS = st.integers(1, 5).flatmap(
    lambda count: st.lists(
        st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=count, max_size=count
    )
)


@given(LAYERS, st.integers(1, 4))
def test_no_assignment_beats_the_front_and_each_of_it_is_one(
    harms: list[list[int]], most_parts: int
) -> None:
    # Whole numbers, so that sums are exact in any order.
    choices = [[Choice(b, h) for b, h in zip(BYTES, layer, strict=True)] for layer in harms]
    front = best_assignments(choices, most_parts)
    for one in front:
        picked = [layer[n] for layer, n in zip(choices, one.chosen, strict=True)]
        assert one.num_bytes == sum(c.num_bytes for c in picked)
        assert one.harm == sum(c.harm for c in picked)
        assert len(list(groupby(one.chosen))) <= most_parts
    assert [one.num_bytes for one in front] == sorted({one.num_bytes for one in front})
    for chosen in product(range(4), repeat=len(harms)):
        if len(list(groupby(chosen))) <= most_parts:
            picked = [layer[n] for layer, n in zip(choices, chosen, strict=True)]
            size, harm = sum(c.num_bytes for c in picked), sum(c.harm for c in picked)
            assert any(one.num_bytes <= size and one.harm <= harm for one in front)


def test_sensitive_layers_stay_high_and_runs_stay_few() -> None:
    harms = [9.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.1]
    choices = [[Choice(2, 0.0), Choice(1, harm)] for harm in harms]
    ten = next(one for one in best_assignments(choices, 5) if one.num_bytes == 10)
    assert ten.chosen == (0, 1, 1, 1, 0, 1, 1, 1)
    few = next(one for one in best_assignments(choices, 2) if one.num_bytes == 10)
    assert few.chosen == (0, 0, 1, 1, 1, 1, 1, 1)


def test_many_layers_are_no_matter() -> None:
    choices = [
        [Choice(size, (layer * 7 % 13 + 1) * (200 - size)) for size in (152, 128, 120, 112, 96, 88)]
        for layer in range(40)
    ]
    front = best_assignments(choices)
    assert (front[0].num_bytes, front[-1].num_bytes) == (40 * 88, 40 * 152)
