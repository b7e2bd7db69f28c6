"""What a second reading looks at: the highest attention that any of its tokens pays to each one.

KVzip (arXiv 2505.23416): what a model looks at while it repeats a text is what it will look at
whatever is asked about the text.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.eviction.layer_threads import LayerThreads
from ov_kvcrush.runtime.pages.memory import CacheMemory
from ov_kvcrush.runtime.sequences.sequence import Sequence

INSTRUCTION = "\n\nRepeat the previous text exactly:\n"
"""What stands between a text and its repetition; to be given in the model's tokens."""

# Logarithm of a peak before there is one; above what stands for a score that is still to come.
_LEAST = np.float32(-1e30)

Peaks = dict[int, NDArray[np.float32]]
"""By layer ``[Hq, length]``, natural logarithms, by slot."""


class PeakMeter:
    """Measures the peaks of the layers that have a budget.

    Args:
        layers: geometry by layer.
        scales: factor on query-key products, by layer.
        memories: the pages, by layer.
        budgeted: layers to measure.
        threads: for the layers.

    Attributes:
        budgeted: layers that it measures.
    """

    def __init__(
        self,
        layers: SequenceOf[LayerGeometry],
        scales: SequenceOf[float],
        memories: SequenceOf[CacheMemory],
        budgeted: SequenceOf[int],
        threads: LayerThreads,
    ) -> None:
        self._layers = layers
        self._scales = scales
        self._memories = memories
        self.budgeted = budgeted
        self._threads = threads
        self._is_compiled = False

    def prepare(self) -> None:
        """Compile the loop, which takes seconds the first time on a machine."""
        if not self._is_compiled:
            from ov_kvcrush.runtime.eviction.compiling import compile_peaks

            compile_peaks()
            self._is_compiled = True

    def num_to_measure(self, sequence: Sequence) -> int:
        """How many of the newest tokens of ``sequence`` have not been read again."""
        return max((sequence.layers[n].num_not_again for n in self.budgeted), default=0)

    def begin(self, again: Sequence) -> Peaks:
        """Of the tokens that ``again`` sees before it reads, to be raised."""
        return {
            n: np.full((self._layers[n].num_query_heads, again.layers[n].length), _LEAST)
            for n in self.budgeted
        }

    def measure(
        self,
        again: Sequence,
        queries: SequenceOf[NDArray[np.float32]],
        stride: int,
        peaks: Peaks,
    ) -> None:
        """Raise ``peaks`` by the queries of tokens of ``again``, the last one and others before it.

        Args:
            again: sees the tokens that they are of, and more behind.
            queries: by layer ``[n, Hq * D]``.
            stride: tokens from one query to the next.
            peaks: changed.
        """
        # Here, for Numba takes long to import, and few read anything twice.
        from ov_kvcrush.runtime.eviction.measuring import attention_peaks
        from ov_kvcrush.runtime.pages.key_codec import KEY_KINDS

        def raise_layer(n: int) -> None:
            geometry, memory, layer = self._layers[n], self._memories[n], again.layers[n]
            heads = (len(queries[n]), geometry.num_query_heads, geometry.key_head_size)
            attention_peaks(
                np.ascontiguousarray(queries[n], np.float32).reshape(heads),
                self._scales[n],
                memory.keys,
                KEY_KINDS[memory.layout.key_type],
                layer.table,
                layer.length,
                np.zeros(len(queries[n]), np.float32),
                peaks[n],
                stride,
            )

        self._threads.map(raise_layer, self.budgeted)

    def end(self, sequence: Sequence, peaks: Peaks, count: int) -> None:
        """Let the newest ``count`` tokens of ``sequence`` have their ``peaks`` as scores.

        They are those in the last slots, in order.
        """
        for n, by_slot in peaks.items():
            by_head = by_slot[:, -count:].reshape(self._layers[n].num_kv_heads, -1, count)
            sequence.layers[n].score_newest(by_head.max(axis=1))
