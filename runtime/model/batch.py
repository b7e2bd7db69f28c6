"""From the chunks of a step to the flat tensors of one inference."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.sequences.sequence import Chunk

Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Batch:
    """Tokens of several sequences for one inference, flat.

    Attributes:
        input_ids: ``[tokens]`` int64.
        position_ids: ``[tokens]`` int64, true positions.
        subsequence_begins: ``[seqs + 1]`` first token of each sequence.
        past_lens: ``[layers, seqs]``, tokens in the cache.
        block_indices: ``[pages]``, the page tables of all layers, in each of all sequences.
        block_indices_begins: ``[layers, seqs + 1]``, where in it each of them begins.
        sampled_rows: ``[rows]`` tokens whose logits are wanted.
        window_rows: ``[rows]`` tokens whose queries are wanted.
        chunks: what is computed, in order.
    """

    input_ids: NDArray[np.int64]
    position_ids: NDArray[np.int64]
    subsequence_begins: Ints
    past_lens: Ints
    block_indices: Ints
    block_indices_begins: Ints
    sampled_rows: Ints
    window_rows: Ints
    chunks: tuple[Chunk, ...] = ()

    @property
    def ending(self) -> list[Chunk]:
        """The chunks that reach their sequence's end."""
        return [chunk for chunk in self.chunks if chunk.ends]

    @property
    def logit_rows(self) -> list[slice]:
        """Which rows of the logits are each of the ``ending`` chunks'."""
        ends = accumulate((chunk.num_sampled_rows for chunk in self.ending), initial=0)
        return [slice(begin, end) for begin, end in pairwise(ends)]

    @property
    def token_rows(self) -> list[slice]:
        """Which rows of the batch are each chunk's tokens."""
        return [slice(int(a), int(b)) for a, b in pairwise(self.subsequence_begins)]

    @property
    def query_rows(self) -> list[slice]:
        """Which rows of the queries are each chunk's."""
        ends = accumulate((chunk.num_query_rows for chunk in self.chunks), initial=0)
        return [slice(begin, end) for begin, end in pairwise(ends)]


def build_batch(chunks: SequenceOf[Chunk]) -> Batch:
    """The batch that computes ``chunks``, in their order.

    Logits are asked for at the end of each sequence and behind each of its drafts, queries for the
    last window of each chunk, or for all of it.
    """
    input_ids: list[int] = []
    positions: list[NDArray[np.int64]] = []
    begins = [0]
    sampled_rows: list[int] = []
    window_rows: list[int] = []
    for chunk in chunks:
        last = chunk.first + chunk.count
        input_ids += chunk.token_ids
        positions.append(np.arange(chunk.first, last, dtype=np.int64))
        begins.append(len(input_ids))
        sampled_rows += range(len(input_ids) - chunk.num_sampled_rows, len(input_ids))
        window_rows += range(len(input_ids) - chunk.num_query_rows, len(input_ids))
    ledgers = [chunk.sequence.ledger for chunk in chunks]
    num_pages = np.array([ledger.num_pages for ledger in ledgers]).T
    # All tables in one operation, of which each layer's are a part.
    most = int(num_pages.max())
    tables = np.zeros((*num_pages.shape, most), np.int32)
    for place, ledger in enumerate(ledgers):
        held = ledger.tables[:, :most]
        tables[:, place, : held.shape[1]] = held
    pages = tables[np.arange(most) < num_pages[:, :, None]]
    table_begins = np.zeros((len(num_pages), len(chunks) + 1), np.int32)
    num_pages.cumsum(axis=1, out=table_begins[:, 1:])
    table_begins[1:] += table_begins[:-1, -1:].cumsum(axis=0)
    return Batch(
        chunks=tuple(chunks),
        input_ids=np.array(input_ids, np.int64),
        position_ids=np.concatenate(positions),
        subsequence_begins=np.array(begins, np.int32),
        past_lens=np.array([ledger.lengths for ledger in ledgers], np.int32).T,
        block_indices=pages,
        block_indices_begins=table_begins,
        sampled_rows=np.array(sampled_rows, np.int32),
        window_rows=np.array(window_rows, np.int32),
    )
