"""The last queries of a sequence: what SnapKV's observation window looks through."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry


class QueryWindow:
    """A ring of the last ``size`` tokens' queries, for each layer.

    Attributes:
        size: W, tokens it can hold.
        count: tokens it holds.
    """

    def __init__(self, layers: tuple[LayerGeometry, ...], size: int) -> None:
        self.size = size
        self.count = 0
        self._next = 0
        self._shapes = [(layer.num_query_heads, layer.key_head_size) for layer in layers]
        # Layers side by side: a token's queries of all of them are one row.
        self._ends = list(accumulate((heads * width for heads, width in self._shapes), initial=0))
        self._ring = np.empty((size, self._ends[-1]), np.float32)

    def push(self, queries: list[NDArray[np.float32]], rows: slice = slice(None)) -> None:
        """Take in the newest tokens' queries, of which the last ``size`` count.

        Args:
            queries: by layer ``[n, Hq * D]``.
            rows: which of the n are the tokens.
        """
        begin, end, _ = rows.indices(len(queries[0]))
        begin = max(begin, end - self.size)
        count = end - begin
        middle = min(end, begin + self.size - self._next)  # the ring ends there
        self._write(self._next, [layer[begin:middle] for layer in queries])
        if middle < end:
            self._write(0, [layer[middle:end] for layer in queries])
        self._next = (self._next + count) % self.size
        self.count = min(self.size, self.count + count)

    def _write(self, place: int, queries: list[NDArray[np.float32]]) -> None:
        np.concatenate(queries, axis=1, out=self._ring[place : place + len(queries[0])])

    def rewind(self, count: int) -> None:
        """Forget the newest ``count`` tokens."""
        self._next = (self._next - count) % self.size
        self.count = max(0, self.count - count)

    def queries(self, layer: int) -> NDArray[np.float32]:
        """``[count, Hq, D]`` of ``layer``, oldest first."""
        columns = self._ring[:, self._ends[layer] : self._ends[layer + 1]]
        return columns.take(self._places, axis=0).reshape(self.count, *self._shapes[layer])

    def copy_from(self, other: QueryWindow) -> None:
        """Take over what ``other``, of the same layers, holds; the newest where this is smaller."""
        self.count = min(self.size, other.count)
        self._next = self.count % self.size
        self._ring[: self.count] = other._ring[other._places[other.count - self.count :]]

    @property
    def _places(self) -> NDArray[np.int64]:
        """Rows of the ring that hold something, oldest first."""
        places: NDArray[np.int64] = (self._next - self.count + np.arange(self.count)) % self.size
        return places
