"""The last queries of a sequence: what SnapKV's observation window looks through."""

from __future__ import annotations

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
        self._rings = [
            np.empty((size, layer.num_query_heads, layer.key_head_size), np.float32)
            for layer in layers
        ]

    def push(self, queries: list[NDArray[np.float32]]) -> None:
        """Take in the newest tokens' queries: by layer ``[n, Hq * D]``; the last ``size`` count."""
        queries = [rows[-self.size :] for rows in queries]
        count = len(queries[0])
        places = (self._next + np.arange(count)) % self.size
        for ring, rows in zip(self._rings, queries, strict=True):
            ring[places] = rows.reshape(count, *ring.shape[1:])
        self._next = int(self._next + count) % self.size
        self.count = min(self.size, self.count + count)

    def rewind(self, count: int) -> None:
        """Forget the newest ``count`` tokens."""
        self._next = (self._next - count) % self.size
        self.count = max(0, self.count - count)

    def queries(self, layer: int) -> NDArray[np.float32]:
        """``[count, Hq, D]`` of ``layer``, oldest first."""
        places = (self._next - self.count + np.arange(self.count)) % self.size
        return self._rings[layer][places]

    def copy_from(self, other: QueryWindow) -> None:
        """Take over what ``other``, of the same layers, holds; the newest where this is smaller."""
        self.count = min(self.size, other.count)
        self._next = self.count % self.size
        for number, ring in enumerate(self._rings):
            ring[: self.count] = other.queries(number)[other.count - self.count :]
