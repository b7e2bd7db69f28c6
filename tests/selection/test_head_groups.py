"""Heads in groups: like ones together, few groups, and none better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.selection import group_all_heads, group_heads
from ov_kvcrush.selection.head_groups import Groups

one_share = st.sampled_from([0.0, 0.2, 0.201, 1.0, 1.009, 3.5]) | st.floats(
    0, 60, allow_subnormal=False
)
some_shares = st.lists(one_share, min_size=1, max_size=9)


def squares(shares: Sequence[float], groups: Sequence[Sequence[int]]) -> float:
    values = np.array(shares)
    parts = [values[list(group)] for group in groups]
    return float(sum(((part - part.mean()) ** 2).sum() for part in parts))


def are_alike(one: float, other: float) -> bool:
    return abs(one - other) <= 0.01 * max(one, other)


def partitions(shares: Sequence[float], most: int) -> list[list[list[int]]]:
    """All that lie side by side in sorted order and take no heads apart that are alike."""
    order = sorted(range(len(shares)), key=lambda head: shares[head])
    places = [
        place
        for place in range(1, len(order))
        if not are_alike(shares[order[place - 1]], shares[order[place]])
    ]
    return [
        [order[begin:end] for begin, end in pairwise((0, *chosen, len(order)))]
        for count in range(most)
        for chosen in combinations(places, count)
    ]


@given(st.lists(one_share, min_size=1, max_size=40), st.integers(1, 6))
def test_every_head_is_in_one_group_and_there_are_few(shares: list[float], most: int) -> None:
    groups = group_heads(shares, most)
    assert sorted(head for group in groups for head in group) == list(range(len(shares)))
    assert 1 <= len(groups) <= most
    assert [list(group) for group in groups] == [sorted(group) for group in groups]
    assert list(groups) == sorted(groups)


@given(some_shares, st.integers(1, 5))
def test_no_other_groups_are_nearer_to_the_shares(shares: list[float], most: int) -> None:
    found = squares(shares, group_heads(shares, most))
    least = min(squares(shares, groups) for groups in partitions(shares, most))
    assert found == pytest.approx(least, rel=1e-6, abs=1e-9)


@given(st.lists(one_share, min_size=1, max_size=40), st.integers(1, 6))
def test_heads_that_are_alike_are_together(shares: list[float], most: int) -> None:
    group_of = {head: n for n, group in enumerate(group_heads(shares, most)) for head in group}
    for one, other in combinations(range(len(shares)), 2):
        if are_alike(shares[one], shares[other]):
            assert group_of[one] == group_of[other]


@given(st.lists(one_share, min_size=1, max_size=4))
def test_few_heads_have_a_cache_each_unless_they_are_alike(shares: list[float]) -> None:
    apart = max(partitions(shares, len(shares)), key=len)
    assert group_heads(shares) == tuple(sorted(tuple(sorted(group)) for group in apart))


@given(some_shares, st.randoms(use_true_random=False))
def test_the_order_of_heads_does_not_count(shares: list[float], random: Random) -> None:
    order = list(range(len(shares)))
    random.shuffle(order)
    shuffled = [shares[head] for head in order]
    one, other = squares(shares, group_heads(shares)), squares(shuffled, group_heads(shuffled))
    assert one == pytest.approx(other, rel=1e-6, abs=1e-9)


def test_a_head_that_carries_the_layer_is_alone() -> None:
    assert group_heads([0.4, 1.0, 20.1]) == ((0,), (1,), (2,))
    assert group_heads([0.3] * 7 + [12.0]) == ((0, 1, 2, 3, 4, 5, 6), (7,))
    assert group_heads([0.3, 0.31, 4.0, 0.3, 9.0, 4.2, 0.32, 0.8, 0.75]) == (
        (0, 1, 3, 6),
        (2, 5),
        (4,),
        (7, 8),
    )


def test_all_layers_are_grouped_by_themselves() -> None:
    assert group_all_heads([[1.0, 1.0], [0.2, 3.0], [2.0]]) == (((0, 1),), ((0,), (1,)), ((0,),))
    assert group_all_heads([[1.0, 2.0, 3.0]], most=1) == (((0, 1, 2),),)


def misplaced(shares: list[list[float]], groups: Sequence[Groups]) -> float:
    lost = 0.0
    for layer, members in zip(shares, groups, strict=True):
        for group in members:
            mean = sum(layer[head] for head in group) / len(group)
            lost += sum(max(0.0, layer[head] - mean) for head in group)
    return lost


@given(
    st.integers(1, 6).flatmap(
        lambda heads: st.lists(
            st.lists(st.floats(0.2, 20), min_size=heads, max_size=heads), min_size=1, max_size=6
        )
    ),
    st.sampled_from([0.0, 0.02, 0.1, 0.5]),
)
def test_little_of_the_budget_is_in_the_wrong_place(
    shares: list[list[float]], allowed: float
) -> None:
    groups = group_all_heads(shares, most=6, misplaced=allowed)
    alike = misplaced(shares, group_all_heads(shares, most=6, misplaced=0.0))
    assert misplaced(shares, groups) <= max(allowed * sum(map(sum, shares)), alike) + 1e-9
    assert sum(map(len, groups)) <= sum(map(len, group_all_heads(shares, 6, misplaced=0.0)))


def test_layers_are_divided_where_that_moves_most() -> None:
    shares = [[1.0, 1.1, 0.9], [0.3, 0.3, 9.0], [1.0, 1.0, 1.0]]
    assert group_all_heads(shares) == (((0, 1, 2),), ((0, 1), (2,)), ((0, 1, 2),))
