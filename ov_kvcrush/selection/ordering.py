"""The one order tokens are chosen in, by value and then by position, and two ways to take from it.

Both work on rows, one per head, and need no argsort: what is taken comes back as a mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Indices = NDArray[np.intp]


def highest(values: NDArray[np.float32], count: int, excluded: Mask | None = None) -> Mask:
    """Mask of the ``count`` highest of every row of [heads, items] ``values``; ties by lower index.

    Values are finite. ``excluded`` [heads, items] items are passed over; at least ``count`` others
    are left in every row.
    """
    if count == 0:
        return np.zeros(values.shape, dtype=np.bool_)
    if excluded is not None:
        values = np.where(excluded, np.float32(-np.inf), values)
    last = values.shape[1] - count
    threshold = np.partition(values, last, axis=1)[:, last, None]
    mask: Mask = values >= threshold
    # Ties are rare, and then of a few rows: counted by row only where there are any.
    if np.count_nonzero(mask) == count * len(mask):
        return mask
    for number in np.flatnonzero(np.count_nonzero(mask, axis=1) > count):
        row, tied = mask[number], np.flatnonzero(values[number] == threshold[number])
        row[tied[len(tied) - (np.count_nonzero(row) - count) :]] = False
    return mask


def ascending(values: NDArray[np.integer], excluded: Mask) -> Indices:
    """Indices [heads, left] of every row's items in ascending order of their values.

    Args:
        values: [heads, items], not negative; ties are ordered by index.
        excluded: [heads, items] items that are not in the order, as many in every row.
    """
    num_items = values.shape[1]
    # A value and its index in one integer, the narrowest that holds them, sort several times
    # faster than an argsort, and no two are equal.
    end = (int(values.max()) + 1) * num_items
    key_type = np.min_scalar_type(end)
    keys = values.astype(key_type) * key_type.type(num_items)
    keys += np.arange(num_items, dtype=key_type)
    keys[excluded] = end
    keys.sort(axis=1)
    num_ordered = num_items - np.count_nonzero(excluded[0])
    return np.asarray(keys[:, :num_ordered] % num_items, dtype=np.intp)


def mask_of(indices: Indices, num_items: int) -> Mask:
    """Mask [heads, num_items] of the ``indices`` [heads, count]."""
    mask = np.zeros((len(indices), num_items), dtype=np.bool_)
    np.put_along_axis(mask, indices, True, axis=1)
    return mask


def spread(values: NDArray[np.integer], count: int, excluded: Mask) -> Mask:
    """Mask of ``count`` items of every row, evenly spaced in the row's ascending order.

    Arguments as :func:`ascending`; all that are left where they are fewer than ``count``.
    """
    order = ascending(values, excluded)
    return mask_of(order[:, evenly_spaced(order.shape[1], count)], values.shape[1])


def evenly_spaced(size: int, count: int) -> NDArray[np.int64]:
    """``count`` different ranks of 0 … size - 1, evenly spaced, first and last included.

    The i-th is i * (size - 1) / (count - 1), rounded half up in integer arithmetic: steps of one or
    more never round to the same rank. A single one is the first; of fewer ranks than ``count``,
    all are taken.
    """
    count = min(count, size)
    gaps = max(count - 1, 1)
    return (2 * np.arange(count, dtype=np.int64) * (size - 1) + gaps) // (2 * gaps)
