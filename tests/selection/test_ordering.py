from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ov_kvcrush.selection.ordering import Mask, evenly_spaced, highest, spread

seeds = st.integers(0, 2**32 - 1)


def best_first(values: NDArray[Any], excluded: Mask) -> list[int]:
    items = [index for index in range(len(values)) if not excluded[index]]
    return sorted(items, key=lambda index: (-values[index], index))


@settings(max_examples=150)
@given(seed=seeds, num_items=st.integers(1, 40), levels=st.integers(1, 20), data=st.data())
def test_the_highest_are_taken_and_ties_go_to_the_lower_index(
    seed: int, num_items: int, levels: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-levels, levels, (3, num_items)).astype(np.float32)
    num_excluded = data.draw(st.integers(0, num_items))
    count = data.draw(st.integers(0, num_items - num_excluded))
    excluded = rng.permuted(np.tile(np.arange(num_items) < num_excluded, (3, 1)), axis=1)
    mask = highest(values, count, excluded)
    for row in range(3):
        wanted = best_first(values[row], excluded[row])[:count]
        assert np.flatnonzero(mask[row]).tolist() == sorted(wanted)


def test_negative_zero_ties_with_zero() -> None:
    values = np.array([[-0.0, 0.0, -1.0, -0.0]], dtype=np.float32)
    assert highest(values, 2).tolist() == [[True, True, False, False]]


def test_the_smallest_difference_between_two_floats_decides() -> None:
    one = np.float32(1)
    values = np.array([[one, np.nextafter(one, np.float32(2)), one]], dtype=np.float32)
    assert highest(values, 1).tolist() == [[False, True, False]]


@settings(max_examples=150)
@given(
    seed=seeds,
    num_items=st.integers(1, 40),
    # Keys of 8, 16, 32 and 64 bits.
    levels=st.sampled_from([1, 3, 9, 1000, 100_000, 2**31 - 1]),
    data=st.data(),
)
def test_spread_takes_evenly_spaced_ranks_of_what_is_not_excluded(
    seed: int, num_items: int, levels: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (3, num_items)).astype(np.int32)
    num_excluded = data.draw(st.integers(0, num_items))
    count = data.draw(st.integers(0, num_items))
    excluded = rng.permuted(np.tile(np.arange(num_items) < num_excluded, (3, 1)), axis=1)
    mask = spread(values, count, excluded)
    for row in range(3):
        ordered = best_first(-values[row], excluded[row])
        wanted = [ordered[rank] for rank in evenly_spaced(len(ordered), count)]
        assert np.flatnonzero(mask[row]).tolist() == sorted(wanted)


def test_two_of_the_distances_0_to_3_are_the_first_and_the_last() -> None:
    mask = spread(np.array([[2, 0, 3, 1]], dtype=np.int32), 2, np.zeros((1, 4), dtype=np.bool_))
    assert mask.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("size", "count", "ranks"),
    [
        (4, 2, [0, 3]),
        (5, 3, [0, 2, 4]),
        (4, 3, [0, 2, 3]),  # 1.5 is rounded up
        (6, 3, [0, 3, 5]),  # 2.5 too: half up, not half to even
        (7, 1, [0]),
        (1, 1, [0]),
        (3, 0, []),
        (0, 0, []),
    ],
)
def test_evenly_spaced_ranks(size: int, count: int, ranks: list[int]) -> None:
    assert evenly_spaced(size, count).tolist() == ranks


@pytest.mark.parametrize("size", [0, 1, 5])
def test_of_fewer_ranks_than_asked_for_all_are_taken(size: int) -> None:
    assert evenly_spaced(size, 6).tolist() == list(range(size))


@settings(max_examples=200)
@given(size=st.integers(2, 10**6), data=st.data())
def test_evenly_spaced_ranks_differ_reach_both_ends_and_are_the_nearest(
    size: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(2, min(size, 2000)))
    ranks = evenly_spaced(size, count)
    assert len(ranks) == count
    assert (ranks[0], ranks[-1]) == (0, size - 1)
    assert (np.diff(ranks) >= 1).all()
    # |rank - i (size - 1) / (count - 1)| <= 1/2, in whole numbers
    exact = np.arange(count) * (size - 1)
    assert (2 * abs(ranks * (count - 1) - exact) <= count - 1).all()
