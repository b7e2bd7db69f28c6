"""Batches for a model without an engine around it."""

from __future__ import annotations

import numpy as np

from ov_kvcrush.runtime.model.batch import Batch
from ov_kvcrush.runtime.model.paged_model import PagedModel
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE


def batch(model: PagedModel, tokens: list[int], past: int, rows: list[int]) -> Batch:
    """One sequence on pages 0, 1, …; logits and queries of ``rows``."""
    pages = np.arange(-(-(past + len(tokens)) // PAGE_SIZE), dtype=np.int32)
    layers = len(model.layers)
    return Batch(
        input_ids=np.array(tokens, np.int64),
        position_ids=np.arange(past, past + len(tokens)),
        subsequence_begins=np.array([0, len(tokens)], np.int32),
        past_lens=np.full((layers, 1), past, np.int32),
        block_indices=[pages] * layers,
        block_indices_begins=np.array([[0, len(pages)]] * layers, np.int32),
        sampled_rows=np.array(rows, np.int32),
        window_rows=np.array(rows, np.int32),
    )
