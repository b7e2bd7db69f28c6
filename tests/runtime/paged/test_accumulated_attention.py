"""Attention that is summed up over all queries: each counts once, and it follows its token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.runtime.paged.engine import PagedEngine
from ov_kvcrush.runtime.sequences.sequence import Sequence
from tests.support.engines import EXACT, TOKEN, bare_engine, prompt_of, read_prompt

PROMPT = prompt_of(400, 3)


def summed(sequence: Sequence) -> list[NDArray[np.float32]]:
    """What all queries so far paid to each token that is held, by layer."""
    attention = [layer.attention for layer in sequence.layers if layer.attention is not None]
    assert len(attention) == len(sequence.layers)
    return attention


@pytest.mark.parametrize("chunk", [400, 37])
def test_accumulated_attention_counts_every_query_once(needle_f32_dir: Path, chunk: int) -> None:
    def summing(chunk: int) -> PagedEngine:
        return bare_engine(
            needle_f32_dir, max_num_batched_tokens=chunk, max_cache_size=500, importance="h2o",
            representatives="none", **EXACT,
        )  # fmt: skip

    sequence = read_prompt(summing(chunk), PROMPT)
    assert not sequence.cuts
    whole = summed(sequence)
    for attention in whole:
        # Each of the 400 queries pays 1 in all; the first token is seen by all of them.
        np.testing.assert_allclose(attention.sum(axis=1), 400, rtol=1e-4)
        assert (attention[:, 0] >= 1).all()
        assert (attention[:, -1] <= 1).all()
    again = read_prompt(summing(100), PROMPT)
    for one, other in zip(whole, summed(again), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_accumulated_attention_follows_the_tokens_that_stay(needle_f32_dir: Path) -> None:
    engine = bare_engine(needle_f32_dir, **TOKEN, importance="h2o", representatives="none")
    sequence = read_prompt(engine, PROMPT)
    for layer, attention in zip(sequence.layers, summed(sequence), strict=True):
        assert attention.shape[1] == layer.length
        # Heads that share a KV head hold the same tokens; the first token stays the richest.
        assert (attention[:, 0] > 1).all()
