"""What a cut measures of the cached keys: attention mass, and how distinct they are.

Fused loops over the plugin's pages, one layer a call, that release the GIL, so that layers run on
threads of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ov_kvcrush.runtime.pages.jit import jit
from ov_kvcrush.runtime.pages.key_codec import Bytes, Floats, Ints, read_keys
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE

_LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)

# Of the peaks: queries whose products are made together, and the lanes their highest are kept in.
_COLUMNS, _LANES = 64, 16


@intrinsic
def _float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@jit
def _exp(x: np.float32) -> np.float32:
    """e**x for x <= 0, to about 2e-7 relative; no call, so that the loop around it vectorizes."""
    return _exp2(x * _LOG2_E)


@jit
def _exp2(x: np.float32) -> np.float32:
    """2**x for x <= 0; as ``_exp``."""
    y = max(x, np.float32(-126.0))
    whole = np.rint(y)
    f = y - whole
    p = np.float32(1.5403530e-4)
    p = p * f + np.float32(1.3333558e-3)
    p = p * f + np.float32(9.6181291e-3)
    p = p * f + np.float32(5.5504109e-2)
    p = p * f + np.float32(2.4022651e-1)
    p = p * f + np.float32(6.9314718e-1)
    p = p * f + np.float32(1.0)
    return p * _float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))


@jit
def _add_products(keys: Floats, queries: Floats, scores: Floats) -> None:
    """``scores [32, J] = keys [32, D] @ queries [D, J]``; the J columns are the vector lanes.

    Four tokens and four channels at a time keep the multiply-adds ahead of the loads.
    """
    head_size, num_queries = queries.shape
    for t in range(0, keys.shape[0], 4):
        s0, s1, s2, s3 = scores[t], scores[t + 1], scores[t + 2], scores[t + 3]
        for j in range(num_queries):
            s0[j] = s1[j] = s2[j] = s3[j] = np.float32(0.0)
        for d in range(0, head_size, 4):
            q0, q1, q2, q3 = queries[d], queries[d + 1], queries[d + 2], queries[d + 3]
            a0, a1, a2, a3 = keys[t, d], keys[t, d + 1], keys[t, d + 2], keys[t, d + 3]
            b0, b1, b2, b3 = (
                keys[t + 1, d],
                keys[t + 1, d + 1],
                keys[t + 1, d + 2],
                keys[t + 1, d + 3],
            )
            c0, c1, c2, c3 = (
                keys[t + 2, d],
                keys[t + 2, d + 1],
                keys[t + 2, d + 2],
                keys[t + 2, d + 3],
            )
            e0, e1, e2, e3 = (
                keys[t + 3, d],
                keys[t + 3, d + 1],
                keys[t + 3, d + 2],
                keys[t + 3, d + 3],
            )
            for j in range(num_queries):
                s0[j] += a0 * q0[j] + a1 * q1[j] + a2 * q2[j] + a3 * q3[j]
                s1[j] += b0 * q0[j] + b1 * q1[j] + b2 * q2[j] + b3 * q3[j]
                s2[j] += c0 * q0[j] + c1 * q1[j] + c2 * q2[j] + c3 * q3[j]
                s3[j] += e0 * q0[j] + e1 * q1[j] + e2 * q2[j] + e3 * q3[j]


@jit
def attention_mass(
    queries: Floats, scale: float, key_pages: Bytes, kind: int, table: Ints, length: int
) -> Floats:
    """Softmax attention of the last queries to every cached token, summed over those queries.

    Args:
        queries: ``[W, Hq, D]``, after RoPE; the last one belongs to the last cached token, and the
            W last tokens of the cache are the tokens of the queries.
        scale: factor on the products.
        key_pages: ``[pages, H, bytes]``.
        kind: storage type of the keys, one of ``KEY_KINDS``.
        table: pages of the sequence in order.
        length: S, tokens in the cache.

    Returns:
        ``[Hq, S]`` float32; a row sums to W.
    """
    window, num_query_heads, head_size = queries.shape
    num_kv_heads = key_pages.shape[1]
    group = num_query_heads // num_kv_heads
    num_columns = group * window
    page_size = np.int64(PAGE_SIZE)
    num_pages = (length + page_size - 1) // page_size
    mass = np.zeros((num_query_heads, length), np.float32)
    columns = np.empty((head_size, num_columns), np.float32)
    keys = np.zeros((page_size, head_size), np.float32)
    scores = np.empty((num_pages * page_size, num_columns), np.float32)
    top = np.empty(num_columns, np.float32)
    total = np.empty(num_columns, np.float32)
    for h in range(num_kv_heads):
        for g in range(group):
            for w in range(window):
                for d in range(head_size):
                    columns[d, g * window + w] = queries[w, h * group + g, d] * np.float32(scale)
        top[:] = np.float32(-3.0e38)
        for page in range(num_pages):
            first = page * page_size
            rows = min(page_size, length - first)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys)
            _add_products(keys, columns, scores[first : first + page_size])
            for t in range(first, first + rows):
                # A window query sees itself and what came before it.
                if t > length - window:
                    for j in range(num_columns):
                        if t > length - window + j % window:
                            scores[t, j] = np.float32(-3.0e38)
                row = scores[t]
                for j in range(num_columns):
                    top[j] = max(top[j], row[j])
        total[:] = np.float32(0.0)
        for t in range(length):
            row = scores[t]
            for j in range(num_columns):
                e = _exp(row[j] - top[j])
                row[j] = e
                total[j] += e
        for j in range(num_columns):
            total[j] = np.float32(1.0) / total[j]
        for t in range(length):
            row = scores[t]
            for g in range(group):
                seen = np.float32(0.0)
                for w in range(window):
                    seen += row[g * window + w] * total[g * window + w]
                mass[h * group + g, t] = seen
    return mass


@jit
def attention_peaks(
    queries: Floats,
    scale: float,
    key_pages: Bytes,
    kind: int,
    table: Ints,
    length: int,
    log_weights: Floats,
    peaks: Floats,
    stride: int = 1,
) -> None:
    """Raise ``peaks`` to the highest attention that any of the last queries pays to each token.

    What KVzip (arXiv 2505.23416) scores tokens by. The cost is one product of query and key and one
    exponential each: denominators are summed as the products are made, page by page, and the
    highest are looked up once they are known, in logarithms.

    Args:
        queries: ``[W, Hq, D]``, after RoPE; the last one belongs to the last cached token, each
            other to the one ``stride`` before the next one's.
        scale: factor on the products.
        key_pages: ``[pages, H, bytes]``.
        kind: storage type of the keys, one of ``KEY_KINDS``.
        table: pages of the sequence in order.
        length: S, tokens in the cache.
        log_weights: ``[W]``, natural logarithm of a factor on each query's attention.
        peaks: ``[Hq, n]``, natural logarithms of the highest so far, for the first n slots; all of
            them before the first query's own. Changed.
        stride: tokens from one query to the next.
    """
    num_rows, num_query_heads, head_size = queries.shape
    num_kv_heads = key_pages.shape[1]
    group = num_query_heads // num_kv_heads
    num_tokens = peaks.shape[1]
    page_size, columns_at_once, lanes = np.int64(PAGE_SIZE), np.int64(_COLUMNS), np.int64(_LANES)
    num_pages = (length + page_size - 1) // page_size
    num_stored = (num_tokens + page_size - 1) // page_size
    keys = np.zeros((num_pages * page_size, head_size), np.float32)
    columns = np.zeros((head_size, columns_at_once), np.float32)
    stored = np.empty((num_stored * page_size, columns_at_once), np.float32)
    passing = np.empty((page_size, columns_at_once), np.float32)
    highest = np.empty((num_tokens, lanes), np.float32)
    top = np.empty(columns_at_once, np.float32)
    total = np.empty(columns_at_once, np.float32)
    raised = np.empty(columns_at_once, np.float32)
    factor = np.float32(scale) * _LOG2_E
    for h in range(num_kv_heads):
        for page in range(num_pages):
            first = page * page_size
            rows = min(page_size, length - first)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys[first:])
        for head in range(h * group, (h + 1) * group):
            for t in range(num_tokens):
                for lane in range(lanes):
                    highest[t, lane] = np.float32(-3.0e38)
            for begin in range(0, num_rows, columns_at_once):
                count = min(columns_at_once, num_rows - begin)
                for w in range(count):
                    for d in range(head_size):
                        columns[d, w] = queries[begin + w, head, d] * factor
                # The first query of the block sees so many tokens, each other ``stride`` more.
                seen = length - (num_rows - 1 - begin) * stride
                top[:] = np.float32(-3.0e38)
                total[:] = np.float32(0.0)
                most = seen + (count - 1) * stride
                for page in range((most + page_size - 1) // page_size):
                    first = page * page_size
                    tile = stored[first : first + page_size] if page < num_stored else passing
                    _add_products(keys[first : first + page_size], columns, tile)
                    for t in range(max(np.int64(0), seen - first), page_size):
                        for j in range(min(columns_at_once, (first + t - seen) // stride + 1)):
                            tile[t, j] = np.float32(-3.0e38)
                    _add_to_denominators(tile, top, total, raised)
                for w in range(count):
                    total[w] = top[w] + np.log2(total[w]) - log_weights[begin + w] * _LOG2_E
                for w in range(count, columns_at_once):
                    total[w] = np.float32(3.0e38)
                _raise_highest(stored[:num_tokens], total, highest)
            for t in range(num_tokens):
                best = highest[t, 0]
                for lane in range(1, lanes):
                    best = max(best, highest[t, lane])
                peaks[head, t] = max(peaks[head, t], best * _LN_2)


@jit
def _add_to_denominators(tile: Floats, top: Floats, total: Floats, raised: Floats) -> None:
    """Add 2**``tile [32, J]`` to ``total [J]``, both of which are over 2**``top``, then raised."""
    for j in range(_COLUMNS):
        raised[j] = top[j]
    for t in range(PAGE_SIZE):
        row = tile[t]
        for j in range(_COLUMNS):
            raised[j] = max(raised[j], row[j])
    for j in range(_COLUMNS):
        total[j] *= _exp2(top[j] - raised[j])
        top[j] = raised[j]
    for t in range(PAGE_SIZE):
        row = tile[t]
        for j in range(_COLUMNS):
            total[j] += _exp2(row[j] - top[j])


@jit
def _raise_highest(scores: Floats, less: Floats, highest: Floats) -> None:
    """Raise ``highest [T, lanes]`` to ``scores [T, J] - less [J]``, J by J over the lanes."""
    for t in range(len(scores)):
        row, best = scores[t], highest[t]
        for begin in range(0, _COLUMNS, _LANES):
            for lane in range(_LANES):
                best[lane] = max(best[lane], row[begin + lane] - less[begin + lane])


@jit
def key_distinctiveness(
    key_pages: Bytes, kind: int, table: Ints, length: int, head_size: int
) -> Floats:
    """Minus the cosine of each key with the mean key of its head (KeyDiff, arXiv 2504.15364).

    Args: as :func:`attention_mass`.

    Returns:
        ``[H, S]`` float32, -1 (like all others) to 1.
    """
    num_kv_heads = key_pages.shape[1]
    page_size = np.int64(PAGE_SIZE)
    num_pages = (length + page_size - 1) // page_size
    distinct = np.zeros((num_kv_heads, length), np.float32)
    keys = np.zeros((page_size, head_size), np.float32)
    mean = np.empty(head_size, np.float32)
    for h in range(num_kv_heads):
        mean[:] = np.float32(0.0)
        for page in range(num_pages):
            rows = min(page_size, length - page * page_size)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys)
            for t in range(rows):
                for d in range(head_size):
                    mean[d] += keys[t, d]
        norm = np.float32(0.0)
        for d in range(head_size):
            norm += mean[d] * mean[d]
        for d in range(head_size):
            mean[d] /= max(np.sqrt(norm), np.float32(1e-20))
        for page in range(num_pages):
            rows = min(page_size, length - page * page_size)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys)
            for t in range(rows):
                along = np.float32(0.0)
                square = np.float32(0.0)
                for d in range(head_size):
                    along += keys[t, d] * mean[d]
                    square += keys[t, d] * keys[t, d]
                size = max(np.sqrt(square), np.float32(1e-20))
                distinct[h, page * page_size + t] = -along / size
    return distinct
