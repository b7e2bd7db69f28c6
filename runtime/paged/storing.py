"""What an inference has written to the cache, noted by the sequences it was computed for."""

from __future__ import annotations

from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward


def store(batch: Batch, told: Forward, eviction: Eviction) -> None:
    """Note what the inference of ``batch`` has written, and whom its queries attend to.

    Args:
        batch: what was computed.
        told: by the model.
        eviction: sums up attention for the sequences that accumulate it.
    """
    for chunk, tokens, rows in zip(batch.chunks, batch.token_rows, batch.query_rows, strict=True):
        sequence = chunk.sequence
        sequence.append(chunk.count, [layer[tokens] for layer in told.gates])
        newest = [layer[rows] for layer in told.queries]
        if sequence.accumulates:
            eviction.accumulate(sequence, newest)
        if sequence.window is not None:
            sequence.window.push(newest)
