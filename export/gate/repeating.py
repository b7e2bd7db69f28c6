"""How well a model repeats what it has read: a gate is learnt from what it looks at meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ov_kvcrush.export.likelihood import negative_log_likelihood
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import pages_for
from ov_kvcrush.runtime.sequences.sequence import Chunk, sequence_on_pages

# Of a repetition, every so many tokens are counted; the first ones tell which text it is.
_STRIDE, _LEAD = 8, 32


def nats_when_repeating(
    model: PagedModel, passages: Sequence[Sequence[int]], instruction: Sequence[int]
) -> float:
    """Mean negative log likelihood, in nats a token, of passages that are repeated.

    Args:
        model: compiled, without a cache; it gets one here.
        passages: token ids of texts, each longer than 32.
        instruction: tokens that ask for the repetition.
    """
    found = []
    for passage in passages:
        tokens = [*passage, *instruction, *passage]
        model.reserve([pages_for(len(tokens))] * len(model.layers))
        sequence = sequence_on_pages(tokens, model.layers)
        first = len(passage) + len(instruction)
        model.forward(replace(build_batch([Chunk.of(sequence, first)]), sampled_rows=_rows(0, 0)))
        sequence.append(first)
        rows = _rows(_LEAD, len(passage) - 1)
        batch = build_batch([Chunk.of(sequence, len(passage))])
        logits = model.forward(replace(batch, sampled_rows=rows)).logits
        # Logits of a row tell the token after it.
        found.append(negative_log_likelihood(logits, np.array(passage)[rows + 1]))
    return float(np.mean(found))


def _rows(begin: int, end: int) -> np.ndarray:
    return np.arange(begin, end, _STRIDE, dtype=np.int32)
