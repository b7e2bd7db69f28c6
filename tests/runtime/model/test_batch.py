"""The tensors of a batch say of every layer and sequence what these hold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ov_kvcrush.plan import LayerGeometry
from ov_kvcrush.runtime.model.batch import build_batch
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.sequences.sequence import Chunk, Sequence

LAYERS = (LayerGeometry(2, 1, 4, 4),) * 3

PAGES = st.lists(st.integers(0, 10**6), max_size=5)
TABLES = st.lists(PAGES, min_size=len(LAYERS), max_size=len(LAYERS))


@given(st.lists(TABLES, min_size=1, max_size=4))
def test_tables_and_lengths_are_those_of_the_layers(tables: list[list[list[int]]]) -> None:
    chunks = []
    for of_one in tables:
        sequence = Sequence([1, 2, 3], LAYERS, None)
        for layer, pages in zip(sequence.layers, of_one, strict=True):
            layer.pages = pages[:1]
            layer.add_pages(pages[1:])
            layer.append(0, len(pages) * PAGE_SIZE // 2)
        sequence.append(1)
        chunks.append(Chunk.of(sequence, 2))
    batch = build_batch(chunks)
    assert batch.past_lens.dtype == batch.block_indices_begins.dtype == np.int32
    for number in range(len(LAYERS)):
        by_sequence = [of_one[number] for of_one in tables]
        assert batch.past_lens[number].tolist() == [
            len(pages) * PAGE_SIZE // 2 + 1 for pages in by_sequence
        ]
        begins = batch.block_indices_begins[number].tolist()
        for place, pages in enumerate(by_sequence):
            assert batch.block_indices[begins[place] : begins[place + 1]].tolist() == pages
    assert batch.block_indices.dtype == np.int32
    assert len(batch.block_indices) == sum(len(pages) for of_one in tables for pages in of_one)
