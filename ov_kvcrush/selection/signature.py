"""Head-behaviour signatures: a bit per head and token, anchors, and Hamming distances to them.

The signature of a page is the concatenation of its p tokens' rows of bits, one bit per head
(arXiv 2503.00022). After a cut the heads hold different tokens, so signatures are put together by
position: a head that does not hold a page contributes zeros to its signature. A page is known by
its *number*, the position of its first token divided by p; a token is a page of p = 1.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.selection.observation import Observation
from ov_kvcrush.selection.ordering import Mask, highest

Numbers = NDArray[np.int32]


def signature_bits(scores: NDArray[np.float32], fraction: float, page_size: int = 1) -> Mask:
    """Bits [heads, pages, p]: one for the floor(fraction * n) highest of each head's n ``scores``.

    Args:
        scores: [heads, n] one score a token; n is a multiple of ``page_size``.
        fraction: part of the tokens a head marks, 0 to 1.
        page_size: tokens in a page.
    """
    num_heads, num_tokens = scores.shape
    bits = highest(scores, int(fraction * num_tokens))
    pages: Mask = bits.reshape(num_heads, -1, page_size)
    return pages


def make_anchor(name: str, bits: Mask, page_numbers: Numbers, seed: int = 0) -> Mask:
    """The anchor called ``name`` for pages with these ``bits``, as [heads, p].

    ``bits`` and ``page_numbers`` are those of :func:`hamming_distances`. As one vector, the anchor
    runs like a signature: all heads' bits of the first token, then of the second, and so on.

    ``mean`` is a one where most signatures have one. At token granularity every column has
    floor(fraction * n) ones, so up to a fraction of one half ``mean`` is the same as ``zeros``.
    """
    num_signatures = int(np.count_nonzero(np.bincount(page_numbers.ravel())))
    ones = bits.sum(axis=1, dtype=np.int32)
    anchor: Mask = ANCHORS[name](ones.T, num_signatures, seed).T
    return anchor


def hamming_distances(bits: Mask, page_numbers: Numbers, anchor: Mask) -> NDArray[np.int32]:
    """Distances [H, pages] of the signatures of the pages each KV head holds to ``anchor``.

    Args:
        bits: [heads, pages, p] by KV head, or by query head with the heads of a group together.
        page_numbers: [H, pages] the pages each KV head holds, each once in a row.
        anchor: [heads, p].
    """
    num_kv_heads, num_pages = page_numbers.shape
    # A head that does not hold a page is as far from the anchor as zeros are; where it does hold
    # the page, its own bits replace that part of the distance.
    unheld = anchor.sum(axis=1, dtype=np.int32)
    change = (bits != anchor[:, None]).sum(axis=2, dtype=np.int32) - unheld[:, None]
    change = change.reshape(num_kv_heads, -1, num_pages).sum(axis=1, dtype=np.int32)
    distances = np.full(page_numbers.max() + 1, unheld.sum(), dtype=np.int32)
    # Flat arguments: NumPy's add.at is five times slower on two-dimensional ones.
    np.add.at(distances, page_numbers.ravel(), change.ravel())
    return distances.take(page_numbers)


# An anchor is made from the number of ones in each column of the signatures, [p, heads]; from the
# number of signatures; and from a seed.
Anchor = Callable[[NDArray[np.int32], int, int], Mask]


def _mean(ones: NDArray[np.int32], num_signatures: int, seed: int) -> Mask:
    return np.asarray(2 * ones > num_signatures)


def _alternate(ones: NDArray[np.int32], num_signatures: int, seed: int) -> Mask:
    return np.asarray(np.arange(ones.size).reshape(ones.shape) % 2 == 1)


def _random(ones: NDArray[np.int32], num_signatures: int, seed: int) -> Mask:
    return np.random.default_rng(seed).integers(0, 2, ones.shape).astype(np.bool_)


def _zeros(ones: NDArray[np.int32], num_signatures: int, seed: int) -> Mask:
    return np.zeros(ones.shape, dtype=np.bool_)


def _ones(ones: NDArray[np.int32], num_signatures: int, seed: int) -> Mask:
    return np.ones(ones.shape, dtype=np.bool_)


ANCHORS: dict[str, Anchor] = {
    "mean": _mean,
    "alternate": _alternate,
    "random": _random,
    "zeros": _zeros,
    "ones": _ones,
}

# Whose bits make the signature: each takes an observation to one with a row per bit.
SIGNATURE_HEADS: dict[str, Callable[[Observation], Observation]] = {
    "kv": lambda observation: observation,
    "query": Observation.by_query_head,
}
