"""What an inference has written to the cache, noted by the sequences it was computed for."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.model.batch import Batch


def store(batch: Batch, queries: SequenceOf[NDArray[np.float32]], eviction: Eviction) -> None:
    """Note what the inference of ``batch`` has written, and whom its queries attend to.

    Args:
        batch: what was computed.
        queries: of its window rows, by layer ``[rows, Hq * D]``.
        eviction: sums up attention for the sequences that accumulate it.
    """
    for chunk, rows in zip(batch.chunks, batch.query_rows, strict=True):
        sequence = chunk.sequence
        sequence.append(chunk.count)
        newest = [layer[rows] for layer in queries]
        if sequence.accumulates:
            eviction.accumulate(sequence, newest)
        if sequence.window is not None:
            sequence.window.push(newest)
