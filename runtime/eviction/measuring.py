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
from ov_kvcrush.runtime.pages.key_codec import U8, Bytes, Floats, Ints, read_keys
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.vectors import (
    LANES,
    LINE,
    add,
    exp2,
    fetch_ahead,
    larger,
    load,
    load_bytes,
    multiply,
    multiply_add,
    splat,
    splat_from,
    store,
    subtract,
    total,
)

_LOG2_E = np.float32(1.4426950408889634)
_LN_2 = np.float32(0.6931471805599453)
# Logarithm of what a query does not see.
_LEAST = np.float32(-3.0e38)

# Of the peaks: queries whose products are made together, and the lanes their highest are kept in.
_COLUMNS, _LANES = 64, 16


@intrinsic
def _float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@jit
def _exp2(x: np.float32) -> np.float32:
    """2**x for x <= 0, to about 2e-7 relative; no call, so that the loop around it vectorizes."""
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
    page_size, lanes = np.int64(PAGE_SIZE), np.int64(LANES)
    num_pages = (length + page_size - 1) // page_size
    # A query head's queries in blocks of a vector; lanes of the last one may be empty.
    blocks = (window + lanes - 1) // lanes
    mass = np.zeros((num_query_heads, length), np.float32)
    columns = np.zeros((group * blocks, head_size * lanes), np.float32)
    keys = np.zeros((page_size, head_size), np.float32)
    scores = np.empty((group * blocks, num_pages * page_size * lanes), np.float32)
    factor = np.float32(scale) * _LOG2_E
    for h in range(num_kv_heads):
        for g in range(group):
            for w in range(window):
                column = columns[g * blocks + w // lanes]
                for d in range(head_size):
                    column[d * lanes + w % lanes] = queries[w, h * group + g, d] * factor
        for page in range(num_pages):
            first = page * page_size
            rows = min(page_size, length - first)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys)
            if page + 1 < num_pages:
                _fetch(key_pages, table[page + 1], h)
            for block in range(group * blocks):
                _multiply(keys, columns[block], scores[block], first)
        for block in range(group * blocks):
            begin = block % blocks * lanes
            _hide_later(scores[block], length - window + begin, length)
            _add_mass(
                scores[block], length, min(window - begin, lanes), mass[h * group + block // blocks]
            )
    return mass


@jit
def _fetch(key_pages: Bytes, page: int, head: int) -> None:
    """Ask for the keys of a head in a page: what lies in another page no processor foresees."""
    size = np.int64(key_pages.shape[2])
    begin = (np.int64(page) * np.int64(key_pages.shape[1]) + head) * size
    for i in range(begin, begin + size, LINE):
        fetch_ahead(key_pages, i)


@jit
def _multiply(keys: Floats, columns: Floats, scores: Floats, first: int) -> None:
    """Rows ``first …`` of ``scores [S * 16]`` are ``keys [32, D] @ columns [D * 16]``.

    Eight tokens at a time: their sums stay in registers, and one load of queries serves them all.
    """
    num_rows, size = keys.shape
    lanes = np.int64(LANES)
    for t in range(0, num_rows, 8):
        k0 = t * size
        k1, k2, k3, k4 = k0 + size, k0 + 2 * size, k0 + 3 * size, k0 + 4 * size
        k5, k6, k7 = k0 + 5 * size, k0 + 6 * size, k0 + 7 * size
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = splat(np.float32(0.0))
        for d in range(size):
            q = load(columns, d * lanes)
            s0 = multiply_add(splat_from(keys, k0 + d), q, s0)
            s1 = multiply_add(splat_from(keys, k1 + d), q, s1)
            s2 = multiply_add(splat_from(keys, k2 + d), q, s2)
            s3 = multiply_add(splat_from(keys, k3 + d), q, s3)
            s4 = multiply_add(splat_from(keys, k4 + d), q, s4)
            s5 = multiply_add(splat_from(keys, k5 + d), q, s5)
            s6 = multiply_add(splat_from(keys, k6 + d), q, s6)
            s7 = multiply_add(splat_from(keys, k7 + d), q, s7)
        row = (first + t) * lanes
        store(scores, row, s0)
        store(scores, row + lanes, s1)
        store(scores, row + 2 * lanes, s2)
        store(scores, row + 3 * lanes, s3)
        store(scores, row + 4 * lanes, s4)
        store(scores, row + 5 * lanes, s5)
        store(scores, row + 6 * lanes, s6)
        store(scores, row + 7 * lanes, s7)


@jit
def _hide_later(scores: Floats, own: int, length: int) -> None:
    """A query sees itself and what came before it; the first one's token is ``own``."""
    lanes = np.int64(LANES)
    for t in range(max(np.int64(0), own + 1), length):
        for j in range(min(lanes, t - own)):
            scores[t * lanes + j] = _LEAST


@jit
def _add_mass(scores: Floats, length: int, count: int, mass: Floats) -> None:
    """Add the softmax of the first ``count`` lanes of ``scores [S * 16]`` to ``mass [S]``.

    ``scores`` are in powers of two, and are changed.
    """
    lanes = np.int64(LANES)
    top = splat(_LEAST)
    for t in range(length):
        top = larger(top, load(scores, t * lanes))
    summed = splat(np.float32(0.0))
    for t in range(length):
        power = exp2(subtract(load(scores, t * lanes), top))
        store(scores, t * lanes, power)
        summed = add(summed, power)
    parts = np.empty(lanes, np.float32)
    store(parts, 0, summed)
    for j in range(lanes):
        parts[j] = np.float32(1.0) / parts[j] if j < count else np.float32(0.0)
    part = load(parts, 0)
    for t in range(length):
        mass[t] += total(multiply(load(scores, t * lanes), part))


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
    page_size, lanes = np.int64(PAGE_SIZE), np.int64(LANES)
    num_pages = (length + page_size - 1) // page_size
    # Whole vectors: behind the elements of a key there are zeros.
    stride = (head_size + lanes - 1) // lanes * lanes
    distinct = np.empty((num_kv_heads, length), np.float32)
    if kind == U8 and stride == head_size:
        for h in range(num_kv_heads):
            _distinct_bytes(key_pages, table, h, head_size, distinct[h])
        return distinct
    keys = np.zeros((num_pages * page_size, stride), np.float32)
    mean = np.empty(stride, np.float32)
    for h in range(num_kv_heads):
        mean[:] = np.float32(0.0)
        for page in range(num_pages):
            first = page * page_size
            rows = min(page_size, length - first)
            read_keys(key_pages[table[page], h], kind, rows, head_size, keys[first:])
            for d in range(0, stride, lanes):
                summed = load(mean, d)
                for t in range(first, first + rows):
                    summed = add(summed, load(keys, t * stride + d))
                store(mean, d, summed)
        square = splat(np.float32(0.0))
        for d in range(0, stride, lanes):
            square = multiply_add(load(mean, d), load(mean, d), square)
        norm = max(np.sqrt(total(square)), np.float32(1e-20))
        for d in range(stride):
            mean[d] /= norm
        for t in range(length):
            along = square = splat(np.float32(0.0))
            for d in range(0, stride, lanes):
                key = load(keys, t * stride + d)
                along = multiply_add(key, load(mean, d), along)
                square = multiply_add(key, key, square)
            size = max(np.sqrt(total(square)), np.float32(1e-20))
            distinct[h, t] = -total(along) / size
    return distinct


@jit
def _distinct_bytes(
    key_pages: Bytes, table: Ints, head: int, head_size: int, distinct: Floats
) -> None:
    """The same of one head in u8: keys are read from their codes twice and never written out."""
    page_size, lanes, length = np.int64(PAGE_SIZE), np.int64(LANES), np.int64(len(distinct))
    num_kv_heads, num_bytes = np.int64(key_pages.shape[1]), np.int64(key_pages.shape[2])
    mean = np.zeros(head_size, np.float32)
    along, square = np.empty(page_size, np.float32), np.empty(page_size, np.float32)
    for first in range(0, length, page_size):
        rows = min(page_size, length - first)
        begin = (np.int64(table[first // page_size]) * num_kv_heads + head) * num_bytes
        for d in range(0, head_size, lanes):
            scale = load(key_pages, begin + 4 * d)
            zero = load(key_pages, begin + 4 * (head_size + d))
            summed = splat(np.float32(0.0))
            for t in range(rows):
                summed = add(summed, load_bytes(key_pages, begin + (8 + t) * head_size + d))
            key = multiply(subtract(summed, multiply(zero, splat(np.float32(rows)))), scale)
            store(mean, d, add(load(mean, d), key))
    norm = splat(np.float32(0.0))
    for d in range(0, head_size, lanes):
        norm = multiply_add(load(mean, d), load(mean, d), norm)
    size = np.float32(1.0) / max(np.sqrt(total(norm)), np.float32(1e-20))
    for d in range(head_size):
        mean[d] *= size
    for first in range(0, length, page_size):
        rows = min(page_size, length - first)
        begin = (np.int64(table[first // page_size]) * num_kv_heads + head) * num_bytes
        for t in range(rows):
            codes = begin + (8 + t) * head_size
            product = own = splat(np.float32(0.0))
            for d in range(0, head_size, lanes):
                zero = load(key_pages, begin + 4 * (head_size + d))
                key = subtract(load_bytes(key_pages, codes + d), zero)
                key = multiply(key, load(key_pages, begin + 4 * d))
                product = multiply_add(key, load(mean, d), product)
                own = multiply_add(key, key, own)
            along[t], square[t] = total(product), total(own)
        for t in range(rows):
            distinct[first + t] = -along[t] / max(np.sqrt(square[t]), np.float32(1e-20))
