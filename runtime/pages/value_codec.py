"""Values in a page: from the plugin's bytes to float32, in every storage type.

A quantized row is its groups one after the other, each with its scale and zero point, as float32,
ahead of its codes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ov_kvcrush.runtime.pages.layout import PAGE_SIZE
from ov_kvcrush.runtime.pages.memory import CacheMemory

_HEADER_BYTES = 8  # of a group


def read_values(
    memory: CacheMemory, value_type: str, head_size: int, pages: NDArray[np.int32], length: int
) -> NDArray[np.float32]:
    """The first ``length`` values of a sequence.

    Args:
        memory: the layer's pages.
        value_type: storage of value elements: ``f32``, ``bf16``, ``u8`` or ``u4``.
        head_size: D, elements of a value.
        pages: of the sequence, in order.

    Returns:
        ``[H, length, D]``.
    """
    rows = memory.values[pages].swapaxes(0, 1)
    rows = rows.reshape(rows.shape[0], len(pages) * PAGE_SIZE, -1)[:, :length]
    rows = np.ascontiguousarray(rows)
    if value_type == "f32":
        return rows.view(np.float32)
    if value_type == "bf16":
        bits: NDArray[np.uint32] = rows.view(np.uint16).astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    code_bytes = head_size if value_type == "u8" else head_size // 2
    num_groups = (rows.shape[2] - code_bytes) // _HEADER_BYTES
    groups = rows.reshape(*rows.shape[:2], num_groups, -1)
    grids = np.ascontiguousarray(groups[..., :_HEADER_BYTES]).view(np.float32)
    codes = groups[..., _HEADER_BYTES:]
    if value_type == "u4":
        codes = np.stack([codes >> 4, codes & 15], axis=-1).reshape(*codes.shape[:3], -1)
    values: NDArray[np.float32] = (codes.astype(np.float32) - grids[..., 1:]) * grids[..., :1]
    return values.reshape(*rows.shape[:2], head_size)
