"""One head's keys in a page: from the plugin's bytes to float32 and back, in every storage type.

A storage type is a number here, so that compiled code can branch on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.jit import jit
from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.vectors import (
    LANES,
    add,
    divide,
    larger,
    load,
    load_bytes,
    multiply,
    multiply_add,
    smaller,
    splat,
    store,
    store_bytes,
    subtract,
    where_at_least,
)

F32, BF16, U8, U4 = 0, 1, 2, 3
KEY_KINDS = {"f32": F32, "bf16": BF16, "u8": U8, "u4": U4}

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

# What a flat channel is given for a scale, so that dividing by it is safe.
_SMALLEST_SCALE = np.float32(1e-4)


@jit
def read_keys(
    head: Bytes, kind: int, rows: int, head_size: int, out: Floats, first: int = 0
) -> None:
    """Dequantize ``rows`` keys of one head's page bytes into ``out [>= rows, D]``.

    ``first``: of the page's rows.
    """
    begin = first * head_size
    if kind == F32:
        exact = head.view(np.float32)[begin:]
        for t in range(rows):
            for d in range(head_size):
                out[t, d] = exact[t * head_size + d]
        return
    if kind == BF16:
        halves = head.view(np.uint16)[begin:]
        bits = out.view(np.uint32)
        for t in range(rows):
            for d in range(head_size):
                bits[t, d] = np.uint32(halves[t * head_size + d]) << np.uint32(16)
        return
    header = head[: 8 * head_size].view(np.float32)
    scale, zero = header[:head_size], header[head_size:]
    if kind == U8:
        codes = head[8 * head_size + begin :]
        whole = head_size // np.int64(LANES) * np.int64(LANES)
        for d in range(0, whole, LANES):
            step, start = load(scale, d), load(zero, d)
            for t in range(rows):
                code = load_bytes(codes, t * head_size + d)
                store(out, t * out.shape[1] + d, multiply(subtract(code, start), step))
        for t in range(rows):
            for d in range(whole, head_size):
                out[t, d] = (np.float32(codes[t * head_size + d]) - zero[d]) * scale[d]
        return
    half = head_size // 2
    codes = head[8 * head_size + first * half :]
    for t in range(rows):
        for b in range(half):
            code = codes[t * half + b]
            d = 2 * b
            out[t, d] = (np.float32(code >> 4) - zero[d]) * scale[d]
            out[t, d + 1] = (np.float32(code & 15) - zero[d + 1]) * scale[d + 1]


@jit
def read_all_keys(key_pages: Bytes, kind: int, table: Ints, length: int, head_size: int) -> Floats:
    """``[H, length, D]``, the keys in the pages of ``table``; ``key_pages [pages, H, bytes]``."""
    num_heads = key_pages.shape[1]
    keys = np.empty((num_heads, length, head_size), np.float32)
    for h in range(num_heads):
        for first in range(0, length, PAGE_SIZE):
            rows = min(PAGE_SIZE, length - first)
            head = key_pages[table[first // PAGE_SIZE], h]
            read_keys(head, kind, rows, head_size, keys[h, first:])
    return keys


@jit
def write_keys(
    keys: Floats, rows: int, head_size: int, kind: int, head: Bytes, keep_grid: bool = False
) -> None:
    """Store ``keys [rows, D]`` as one head's page, quantized by channel as the plugin does it.

    ``keep_grid``: a channel whose scale and zero point in the page cover all its keys to half a
    step keeps them, so that keys which lay in the page before keep their codes.
    """
    if kind == F32:
        exact = head.view(np.float32)
        for t in range(rows):
            for d in range(head_size):
                exact[t * head_size + d] = keys[t, d]
        return
    if kind == BF16:
        halves = head.view(np.uint16)
        bits = keys.view(np.uint32)
        for t in range(rows):
            for d in range(head_size):
                halves[t * head_size + d] = np.uint16(bits[t, d] >> np.uint32(16))
        return
    if kind == U8 and head_size % LANES == 0:
        _write_bytes(keys, rows, head_size, head, keep_grid)
        return
    levels = np.float32(255.0) if kind == U8 else np.float32(15.0)
    header = head[: 8 * head_size].view(np.float32)
    codes = head[8 * head_size :]
    scales, zeros = header[:head_size], header[head_size:]
    _fit_channels(keys, rows, levels, scales, zeros, keep_grid)
    if kind == U8:
        for t in range(rows):
            for d in range(head_size):
                code = np.rint(keys[t, d] / scales[d] + zeros[d])
                codes[t * head_size + d] = np.uint8(min(max(code, np.float32(0.0)), levels))
        return
    half = head_size // 2
    for t in range(rows):
        for b in range(half):
            d = 2 * b
            first = np.rint(keys[t, d] / scales[d] + zeros[d])
            second = np.rint(keys[t, d + 1] / scales[d + 1] + zeros[d + 1])
            first = min(max(first, np.float32(0.0)), levels)
            second = min(max(second, np.float32(0.0)), levels)
            codes[t * half + b] = (np.uint8(first) << 4) | np.uint8(second)


@jit
def _write_bytes(keys: Floats, rows: int, head_size: int, head: Bytes, keep_grid: bool) -> None:
    """As :func:`write_keys` in u8, a vector of channels at a time."""
    header = head[: 8 * head_size].view(np.float32)
    codes = head[8 * head_size :]
    none, levels = splat(np.float32(0.0)), splat(np.float32(255.0))
    for d in range(0, head_size, LANES):
        low = high = load(keys, d)
        for t in range(1, rows):
            key = load(keys, t * head_size + d)
            low, high = smaller(low, key), larger(high, key)
        _set_grid(low, high, header, d, head_size, keep_grid)
        scale, zero = load(header, d), load(header, head_size + d)
        for t in range(rows):
            code = add(divide(load(keys, t * head_size + d), scale), zero)
            # Rounded within the limits is as limited after rounding.
            store_bytes(codes, t * head_size + d, smaller(larger(code, none), levels))


@jit
def join_bytes(keys: Floats, staying: Ints, came: Ints, head_size: int, head: Bytes) -> None:
    """Put keys beside others in one head's page in u8, which keep their codes where they can.

    A channel whose grid the newcomers fit keeps it, as with ``keep_grid`` of :func:`write_keys`.
    Codes of others go from the old grid to the new one without becoming keys in between.

    Args:
        keys: ``[32, D]``, of which the rows ``came`` are read.
        staying: rows of the page that stay, one at least.
        came: the others.
        head_size: D, whole vectors.
        head: bytes of the page, changed in place.
    """
    header = head[: 8 * head_size].view(np.float32)
    codes = head[8 * head_size :]
    none, one = splat(np.float32(0.0)), splat(np.float32(1.0))
    levels, below = splat(np.float32(255.0)), splat(np.float32(-1.0))
    for d in range(0, head_size, LANES):
        old_scale, old_zero = load(header, d), load(header, head_size + d)
        low, high = levels, none
        for i in range(len(staying)):
            code = load_bytes(codes, staying[i] * head_size + d)
            low, high = smaller(low, code), larger(high, code)
        low = multiply(subtract(low, old_zero), old_scale)
        high = multiply(subtract(high, old_zero), old_scale)
        for i in range(len(came)):
            key = load(keys, came[i] * head_size + d)
            low, high = smaller(low, key), larger(high, key)
        _set_grid(low, high, header, d, head_size, True)
        scale, zero = load(header, d), load(header, head_size + d)
        # One and zero where the grid has stayed.
        factor = divide(old_scale, scale)
        summand = multiply_add(multiply(old_zero, below), factor, zero)
        for i in range(len(staying)):
            place = staying[i] * head_size + d
            code = multiply_add(load_bytes(codes, place), factor, summand)
            store_bytes(codes, place, smaller(larger(code, none), levels))
        factor = divide(one, scale)
        for i in range(len(came)):
            place = came[i] * head_size + d
            code = multiply_add(load(keys, place), factor, zero)
            store_bytes(codes, place, smaller(larger(code, none), levels))


@jit
def read_byte_key(
    key_pages: Bytes, begin: int, row: int, head_size: int, out: Floats, t: int
) -> None:
    """Dequantize one key in u8 into row ``t`` of ``out [rows, D]``; D is whole vectors.

    Args:
        key_pages: any number of dimensions.
        begin: where the bytes of a head's page begin, counted as if laid out flat.
        row: of the page.
        head_size: D.
        out: changed.
        t: its row.
    """
    codes = begin + (8 + row) * head_size
    for d in range(0, head_size, LANES):
        scale, zero = load(key_pages, begin + 4 * d), load(key_pages, begin + 4 * (head_size + d))
        key = multiply(subtract(load_bytes(key_pages, codes + d), zero), scale)
        store(out, t * head_size + d, key)


@jit
def _set_grid(low: Any, high: Any, header: Floats, d: int, head_size: int, keep_grid: bool) -> None:
    """Set a vector of scales and zero points, of the channels from ``d`` on, as ``_set_grids``."""
    scale = divide(subtract(high, low), splat(np.float32(255.0)))
    none = splat(np.float32(0.0))
    scale = where_at_least(none, scale, splat(_SMALLEST_SCALE), scale)
    zero = divide(multiply(low, splat(np.float32(-1.0))), scale)
    if keep_grid:
        old_scale, old_zero = load(header, d), load(header, head_size + d)
        least, most = splat(np.float32(-0.5)), splat(np.float32(255.5))
        lowest = add(divide(low, old_scale), old_zero)
        highest = add(divide(high, old_scale), old_zero)
        kept = where_at_least(most, highest, old_scale, scale)
        scale = where_at_least(lowest, least, kept, scale)
        kept = where_at_least(most, highest, old_zero, zero)
        zero = where_at_least(lowest, least, kept, zero)
    store(header, d, scale)
    store(header, head_size + d, zero)


@jit
def _fit_channels(
    keys: Floats, rows: int, levels: float, scales: Floats, zeros: Floats, keep_grid: bool
) -> None:
    """Set ``scales [D]`` and ``zeros [D]`` to the range of each channel of ``keys``."""
    head_size = len(scales)
    low, high = keys[0].copy(), keys[0].copy()
    for t in range(1, rows):
        for d in range(head_size):
            low[d] = min(low[d], keys[t, d])
            high[d] = max(high[d], keys[t, d])
    _set_grids(low, high, levels, scales, zeros, keep_grid)


@jit
def _set_grids(
    low: Floats, high: Floats, levels: float, scales: Floats, zeros: Floats, keep_grid: bool
) -> None:
    """Set ``scales`` and ``zeros`` to the ranges of channels whose keys go from low to high."""
    half = np.float32(0.5)
    for d in range(len(scales)):
        if keep_grid:
            lowest = low[d] / scales[d] + zeros[d]
            highest = high[d] / scales[d] + zeros[d]
            if lowest >= -half and highest <= levels + half:
                continue
        scale = (high[d] - low[d]) / levels
        if scale == np.float32(0.0):
            scale = _SMALLEST_SCALE
        scales[d] = scale
        zeros[d] = -low[d] / scale
