"""The highest attention to each token against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ov_kvcrush.runtime.eviction.measuring import attention_mass, attention_peaks
from tests.runtime.eviction.test_kernels import GROUP, HEAD_SIZE, KINDS, KV_HEADS, Layer

Floats = NDArray[np.float32]

NONE = np.float32(-1e30)


def queries_of(window: int, seed: int = 1) -> Floats:
    shape = (window, KV_HEADS * GROUP, HEAD_SIZE)
    return (3 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def expected(layer: Layer, queries: Floats, log_weights: Floats, count: int) -> Floats:
    window = len(queries)
    products = np.einsum("whd,hsd->hws", queries, layer.read_keys().repeat(GROUP, axis=0)) * 0.3
    for w in range(window):
        products[:, w, layer.length - window + w + 1 :] = -np.inf
    highest = products.max(axis=2, keepdims=True)
    totals = np.log(np.exp(products - highest).sum(axis=2, keepdims=True)) + highest
    found: Floats = (products - totals + log_weights[:, None])[:, :, :count].max(axis=1)
    return found


# Fewer rows than are computed at once, as many, and more; rows that begin inside a page.
@KINDS
@pytest.mark.parametrize(
    ("length", "window", "count"), [(70, 7, 33), (164, 64, 100), (300, 129, 64), (40, 39, 1)]
)
def test_peaks_are_the_highest_softmax_attention(
    kind: str, length: int, window: int, count: int
) -> None:
    layer, queries = Layer(kind, length), queries_of(window)
    log_weights = np.random.default_rng(2).standard_normal(window).astype(np.float32)
    peaks = np.full((KV_HEADS * GROUP, count), NONE)
    args = (queries, 0.3, layer.keys, layer.kind, layer.table, length, log_weights)
    attention_peaks(*args, peaks)
    np.testing.assert_allclose(peaks, expected(layer, queries, log_weights, count), atol=1e-4)


def test_peaks_are_raised_and_never_lowered() -> None:
    layer, weights = Layer("u8", 90), np.zeros(10, np.float32)
    one, other = queries_of(10), queries_of(10, seed=2)
    peaks = np.full((KV_HEADS * GROUP, 80), NONE)
    for queries in (one, other):
        attention_peaks(queries, 0.3, layer.keys, layer.kind, layer.table, 90, weights, peaks)
    both = np.maximum(*(expected(layer, queries, weights, 80) for queries in (one, other)))
    np.testing.assert_allclose(peaks, both, atol=1e-4)


def test_the_peak_of_one_query_is_its_attention() -> None:
    layer, queries = Layer("u4", 130), queries_of(1)
    peaks = np.full((KV_HEADS * GROUP, 129), NONE)
    args = (queries, 0.3, layer.keys, layer.kind, layer.table, 130)
    attention_peaks(*args, np.zeros(1, np.float32), peaks)
    np.testing.assert_allclose(np.exp(peaks), attention_mass(*args)[:, :129], rtol=1e-3, atol=1e-7)


def test_huge_products_do_no_harm() -> None:
    layer = Layer("f32", 70)
    queries = np.full((2, KV_HEADS * GROUP, HEAD_SIZE), 1e4, np.float32)
    peaks = np.full((KV_HEADS * GROUP, 60), NONE)
    args = (queries, 1.0, layer.keys, layer.kind, layer.table, 70)
    attention_peaks(*args, np.zeros(2, np.float32), peaks)
    assert np.isfinite(peaks).all()
    assert (peaks <= 1e-3).all()
