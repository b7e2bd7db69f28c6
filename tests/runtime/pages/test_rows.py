"""Compiled gathers by row say what NumPy's do, of whole arrays and of parts of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.runtime.pages.rows import put_in_rows, take_in_rows


@given(
    rows=st.integers(1, 4),
    group=st.integers(1, 3),
    size=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    is_part=st.booleans(),
)
def test_neighbouring_rows_are_taken_by_the_same_places(
    rows: int, group: int, size: int, seed: int, is_part: bool
) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows * group, size + 3)).astype(np.float32)
    values = values[:, :size] if is_part else np.ascontiguousarray(values[:, :size])
    places = random.integers(0, size, (rows, random.integers(0, 2 * size))).astype(np.int32)
    expected = np.take_along_axis(values, np.repeat(places, group, axis=0).astype(int), axis=1)
    np.testing.assert_array_equal(take_in_rows(values, places), expected)


@given(rows=st.integers(1, 4), size=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_what_is_put_somewhere_is_found_there(rows: int, size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 1000, (rows, size)).astype(np.int32)
    places = random.permuted(np.tile(np.arange(size, dtype=np.int32), (rows, 1)), axis=1)
    put = put_in_rows(values, places)
    np.testing.assert_array_equal(np.take_along_axis(put, places.astype(int), axis=1), values)
