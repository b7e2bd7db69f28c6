"""What an inference has written to the cache, noted by the sequences it was computed for."""

from __future__ import annotations

import numpy as np

from ov_kvcrush.runtime.eviction.interface import Eviction
from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.compiled_graph import Forward


def store(batch: Batch, told: Forward, eviction: Eviction) -> None:
    """Note what the inference of ``batch`` has written, and whom its queries attend to.

    Args:
        batch: what was computed; the tokens that follow are sampled.
        told: by the model.
        eviction: sums up attention for the sequences that accumulate it.
    """
    # Layers side by side: what a sequence has to keep of all of them is one array.
    scores = np.concatenate(told.gates, axis=1) if told.gates else None
    for chunk, tokens, rows in zip(batch.chunks, batch.token_rows, batch.query_rows, strict=True):
        sequence, count = chunk.sequence, chunk.num_true
        # What was drafted and did not come true has never been.
        tokens, rows = (slice(of.start, of.stop - chunk.count + count) for of in (tokens, rows))
        sequence.append(count, None if scores is None else scores[tokens])
        if sequence.accumulates:
            eviction.accumulate(sequence, [layer[rows] for layer in told.queries])
        if sequence.window is not None:
            sequence.window.push(told.queries, rows)
